-- What `loyalty verify` reads. Everything of one server is read in one snapshot.

-- name: accounts
SELECT member_id, version, status, available, pending, held, spent, expired, debt, issued, state
FROM account ORDER BY member_id;

-- name: journal
SELECT member_id, version, kind, postings, detail, account_after FROM journal ORDER BY member_id, version;

-- name: answer_count
SELECT count(*) FROM idempotency;

-- name: answers_that_differ
-- A stored "yes" must be what its entry made: the account in the answer is the entry's, to the letter.
SELECT i.key, i.member_id, i.version, j.version AS entry
FROM idempotency i
LEFT JOIN journal j ON j.member_id = i.member_id AND j.version = i.version
WHERE i.version IS NOT NULL AND j.kind IS DISTINCT FROM 'member_closed'
    AND (i.answer -> 'account')::text IS DISTINCT FROM j.account_after::text
LIMIT $1;

-- name: receipt_count
SELECT count(*) FROM receipt;

-- name: receipts_without_entry
-- Each receipt names its entry, and each purchase has its receipt.
SELECT r.store, r.till, r.business_date::text, r.receipt, r.kind
FROM receipt r LEFT JOIN journal j ON j.member_id = r.member_id AND j.version = r.version
WHERE j.kind IS DISTINCT FROM CASE r.kind
    WHEN 'purchase' THEN 'purchase_recorded'
    WHEN 'return' THEN 'purchase_returned'
    WHEN 'transfer' THEN 'transfer_received'
    WHEN 'referral' THEN 'referral_credited'
END
UNION ALL
SELECT p.store, p.till, p.business_date::text, p.receipt, 'purchase'
FROM purchase p LEFT JOIN receipt r ON r.member_id = p.member_id AND r.version = p.version
WHERE r.version IS NULL
LIMIT $1;

-- name: entries_without_purchase
SELECT j.member_id, j.version
FROM journal j LEFT JOIN purchase p ON p.member_id = j.member_id AND p.version = j.version
WHERE j.kind = 'purchase_recorded' AND p.version IS NULL
LIMIT $1;

-- name: receipt_names
SELECT store, till, business_date::text AS business_date, receipt, kind FROM receipt;

-- name: members
SELECT member_id, version, profile FROM member ORDER BY member_id;

-- name: purchases
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM purchase ORDER BY member_id, version;

-- name: identifiers
SELECT kind, value, member_id, version FROM identifier ORDER BY kind, value;

-- name: digest
-- One number per table: equal on primary and standby when they hold the same rows.
SELECT
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM account t)::text AS account,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM journal t)::text AS journal,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM purchase t)::text AS purchase,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM receipt t)::text AS receipt,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM idempotency t)::text AS idempotency,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM member t)::text AS member,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM identifier t)::text AS identifier;

-- name: transfers
-- Both halves of every transfer: what was sent and how it ended, what was received.
SELECT
    kind, member_id, version, recorded_at, points,
    coalesce((detail ->> 'sender')::bigint, member_id) AS sender,
    CASE kind WHEN 'transfer_sent' THEN version ELSE (detail ->> 'transfer')::bigint END AS transfer
FROM journal
WHERE kind IN ('transfer_sent', 'transfer_received', 'transfer_settled', 'transfer_cancelled');

-- name: stock
-- Each reward's allotment, what is on its way from here, and what the journal says was redeemed and not cancelled.
SELECT
    s.reward, s.allotted, s.redeemed,
    coalesce((SELECT sum(m.quantity) FROM stock_move m WHERE m.reward = s.reward), 0)::bigint AS moving,
    coalesce((
        SELECT sum((j.detail ->> 'quantity')::bigint * CASE j.kind WHEN 'reward_redeemed' THEN 1 ELSE -1 END)
        FROM journal j
        WHERE j.kind IN ('reward_redeemed', 'redemption_cancelled') AND j.detail ->> 'reward' = s.reward
    ), 0)::bigint AS in_journal
FROM reward_stock s;

-- name: newest_program
SELECT version, source FROM program ORDER BY version DESC LIMIT 1;

-- name: referrals
SELECT (detail ->> 'referee')::bigint AS referee FROM journal WHERE kind = 'referral_credited';

-- name: claims
SELECT kind, value, member_id FROM claim WHERE leased_until IS NULL;

-- name: claimed_identifiers
-- Identifiers that must have a claim somewhere.
SELECT kind, value, member_id FROM identifier WHERE kind IN ('phone', 'email');
