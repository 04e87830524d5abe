-- The scratch database of the ratio table: the least a ledger must write for one earn. No name of ours is used there.

-- name: scratch_create
CREATE DATABASE loyalty_bench_scratch;

-- name: scratch_drop
DROP DATABASE IF EXISTS loyalty_bench_scratch WITH (FORCE);

-- name: scratch_schema
CREATE TABLE answer (key uuid PRIMARY KEY, answered_at timestamptz NOT NULL DEFAULT now(), body text NOT NULL);
CREATE TABLE account (member_id bigint PRIMARY KEY, version bigint NOT NULL, available bigint NOT NULL) WITH (fillfactor = 70);
CREATE TABLE ledger (member_id bigint, version bigint, points bigint NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (member_id, version));
INSERT INTO account SELECT number, 0, 0 FROM generate_series(1, 10000) AS number;

-- name: durability
SELECT current_setting('synchronous_commit') || ', ' || count(*) || ' synchronous standby' FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum');

-- name: settle_down
-- Statistics and visibility as after a quiet hour, before anything is measured.
VACUUM ANALYZE

-- name: spent
-- The other backends of this database, and how far the server's log has come in bytes.
SELECT pid, pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()

-- name: wal
-- How far the server's log has come, in bytes.
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn
