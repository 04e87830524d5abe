-- Bonuses are once per person: what those who left were found by is kept for a while, as keyed hashes.
CREATE TABLE former_identifier (
    hash uuid PRIMARY KEY,
    member_id bigint,
    forget_at timestamptz NOT NULL
);
CREATE INDEX former_identifier_by_age ON former_identifier (forget_at);
