-- Policies, their immutable versions, and which version of which set decides in a zone.
SET LOCAL lock_timeout = '5s';

CREATE TABLE policies (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones,
    name                 text NOT NULL,
    description          text,
    archived_at          timestamptz,
    created_by           text NOT NULL,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX policies_zone_id_name_key ON policies (zone_id, name) WHERE archived_at IS NULL;
CREATE INDEX policies_keyset_idx ON policies (zone_id, created_at DESC, id DESC) WHERE archived_at IS NULL;

CREATE TABLE policy_versions (
    id                   text PRIMARY KEY,
    policy_id            text NOT NULL REFERENCES policies,
    version              integer NOT NULL,
    content              text NOT NULL,
    content_sha256       text NOT NULL,
    schema_version       text NOT NULL,
    created_by           text NOT NULL,
    created_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    archived_at          timestamptz,
    CONSTRAINT policy_versions_policy_id_version_key UNIQUE (policy_id, version)
);
CREATE INDEX policy_versions_created_idx ON policy_versions (policy_id, created_at DESC);

CREATE TABLE policy_sets (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones,
    name                 text NOT NULL,
    description          text,
    archived_at          timestamptz,
    created_by           text NOT NULL,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX policy_sets_zone_id_name_key ON policy_sets (zone_id, name) WHERE archived_at IS NULL;
CREATE INDEX policy_sets_keyset_idx ON policy_sets (zone_id, created_at DESC, id DESC) WHERE archived_at IS NULL;

CREATE TABLE policy_set_versions (
    id                   text PRIMARY KEY,
    policy_set_id        text NOT NULL REFERENCES policy_sets,
    version              integer NOT NULL,
    manifest_json        jsonb NOT NULL,
    manifest_sha256      text NOT NULL,
    schema_version       text NOT NULL,
    created_by           text NOT NULL,
    created_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    archived_at          timestamptz,
    CONSTRAINT policy_set_versions_policy_set_id_version_key UNIQUE (policy_set_id, version)
);

CREATE TABLE policy_set_bindings (
    zone_id           text NOT NULL REFERENCES zones,
    policy_set_id     text NOT NULL REFERENCES policy_sets,
    active_version_id text REFERENCES policy_set_versions,
    shadow_version_id text REFERENCES policy_set_versions,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone_id, policy_set_id)
);
CREATE UNIQUE INDEX policy_set_bindings_one_active_key ON policy_set_bindings (zone_id)
    WHERE active_version_id IS NOT NULL;

-- A decision names the version it was made under; that version must never read differently later.
CREATE FUNCTION reject_policy_version_mutation() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a row of % is never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER policy_versions_immutable BEFORE UPDATE OR DELETE ON policy_versions
    FOR EACH ROW EXECUTE FUNCTION reject_policy_version_mutation();
CREATE TRIGGER policy_versions_not_truncated BEFORE TRUNCATE ON policy_versions
    FOR EACH STATEMENT EXECUTE FUNCTION reject_policy_version_mutation();
CREATE TRIGGER policy_set_versions_immutable BEFORE UPDATE OR DELETE ON policy_set_versions
    FOR EACH ROW EXECUTE FUNCTION reject_policy_version_mutation();
CREATE TRIGGER policy_set_versions_not_truncated BEFORE TRUNCATE ON policy_set_versions
    FOR EACH STATEMENT EXECUTE FUNCTION reject_policy_version_mutation();
