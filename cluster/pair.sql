-- What the supervisor asks of the servers of a pair, as their superuser.

-- name: promote
-- Nothing happens to one that a promotion reached late, when nobody waited for it any more.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(false) END;

-- name: is_standby
SELECT pg_is_in_recovery();

-- name: write_out
CHECKPOINT;

-- name: make_standby_slot
-- Of the server that will follow; it keeps the WAL for it from now on.
SELECT pg_create_physical_replication_slot($1, true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1);

-- name: reload
-- It also wakes what copies slots to a standby, which sleeps for up to 30 s after it could do nothing.
SELECT pg_reload_conf();

-- name: received
-- On a standby: the end of the WAL it has on its disk (what it copied counts too, before it has streamed), and whether it
-- could go on with the slots where the primary is. Not by the view: each probe is a session's first.
SELECT ((CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    ELSE pg_current_wal_flush_lsn() END) - '0/0'::pg_lsn)::bigint AS position,
    (SELECT coalesce(bool_and(synced AND NOT temporary AND invalidation_reason IS NULL), false)
        FROM pg_get_replication_slots() WHERE slot_type = 'logical' AND failover) AS has_slots;

-- name: waits_for_more
-- On a standby: whether it has replayed all the WAL that lies there, and asks its primary for more.
SELECT wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream')
FROM pg_stat_activity WHERE backend_type = 'startup';

-- name: log_snapshot
-- Of a primary: a standby keeps its copy of a slot only when the slot has passed a snapshot that was logged after the
-- copy was begun. By itself a primary logs one in 15 s.
SELECT pg_log_standby_snapshot();

-- name: has_projector_slot
SELECT true FROM pg_replication_slots WHERE slot_name = $1;

-- name: make_projector_slot
-- Where the standby had no copy of the slot yet: nothing acknowledged is lost, so this is no restored shard, and must not
-- be taken for one. The projector sees by its position that views have to be rebuilt.
SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1);

-- name: write
-- A write that goes all the way to the disk and changes nothing; where it stands.
SELECT (pg_logical_emit_message(true, 'loyalty-probe', '') - '0/0'::pg_lsn)::bigint;

-- name: streaming
-- The standbys that stream, and how far each has the WAL on its disk. Not by the view: each probe is a session's first,
-- and would read it anew from the catalogues.
SELECT session.application_name AS name, coalesce((sender.flush_lsn - '0/0'::pg_lsn)::bigint, 0) AS flushed
FROM pg_stat_get_wal_senders() AS sender
CROSS JOIN LATERAL pg_stat_get_activity(sender.pid) AS session
WHERE starts_with(session.application_name, 'standby') AND sender.state = 'streaming';

-- name: damaged_pages
-- How many pages had a wrong checksum when they were read, since the server was made or crashed. 0 stands for what all
-- databases share, as in pg_stat_database, which a new session would read anew from the catalogues.
SELECT coalesce(sum(pg_stat_get_db_checksum_failures(oid)), 0)::bigint
FROM (SELECT oid FROM pg_database UNION ALL SELECT 0) AS place (oid);
