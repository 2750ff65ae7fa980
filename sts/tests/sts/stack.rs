//! One service under test, on a database and an event bus of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::{Bus, EntryId, HmacKey, Publisher, RedisBus, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::shutdown::Shutdown;
use caracal_storage::{Database, PoolLimits};
use caracal_sts::{Config, Deps, RunError};
use caracal_testing::{Role, TestDatabase, TestRedis, wait_for, wait_until};
use caracal_token::{Claims, KeySet, Rules, UnverifiedToken, Use};
use caracal_wire::{form, gateway_signature, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{ledger, seed};

pub(crate) const STREAMS_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub(crate) const AUDIT_KEY: &str = "102132435465768798a9bacbdcedfe0f102132435465768798a9bacbdcedfe0f";
pub(crate) const ISSUER: &str = "https://sts.example.com";
pub(crate) const GRANT: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Long enough for anything that happens at all.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running service.
pub(crate) struct Stack {
    pub(crate) pool: PgPool,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) shutdown: Shutdown,
    served: Option<JoinHandle<Result<(), RunError>>>,
    spool: TempDir,
    pub(crate) redis: Arc<TestRedis>,
    database: Arc<TestDatabase>,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    pub(crate) body: Value,
}

impl Stack {
    /// A service with the seeded zone, ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url_as(Role::Sts);
        Self::start_on(database, &url, settings).await
    }

    /// The same, reaching its database by `url`.
    pub(crate) async fn start_on(database: TestDatabase, url: &str, settings: &[(&str, &str)]) -> Self {
        let redis = TestRedis::new().await;
        let redis_url = redis.url().to_owned();
        Self::start_between(database, url, redis, &redis_url, settings).await
    }

    /// The same, reaching its event bus by a URL of its own as well.
    pub(crate) async fn start_between(
        database: TestDatabase,
        url: &str,
        redis: TestRedis,
        redis_url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        seed::seed(&database.pool().await).await;
        let stack = Self::launch(
            Arc::new(database),
            url,
            Arc::new(redis),
            redis_url,
            tempfile::tempdir().unwrap(),
            settings,
            Clock::system(),
        )
        .await;
        stack.until_ready().await;
        stack
    }

    /// A service with the seeded zone and another clock. It may never become ready.
    pub(crate) async fn start_at(clock: Clock) -> Self {
        let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
        seed::seed(&database.pool().await).await;
        let (url, redis_url) = (database.url_as(Role::Sts), redis.url().to_owned());
        let spool = tempfile::tempdir().unwrap();
        Self::launch(
            Arc::new(database),
            &url,
            Arc::new(redis),
            &redis_url,
            spool,
            &[],
            clock,
        )
        .await
    }

    /// The same service once more after it has stopped, with what it left in its spool.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await.unwrap();
        let (url, redis_url) = (self.database.url_as(Role::Sts), self.redis.url().to_owned());
        let stack = Self::launch(
            self.database,
            &url,
            self.redis,
            &redis_url,
            self.spool,
            &[],
            Clock::system(),
        )
        .await;
        stack.until_ready().await;
        stack
    }

    /// Another replica on the same database and event bus.
    pub(crate) async fn replica(&self, settings: &[(&str, &str)]) -> Self {
        let (database, redis) = (Arc::clone(&self.database), Arc::clone(&self.redis));
        let (url, redis_url) = (database.url_as(Role::Sts), redis.url().to_owned());
        let spool = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let stack = Self::launch(database, &url, redis, &redis_url, spool, settings, clock).await;
        stack.until_ready().await;
        stack
    }

    async fn launch(
        database: Arc<TestDatabase>,
        url: &str,
        redis: Arc<TestRedis>,
        redis_url: &str,
        spool: TempDir,
        settings: &[(&str, &str)],
        clock: Clock,
    ) -> Self {
        let pool = database.pool().await;
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
        let config = config(url, redis_url, &spool, settings);
        let (base, shutdown, served) = serve(config, redis_url, clock).await;
        Self {
            pool,
            bus,
            base,
            client: Client::new(ClientLimits {
                timeout: SOON,
                ..ClientLimits::default()
            }),
            shutdown,
            served: Some(served),
            spool,
            redis,
            database,
        }
    }

    /// The database as another service sees it.
    pub(crate) async fn database_as(&self, role: Role) -> Database {
        Database::connect(&self.database.url_as(role), "test", &PoolLimits::default())
            .await
            .unwrap()
    }

    /// Waits until the service is ready.
    pub(crate) async fn until_ready(&self) {
        wait_until(SOON, async || self.get("/ready").await.status == StatusCode::OK).await;
    }

    /// Stops the service and gives what it ended with.
    pub(crate) async fn stop(&mut self) -> Result<(), RunError> {
        self.shutdown.trigger();
        self.served.take().unwrap().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, HeaderMap::new(), "").await
    }

    /// The same of any replica.
    pub(crate) async fn get_at(&self, base: &str, path: &str) -> Answer {
        self.send_to(base, Method::GET, path, HeaderMap::new(), "").await
    }

    /// The metrics, in the text format.
    pub(crate) async fn metrics(&self) -> String {
        let bearer = header_map(&[("authorization", "Bearer metrics"), ("accept", "text/plain")]);
        let answer = self.send(Method::GET, "/metrics", bearer, "").await;
        assert_eq!(answer.status, StatusCode::OK);
        String::from_utf8(answer.bytes.to_vec()).unwrap()
    }

    /// The value of one metric that is a whole number, by its name without prefix and with its labels.
    pub(crate) async fn metric(&self, name: &str) -> i64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| {
            line.strip_prefix("caracal_sts_")?
                .strip_prefix(name)?
                .strip_prefix(' ')
        });
        match value {
            Some(value) => value.parse().unwrap(),
            None => panic!("no {name} in {text}"),
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: &str) -> Answer {
        self.send_to(&self.base, method, path, headers, body).await
    }

    pub(crate) async fn send_to(
        &self,
        base: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: &str,
    ) -> Answer {
        let url = format!("{base}{path}");
        let answer = self
            .client
            .request(method, &url, headers, Bytes::from(body.to_owned()))
            .await
            .unwrap();
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        Answer {
            status: answer.status,
            headers: answer.headers,
            bytes: answer.body,
            body,
        }
    }

    /// Posts a form as a client does.
    pub(crate) async fn post(&self, fields: &[(&str, &str)]) -> Answer {
        self.post_body(&form::encode(fields), &[]).await
    }

    pub(crate) async fn post_body(&self, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
        all.extend(header_map(headers));
        self.send(Method::POST, "/oauth/2/token", all, body).await
    }

    /// A direct exchange of `app-1` in `z1` with further fields; a field given again replaces.
    pub(crate) async fn mint(&self, fields: &[(&str, &str)]) -> Answer {
        self.post(&with(&DIRECT, fields)).await
    }

    /// The one-shot mandate under the seeded delegation.
    pub(crate) async fn one_shot(&self, resource: &str, scope: &str) -> String {
        let answer = self
            .mint(&[
                ("resource", resource),
                ("scope", scope),
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-1"),
            ])
            .await;
        answer.token()
    }

    /// An exchange a gateway makes for the holder of `mandate`.
    pub(crate) async fn at_gateway(&self, mandate: &str, resource: &str, fields: &[(&str, &str)]) -> Answer {
        let request_id = nonce();
        let usual = [
            GRANT,
            ("zone_id", "z1"),
            ("application_id", "app-1"),
            ("subject_token", mandate),
            ("subject_token_type", ACCESS_TOKEN),
            ("resource", resource),
            ("request_method", "GET"),
            ("request_path", "/v1/contacts"),
            ("gateway_request_id", &request_id),
        ];
        self.post_signed(&form::encode(&with(&usual, fields))).await
    }

    /// Posts `body` with a gateway's signature, for the request the body names.
    pub(crate) async fn post_signed(&self, body: &str) -> Answer {
        let signed = signature(
            Clock::system().unix_seconds(),
            &nonce(),
            "POST",
            "/oauth/2/token",
            body,
        );
        let signed: Vec<(&str, &str)> = signed
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let named = form::parse(body.as_bytes(), &["resource", "audience"]).ok();
        let request_id = named.as_ref().and_then(|form| form.get("gateway_request_id"));
        let request_id = ("x-request-id", request_id.unwrap_or("req-1"));
        self.post_body(body, &[signed.as_slice(), &[request_id]].concat())
            .await
    }

    /// The claims of a mandate, after its signature was checked with the published keys.
    pub(crate) async fn verify(&self, token: &str, audience: &str, r#use: Use) -> Claims {
        let keys = self.get("/.well-known/jwks.json?zone_id=z1").await;
        let keys = KeySet::from_jwks_bytes(&keys.bytes).unwrap();
        let rules = Rules {
            issuer: ISSUER,
            audience,
            leeway_seconds: 60,
            uses: &[r#use],
        };
        let now = caracal_model::UnixSeconds(Clock::system().unix_seconds());
        caracal_token::verify(UnverifiedToken::parse(token).unwrap(), &keys, &rules, now).unwrap()
    }

    /// The events published so far that `wanted` picks; waits for the first. Every event, picked or not, has to be one of
    /// those the contract knows.
    pub(crate) async fn events(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        wait_for(SOON, async || {
            let read = self
                .bus
                .read(&[(stream::AUDIT_EVENTS, EntryId::ZERO)], 10_000, Duration::ZERO)
                .await
                .unwrap();
            let entries = read.into_iter().flat_map(|(_, entries)| entries);
            let events = entries.map(|entry| serde_json::from_str::<Value>(&entry.fields["data"]).unwrap());
            let (found, others): (Vec<Value>, Vec<Value>) = events.partition(|event| wanted(event));
            found.iter().chain(&others).for_each(ledger::hold_to_the_contract);
            (!found.is_empty()).then_some(found)
        })
        .await
    }

    /// The events of the request that was answered with `answer`.
    pub(crate) async fn events_of(&self, answer: &Answer) -> Vec<Value> {
        let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
        self.events(|event| event["request_id"] == id.as_str()).await
    }

    /// The same, all `count` of them.
    pub(crate) async fn all_events_of(&self, answer: &Answer, count: usize) -> Vec<Value> {
        wait_for(SOON, async || {
            let events = self.events_of(answer).await;
            (events.len() >= count).then_some(events)
        })
        .await
    }

    /// Publishes a message as the relay would.
    pub(crate) async fn announce(&self, stream: &str, fields: BTreeMap<String, String>) {
        let keys = StreamKeys::single(HmacKey::new(hex::decode(STREAMS_KEY).unwrap()));
        Publisher::new(Arc::clone(&self.bus), keys)
            .publish_signed(stream, vec![fields])
            .await
            .unwrap();
    }

    /// Runs statements in the database.
    pub(crate) async fn sql(&self, statements: impl Into<String>) {
        seed::run(&self.pool, statements.into()).await;
    }
}

