-- name: lock_reward
-- One at a time over all shards, until the transaction ends; taken on the keeper alone.
SELECT pg_advisory_xact_lock(hashtextextended('stock of ' || $1, 0))

-- name: lock_reward_for_session
-- The same lock, until the connection is closed.
SELECT pg_advisory_lock(hashtextextended('stock of ' || $1, 0))

-- name: stock_left
SELECT reward, allotted - redeemed AS left FROM reward_stock WHERE reward = $1

-- name: send_stock
-- Take part of what is left here and note where it goes, in one step.
WITH taken AS (
    UPDATE reward_stock SET allotted = allotted - least($3::bigint, allotted - redeemed)
    WHERE reward = $2 AND allotted > redeemed
    RETURNING old.allotted - new.allotted AS quantity
)
INSERT INTO stock_move (move_id, reward, quantity, receiver) SELECT $1, $2, quantity, $4 FROM taken RETURNING quantity

-- name: take_in_stock
-- Once per move, however often it is sent; each time something is written, so that each waits for the standby.
WITH arrived AS (
    INSERT INTO stock_arrival (move_id) VALUES ($1)
    ON CONFLICT (move_id) DO UPDATE SET arrived_at = stock_arrival.arrived_at
    RETURNING old.move_id IS NULL AS is_new
)
INSERT INTO reward_stock AS s (reward, allotted) SELECT $2, $3 FROM arrived WHERE is_new
ON CONFLICT (reward) DO UPDATE SET allotted = s.allotted + excluded.allotted

-- name: finish_move
DELETE FROM stock_move WHERE move_id = $1

-- name: open_moves
-- Moves that somebody began and did not finish.
SELECT move_id, reward, quantity, receiver FROM stock_move WHERE moved_at < now() - make_interval(secs => $1)

-- name: allotted
SELECT coalesce((SELECT allotted FROM reward_stock WHERE reward = $1), 0)

-- name: moves_of
SELECT move_id, quantity FROM stock_move WHERE reward = $1

-- name: arrived
SELECT move_id FROM stock_arrival WHERE move_id = ANY ($1::uuid[])

-- name: give_up_allotments
-- From then on nobody is given any of what was left here.
UPDATE reward_stock SET allotted = redeemed WHERE allotted > redeemed

-- name: change_allotment
-- More, or less down to what is redeemed already.
INSERT INTO reward_stock AS s (reward, allotted) VALUES ($1, greatest($2, 0))
ON CONFLICT (reward) DO UPDATE SET allotted = greatest(s.allotted + $2, s.redeemed)
RETURNING s.allotted
