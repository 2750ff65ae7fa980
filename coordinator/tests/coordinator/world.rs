//! A coordinator with a zone, its applications and a token service that only knows keys.

use std::sync::Arc;

use bytes::Bytes;
use caracal_bus::{Bus, MemoryBus};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::shutdown::Shutdown;
use caracal_coordinator::{Config, Deps};
use caracal_testing::{Answer, Api, Behaviour, Mandate, Role, TestDatabase, TestKeys, Upstream};
use http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

pub(crate) const ZONE: &str = "zone-1";
pub(crate) const OPERATOR_TOKEN: &str = "operator-token-of-at-least-32-characters";

pub(crate) struct World {
    _database: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) keys: TestKeys,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) sts: Upstream,
    pub(crate) base_url: String,
    client: Client,
    shutdown: Shutdown,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url_as(Role::Coordinator);
        Self::start_on(database, &url, settings).await
    }

    /// `url` leads to `database`, perhaps through a proxy.
    pub(crate) async fn start_on(database: TestDatabase, url: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_between(database, url, Arc::new(MemoryBus::new()), settings).await
    }

    /// The same on this bus.
    pub(crate) async fn start_between(
        database: TestDatabase,
        url: &str,
        bus: Arc<dyn Bus>,
        settings: &[(&str, &str)],
    ) -> Self {
        let pool = database.pool().await;
        sqlx::raw_sql(SEED).execute(&pool).await.unwrap();
        let keys = TestKeys::new();
        let sts = Upstream::start(Behaviour::Status(StatusCode::OK, Bytes::from(keys.jwks_bytes()))).await;
        let sts_url = sts.url();
        let mut pairs = vec![
            ("CARACAL_MODE", "dev"),
            ("DATABASE_URL", url),
            ("REDIS_URL", "memory:"),
            ("PORT", "0"),
            ("STS_URL", &sts_url),
            ("ISSUER_URL", "http://sts.test"),
            ("CARACAL_COORDINATOR_TOKEN", OPERATOR_TOKEN),
        ];
        pairs.extend(settings);
        let source = Source::from_pairs(pairs);
        let mut reader = Reader::new(&source);
        let config = Config::read(&mut reader);
        reader.finish().unwrap();
        let deps = Deps {
            bus: Arc::clone(&bus),
            clock: Clock::system(),
        };
        let shutdown = Shutdown::new();
        let (announce, announced) = tokio::sync::oneshot::channel();
        let running = caracal_coordinator::run(
            config,
            deps,
            move |addresses| announce.send(addresses.http).unwrap(),
            shutdown.clone(),
        );
        tokio::spawn(async move { running.await.unwrap() });
        let address = announced.await.expect("the coordinator starts");
        Self {
            _database: database,
            pool,
            keys,
            bus,
            sts,
            base_url: format!("http://{address}"),
            client: Client::new(ClientLimits::default()),
            shutdown,
        }
    }

    /// The coordinator as `application` sees it.
    pub(crate) fn app(&self, application: &str) -> Api {
        self.app_with(application, "agent:lifecycle")
    }

    pub(crate) fn app_with(&self, application: &str, scope: &str) -> Api {
        self.bearer(&mandate(application).scope(scope).sign(&self.keys))
    }

    pub(crate) fn operator(&self) -> Api {
        self.bearer(OPERATOR_TOKEN)
    }

    pub(crate) fn bearer(&self, bearer: &str) -> Api {
        self.api(Some(bearer))
    }

    pub(crate) fn api(&self, bearer: Option<&str>) -> Api {
        Api::new(self.client.clone(), &self.base_url, bearer)
    }

    /// Starts a session of `application` and gives its id. `more` is added to the body.
    pub(crate) async fn session(&self, application: &str, more: &Value) -> String {
        let answer = self.try_session(application, more).await;
        answer.expect(201);
        answer.text_of("agent_session_id")
    }

    pub(crate) async fn try_session(&self, application: &str, more: &Value) -> Answer {
        let body = merged(json!({"application_id": application}), more);
        self.app(application).post("/zones/zone-1/agents", &body).await
    }

    /// Passes `crm:read` of one resource on, for an hour, with three hops. `more` is added to the body.
    pub(crate) async fn delegate(&self, from: (&str, &str), to: (&str, &str), more: &Value) -> Answer {
        let body = merged(
            json!({
                "source_session_id": from.1, "issuer_application_id": from.0,
                "target_session_id": to.1, "receiver_application_id": to.0,
                "resource_id": "resource://crm", "scopes": ["crm:read"], "ttl_seconds": 3600,
                "constraints": {"max_hops": 3},
            }),
            more,
        );
        self.app(from.0).post("/zones/zone-1/delegations", &body).await
    }

    pub(crate) async fn edge(&self, from: (&str, &str), to: (&str, &str), more: &Value) -> String {
        let answer = self.delegate(from, to, more).await;
        answer.expect(201);
        answer.text_of("delegation_edge_id")
    }

    /// One column of a statement's rows, as text.
    pub(crate) async fn column(&self, statement: &'static str) -> Vec<String> {
        sqlx::query_scalar(statement).fetch_all(&self.pool).await.unwrap()
    }

    pub(crate) async fn run(&self, statement: &'static str, id: &str) {
        let changed = sqlx::query(statement).bind(id).execute(&self.pool).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "{statement}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// The lifecycle mandate of an application, resting on the application's record.
pub(crate) fn mandate(application: &str) -> Mandate {
    let record = format!("record-{application}");
    Mandate::session(ZONE, application, Clock::system().unix_seconds())
        .scope("agent:lifecycle")
        .anchored_in(&record, &record)
}

#[track_caller]
pub(crate) fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.text_of("error").as_str()),
        (status, code),
        "{}",
        answer.text()
    );
    assert!(!answer.text_of("request_id").is_empty());
}

