-- Zones and what is configured in them: applications, workloads, providers, resources, secrets, administrators.
SET LOCAL lock_timeout = '5s';

CREATE TABLE zones (
    id                      text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._:-]{1,128}$'),
    name                    text NOT NULL,
    slug                    text NOT NULL CONSTRAINT zones_slug_key UNIQUE,
    dcr_enabled             boolean NOT NULL DEFAULT false,
    org_id                  text NOT NULL DEFAULT 'default',
    pkce_required           boolean NOT NULL DEFAULT true,
    login_flow              text NOT NULL DEFAULT 'default',
    owner_account_id        text,
    operator_coauthor_badge boolean NOT NULL DEFAULT true,
    operator_governed       boolean NOT NULL DEFAULT false,
    created_by              text,
    created_via_operator    boolean NOT NULL DEFAULT false,
    updated_by              text,
    updated_via_operator    boolean NOT NULL DEFAULT false,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    archived_at             timestamptz
);
CREATE INDEX zones_active_idx ON zones (id) WHERE archived_at IS NULL;
CREATE INDEX zones_keyset_idx ON zones (created_at DESC, id DESC) WHERE archived_at IS NULL;
CREATE INDEX zones_owner_idx ON zones (owner_account_id) WHERE owner_account_id IS NOT NULL;

CREATE TABLE applications (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones,
    name                 text NOT NULL,
    registration_method  text NOT NULL CHECK (registration_method IN ('managed', 'dcr')),
    credential_type      text NOT NULL DEFAULT 'token' CHECK (credential_type = 'token'),
    client_secret_hash   text,
    traits               text[] NOT NULL DEFAULT '{}',
    expires_at           timestamptz,
    archived_at          timestamptz,
    created_by           text,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT applications_dcr_expires CHECK (registration_method <> 'dcr' OR expires_at IS NOT NULL),
    CONSTRAINT applications_zone_id_id_key UNIQUE (zone_id, id)
);
CREATE UNIQUE INDEX applications_zone_name_key ON applications (zone_id, lower(name))
    WHERE archived_at IS NULL AND registration_method = 'managed';
