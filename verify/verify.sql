-- What `loyalty verify` reads. Most statements stream in the order of a key, so that several can be merged; texts are in
-- the order of their bytes, which every program shares.

-- name: accounts
SELECT member_id, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
FROM account ORDER BY member_id;

-- name: of_members
-- Of another statement, which takes the place of `account`, what is under some ids.
SELECT * FROM account AS stream WHERE member_id = ANY ($1::bigint[]);

-- name: of_part
-- The same of all ids from one to another.
SELECT * FROM account AS stream WHERE member_id BETWEEN $1 AND $2;

-- name: export_snapshot
-- For other sessions to see just what this transaction sees, as long as it is open: it idles while they work.
SELECT pg_export_snapshot(), set_config('idle_in_transaction_session_timeout', '1h', true);

-- name: adopt_snapshot
-- First in a transaction; the name takes the place of the one here, as it can be no parameter.
SET TRANSACTION SNAPSHOT 'exported';

-- name: members
SELECT member_id, version, profile FROM member ORDER BY member_id;

-- name: journal
SELECT
    member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail, account_after
FROM journal ORDER BY member_id, version;

-- name: purchases
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM purchase ORDER BY member_id, version;

-- name: receipts
SELECT member_id, version, kind, store, till, business_date, receipt, subject FROM receipt ORDER BY member_id, version;

-- name: identifiers
SELECT member_id, kind, value, version FROM identifier ORDER BY member_id;

-- name: answers
-- The stored "yes" of every command that has not been forgotten.
SELECT member_id, version, key, status, answer FROM idempotency WHERE version IS NOT NULL ORDER BY member_id, version;

-- name: member_digests
-- One value for all rows under a member id that the fold looks at, whatever their order on disk.
SELECT member_id, md5(string_agg(row, '' ORDER BY row)) AS digest FROM (
    SELECT member_id, md5(record_send(t)) COLLATE "C" AS row FROM account t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM member t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM journal t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM purchase t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM receipt t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM identifier t
    UNION ALL SELECT member_id, md5(record_send(t)) FROM idempotency t WHERE version IS NOT NULL AND member_id IS NOT NULL
) AS rows
GROUP BY member_id;

-- name: shown_digests
-- The same for all rows that a member's views are made of; of who is a member.
SELECT member_id, md5(string_agg(row, '' ORDER BY row)) AS digest FROM (
    SELECT member_id, md5(record_send(t)) COLLATE "C" AS row, true AS is_member FROM member t
    UNION ALL SELECT member_id, md5(record_send(t)), false FROM journal t
    UNION ALL SELECT member_id, md5(record_send(t)), false FROM purchase t
    UNION ALL SELECT member_id, md5(record_send(t)), false FROM identifier t
) AS rows
GROUP BY member_id HAVING bool_or(is_member)
ORDER BY member_id;

-- name: answers_of_nothing
-- A "yes" that names no entry, or the entry of nobody: under no member id, so nobody's fold meets it.
SELECT key FROM idempotency WHERE (version IS NULL AND status < 400) OR (version IS NOT NULL AND member_id IS NULL);

-- name: answers_out_of_place
-- What a member's token sent stands in that member's name space, anything else outside.
SELECT key, credential FROM idempotency WHERE (credential LIKE 'member:%') <> (key LIKE 'member:% %');

-- name: programs
SELECT version, effective_at, source FROM program ORDER BY version;

-- name: incarnation
SELECT coalesce(max(number), 0) FROM incarnation;

-- name: stock
-- Each reward's allotment, and what is on its way from here.
SELECT reward, allotted, redeemed FROM reward_stock ORDER BY reward;

-- name: stock_moves
SELECT move_id, reward, quantity, receiver FROM stock_move;

-- name: moves_arrived
SELECT move_id FROM stock_arrival WHERE move_id = ANY ($1::uuid[]);

-- name: receipt_names
-- A purchase that made room for another's of its name is of that name still.
SELECT
    store COLLATE "C" AS store, till COLLATE "C" AS till, business_date, receipt COLLATE "C" AS receipt,
    kind COLLATE "C" AS kind, CASE kind WHEN 'purchase' THEN '' ELSE subject END COLLATE "C" AS subject, member_id, version
FROM receipt ORDER BY 1, 2, 3, 4, 5, 6;

-- name: purchase_standing
-- What has become of a purchase and of its member.
SELECT j.recorded_at, a.status, p.document
FROM journal j
LEFT JOIN account a ON a.member_id = j.member_id
LEFT JOIN purchase p ON p.member_id = j.member_id AND p.version = j.version
WHERE j.member_id = $1 AND j.version = $2;

-- name: transfers
-- Both halves of every transfer under its name: what was sent and how it ended, what was received.
SELECT
    coalesce(
        CASE WHEN kind IN ('transfer_received', 'transfer_revoked') THEN detail ->> 'sender' ELSE member_id::text END, ''
    ) COLLATE "C" AS sender,
    coalesce(CASE kind WHEN 'transfer_sent' THEN version::text ELSE detail ->> 'transfer' END, '')
        COLLATE "C" AS transfer,
    kind, member_id, version, recorded_at, points, postings, detail
FROM journal
WHERE kind IN (
    'transfer_sent', 'transfer_received', 'transfer_settled', 'transfer_cancelled', 'transfer_returned', 'transfer_revoked'
)
ORDER BY 1, 2;

