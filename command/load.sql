-- name: load
-- Everything a batch needs in one round trip and one snapshot. Where the mark stands the accounts are locked when a
-- command is run again after a conflict, in member order so that two batches never wait for each other in a circle.
-- Then rows beside the lock may be older than the locked account: unique keys and the counts of `record` find that.
WITH command AS MATERIALIZED (
    SELECT c.*, coalesce(c.member_id, d.member_id) AS target
    FROM json_to_recordset($1::json) AS c(
        position integer, key text, member_id bigint, identifier_kind text, identifier_value text, reference bigint,
        store text, till text, business_date date, receipt text, receipt_kind text
    )
    LEFT JOIN identifier d ON d.kind = c.identifier_kind AND d.value = c.identifier_value
), locked AS MATERIALIZED (
    SELECT a.*
    FROM account a
    WHERE a.member_id = ANY (ARRAY(SELECT target FROM command WHERE target IS NOT NULL))
    ORDER BY a.member_id
    /* lock */
)
SELECT
    c.target, l.version, l.status, l.spent, l.expired, l.debt, l.issued, l.state,
    i.fingerprint AS key_fingerprint, i.status AS key_status, i.answer AS key_answer,
    i.member_id AS key_member_id, i.version AS key_version,
    r.member_id AS receipt_member_id, r.version AS receipt_version, r.fingerprint AS receipt_fingerprint,
    p.version AS purchase_version, p.changed_version, p.store, p.till, p.receipt, p.business_date, p.occurred_at,
    p.document,
    j.kind AS referred_kind, j.program_version AS referred_program_version,
    -- A campaign may ask a buyer's birthday; one look-up here is less than a round trip when one does.
    CASE WHEN c.receipt_kind = 'purchase' THEN (
        SELECT m.profile ->> 'birth_date' FROM member m WHERE m.member_id = c.target
    ) END AS birth_date,
    (SELECT max(version) FROM program WHERE effective_at <= now()) AS program_version
FROM command c
LEFT JOIN locked l ON l.member_id = c.target
LEFT JOIN idempotency i ON i.key = c.key
LEFT JOIN receipt r ON r.store = c.store AND r.till = c.till AND r.business_date = c.business_date
    AND r.receipt = c.receipt AND r.kind = c.receipt_kind
LEFT JOIN purchase p ON p.member_id = c.target AND p.version = c.reference
LEFT JOIN journal j ON j.member_id = c.target AND j.version = c.reference
ORDER BY c.position

-- name: taken_identifiers
-- Which of the identifiers of a batch's new members are taken.
SELECT kind, value
FROM identifier
JOIN unnest($1::text[], $2::text[]) AS wanted(kind, value) USING (kind, value)

-- name: entry_of
-- The entry behind a receipt that came again under a new key: its answer is rebuilt from it.
SELECT points, postings, account_after, detail FROM journal WHERE member_id = $1 AND version = $2

-- name: identifiers_of_members
SELECT member_id, kind, value FROM identifier WHERE member_id = ANY ($1::bigint[])

-- name: profiles
SELECT member_id, profile FROM member WHERE member_id = ANY ($1::bigint[])

-- name: kinds_of_entries
-- What the holds that purchases want to capture once were.
SELECT member_id, version, kind
FROM journal
JOIN unnest($1::bigint[], $2::bigint[]) AS asked(member_id, version) USING (member_id, version)

-- name: lock_stock
-- After the accounts, and in one order, so that two batches never wait for each other in a circle.
SELECT reward, allotted - redeemed AS left FROM reward_stock WHERE reward = ANY ($1::text[]) ORDER BY reward FOR UPDATE
