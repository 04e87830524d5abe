-- What the campaign does to servers, and asks of them in the end.

-- name: backends
SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type = $1 ORDER BY pid;

-- name: cut_nodes
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'loyalty';

-- name: cut_walsenders
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'walsender';

-- name: drop_slot
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'loyalty_cdc' AND active;

-- name: really_drop_slot
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'loyalty_cdc' AND NOT active;

-- name: advance_slot
SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots
WHERE slot_name = 'loyalty_cdc' AND NOT active;

-- name: invalidate_idle_slots
ALTER SYSTEM SET idle_replication_slot_timeout = '1s';

-- name: keep_idle_slots
ALTER SYSTEM RESET idle_replication_slot_timeout;

-- name: reload
SELECT pg_reload_conf();

-- name: slot_invalidated
SELECT invalidation_reason IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'loyalty_cdc';

-- name: unreconciled
SELECT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL);

-- name: timeline
SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;

-- name: relation
SELECT pg_relation_filepath('journal');

-- name: read_through
SELECT count(*) FROM journal;

-- name: entries
-- But for those that come about by themselves.
SELECT member_id, version FROM journal WHERE member_id = ANY ($1::bigint[]) AND kind <> ALL ($2::text[]);

-- name: backwards
-- Entries that are dated before the one they follow, or after now: time went back, or a wrong clock dated them.
SELECT member_id, version FROM (
    SELECT member_id, version, recorded_at, lag(recorded_at) OVER (PARTITION BY member_id ORDER BY version) AS before
    FROM journal
) AS dated
WHERE recorded_at < before OR recorded_at > clock_timestamp() + interval '1 second'
ORDER BY member_id, version LIMIT 5;

-- name: answers
SELECT key, member_id, version FROM idempotency WHERE key = ANY ($1::text[]);

-- name: open_members
SELECT member_id FROM account WHERE member_id = ANY ($1::bigint[]) AND status = 'open';

-- name: receipts
SELECT receipt, count(*) AS times FROM receipt WHERE starts_with(receipt, $1) GROUP BY receipt;

-- name: balances
SELECT member_id, available, pending, held, debt FROM account WHERE member_id = ANY ($1::bigint[]);
