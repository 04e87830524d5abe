-- Every statement about a claim slot ($1) tells in `here` whether this shard keeps it; where not, it does nothing. Each
-- that writes holds its table's lock before it looks, and who fences a slot waits for those (command/claim_move.sql): so
-- none that has seen the slot here still writes when the slot is copied.

-- name: find_claim
-- One row in any case. After a restore, until it is reconciled, claims may be missing, and others outdated. `mark` tells
-- the row from what becomes of it: whoever acts on what was found here, names it.
SELECT c.member_id, c.leased_until < now() AS expired, c.leased_until IS NULL AS held, c.xmin::text AS mark,
    known.trusted, known.here
FROM (
    SELECT NOT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL),
        NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
) AS known (trusted, here)
LEFT JOIN claim AS c ON c.kind = $2 AND c.value = $3

-- name: lease_claim
-- Take a free identifier for some seconds; `done` tells whether it could be. What the member has already is leased again:
-- an errand that frees it (it was removed a moment ago) then leaves it alone. A lease that two commands of the member
-- have at once belongs to neither alone, and runs out.
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
leased AS (
    INSERT INTO claim AS c (kind, value, member_id, leased_until, slot, attempt)
    SELECT $2, $3, $4, now() + make_interval(secs => $5), $1, $6 FROM known
    WHERE known.here AND NOT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL)
    ON CONFLICT (kind, value) DO UPDATE SET leased_until = excluded.leased_until, slot = excluded.slot,
        attempt = CASE WHEN c.leased_until > now() AND c.attempt IS DISTINCT FROM $6 THEN NULL ELSE $6 END
        WHERE c.member_id = excluded.member_id
    RETURNING true
)
SELECT here, EXISTS (SELECT FROM leased) AS done FROM known

-- name: take_over_claim
-- A lease that ran out without a member behind it; the old holder must still be the one that was asked about (`done`).
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
taken AS (
    UPDATE claim SET member_id = $4, leased_until = now() + make_interval(secs => $5), attempt = $6 FROM known
    WHERE known.here AND kind = $2 AND value = $3 AND member_id = $7 AND leased_until < now()
    RETURNING true
)
SELECT here, EXISTS (SELECT FROM taken) AS done FROM known

-- name: hold_claim
-- By the command that leased it ($5): where another one of the member has, that one ends it, or it runs out.
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
held AS (
    UPDATE claim SET leased_until = NULL, attempt = NULL FROM known
    WHERE known.here AND kind = $2 AND value = $3 AND member_id = $4 AND attempt IS NOT DISTINCT FROM $5
        AND leased_until IS NOT NULL
)
SELECT here FROM known

-- name: settle_claim
-- By whoever found that the lease has run out, and the member there.
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
held AS (
    UPDATE claim SET leased_until = NULL, attempt = NULL FROM known
    WHERE known.here AND kind = $2 AND value = $3 AND claim.xmin::text = $4
)
SELECT here FROM known

-- name: release_lease
-- By the command that made it.
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
gone AS (
    DELETE FROM claim USING known
    WHERE known.here AND kind = $2 AND value = $3 AND member_id = $4 AND attempt = $5 AND leased_until IS NOT NULL
)
SELECT here FROM known

-- name: release_claim
-- As it was found ($4) before the member's home was asked; one that was leased since, or has moved, is not freed (`done`).
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
gone AS (
    DELETE FROM claim USING known
    WHERE known.here AND kind = $2 AND value = $3 AND claim.xmin::text = $4
    RETURNING true
)
SELECT here, EXISTS (SELECT FROM gone) AS done FROM known

-- name: wait_for_standby
-- Changes nothing. But its commit waits until a standby has it, and with it all that this server has committed before.
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
)
SELECT here, CASE WHEN here THEN pg_logical_emit_message(true, 'loyalty-wait', '') END FROM known

-- name: is_leaving
-- Whether what a member of this shard was found by is still to be freed.
SELECT EXISTS (SELECT FROM errand WHERE member_id = $1 AND kind = 'release')

-- name: remember
WITH known (here) AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here')
),
remembered AS (
    INSERT INTO former_identifier AS f (hash, forget_at, slot) SELECT $2, $3, $1 FROM known WHERE known.here
    ON CONFLICT (hash) DO UPDATE SET forget_at = greatest(f.forget_at, excluded.forget_at), slot = excluded.slot
)
SELECT here FROM known

-- name: remembers
SELECT NOT EXISTS (SELECT FROM claim_slot WHERE slot = $1 AND state <> 'here') AS here,
    EXISTS (SELECT FROM former_identifier WHERE hash = $2 AND forget_at > now()) AS found

-- name: probe_identifier
-- Run and rolled back: adds a row only when there is none. Unlike a SELECT it waits for a commit that is under way
-- (for a standby, perhaps), so "not there" also means "will not come".
INSERT INTO identifier (kind, value, member_id, version) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING RETURNING true
