-- What the register asks and writes (command/register.py): at home what is unclaimed, at the store's shard the claims.

-- name: due_receipts
-- Taken for a while by pushing them back, so that two nodes seldom do the same; doing it twice is harmless. What is due
-- later than anybody pushes it back was dated by another clock.
UPDATE unclaimed_receipt u
SET attempts = u.attempts + 1, due_at = now() + least(power(2, least(u.attempts, 6)), 30) * interval '1 s'
WHERE u.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM (
        SELECT ctid, due_at FROM unclaimed_receipt WHERE due_at <= now()
        UNION ALL
        SELECT ctid, due_at FROM unclaimed_receipt WHERE due_at > now() + interval '30 s'
    ) AS d
    ORDER BY d.due_at
    LIMIT $1
))
RETURNING u.member_id, u.version, u.region, u.store, u.till, u.business_date, u.receipt, u.fingerprint, u.attempts

-- name: claim_receipts
-- Who has a name already keeps it: the key decides, be it against a purchase that is recorded right now. In the order
-- of the key, so that two registers never wait for each other in a circle. A shard that is about to go claims nothing
-- more: it holds the table's lock before it looks, and who fences waits for it (command/receipt_move.sql). A purchase
-- that made room there for one which a restore took has its old name back, and only that. What is claimed already may be
-- so by an attempt that was cut short as it waited for the standby: then something is written, so that this one waits.
WITH claimed AS (
    INSERT INTO receipt (store, till, business_date, receipt, kind, member_id, version, fingerprint)
    SELECT store, till, business_date, receipt, 'purchase', member_id, version, fingerprint
    FROM unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[], $7::uuid[])
        AS asked(store, till, business_date, receipt, member_id, version, fingerprint)
    WHERE NOT EXISTS (SELECT FROM receipt_fence)
    ORDER BY store, till, business_date, receipt
    ON CONFLICT DO NOTHING
    RETURNING store, till, business_date, receipt, member_id || '-' || version AS subject
),
named_again AS (
    DELETE FROM receipt AS r
    USING (
        SELECT x.ctid
        FROM claimed AS c
        CROSS JOIN LATERAL (
            SELECT ctid FROM receipt AS x
            WHERE x.store = c.store AND x.till = c.till AND x.business_date = c.business_date AND x.receipt = c.receipt
                AND x.kind = 'purchase' AND x.subject = c.subject
            OFFSET 0
        ) AS x
    ) AS found
    WHERE r.ctid = found.ctid
)
SELECT pg_logical_emit_message(true, 'loyalty-wait', '') WHERE (SELECT count(*) FROM claimed) < cardinality($1)

-- name: receipt_owners
-- Whose purchase has each of some names, by position.
SELECT asked.position, r.member_id, r.version
FROM unnest($1::integer[], $2::text[], $3::text[], $4::date[], $5::text[])
    AS asked(position, store, till, business_date, receipt)
CROSS JOIN LATERAL (
    SELECT member_id, version FROM receipt AS x
    WHERE x.store = asked.store AND x.till = asked.till AND x.business_date = asked.business_date
        AND x.receipt = asked.receipt AND x.kind = 'purchase' AND x.subject = ''
    OFFSET 0
) AS r

-- name: purchase_document
SELECT document FROM purchase WHERE member_id = $1 AND version = $2

-- name: take_lost_name
-- A purchase that was taken back itself ($5, $6) makes room for another of its name, all at once: it gets a name of its
-- own, as where a shard hands receipts over (receipt_move.sql).
WITH renamed AS (
    UPDATE receipt AS r SET subject = r.member_id || '-' || r.version
    WHERE r.store = $1 AND r.till = $2 AND r.business_date = $3 AND r.receipt = $4 AND r.kind = 'purchase'
        AND r.subject = '' AND r.member_id = $5 AND r.version = $6 AND NOT EXISTS (SELECT FROM receipt_fence)
    RETURNING r.store, r.till, r.business_date, r.receipt
)
INSERT INTO receipt (store, till, business_date, receipt, kind, member_id, version, fingerprint)
SELECT store, till, business_date, receipt, 'purchase', $7, $8, $9 FROM renamed

-- name: finish_receipts
-- Unless somebody took the row after this one did, or had the receipt claimed again (claim_again.sql): then that one ends it.
DELETE FROM unclaimed_receipt
WHERE ctid = ANY (ARRAY(
    SELECT u.ctid
    FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) AS done(member_id, version, attempts)
    CROSS JOIN LATERAL (
        SELECT ctid FROM unclaimed_receipt AS x
        WHERE x.member_id = done.member_id AND x.version = done.version AND x.attempts = done.attempts
        OFFSET 0
    ) AS u
))
