-- What a shard holds yet, of all that keeps it in the topology. Query nodes may ask: columns of no person are enough.

-- name: remains
-- Claims of members elsewhere, and of receipts, move; whoever ever lived here does not.
SELECT EXISTS (SELECT FROM member) OR EXISTS (SELECT FROM journal)
        OR EXISTS (SELECT FROM former_identifier WHERE member_id IS NOT NULL)
        OR EXISTS (SELECT FROM reward_stock WHERE redeemed > 0) AS members,
    EXISTS (SELECT FROM errand) AS errands,
    EXISTS (SELECT FROM stock_move) AS stock_moves,
    EXISTS (SELECT FROM receipt_fence) AS receipts_fenced