/// Repeats `request` until a budget of `per_minute`, of which `left` is left, is spent. That it is spent no sooner and no
/// later than it says is asserted however long the requests take. Gives the refusal.
pub(crate) async fn spend(per_minute: u64, left: u64, mut request: impl AsyncFnMut() -> Answer) -> Answer {
    let began = tokio::time::Instant::now();
    let mut granted = 0;
    loop {
        let answer = request().await;
        let earned = began.elapsed().as_secs() * per_minute / 60 + 1;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert!(granted >= left, "{granted} of {left}");
            let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=60_u64.div_ceil(per_minute)).contains(&wait), "{wait}");
            return answer;
        }
        granted += 1;
        assert!(granted <= left + earned, "{granted} of {left}");
    }
}

/// What every direct exchange of `app-1` says.
pub(crate) const DIRECT: [(&str, &str); 4] = [
    GRANT,
    ("zone_id", "z1"),
    ("application_id", "app-1"),
    ("client_secret", seed::SECRET),
];

/// `usual` with `fields` in place of those of the same name.
pub(crate) fn with<'f>(
    usual: &[(&'f str, &'f str)],
    fields: &[(&'f str, &'f str)],
) -> Vec<(&'f str, &'f str)> {
    let kept = usual
        .iter()
        .filter(|(name, _)| !fields.iter().any(|(given, _)| given == name));
    kept.chain(fields).copied().collect()
}

