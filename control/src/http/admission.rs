//! What does every request of the admin API pass before and after its handler?
//!
//! The order is the contract (`docs/contract/admin-api.md` section 2): limit of the address, token, capability and zone,
//! reserved zones, account, limit of the token. After the handler: the body of a refusal, the record of a failure, and the
//! headers every answer has.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::{Peer, RequestId};
use caracal_chassis::{Clock, Secret};
use caracal_model::ZoneId;
use caracal_storage::zone::Zone;
use caracal_storage::{Database, zone};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::answer::Refused;
use super::router::RouteFacts;
use crate::admin_token::{
    ACCOUNT_HEADER, AccountId, Actor, AuthenticationError, Authenticator, Effect, Place, ZoneStanding, check,
    check_account, check_reserved, verify_account,
};
use crate::attempt::{Attempt, AttemptRecorder};
use crate::caller::{Caller, RequestFacts, zone_of};
use crate::metrics::Metrics;
use crate::rate_limit::RateLimit;
use crate::refusal::{Code, Refusal};

const AUTHORIZED_BY_HEADER: &str = "x-caracal-authorized-by";
const CREATED_VIA_HEADER: &str = "x-caracal-created-via";
/// Every path of the API begins with it.
const API_PREFIX: &str = "/v1/";

/// How often one client may ask, each counted per minute.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Requests of one address, before anything is looked up.
    pub(crate) address: RateLimit,
    /// Failed authentications of one address.
    pub(crate) failures: RateLimit,
    /// Requests of one token.
    pub(crate) actor: RateLimit,
}

/// Everything admission needs.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) authenticator: Authenticator,
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    /// The bootstrap token, which keys account assertions.
    pub(crate) account_key: Option<Secret>,
    pub(crate) limits: Limits,
    /// Whether the last element of `x-forwarded-for` is the client's address.
    pub(crate) trust_proxy: bool,
    pub(crate) recorder: AttemptRecorder,
    pub(crate) metrics: Metrics,
}

/// Admission, and what it knows about the routes behind it.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) admission: Admission,
    pub(super) routes: HashMap<(Method, &'static str), RouteFacts>,
}

/// What is remembered of a request for after its handler.
#[derive(Debug)]
struct About {
    request_id: String,
    method: Method,
    path: String,
}

/// A refusal before the handler, and whose request it was as far as that is known.
struct Denied {
    refusal: Refusal,
    actor: Option<Arc<Actor>>,
}

/// The layer around every route.
pub(super) async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let request_id = parts.extensions.get::<RequestId>();
    let about = About {
        request_id: request_id.map_or_else(String::new, |id| id.as_str().to_owned()),
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
    };
    if !about.path.starts_with(API_PREFIX) {
        return write_refusal(next.run(Request::from_parts(parts, body)).await, &about);
    }
    let (response, actor) = match gate.allow(&parts, &about).await {
        Ok(caller) => {
            let actor = Arc::clone(&caller.actor);
            parts.extensions.insert(caller);
            (next.run(Request::from_parts(parts, body)).await, Some(actor))
        }
        Err(denied) => (denied.refusal.into_response(), denied.actor),
    };
    gate.admission.note(&response, &about, actor);
    with_headers(write_refusal(response, &about))
}

/// The layer around routes that need no administrator, because what is presented there proves itself. Only addresses are
/// counted.
pub(super) async fn admit_anybody(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let request_id = parts.extensions.get::<RequestId>();
    let about = About {
        request_id: request_id.map_or_else(String::new, |id| id.as_str().to_owned()),
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
    };
    let address = client_address(&parts, gate.admission.trust_proxy);
    let response = if gate.admission.limits.address.take(&address) {
        next.run(Request::from_parts(parts, body)).await
    } else {
        Refusal::from(Code::RateLimited).into_response()
    };
    gate.admission.note(&response, &about, None);
    with_headers(write_refusal(response, &about))
}

impl Gate {
    async fn allow(&self, parts: &Parts, about: &About) -> Result<Caller, Denied> {
        let address = client_address(parts, self.admission.trust_proxy);
        let actor = self
            .admission
            .authenticate(&parts.headers, &address)
            .await
            .map_err(|refusal| Denied { refusal, actor: None })?;
        let caller = self.authorize(parts, about, &actor).await;
        caller.map_err(|refusal| Denied {
            refusal,
            actor: Some(actor),
        })
    }

    async fn authorize(&self, parts: &Parts, about: &About, actor: &Arc<Actor>) -> Result<Caller, Refusal> {
        let (effect, place, open_to_accounts) = self.facts(parts, about);
        let zone = zone_of(&about.path);
        check(actor, effect, place, zone.as_ref())?;
        let account = self.admission.account(&parts.headers, actor)?;
        let found = self
            .admission
            .zone_if_needed(actor, effect, zone.as_ref(), account.as_ref())
            .await?;
        let standing = found.as_ref().map(standing);
        check_reserved(actor, effect, standing.as_ref())?;
        if let Some(account) = &account {
            check_account(
                account.as_str(),
                effect,
                zone.as_ref(),
                open_to_accounts,
                standing.as_ref(),
            )?;
        }
        if !self.admission.limits.actor.take(actor.id.as_str()) {
            return Err(Code::RateLimited.into());
        }
        let shows_operator = found.as_ref().is_none_or(|zone| zone.operator_coauthor_badge);
        let facts = RequestFacts {
            request_id: &about.request_id,
            method: about.method.as_str(),
            path: &about.path,
            authorized_by: text(&parts.headers, AUTHORIZED_BY_HEADER),
            via_operator: shows_operator && text(&parts.headers, CREATED_VIA_HEADER) == Some("operator"),
        };
        Ok(Caller::new(Arc::clone(actor), account, &facts))
    }

