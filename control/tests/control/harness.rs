//! A running control service with a database of its own.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, MemoryBus};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::shutdown::Shutdown;
use caracal_control::{Config, Deps};
use caracal_testing::{Role, TestDatabase};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;

/// The bootstrap token of every test.
pub(crate) const BOOTSTRAP: &str = "bootstrap-token-of-the-control-tests-0123456789";
pub(crate) const AUDIT_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const KEK: &str = "6f1c0b8a2d7e4953a1f06c2b9d8e7f5031425364758697a8b9cadbecfd0e1f20";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body, of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Asserts status and code of a refusal.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.body["error"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
    }
}

/// A service, its database, and a client with the bootstrap token.
pub(crate) struct Harness {
    pub(crate) database: TestDatabase,
    /// Superuser connections, to prepare and to look at rows.
    pub(crate) pool: PgPool,
    pub(crate) bus: Arc<MemoryBus>,
    client: Client,
    base: String,
    running: Running,
}

/// A service that ends with its test.
struct Running {
    shutdown: Shutdown,
    task: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more settings than the least.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let pool = database.pool().await;
        Self::on(database, pool, settings).await
    }

    pub(crate) async fn on(database: TestDatabase, pool: PgPool, settings: &[(&str, &str)]) -> Self {
        let bus = Arc::new(MemoryBus::new());
        let shutdown = Shutdown::new();
        let (base, task) = serve(&database, &bus, settings, &shutdown).await;
        let client = Client::new(ClientLimits {
            timeout: Duration::from_mins(1),
            ..ClientLimits::default()
        });
        Self {
            database,
            pool,
            bus,
            client,
            base,
            running: Running {
                shutdown,
                task: Some(task),
            },
        }
    }

    /// Stops the service and hands the database back.
    pub(crate) async fn stop(self) -> (TestDatabase, PgPool) {
        let Self {
            database,
            pool,
            mut running,
            ..
        } = self;
        running.shutdown.trigger();
        running.task.take().unwrap().await.unwrap();
        (database, pool)
    }

    /// Sends a request with any headers and any body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}{path}", self.base);
        let answer = self
            .client
            .request(method, &url, map, body.to_vec())
            .await
            .unwrap();
        let body = if answer.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer.body)
                .unwrap_or_else(|_| json!(String::from_utf8_lossy(&answer.body)))
        };
        Answer {
            status: answer.status.as_u16(),
            headers: answer.headers,
            body,
        }
    }

    /// Sends a request with a token and a JSON body.
    pub(crate) async fn with_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        let bytes = body.map(Value::to_string).unwrap_or_default();
        self.send(method, path, &headers, bytes.as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.with_token(BOOTSTRAP, "GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.with_token(BOOTSTRAP, "POST", path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.with_token(BOOTSTRAP, "PATCH", path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.with_token(BOOTSTRAP, "PUT", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.with_token(BOOTSTRAP, "DELETE", path, None).await
    }

    /// Makes a zone and answers its id.
    pub(crate) async fn zone(&self, name: &str) -> String {
        id(&self.post("/v1/zones", &json!({ "name": name })).await.expect(201))
    }

    /// Makes an application and answers its id.
    pub(crate) async fn application(&self, zone: &str, name: &str) -> String {
        let body = json!({ "name": name, "registration_method": "managed" });
        id(&self
            .post(&format!("/v1/zones/{zone}/applications"), &body)
            .await
            .expect(201))
    }

    /// Makes a provider that carries the mandate itself and answers its id.
    pub(crate) async fn provider(&self, zone: &str, name: &str) -> String {
        let body = json!({ "name": name, "kind": "caracal_mandate" });
        id(&self
            .post(&format!("/v1/zones/{zone}/providers"), &body)
            .await
            .expect(201))
    }

    /// Makes a resource `resource://<name>` with the scopes `read` and `write` and answers its id.
    pub(crate) async fn resource(&self, zone: &str, name: &str, provider: &str) -> String {
        let body = json!({
            "name": name, "scopes": ["read", "write"], "credential_provider_id": provider,
            "upstream_url": "http://127.0.0.1:9/",
        });
        id(&self
            .post(&format!("/v1/zones/{zone}/resources"), &body)
            .await
            .expect(201))
    }

    /// Writes an admin token as the API for tokens will and answers its value.
    pub(crate) async fn token(&self, capability: &str, zone: Option<&str>) -> String {
        let value = format!("cat_{capability}_{}", uuid::Uuid::new_v4().simple());
        let scope = if zone.is_some() { "zone" } else { "global" };
        sqlx::query(
            "INSERT INTO admin_tokens (id, name, token_sha256, scope, capability, zone_id, created_by)
             VALUES (gen_random_uuid()::text, $1, sha256($1::bytea), $2, $3, $4, 'admin:test')",
        )
        .bind(&value)
        .bind(scope)
        .bind(capability)
        .bind(zone)
        .execute(&self.pool)
        .await
        .unwrap();
        value
    }

    /// The number a statement counts.
    pub(crate) async fn count(&self, statement: &'static str, zone: &str) -> i64 {
        sqlx::query_scalar(statement)
            .bind(zone)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

/// The member `id` of an object.
pub(crate) fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

async fn serve(
    database: &TestDatabase,
    bus: &Arc<MemoryBus>,
    settings: &[(&str, &str)],
    shutdown: &Shutdown,
) -> (String, JoinHandle<()>) {
    let url = database.url_as(Role::Api);
    let mut pairs = vec![
        ("DATABASE_URL", url.as_str()),
        ("REDIS_URL", "memory:"),
        ("PORT", "0"),
        ("CARACAL_ADMIN_TOKEN", BOOTSTRAP),
        ("SECRET_STORE_KEK", KEK),
        ("STREAMS_HMAC_KEY", AUDIT_KEY),
        ("AUDIT_HMAC_KEY", AUDIT_KEY),
        ("API_V1_RATE_LIMIT_PER_MIN", "0"),
        ("ADMIN_AUTH_FAIL_LIMIT_PER_MIN", "0"),
        ("DB_POOL_MAX", "5"),
    ];
    pairs.extend(settings.iter().copied());
    let source = Source::from_pairs(pairs);
    let mut reader = Reader::new(&source);
    let config = Config::read(&mut reader);
    reader.finish().unwrap();
    let (listening, address) = tokio::sync::oneshot::channel();
    let bus: Arc<dyn Bus> = Arc::<MemoryBus>::clone(bus);
    let deps = Deps {
        bus,
        clock: Clock::system(),
    };
    let until = shutdown.clone();
    let task = tokio::spawn(async move {
        let announce = |addresses| listening.send(addresses).unwrap();
        caracal_control::run(config, deps, announce, until).await.unwrap();
    });
    let address = address.await.unwrap().http;
    (format!("http://{address}"), task)
}

/// The key ring of the service, to open what it sealed.
pub(crate) fn keyring() -> caracal_token::envelope::Keyring {
    caracal_token::envelope::Keyring::new(caracal_token::envelope::Kek::from_hex(KEK).unwrap(), None)
}
