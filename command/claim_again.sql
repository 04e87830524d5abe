-- What is claimed once more when another shard keeps it from now on (command/claim_again.py).

-- name: wait_for_purchases
-- Whoever has recorded one before it was known who keeps the receipts of its store, and has not committed yet.
LOCK TABLE receipt IN SHARE MODE

-- name: claim_again
-- Of purchases of members who live here, those of some stores (as they are by a version of the program) since a day. One
-- that was taken back because another member had its receipt first claims nothing: where nobody knows of that member yet,
-- it would win. What is being claimed just now, elsewhere perhaps, is claimed once more: whoever does it may end no row
-- that was changed since.
INSERT INTO unclaimed_receipt AS u (
    member_id, version, region, store, till, business_date, receipt, fingerprint, due_at
)
SELECT r.member_id, r.version, a.region, r.store, r.till, r.business_date, r.receipt, r.fingerprint, now()
FROM receipt AS r
JOIN journal AS p ON p.member_id = r.member_id AND p.version = r.version
JOIN unnest($1::int[], $2::text[], $3::text[]) AS a (program_version, store, region)
    ON a.program_version = p.program_version AND a.store = r.store
WHERE r.store = ANY($2) AND r.kind = 'purchase' AND r.subject = '' AND r.business_date >= $4
    AND EXISTS (SELECT FROM account AS x WHERE x.member_id = r.member_id OFFSET 0)
    AND NOT EXISTS (
        SELECT FROM journal AS j
        WHERE j.member_id = r.member_id AND j.version > r.version AND j.kind = 'purchase_returned'
            AND j.detail ->> 'why' = 'receipt_conflict' AND (j.detail ->> 'purchase')::bigint = r.version
        OFFSET 0
    )
ON CONFLICT (member_id, version) DO UPDATE SET attempts = u.attempts + 1, due_at = now()
RETURNING 1
