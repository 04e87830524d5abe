-- What moving claim slots asks and writes (command/claim_move.py), by the owner of the tables. Each statement may be
-- repeated.

-- name: lock_moves
-- One mover, or one `loyalty reconcile` that puts slots right, at a time: on every shard it knows, as long as its
-- connections. On one of them it would depend on which it is: documents name shards in whatever order.
SELECT pg_try_advisory_lock(7261079)

-- name: is_unreconciled
SELECT EXISTS (SELECT FROM incarnation WHERE reconciled_at IS NULL)

-- name: state_slots
-- Write down what the topology says, where nothing is written yet.
INSERT INTO claim_slot (slot, state)
SELECT slot, CASE WHEN here THEN 'here' ELSE 'gone' END FROM unnest($1::integer[], $2::boolean[]) AS said (slot, here)
ON CONFLICT (slot) DO NOTHING

-- name: correct_slots
-- The same, whatever is written.
INSERT INTO claim_slot (slot, state)
SELECT slot, CASE WHEN here THEN 'here' ELSE 'gone' END FROM unnest($1::integer[], $2::boolean[]) AS said (slot, here)
ON CONFLICT (slot) DO UPDATE SET state = excluded.state, receiver = NULL

-- name: slots
SELECT slot, state, receiver FROM claim_slot

-- name: lock_claims
-- Waits for whoever has seen a slot here and is about to write; who comes later looks again when it goes.
LOCK TABLE claim, former_identifier IN SHARE MODE

-- name: end_writers
-- Who was cut off from its client between the messages of a statement keeps its lock for as long as the connection lives:
-- no time-out of the server counts then. What it began is undone, and no client has heard that it was done.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND xact_start < clock_timestamp() - $1::interval
    AND pid IN (
        SELECT pid FROM pg_locks
        WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted
            AND relation = ANY ($2::text[]::regclass[]) AND mode = 'RowExclusiveLock'
    )

-- name: fence_slots
INSERT INTO claim_slot (slot, state, receiver) SELECT slot, 'fenced', $2 FROM unnest($1::integer[]) AS moved (slot)
ON CONFLICT (slot) DO UPDATE SET state = 'fenced', receiver = excluded.receiver WHERE claim_slot.state = 'here'

-- name: lacks_slots
SELECT EXISTS (SELECT FROM claim WHERE slot IS NULL)
    OR EXISTS (SELECT FROM former_identifier WHERE slot IS NULL AND member_id IS NULL)

-- name: claims_without_slot
SELECT kind, value FROM claim WHERE slot IS NULL LIMIT $1

-- name: hashes_without_slot
SELECT hash FROM former_identifier WHERE slot IS NULL AND member_id IS NULL LIMIT $1

-- name: give_claims_slots
UPDATE claim AS c SET slot = given.slot
FROM unnest($1::text[], $2::text[], $3::integer[]) AS given (kind, value, slot)
WHERE c.kind = given.kind AND c.value = given.value

-- name: give_hashes_slots
UPDATE former_identifier AS f SET slot = given.slot FROM unnest($1::uuid[], $2::integer[]) AS given (hash, slot)
WHERE f.hash = given.hash

-- name: claims
SELECT kind, value, member_id, leased_until IS NULL AS held, slot, attempt FROM claim WHERE slot = ANY ($1::integer[])

-- name: hashes
SELECT hash, forget_at, slot FROM former_identifier WHERE slot = ANY ($1::integer[])

-- name: some_claims
-- A few of those that are kept here.
SELECT kind, value FROM claim LIMIT $1

-- name: clear_claims
DELETE FROM claim WHERE slot = ANY ($1::integer[])

-- name: clear_hashes
DELETE FROM former_identifier WHERE slot = ANY ($1::integer[])

-- name: put_claims
-- A lease begins anew: no clock of another server tells when it ends.
INSERT INTO claim (kind, value, member_id, leased_until, slot, attempt)
SELECT kind, value, member_id, CASE WHEN NOT held THEN now() + make_interval(secs => $7) END, slot, attempt
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::integer[], $6::bigint[])
    AS moved (kind, value, member_id, held, slot, attempt)
ON CONFLICT (kind, value) DO UPDATE SET member_id = excluded.member_id, leased_until = excluded.leased_until,
    slot = excluded.slot, attempt = excluded.attempt

-- name: put_hashes
INSERT INTO former_identifier AS f (hash, forget_at, slot)
SELECT hash, forget_at, slot FROM unnest($1::uuid[], $2::timestamptz[], $3::integer[]) AS moved (hash, forget_at, slot)
ON CONFLICT (hash) DO UPDATE SET forget_at = excluded.forget_at, slot = excluded.slot

-- name: keep_slots
INSERT INTO claim_slot (slot, state) SELECT slot, 'here' FROM unnest($1::integer[]) AS moved (slot)
ON CONFLICT (slot) DO UPDATE SET state = 'here', receiver = NULL

-- name: leave_slots
INSERT INTO claim_slot (slot, state, receiver) SELECT slot, 'gone', $2 FROM unnest($1::integer[]) AS moved (slot)
ON CONFLICT (slot) DO UPDATE SET state = 'gone', receiver = coalesce(excluded.receiver, claim_slot.receiver)
