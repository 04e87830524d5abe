-- name: find_program
SELECT source FROM program WHERE version = $1

-- name: newest_program
SELECT version, source, effective_at FROM program ORDER BY version DESC LIMIT 1

-- name: insert_program
-- A version is written once; a repeated run fills in the shards that missed it.
INSERT INTO program (version, effective_at, source) VALUES ($1, $3, $2) ON CONFLICT (version) DO NOTHING
