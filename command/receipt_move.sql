-- What handing the receipts of a shard that goes to others asks and writes (command/receipt_move.py), by the owner of the
-- tables. Each statement may be repeated.

-- name: lock_receipts
-- Waits for whoever has seen no fence and is about to claim.
LOCK TABLE receipt IN SHARE MODE

-- name: fence
INSERT INTO receipt_fence DEFAULT VALUES ON CONFLICT DO NOTHING

-- name: take_fence_away
DELETE FROM receipt_fence

-- name: claims_after
-- What is claimed here for members elsewhere and may still be sent again, in the order of the key.
SELECT store, till, business_date, receipt, member_id, version, fingerprint
FROM receipt
WHERE (store, till, business_date, receipt) > ($1, $2, $3, $4) AND kind = 'purchase' AND subject = ''
    AND business_date >= $5
ORDER BY store, till, business_date, receipt LIMIT $6

-- name: make_room
-- What has one of these names here and is another purchase: it was recorded while the names were kept elsewhere, or is
-- an outdated claim. That of a member who lives here gets a name of its own, and is still to be claimed: so it is taken
-- back, unless that was done.
WITH asked AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[], $7::uuid[], $8::text[]
    ) AS t (store, till, business_date, receipt, member_id, version, fingerprint, region)
),
other AS (
    SELECT a.region, r.*, EXISTS (SELECT FROM account AS x WHERE x.member_id = r.member_id) AS lives_here
    FROM asked AS a
    JOIN receipt AS r
        ON r.store = a.store AND r.till = a.till AND r.business_date = a.business_date AND r.receipt = a.receipt
        AND r.kind = 'purchase' AND r.subject = ''
    WHERE (r.member_id, r.version) <> (a.member_id, a.version)
),
cleared AS (
    DELETE FROM receipt AS r USING other AS o
    WHERE NOT o.lives_here AND r.store = o.store AND r.till = o.till AND r.business_date = o.business_date
        AND r.receipt = o.receipt AND r.kind = 'purchase' AND r.subject = ''
),
renamed AS (
    UPDATE receipt AS r SET subject = o.member_id || '-' || o.version FROM other AS o
    WHERE o.lives_here AND r.store = o.store AND r.till = o.till AND r.business_date = o.business_date
        AND r.receipt = o.receipt AND r.kind = 'purchase' AND r.subject = ''
)
INSERT INTO unclaimed_receipt (member_id, version, region, store, till, business_date, receipt, fingerprint, due_at)
SELECT member_id, version, region, store, till, business_date, receipt, fingerprint, now() FROM other WHERE lives_here
ON CONFLICT DO NOTHING

-- name: put_claims
INSERT INTO receipt (store, till, business_date, receipt, kind, member_id, version, fingerprint)
SELECT store, till, business_date, receipt, 'purchase', member_id, version, fingerprint
FROM unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[], $7::uuid[])
    AS asked (store, till, business_date, receipt, member_id, version, fingerprint)
ORDER BY store, till, business_date, receipt
ON CONFLICT DO NOTHING

-- name: lacks_claims
-- Whether any of these names is another's here.
SELECT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[])
        AS a (store, till, business_date, receipt, member_id, version)
    WHERE NOT EXISTS (
        SELECT FROM receipt AS r
        WHERE r.store = a.store AND r.till = a.till AND r.business_date = a.business_date AND r.receipt = a.receipt
            AND r.kind = 'purchase' AND r.subject = '' AND (r.member_id, r.version) = (a.member_id, a.version)
    )
)
