-- What views are made of, read by member in key order; a hot standby will do.

-- name: wal_position
-- Bytes of WAL: beyond every change that a slot has sent, because only what is written is sent.
SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint;

-- name: newest_transaction
-- A number above those of all transactions that have written anything so far.
SELECT pg_current_xact_id()::text::bigint;

-- name: shows
-- Whether this server shows every commit up to a position: a standby once it has replayed it, a primary once the
-- transactions older than $2 have ended. There a commit is written, and may be sent, before it shows.
SELECT CASE
    WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint >= $1
    ELSE pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $2
END;

-- name: settled
-- The same of a primary; only where the stream comes from, for another would show another history.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1
    AND EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $2 AND active);

-- name: ended
-- Whether these transactions have ended: each holds a lock on its own number until its changes show.
SELECT NOT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'transactionid' AND transactionid::text::bigint = ANY ($1::bigint[]) AND granted
);

-- name: member_count
-- The planner's estimate: for the progress shown, nothing depends on it.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'member'::regclass;

-- name: more_members_than
-- The estimate knows of no member before the first ANALYZE; so many keys are walked through at most. Ids are positive.
SELECT EXISTS (SELECT FROM member WHERE member_id > 0 ORDER BY member_id OFFSET $1 LIMIT 1);

-- name: members_after
-- As below, of so many members in key order.
SELECT member_id, version, profile FROM member WHERE member_id > $1 ORDER BY member_id LIMIT $2;

-- name: member
SELECT member_id, version, profile FROM member WHERE member_id = ANY ($1::bigint[]);

-- name: journal
-- The newest entries of each member: the first of them is the account view.
SELECT entry.* FROM unnest($1::bigint[]) AS asked (member_id)
CROSS JOIN LATERAL (
    SELECT member_id, version, kind, occurred_at, recorded_at, store, points, postings, detail, account_after
    FROM journal WHERE journal.member_id = asked.member_id ORDER BY version DESC LIMIT $2
) AS entry;

-- name: purchase
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM purchase WHERE member_id = ANY ($1::bigint[]);

-- name: identifier
SELECT kind, value, member_id, version FROM identifier WHERE member_id = ANY ($1::bigint[]);

-- name: members_present
-- Which of the members that have a view still have a row.
SELECT member_id FROM member WHERE member_id = ANY ($1::bigint[]);

-- name: purchases_present
SELECT member_id, version FROM unnest($1::bigint[], $2::bigint[]) AS asked (member_id, version)
WHERE EXISTS (SELECT FROM purchase AS p WHERE p.member_id = asked.member_id AND p.version = asked.version OFFSET 0);

-- name: identifiers_present
SELECT found.* FROM unnest($1::text[], $2::text[]) AS asked (kind, value)
CROSS JOIN LATERAL (
    SELECT kind, value, member_id, version FROM identifier AS i
    WHERE i.kind = asked.kind AND i.value = asked.value
    OFFSET 0
) AS found;
