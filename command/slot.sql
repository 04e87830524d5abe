-- How slots without members go to another shard (cluster/shard_growth.py) while enrolments run (command/slot.py).
-- A slot is bits 45 to 56 of a member id, the region's number what is above (shard_router/member_id.py).

-- name: enter_slots
-- Until the end of its transaction an enrolment keeps slots from being given; many do so at once.
SELECT pg_advisory_xact_lock_shared(7261002)

-- name: given_slots
-- Asked once the lock is held, in a snapshot of its own: it sees whatever was given before.
SELECT slot, receiver FROM given_slot WHERE slot = ANY ($1::integer[]) ORDER BY slot

-- name: close_slots
-- Waits for every enrolment under way, and keeps others waiting until slots are given.
SELECT pg_advisory_xact_lock(7261002)

-- name: empty_slots
-- Which of some slots of a region nobody lives or ever lived in: an entry stays for ever. Of slots given already, none.
SELECT asked.slot
FROM unnest($2::integer[]) AS asked(slot)
CROSS JOIN LATERAL (
    SELECT (($1::bigint << 12) + asked.slot) << 45 AS first, (($1::bigint << 12) + asked.slot + 1) << 45 AS beyond
) AS ids
WHERE NOT EXISTS (SELECT FROM account WHERE member_id >= ids.first AND member_id < ids.beyond)
    AND NOT EXISTS (SELECT FROM member WHERE member_id >= ids.first AND member_id < ids.beyond)
    AND NOT EXISTS (SELECT FROM journal WHERE member_id >= ids.first AND member_id < ids.beyond)
    AND NOT EXISTS (SELECT FROM given_slot AS g WHERE g.slot = asked.slot)
ORDER BY asked.slot

-- name: give_slots
INSERT INTO given_slot (slot, receiver) SELECT slot, $2 FROM unnest($1::integer[]) AS given(slot)

-- name: close_given
-- As it was written when they were given; a restore may have lost it.
INSERT INTO given_slot (slot, receiver) SELECT slot, $2 FROM unnest($1::integer[]) AS given(slot)
ON CONFLICT (slot) DO NOTHING

-- name: open_slots
-- Slots that are this shard's own again.
DELETE FROM given_slot WHERE slot = ANY ($1::integer[])

-- name: slots_given_to
SELECT slot FROM given_slot WHERE receiver = $1 ORDER BY slot

-- name: refusals_in_slots
-- The "no" to every enrolment in slots that were given: a retry gets it where the slot is now. A page, by key.
SELECT key, member_id, credential, fingerprint, status, answer::text, answered_at
FROM idempotency
WHERE key > $3 AND version IS NULL AND member_id >> 57 = $1 AND (member_id >> 45 & 4095) = ANY ($2::integer[])
ORDER BY key
LIMIT $4

-- name: take_refusals
INSERT INTO idempotency (key, member_id, credential, fingerprint, status, answer, answered_at)
SELECT key, member_id, credential, fingerprint, status, answer::json, answered_at
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::uuid[], $5::integer[], $6::text[], $7::timestamptz[])
    AS told(key, member_id, credential, fingerprint, status, answer, answered_at)
ON CONFLICT (key) DO NOTHING
