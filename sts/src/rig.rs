//! A service without its background work, for tests that look inside: everything counted was caused by a request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use caracal_bus::{Bus, RedisBus, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::RequestId;
use caracal_storage::{Database, PoolLimits};
use caracal_testing::{Role, TestDatabase, TestRedis};
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, TokenResponse};
use caracal_wire::{form, gateway_signature};
use http::{Request, StatusCode};
use tower::ServiceExt as _;

use crate::config::Config;
use crate::state::Sts;

#[path = "../tests/sts/seed.rs"]
pub(crate) mod seed;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const MAC_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// The service and its stores.
pub(crate) struct Rig {
    pub(crate) sts: Arc<Sts>,
    router: Router,
    bus: Arc<dyn Bus>,
    stores: (TestDatabase, TestRedis, tempfile::TempDir),
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) statements: u64,
    pub(crate) round_trips: u64,
    pub(crate) policy_decisions: u64,
    pub(crate) signature_checks: u64,
    pub(crate) events: u64,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::at(Clock::system()).await
    }

    /// The same, by `clock`.
    pub(crate) async fn at(clock: Clock) -> Self {
        let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
        seed::seed(&database.pool().await).await;
        let spool = tempfile::tempdir().unwrap();
        let config = config(spool.path());
        let url = database.url_as(Role::Sts);
        let connected = Database::connect(&url, "caracal-sts", &PoolLimits::default())
            .await
            .unwrap();
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
        let deps = crate::run::Deps {
            bus: Arc::clone(&bus),
            clock,
        };
        let sts = Arc::new(crate::run::build(config, &deps, connected, &Registry::new()).unwrap());
        drop(
            crate::feed::start(&sts, Arc::clone(&bus), StreamKeys::unsigned())
                .await
                .unwrap(),
        );
        let router = crate::http::router(Arc::clone(&sts), Router::new());
        let rig = Self {
            sts,
            router,
            bus,
            stores: (database, redis, spool),
        };
        rig.prove_fresh();
        rig
    }

    /// Makes the rig believe for a while that it has heard of everything.
    pub(crate) fn prove_fresh(&self) {
        let proved = Duration::from_secs(30).as_micros();
        self.sts
            .revocations
            .freshness()
            .advance(self.sts.clock.unix_micros() + i64::try_from(proved).unwrap());
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            statements: self.sts.database.statements(),
            round_trips: self.bus.round_trips(),
            policy_decisions: self.sts.metrics.policy_seconds.get_sample_count(),
            signature_checks: self.sts.metrics.subject_token_verified.get(),
            events: self.sts.spool.stats().pending_events,
        }
    }

    /// The database, to prepare and to change what is in it without being counted.
    pub(crate) fn database(&self) -> &TestDatabase {
        &self.stores.0
    }

    /// Gets an answer.
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Bytes) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        (
            status,
            axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap(),
        )
    }

    /// Asks what the policy says, as `app-1`.
    pub(crate) async fn question(&self, path: &str) -> StatusCode {
        self.question_as("app-1", seed::SECRET, path).await
    }

    /// The same, with a secret that may be wrong.
    pub(crate) async fn question_as(&self, application: &str, secret: &str, path: &str) -> StatusCode {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{application}:{secret}"));
        let request = Request::post(path)
            .header("authorization", format!("Basic {pair}"))
            .body(Body::from("{}"))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap().status()
    }

    async fn post(&self, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> TokenResponse {
        let (status, body) = self.send(fields, headers).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Posts a form; status and body of the answer.
    pub(crate) async fn send(
        &self,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> (StatusCode, Bytes) {
        let mut request =
            Request::post("/oauth/2/token").header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
            // As the server adopts it.
            if *name == "x-request-id" {
                request = request.extension(RequestId::parse(value).unwrap());
            }
        }
        let request = request.body(Body::from(form::encode(fields))).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        (
            status,
            axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap(),
        )
    }

    pub(crate) async fn direct(&self, fields: &[(&str, &str)]) -> TokenResponse {
        let mut all = vec![
            ("grant_type", TOKEN_EXCHANGE_GRANT),
            ("zone_id", "z1"),
            ("application_id", "app-1"),
            ("client_secret", seed::SECRET),
            ("resource", "resource://crm"),
        ];
        all.extend(fields);
        self.post(&all, &[]).await
    }

    pub(crate) async fn one_shot(&self) -> String {
        let session = [
            ("scope", "crm:read"),
            ("agent_session_id", "s-target"),
            ("delegation_edge_id", "e-1"),
        ];
        self.direct(&session).await.access_token
    }

    pub(crate) async fn at_gateway(&self, mandate: &str) -> TokenResponse {
        let (status, body) = self.send_as_gateway(mandate).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// The status of the answer to a gateway that presents `mandate`.
    pub(crate) async fn try_at_gateway(&self, mandate: &str) -> StatusCode {
        self.send_as_gateway(mandate).await.0
    }

    async fn send_as_gateway(&self, mandate: &str) -> (StatusCode, Bytes) {
        let fields = [
            ("grant_type", TOKEN_EXCHANGE_GRANT),
            ("zone_id", "z1"),
            ("application_id", "app-1"),
            ("resource", "resource://crm"),
            ("subject_token", mandate),
            ("subject_token_type", ACCESS_TOKEN_TYPE),
            ("gateway_request_id", "req-1"),
        ];
        let now = self.sts.clock.unix_seconds();
        let nonce = crate::unique_id::unique_id(self.sts.clock.unix_millis()).unwrap();
        let body = form::encode(&fields);
        let key = hex::decode(KEY).unwrap();
        let signature = gateway_signature::sign(&key, now, &nonce, "POST", "/oauth/2/token", body.as_bytes());
        let headers = [
            (gateway_signature::TIMESTAMP, now.to_string()),
            (gateway_signature::NONCE, nonce),
            (gateway_signature::SIGNATURE, signature),
            ("x-request-id", "req-1".to_owned()),
        ];
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.send(&fields, &headers).await
    }
}

fn config(spool: &Path) -> Config {
    let settings = [
        ("DATABASE_URL", "postgres://unused@localhost/unused"),
        ("REDIS_URL", "redis://localhost"),
        // The rig has no relay, so what it proves once has to last for a test on a busy machine.
        ("REVOCATION_FRESHNESS", "60s"),
        ("ISSUER_URL", "https://sts.example.com"),
        ("SECRET_STORE_KEK", seed::KEK),
        ("STREAMS_HMAC_KEY", KEY),
        ("AUDIT_HMAC_KEY", KEY),
        ("GATEWAY_STS_HMAC_KEY", KEY),
        ("MANDATE_MAC_KEY", MAC_KEY),
        ("AUDIT_REPLAY_DIR", spool.to_str().unwrap()),
        ("STS_POLICY_QUESTIONS_PER_MIN", "6000"),
    ];
    let source = Source::from_pairs(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let mut reader = Reader::new(&source);
    let config = Config::read(&mut reader);
    reader.finish().unwrap();
    config
}
