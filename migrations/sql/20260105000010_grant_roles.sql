-- What each service may touch (crates/storage/README.md has the same table for people), and row-level security.
SET LOCAL lock_timeout = '5s';

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO caracalapi, caracalsts, caracalgateway, caracalaudit, caracalcoordinator;

-- Every service compares the schema's version with its own before it starts.
DO $$
BEGIN
    IF to_regclass('_sqlx_migrations') IS NOT NULL THEN
        GRANT SELECT ON _sqlx_migrations
            TO caracalapi, caracalsts, caracalgateway, caracalaudit, caracalcoordinator;
    END IF;
END
$$;

-- Configuration: written by control, read by the STS.
GRANT SELECT, INSERT, UPDATE, DELETE ON
    zones, applications, workloads, providers, resources, provider_connections, provider_oauth_states,
    delegated_grants, subject_issuers, secret_store, secrets, admin_tokens, sts_rate_limit,
    policies, policy_sets, policy_set_bindings,
    gateway_resource_bindings, resource_rate_limits, application_dependencies, invitations, teams
    TO caracalapi;
-- UPDATE on versions only serves row locks: a trigger refuses every change.
GRANT SELECT, INSERT, UPDATE ON policy_versions TO caracalapi;
GRANT SELECT, INSERT ON policy_set_versions TO caracalapi;
GRANT SELECT ON gateway_binding_revision, zone_versions TO caracalapi;

GRANT SELECT ON
    zones, applications, workloads, providers, resources, subject_issuers, secret_store, sts_rate_limit,
    policies, policy_versions, policy_sets, policy_set_versions, policy_set_bindings,
    gateway_resource_bindings, gateway_binding_revision, resource_rate_limits, application_dependencies,
    agent_services, agent_invocations, zone_versions
    TO caracalsts;
GRANT SELECT, INSERT, UPDATE ON provider_connections, delegated_grants, secrets TO caracalsts;

-- UPDATE on one column of applications serves FOR SHARE, which asks for it.
GRANT SELECT ON zones, applications, resources, resource_rate_limits, zone_versions TO caracalcoordinator;
GRANT UPDATE (updated_at) ON applications TO caracalcoordinator;

-- The gateway process never connects to the database. Its role can read the routes, for tools that run in its name.
GRANT SELECT ON zones, resources, providers, gateway_resource_bindings, gateway_binding_revision TO caracalgateway;

-- Runtime authority.
GRANT SELECT, INSERT, UPDATE ON authority_records TO caracalsts;
GRANT SELECT, UPDATE, DELETE ON authority_records TO caracalapi;
GRANT SELECT ON authority_records TO caracalcoordinator;
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, agent_topology, delegation_edges TO caracalcoordinator;
GRANT SELECT, INSERT, UPDATE ON delegation_graph_epochs TO caracalcoordinator;
GRANT SELECT, INSERT, UPDATE, DELETE ON agent_services, agent_invocations, coordinator_idempotency_receipts
    TO caracalcoordinator;
GRANT SELECT, UPDATE ON sessions, delegation_edges TO caracalapi;
GRANT SELECT, INSERT, UPDATE ON delegation_graph_epochs TO caracalapi;
GRANT SELECT ON agent_services, agent_invocations TO caracalapi;
GRANT SELECT ON sessions, delegation_edges, delegation_graph_epochs TO caracalsts;
GRANT SELECT, INSERT, UPDATE, DELETE ON step_up_challenges TO caracalsts;
GRANT SELECT, UPDATE ON step_up_challenges TO caracalapi;
GRANT SELECT, INSERT ON revocation_log TO caracalsts;
GRANT SELECT, INSERT, DELETE ON revocation_log TO caracalapi, caracalcoordinator;
GRANT USAGE ON SEQUENCE revocation_log_seq_seq TO caracalapi, caracalcoordinator, caracalsts;

-- Evidence. Nobody but the owner can change or delete an event.
GRANT SELECT, INSERT ON audit_events, audit_ingest_alerts, audit_tree_nodes, audit_signed_heads, audit_head_keys
    TO caracalaudit;
GRANT USAGE ON SEQUENCE audit_ingest_alerts_id_seq TO caracalaudit;
GRANT SELECT, INSERT, UPDATE ON audit_chain_heads, audit_export_watermark, audit_verifications TO caracalaudit;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_chain_rehash TO caracalaudit;
GRANT SELECT ON audit_retention TO caracalaudit;
GRANT EXECUTE ON FUNCTION audit_partition_ensure(date), audit_partition_drop(text) TO caracalaudit;
GRANT SELECT ON audit_events, audit_chain_heads, audit_signed_heads TO caracalapi;
GRANT SELECT (key_id, zone_id, public_jwk, created_at) ON audit_head_keys TO caracalapi;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_retention TO caracalapi;
GRANT SELECT, INSERT ON admin_audit_events TO caracalapi, caracalcoordinator;
GRANT SELECT, INSERT, UPDATE ON admin_audit_chain_heads TO caracalapi, caracalcoordinator;

