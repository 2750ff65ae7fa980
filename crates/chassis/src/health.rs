//! Is the process alive, is it ready, and what has it counted?

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use crate::config::Reader;
use crate::metrics::Registry;
use crate::secret::Secret;
use crate::shutdown::Shutdown;

/// Time all checks together may take. A probe must answer before the one who probes gives up.
const BUDGET: Duration = Duration::from_secs(2);

type Check = dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// The conditions under which a service can do its work, each with the reason it gives when it does not hold.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Vec<(&'static str, Arc<Check>)>,
    shutdown: Option<Shutdown>,
}

impl Readiness {
    /// Ready as long as no check was added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition. Checks run in the order in which they were added, and the first that fails gives its
    /// `reason`, a word such as `postgres_unreachable`.
    #[must_use]
    pub fn add<F, C>(mut self, reason: &'static str, check: C) -> Self
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        self.checks.push((reason, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Answers `draining` once the shutdown is requested, so that a load balancer stops sending.
    #[must_use]
    pub fn until(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Runs the checks.
    ///
    /// # Errors
    /// The reason of the first check that failed, or that did not answer within two seconds for all together.
    pub async fn evaluate(&self) -> Result<(), &'static str> {
        if self.shutdown.as_ref().is_some_and(Shutdown::is_requested) {
            return Err("draining");
        }
        let until = tokio::time::Instant::now() + BUDGET;
        for (reason, check) in &self.checks {
            if !tokio::time::timeout_at(until, check()).await.unwrap_or(false) {
                return Err(reason);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.checks.iter().map(|(reason, _)| reason))
            .finish()
    }
}

/// Who may read the metrics, and in which format they come when the client does not say.
#[derive(Clone, Debug)]
pub struct MetricsAccess {
    bearer: Option<Secret>,
    open: bool,
    json_first: bool,
}

impl MetricsAccess {
    /// Reads `METRICS_BEARER` (unset: open in dev mode, closed otherwise) and `METRICS_FORMAT` (`text` or `json`: what
    /// `/metrics` answers to a client that accepts anything).
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            bearer: reader.optional_secret("METRICS_BEARER"),
            open: reader.mode().is_dev(),
            json_first: reader.choice("METRICS_FORMAT", false, &[("text", false), ("json", true)]),
        }
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        match &self.bearer {
            None => self.open,
            Some(bearer) => {
                let presented = headers
                    .get(header::AUTHORIZATION)
                    .map(http::HeaderValue::as_bytes);
                presented
                    .and_then(|value| value.strip_prefix(b"Bearer "))
                    .is_some_and(|token| bearer.matches(token))
            }
        }
    }

    /// What `/metrics` answers: the query decides, then the `Accept` header, then the setting.
    fn wants_json(&self, query: Option<&str>, headers: &HeaderMap) -> bool {
        let query = query.unwrap_or_default();
        if query.split('&').any(|pair| pair == "format=json") {
            return true;
        }
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if accept.contains("text/plain") || accept.contains("openmetrics") {
            return false;
        }
        accept.contains("application/json") || self.json_first
    }
}

/// Looks up what is not counted as it happens.
type Refresh = Arc<dyn Fn() + Send + Sync>;
/// Makes the document of `/metrics.json`.
type Document = Arc<dyn Fn() -> Value + Send + Sync>;

/// The routes every service has: `/health`, `/ready`, `/metrics`, `/metrics.json`.
#[derive(Clone)]
pub struct Health {
    readiness: Readiness,
    registry: Registry,
    access: MetricsAccess,
    refresh: Refresh,
    document: Document,
}

impl Health {
    /// The usual routes; `/metrics.json` is [`Registry::json`].
    pub fn new(readiness: Readiness, registry: Registry, access: MetricsAccess) -> Self {
        let metrics = registry.clone();
        Self {
            readiness,
            registry,
            access,
            refresh: Arc::new(|| ()),
            document: Arc::new(move || metrics.json()),
        }
    }

    /// Calls `refresh` each time before metrics are read, so that gauges show what is and not what was.
    #[must_use]
    pub fn refreshed_by(mut self, refresh: impl Fn() + Send + Sync + 'static) -> Self {
        self.refresh = Arc::new(refresh);
        self
    }

    /// Serves `document` at `/metrics.json`, for a service whose JSON metrics have a shape of their own.
    #[must_use]
    pub fn with_json(mut self, document: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.document = Arc::new(document);
        self
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/metrics.json", get(metrics_json))
            .with_state(Arc::new(self))
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Health")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// The usual routes: see [`Health`].
pub fn router(readiness: Readiness, registry: Registry, access: MetricsAccess) -> Router {
    Health::new(readiness, registry, access).router()
}

/// Liveness: the process answers. It depends on nothing, because restarting does not mend a lost database.
async fn health() -> Response {
    axum::Json(json!({"ok": true})).into_response()
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    match health.readiness.evaluate().await {
        Ok(()) => axum::Json(json!({"ok": true, "ready": true})).into_response(),
        Err(reason) => {
            let body = json!({"ok": false, "ready": false, "reason": reason});
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

async fn metrics(
    State(health): State<Arc<Health>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if !health.access.allows(&headers) {
        return unauthorized();
    }
    (health.refresh)();
    if health.access.wants_json(query.as_deref(), &headers) {
        return axum::Json((health.document)()).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (content_type, health.registry.text()).into_response()
}

async fn metrics_json(State(health): State<Arc<Health>>, headers: HeaderMap) -> Response {
    if health.access.allows(&headers) {
        (health.refresh)();
        axum::Json((health.document)()).into_response()
    } else {
        unauthorized()
    }
}

/// RFC 6750 section 3: a 401 names the scheme.
fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (
        StatusCode::UNAUTHORIZED,
        challenge,
        axum::Json(json!({"error": "unauthorized"})),
    )
        .into_response()
}
