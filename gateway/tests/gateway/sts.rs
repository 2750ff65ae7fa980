//! An STS that does what a test tells it: checks the gateway's signature, records the exchange, and answers.

mod operations;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use caracal_chassis::server::{self, Limits};
use caracal_chassis::shutdown::Shutdown;
use caracal_testing::{Mandate, TestKeys};
use caracal_wire::answer_mac::{self, AnswerMacKey};
use caracal_wire::gateway_document::{self, DOCUMENTS_PATH, GatewayDocument, LEASE_SUFFIX};
use caracal_wire::gateway_operations::OPERATIONS_PATH;
use caracal_wire::gateway_signature::{self, Presented};
use caracal_wire::sts::{RevocationSnapshot, RevokedAnchor, TokenResponse, Upstream, field};
use caracal_wire::{form, sts as wire};
use serde_json::json;
use tokio::sync::Notify;

pub(crate) use self::operations::{RESOURCE_ID, Telling};
use crate::rig::{APPLICATION, ISSUER, RESOURCE, SHARED_KEY, ZONE, now};

/// How the token endpoint answers.
#[derive(Clone)]
pub(crate) enum Grant {
    /// 200 with a mandate for the resource asked for, and this upstream.
    Upstream(Upstream),
    /// This status, content type and body.
    Raw(u16, &'static str, String),
    /// 200 with this token and upstream.
    Token(String, Upstream),
    /// The same with a MAC under the key derived from these bytes, over the call of this signature; empty for the call that
    /// is answered.
    Sealed(String, Upstream, [u8; 32], String),
    /// What an STS with the key derived from these bytes answers: as `Sealed` without a token to a gateway that has the key,
    /// else as `Upstream`.
    ByKey(Upstream, [u8; 32]),
    /// What `Upstream` answers, once the test says so.
    Held(Arc<Notify>, Upstream),
    /// Nothing, ever.
    Silence,
}

/// What the gateway sent to the token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) form: HashMap<String, String>,
    pub(crate) request_id: String,
    /// How it asks for a MAC over it and the answer; empty when it does not.
    pub(crate) mac_question: String,
    pub(crate) signature: String,
    /// How long the gateway says that it waits.
    pub(crate) timeout_ms: u64,
}

#[derive(Clone)]
pub(crate) struct FakeSts {
    state: Arc<Inside>,
    pub(crate) address: SocketAddr,
    router: Router,
    stop: Shutdown,
}

struct Inside {
    keys: Arc<TestKeys>,
    grant: Mutex<Grant>,
    exchanges: Mutex<Vec<Exchange>>,
    revoked: Mutex<Vec<RevokedAnchor>>,
    key_requests: AtomicUsize,
    snapshot_requests: AtomicUsize,
    document: Mutex<StoredDocument>,
    document_reads: AtomicUsize,
    declared: operations::Declared,
}

/// The one document of gateways.
#[derive(Clone, Debug, Default)]
struct StoredDocument {
    version: i64,
    text: Option<String>,
    holder: Option<String>,
}

impl FakeSts {
    pub(crate) async fn start(upstream: Upstream) -> Self {
        Self::start_at(
            "127.0.0.1:0".parse().unwrap(),
            Arc::new(TestKeys::new()),
            upstream,
        )
        .await
    }

