-- What the bulk filler asks of a shard.

-- name: members
SELECT count(*) FROM member;

-- name: some_members
-- A share of all members, drawn at random.
SELECT member_id FROM member WHERE random() < $1;

-- name: settle
-- So much at once comes before the statistics of a table are taken by themselves, and while that is done nothing is measured.
VACUUM (ANALYZE) member, identifier, account, journal, purchase, receipt, idempotency;
