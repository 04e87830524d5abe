-- The SQLite file of what a clean run has seen (see memory.py).

-- name: mark
CREATE TABLE IF NOT EXISTS mark (fingerprint TEXT NOT NULL);

-- name: secret
-- What digests are keyed with that others than Postgres make.
CREATE TABLE IF NOT EXISTS secret (secret BLOB NOT NULL);

-- name: known
CREATE TABLE IF NOT EXISTS known (member_id INTEGER PRIMARY KEY, digest TEXT NOT NULL, counts BLOB NOT NULL);

-- name: fresh
CREATE TEMP TABLE fresh (member_id INTEGER PRIMARY KEY, digest TEXT NOT NULL);

-- name: find_mark
SELECT fingerprint FROM mark;

-- name: forget_everybody
DELETE FROM known;

-- name: drop_mark
DELETE FROM mark;

-- name: set_mark
INSERT INTO mark VALUES (?);

-- name: find_secret
SELECT secret FROM secret;

-- name: drop_secret
DELETE FROM secret;

-- name: set_secret
INSERT INTO secret VALUES (?);

-- name: take_in
INSERT OR REPLACE INTO fresh VALUES (?, ?);

-- name: forget_changed
DELETE FROM known WHERE (member_id, digest) NOT IN (SELECT member_id, digest FROM fresh);

-- name: count_known
SELECT count(*) FROM known;

-- name: changed
SELECT member_id FROM fresh WHERE member_id NOT IN (SELECT member_id FROM known) ORDER BY member_id;

-- name: counts
SELECT counts FROM known;

-- name: is_known
SELECT 1 FROM known WHERE member_id = ?;

-- name: forget
DELETE FROM known WHERE member_id = ?;

-- name: remember
INSERT INTO known SELECT member_id, digest, ? FROM fresh WHERE member_id = ?;
