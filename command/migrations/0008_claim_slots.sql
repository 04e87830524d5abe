-- Claims move between shards by their slots (command/claim_move.py). Rows that are here get theirs before they first move.
ALTER TABLE claim ADD COLUMN slot integer;
CREATE INDEX claim_by_slot ON claim (slot);
ALTER TABLE former_identifier ADD COLUMN slot integer;
CREATE INDEX former_identifier_by_slot ON former_identifier (slot);
CREATE TABLE claim_slot (
    slot integer PRIMARY KEY,
    state text NOT NULL CONSTRAINT claim_slot_state CHECK (state IN ('here', 'fenced', 'gone')),
    receiver text
);