-- Messaging. Whoever relays claims and marks rows of both outboxes. No role can set when a row was made.
GRANT SELECT ON event_outbox, caracal_outbox TO caracalapi, caracalcoordinator, caracalsts;
GRANT INSERT (id, stream_name, payload_json, request_id, available_at)
    ON event_outbox TO caracalapi, caracalcoordinator, caracalsts;
GRANT UPDATE (attempts, dead, available_at, last_error, dispatched_at)
    ON event_outbox TO caracalapi, caracalcoordinator, caracalsts;
GRANT INSERT (id, producer, topic, dedupe_key, payload_json, available_at)
    ON caracal_outbox TO caracalapi, caracalcoordinator, caracalsts;
GRANT UPDATE (status, attempts, available_at, last_error, published_at, updated_at)
    ON caracal_outbox TO caracalapi, caracalcoordinator, caracalsts;
GRANT DELETE ON event_outbox, caracal_outbox TO caracalapi, caracalcoordinator;
GRANT USAGE ON SEQUENCE outbox_position TO caracalapi, caracalcoordinator, caracalsts;
GRANT SELECT, INSERT, UPDATE, DELETE ON notification_sinks, notification_deliveries TO caracalapi;

-- Operator assistant.
GRANT SELECT, INSERT, UPDATE, DELETE ON
    operator_ai_providers, operator_conversation_counters, operator_plan_secrets, operator_conversations TO caracalapi;
GRANT SELECT, INSERT, UPDATE ON operator_message_runs TO caracalapi;
GRANT SELECT, INSERT ON operator_turns, operator_zone_memory, operator_message_run_events TO caracalapi;

-- Row-level security. The setting caracal.zone_id is '*' (every zone) or one zone; without it no row is visible and
-- none can be written. FORCE makes it hold for the owner of the tables as well.
DO $$
DECLARE
    visible constant text := 'current_setting(''caracal.zone_id'', true) = ''*''';
    guarded record;
BEGIN
    FOR guarded IN
        SELECT t AS table_name, 'zone_id = current_setting(''caracal.zone_id'', true)' AS own
        FROM unnest(ARRAY[
            'applications', 'workloads', 'providers', 'resources', 'provider_connections', 'provider_oauth_states',
            'delegated_grants', 'subject_issuers', 'secret_store', 'secrets', 'admin_tokens',
            'policies', 'policy_sets', 'policy_set_bindings',
            'authority_records', 'sessions', 'delegation_edges', 'delegation_graph_epochs', 'agent_services',
            'agent_invocations', 'coordinator_idempotency_receipts', 'step_up_challenges', 'revocation_log',
            'audit_events', 'audit_chain_heads', 'audit_tree_nodes', 'audit_signed_heads', 'audit_head_keys',
            'audit_verifications', 'audit_ingest_alerts', 'admin_audit_events', 'admin_audit_chain_heads',
            'notification_sinks', 'notification_deliveries',
            'operator_conversation_counters', 'operator_conversations', 'operator_turns', 'operator_message_runs',
            'operator_message_run_events', 'operator_plan_secrets', 'operator_zone_memory',
            'gateway_resource_bindings', 'resource_rate_limits', 'invitations', 'teams', 'zone_versions'
        ]) AS t
        UNION ALL
        SELECT * FROM (VALUES
            ('zones', 'id = current_setting(''caracal.zone_id'', true)'),
            -- A row without a zone of its own is visible with the row it belongs to, which is guarded itself.
            -- Both sides of each condition are qualified: sessions has a parent_id of its own.
            ('policy_versions', 'EXISTS (SELECT 1 FROM policies p WHERE p.id = policy_versions.policy_id)'),
            ('policy_set_versions', 'EXISTS (SELECT 1 FROM policy_sets s WHERE s.id = policy_set_versions.policy_set_id)'),
            ('agent_topology', 'EXISTS (SELECT 1 FROM sessions s WHERE s.id = agent_topology.parent_id)
                AND EXISTS (SELECT 1 FROM sessions s WHERE s.id = agent_topology.child_id)'),
            ('application_dependencies',
                'EXISTS (SELECT 1 FROM applications a WHERE a.id = application_dependencies.application_id)')
        ) AS indirect (table_name, own)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', guarded.table_name);
        EXECUTE format('CREATE POLICY zone_isolation ON %I USING (%s OR (%s)) WITH CHECK (%s OR (%s))',
            guarded.table_name, visible, guarded.own, visible, guarded.own);
    END LOOP;
END
$$;
