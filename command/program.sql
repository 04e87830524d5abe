-- name: find_programs
-- A version and those before it, newest first.
SELECT version, effective_at, source FROM program WHERE version <= $1 ORDER BY version DESC LIMIT $2

-- name: versions_at
-- The version in force at each of some instants, of those up to a version; before the first one the first.
SELECT asked.moment, p.version, p.source
FROM unnest($1::timestamptz[]) AS asked(moment)
CROSS JOIN LATERAL (
    SELECT version, source
    FROM program
    WHERE version <= $2 AND (effective_at <= asked.moment OR version = (SELECT min(version) FROM program))
    ORDER BY version DESC
    LIMIT 1
) AS p

-- name: program_in_force
-- What has begun stays in force, also where the clock of the server that is the primary now has not come so far.
SELECT version FROM program WHERE effective_at <= now() OR begun_at IS NOT NULL ORDER BY version DESC LIMIT 1

-- name: begin_program
-- Before the first decision by it; nothing is written, nor waited for, from the second time on.
UPDATE program SET begun_at = now() WHERE version = $1 AND begun_at IS NULL

-- name: newest_program
-- In force, or to come.
SELECT version, source, effective_at FROM program ORDER BY version DESC LIMIT 1

-- name: program_numbers
SELECT version FROM program ORDER BY version

-- name: program_numbered
SELECT version, source, effective_at FROM program WHERE version = $1

-- name: programs_since
-- All that counted since an instant, or will: the oldest first.
SELECT version, source FROM program
WHERE version >= coalesce((SELECT max(version) FROM program WHERE effective_at <= $1), 0)
ORDER BY version

-- name: incarnation
SELECT coalesce(max(number), 0) FROM incarnation

-- name: insert_program
-- A version is written once; a repeated run fills in the shards that missed it.
INSERT INTO program (version, effective_at, source) VALUES ($1, $3, $2) ON CONFLICT (version) DO NOTHING

-- name: lock_apply
-- One apply at a time over all shards, until the connection is closed; taken on the first shard alone.
SELECT pg_advisory_lock(hashtextextended('program apply', 0))
