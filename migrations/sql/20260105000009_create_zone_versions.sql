-- Every change to a zone's configuration moves the zone's version and announces it, whoever makes the change.
SET LOCAL lock_timeout = '5s';

-- No foreign key: the version of a deleted zone must still move, so that replicas drop what they remember of it.
CREATE TABLE zone_versions (
    zone_id    text PRIMARY KEY,
    version    bigint NOT NULL DEFAULT 1,
    -- The transaction that moved it last: a transaction moves a zone once, however many statements it takes.
    moved_by   xid8 NOT NULL DEFAULT pg_current_xact_id(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Moves the versions of `zones` and promises one message for each. The row lock it takes on zone_versions lasts until
-- commit, so versions become visible in order. Zones are locked in order of id, so two changes cannot deadlock here.
CREATE FUNCTION move_zone_versions(zones text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    WITH moved AS (
        INSERT INTO zone_versions AS v (zone_id)
        SELECT z FROM (SELECT DISTINCT unnest(zones) AS z) AS changed WHERE z IS NOT NULL ORDER BY z
        ON CONFLICT (zone_id) DO UPDATE
            SET version = v.version + 1, moved_by = pg_current_xact_id(), updated_at = now()
            WHERE v.moved_by <> pg_current_xact_id()
        RETURNING zone_id, version
    )
    INSERT INTO event_outbox (id, stream_name, payload_json)
    SELECT gen_random_uuid()::text, 'caracal.zones.invalidate',
           jsonb_build_object('zone_id', zone_id, 'version', version::text)
    FROM moved;
END
$$;
REVOKE ALL ON FUNCTION move_zone_versions(text[]) FROM PUBLIC;

-- For tables with a column zone_id.
CREATE FUNCTION zone_configuration_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM new_rows));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM old_rows));
    ELSE
        PERFORM move_zone_versions(ARRAY(SELECT zone_id FROM old_rows UNION SELECT zone_id FROM new_rows));
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION zone_configuration_changed() FROM PUBLIC;

-- For the table of zones itself.
CREATE FUNCTION zone_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM move_zone_versions(ARRAY(SELECT id FROM old_rows));
    ELSE
        PERFORM move_zone_versions(ARRAY(SELECT id FROM new_rows));
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION zone_changed() FROM PUBLIC;

-- For platform-wide settings: every zone is affected.
CREATE FUNCTION platform_configuration_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    PERFORM move_zone_versions(ARRAY(SELECT id FROM zones));
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION platform_configuration_changed() FROM PUBLIC;

-- A connection whose tokens were merely refreshed is the same connection: only its coming, going or status counts.
CREATE FUNCTION provider_connection_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM new_rows));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM old_rows));
    ELSE
        PERFORM move_zone_versions(ARRAY(
            SELECT DISTINCT n.zone_id FROM new_rows n JOIN old_rows o USING (id)
            WHERE (n.status, n.subject_id, n.provider_id) IS DISTINCT FROM (o.status, o.subject_id, o.provider_id)));
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION provider_connection_changed() FROM PUBLIC;

DO $$
DECLARE
    watched record;
BEGIN
    FOR watched IN
        SELECT * FROM (VALUES
            ('zones', 'zone_changed'),
            ('applications', 'zone_configuration_changed'),
            ('workloads', 'zone_configuration_changed'),
            ('providers', 'zone_configuration_changed'),
            ('resources', 'zone_configuration_changed'),
            ('subject_issuers', 'zone_configuration_changed'),
            ('secret_store', 'zone_configuration_changed'),
            ('secrets', 'zone_configuration_changed'),
            ('policies', 'zone_configuration_changed'),
            ('policy_sets', 'zone_configuration_changed'),
            ('policy_set_bindings', 'zone_configuration_changed'),
            ('gateway_resource_bindings', 'zone_configuration_changed'),
            ('resource_rate_limits', 'zone_configuration_changed'),
            ('provider_connections', 'provider_connection_changed')
        ) AS t (table_name, function_name)
    LOOP
        EXECUTE format(
            'CREATE TRIGGER %1$s_zone_version_insert AFTER INSERT ON %1$I
                 REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %2$I()',
            watched.table_name, watched.function_name);
        EXECUTE format(
            'CREATE TRIGGER %1$s_zone_version_update AFTER UPDATE ON %1$I
                 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %2$I()',
            watched.table_name, watched.function_name);
        EXECUTE format(
            'CREATE TRIGGER %1$s_zone_version_delete AFTER DELETE ON %1$I
                 REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION %2$I()',
            watched.table_name, watched.function_name);
    END LOOP;
END
$$;

CREATE TRIGGER sts_rate_limit_zone_version AFTER INSERT OR UPDATE OR DELETE ON sts_rate_limit
    FOR EACH STATEMENT EXECUTE FUNCTION platform_configuration_changed();
