-- name: load
-- Everything a batch needs in one round trip and one snapshot. Where the mark stands the accounts are locked when a
-- command is run again after a conflict, in member order so that two batches never wait for each other in a circle.
-- Then rows beside the lock may be older than the locked account: unique keys and the counts of `record` find that.
WITH command AS MATERIALIZED (
    SELECT c.*, coalesce(c.member_id, d.member_id) AS target
    FROM json_to_recordset($1::json) AS c(
        position integer, key text, member_id bigint, identifier_kind text, identifier_value text, reference bigint,
        store text, till text, business_date date, receipt text, receipt_kind text
    )
    LEFT JOIN identifier d ON d.kind = c.identifier_kind AND d.value = c.identifier_value
), locked AS MATERIALIZED (
    SELECT a.*
    FROM account a
    WHERE a.member_id = ANY (ARRAY(SELECT target FROM command WHERE target IS NOT NULL))
    ORDER BY a.member_id
    /* lock */
)
SELECT
    c.target, l.version, l.status, l.spent, l.expired, l.debt, l.issued, l.state,
    i.fingerprint AS key_fingerprint, i.status AS key_status, i.answer AS key_answer,
    i.member_id AS key_member_id, i.version AS key_version,
    r.member_id AS receipt_member_id, r.version AS receipt_version, r.fingerprint AS receipt_fingerprint,
    p.version AS purchase_version, p.changed_version, p.store, p.till, p.receipt, p.business_date, p.occurred_at,
    p.document,
    j.kind AS referred_kind, j.program_version AS referred_program_version,
    -- A campaign may ask a buyer's birthday; one look-up here is less than a round trip when one does.
    CASE WHEN c.receipt_kind = 'purchase' THEN (
        SELECT m.profile ->> 'birth_date' FROM member m WHERE m.member_id = c.target
    ) END AS birth_date,
    (SELECT max(version) FROM program WHERE effective_at <= now()) AS program_version
FROM command c
LEFT JOIN locked l ON l.member_id = c.target
LEFT JOIN idempotency i ON i.key = c.key
LEFT JOIN receipt r ON r.store = c.store AND r.till = c.till AND r.business_date = c.business_date
    AND r.receipt = c.receipt AND r.kind = c.receipt_kind
LEFT JOIN purchase p ON p.member_id = c.target AND p.version = c.reference
LEFT JOIN journal j ON j.member_id = c.target AND j.version = c.reference
ORDER BY c.position

-- name: taken_identifiers
-- Which of the identifiers of a batch's new members are taken.
SELECT kind, value
FROM identifier
JOIN unnest($1::text[], $2::text[]) AS wanted(kind, value) USING (kind, value)

-- name: entry_of
-- The entry behind a receipt that came again under a new key: its answer is rebuilt from it.
SELECT points, postings, account_after, detail FROM journal WHERE member_id = $1 AND version = $2

-- name: identifiers_of_members
SELECT member_id, kind, value FROM identifier WHERE member_id = ANY ($1::bigint[])

-- name: profiles
SELECT member_id, profile FROM member WHERE member_id = ANY ($1::bigint[])

-- name: kinds_of_entries
-- What the holds that purchases want to capture once were.
SELECT member_id, version, kind
FROM journal
JOIN unnest($1::bigint[], $2::bigint[]) AS asked(member_id, version) USING (member_id, version)

-- name: lock_stock
-- After the accounts, and in one order, so that two batches never wait for each other in a circle.
SELECT reward, allotted - redeemed AS left FROM reward_stock WHERE reward = ANY ($1::text[]) ORDER BY reward FOR UPDATE

-- name: receipts_known
-- Asked again before a document is refused: the batch's first look may be older than the lock it waited for.
SELECT count(*)
FROM receipt
JOIN unnest($1::text[], $2::text[], $3::date[], $4::text[], $5::text[])
    AS asked(store, till, business_date, receipt, kind) USING (store, till, business_date, receipt, kind)

