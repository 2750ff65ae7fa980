-- What is alive: authority records, sessions, delegations, services, invocations, holds, and what has been revoked.
SET LOCAL lock_timeout = '5s';

CREATE TABLE authority_records (
    id               text PRIMARY KEY,
    zone_id          text NOT NULL REFERENCES zones,
    session_type     text NOT NULL CHECK (session_type IN ('user', 'application')),
    subject_id       text,
    parent_id        text REFERENCES authority_records,
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked', 'expired')),
    expires_at       timestamptz NOT NULL,
    authenticated_at timestamptz NOT NULL,
    claims_json      jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    revoked_at       timestamptz,
    revoked_reason   text,
    CONSTRAINT authority_records_zone_id_id_key UNIQUE (zone_id, id)
);
CREATE INDEX authority_records_expires_idx ON authority_records (expires_at) WHERE status = 'active';
CREATE INDEX authority_records_zone_expires_idx ON authority_records (zone_id, expires_at) WHERE status = 'active';
CREATE INDEX authority_records_retention_idx ON authority_records (expires_at, id) WHERE status <> 'active';
CREATE INDEX authority_records_keyset_idx ON authority_records (zone_id, created_at DESC, id DESC);
CREATE INDEX authority_records_subject_idx ON authority_records (zone_id, subject_id, status);
CREATE INDEX authority_records_parent_idx ON authority_records (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE sessions (
    id                          text PRIMARY KEY,
    zone_id                     text NOT NULL,
    application_id              text NOT NULL,
    parent_id                   text,
    subject_authority_record_id text NOT NULL,
    status                      text NOT NULL DEFAULT 'active'
                                CHECK (status IN ('active', 'suspended', 'terminated', 'expired')),
    depth                       integer NOT NULL DEFAULT 0,
    labels                      text[] NOT NULL DEFAULT '{}',
    max_children                integer NOT NULL DEFAULT 10,
    child_count                 integer NOT NULL DEFAULT 0,
    -- A session whose authority came through a delegation stays constrained when that delegation lapses.
    constrained                 boolean NOT NULL DEFAULT false,
    started_at                  timestamptz NOT NULL DEFAULT now(),
    last_active_at              timestamptz NOT NULL DEFAULT now(),
    terminated_at               timestamptz,
    ttl_seconds                 integer DEFAULT 3600,
    expires_at                  timestamptz,
    metadata_json               jsonb,
    updated_at                  timestamptz NOT NULL DEFAULT now(),
    lifecycle                   text NOT NULL DEFAULT 'task' CHECK (lifecycle IN ('task', 'service')),
    last_heartbeat_at           timestamptz,
    heartbeat_deadline_at       timestamptz,
    termination_reason          text,
    lease_generation            bigint NOT NULL DEFAULT 0 CHECK (lease_generation >= 0),
    CONSTRAINT sessions_lifecycle_columns CHECK (
        CASE lifecycle
            WHEN 'task' THEN ttl_seconds IS NOT NULL AND ttl_seconds > 0
                AND last_heartbeat_at IS NULL AND heartbeat_deadline_at IS NULL
            ELSE ttl_seconds IS NULL AND last_heartbeat_at IS NOT NULL AND heartbeat_deadline_at IS NOT NULL
        END),
    CONSTRAINT sessions_terminal_has_time CHECK ((status IN ('terminated', 'expired')) = (terminated_at IS NOT NULL)),
    CONSTRAINT sessions_zone_id_id_key UNIQUE (zone_id, id),
    CONSTRAINT sessions_application_fkey FOREIGN KEY (zone_id, application_id) REFERENCES applications (zone_id, id),
    CONSTRAINT sessions_parent_fkey FOREIGN KEY (zone_id, parent_id) REFERENCES sessions (zone_id, id),
    CONSTRAINT sessions_authority_record_fkey
        FOREIGN KEY (zone_id, subject_authority_record_id) REFERENCES authority_records (zone_id, id)
);
CREATE INDEX sessions_last_active_idx ON sessions (last_active_at) WHERE status = 'active';
CREATE INDEX sessions_terminal_idx ON sessions (terminated_at, id) WHERE status IN ('terminated', 'expired');
CREATE INDEX sessions_heartbeat_idx ON sessions (heartbeat_deadline_at)
    WHERE status = 'active' AND lifecycle = 'service';
CREATE INDEX sessions_ttl_idx ON sessions (expires_at, id)
    WHERE status IN ('active', 'suspended') AND expires_at IS NOT NULL;
CREATE INDEX sessions_authority_record_idx ON sessions (zone_id, subject_authority_record_id);
CREATE INDEX sessions_parent_idx ON sessions (zone_id, parent_id, status) WHERE parent_id IS NOT NULL;
CREATE INDEX sessions_live_by_application_idx ON sessions (zone_id, application_id)
    WHERE status IN ('active', 'suspended');
CREATE INDEX sessions_keyset_idx ON sessions (zone_id, started_at DESC, id DESC);

-- Kept by the database so that no writer can forget it; the sweep of overdue sessions reads it through an index.
CREATE FUNCTION set_session_expiry() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.expires_at := NEW.started_at + make_interval(secs => NEW.ttl_seconds);
    RETURN NEW;
END
$$;
CREATE TRIGGER sessions_expiry BEFORE INSERT OR UPDATE OF started_at, ttl_seconds, expires_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION set_session_expiry();

CREATE TABLE agent_topology (
    parent_id text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    child_id  text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    PRIMARY KEY (parent_id, child_id)
);
CREATE INDEX agent_topology_child_idx ON agent_topology (child_id);

CREATE TABLE delegation_edges (
    id                      text PRIMARY KEY,
    zone_id                 text NOT NULL,
    source_session_id       text NOT NULL,
    target_session_id       text NOT NULL,
    issuer_application_id   text NOT NULL,
    receiver_application_id text NOT NULL,
    parent_edge_id          text,
    resource_id             text,
    scopes                  text[] NOT NULL DEFAULT '{}',
    constraints_json        jsonb NOT NULL DEFAULT '{}',
    status                  text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked', 'expired')),
    expires_at              timestamptz NOT NULL,
    edge_version            integer NOT NULL DEFAULT 0,
    revoked_at              timestamptz,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delegation_edges_no_self CHECK (source_session_id <> target_session_id),
    CONSTRAINT delegation_edges_revoked_has_time CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT delegation_edges_zone_id_id_key UNIQUE (zone_id, id),
    CONSTRAINT delegation_edges_source_fkey
        FOREIGN KEY (zone_id, source_session_id) REFERENCES sessions (zone_id, id) ON DELETE CASCADE,
    CONSTRAINT delegation_edges_target_fkey
        FOREIGN KEY (zone_id, target_session_id) REFERENCES sessions (zone_id, id) ON DELETE CASCADE,
    CONSTRAINT delegation_edges_issuer_fkey
        FOREIGN KEY (zone_id, issuer_application_id) REFERENCES applications (zone_id, id),
    CONSTRAINT delegation_edges_receiver_fkey
        FOREIGN KEY (zone_id, receiver_application_id) REFERENCES applications (zone_id, id),
    CONSTRAINT delegation_edges_parent_fkey FOREIGN KEY (zone_id, parent_edge_id)
        REFERENCES delegation_edges (zone_id, id) ON DELETE SET NULL (parent_edge_id),
    CONSTRAINT delegation_edges_resource_fkey FOREIGN KEY (zone_id, resource_id) REFERENCES resources (zone_id, id)
);
CREATE INDEX delegation_edges_expires_idx ON delegation_edges (expires_at) WHERE status = 'active';
CREATE INDEX delegation_edges_retention_idx ON delegation_edges (updated_at, id) WHERE status <> 'active';
CREATE INDEX delegation_edges_parent_idx ON delegation_edges (zone_id, parent_edge_id) WHERE parent_edge_id IS NOT NULL;
CREATE INDEX delegation_edges_resource_idx ON delegation_edges (zone_id, resource_id, status)
    WHERE resource_id IS NOT NULL;
CREATE INDEX delegation_edges_source_idx ON delegation_edges (zone_id, source_session_id, status);
CREATE INDEX delegation_edges_target_idx ON delegation_edges (zone_id, target_session_id, status);
CREATE INDEX delegation_edges_keyset_idx ON delegation_edges (zone_id, created_at DESC, id DESC);

CREATE TABLE delegation_graph_epochs (
    zone_id    text PRIMARY KEY REFERENCES zones ON DELETE CASCADE,
    epoch      bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agent_services (
    id                text PRIMARY KEY,
    zone_id           text NOT NULL REFERENCES zones ON DELETE CASCADE,
    application_id    text NOT NULL,
    endpoint_url      text NOT NULL,
    protocol_versions text[] NOT NULL DEFAULT '{}',
    framework_name    text,
    framework_version text,
    capabilities      text[] NOT NULL DEFAULT '{}',
    health            text NOT NULL DEFAULT 'starting' CHECK (health IN ('starting', 'healthy', 'degraded', 'unhealthy')),
    metadata_json     jsonb NOT NULL DEFAULT '{}',
    last_heartbeat_at timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_services_endpoint_key UNIQUE (zone_id, application_id, endpoint_url),
    CONSTRAINT agent_services_zone_id_id_key UNIQUE (zone_id, id),
    CONSTRAINT agent_services_application_fkey
        FOREIGN KEY (zone_id, application_id) REFERENCES applications (zone_id, id) ON DELETE CASCADE
);
CREATE INDEX agent_services_heartbeat_idx ON agent_services (last_heartbeat_at) WHERE health IN ('healthy', 'degraded');
CREATE INDEX agent_services_health_idx ON agent_services (zone_id, health);
CREATE INDEX agent_services_keyset_idx ON agent_services (zone_id, created_at DESC, id DESC);

CREATE TABLE agent_invocations (
    id                  text PRIMARY KEY,
    zone_id             text NOT NULL REFERENCES zones ON DELETE CASCADE,
    service_id          text NOT NULL,
    source_session_id   text,
    target_session_id   text,
    method              text NOT NULL,
    params_json         jsonb NOT NULL DEFAULT '{}',
    metadata_json       jsonb NOT NULL DEFAULT '{}',
    status              text NOT NULL DEFAULT 'pending' CHECK (status IN (
                            'pending', 'running', 'succeeded', 'failed', 'cancel_requested', 'canceled', 'timed_out', 'dead')),
    attempts            integer NOT NULL DEFAULT 0,
    max_attempts        integer NOT NULL DEFAULT 3 CHECK (max_attempts > 0),
    timeout_ms          integer NOT NULL DEFAULT 30000 CHECK (timeout_ms > 0),
    retry_policy_json   jsonb NOT NULL DEFAULT '{}',
    error_json          jsonb,
    deadline_at         timestamptz,
    cancel_requested_at timestamptz,
    started_at          timestamptz,
    completed_at        timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_invocations_zone_id_id_key UNIQUE (zone_id, id),
    CONSTRAINT agent_invocations_service_fkey
        FOREIGN KEY (zone_id, service_id) REFERENCES agent_services (zone_id, id) ON DELETE CASCADE,
    CONSTRAINT agent_invocations_source_fkey FOREIGN KEY (zone_id, source_session_id)
        REFERENCES sessions (zone_id, id) ON DELETE SET NULL (source_session_id),
    CONSTRAINT agent_invocations_target_fkey FOREIGN KEY (zone_id, target_session_id)
        REFERENCES sessions (zone_id, id) ON DELETE SET NULL (target_session_id)
);
CREATE INDEX agent_invocations_deadline_idx ON agent_invocations (deadline_at)
    WHERE status IN ('running', 'cancel_requested');
CREATE INDEX agent_invocations_service_idx ON agent_invocations (zone_id, service_id, status, created_at DESC);
CREATE INDEX agent_invocations_source_idx ON agent_invocations (zone_id, source_session_id, status)
    WHERE source_session_id IS NOT NULL;
CREATE INDEX agent_invocations_target_idx ON agent_invocations (zone_id, target_session_id, status)
    WHERE target_session_id IS NOT NULL;
CREATE INDEX agent_invocations_retention_idx ON agent_invocations (completed_at, id) WHERE completed_at IS NOT NULL;
CREATE INDEX agent_invocations_keyset_idx ON agent_invocations (zone_id, created_at DESC, id DESC);

CREATE TABLE coordinator_idempotency_receipts (
    id              text PRIMARY KEY,
    operation       text NOT NULL CHECK (operation IN ('session.start.v2', 'delegation.create.v2', 'invocation.create.v2')),
    zone_id         text NOT NULL REFERENCES zones ON DELETE CASCADE,
    scope_id        text NOT NULL,
    key_digest      bytea NOT NULL CHECK (octet_length(key_digest) = 32),
    request_digest  bytea NOT NULL CHECK (octet_length(request_digest) = 32),
    resource_type   text NOT NULL,
    resource_id     text NOT NULL,
    response_status smallint NOT NULL CHECK (response_status BETWEEN 200 AND 299),
    response_json   jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    CONSTRAINT coordinator_idempotency_receipts_life CHECK (expires_at > created_at),
    CONSTRAINT coordinator_idempotency_receipts_key UNIQUE (operation, zone_id, scope_id, key_digest)
);
CREATE INDEX coordinator_idempotency_receipts_expires_idx ON coordinator_idempotency_receipts (expires_at, id);

CREATE TABLE step_up_challenges (
    id                           text PRIMARY KEY,
    zone_id                      text NOT NULL REFERENCES zones ON DELETE CASCADE,
    session_id                   text,
    principal_id                 text,
    application_id               text REFERENCES applications ON DELETE CASCADE,
    challenge_type               text NOT NULL DEFAULT 'human_approval'
                                 CHECK (challenge_type IN ('human_approval', 'mfa', 'software_attestation')),
    challenge_secret_hash        bytea,
    resource_set_hash            bytea,
    tier                         text,
    approver_class               text NOT NULL DEFAULT 'operator' CHECK (approver_class IN ('operator', 'subject', 'any')),
    privacy_mode                 text NOT NULL DEFAULT 'identified'
                                 CHECK (privacy_mode IN ('identified', 'pseudonymous', 'anonymous')),
    subject_anchor               text,
    metadata_json                jsonb NOT NULL DEFAULT '{}',
    created_at                   timestamptz NOT NULL DEFAULT now(),
    expires_at                   timestamptz NOT NULL,
    satisfied_at                 timestamptz,
    rejected_at                  timestamptz,
    consumed_at                  timestamptz,
    consumed_authority_record_id text,
    approver_subject_id          text,
    approver_session_id          text,
    decision_reason              text
);
CREATE UNIQUE INDEX step_up_challenges_open_key
    ON step_up_challenges (zone_id, principal_id, session_id, resource_set_hash) NULLS NOT DISTINCT
    WHERE consumed_at IS NULL;
CREATE INDEX step_up_challenges_application_idx ON step_up_challenges (application_id) WHERE application_id IS NOT NULL;
CREATE INDEX step_up_challenges_expires_idx ON step_up_challenges (expires_at) WHERE consumed_at IS NULL;
CREATE INDEX step_up_challenges_session_idx ON step_up_challenges (zone_id, session_id);
CREATE INDEX step_up_challenges_keyset_idx ON step_up_challenges (zone_id, created_at DESC, id DESC);
CREATE INDEX step_up_challenges_settled_idx ON step_up_challenges (
    (greatest(coalesce(consumed_at, '-infinity'), coalesce(rejected_at, '-infinity'), expires_at)));

-- Everything that is revoked and that somebody may still hold a token for. Replicas load it at start and are then fed
-- by the stream; it grows with revocations, not with tokens.
CREATE TABLE revocation_log (
    seq        bigserial PRIMARY KEY,
    zone_id    text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('authority_record', 'session', 'delegation')),
    anchor_id  text NOT NULL,
    reason     text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT revocation_log_anchor_key UNIQUE (zone_id, kind, anchor_id)
);
CREATE INDEX revocation_log_live_idx ON revocation_log (expires_at, seq);
