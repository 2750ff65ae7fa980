//! Which routes are there, and who may call each?
//!
//! One flat list, in the order of the contract (`docs/contract/admin-api.md` section 4). What authorization needs to know
//! stands beside each route, so that a route without it cannot be added.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use http::Method;

use super::admission::{self, Admission, Gate};
use super::{
    admin_audit, application_keys, applications, approvals, audit, authority_records, gateway_binding,
    grants, policies, policy_sets, policy_templates, provider_connections, providers, resources, sessions,
    step_up_challenges, subject_issuers, subjects, workloads, zones,
};
use crate::admin_token::{Effect, Place};
use crate::control::Control;
use crate::refusal::{Code, Refusal};

/// What is known about a route without calling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFacts {
    /// HTTP method; GET stands for HEAD as well.
    pub method: Method,
    /// Path with `{name}` for what varies.
    pub path: &'static str,
    /// What it does.
    pub effect: Effect,
    /// Where it belongs.
    pub place: Place,
    /// Whether a console account may call it although it names no zone.
    pub open_to_accounts: bool,
}

struct Route {
    facts: RouteFacts,
    handler: MethodRouter<Arc<Control>>,
}

/// A route under a zone.
fn zone(method: Method, path: &'static str, effect: Effect, handler: MethodRouter<Arc<Control>>) -> Route {
    let facts = RouteFacts {
        method,
        path,
        effect,
        place: Place::Zone,
        open_to_accounts: false,
    };
    Route { facts, handler }
}

/// A route without a zone.
fn platform(
    method: Method,
    path: &'static str,
    effect: Effect,
    place: Place,
    handler: MethodRouter<Arc<Control>>,
) -> Route {
    let facts = RouteFacts {
        method,
        path,
        effect,
        place,
        open_to_accounts: true,
    };
    Route { facts, handler }
}

