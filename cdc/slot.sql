-- The replication slot: the only offset of the pipeline. Views of it are asked for by their own sources, which a new
-- session need not read from the catalogues, nor one that stays keep in memory.

-- name: timeline_of_primary
-- NULL of a standby. Of two servers that take writes, the one on the lower timeline was overtaken by a failover.
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
END;

-- name: system
-- Tells one database cluster from another that took its address, and what a restored one shows from what it lost.
SELECT system_identifier || coalesce('/' || (SELECT nullif(max(number), 0) FROM incarnation), '') FROM pg_control_system();

-- name: end_of_wal
-- A primary whose WAL ends before what was streamed already is another one, that lacks some of it.
SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint;

-- name: slot
-- `lost`: Postgres gave the slot's WAL up; it can only be dropped. Numbers are bytes of WAL.
SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint AS confirmed,
       (restart_lsn - '0/0'::pg_lsn)::bigint AS floor,
       active_pid,
       (plugin = 'pgoutput' AND datoid = (SELECT oid FROM pg_database WHERE datname = current_database())) AS ours,
       (wal_status = 'lost' OR invalidation_reason IS NOT NULL) AS lost
FROM pg_get_replication_slots() WHERE slot_name = $1;

-- name: create_slot
-- A failover slot: hot standbys keep a copy, so that a promoted one goes on from where this one was.
SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true);

-- name: drop_slot
SELECT pg_drop_replication_slot($1);

-- name: drop_stale_slots
-- On a standby: slots of the time when it was the primary itself. The copying of failover slots, of all of them, stops
-- at the first of its name that is no copy, for ever; whoever keeps the servers may not know (Patroni before 4.2 and
-- CloudNativePG 1.30 do not). Physical ones that keep WAL, for ever, only if $1: they are theirs who made them.
SELECT slot_name, pg_drop_replication_slot(slot_name)
FROM pg_get_replication_slots()
WHERE pg_is_in_recovery() AND NOT active AND NOT synced AND (failover OR ($1 AND slot_type = 'physical' AND restart_lsn IS NOT NULL));

-- name: continuity
-- Of a primary: whether it has the slot. Of a standby: which timeline it streams, null while it does not.
SELECT EXISTS (SELECT FROM pg_get_replication_slots() WHERE slot_name = $1) AS has_slot,
    (SELECT received_tli FROM pg_stat_get_wal_receiver() WHERE status = 'streaming') AS streams

-- name: terminate
-- A dead projector's walsender would hold the slot until wal_sender_timeout.
SELECT pg_terminate_backend($1);

-- name: heartbeat
-- Transactional: it goes the way every commit goes, so its age when applied is the true lag. Answers where it lies.
SELECT (pg_logical_emit_message(true, $1, clock_timestamp()::text) - '0/0'::pg_lsn)::bigint;

-- name: stream
-- The stream as this server sees it: the WAL kept for the slot, whether somebody holds the slot and how far that one
-- has sent (null to roles without pg_read_all_stats), whether it waits for its client or for WAL, and whether a standby
-- must first confirm what lies before $2.
SELECT (pg_current_wal_lsn() - slot.restart_lsn)::bigint AS retained_bytes,
       slot.active,
       (sender.sent_lsn - '0/0'::pg_lsn)::bigint AS sent,
       coalesce(backend.wait_event_type IN ('Activity', 'Client'), false) AS waits,
       EXISTS (
           SELECT FROM unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) AS named (name)
           LEFT JOIN pg_get_replication_slots() AS standby ON standby.slot_name = btrim(name, ' "')
           WHERE coalesce((standby.restart_lsn - '0/0'::pg_lsn)::bigint < $2, true)
       ) AS held_up
FROM pg_get_replication_slots() AS slot
LEFT JOIN pg_stat_get_wal_senders() AS sender ON sender.pid = slot.active_pid
LEFT JOIN pg_stat_get_activity(slot.active_pid) AS backend ON backend.pid = slot.active_pid
WHERE slot.slot_name = $1;
