-- Restores: each begins an incarnation of the shard, whose number the versions of entries carry from then on.

CREATE TABLE incarnation (
    number integer PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now(),
    why text NOT NULL,
    reconciled_at timestamptz
);
