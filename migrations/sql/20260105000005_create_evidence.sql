-- The audit ledger (one hash chain per zone, partitioned by month) and the record of administrative changes.
SET LOCAL lock_timeout = '5s';

CREATE TABLE audit_events (
    id                        text NOT NULL,
    zone_id                   text NOT NULL,
    event_type                text NOT NULL,
    request_id                text,
    decision                  text,
    policy_set_id             text,
    policy_set_version_id     text,
    manifest_sha              text,
    evaluation_status         text,
    determining_policies_json jsonb,
    diagnostics_json          jsonb,
    metadata_json             jsonb,
    occurred_at               timestamptz NOT NULL,
    ingested_at               timestamptz NOT NULL DEFAULT now(),
    content_sha256            text,
    prev_content_sha256       text,
    chain_hmac                text,
    chain_seq                 bigint,
    ingest_signature          text,
    -- The bytes the producer signed: its signature stays checkable although jsonb rewrites documents.
    signed_data               text,
    key_id                    text,
    -- Columns, not expressions over metadata_json: under row-level security an expression index is never used for a
    -- condition whose functions are not leakproof.
    agent_session_id          text GENERATED ALWAYS AS (metadata_json ->> 'agent_session_id') STORED,
    authority_record_id       text GENERATED ALWAYS AS (metadata_json ->> 'session_id') STORED,
    application_id            text GENERATED ALWAYS AS (metadata_json ->> 'application_id') STORED,
    PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX audit_events_chain_idx ON audit_events (zone_id, chain_seq DESC);
CREATE INDEX audit_events_keyset_idx ON audit_events (zone_id, occurred_at DESC, id DESC);
CREATE INDEX audit_events_request_idx ON audit_events (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX audit_events_agent_session_idx ON audit_events (zone_id, agent_session_id, occurred_at DESC)
    WHERE agent_session_id IS NOT NULL;
CREATE INDEX audit_events_authority_record_idx ON audit_events (zone_id, authority_record_id, occurred_at DESC)
    WHERE authority_record_id IS NOT NULL;
CREATE INDEX audit_events_application_idx ON audit_events (zone_id, application_id, occurred_at DESC)
    WHERE application_id IS NOT NULL;
CREATE INDEX audit_events_labels_idx ON audit_events USING gin ((metadata_json -> 'agent_labels'));
CREATE INDEX audit_events_ingested_idx ON audit_events USING brin (ingested_at);

CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;

-- Makes the partition of the month that `month` lies in. Rows of that month that fell into the default partition move
-- with it. Runs as its owner: the audit service's own role can neither create tables nor delete rows.
CREATE FUNCTION audit_partition_ensure(month date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
DECLARE
    first_day  date := date_trunc('month', month::timestamp)::date;
    next_month date := (date_trunc('month', month::timestamp) + interval '1 month')::date;
    part       text := format('audit_events_y%sm%s', to_char(first_day, 'YYYY'), to_char(first_day, 'MM'));
    lower_end  timestamptz := first_day::timestamp AT TIME ZONE 'UTC';
    upper_end  timestamptz := next_month::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('audit_partition_ensure'));
    IF to_regclass(part) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE audit_events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)', part);
    EXECUTE format(
        'WITH moved AS (DELETE FROM audit_events_default WHERE occurred_at >= %L AND occurred_at < %L RETURNING
             id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha,
             evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, ingested_at,
             content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data, key_id)
         INSERT INTO %I (id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha,
             evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, ingested_at,
             content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data, key_id)
         SELECT * FROM moved', lower_end, upper_end, part);
    EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part, lower_end, upper_end);
    RETURN true;
END
$$;