#[rustfmt::skip]
fn routes() -> Vec<Route> {
    use Effect::{Decide, Read, Write};
    use Place::{Platform, Shared};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PATCH: Method = Method::PATCH;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    vec![
        platform(GET,  "/v1/zones", Read,  Platform, get(zones::list)),
        platform(POST, "/v1/zones", Write, Platform, post(zones::create)),
        zone(GET,    "/v1/zones/{zone}", Read,  get(zones::find)),
        zone(PATCH,  "/v1/zones/{zone}", Write, patch(zones::patch)),
        zone(DELETE, "/v1/zones/{zone}", Write, delete(zones::archive)),
        zone(GET,    "/v1/zones/{zone}/dcr-status", Read, get(zones::dcr_status)),

        zone(GET,    "/v1/zones/{zone}/applications", Read,  get(applications::list)),
        zone(POST,   "/v1/zones/{zone}/applications", Write, post(applications::create)),
        zone(GET,    "/v1/zones/{zone}/applications/{id}", Read,  get(applications::find)),
        zone(PATCH,  "/v1/zones/{zone}/applications/{id}", Write, patch(applications::patch)),
        zone(DELETE, "/v1/zones/{zone}/applications/{id}", Write, delete(applications::archive)),
        zone(POST,   "/v1/zones/{zone}/applications/{id}/rotate-secret", Write, post(applications::rotate_secret)),
        zone(GET,    "/v1/zones/{zone}/applications/{id}/keys", Read,  get(application_keys::find)),
        zone(PUT,    "/v1/zones/{zone}/applications/{id}/keys", Write, put(application_keys::put)),
        zone(DELETE, "/v1/zones/{zone}/applications/{id}/keys", Write, delete(application_keys::delete)),

        zone(GET,    "/v1/zones/{zone}/workloads", Read,  get(workloads::list)),
        zone(POST,   "/v1/zones/{zone}/workloads", Write, post(workloads::create)),
        zone(GET,    "/v1/zones/{zone}/workloads/{id}", Read,  get(workloads::find)),
        zone(PUT,    "/v1/zones/{zone}/workloads/{id}", Write, put(workloads::put)),
        zone(DELETE, "/v1/zones/{zone}/workloads/{id}", Write, delete(workloads::delete)),
        zone(POST,   "/v1/zones/{zone}/workloads/{id}/rotate-secret", Write, post(workloads::rotate_secret)),

        zone(GET,    "/v1/zones/{zone}/providers", Read,  get(providers::list)),
        zone(POST,   "/v1/zones/{zone}/providers", Write, post(providers::create)),
        zone(GET,    "/v1/zones/{zone}/providers/{id}", Read,  get(providers::find)),
        zone(PATCH,  "/v1/zones/{zone}/providers/{id}", Write, patch(providers::patch)),
        zone(DELETE, "/v1/zones/{zone}/providers/{id}", Write, delete(providers::archive)),

        zone(GET,    "/v1/zones/{zone}/provider-connections", Read,  get(provider_connections::list)),
        zone(POST,   "/v1/zones/{zone}/provider-connections", Write, post(provider_connections::create)),
        zone(POST,   "/v1/zones/{zone}/provider-connections/revoke", Write, post(provider_connections::revoke)),
        zone(POST,   "/v1/zones/{zone}/provider-connections/oauth/authorize", Write, post(provider_connections::authorize)),

        zone(GET,    "/v1/zones/{zone}/resources", Read,  get(resources::list)),
        zone(POST,   "/v1/zones/{zone}/resources", Write, post(resources::create)),
        zone(GET,    "/v1/zones/{zone}/resources/{id}", Read,  get(resources::find)),
        zone(PATCH,  "/v1/zones/{zone}/resources/{id}", Write, patch(resources::patch)),
        zone(DELETE, "/v1/zones/{zone}/resources/{id}", Write, delete(resources::archive)),
        zone(GET,    "/v1/zones/{zone}/resources/{id}/gateway-binding", Read,  get(gateway_binding::find)),
        zone(PUT,    "/v1/zones/{zone}/resources/{id}/gateway-binding", Write, put(gateway_binding::put)),
        zone(DELETE, "/v1/zones/{zone}/resources/{id}/gateway-binding", Write, delete(gateway_binding::delete)),

        platform(POST, "/v1/policies/validate", Read, Shared, post(policies::validate)),
        platform(GET,  "/v1/policy-templates",  Read, Shared, get(policy_templates::list)),
        zone(GET,    "/v1/zones/{zone}/policies", Read,  get(policies::list)),
        zone(POST,   "/v1/zones/{zone}/policies", Write, post(policies::create)),
        zone(GET,    "/v1/zones/{zone}/policies/{id}", Read,  get(policies::find)),
        zone(DELETE, "/v1/zones/{zone}/policies/{id}", Write, delete(policies::archive)),
        zone(POST,   "/v1/zones/{zone}/policies/{id}/versions", Write, post(policies::add_version)),

        zone(GET,    "/v1/zones/{zone}/policy-sets", Read,  get(policy_sets::list)),
        zone(POST,   "/v1/zones/{zone}/policy-sets", Write, post(policy_sets::create)),
        zone(GET,    "/v1/zones/{zone}/policy-sets/{id}", Read,  get(policy_sets::find)),
        zone(DELETE, "/v1/zones/{zone}/policy-sets/{id}", Write, delete(policy_sets::archive)),
        zone(GET,    "/v1/zones/{zone}/policy-sets/{id}/versions", Read,  get(policy_sets::versions)),
        zone(POST,   "/v1/zones/{zone}/policy-sets/{id}/versions", Write, post(policy_sets::add_version)),
        zone(GET,    "/v1/zones/{zone}/policy-sets/{id}/versions/{version}", Read, get(policy_sets::find_version)),
        zone(POST,   "/v1/zones/{zone}/policy-sets/{id}/opa-bundle", Write, post(policy_sets::import)),
        zone(POST,   "/v1/zones/{zone}/policy-sets/{id}/activate", Write, post(policy_sets::activate)),
        zone(POST,   "/v1/zones/{zone}/policy-sets/{id}/shadow", Write, post(policy_sets::shadow)),
        zone(GET,    "/v1/zones/{zone}/policy-sets/{id}/activation-status", Read, get(policy_sets::activation_status)),
        zone(POST,   "/v1/zones/{zone}/policy-sets/{id}/simulate", Write, post(policy_sets::simulate)),

        zone(GET,    "/v1/zones/{zone}/approvals", Read, get(approvals::list)),
        zone(GET,    "/v1/zones/{zone}/approvals/counts", Read, get(approvals::counts)),
        zone(GET,    "/v1/zones/{zone}/approvals/{id}", Read, get(approvals::find)),
        zone(POST,   "/v1/zones/{zone}/approvals/{id}/approve", Decide, post(approvals::approve)),
        zone(POST,   "/v1/zones/{zone}/approvals/{id}/reject", Decide, post(approvals::reject)),
        zone(GET,    "/v1/zones/{zone}/step-up-challenges", Read, get(step_up_challenges::list)),
        zone(GET,    "/v1/zones/{zone}/step-up-challenges/{id}", Read, get(step_up_challenges::find)),
        zone(POST,   "/v1/zones/{zone}/step-up-challenges/{id}/satisfy", Decide, post(step_up_challenges::satisfy)),

        zone(GET,    "/v1/zones/{zone}/grants", Read,  get(grants::list)),
        zone(POST,   "/v1/zones/{zone}/grants", Write, post(grants::create)),
        zone(GET,    "/v1/zones/{zone}/grants/{id}", Read,  get(grants::find)),
        zone(DELETE, "/v1/zones/{zone}/grants/{id}", Write, delete(grants::revoke)),

        zone(GET,    "/v1/zones/{zone}/subject-issuers", Read,  get(subject_issuers::list)),
        zone(POST,   "/v1/zones/{zone}/subject-issuers", Write, post(subject_issuers::create)),
        zone(GET,    "/v1/zones/{zone}/subject-issuers/{id}", Read,  get(subject_issuers::find)),
        zone(PATCH,  "/v1/zones/{zone}/subject-issuers/{id}", Write, patch(subject_issuers::patch)),
        zone(DELETE, "/v1/zones/{zone}/subject-issuers/{id}", Write, delete(subject_issuers::archive)),
        zone(GET,    "/v1/zones/{zone}/subjects", Read, get(subjects::list)),
        zone(GET,    "/v1/zones/{zone}/subjects/overview", Read, get(subjects::overview)),
        zone(POST,   "/v1/zones/{zone}/subjects/revoke", Write, post(subjects::revoke)),

        zone(GET,    "/v1/zones/{zone}/authority-records", Read, get(authority_records::list)),
        zone(POST,   "/v1/zones/{zone}/authority-records/{id}/revoke", Write, post(authority_records::revoke)),
        zone(GET,    "/v1/zones/{zone}/sessions", Read, get(sessions::list)),
        zone(GET,    "/v1/zones/{zone}/audit", Read, get(audit::list)),
        zone(GET,    "/v1/zones/{zone}/audit/by-request/{request}", Read, get(audit::by_request)),
        zone(GET,    "/v1/zones/{zone}/admin-audit", Read, get(admin_audit::list)),
    ]
}

/// Every route of the admin API, for tests and documents that must not miss one.
pub fn route_list() -> Vec<RouteFacts> {
    routes().into_iter().map(|route| route.facts).collect()
}

/// The admin API behind its admission.
pub(crate) fn router(control: Arc<Control>, admission: Admission) -> Router {
    let mut facts: HashMap<(Method, &'static str), RouteFacts> = HashMap::new();
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.facts.path, route.handler);
        facts.insert((route.facts.method.clone(), route.facts.path), route.facts);
    }
    let gate = Arc::new(Gate {
        admission,
        routes: facts,
    });
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(Arc::clone(&control))
        .layer(from_fn_with_state(Arc::clone(&gate), admission::admit))
        .merge(public(control, gate))
}

/// Routes without an administrator.
fn public(control: Arc<Control>, gate: Arc<Gate>) -> Router {
    let callback = get(provider_connections::callback).fallback(no_route);
    Router::new()
        .route("/v1/zones/{zone}/provider-connections/oauth/callback", callback)
        .with_state(control)
        .layer(from_fn_with_state(gate, admission::admit_anybody))
}

async fn no_route() -> Refusal {
    Code::RouteNotFound.into()
}
