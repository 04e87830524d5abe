-- What a start and `loyalty status` ask a server.

-- name: create_standby_slot
-- Permanent: the primary keeps WAL for a standby that is away (up to max_slot_wal_keep_size).
SELECT pg_create_physical_replication_slot($1, true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1);

-- name: drop_other_slots
-- Of standbys that are called something else by now, or are no more: they would keep WAL for ever.
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_type = 'physical' AND NOT active AND starts_with(slot_name, 'standby') AND slot_name <> ALL ($1::text[]);

-- name: standby_streams
SELECT 1 FROM pg_stat_replication
WHERE application_name = $1 AND state = 'streaming' AND sync_state IN ('sync', 'quorum');

-- name: is_standby
SELECT pg_is_in_recovery();

-- name: slot_bytes
-- How far the slot of a name is behind; null where it is not.
SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint
FROM pg_replication_slots
WHERE slot_name = $1;

-- name: replay_bytes
-- How far the standby that is furthest behind has to replay; null where none streams.
SELECT max(coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0))::bigint
FROM pg_stat_replication
WHERE starts_with(application_name, 'standby');

-- name: program_versions
-- As `programs`, without their texts.
SELECT version, effective_at, effective_at <= now() OR begun_at IS NOT NULL AS running
FROM program
WHERE version >= coalesce((SELECT max(version) FROM program WHERE effective_at <= now() OR begun_at IS NOT NULL), 0)
ORDER BY version;

-- name: programs
-- The program that runs and those that are to come, oldest first.
SELECT version, effective_at, effective_at <= now() OR begun_at IS NOT NULL AS running, source
FROM program
WHERE version >= coalesce((SELECT max(version) FROM program WHERE effective_at <= now() OR begun_at IS NOT NULL), 0)
ORDER BY version;
