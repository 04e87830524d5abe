-- name: load
-- Everything a batch needs in one round trip and one snapshot: for each command a look-up by key in each table. Nodes
-- forbid the planner all other joins (shard_router/pool.py), and OFFSET 0 keeps it from reading an index it believes
-- to be empty from end to end: a plan made then is kept while the tables fill. A line that ends in `of: ` and a column is
-- left out, and what it shows is NULL, when no command of a batch has a value there (command/load.py).
SELECT
    t.target, a.version, a.status, a.spent, a.expired, a.debt, a.issued, a.state,
    i.fingerprint AS key_fingerprint, i.status AS key_status, i.answer AS key_answer, -- of: key
    i.member_id AS key_member_id, i.version AS key_version, -- of: key
    r.member_id AS receipt_member_id, r.version AS receipt_version, r.fingerprint AS receipt_fingerprint, -- of: receipt
    p.version AS purchase_version, p.changed_version AS changed_version, p.store AS store, p.till AS till, -- of: reference
    p.receipt AS receipt, p.occurred_at AS occurred_at, p.document AS document, -- of: reference
    j.kind AS referred_kind, j.program_version AS referred_program_version, j.store AS referred_store, -- of: reference
    CASE WHEN j.kind = 'reward_redeemed' THEN j.detail ->> 'code' END AS referred_code, -- of: reference
    j.detail -> 'referral' AS referral, -- of: reference
    -- A campaign may ask a buyer's birthday: two pages at random, so not where the program has no such campaign.
    (SELECT m.profile ->> 'birth_date' FROM member m -- of: birthday
        WHERE m.member_id = t.target AND c.receipt_kind = 'purchase') AS birth_date, -- of: birthday
    (SELECT version FROM program WHERE effective_at <= now() OR begun_at IS NOT NULL ORDER BY version DESC LIMIT 1)
        AS program_version,
    (SELECT number FROM incarnation ORDER BY number DESC LIMIT 1) AS incarnation
FROM json_to_recordset($1::json) AS c(
    position integer, key text, member_id bigint, identifier_kind text, identifier_value text, reference bigint,
    store text, till text, business_date date, receipt text, receipt_kind text,
    subject text
)
LEFT JOIN identifier d ON d.kind = c.identifier_kind AND d.value = c.identifier_value -- of: identifier_kind
CROSS JOIN LATERAL (SELECT coalesce(
    c.member_id
    , d.member_id -- of: identifier_kind
) AS target) AS t
LEFT JOIN LATERAL (SELECT * FROM account WHERE account.member_id = t.target OFFSET 0) AS a ON true
LEFT JOIN idempotency i ON i.key = c.key -- of: key
LEFT JOIN receipt r ON r.store = c.store AND r.till = c.till AND r.business_date = c.business_date -- of: receipt
    AND r.receipt = c.receipt AND r.kind = c.receipt_kind AND r.subject = c.subject -- of: receipt
LEFT JOIN purchase p ON p.member_id = t.target AND p.version = c.reference -- of: reference
LEFT JOIN journal j ON j.member_id = t.target AND j.version = c.reference -- of: reference
ORDER BY c.position -- of: many

-- name: lock_accounts
-- Before `load` when a batch is run again after a conflict, so that its picture is as new as its locks. In member order,
-- so that two batches never wait for each other in a circle.
SELECT member_id
FROM account
WHERE member_id = ANY (ARRAY(
    SELECT coalesce(c.member_id, d.member_id)
    FROM json_to_recordset($1::json) AS c(member_id bigint, identifier_kind text, identifier_value text)
    LEFT JOIN identifier d ON d.kind = c.identifier_kind AND d.value = c.identifier_value
))
ORDER BY member_id
FOR UPDATE

-- name: taken_identifiers
-- Which of some identifiers members have, and by which one was found who left lately.
SELECT
    wanted.kind, wanted.value,
    EXISTS (SELECT FROM identifier i WHERE i.kind = wanted.kind AND i.value = wanted.value OFFSET 0) AS taken,
    EXISTS (SELECT FROM former_identifier f WHERE f.hash = wanted.hash AND f.forget_at > now() OFFSET 0) AS former
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS wanted(kind, value, hash)