/// The three headers of a gateway's signature.
pub(crate) fn signature(
    at: i64,
    nonce: &str,
    method: &str,
    path: &str,
    body: &str,
) -> [(&'static str, String); 3] {
    let key = gateway_signature::derive_key(&hex::decode(AUDIT_KEY).unwrap());
    let signature = gateway_signature::sign(&key, at, nonce, method, path, body.as_bytes());
    [
        (gateway_signature::TIMESTAMP, at.to_string()),
        (gateway_signature::NONCE, nonce.to_owned()),
        (gateway_signature::SIGNATURE, signature),
    ]
}

/// A fresh nonce.
pub(crate) fn nonce() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    hex::encode(bytes)
}

pub(crate) fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        (
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    headers.iter().map(header).collect()
}

impl Answer {
    /// The token of a success.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body["access_token"].as_str().unwrap().to_owned()
    }

    /// The refusal: status, code, description.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, &str, &str) {
        let text = |member: &str| self.body[member].as_str().unwrap_or_default();
        (self.status.as_u16(), text("error"), text("error_description"))
    }
}

async fn serve(
    config: Config,
    redis_url: &str,
    clock: Clock,
) -> (String, Shutdown, JoinHandle<Result<(), RunError>>) {
    let shutdown = Shutdown::new();
    let (bound, listening) = oneshot::channel();
    let deps = Deps {
        bus: Arc::new(RedisBus::connect(redis_url).unwrap()),
        clock,
    };
    let running = caracal_sts::run(
        config,
        deps,
        move |addresses| {
            bound.send(addresses).unwrap();
        },
        shutdown.clone(),
    );
    let mut served = tokio::spawn(running);
    let addresses = tokio::select! {
        addresses = listening => addresses.unwrap(),
        ended = &mut served => panic!("the service did not start: {ended:?}"),
    };
    (format!("http://{}", addresses.http), shutdown, served)
}

fn config(database: &str, redis: &str, spool: &TempDir, settings: &[(&str, &str)]) -> Config {
    let spool = spool.path().to_str().unwrap();
    let usual = [
        ("DATABASE_URL", database),
        ("REDIS_URL", redis),
        ("ISSUER_URL", ISSUER),
        ("SECRET_STORE_KEK", seed::KEK),
        ("STREAMS_HMAC_KEY", STREAMS_KEY),
        ("AUDIT_HMAC_KEY", AUDIT_KEY),
        ("AUDIT_REPLAY_DIR", spool),
        ("METRICS_BEARER", "metrics"),
        ("PORT", "0"),
        ("STS_POLICY_QUESTIONS_PER_MIN", "6000"),
    ];
    let all = with(&usual, settings);
    let source = Source::from_pairs(
        all.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    let mut reader = Reader::new(&source);
    let config = Config::read(&mut reader);
    reader.finish().unwrap();
    config
}