    pub(crate) async fn start_at(address: SocketAddr, keys: Arc<TestKeys>, upstream: Upstream) -> Self {
        let listener = server::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Inside {
            keys,
            grant: Mutex::new(Grant::Upstream(upstream)),
            exchanges: Mutex::default(),
            revoked: Mutex::default(),
            key_requests: AtomicUsize::new(0),
            snapshot_requests: AtomicUsize::new(0),
            document: Mutex::default(),
            document_reads: AtomicUsize::new(0),
            declared: operations::Declared::default(),
        });
        let router = Router::new()
            .route(wire::TOKEN_PATH, post(exchange))
            .route(wire::JWKS_PATH, get(keys_of_zone))
            .route(wire::REVOCATIONS_PATH, get(revocations))
            .route(OPERATIONS_PATH, get(operations::operations))
            .route(
                &format!("{DOCUMENTS_PATH}{{name}}"),
                get(read_document).post(write_document),
            )
            .route(
                &format!("{DOCUMENTS_PATH}{{name}}{LEASE_SUFFIX}"),
                post(lease_document),
            )
            .route("/health", get(|| async { StatusCode::OK }))
            .with_state(Arc::clone(&state));
        let stop = Shutdown::new();
        tokio::spawn(server::serve(
            listener,
            router.clone(),
            Limits::default(),
            stop.clone(),
        ));
        Self {
            state,
            address,
            router,
            stop,
        }
    }

    /// Listens at a Unix socket as well.
    pub(crate) fn listen_at(&self, path: &std::path::Path) {
        let listener = server::bind_unix(path).unwrap();
        let router = self.router.clone();
        tokio::spawn(server::serve_unix(
            listener,
            router,
            Limits::default(),
            self.stop.clone(),
        ));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn grant(&self, grant: Grant) {
        *self.state.grant.lock().unwrap() = grant;
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.state.exchanges.lock().unwrap().clone()
    }

    pub(crate) fn revoke_in_snapshot(&self, kind: caracal_model::AnchorKind, id: &str) {
        let anchor = RevokedAnchor {
            zone_id: ZONE.parse().unwrap(),
            kind,
            id: id.to_owned(),
            expires_at: now() + 3_600,
        };
        self.state.revoked.lock().unwrap().push(anchor);
    }

    pub(crate) fn key_requests(&self) -> usize {
        self.state.key_requests.load(Ordering::SeqCst)
    }

    pub(crate) fn snapshot_requests(&self) -> usize {
        self.state.snapshot_requests.load(Ordering::SeqCst)
    }

    /// How often gateways have read the document they keep.
    pub(crate) fn document_reads(&self) -> usize {
        self.state.document_reads.load(Ordering::SeqCst)
    }

    /// How often they have written it.
    pub(crate) fn document_version(&self) -> i64 {
        self.state.document.lock().unwrap().version
    }

    pub(crate) fn keys(&self) -> Arc<TestKeys> {
        Arc::clone(&self.state.keys)
    }

    pub(crate) fn stop(&self) {
        self.stop.trigger();
    }

    /// A mandate for one call, signed by the zone.
    pub(crate) fn mandate(&self) -> String {
        self.sign(one_shot())
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "mandates are built where they are signed"
    )]
    pub(crate) fn sign(&self, mandate: Mandate) -> String {
        mandate.sign(&self.state.keys)
    }
}

/// A mandate for one call, to be changed and signed.
pub(crate) fn one_shot() -> Mandate {
    Mandate::gateway(ZONE, APPLICATION, now())
        .issuer(ISSUER)
        .target(RESOURCE)
}

/// A reusable mandate, to be changed and signed.
pub(crate) fn reusable() -> Mandate {
    Mandate::session(ZONE, APPLICATION, now())
        .issuer(ISSUER)
        .target(RESOURCE)
}

impl Inside {
    /// Whether the gateway signed this request.
    fn is_signed(headers: &HeaderMap, method: &str, path: &str, body: &[u8]) -> bool {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let presented = Presented {
            timestamp: header(gateway_signature::TIMESTAMP),
            nonce: header(gateway_signature::NONCE),
            signature: header(gateway_signature::SIGNATURE),
        };
        let key = hex::decode(SHARED_KEY).unwrap();
        presented.nonce.len() == 64
            && gateway_signature::verify(&key, &presented, method, path, body, now()).is_ok()
    }
}