-- name: record
-- The whole batch in one statement from one JSON document: adding a column needs no new code in running nodes.
-- The counts tell whether every row was as it had been read.
WITH account_written AS (
    INSERT INTO account AS a (
        member_id, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
    )
    SELECT member_id, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
    FROM json_to_recordset($1::json -> 'account') AS t(
        member_id bigint, version bigint, status text, available bigint, pending bigint, held bigint,
        spent bigint, expired bigint, debt bigint, issued bigint, state json, due_at timestamptz
    )
    ON CONFLICT (member_id) DO UPDATE SET
        version = excluded.version, status = excluded.status, available = excluded.available,
        pending = excluded.pending, held = excluded.held, spent = excluded.spent, expired = excluded.expired,
        debt = excluded.debt, issued = excluded.issued, state = excluded.state, due_at = excluded.due_at
        WHERE a.version < excluded.version
    RETURNING 1
), journal_written AS (
    INSERT INTO journal (
        member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
        account_after
    )
    SELECT
        member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
        account_after
    FROM json_to_recordset($1::json -> 'journal') AS t(
        member_id bigint, version bigint, kind text, program_version integer, occurred_at timestamptz,
        recorded_at timestamptz, store text, points bigint, postings json, detail json, account_after json
    )
), purchase_written AS (
    INSERT INTO purchase (
        member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
    )
    SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
    FROM json_to_recordset($1::json -> 'purchase') AS t(
        member_id bigint, version bigint, changed_version bigint, store text, till text, receipt text,
        business_date date, occurred_at timestamptz, document json
    )
), purchase_changed AS (
    UPDATE purchase p
    SET changed_version = t.changed_version, document = t.document
    FROM json_to_recordset($1::json -> 'purchase_change') AS t(
        member_id bigint, version bigint, changed_version bigint, version_before bigint, document json
    )
    WHERE p.member_id = t.member_id AND p.version = t.version AND p.changed_version = t.version_before
    RETURNING 1
), receipt_written AS (
    INSERT INTO receipt (store, till, business_date, receipt, kind, member_id, version, fingerprint)
    SELECT store, till, business_date, receipt, kind, member_id, version, fingerprint
    FROM json_to_recordset($1::json -> 'receipt') AS t(
        store text, till text, business_date date, receipt text, kind text, member_id bigint, version bigint,
        fingerprint uuid
    )
), idempotency_written AS (
    INSERT INTO idempotency (key, member_id, version, credential, fingerprint, status, answer, answered_at)
    SELECT key, member_id, version, credential, fingerprint, status, answer, answered_at
    FROM json_to_recordset($1::json -> 'idempotency') AS t(
        key text, member_id bigint, version bigint, credential text, fingerprint uuid, status integer,
        answer json, answered_at timestamptz
    )
), replayed AS (
    -- A replay writes, so that its answer too waits until the standby holds what it speaks of.
    UPDATE idempotency i
    SET replays = i.replays + 1
    FROM json_array_elements_text($1::json -> 'replay') AS t(key)
    WHERE i.key = t.key
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM account_written) AS accounts,
    (SELECT count(*) FROM purchase_changed) AS purchase_changes,
    (SELECT count(*) FROM replayed) AS replays