pub(crate) fn merged(mut body: Value, more: &Value) -> Value {
    let members = body.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    body
}

const SEED: &str = "
    SET caracal.zone_id = '*';
    INSERT INTO zones (id, name, slug) VALUES ('zone-1', 'One', 'one'), ('zone-2', 'Two', 'two');
    INSERT INTO applications (id, zone_id, name, registration_method, expires_at, archived_at) VALUES
        ('app-a', 'zone-1', 'A', 'managed', NULL, NULL), ('app-b', 'zone-1', 'B', 'managed', NULL, NULL),
        ('app-c', 'zone-1', 'C', 'managed', NULL, NULL), ('app-dcr', 'zone-1', 'D', 'dcr', now() + interval '1 day', NULL),
        ('app-gone', 'zone-1', 'G', 'managed', NULL, now()), ('app-z2', 'zone-2', 'Z', 'managed', NULL, NULL);
    INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at)
    SELECT 'record-' || id, zone_id, 'application', id, 'active', now() + interval '1 day', now() FROM applications;
    INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, claims_json) VALUES
        ('record-app-a-2', 'zone-1', 'application', 'app-a', 'active', now() + interval '1 day', now(), NULL),
        ('record-revoked', 'zone-1', 'application', 'app-a', 'revoked', now() + interval '1 day', now(), NULL),
        ('record-lapsed', 'zone-1', 'application', 'app-a', 'active', now() - interval '1 second', now(), NULL),
        ('record-user', 'zone-1', 'user', 'user-1', 'active', now() + interval '1 day', now(), '{\"client_id\": \"app-a\"}');
    INSERT INTO providers (id, zone_id, name, identifier, provider_kind) VALUES ('provider-1', 'zone-1', 'P', 'provider://p', 'none');
    INSERT INTO resources (id, zone_id, name, identifier, credential_provider_id, scopes, archived_at) VALUES
        ('res-crm', 'zone-1', 'CRM', 'resource://crm', 'provider-1', '{crm:read,crm:write,crm:admin}', NULL),
        ('res-mail', 'zone-1', 'Mail', 'resource://mail', 'provider-1', '{mail:send,crm:read}', NULL),
        ('res-old', 'zone-1', 'Old', 'resource://old', 'provider-1', '{crm:read}', now());
";
