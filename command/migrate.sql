-- name: lock_migrations
-- One migrator at a time; the lock goes with the connection.
SELECT pg_advisory_lock(7261001)

-- name: create_migration_table
CREATE TABLE IF NOT EXISTS schema_migration (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())

-- name: list_migrations
SELECT name FROM schema_migration

-- name: find_mark
SELECT true FROM schema_migration WHERE name = $1

-- name: set_mark
INSERT INTO schema_migration (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: note_migration
INSERT INTO schema_migration (name) VALUES ($1)

-- name: find_publication
SELECT true FROM pg_publication WHERE pubname = $1

-- name: create_publication
-- Column by column: what views do not show does not travel. receipt, account and idempotency stay home.
CREATE PUBLICATION loyalty FOR TABLE
    member, identifier, journal, purchase,
    program (version, effective_at, applied_at)

-- name: find_slot
SELECT true FROM pg_replication_slots WHERE slot_name = $1

-- name: create_slot
-- failover => true: the standby keeps a copy, so a new primary goes on where the old one was acknowledged.
SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)
