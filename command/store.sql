-- name: due_members
-- The settler's work list, oldest first.
SELECT member_id FROM account WHERE due_at <= $1 ORDER BY due_at LIMIT $2

-- name: due_errands
-- Taken for a while by pushing them back, so that two couriers seldom do the same; doing it twice is harmless. What a
-- purchase owes a referrer and what its return takes back go one after the other, in the order of their entries.
-- Nobody pushes anything back by more than 30 s: what is due later was dated by another clock, of an hour ahead perhaps.
UPDATE errand e
SET attempts = e.attempts + 1, due_at = now() + least(power(2, least(e.attempts, 6)), 30) * interval '1 s'
WHERE e.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM (
        SELECT ctid, member_id, version, kind, due_at FROM errand WHERE due_at <= now()
        UNION ALL
        SELECT ctid, member_id, version, kind, due_at FROM errand WHERE due_at > now() + interval '30 s'
    ) AS d
    WHERE (
        SELECT min(b.version)
        FROM errand b
        WHERE b.member_id = d.member_id AND b.version < d.version
            AND b.kind IN ('referral', 'referral_return') AND d.kind IN ('referral', 'referral_return')
    ) IS NULL
    ORDER BY d.due_at
    LIMIT $1
))
RETURNING e.member_id, e.version, e.kind, e.document, e.attempts

-- name: finish_errand
DELETE FROM errand WHERE member_id = $1 AND version = $2

-- name: member_of_identifier
SELECT member_id FROM identifier WHERE kind = $1 AND value = $2

-- name: account_status
SELECT status FROM account WHERE member_id = $1

-- name: forget_answers
-- Stored answers are kept longer than any till retries; receipts stay for ever. Wrong guesses count for an hour.
-- Those who left are known until they may have all bonuses again.
WITH guesses_forgotten AS (
    DELETE FROM wrong_guess WHERE guessed_at < now() - interval '1 hour'
), former_forgotten AS (
    DELETE FROM former_identifier WHERE forget_at < now()
)
DELETE FROM idempotency
WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency WHERE answered_at < $1 LIMIT $2))

-- name: identifier_page
-- The phones and e-mails of a shard, in the order of its key.
SELECT kind, value, member_id FROM identifier
WHERE kind IN ('email', 'phone') AND (kind, value) > ($1, $2)
ORDER BY kind, value
LIMIT $3

-- name: identifiers_of
-- What a member is found by now: asked after a change of it, and before a claim is freed.
SELECT kind, value FROM identifier WHERE member_id = $1
