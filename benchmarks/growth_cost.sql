-- Scratch databases that differ in their number of members alone.

-- name: drop_few
DROP DATABASE IF EXISTS loyalty_growth_few WITH (FORCE);

-- name: create_few
CREATE DATABASE loyalty_growth_few;

-- name: drop_many
DROP DATABASE IF EXISTS loyalty_growth_many WITH (FORCE);

-- name: create_many
CREATE DATABASE loyalty_growth_many;

-- name: count_copies
SELECT set_config('loyalty.copies', $1, false);

-- name: copy_members
-- Members decided by the command code, over and over under other ids: what is in the rows is as it was, and where
-- they lie is as by chance as of members who enrolled one after the other.
CREATE TEMPORARY TABLE copied AS
SELECT member_id AS old, number, (member_id >> 45 << 45) | (random() * ((1::bigint << 45) - 1))::bigint AS new
FROM member CROSS JOIN generate_series(2, current_setting('loyalty.copies')::integer) AS number
ORDER BY random();
ANALYZE copied;
INSERT INTO member SELECT new, version, profile, enrolled_at FROM copied JOIN member ON member_id = old;
INSERT INTO identifier
SELECT kind, value || '-' || number, new, version FROM copied JOIN identifier ON member_id = old;
INSERT INTO account
SELECT new, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
FROM copied JOIN account ON member_id = old;
INSERT INTO journal
SELECT new, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail, account_after
FROM copied JOIN journal ON member_id = old;
INSERT INTO purchase
SELECT new, version, changed_version, store, till, receipt || '-' || number, business_date, occurred_at, document
FROM copied JOIN purchase ON member_id = old;
INSERT INTO receipt
SELECT store, till, business_date, receipt || '-' || number, kind, new, version, fingerprint, subject
FROM copied JOIN receipt ON member_id = old;
INSERT INTO idempotency
SELECT md5(key || number), new, version, credential, fingerprint, status, answer, answered_at, replays
FROM copied JOIN idempotency ON member_id = old;
DROP TABLE copied;

-- name: settle
VACUUM (ANALYZE);

-- name: touch
-- Reads what purchases meet, so that buffers hold of it what they have room for, as after hours of business.
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
SELECT max(status) FROM (SELECT status FROM account ORDER BY member_id OFFSET 0);
SELECT max(enrolled_at) FROM (SELECT enrolled_at FROM member ORDER BY member_id OFFSET 0);
SELECT count(*) FROM (SELECT key FROM idempotency ORDER BY key OFFSET 0);
SELECT count(*) FROM (SELECT version FROM journal ORDER BY member_id, version OFFSET 0);
SELECT count(*) FROM (SELECT version FROM purchase ORDER BY member_id, version OFFSET 0);
SELECT count(*) FROM (SELECT receipt FROM receipt ORDER BY store, till, business_date, receipt, kind, subject OFFSET 0);

-- name: some_members
SELECT member_id FROM member ORDER BY random() LIMIT 50000;

-- name: checkpoint
CHECKPOINT;

-- name: counted
-- Pages the sessions read that no buffer held; pages written whole into the log, and its length.
SELECT
    (SELECT sum(reads) FROM pg_stat_io WHERE backend_type = 'client backend' AND object = 'relation') AS read,
    wal_fpi AS whole, wal_bytes::bigint AS wal
FROM pg_stat_wal;
