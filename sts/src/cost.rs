//! What does a governed request cost? The counts are a contract (`docs/contract/token-exchange.md`, section "Cost").

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use caracal_bus::{Bus, RedisBus, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::metrics::Registry;
use caracal_storage::{Database, PoolLimits};
use caracal_testing::{Role, TestDatabase, TestRedis};
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, TokenResponse};
use caracal_wire::{form, gateway_signature};
use http::{Request, StatusCode};
use tower::ServiceExt as _;

use crate::config::Config;
use crate::state::Sts;

#[path = "../tests/sts/seed.rs"]
mod seed;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A service without its background work, so that everything counted was caused by a request.
struct Bench {
    sts: Arc<Sts>,
    router: Router,
    bus: Arc<dyn Bus>,
    _stores: (TestDatabase, TestRedis, tempfile::TempDir),
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    statements: u64,
    round_trips: u64,
    policy_decisions: u64,
    signature_checks: u64,
    events: u64,
}

impl Bench {
    async fn new() -> Self {
        let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
        seed::seed(&database.pool().await).await;
        let spool = tempfile::tempdir().unwrap();
        let config = config(spool.path());
        let url = database.url_as(Role::Sts);
        let connected = Database::connect(&url, "caracal-sts", &PoolLimits::default())
            .await
            .unwrap();
        let sts = Arc::new(crate::run::build(config, Clock::system(), connected, &Registry::new()).unwrap());
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
        drop(
            crate::feed::start(&sts, Arc::clone(&bus), StreamKeys::unsigned())
                .await
                .unwrap(),
        );
        let proved = Duration::from_secs(30).as_micros();
        sts.revocations
            .freshness()
            .advance(sts.clock.unix_micros() + i64::try_from(proved).unwrap());
        let router = crate::http::router(Arc::clone(&sts), Router::new());
        Self {
            sts,
            router,
            bus,
            _stores: (database, redis, spool),
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            statements: self.sts.database.statements(),
            round_trips: self.bus.round_trips(),
            policy_decisions: self.sts.metrics.policy_seconds.get_sample_count(),
            signature_checks: self.sts.metrics.subject_token_verified.get(),
            events: self.sts.spool.stats().pending_events,
        }
    }

    async fn post(&self, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> TokenResponse {
        let mut request =
            Request::post("/oauth/2/token").header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self
            .router
            .clone()
            .oneshot(request.body(Body::from(form::encode(fields))).unwrap())
            .await
            .unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    async fn direct(&self, fields: &[(&str, &str)]) -> TokenResponse {
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

    async fn one_shot(&self) -> String {
        let session = [
            ("scope", "crm:read"),
            ("agent_session_id", "s-target"),
            ("delegation_edge_id", "e-1"),
        ];
        self.direct(&session).await.access_token
    }

    async fn at_gateway(&self, mandate: &str) -> TokenResponse {
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
        self.post(&fields, &headers).await
    }
}

fn config(spool: &Path) -> Config {
    let settings = [
        ("DATABASE_URL", "postgres://unused@localhost/unused"),
        ("REDIS_URL", "redis://localhost"),
        ("ISSUER_URL", "https://sts.example.com"),
        ("SECRET_STORE_KEK", seed::KEK),
        ("STREAMS_HMAC_KEY", KEY),
        ("AUDIT_HMAC_KEY", KEY),
        ("GATEWAY_STS_HMAC_KEY", KEY),
        ("AUDIT_REPLAY_DIR", spool.to_str().unwrap()),
    ];
    let source = Source::from_pairs(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let mut reader = Reader::new(&source);
    let config = Config::read(&mut reader);
    reader.finish().unwrap();
    config
}

#[tokio::test]
async fn a_governed_request_costs_no_statement_and_no_round_trip() {
    let bench = Bench::new().await;
    let warm = bench.one_shot().await;
    bench.at_gateway(&warm).await;
    let before = bench.counts();
    let one_shot = bench.one_shot().await;
    bench.at_gateway(&one_shot).await;
    let expected = Counts {
        policy_decisions: before.policy_decisions + 2,
        events: before.events + 2,
        ..before
    };
    assert_eq!(
        bench.counts(),
        expected,
        "two decisions and two appends, nothing else"
    );
}

#[tokio::test]
async fn a_mandate_of_another_replica_costs_one_signature_check() {
    let bench = Bench::new().await;
    let one_shot = bench.one_shot().await;
    bench.sts.minted.forget_all();
    let before = bench.counts();
    bench.at_gateway(&one_shot).await;
    let after = bench.counts();
    assert_eq!(after.signature_checks, before.signature_checks + 1);
    assert_eq!(
        (after.statements, after.round_trips),
        (before.statements, before.round_trips)
    );
}

#[tokio::test]
async fn a_reusable_mandate_costs_one_insert_and_nothing_when_it_is_used() {
    let bench = Bench::new().await;
    let mandate = bench.direct(&[("scope", "crm:read")]).await.access_token;
    bench.at_gateway(&mandate).await;
    let before = bench.counts();
    bench.at_gateway(&mandate).await;
    assert_eq!(bench.counts().statements, before.statements);
    bench.direct(&[("scope", "crm:read")]).await;
    assert_eq!(
        bench.counts().statements,
        before.statements + 3,
        "BEGIN, INSERT, COMMIT"
    );
}

#[tokio::test]
async fn a_session_is_read_with_one_statement_for_all_who_wait() {
    let bench = Bench::new().await;
    bench.direct(&[("scope", "crm:read")]).await;
    let before = bench.counts();
    let mints = (0..8).map(|_| bench.one_shot());
    futures_util::future::join_all(mints).await;
    assert_eq!(
        bench.counts().statements,
        before.statements + 2,
        "BEGIN and one SELECT"
    );
}
