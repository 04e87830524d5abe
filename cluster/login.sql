-- The logins of a server, made and mended by its superuser. Nothing of ours runs as that one.

-- name: upgrade_begin
-- Until 0.1 the superuser made by initdb was named loyalty. It cannot lose that right, so it gets another name, which
-- needs a session of somebody else.
CREATE ROLE loyalty_upgrade SUPERUSER LOGIN;

-- name: upgrade_password
SELECT format('ALTER ROLE loyalty_upgrade PASSWORD %L', $1::text);

-- name: upgrade_rename
ALTER ROLE loyalty RENAME TO postgres;

-- name: upgrade_end
DROP ROLE IF EXISTS loyalty_upgrade;

-- name: role_exists
SELECT true FROM pg_roles WHERE rolname = $1;

-- name: create_login
SELECT format('CREATE ROLE %I LOGIN', $1::text);

-- name: set_login
-- Every attribute is said, so that one given by hand is taken back. $2: whether it may replicate.
SELECT format(
    'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS %s PASSWORD %L',
    $1::text, CASE WHEN $2::boolean THEN 'REPLICATION' ELSE 'NOREPLICATION' END, $3::text
);

-- name: quicken_superuser
-- The supervisor of one machine connects several times a second, and each time works as many hashes as this says: one, where
-- Postgres stores 4,096. They make it dear to guess a password that somebody thought of; nobody guesses 192 random bits.
SELECT format('SET scram_iterations = 1; ALTER ROLE postgres PASSWORD %L', $1::text);

-- name: grant_watching
-- The owner is who `loyalty status` and an operator are, and the projector begins an incarnation: both see every
-- session, and may end one that is not the superuser's.
GRANT pg_monitor, pg_signal_backend TO loyalty;
GRANT pg_read_all_stats, pg_signal_backend TO loyalty_projector;

-- name: quiet_slot_sync
-- A standby copies the slots several times a second, as the superuser in this database, and tells of each time: two
-- lines that would be most of its log.
ALTER ROLE postgres IN DATABASE postgres SET log_min_messages = 'fatal';

-- name: database_exists
SELECT 1 FROM pg_database WHERE datname = 'loyalty';

-- name: create_database
-- Files are copied as files: page by page its empty tables would fill 6 MiB of buffers.
CREATE DATABASE loyalty OWNER loyalty STRATEGY file_copy;

-- name: own_database
ALTER DATABASE loyalty OWNER TO loyalty;

-- name: admit_logins
REVOKE CONNECT, TEMPORARY ON DATABASE loyalty FROM PUBLIC;
GRANT CONNECT ON DATABASE loyalty TO loyalty_node, loyalty_reader, loyalty_projector, loyalty_standby;

-- name: own_tables
-- What another owner holds (the superuser of an older version) becomes the owner's, extensions' objects excepted.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('ALTER %s %s OWNER TO loyalty', kind, name)
        FROM (
            SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind,
                   oid::regclass::text AS name, oid, relowner AS owner
            FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
            UNION ALL
            SELECT 'ROUTINE', oid::regprocedure::text, oid, proowner FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'PUBLICATION', quote_ident(pubname), oid, pubowner FROM pg_publication
        ) AS ours
        WHERE owner <> 'loyalty'::regrole
          AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = ours.oid AND deptype IN ('e', 'a', 'i'))
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
