-- name: account
-- A batch is written by one statement, put together of those below whose table has rows (command/record.py): starting a part
-- that finds nothing to do costs as much as writing a row. Its rows come as arrays, or as values when it is one
-- (command/columns.py, as well for lines `of: one`). Whatever changes many rows finds them by OFFSET 0 look-ups or an array
-- of keys, for the reason that `load` gives, and returns a row for each, to be counted: was every row as it had been read?
INSERT INTO account (
    member_id, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
)
SELECT member_id, version, status, available, pending, held, spent, expired, debt, issued, state, due_at
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, status text, available bigint, pending bigint, held bigint,
    spent bigint, expired bigint, debt bigint, issued bigint, state json, due_at timestamptz
)

-- name: account_change
UPDATE account a
SET version = t.version, status = t.status, available = t.available, pending = t.pending, held = t.held, spent = t.spent,
    expired = t.expired, debt = t.debt, issued = t.issued, state = t.state, due_at = t.due_at
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, status text, available bigint, pending bigint, held bigint,
    spent bigint, expired bigint, debt bigint, issued bigint, state json, due_at timestamptz
)
CROSS JOIN LATERAL (SELECT ctid FROM account AS x WHERE x.member_id = t.member_id OFFSET 0) AS found -- of: many
WHERE a.version < t.version
    AND a.ctid = found.ctid -- of: many
    AND a.member_id = t.member_id -- of: one
RETURNING 1

-- name: journal
INSERT INTO journal (
    member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
    account_after
)
SELECT
    member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
    account_after
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, kind text, program_version integer, occurred_at timestamptz,
    recorded_at timestamptz, store text, points bigint, postings json, detail json, account_after json
)

-- name: purchase
INSERT INTO purchase (
    member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
)
SELECT member_id, version, changed_version, store, till, receipt, business_date, occurred_at, document
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, changed_version bigint, store text, till text, receipt text,
    business_date date, occurred_at timestamptz, document json
)

-- name: purchase_change
UPDATE purchase p
SET changed_version = t.changed_version, document = t.document
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, changed_version bigint, version_before bigint, document json
)
CROSS JOIN LATERAL ( -- of: many
    SELECT ctid FROM purchase AS x WHERE x.member_id = t.member_id AND x.version = t.version OFFSET 0 -- of: many
) AS found -- of: many
WHERE p.changed_version = t.version_before
    AND p.ctid = found.ctid -- of: many
    AND p.member_id = t.member_id AND p.version = t.version -- of: one
RETURNING 1

-- name: receipt
INSERT INTO receipt (store, till, business_date, receipt, kind, subject, member_id, version, fingerprint)
SELECT store, till, business_date, receipt, kind, subject, member_id, version, fingerprint
FROM json_to_recordset($1::json) AS t(
    store text, till text, business_date date, receipt text, kind text, subject text, member_id bigint,
    version bigint, fingerprint uuid
)

-- name: unclaimed_receipt
INSERT INTO unclaimed_receipt (
    member_id, version, region, store, till, business_date, receipt, fingerprint, due_at
)
SELECT member_id, version, region, store, till, business_date, receipt, fingerprint, now()
FROM json_to_recordset($1::json) AS t(
    member_id bigint, version bigint, region text, store text, till text, business_date date, receipt text,
    fingerprint uuid
)

-- name: idempotency
INSERT INTO idempotency (key, member_id, version, credential, fingerprint, status, answer, answered_at)
SELECT key, member_id, version, credential, fingerprint, status, answer, answered_at
FROM json_to_recordset($1::json) AS t(
    key text, member_id bigint, version bigint, credential text, fingerprint uuid, status integer,
    answer json, answered_at timestamptz
)

