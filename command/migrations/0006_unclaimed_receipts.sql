-- Receipts whose name is still to be claimed at the shard that keeps the receipts of their store (command/register.py).
-- Those recorded before this version are not claimed.
CREATE TABLE unclaimed_receipt (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    region text NOT NULL,
    store text NOT NULL,
    till text NOT NULL,
    business_date date NOT NULL,
    receipt text NOT NULL,
    fingerprint uuid NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (member_id, version)
);
CREATE INDEX unclaimed_receipt_due ON unclaimed_receipt (due_at);
