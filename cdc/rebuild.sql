-- What views are made of, read by member in key order; a hot standby will do.

-- name: has_replayed
-- Whether this server shows everything up to a position (a primary always does).
SELECT NOT pg_is_in_recovery() OR (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint >= $1;

-- name: member_count
-- The planner's estimate: for the progress shown, nothing depends on it.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'member'::regclass;

-- name: members_after
SELECT member_id FROM member WHERE member_id > $1 ORDER BY member_id LIMIT $2;

-- name: member
SELECT member_id, version, profile FROM member WHERE member_id = ANY ($1::bigint[]);

-- name: journal
-- The newest entries of each member: the first of them is the account view.
SELECT entry.* FROM unnest($1::bigint[]) AS asked (member_id)
CROSS JOIN LATERAL (
    SELECT member_id, version, kind, occurred_at, store, points, postings, account_after
    FROM journal WHERE journal.member_id = asked.member_id ORDER BY version DESC LIMIT $2
) AS entry;

-- name: purchase
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM purchase WHERE member_id = ANY ($1::bigint[]);

-- name: identifier
SELECT kind, value, member_id, version FROM identifier WHERE member_id = ANY ($1::bigint[]);

-- name: identifiers_present
-- Which of the identifiers that have a view still have a row.
SELECT kind, value FROM identifier JOIN unnest($1::text[], $2::text[]) AS asked (kind, value) USING (kind, value);