CREATE INDEX applications_expires_idx ON applications (zone_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX applications_dcr_sweep_idx ON applications (expires_at)
    WHERE registration_method = 'dcr' AND archived_at IS NULL;
CREATE INDEX applications_keyset_idx ON applications (zone_id, created_at DESC, id DESC) WHERE archived_at IS NULL;
CREATE INDEX applications_archived_keyset_idx ON applications (zone_id, created_at DESC, id DESC)
    WHERE archived_at IS NOT NULL;

CREATE TABLE workloads (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones ON DELETE CASCADE,
    name                 text NOT NULL,
    secret_hash          text NOT NULL,
    bindings             jsonb NOT NULL DEFAULT '[]',
    created_by           text,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX workloads_zone_name_key ON workloads (zone_id, lower(name));
CREATE INDEX workloads_keyset_idx ON workloads (zone_id, created_at DESC, id DESC);

CREATE TABLE providers (
    id                     text PRIMARY KEY,
    zone_id                text NOT NULL REFERENCES zones,
    name                   text NOT NULL,
    identifier             text NOT NULL,
    provider_kind          text NOT NULL CHECK (provider_kind IN (
                               'none', 'caracal_mandate', 'api_key', 'bearer_token', 'http_basic',
                               'oauth2_client_credentials', 'oauth2_authorization_code')),
    config_json            jsonb NOT NULL DEFAULT '{}',
    secret_config_keys     text[] NOT NULL DEFAULT '{}',
    connectivity_failed_at timestamptz,
    created_by             text,
    created_via_operator   boolean NOT NULL DEFAULT false,
    updated_by             text,
    updated_via_operator   boolean NOT NULL DEFAULT false,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    archived_at            timestamptz,
    CONSTRAINT providers_zone_id_id_key UNIQUE (zone_id, id)
);
CREATE UNIQUE INDEX providers_zone_identifier_active_uidx ON providers (zone_id, identifier) WHERE archived_at IS NULL;
CREATE INDEX providers_keyset_idx ON providers (zone_id, created_at DESC, id DESC) WHERE archived_at IS NULL;

CREATE TABLE resources (
    id                     text PRIMARY KEY,
    zone_id                text NOT NULL REFERENCES zones,
    name                   text NOT NULL,
    identifier             text NOT NULL,
    upstream_url           text,
    credential_provider_id text NOT NULL REFERENCES providers,
    scopes                 text[] NOT NULL DEFAULT '{}',
    operations             jsonb NOT NULL DEFAULT '[]',
    operation_enforcement  text NOT NULL DEFAULT 'transport_uniform'
                           CHECK (operation_enforcement IN ('enforced', 'transport_uniform')),
    created_by             text,
    created_via_operator   boolean NOT NULL DEFAULT false,
    updated_by             text,
    updated_via_operator   boolean NOT NULL DEFAULT false,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    archived_at            timestamptz,
    CONSTRAINT resources_zone_id_id_key UNIQUE (zone_id, id),
    CONSTRAINT resources_provider_fkey FOREIGN KEY (zone_id, credential_provider_id) REFERENCES providers (zone_id, id)
);
CREATE UNIQUE INDEX resources_zone_id_identifier_key ON resources (zone_id, identifier) WHERE archived_at IS NULL;
CREATE INDEX resources_keyset_idx ON resources (zone_id, created_at DESC, id DESC) WHERE archived_at IS NULL;
CREATE INDEX resources_provider_idx ON resources (credential_provider_id);

CREATE TABLE provider_connections (
    id                    text PRIMARY KEY,
    zone_id               text NOT NULL REFERENCES zones,
    subject_id            text NOT NULL,
    provider_id           text NOT NULL,
    status                text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked', 'expired')),
    access_token_ct       bytea,
    refresh_token_ct      bytea,
    expires_at            timestamptz,
    refreshed_at          timestamptz,
    refresh_token_version integer NOT NULL DEFAULT 0,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT provider_connections_provider_fkey
        FOREIGN KEY (zone_id, provider_id) REFERENCES providers (zone_id, id)
);
CREATE UNIQUE INDEX provider_connections_active_key ON provider_connections (zone_id, subject_id, provider_id)
    WHERE status = 'active';
CREATE INDEX provider_connections_provider_idx ON provider_connections (zone_id, provider_id, status);
CREATE INDEX provider_connections_subject_idx ON provider_connections (zone_id, subject_id, status);
CREATE INDEX provider_connections_keyset_idx ON provider_connections (zone_id, created_at DESC, id DESC);

-- An authorization-code flow that has been started: redeemed by deleting the row, once.
CREATE TABLE provider_oauth_states (
    state_sha256     bytea PRIMARY KEY CHECK (octet_length(state_sha256) = 32),
    zone_id          text NOT NULL REFERENCES zones ON DELETE CASCADE,
    subject_id       text NOT NULL,
    provider_id      text NOT NULL,
    code_verifier_ct bytea NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    CONSTRAINT provider_oauth_states_provider_fkey
        FOREIGN KEY (zone_id, provider_id) REFERENCES providers (zone_id, id) ON DELETE CASCADE
);
CREATE INDEX provider_oauth_states_expires_idx ON provider_oauth_states (expires_at);

CREATE TABLE delegated_grants (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones,
    application_id       text,
    user_id              text NOT NULL,
    resource_id          text NOT NULL,
    scopes               text[] NOT NULL,
    status               text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked', 'expired')),
    created_by           text,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delegated_grants_application_fkey
        FOREIGN KEY (zone_id, application_id) REFERENCES applications (zone_id, id),
    CONSTRAINT delegated_grants_resource_fkey FOREIGN KEY (zone_id, resource_id) REFERENCES resources (zone_id, id)
);
CREATE INDEX delegated_grants_user_idx ON delegated_grants (zone_id, user_id, resource_id, status);
CREATE INDEX delegated_grants_application_idx ON delegated_grants (zone_id, application_id)
    WHERE application_id IS NOT NULL;
CREATE INDEX delegated_grants_resource_idx ON delegated_grants (zone_id, resource_id);
CREATE INDEX delegated_grants_keyset_idx ON delegated_grants (zone_id, created_at DESC, id DESC);

CREATE TABLE subject_issuers (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones,
    issuer               text NOT NULL,
    jwks_url             text NOT NULL,
    audience             text NOT NULL,
    created_by           text,
    created_via_operator boolean NOT NULL DEFAULT false,
    updated_by           text,
    updated_via_operator boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    archived_at          timestamptz
);
CREATE UNIQUE INDEX subject_issuers_zone_issuer_key ON subject_issuers (zone_id, issuer) WHERE archived_at IS NULL;
CREATE INDEX subject_issuers_keyset_idx ON subject_issuers (zone_id, created_at DESC, id DESC)
    WHERE archived_at IS NULL;

-- Sealed application, workload and provider secrets, by reference.
CREATE TABLE secret_store (
    ref        text PRIMARY KEY,
    zone_id    text NOT NULL REFERENCES zones,
    envelope   bytea NOT NULL,
    version    integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX secret_store_zone_idx ON secret_store (zone_id);

-- Sealed zone signing keys; the id is the key id (kid) of every token the key signs.
CREATE TABLE secrets (
    id         text PRIMARY KEY,
    zone_id    text NOT NULL REFERENCES zones,
    entity_id  text NOT NULL,
    name       text NOT NULL,
    type       text NOT NULL CHECK (type IN ('token', 'password')),
    envelope   bytea NOT NULL,
    version    integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX secrets_newest_idx ON secrets (zone_id, entity_id, name, created_at DESC, id DESC);

CREATE TABLE admin_tokens (
    id           text PRIMARY KEY,
    name         text NOT NULL,
    token_sha256 bytea NOT NULL,
    token_hash   text,
    scope        text NOT NULL CHECK (scope IN ('global', 'zone')),
    capability   text NOT NULL DEFAULT 'write' CHECK (capability IN ('read', 'write', 'approve')),
    zone_id      text REFERENCES zones ON DELETE CASCADE,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT admin_tokens_scope_zone CHECK ((scope = 'global') = (zone_id IS NULL))
);
CREATE UNIQUE INDEX admin_tokens_token_sha256_key ON admin_tokens (token_sha256) WHERE revoked_at IS NULL;
CREATE INDEX admin_tokens_zone_idx ON admin_tokens (zone_id) WHERE revoked_at IS NULL AND zone_id IS NOT NULL;
CREATE INDEX admin_tokens_keyset_idx ON admin_tokens (created_at DESC, id DESC);

-- The platform-wide mint limit; no row means the default.
CREATE TABLE sts_rate_limit (
    singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    limit_per_minute integer NOT NULL CHECK (limit_per_minute >= 1),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    updated_by       text
);