-- name: replay
-- A replay writes, so that its answer too waits until the standby holds what it speaks of.
UPDATE idempotency i
SET replays = i.replays + 1
WHERE i.key = ANY (ARRAY(SELECT t.key FROM json_to_recordset($1::json) AS t(key text)))
RETURNING 1

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
    CROSS JOIN LATERAL (SELECT ctid FROM member AS x WHERE x.member_id = t.member_id OFFSET 0) AS found
    WHERE m.ctid = found.ctid
), identifier_removed AS (
    DELETE FROM identifier i
    USING json_to_recordset($1::json -> 'identifier_removed') AS t(kind text, value text, member_id bigint)
    CROSS JOIN LATERAL (
        SELECT ctid FROM identifier AS x
        WHERE x.kind = t.kind AND x.value = t.value AND x.member_id = t.member_id
        OFFSET 0
    ) AS found
    WHERE i.ctid = found.ctid
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
    CROSS JOIN LATERAL (
        SELECT ctid FROM errand AS x WHERE x.member_id = t.member_id AND x.version = t.version OFFSET 0
    ) AS found
    WHERE e.ctid = found.ctid
), stock_changed AS (
    UPDATE reward_stock s
    SET redeemed = s.redeemed + t.change
    FROM (
        SELECT reward, sum(change) AS change
        FROM json_to_recordset($1::json -> 'stock') AS c(reward text, change bigint)
        GROUP BY reward
    ) AS t
    CROSS JOIN LATERAL (SELECT ctid FROM reward_stock AS x WHERE x.reward = t.reward OFFSET 0) AS found
    WHERE s.ctid = found.ctid
), receipt_touched AS (
    -- What was recorded before is answered without a key: the answer must wait for the standby all the same.
    UPDATE receipt r
    SET version = r.version
    FROM json_to_recordset($1::json -> 'receipt_again') AS t(
        store text, till text, business_date date, receipt text, kind text, subject text
    )
    CROSS JOIN LATERAL (
        SELECT ctid FROM receipt AS x
        WHERE x.store = t.store AND x.till = t.till AND x.business_date = t.business_date
            AND x.receipt = t.receipt AND x.kind = t.kind AND x.subject = t.subject
        OFFSET 0
    ) AS found
    WHERE r.ctid = found.ctid
), wrong_guess_written AS (
    INSERT INTO wrong_guess (member_id, version, guessed_at)
    SELECT member_id, version, guessed_at
    FROM json_to_recordset($1::json -> 'wrong_guess') AS t(member_id bigint, version bigint, guessed_at timestamptz)
), receipt_removed AS (
    DELETE FROM receipt r
    USING json_to_recordset($1::json -> 'receipt_removed') AS t(
        store text, receipt text, kind text, member_id bigint, version bigint
    )
    CROSS JOIN LATERAL (
        SELECT ctid FROM receipt AS x
        WHERE x.store = t.store AND x.till = '-' AND x.business_date = '1970-01-01' AND x.receipt = t.receipt
            AND x.kind = t.kind AND x.subject = '' AND x.member_id = t.member_id AND x.version = t.version
        OFFSET 0
    ) AS found
    WHERE r.ctid = found.ctid
), erased AS (
    -- All personal data of a member is in this row, in the identifiers and in the stored answers that showed them.
    UPDATE member m
    SET version = t.version, profile = '{"erased": true}'
    FROM json_to_recordset($1::json -> 'erase') AS t(member_id bigint, version bigint)
    CROSS JOIN LATERAL (SELECT ctid FROM member AS x WHERE x.member_id = t.member_id OFFSET 0) AS found
    WHERE m.ctid = found.ctid
), former_written AS (
    INSERT INTO former_identifier AS f (hash, member_id, forget_at)
    SELECT hash, member_id, forget_at
    FROM json_to_recordset($1::json -> 'former') AS t(hash uuid, member_id bigint, forget_at timestamptz)
    ON CONFLICT (hash) DO UPDATE
    SET member_id = excluded.member_id, forget_at = greatest(f.forget_at, excluded.forget_at)
), identifiers_erased AS (
    DELETE FROM identifier i
    USING json_to_recordset($1::json -> 'erase') AS t(member_id bigint)
    CROSS JOIN LATERAL (SELECT ctid FROM identifier AS x WHERE x.member_id = t.member_id OFFSET 0) AS found
    WHERE i.ctid = found.ctid
), answers_erased AS (
    UPDATE idempotency i
    SET status = t.status, answer = t.answer, version = NULL
    FROM json_to_recordset($1::json -> 'erase') AS t(member_id bigint, status integer, answer json)
    CROSS JOIN LATERAL (
        SELECT x.ctid
        FROM (
            SELECT detail ->> 'key' AS key FROM journal
            WHERE journal.member_id = t.member_id AND kind IN ('member_enrolled', 'identifiers_changed')
            OFFSET 0
        ) AS shown
        CROSS JOIN LATERAL (SELECT ctid FROM idempotency WHERE idempotency.key = shown.key OFFSET 0) AS x
    ) AS found
    WHERE i.ctid = found.ctid
)
SELECT 1
