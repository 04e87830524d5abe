-- What `loyalty reconcile` reads and writes, beside its commands. Pages are in the order of a key; names of the halves of
-- a transfer or a referral are receipts (till '-', of no date).

-- name: unreconciled
SELECT number FROM incarnation WHERE reconciled_at IS NULL ORDER BY number

-- name: set_reconciled
UPDATE incarnation SET reconciled_at = now() WHERE number = ANY ($1::integer[]) AND reconciled_at IS NULL

-- name: programs
SELECT version, effective_at, applied_at, source FROM program ORDER BY version

-- name: restore_program
INSERT INTO program (version, effective_at, applied_at, source) VALUES ($1, $2, $3, $4) ON CONFLICT (version) DO NOTHING
RETURNING true

-- name: identifiers_after
SELECT kind, value, member_id FROM identifier WHERE (kind, value) > ($1, $2) ORDER BY kind, value LIMIT $3

-- name: claims_after
-- Leases left out: who asks next settles them.
SELECT kind, value, member_id FROM claim
WHERE (kind, value) > ($1, $2) AND leased_until IS NULL
ORDER BY kind, value LIMIT $3

-- name: find_claims
SELECT a.kind, a.value, c.member_id
FROM unnest($1::text[], $2::text[]) AS a (kind, value)
CROSS JOIN LATERAL (SELECT member_id FROM claim WHERE claim.kind = a.kind AND claim.value = a.value OFFSET 0) AS c

-- name: find_holders
-- Which of these members have these identifiers, or have an errand to do that frees what they have no more.
SELECT a.kind, a.value, a.member_id
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS a (kind, value, member_id)
WHERE EXISTS (SELECT FROM identifier AS i WHERE i.kind = a.kind AND i.value = a.value AND i.member_id = a.member_id)
    OR EXISTS (
        SELECT FROM errand AS e CROSS JOIN LATERAL json_array_elements(e.document -> 'identifiers') AS one
        WHERE e.member_id = a.member_id AND e.kind = 'release' AND one ->> 0 = a.kind AND one ->> 1 = a.value
    )

-- name: find_account
SELECT status FROM account WHERE member_id = $1

-- name: any_slot_stated
SELECT slot FROM claim_slot LIMIT 1

-- name: restore_claim
INSERT INTO claim (kind, value, member_id, slot) SELECT $1, $2, $3, $4
WHERE NOT EXISTS (SELECT FROM claim_slot WHERE slot = $4 AND state <> 'here')
ON CONFLICT (kind, value) DO NOTHING
RETURNING true

-- name: correct_claim
-- From one member ($4) to another ($3).
UPDATE claim SET member_id = $3, leased_until = NULL, slot = $5
WHERE kind = $1 AND value = $2 AND member_id = $4
    AND NOT EXISTS (SELECT FROM claim_slot WHERE slot = $5 AND state <> 'here')

-- name: identified_at
-- Since when a member has an identifier, by the entry that gave it.
SELECT (SELECT recorded_at FROM journal j WHERE j.member_id = i.member_id AND j.version = i.version) AS recorded_at
FROM identifier AS i WHERE i.kind = $1 AND i.value = $2 AND i.member_id = $3

-- name: receipts_after
-- Received transfers or credited referrals: who sent, by which entry, and the entry that received it.
SELECT r.store, r.till, r.business_date, r.receipt, r.member_id, r.version
FROM receipt AS r
WHERE (r.store, r.till, r.business_date, r.receipt, r.kind) > ($1, $2, $3::date, $4, $5) AND r.kind = $5
ORDER BY r.store, r.till, r.business_date, r.receipt, r.kind LIMIT $6

-- name: find_receipts
-- Which of these names have a receipt of a kind.
SELECT a.store, a.receipt
FROM unnest($1::text[], $2::text[]) AS a (store, receipt)
CROSS JOIN LATERAL (
    SELECT FROM receipt AS r
    WHERE r.store = a.store AND r.till = '-' AND r.business_date = '1970-01-01' AND r.receipt = a.receipt AND r.kind = $3
        AND r.subject = ''
    OFFSET 0
) AS known

-- name: find_sent
-- Which of these entries sent a transfer to that member, and were not given back since.
SELECT a.member_id, a.version
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) AS a (member_id, version, receiver, name)
CROSS JOIN LATERAL (
    SELECT kind, detail FROM journal AS j WHERE j.member_id = a.member_id AND j.version = a.version OFFSET 0
) AS entry
WHERE entry.kind = 'transfer_sent' AND (entry.detail ->> 'receiver')::bigint = a.receiver
    AND NOT EXISTS (
        SELECT FROM receipt AS r
        WHERE r.store = a.name AND r.till = '-' AND r.business_date = '1970-01-01' AND r.receipt = a.version::text
            AND r.kind = 'transfer_returned' AND r.subject = ''
    )