async fn exchange(State(state): State<Arc<Inside>>, headers: HeaderMap, body: Bytes) -> Response {
    if !Inside::is_signed(&headers, "POST", wire::TOKEN_PATH, &body) {
        return (
            StatusCode::UNAUTHORIZED,
            axum::Json(json!({"error": "access_denied"})),
        )
            .into_response();
    }
    let form = form::parse(&body, &[]).unwrap();
    let value = |name: &str| form.get(name).unwrap_or_default().to_owned();
    let names = [
        field::APPLICATION_ID,
        field::GATEWAY_REQUEST_ID,
        field::GRANT_TYPE,
        field::REQUEST_METHOD,
        field::REQUEST_PATH,
        field::RESOURCE,
        field::SENDER_JKT,
        field::SENDER_X5T,
        field::SUBJECT_TOKEN,
        field::SUBJECT_TOKEN_TYPE,
        field::ZONE_ID,
    ];
    let sent = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), form.get(name)?.to_owned())));
    let exchange = Exchange {
        form: sent.collect(),
        request_id: headers["x-request-id"].to_str().unwrap().to_owned(),
        mac_question: headers
            .get(answer_mac::HEADER)
            .map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
        signature: headers[gateway_signature::SIGNATURE].to_str().unwrap().to_owned(),
        timeout_ms: headers["x-caracal-timeout-ms"].to_str().unwrap().parse().unwrap(),
    };
    let (signature, question) = (exchange.signature.clone(), exchange.mac_question.clone());
    let grant = state.grant.lock().unwrap().clone();
    state.exchanges.lock().unwrap().push(exchange);
    if let Some(refusal) = state.declared.refusal(&form) {
        return refusal;
    }
    let grant = match grant {
        Grant::Held(released, upstream) => {
            released.notified().await;
            Grant::Upstream(upstream)
        }
        Grant::ByKey(upstream, key) if AnswerMacKey::derive(&key).is_question(&signature, &question) => {
            Grant::Sealed(String::new(), upstream, key, String::new())
        }
        Grant::ByKey(upstream, _key) => Grant::Upstream(upstream),
        grant => grant,
    };
    match grant {
        Grant::Upstream(upstream) => {
            let resource = value(field::RESOURCE);
            let mandate = Mandate::resource(
                &value(field::ZONE_ID),
                &value(field::APPLICATION_ID),
                &resource,
                now(),
            );
            granted(mandate.issuer(ISSUER).sign(&state.keys), &resource, upstream)
        }
        Grant::Token(token, upstream) => granted(token, &value(field::RESOURCE), upstream),
        Grant::Sealed(token, upstream, key, call) => {
            let call = if call.is_empty() { signature } else { call };
            let body = response(token, &value(field::RESOURCE), upstream);
            let body = serde_json::to_vec(&body).unwrap();
            let mac = AnswerMacKey::derive(&key).seal(&call, &body);
            let headers = [
                (http::header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
                (answer_mac::HEADER, mac),
            ];
            (headers, body).into_response()
        }
        Grant::Raw(status, content_type, body) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(http::header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Grant::Held(..) | Grant::ByKey(..) | Grant::Silence => std::future::pending().await,
    }
}

fn granted(token: String, resource: &str, upstream: Upstream) -> Response {
    axum::Json(response(token, resource, upstream)).into_response()
}

fn response(token: String, resource: &str, upstream: Upstream) -> TokenResponse {
    TokenResponse {
        access_token: token,
        token_type: wire::BEARER.to_owned(),
        expires_in: 900,
        scope: None,
        issued_token_type: wire::ACCESS_TOKEN_TYPE.to_owned(),
        target_resources: vec![resource.to_owned()],
        upstreams: [(resource.to_owned(), upstream)].into(),
    }
}

async fn keys_of_zone(
    State(state): State<Arc<Inside>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    state.key_requests.fetch_add(1, Ordering::SeqCst);
    if query.get("zone_id").is_some_and(|zone| zone == ZONE) {
        axum::Json(state.keys.jwks()).into_response()
    } else {
        (
            StatusCode::NOT_FOUND,
            axum::Json(json!({"error": "resource_not_found"})),
        )
            .into_response()
    }
}

/// In parts of one revocation each.
async fn revocations(
    State(state): State<Arc<Inside>>,
    OriginalUri(target): OriginalUri,
    Query(query): Query<HashMap<String, usize>>,
    headers: HeaderMap,
) -> Response {
    state.snapshot_requests.fetch_add(1, Ordering::SeqCst);
    if !Inside::is_signed(&headers, "GET", &target.to_string(), b"") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let all = state.revoked.lock().unwrap();
    let after = query[wire::REVOCATIONS_AFTER];
    let next = (after + 1 < all.len()).then(|| i64::try_from(after + 1).unwrap());
    axum::Json(RevocationSnapshot {
        as_of_unix_ms: now() * 1_000,
        revocations: all.get(after).cloned().into_iter().collect(),
        next,
    })
    .into_response()
}

impl StoredDocument {
    fn answer(&self) -> Response {
        let document = GatewayDocument {
            version: self.version,
            document: self.text.clone(),
            is_leased: self.holder.is_some(),
        };
        axum::Json(document).into_response()
    }
}

async fn read_document(
    State(state): State<Arc<Inside>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !Inside::is_signed(&headers, "GET", &gateway_document::path(&name), b"") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    state.document_reads.fetch_add(1, Ordering::SeqCst);
    state.document.lock().unwrap().answer()
}

async fn lease_document(
    State(state): State<Arc<Inside>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !Inside::is_signed(&headers, "POST", &gateway_document::lease_path(&name), &body) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let form = form::parse(&body, &[]).unwrap();
    let holder = form.get("holder").unwrap();
    let mut document = state.document.lock().unwrap();
    match document.holder.as_deref() {
        Some(other) if other != holder => return StatusCode::CONFLICT.into_response(),
        _ => document.holder = (form.get("seconds") != Some("0")).then(|| holder.to_owned()),
    }
    document.answer()
}

async fn write_document(
    State(state): State<Arc<Inside>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !Inside::is_signed(&headers, "POST", &gateway_document::path(&name), &body) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let form = form::parse(&body, &[]).unwrap();
    let mut document = state.document.lock().unwrap();
    let version = document.version.to_string();
    if document.holder.as_deref() != form.get("holder") || form.get("version") != Some(&version) {
        return StatusCode::CONFLICT.into_response();
    }
    document.version += 1;
    document.text = form.get("document").map(str::to_owned);
    document.answer()
}
