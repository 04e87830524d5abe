-- Slots that this shard has given to another one of its region (cluster/shard_growth.py): nobody is enrolled here in them.
CREATE TABLE given_slot (
    slot integer PRIMARY KEY,
    receiver text NOT NULL,
    given_at timestamptz NOT NULL DEFAULT now()
);
