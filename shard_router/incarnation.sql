-- name: find_incarnation
-- `ends_at` is where this server's WAL ends.
SELECT
    (SELECT max(number) FROM incarnation) AS number,
    EXISTS (SELECT FROM pg_get_replication_slots() WHERE slot_name = $1) AS has_slot,
    EXISTS (SELECT FROM journal) AS has_entries,
    (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS ends_at

-- name: find_continuity
-- The slot that only proves: its name tells which journal of which database it stood beside. Null without a journal.
-- Names as text: of `name[]` asyncpg asks the catalogues, which cost each session 15 ms and 2 MiB.
SELECT
    name,
    EXISTS (SELECT FROM pg_get_replication_slots() WHERE slot_name = name) AS proven,
    array(
        SELECT slot_name::text FROM pg_get_replication_slots()
        WHERE slot_type = 'physical' AND NOT active AND slot_name <> name AND slot_name ~ ('^' || $1 || '_[0-9]+_[0-9]+$')
    ) AS outdated
FROM (
    SELECT $1::text || '_' || oid || '_' || pg_relation_filenode(to_regclass('journal')) AS name
    FROM pg_database WHERE datname = current_database()
)

-- name: create_continuity
-- Without a position: it keeps no WAL. A standby can have one too.
SELECT pg_create_physical_replication_slot($1)

-- name: drop_continuity
SELECT pg_drop_replication_slot($1)

-- name: is_unreconciled
SELECT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL)

-- name: first_incarnation
INSERT INTO incarnation (number, why, reconciled_at) VALUES (0, 'the shard was made', now()) ON CONFLICT DO NOTHING

-- name: lock_accounts
-- Every batch reads accounts first: those after this transaction see the new number.
LOCK TABLE account IN ACCESS EXCLUSIVE MODE

-- name: cut_off_others
-- Those who read before and would write after; and the walsender, so that the projector looks anew.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND (
    application_name IN ('loyalty', 'loyalty cdc')
    OR pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)
)

-- name: begin_incarnation
-- A number that no incarnation has had, not even one that a restore took back: time is the floor, in seconds.
INSERT INTO incarnation (number, why)
SELECT greatest(max(number) + 1, extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01T00:00:00Z')::integer), $1
FROM incarnation
RETURNING number

-- name: give_up_stock
UPDATE reward_stock SET allotted = redeemed WHERE allotted > redeemed
