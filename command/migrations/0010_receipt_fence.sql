-- A row here: this shard claims no more receipts, others have theirs (command/receipt_move.py).
CREATE TABLE receipt_fence (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT receipt_fence_one CHECK (only_one),
    fenced_at timestamptz NOT NULL DEFAULT now()
);
