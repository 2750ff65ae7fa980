-- Upstream credentials that run out: one more kind of provider, and connections that several replicas refresh once.
SET LOCAL lock_timeout = '5s';

ALTER TABLE providers
    DROP CONSTRAINT providers_provider_kind_check,
    ADD CONSTRAINT providers_provider_kind_check CHECK (provider_kind IN (
        'none', 'caracal_mandate', 'api_key', 'bearer_token', 'http_basic',
        'oauth2_client_credentials', 'oauth2_authorization_code', 'aws_sigv4'));

ALTER TABLE provider_connections
    -- How often an account has been connected here: moves when somebody connects anew, not when tokens are refreshed.
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    -- Who refreshes the tokens now, and until when nobody else tries.
    ADD COLUMN refresh_lease text,
    ADD COLUMN refresh_lease_until timestamptz;

-- A connection whose tokens were merely refreshed is the same connection: only its coming, going, status or being
-- connected anew counts.
CREATE OR REPLACE FUNCTION provider_connection_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM new_rows));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM move_zone_versions(ARRAY(SELECT DISTINCT zone_id FROM old_rows));
    ELSE
        PERFORM move_zone_versions(ARRAY(
            SELECT DISTINCT n.zone_id FROM new_rows n JOIN old_rows o USING (id)
            WHERE (n.status, n.subject_id, n.provider_id, n.generation)
                IS DISTINCT FROM (o.status, o.subject_id, o.provider_id, o.generation)));
    END IF;
    RETURN NULL;
END
$$;
