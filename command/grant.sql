-- What each login may do with the tables, whichever of the logins exist: a server of somebody else's may have one for
-- all. Run after every migration, by the owner of the tables.

-- name: grant_logins
-- Command nodes write everything but the rules, of which they note that they have begun; the journal they only add to.
-- Query nodes and the projector read what they show, by name: what a new table holds is for nobody's eyes until it is
-- named here.
DO $$
DECLARE
    login text;
BEGIN
    FOR login IN SELECT rolname FROM pg_roles
        WHERE rolname IN ('loyalty_node', 'loyalty_reader', 'loyalty_projector') AND rolname <> current_user
    LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', login);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', login);
        EXECUTE CASE login
            WHEN 'loyalty_node' THEN
                'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO loyalty_node;'
                'REVOKE INSERT, UPDATE, DELETE ON claim_slot FROM loyalty_node;'
                'REVOKE UPDATE, DELETE ON journal FROM loyalty_node;'
                'REVOKE INSERT, UPDATE, DELETE ON given_slot, incarnation, program, receipt_fence, schema_migration'
                ' FROM loyalty_node;'
                'GRANT UPDATE (begun_at) ON program TO loyalty_node'
            WHEN 'loyalty_reader' THEN
                'GRANT SELECT ON account, identifier, idempotency, incarnation, journal, member, program, purchase,'
                ' receipt_fence TO loyalty_reader;'
                'GRANT SELECT (kind) ON errand TO loyalty_reader;'
                'GRANT SELECT (member_id) ON former_identifier TO loyalty_reader;'
                'GRANT SELECT (redeemed) ON reward_stock TO loyalty_reader;'
                'GRANT SELECT (receiver) ON stock_move TO loyalty_reader'
            ELSE  -- the projector, who also begins an incarnation (shard_router/incarnation.sql): MAINTAIN lets it lock
                'GRANT SELECT ON identifier, incarnation, journal, member, program, purchase TO loyalty_projector;'
                'GRANT INSERT ON incarnation TO loyalty_projector;'
                'GRANT MAINTAIN ON account TO loyalty_projector;'
                'GRANT SELECT, UPDATE (allotted) ON reward_stock TO loyalty_projector'
        END;
    END LOOP;
END
$$
