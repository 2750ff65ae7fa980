-- Who may use a reusable mandate at the gateway, how fast, and who works in a zone.
SET LOCAL lock_timeout = '5s';

-- Names the application that may present a reusable mandate for a resource at the gateway. NULL means any application
-- whose mandate covers the resource; no row means none.
CREATE TABLE gateway_resource_bindings (
    zone_id             text NOT NULL REFERENCES zones ON DELETE CASCADE,
    resource_identifier text NOT NULL,
    application_id      text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone_id, resource_identifier),
    CONSTRAINT gateway_resource_bindings_application_fkey
        FOREIGN KEY (zone_id, application_id) REFERENCES applications (zone_id, id) ON DELETE CASCADE
);
CREATE INDEX gateway_resource_bindings_application_idx ON gateway_resource_bindings (zone_id, application_id)
    WHERE application_id IS NOT NULL;

-- Moves with every change to a binding of any zone.
CREATE TABLE gateway_binding_revision (
    id      boolean PRIMARY KEY DEFAULT true CHECK (id),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO gateway_binding_revision DEFAULT VALUES;

CREATE FUNCTION bump_gateway_binding_revision() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE gateway_binding_revision SET version = version + 1;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION bump_gateway_binding_revision() FROM PUBLIC;
CREATE TRIGGER gateway_resource_bindings_revision AFTER INSERT OR UPDATE OR DELETE ON gateway_resource_bindings
    FOR EACH STATEMENT EXECUTE FUNCTION bump_gateway_binding_revision();

CREATE TABLE resource_rate_limits (
    zone_id        text NOT NULL,
    resource_id    text NOT NULL,
    window_seconds integer NOT NULL CHECK (window_seconds > 0),
    max_requests   integer NOT NULL CHECK (max_requests > 0),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone_id, resource_id),
    CONSTRAINT resource_rate_limits_resource_fkey
        FOREIGN KEY (zone_id, resource_id) REFERENCES resources (zone_id, id) ON DELETE CASCADE
);

CREATE TABLE application_dependencies (
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    resource_id    text NOT NULL REFERENCES resources ON DELETE CASCADE,
    PRIMARY KEY (application_id, resource_id)
);
CREATE INDEX application_dependencies_resource_idx ON application_dependencies (resource_id);

CREATE TABLE invitations (
    id          text PRIMARY KEY,
    zone_id     text NOT NULL REFERENCES zones ON DELETE CASCADE,
    email       text NOT NULL,
    role        text NOT NULL,
    invited_by  text NOT NULL,
    accepted_at timestamptz,
    expires_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX invitations_keyset_idx ON invitations (zone_id, created_at DESC, id DESC);

CREATE TABLE teams (
    id           text PRIMARY KEY,
    zone_id      text NOT NULL REFERENCES zones ON DELETE CASCADE,
    name         text NOT NULL,
    members_json jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(members_json) = 'array'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT teams_zone_id_name_key UNIQUE (zone_id, name)
);