-- name: record_more
-- What few commands write besides: members, identifiers, errands, stock, erasure. Run in the same transaction, only for
-- batches that have such rows: most then pay for no empty branch.
WITH member_written AS (
    INSERT INTO member (member_id, version, profile, enrolled_at)
    SELECT member_id, version, profile, enrolled_at
    FROM json_to_recordset($1::json -> 'member') AS t(
        member_id bigint, version bigint, profile json, enrolled_at timestamptz
    )
), member_changed AS (
    UPDATE member m SET version = t.version, profile = t.profile
    FROM json_to_recordset($1::json -> 'member_change') AS t(member_id bigint, version bigint, profile json)
    WHERE m.member_id = t.member_id
), identifier_removed AS (
    DELETE FROM identifier i
    USING json_to_recordset($1::json -> 'identifier_removed') AS t(kind text, value text, member_id bigint)
    WHERE i.kind = t.kind AND i.value = t.value AND i.member_id = t.member_id
), identifier_written AS (
    INSERT INTO identifier (kind, value, member_id, version)
    SELECT kind, value, member_id, version
    FROM json_to_recordset($1::json -> 'identifier') AS t(kind text, value text, member_id bigint, version bigint)
), errand_written AS (
    INSERT INTO errand (member_id, version, kind, document, due_at)
    SELECT member_id, version, kind, document, now()
    FROM json_to_recordset($1::json -> 'errand') AS t(member_id bigint, version bigint, kind text, document json)
), errand_done AS (
    DELETE FROM errand e
    USING json_to_recordset($1::json -> 'errand_done') AS t(member_id bigint, version bigint)
    WHERE e.member_id = t.member_id AND e.version = t.version
), stock_changed AS (
    UPDATE reward_stock s
    SET redeemed = s.redeemed + t.change
    FROM (
        SELECT reward, sum(change) AS change
        FROM json_to_recordset($1::json -> 'stock') AS c(reward text, change bigint)
        GROUP BY reward
    ) AS t
    WHERE s.reward = t.reward
), receipt_touched AS (
    -- What was recorded before is answered without a key: the answer must wait for the standby all the same.
    UPDATE receipt r
    SET version = r.version
    FROM json_to_recordset($1::json -> 'receipt_again') AS t(
        store text, till text, business_date date, receipt text, kind text
    )
    WHERE r.store = t.store AND r.till = t.till AND r.business_date = t.business_date
        AND r.receipt = t.receipt AND r.kind = t.kind
), erased AS (
    -- All personal data of a member is in this row, in the identifiers and in the stored answers that showed them.
    UPDATE member m
    SET version = t.version, profile = '{"erased": true}'
    FROM json_to_recordset($1::json -> 'erase') AS t(member_id bigint, version bigint)
    WHERE m.member_id = t.member_id
), identifiers_erased AS (
    DELETE FROM identifier i
    USING json_to_recordset($1::json -> 'erase') AS t(member_id bigint)
    WHERE i.member_id = t.member_id
), answers_erased AS (
    UPDATE idempotency i
    SET status = t.status, answer = t.answer, version = NULL
    FROM json_to_recordset($1::json -> 'erase') AS t(member_id bigint, status integer, answer json)
    JOIN journal j ON j.member_id = t.member_id AND j.kind IN ('member_enrolled', 'identifiers_changed')
    WHERE i.key = j.detail ->> 'key'
)
SELECT 1

-- name: due_members
-- The settler's work list, oldest first.
SELECT member_id FROM account WHERE due_at <= $1 ORDER BY due_at LIMIT $2

-- name: due_errands
-- Taken for a while by pushing them back, so that two couriers seldom do the same; doing it twice is harmless.
UPDATE errand e
SET attempts = e.attempts + 1, due_at = now() + least(power(2, least(e.attempts, 6)), 30) * interval '1 s'
WHERE (e.member_id, e.version) IN (SELECT member_id, version FROM errand WHERE due_at <= now() ORDER BY due_at LIMIT $1)
RETURNING e.member_id, e.version, e.kind, e.document, e.attempts

-- name: finish_errand
DELETE FROM errand WHERE member_id = $1 AND version = $2

-- name: member_of_identifier
SELECT member_id FROM identifier WHERE kind = $1 AND value = $2

-- name: account_status
SELECT status FROM account WHERE member_id = $1

-- name: forget_answers
-- Stored answers are kept longer than any till retries; receipts stay for ever.
DELETE FROM idempotency
WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency WHERE answered_at < $1 LIMIT $2))
