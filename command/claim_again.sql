-- What is claimed once more when another shard keeps it from now on (command/claim_again.py).

-- name: claim_again
-- Of purchases of members who live here, those of some stores since a day. One that was taken back because another member
-- had its receipt first claims nothing: where nobody knows of that member yet, it would win.
INSERT INTO unclaimed_receipt (
    member_id, version, region, store, till, business_date, receipt, fingerprint, due_at
)
SELECT r.member_id, r.version, a.region, r.store, r.till, r.business_date, r.receipt, r.fingerprint, now()
FROM unnest($1::text[], $2::text[]) AS a (store, region)
JOIN receipt AS r ON r.store = a.store AND r.kind = 'purchase' AND r.subject = '' AND r.business_date >= $3
WHERE EXISTS (SELECT FROM account AS x WHERE x.member_id = r.member_id OFFSET 0)
    AND NOT EXISTS (
        SELECT FROM journal AS j
        WHERE j.member_id = r.member_id AND j.version > r.version AND j.kind = 'purchase_returned'
            AND j.detail ->> 'why' = 'receipt_conflict' AND (j.detail ->> 'purchase')::bigint = r.version
        OFFSET 0
    )
ON CONFLICT DO NOTHING
RETURNING 1
