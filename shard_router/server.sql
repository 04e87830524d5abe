-- What each server of a shard says of itself, for operators. Any login of ours may ask. Views of senders and slots are
-- asked for by their own sources: a session that stays would keep a megabyte to have read their catalogues.

-- name: server
-- `timeline` of a standby is that of its last checkpoint, which may be an older one. A logical walsender counts as no
-- standby; where anybody may acknowledge a commit ('*'), it does. Who may not see other sessions learns of none.
SELECT pg_is_in_recovery() AS standby,
    NOT pg_is_in_recovery() AS primary,
    (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END
        - '0/0'::pg_lsn)::bigint AS lsn,
    CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
    END AS timeline,
    CASE
        WHEN NOT pg_is_in_recovery() THEN 0
        WHEN EXISTS (SELECT FROM pg_stat_get_wal_receiver() AS receiver WHERE receiver.pid IS NOT NULL)
            AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
    END AS lag_seconds,
    extract(epoch FROM clock_timestamp())::float8 AS clock_s,
    current_setting('server_version') AS version,
    current_setting('synchronous_standby_names') LIKE '%*%' AS anybody_acknowledges,
    current_setting('synchronized_standby_slots') <> '' AS decoding_waits,
    CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN
        (SELECT count(*) FROM pg_stat_get_wal_senders() AS sender
            WHERE sender.state = 'streaming' AND sender.sync_state IN ('sync', 'quorum')
                AND NOT EXISTS (
                    SELECT FROM pg_get_replication_slots() AS slot
                    WHERE slot.active_pid = sender.pid AND slot.slot_type = 'logical'
                ))
    END AS synchronous_standbys;

-- name: slots
-- Of a standby only the copies of the primary's slots. `room` is null where WAL is kept without a limit. Not those that
-- keep nothing: they only prove something (incarnation.sql).
SELECT slot_name AS name, slot_type AS kind, active, synced AND NOT temporary AS copied,
    (wal_status = 'lost' OR invalidation_reason IS NOT NULL) AS lost,
    coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn, 0)
        ::bigint AS retained_bytes,
    safe_wal_size AS room_bytes
FROM pg_get_replication_slots()
WHERE CASE slot_type WHEN 'physical' THEN NOT temporary AND restart_lsn IS NOT NULL ELSE true END;

-- name: wait_for_standby
-- Changes nothing. But its commit waits until a standby has it, and with it all that this server has committed before.
SELECT pg_logical_emit_message(true, 'loyalty-wait', '');
