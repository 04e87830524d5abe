-- name: find_claim
-- One row in any case. After a restore, until it is reconciled, claims may be missing, and others outdated.
SELECT c.member_id, c.leased_until < now() AS expired, c.leased_until IS NULL AS held, known.trusted
FROM (SELECT NOT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL)) AS known (trusted)
LEFT JOIN claim AS c ON c.kind = $1 AND c.value = $2

-- name: lease_claim
-- Take a free identifier for some seconds. What the member has already is leased again: an errand that frees it (it
-- was removed a moment ago) then leaves it alone.
INSERT INTO claim AS c (kind, value, member_id, leased_until)
SELECT $1, $2, $3, now() + make_interval(secs => $4)
WHERE NOT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL)
ON CONFLICT (kind, value) DO UPDATE SET leased_until = excluded.leased_until
    WHERE c.member_id = excluded.member_id

-- name: take_over_claim
-- A lease that ran out without a member behind it; the old holder must still be the one that was asked about.
UPDATE claim SET member_id = $3, leased_until = now() + make_interval(secs => $4)
WHERE kind = $1 AND value = $2 AND member_id = $5 AND leased_until < now()

-- name: hold_claim
UPDATE claim SET leased_until = NULL WHERE kind = $1 AND value = $2 AND member_id = $3

-- name: release_lease
DELETE FROM claim WHERE kind = $1 AND value = $2 AND member_id = $3 AND leased_until IS NOT NULL

-- name: release_claim
-- Not a lease: the member is about to get it again.
DELETE FROM claim WHERE kind = $1 AND value = $2 AND member_id = $3 AND leased_until IS NULL

-- name: is_leaving
-- Whether what a member of this shard was found by is still to be freed.
SELECT EXISTS (SELECT FROM errand WHERE member_id = $1 AND kind = 'release')

-- name: remember
INSERT INTO former_identifier AS f (hash, forget_at) VALUES ($1, $2)
ON CONFLICT (hash) DO UPDATE SET forget_at = greatest(f.forget_at, excluded.forget_at)

-- name: remembers
SELECT EXISTS (SELECT FROM former_identifier WHERE hash = $1 AND forget_at > now())

-- name: probe_identifier
-- Run and rolled back: adds a row only when there is none. Unlike a SELECT it waits for a commit that is under way
-- (for a standby, perhaps), so "not there" also means "will not come".
INSERT INTO identifier (kind, value, member_id, version) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING RETURNING true