-- name: settled_after
-- Transfers whose points are spent, with what was sent.
SELECT j.member_id, j.version, (j.detail ->> 'transfer')::bigint AS transfer, sent.detail
FROM journal AS j
CROSS JOIN LATERAL (
    SELECT detail FROM journal AS s
    WHERE s.member_id = j.member_id AND s.version = (j.detail ->> 'transfer')::bigint OFFSET 0
) AS sent
WHERE (j.member_id, j.version) > ($1, $2) AND j.kind = 'transfer_settled'
ORDER BY j.member_id, j.version LIMIT $3

-- name: points_of
SELECT points FROM journal WHERE member_id = $1 AND version = $2

-- name: thanking_after
-- Members who were thanked for bringing others, and for whom (see rules.counters): in the tenth part of a state, or by name in
-- one that an earlier version has stored.
SELECT member_id, (coalesce(state -> 10, state) -> 'counters' -> 'referrals')::text AS referrals FROM account
WHERE member_id > $1 AND status = 'open'
    AND json_typeof(coalesce(state -> 10, state) -> 'counters' -> 'referrals') = 'array'
ORDER BY member_id LIMIT $2

-- name: thanks_of
SELECT member_id, coalesce(coalesce(state -> 10, state) -> 'counters' -> 'referrals', '[]')::text AS referrals FROM account
WHERE member_id = ANY ($1::bigint[]) AND status = 'open'

-- name: owed_after
-- Purchases that owe thanks to a referrer, and have not come back.
SELECT j.member_id, j.version, (j.detail -> 'referral')::text AS referral FROM journal AS j
WHERE (j.member_id, j.version) > ($1, $2) AND j.kind = 'purchase_recorded' AND j.detail -> 'referral' IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM journal AS r
        WHERE r.member_id = j.member_id AND r.kind = 'purchase_returned'
            AND (r.detail -> 'referral_return' ->> 'purchase')::bigint = j.version
    )
ORDER BY j.member_id, j.version LIMIT $3

-- name: referral_entries
-- What the journals of newcomers say about referrals.
SELECT j.member_id, j.version, (j.detail -> 'referral')::text AS referral,
    (j.detail -> 'referral_return')::text AS referral_return
FROM unnest($1::bigint[]) AS a (member_id)
CROSS JOIN LATERAL (SELECT * FROM journal WHERE journal.member_id = a.member_id OFFSET 0) AS j
WHERE j.detail -> 'referral' IS NOT NULL OR j.detail -> 'referral_return' IS NOT NULL
ORDER BY j.member_id, j.version

-- name: newest_credit
-- The last entry that thanked a member for another.
SELECT version, points FROM journal
WHERE member_id = $1 AND kind = 'referral_credited' AND (detail ->> 'referee')::bigint = $2
ORDER BY version DESC LIMIT 1

-- name: receipt_claims_after
-- Receipts claimed here for members who live elsewhere, in the order of the key.
SELECT r.store, r.till, r.business_date, r.receipt, r.member_id, r.version
FROM receipt AS r
WHERE (r.store, r.till, r.business_date, r.receipt, r.kind) > ($1, $2, $3::date, $4, 'purchase') AND r.kind = 'purchase'
    AND NOT EXISTS (SELECT FROM account AS a WHERE a.member_id = r.member_id OFFSET 0)
ORDER BY r.store, r.till, r.business_date, r.receipt, r.kind LIMIT $5

-- name: find_purchase_receipts
-- Which of these receipts are of those purchases.
SELECT r.store, r.till, r.business_date, r.receipt, r.member_id, r.version
FROM unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[])
    AS a (store, till, business_date, receipt, member_id, version)
JOIN receipt AS r
    ON r.store = a.store AND r.till = a.till AND r.business_date = a.business_date AND r.receipt = a.receipt
        AND r.kind = 'purchase' AND r.subject = '' AND r.member_id = a.member_id AND r.version = a.version

-- name: free_receipts
DELETE FROM receipt AS r
USING unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[])
    AS a (store, till, business_date, receipt, member_id, version)
WHERE r.store = a.store AND r.till = a.till AND r.business_date = a.business_date AND r.receipt = a.receipt
    AND r.kind = 'purchase' AND r.subject = '' AND r.member_id = a.member_id AND r.version = a.version
RETURNING 1
