-- name: find_member
SELECT member_id FROM identifier WHERE kind = $1 AND value = $2
