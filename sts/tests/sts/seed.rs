//! One zone with everything in it that the tests ask for.

use caracal_model::PolicyVersionId;
use caracal_token::envelope::{Kek, Keyring};
use caracal_wire::manifest;
use sqlx::{AssertSqlSafe, PgPool};

pub(crate) const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";

/// The secret of every seeded application, and how it is stored.
pub(crate) const SECRET: &str = "correct horse battery staple";
pub(crate) const STORED_SECRET: &str =
    "argon2id$AAECAwQFBgcICQoLDA0ODw$wrFQiwrdeIehGpqW8aRyJctAv6BudXD/c6QUGLKhXWE";

/// Grants of zone `z1`: `bot` is `app-1`. Everything the tests mint for is granted to it, except `resource://foreign`.
pub(crate) const POLICY: &str = r#"# caracal:data-document
package caracal.authz

import rego.v1

app_ids := {"bot": "app-1", "other": "app-2"}

grants := {
	"resource://crm": {"application": "bot", "roles": {"editor": ["crm:read", "crm:write"], "reader": ["crm:read"]}, "ambient": ["crm:read"]},
	"resource://mandate": {"application": "bot", "roles": {"editor": ["crm:read", "crm:write"]}},
	"resource://query": {"application": "bot", "roles": {"editor": ["crm:read"]}},
	"resource://bearer": {"application": "bot", "roles": {"editor": ["crm:read"]}},
	"resource://basic": {"application": "bot", "roles": {"editor": ["crm:read"]}},
	"resource://plain": {"application": "bot", "roles": {"editor": ["crm:read"]}, "ambient": ["crm:read"]},
	"resource://oauth": {"application": "bot", "roles": {"editor": ["crm:read"]}},
	"resource://enforced": {"application": "bot", "roles": {"editor": ["crm:read", "crm:write"]}},
	"resource://gated": {"application": "bot", "roles": {"editor": ["crm:write"]}},
	"resource://limited": {"application": "bot", "roles": {"editor": ["crm:read"]}},
	"resource://foreign": {"application": "other", "roles": {"editor": ["crm:read"]}},
}

risk := [{"scope": "crm:danger", "tier": "sensitive"}]

approval_tiers := [{"tier": "sensitive"}]
"#;

