-- The naive baseline: the rows that a purchase writes in ours, as plain tables, one statement each.

-- name: naive_schema
CREATE TABLE idempotency (key text PRIMARY KEY, member_id bigint NOT NULL, fingerprint uuid NOT NULL, status integer NOT NULL, answer json NOT NULL, answered_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE member_account (member_id bigint PRIMARY KEY, version bigint NOT NULL, available bigint NOT NULL, pending bigint NOT NULL, held bigint NOT NULL, spent bigint NOT NULL, state json NOT NULL, CHECK (available >= 0 AND pending >= 0 AND held >= 0)) WITH (fillfactor = 70);
CREATE TABLE journal (member_id bigint, version bigint, kind text NOT NULL, occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now(), store text, points bigint NOT NULL, postings json NOT NULL, detail json NOT NULL, account_after json NOT NULL, PRIMARY KEY (member_id, version));
CREATE TABLE purchase (member_id bigint, version bigint, store text NOT NULL, till text NOT NULL, receipt text NOT NULL, occurred_at timestamptz NOT NULL, document json NOT NULL, PRIMARY KEY (member_id, version));
CREATE TABLE receipt (store text, till text, receipt text, member_id bigint NOT NULL, version bigint NOT NULL, fingerprint uuid NOT NULL, PRIMARY KEY (store, till, receipt));
INSERT INTO member_account SELECT number, 0, 0, 0, 0, 0, '{}' FROM generate_series(1, 10000) AS number;

-- name: naive_answer
SELECT status, answer FROM idempotency WHERE key = $1;

-- name: naive_lock
SELECT version, available, state FROM member_account WHERE member_id = $1 FOR UPDATE;

-- name: naive_account
UPDATE member_account SET version = $2, available = $3, state = $4 WHERE member_id = $1;

-- name: naive_journal
INSERT INTO journal (member_id, version, kind, occurred_at, store, points, postings, detail, account_after) VALUES ($1, $2, 'purchase_recorded', now(), $3, $4, $5, $6, $7);

-- name: naive_purchase
INSERT INTO purchase (member_id, version, store, till, receipt, occurred_at, document) VALUES ($1, $2, $3, $4, $5, now(), $6);

-- name: naive_receipt
INSERT INTO receipt (store, till, receipt, member_id, version, fingerprint) VALUES ($1, $2, $3, $4, $5, $6);

-- name: naive_store_answer
INSERT INTO idempotency (key, member_id, fingerprint, status, answer) VALUES ($1, $2, $3, 201, $4);
