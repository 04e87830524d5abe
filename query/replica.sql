-- What query nodes ask a server of a shard: a hot standby, or as a last resort the primary.
-- Every statement about a member answers by primary key or by an index; tests prove the plans.

-- name: measure_lag
-- How far this server is behind, in milliseconds. While its receiver runs and everything received is replayed it is
-- not behind, however long ago the last commit was (an idle primary commits nothing). Without a receiver only the
-- age of the last replayed commit is known; where none was replayed since the start nobody knows, and that counts as
-- further behind than anything. The primary itself is never behind. The commit was dated by the primary's clock, of which
-- this server's is ahead by $1 seconds: else a standby whose clock is some seconds off were too far behind, or never.
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN 0
    WHEN EXISTS (SELECT FROM pg_stat_get_wal_receiver() AS receiver WHERE receiver.pid IS NOT NULL)
         AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE coalesce(
        1000 * (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) - $1::float8),
        9007199254740991
    )
END::bigint AS lag_ms

-- name: find_accounts
-- The account views of several members: the journal row that the account's version names.
SELECT account.member_id, account.status, journal.version, journal.recorded_at, journal.account_after
FROM unnest($1::bigint[]) AS wanted (member_id)
CROSS JOIN LATERAL (SELECT * FROM account WHERE account.member_id = wanted.member_id OFFSET 0) AS account
CROSS JOIN LATERAL (
    SELECT * FROM journal WHERE journal.member_id = account.member_id AND journal.version = account.version OFFSET 0
) AS journal

-- name: find_member
-- Profile and account as of one snapshot.
SELECT greatest(account.version, member.version) AS version, member.profile, account.member_id,
    journal.version AS entry_version, journal.recorded_at, journal.account_after
FROM account
JOIN member USING (member_id)
JOIN journal ON journal.member_id = account.member_id AND journal.version = account.version
WHERE account.member_id = $1

-- name: find_standing
-- All that deciding on a member takes, in one document: the account's state, the birth date, which of some versions ($2)
-- placed a hold and in which store, the program of an instant ($3), and the one that an earlier instant ($4) had: the
-- version in force then, before the first one the first.
SELECT account.version, json_build_object(
    'version', account.version, 'status', account.status, 'state', account.state,
    'totals', json_build_object('spent', spent, 'expired', expired, 'debt', debt, 'issued', issued),
    'birth_date', member.profile ->> 'birth_date',
    'holds', (
        SELECT json_agg(json_build_array(journal.version, journal.store)) FROM journal
        WHERE journal.member_id = $1 AND journal.version = ANY ($2::bigint[]) AND journal.kind = 'hold_placed'
    ),
    'program_version', coalesce(
        (SELECT program.version FROM program WHERE effective_at <= $3 ORDER BY program.version DESC LIMIT 1),
        (SELECT program.version FROM program ORDER BY program.version LIMIT 1)
    ),
    'ruling_version', coalesce(
        (SELECT program.version FROM program WHERE effective_at <= least($3, $4) ORDER BY program.version DESC LIMIT 1),
        (SELECT program.version FROM program ORDER BY program.version LIMIT 1)
    )
)::text AS standing
FROM account
JOIN member USING (member_id)
WHERE account.member_id = $1

-- name: find_activity
-- One page of a member's entries, newest first, up to a version. One row more than the page tells whether it is the last.
SELECT member_id, version, kind, occurred_at, recorded_at, store, points, postings, detail, account_after
FROM journal
WHERE member_id = $1 AND version <= $2
ORDER BY version DESC
LIMIT $3

-- name: find_entry
-- Whether an entry is there, and the incarnation of the shard, in one picture: what an earlier one gave and is not there was
-- lost to a restore.
SELECT EXISTS (SELECT FROM journal WHERE member_id = $1 AND version = $2) AS there,
    coalesce((SELECT max(number) FROM incarnation), 0) AS incarnation

-- name: find_purchase
-- A purchase, and how new the picture of its member is.
SELECT account.version AS seen_version, purchase.*
FROM account
LEFT JOIN purchase ON purchase.member_id = account.member_id AND purchase.version = $2
WHERE account.member_id = $1

-- name: find_identifier
-- The member behind a card, phone or e-mail address of this shard.
SELECT member_id FROM identifier WHERE kind = $1 AND value = $2

-- name: find_holder
-- The member behind an identifier of this shard, and how new the picture of one of its members is.
SELECT (SELECT account.version FROM account WHERE member_id = $1) AS seen_version,
    (SELECT identifier.member_id FROM identifier WHERE kind = $2 AND value = $3) AS holder

-- name: find_command
-- The first answer to an Idempotency-Key, if this shard gave it (to that credential, when one is named), and what it leaves
-- out because its entry has it.
SELECT stored.status, stored.answer, journal.member_id, journal.version, journal.kind, journal.points, journal.recorded_at,
    journal.postings, journal.detail, journal.account_after, purchase.document
FROM idempotency AS stored
LEFT JOIN LATERAL (
    SELECT * FROM journal WHERE journal.member_id = stored.member_id AND journal.version = stored.version OFFSET 0
) AS journal ON true
LEFT JOIN LATERAL (
    SELECT document FROM purchase AS p WHERE p.member_id = journal.member_id AND p.version = journal.version OFFSET 0
) AS purchase ON true
WHERE stored.key = $1 AND ($2::text IS NULL OR stored.credential = $2)

-- name: find_program_versions
-- A version and those before it, newest first.
SELECT version, effective_at, source FROM program WHERE version <= $1 ORDER BY version DESC LIMIT $2

-- name: find_program
-- The program in force, when it is another version than the one known.
SELECT version, source
FROM (
    SELECT version, source FROM program
    WHERE effective_at <= now() OR begun_at IS NOT NULL
    ORDER BY version DESC
    LIMIT 1
) AS in_force
WHERE version <> $1