-- name: referrals
-- Under each newcomer: the purchases that owe thanks and the returns that take them back, the errands that bring word
-- of either, the entries that gave and took. `purchase` is the version of the purchase that each is about.
SELECT
    coalesce(CASE WHEN kind IN ('referral_credited', 'referral_returned') THEN detail ->> 'referee' ELSE member_id::text END, '')
        COLLATE "C" AS referee,
    kind, member_id, version, points,
    CASE kind
        WHEN 'purchase_recorded' THEN version::text
        WHEN 'purchase_returned' THEN detail -> 'referral_return' ->> 'purchase'
        ELSE detail ->> 'purchase'
    END AS purchase,
    coalesce(detail -> 'referral', detail -> 'referral_return') ->> 'referrer' AS referrer,
    coalesce(detail -> 'referral', detail -> 'referral_return') ->> 'points' AS owed,
    coalesce(detail ->> 'points_forgiven', '0') AS forgiven, coalesce(detail ->> 'points_lapsed', '0') AS lapsed
FROM journal
WHERE kind IN ('referral_credited', 'referral_returned')
    OR (kind = 'purchase_recorded' AND detail -> 'referral' IS NOT NULL)
    OR (kind = 'purchase_returned' AND detail -> 'referral_return' IS NOT NULL)
UNION ALL
SELECT
    member_id::text COLLATE "C", kind, member_id, version, 0,
    CASE kind WHEN 'referral' THEN version::text ELSE document ->> 'purchase' END, NULL, NULL, '0', '0'
FROM errand WHERE kind IN ('referral', 'referral_return')
ORDER BY 1;

-- name: status_of
SELECT status FROM account WHERE member_id = $1;

-- name: names
-- Under each identifier: who has it, who claims it, and who is about to free it.
SELECT kind COLLATE "C" AS kind, value COLLATE "C" AS value, 'identifier' AS role, member_id, NULL AS slot
FROM identifier
UNION ALL
SELECT kind COLLATE "C", value COLLATE "C", CASE WHEN leased_until IS NULL THEN 'claim' ELSE 'lease' END, member_id, slot
FROM claim
UNION ALL
SELECT coalesce(one ->> 0, '') COLLATE "C", coalesce(one ->> 1, '') COLLATE "C", 'release', member_id, NULL
FROM errand
CROSS JOIN LATERAL json_array_elements(
    CASE json_typeof(document -> 'identifiers') WHEN 'array' THEN document -> 'identifiers' ELSE '[]' END
) AS one
WHERE kind = 'release'
ORDER BY 1, 2;

-- name: claim_slots
-- What this shard says of the claim slots it keeps, or has kept.
SELECT slot, state FROM claim_slot ORDER BY slot;

-- name: former
-- Keyed hashes of what those who left were found by; of a card of our own form, whose it was.
SELECT hash::text COLLATE "C" AS hash, member_id FROM former_identifier ORDER BY 1;

-- name: member_page
SELECT member_id FROM member WHERE member_id > $1 ORDER BY member_id LIMIT $2;

-- name: profiles_shown
SELECT member_id, version, profile FROM member WHERE member_id = ANY ($1::bigint[]);

-- name: entries_shown
-- The newest entries of each member, the oldest of them first; the last is the account view.
SELECT entry.* FROM unnest($1::bigint[]) AS asked (member_id)
CROSS JOIN LATERAL (
    SELECT member_id, version, kind, occurred_at, recorded_at, store, points, postings, detail, account_after
    FROM journal WHERE journal.member_id = asked.member_id ORDER BY version DESC LIMIT $2
) AS entry
ORDER BY member_id, version;

-- name: purchases_shown
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM purchase WHERE member_id = ANY ($1::bigint[]);

-- name: identifiers_shown
SELECT kind, value, member_id, version FROM identifier WHERE member_id = ANY ($1::bigint[]);

-- name: members_there
-- Which of what has a view has a row.
SELECT member_id FROM member WHERE member_id = ANY ($1::bigint[]);

-- name: journals_there
SELECT member_id FROM unnest($1::bigint[]) AS asked (member_id)
WHERE EXISTS (SELECT FROM journal WHERE journal.member_id = asked.member_id);

-- name: purchases_there
SELECT member_id, version FROM purchase
JOIN unnest($1::bigint[], $2::bigint[]) AS asked (member_id, version) USING (member_id, version);

-- name: identifiers_there
SELECT kind, value FROM identifier JOIN unnest($1::text[], $2::text[]) AS asked (kind, value) USING (kind, value);

-- name: digest
-- Rows and one number per table: equal on primary and standby when they hold the same.
SELECT
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM account t)::text AS account,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM journal t)::text AS journal,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM purchase t)::text AS purchase,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM receipt t)::text AS receipt,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM idempotency t)::text AS idempotency,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM wrong_guess t)::text AS wrong_guess,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM member t)::text AS member,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM identifier t)::text AS identifier,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM claim t)::text AS claim,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM claim_slot t)::text AS claim_slot,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM former_identifier t)::text AS former_identifier,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM errand t)::text AS errand,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM unclaimed_receipt t)::text AS unclaimed_receipt,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM program t)::text AS program,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM incarnation t)::text AS incarnation,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM reward_stock t)::text AS reward_stock,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM stock_move t)::text AS stock_move,
    (SELECT jsonb_build_array(count(*), sum(hashtextextended(t::text, 0))) FROM stock_arrival t)::text AS stock_arrival;