-- Drops one month. Refuses anything that is not a month of audit_events.
CREATE FUNCTION audit_partition_drop(part_name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF part_name !~ '^audit_events_y[0-9]{4}m(0[1-9]|1[0-2])$' OR NOT EXISTS (
        SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'public.audit_events'::regclass AND c.relname = part_name
    ) THEN
        RAISE EXCEPTION '% is not a month of audit_events', part_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('DROP TABLE %I', part_name);
END
$$;

REVOKE ALL ON FUNCTION audit_partition_ensure(date), audit_partition_drop(text) FROM PUBLIC;

-- Months are months in UTC, whatever time zone the migrating session has.
SELECT audit_partition_ensure(((now() AT TIME ZONE 'UTC')::date + make_interval(months => ahead))::date)
FROM generate_series(0, 3) AS ahead;

-- The end of each zone's chain: the next event links to it, so appending never searches for it.
CREATE TABLE audit_chain_heads (
    zone_id        text PRIMARY KEY,
    seq            bigint NOT NULL CHECK (seq >= 0),
    content_sha256 text,
    -- Roots of the complete subtrees at the right edge of the Merkle tree, largest first.
    frontier       bytea[] NOT NULL DEFAULT '{}',
    updated_at     timestamptz NOT NULL DEFAULT now()
);

-- Roots of complete subtrees, so that a proof never has to read every event below it.
CREATE TABLE audit_tree_nodes (
    zone_id  text NOT NULL,
    level    smallint NOT NULL CHECK (level BETWEEN 0 AND 62),
    position bigint NOT NULL CHECK (position >= 0),
    sha256   bytea NOT NULL CHECK (octet_length(sha256) = 32),
    PRIMARY KEY (zone_id, level, position)
);

-- Signed tree heads: what was promised about a zone's ledger, and when. Outlive the events below them.
CREATE TABLE audit_signed_heads (
    zone_id        text NOT NULL,
    tree_size      bigint NOT NULL CHECK (tree_size >= 0),
    cause          text NOT NULL CHECK (cause IN ('periodic', 'retention', 'export')),
    root_sha256    bytea NOT NULL CHECK (octet_length(root_sha256) = 32),
    content_sha256 text,
    key_id         text NOT NULL,
    signature      text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone_id, tree_size, cause)
);

-- Keys that sign tree heads; the private half is sealed. Public halves are kept for as long as a head names them.
CREATE TABLE audit_head_keys (
    key_id      text PRIMARY KEY,
    zone_id     text NOT NULL,
    public_jwk  jsonb NOT NULL,
    envelope    bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_head_keys_newest_idx ON audit_head_keys (zone_id, created_at DESC);

-- How far each zone's chain has been verified, so that verification resumes instead of starting over.
CREATE TABLE audit_verifications (
    zone_id        text PRIMARY KEY,
    seq            bigint NOT NULL,
    content_sha256 text,
    verified_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_ingest_alerts (
    id          bigserial PRIMARY KEY,
    event_id    text NOT NULL,
    zone_id     text NOT NULL,
    kind        text NOT NULL,
    detail      text,
    observed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_ingest_alerts_zone_idx ON audit_ingest_alerts (zone_id, observed_at DESC);

CREATE TABLE audit_export_watermark (
    name               text PRIMARY KEY,
    last_exported_hour timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_retention (
    singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    retention_days integer NOT NULL CHECK (retention_days >= 1),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    updated_by     text
);

CREATE TABLE audit_chain_rehash (
    id           smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    completed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE admin_audit_events (
    id                  text PRIMARY KEY,
    request_id          text NOT NULL,
    actor_id            text,
    actor_name          text,
    actor_scope         text,
    action              text NOT NULL,
    method              text NOT NULL,
    path                text NOT NULL,
    zone_id             text,
    entity_type         text,
    entity_id           text,
    status_code         integer NOT NULL,
    payload_json        jsonb,
    -- The text that was hashed; jsonb would lose the order of its members and the hash with it.
    payload_text        text,
    occurred_at         timestamptz NOT NULL DEFAULT now(),
    content_sha256      text NOT NULL,
    prev_content_sha256 text,
    chain_hmac          text,
    chain_seq           bigint NOT NULL
);
CREATE UNIQUE INDEX admin_audit_events_chain_key ON admin_audit_events (coalesce(zone_id, ''), chain_seq);
CREATE INDEX admin_audit_events_actor_idx ON admin_audit_events (actor_id, occurred_at DESC);
CREATE INDEX admin_audit_events_request_idx ON admin_audit_events (request_id);
CREATE INDEX admin_audit_events_keyset_idx ON admin_audit_events (zone_id, occurred_at DESC, id DESC);

-- The end of each chain of administrative records; the empty zone id is the platform's own chain.
CREATE TABLE admin_audit_chain_heads (
    zone_id         text PRIMARY KEY,
    seq             bigint NOT NULL CHECK (seq >= 1),
    content_sha256  text NOT NULL,
    previous_sha256 text,
    updated_at      timestamptz NOT NULL DEFAULT now()
);