-- name: entry_of
-- The entry behind a receipt that came again under a new key: its answer is rebuilt from it.
SELECT j.kind, j.points, j.recorded_at, j.postings, j.account_after, j.detail, p.document
FROM journal AS j
LEFT JOIN LATERAL (
    SELECT document FROM purchase AS x WHERE x.member_id = j.member_id AND x.version = j.version OFFSET 0
) AS p ON true
WHERE j.member_id = $1 AND j.version = $2

-- name: entries_answered
-- The entries whose answers are stored under keys that came again: those answers leave out what stands here.
SELECT j.member_id, j.version, j.kind, j.points, j.recorded_at, j.postings, j.detail, j.account_after, p.document
FROM unnest($1::bigint[], $2::bigint[]) AS asked(member_id, version)
CROSS JOIN LATERAL (
    SELECT * FROM journal AS x WHERE x.member_id = asked.member_id AND x.version = asked.version OFFSET 0
) AS j
LEFT JOIN LATERAL (
    SELECT document FROM purchase AS x WHERE x.member_id = j.member_id AND x.version = j.version OFFSET 0
) AS p ON true

-- name: receipts_under
-- Documents under other names than the one they get today, with the entries behind them.
SELECT asked.position, r.member_id, r.version, r.fingerprint, j.occurred_at, j.recorded_at, j.kind, j.points, j.postings,
    j.account_after, j.detail, p.document
FROM unnest($1::integer[], $2::text[], $3::text[], $4::date[], $5::text[], $6::text[], $7::text[])
    AS asked(position, store, till, business_date, receipt, kind, subject)
CROSS JOIN LATERAL (
    SELECT member_id, version, fingerprint
    FROM receipt AS x
    WHERE x.store = asked.store AND x.till = asked.till AND x.business_date = asked.business_date
        AND x.receipt = asked.receipt AND x.kind = asked.kind AND x.subject = asked.subject
    OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT * FROM journal AS x WHERE x.member_id = r.member_id AND x.version = r.version OFFSET 0
) AS j
LEFT JOIN LATERAL (
    SELECT document FROM purchase AS x WHERE x.member_id = j.member_id AND x.version = j.version OFFSET 0
) AS p ON true
ORDER BY asked.position

-- name: identifiers_of_members
SELECT member_id, kind, value FROM identifier WHERE member_id = ANY ($1::bigint[])

-- name: enrolled_at
SELECT member_id, enrolled_at FROM member WHERE member_id = ANY ($1::bigint[])

-- name: profiles
SELECT member_id, profile FROM member WHERE member_id = ANY ($1::bigint[])

-- name: entries_named
-- What the holds that purchases want to capture once were, and where they were placed.
SELECT asked.member_id, asked.version, j.kind, j.store
FROM unnest($1::bigint[], $2::bigint[]) AS asked(member_id, version)
CROSS JOIN LATERAL (
    SELECT kind, store FROM journal WHERE journal.member_id = asked.member_id AND journal.version = asked.version OFFSET 0
) AS j

-- name: lock_stock
-- After the accounts, and in one order, so that two batches never wait for each other in a circle.
SELECT reward, allotted - redeemed AS left FROM reward_stock WHERE reward = ANY ($1::text[]) ORDER BY reward FOR UPDATE

-- name: wrong_guesses
-- When it was guessed wrong within the last hour, oldest first, by what was guessed at.
SELECT asked.member_id, asked.version, wrong.guessed_at
FROM unnest($1::bigint[], $2::bigint[]) AS asked(member_id, version)
CROSS JOIN LATERAL (
    SELECT array_agg(g.guessed_at ORDER BY g.guessed_at) AS guessed_at
    FROM wrong_guess AS g
    WHERE g.member_id = asked.member_id AND g.version = asked.version AND g.guessed_at > now() - interval '1 hour'
) AS wrong
WHERE wrong.guessed_at IS NOT NULL