    /// What the request would do. A path that is no route is judged by its method, so that who may not know which routes
    /// exist does not learn it from the answer.
    fn facts(&self, parts: &Parts, about: &About) -> (Effect, Place, bool) {
        let method = if about.method == Method::HEAD {
            Method::GET
        } else {
            about.method.clone()
        };
        let matched = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let route = matched.and_then(|path| {
            self.routes
                .values()
                .find(|route| route.method == method && route.path == path)
        });
        if let Some(route) = route {
            return (route.effect, route.place, route.open_to_accounts);
        }
        let effect = if method == Method::GET {
            Effect::Read
        } else {
            Effect::Write
        };
        let under_zone = about.path.starts_with("/v1/zones/");
        (
            effect,
            if under_zone { Place::Zone } else { Place::Platform },
            false,
        )
    }
}

impl Admission {
    async fn authenticate(&self, headers: &HeaderMap, address: &str) -> Result<Arc<Actor>, Refusal> {
        if !self.limits.address.take(address) {
            return Err(Code::RateLimited.into());
        }
        match self
            .authenticator
            .authenticate(text(headers, header::AUTHORIZATION.as_str()))
            .await
        {
            Ok(actor) => Ok(actor),
            Err(AuthenticationError::Unknown) if self.limits.failures.take(address) => {
                Err(Code::InvalidAdminToken.into())
            }
            Err(AuthenticationError::Unknown) => Err(Code::RateLimited.into()),
            Err(AuthenticationError::Storage(error)) if error.is_unavailable() => {
                Err(Refusal::caused(Code::DatabaseUnreachable, error))
            }
            Err(AuthenticationError::Storage(error)) => Err(Refusal::caused(Code::Internal, error)),
        }
    }

    /// The account behind a derived console token; nobody else's header is read.
    fn account(&self, headers: &HeaderMap, actor: &Actor) -> Result<Option<AccountId>, Refusal> {
        if !actor.origin.is_derived_console() {
            return Ok(None);
        }
        let assertion = text(headers, ACCOUNT_HEADER).zip(self.account_key.as_ref());
        let account =
            assertion.and_then(|(assertion, key)| verify_account(assertion, key, self.clock.unix_seconds()));
        account
            .map(Some)
            .ok_or_else(|| Code::InvalidAccountAssertion.into())
    }

    /// The zone in the path, where a check depends on it. One statement.
    async fn zone_if_needed(
        &self,
        actor: &Actor,
        effect: Effect,
        zone: Option<&ZoneId>,
        account: Option<&AccountId>,
    ) -> Result<Option<Zone>, Refusal> {
        let is_needed = account.is_some() || (effect != Effect::Read && !actor.is_bootstrap());
        let Some(zone) = zone.filter(|_| is_needed) else {
            return Ok(None);
        };
        let mut tx = self.database.read().await?;
        Ok(zone::find(&mut tx, zone).await?)
    }

    /// Counts the answer, and hands a refused request over to be recorded.
    fn note(&self, response: &Response, about: &About, actor: Option<Arc<Actor>>) {
        let status = response.status();
        self.metrics.requests.with_label_values(&[class(status)]).inc();
        let refused = response.extensions().get::<Refused>();
        if let Some(Refused(refusal)) = refused {
            self.metrics
                .refusals
                .with_label_values(&[refusal.code().as_str()])
                .inc();
        }
        // A flood of refusals must not become a flood of rows.
        if status.as_u16() < 400 || status == StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        let attempt = Attempt {
            request_id: about.request_id.clone(),
            zone: actor.as_ref().and_then(|_| zone_of(&about.path)),
            actor,
            method: about.method.to_string(),
            path: about.path.clone(),
            status: status.as_u16(),
        };
        if !self.recorder.offer(attempt) {
            self.metrics.attempts_dropped.inc();
        }
    }
}

fn standing(zone: &Zone) -> ZoneStanding {
    ZoneStanding {
        name: zone.name.clone(),
        slug: zone.slug.clone(),
        owner_account_id: zone.owner_account_id.clone(),
    }
}

fn client_address(parts: &Parts, trust_proxy: bool) -> String {
    let peer = parts.extensions.get::<Peer>().copied().unwrap_or(Peer::Local);
    let address = peer.client_ip(&parts.headers, trust_proxy);
    address.map_or_else(|| "local".to_owned(), |address| address.to_string())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get(name)
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
}

/// The only place where the body of a refusal is written and its cause logged.
fn write_refusal(mut response: Response, about: &About) -> Response {
    let Some(Refused(refusal)) = response.extensions_mut().remove::<Refused>() else {
        return response;
    };
    if refusal.is_ours() {
        tracing::error!(
            request.id = about.request_id, http.method = %about.method, http.path = about.path,
            error = refusal.chain(), "a request failed"
        );
    }
    let mut answer = (response.status(), Json(refusal.body(&about.request_id))).into_response();
    let headers = answer.headers_mut();
    match refusal.code().status() {
        401 => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        429 | 503 => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    answer
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=299 => "2xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "other",
    }
}
