-- name: role
-- Whether a server takes writes, and on which timeline. Of two that do, the one on the lower was overtaken by a failover
-- and does not know it yet. (A standby cannot name its own file of WAL.) Its time dates what the shard decides.
SELECT pg_is_in_recovery() AS in_recovery, extract(epoch FROM clock_timestamp())::float8 AS time_s,
    CASE WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
    END AS timeline