/// Zones, applications, providers, resources, a policy, an application's record, two sessions and a delegation.
pub(crate) async fn seed(pool: &PgPool) {
    run(pool, ZONES.to_owned()).await;
    run(pool, format!("INSERT INTO applications (id, zone_id, name, registration_method, client_secret_hash, expires_at) VALUES
        ('app-1', 'z1', 'Bot', 'managed', '{STORED_SECRET}', NULL),
        ('app-2', 'z1', 'Other', 'managed', '{STORED_SECRET}', NULL),
        ('app-mute', 'z1', 'Mute', 'managed', NULL, NULL),
        ('app-past', 'z1', 'Past', 'dcr', '{STORED_SECRET}', now() - interval '1 second'),
        ('app-z2', 'z2', 'Elsewhere', 'managed', '{STORED_SECRET}', NULL)")).await;
    providers(pool).await;
    run(pool, RESOURCES.to_owned()).await;
    policy(pool, "psv-1", POLICY).await;
    run(pool, RUNTIME.to_owned()).await;
}

/// Makes `content` the active policy of `z1`, as set version `version`.
pub(crate) async fn policy(pool: &PgPool, version: &str, content: &str) {
    policies(pool, version, &[content]).await;
}

/// Makes `contents` the active policy of `z1`, as set version `version`.
pub(crate) async fn policies(pool: &PgPool, version: &str, contents: &[&str]) {
    let mut ids = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let name = format!("{version}-{number}");
        ids.push(PolicyVersionId::try_from(format!("pv-{name}")).unwrap());
        run(pool, format!("
            INSERT INTO policies (id, zone_id, name, created_by) VALUES ('p-{name}', 'z1', '{name}', 'test');
            INSERT INTO policy_versions (id, policy_id, version, content, content_sha256, schema_version, created_by)
                VALUES ('pv-{name}', 'p-{name}', 1, $rego${content}$rego$, '-', '2026-05-20', 'test')")).await;
    }
    let sha = manifest::sha256(&ids);
    let entries: Vec<String> = ids
        .iter()
        .map(|id| format!("{{\"policy_version_id\": \"{id}\"}}"))
        .collect();
    let entries = entries.join(", ");
    run(pool, format!("
        INSERT INTO policy_sets (id, zone_id, name, created_by) VALUES ('ps-1', 'z1', 'main', 'test')
            ON CONFLICT DO NOTHING;
        INSERT INTO policy_set_versions (id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by)
            SELECT '{version}', 'ps-1', count(*) + 1, '[{entries}]', '{sha}', '2026-05-20', 'test'
            FROM policy_set_versions WHERE policy_set_id = 'ps-1';
        INSERT INTO policy_set_bindings (zone_id, policy_set_id, active_version_id) VALUES ('z1', 'ps-1', '{version}')
            ON CONFLICT (zone_id, policy_set_id) DO UPDATE SET active_version_id = excluded.active_version_id")).await;
}

/// Replaces the secret document of a provider.
pub(crate) async fn provider_secret(pool: &PgPool, provider: &str, document: &str) {
    let reference = format!("zones/z1/providers/{provider}/secretConfig");
    let keyring = Keyring::new(Kek::from_hex(KEK).unwrap(), None);
    let envelope = keyring.seal(document.as_bytes(), reference.as_bytes()).unwrap();
    sqlx::query(
        "INSERT INTO secret_store (ref, zone_id, envelope) VALUES ($1, 'z1', $2)
         ON CONFLICT (ref) DO UPDATE SET envelope = excluded.envelope",
    )
    .bind(reference)
    .bind(envelope)
    .execute(pool)
    .await
    .unwrap();
}

/// Runs statements as the superuser.
pub(crate) async fn run(pool: &PgPool, statements: String) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(statements.clone()))
        .execute(pool)
        .await
    {
        panic!("{error} in {statements}");
    }
}

async fn providers(pool: &PgPool) {
    run(pool, "INSERT INTO providers (id, zone_id, name, identifier, provider_kind, config_json) VALUES
        ('p-none', 'z1', 'none', 'none', 'none', '{}'),
        ('p-mandate', 'z1', 'mandate', 'mandate', 'caracal_mandate', '{}'),
        ('p-key', 'z1', 'key', 'key', 'api_key',
         '{\"header_name\": \"X-Api-Key\", \"allowed_token_hosts\": [\"CRM.example\"]}'),
        ('p-query', 'z1', 'query', 'query', 'api_key', '{\"auth_location\": \"query\", \"query_param_name\": \"key\"}'),
        ('p-bearer', 'z1', 'bearer', 'bearer', 'bearer_token', '{\"forward_caracal_identity\": true}'),
        ('p-basic', 'z1', 'basic', 'basic', 'http_basic', '{\"username\": \"u\"}'),
        ('p-oauth', 'z1', 'oauth', 'oauth', 'oauth2_client_credentials', '{}')".to_owned()).await;
    provider_secret(pool, "p-key", r#"{"api_key": "k-123"}"#).await;
    provider_secret(pool, "p-query", r#"{"api_key": "k-456"}"#).await;
    provider_secret(pool, "p-bearer", r#"{"bearer_token": "t-123"}"#).await;
    provider_secret(pool, "p-basic", r#"{"password": "p"}"#).await;
}

const ZONES: &str = "INSERT INTO zones (id, name, slug) VALUES ('z1', 'One', 'one'), ('z2', 'Two', 'two'), ('z3', 'Three', 'three')";

const RESOURCES: &str = r#"
    INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, scopes, operations, operation_enforcement) VALUES
        ('r-crm', 'z1', 'crm', 'resource://crm', 'https://crm.example/api', 'p-key', '{crm:read,crm:write}', '[]', 'transport_uniform'),
        ('r-mandate', 'z1', 'mandate', 'resource://mandate', 'https://m.example', 'p-mandate', '{crm:read,crm:write}', '[]', 'transport_uniform'),
        ('r-query', 'z1', 'query', 'resource://query', 'https://q.example', 'p-query', '{crm:read}', '[]', 'transport_uniform'),
        ('r-bearer', 'z1', 'bearer', 'resource://bearer', 'https://b.example', 'p-bearer', '{crm:read}', '[]', 'transport_uniform'),
        ('r-basic', 'z1', 'basic', 'resource://basic', 'https://a.example', 'p-basic', '{crm:read}', '[]', 'transport_uniform'),
        ('r-plain', 'z1', 'plain', 'resource://plain', 'https://p.example', 'p-none', '{crm:read}', '[]', 'transport_uniform'),
        ('r-oauth', 'z1', 'oauth', 'resource://oauth', 'https://o.example', 'p-oauth', '{crm:read}', '[]', 'transport_uniform'),
        ('r-gated', 'z1', 'gated', 'resource://gated', 'https://g.example', 'p-none', '{crm:write,crm:danger}', '[]', 'transport_uniform'),
        ('r-limited', 'z1', 'limited', 'resource://limited', 'https://l.example', 'p-none', '{crm:read}', '[]', 'transport_uniform'),
        ('r-foreign', 'z1', 'foreign', 'resource://foreign', 'https://f.example', 'p-none', '{crm:read}', '[]', 'transport_uniform'),
        ('r-control', 'z1', 'control', 'caracal-control', NULL, 'p-none', '{crm:read}', '[]', 'transport_uniform'),
        ('r-enforced', 'z1', 'enforced', 'resource://enforced', 'https://e.example', 'p-none', '{crm:read,crm:write}',
         '[{"method": "GET", "path": "/v1/contacts", "scope": "crm:read"}, {"method": "POST", "path": "/v1/contacts", "scope": "crm:write"}]', 'enforced');
    INSERT INTO resource_rate_limits (zone_id, resource_id, window_seconds, max_requests) VALUES ('z1', 'r-limited', 3600, 2);
    INSERT INTO gateway_resource_bindings (zone_id, resource_identifier, application_id) VALUES ('z1', 'resource://crm', 'app-1');
"#;

/// `s-source` delegates `crm:read crm:write` to `s-target`; both are `app-1`'s.
const RUNTIME: &str = r"
    INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at) VALUES
        ('ar-1', 'z1', 'application', 'app-1', 'active', now() + interval '1 hour', now()),
        ('ar-2', 'z1', 'application', 'app-2', 'active', now() + interval '1 hour', now()),
        ('ar-user', 'z1', 'user', 'user-1', 'active', now() + interval '1 hour', now()),
        ('ar-revoked', 'z1', 'application', 'app-1', 'revoked', now() + interval '1 hour', now()),
        ('ar-expired', 'z1', 'application', 'app-1', 'active', now() - interval '1 second', now());
    INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, depth) VALUES
        ('s-source', 'z1', 'app-1', 'ar-1', '{}', 3600, 0),
        ('s-target', 'z1', 'app-1', 'ar-1', '{editor}', 3600, 1),
        ('s-foreign', 'z1', 'app-2', 'ar-2', '{editor}', 3600, 0);
    INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
            receiver_application_id, scopes, constraints_json, expires_at) VALUES
        ('e-1', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read,crm:write,crm:danger}', '{}', now() + interval '1 hour');
    INSERT INTO delegation_graph_epochs (zone_id, epoch) VALUES ('z1', 7);
";
