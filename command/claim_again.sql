-- What is claimed once more when another shard keeps it from now on (command/claim_again.py).

-- name: claim_again
-- Of purchases of members who live here, those of some stores since a day.
INSERT INTO unclaimed_receipt (
    member_id, version, region, store, till, business_date, receipt, fingerprint, due_at
)
SELECT r.member_id, r.version, a.region, r.store, r.till, r.business_date, r.receipt, r.fingerprint, now()
FROM unnest($1::text[], $2::text[]) AS a (store, region)
JOIN receipt AS r ON r.store = a.store AND r.kind = 'purchase' AND r.subject = '' AND r.business_date >= $3
WHERE EXISTS (SELECT FROM account AS x WHERE x.member_id = r.member_id OFFSET 0)
ON CONFLICT DO NOTHING
RETURNING 1
