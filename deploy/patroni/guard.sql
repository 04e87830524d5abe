-- What logical decoding should wait for, as a list of slots, and what it waits for now. Of a primary only.
--
-- A standby counts that acknowledges commits and streams through a slot of its own. One is enough: whoever is promoted has
-- what any of them acknowledged. One that lies far behind is left out, or it would hold up the views. Where the star is in
-- force anybody counts as acknowledging, so nothing is changed then.
SELECT
    (
        SELECT string_agg(slot_name, ', ' ORDER BY slot_name)
        FROM (
            SELECT slot.slot_name, max(sender.flush_lsn) OVER () - sender.flush_lsn AS behind
            FROM pg_stat_replication AS sender
            JOIN pg_replication_slots AS slot ON slot.active_pid = sender.pid
            WHERE slot.slot_type = 'physical' AND NOT slot.temporary
                AND sender.state = 'streaming' AND sender.sync_state IN ('sync', 'quorum')
        ) AS standby
        WHERE behind < 16 * 1024 * 1024 AND current_setting('synchronous_standby_names') NOT LIKE '%*%'
    ) AS wanted,
    current_setting('synchronized_standby_slots') AS present
WHERE NOT pg_is_in_recovery();
