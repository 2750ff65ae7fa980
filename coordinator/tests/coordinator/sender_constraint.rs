//! A mandate that is bound to keys is taken from whoever shows them for that very request, and from nobody else (RFC 9449, RFC
//! 8705).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::RedisBus;
use caracal_chassis::http_client::{Client, ClientLimits, Response};
use caracal_testing::{ClientCertificate, FaultProxy, ProofKey, Role, TestDatabase, TestRedis, wait_until};
use caracal_token::{Confirmation, Possession};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

use crate::world::{World, mandate};

const AGENTS: &str = "/zones/zone-1/agents";

/// A mandate of app-a that is bound.
fn bound(world: &World, confirmation: Confirmation) -> String {
    let bound = mandate("app-a").with(|claims| claims.cnf = Some(confirmation));
    bound.sign(&world.keys)
}

async fn start(world: &World, scheme: &str, mandate: &str, headers: &[(&'static str, &str)]) -> Response {
    start_with(
        world,
        scheme,
        mandate,
        headers,
        json!({"application_id": "app-a"}),
    )
    .await
}

async fn start_with(
    world: &World,
    scheme: &str,
    mandate: &str,
    headers: &[(&'static str, &str)],
    body: Value,
) -> Response {
    let mut all = HeaderMap::new();
    all.append("authorization", format!("{scheme} {mandate}").parse().unwrap());
    all.append("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        all.append(*name, value.parse().unwrap());
    }
    let url = format!("{}{AGENTS}", world.base_url);
    let client = Client::new(ClientLimits::default());
    let body = Bytes::from(body.to_string());
    client.request(Method::POST, &url, all, body).await.unwrap()
}

#[track_caller]
fn assert_refused(answer: &Response, code: &str, description: &str) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status.as_u16(), &body["error"]),
        (401, &json!(code)),
        "{body}"
    );
    assert_eq!(body["error_description"], description);
    let needs_a_proof = code == "invalid_dpop_proof" || description == "token is bound to a key";
    let scheme = if needs_a_proof { "DPoP" } else { "Bearer" };
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with(&format!("{scheme} error=\"{code}\"")),
        "{challenge}"
    );
}

async fn sessions(world: &World) -> usize {
    world.column("SELECT id FROM sessions").await.len()
}

#[tokio::test]
async fn a_bound_mandate_is_taken_with_a_proof_once_and_never_as_a_bearer() {
    let world = World::start().await;
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let token = bound(&world, key.confirmation());
    let here = format!("{}{AGENTS}", world.base_url);
    let usual = || key.proof("POST", &here).token(&token);
    let elsewhere = format!("{}/zones/zone-1/delegations", world.base_url);
    let proofs = [
        (None, "a proof of possession is required"),
        (Some("x".to_owned()), "the proof is malformed"),
        (
            Some(key.proof("GET", &here).token(&token).sign()),
            "the proof is for another method",
        ),
        (
            Some(key.proof("POST", &elsewhere).token(&token).sign()),
            "the proof is for another address",
        ),
        (
            Some(key.proof("POST", AGENTS).token(&token).sign()),
            "the proof is for another address",
        ),
        (
            Some(key.proof("POST", &here).sign()),
            "the proof is for another token",
        ),
        (
            Some(other.proof("POST", &here).token(&token).sign()),
            "the proof is by another key",
        ),
    ];
    for (proof, description) in &proofs {
        let headers: Vec<(&str, &str)> = proof.iter().map(|proof| ("dpop", proof.as_str())).collect();
        assert_refused(
            &start(&world, "DPoP", &token, &headers).await,
            "invalid_dpop_proof",
            description,
        );
    }
    let proof = usual().sign();
    let bearer = start(&world, "Bearer", &token, &[("dpop", &proof)]).await;
    assert_refused(&bearer, "invalid_token", "token is bound to a key");
    assert_eq!(sessions(&world).await, 0);

    let taken = start(&world, "DPoP", &token, &[("dpop", &proof)]).await;
    assert_eq!(taken.status, 201, "none of them used the proof up: {taken:?}");
    let again = start(&world, "DPoP", &token, &[("dpop", &proof)]).await;
    assert_refused(&again, "invalid_dpop_proof", "the proof was used before");
    assert_eq!(sessions(&world).await, 1);
    let fresh = usual().sign();
    assert_eq!(
        start(&world, "dpop", &token, &[("dpop", &fresh)]).await.status,
        201
    );

    let unbound = mandate("app-a").sign(&world.keys);
    let proof = key.proof("POST", &here).token(&unbound).sign();
    let answer = start(&world, "DPoP", &unbound, &[("dpop", &proof)]).await;
    assert_refused(&answer, "invalid_token", "token is not bound to a key");
}

#[track_caller]
fn assert_undecided(answer: &Response) {
    refused_with(answer, 503, "service_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_proof_is_refused_while_nobody_can_tell_whether_it_was_used() {
    let redis = TestRedis::new().await;
    let proxy = FaultProxy::before(redis.url()).await;
    let bus = RedisBus::connect(&proxy.url_through(redis.url())).unwrap();
    let database = TestDatabase::new().await;
    let url = database.url_as(Role::Coordinator);
    let world = World::start_between(database, &url, Arc::new(bus), &[]).await;
    let key = ProofKey::new();
    let token = bound(&world, key.confirmation());
    let here = format!("{}{AGENTS}", world.base_url);
    let proof = || key.proof("POST", &here).token(&token).sign();

    // Its memory has just begun: the proof may have been used before.
    let answer = start(&world, "DPoP", &token, &[("dpop", &proof())]).await;
    assert_undecided(&answer);
    redis.remember_for_long().await;
    proxy.refuse();
    let unused = proof();
    let answer = start(&world, "DPoP", &token, &[("dpop", &unused)]).await;
    assert_undecided(&answer);
    let unbound = mandate("app-a").sign(&world.keys);
    let answer = start(&world, "Bearer", &unbound, &[]).await;
    assert_eq!(
        answer.status, 201,
        "who needs no proof is not concerned: {answer:?}"
    );
    proxy.resume();
    wait_until(Duration::from_secs(20), async || world.bus.ping().await.is_ok()).await;
    let answer = start(&world, "DPoP", &token, &[("dpop", &unused)]).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(sessions(&world).await, 2);
}

#[tokio::test]
async fn a_proof_is_not_used_up_by_a_caller_who_is_refused() {
    let world = World::start().await;
    let key = ProofKey::new();
    let here = format!("{}{AGENTS}", world.base_url);
    let token_with = |scope: &str| {
        let bound = mandate("app-a").with(|claims| claims.cnf = Some(key.confirmation()));
        bound.scope(scope).sign(&world.keys)
    };
    // The coordinator knows a used proof by its key and id: one id in proofs for two mandates is one proof.
    let proof = |token: &str, id: &str| key.proof("POST", &here).token(token).claim("jti", id).sign();
    let good = token_with("agent:lifecycle");
    let other_scope = token_with("crm:read");
    let answer = start(
        &world,
        "DPoP",
        &other_scope,
        &[("dpop", &proof(&other_scope, "a"))],
    )
    .await;
    refused_with(&answer, 403, "missing_scope");
    let answer = start(&world, "DPoP", &good, &[("dpop", &proof(&good, "a"))]).await;
    assert_eq!(answer.status, 201, "{answer:?}");

    let record = "UPDATE authority_records SET status = $1 WHERE id = 'record-app-a'";
    world.run(record, "revoked").await;
    let answer = start(&world, "DPoP", &good, &[("dpop", &proof(&good, "b"))]).await;
    refused_with(&answer, 401, "identity_revoked");
    world.run(record, "active").await;
    let answer = start(&world, "DPoP", &good, &[("dpop", &proof(&good, "b"))]).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = start(&world, "DPoP", &good, &[("dpop", &proof(&good, "b"))]).await;
    assert_refused(&answer, "invalid_dpop_proof", "the proof was used before");
}

#[track_caller]
fn refused_with(answer: &Response, status: u16, code: &str) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status.as_u16(), &body["error"]), (status, &json!(code)));
}

#[tokio::test]
async fn proofs_are_for_the_public_address_where_one_is_configured() {
    let urls = "https://caracal.example.com/coordinator/,https://other.example.com";
    let world = World::start_with(&[("COORDINATOR_PUBLIC_URLS", urls)]).await;
    let key = ProofKey::new();
    let token = bound(&world, key.confirmation());
    for (base, passes) in [
        ("https://caracal.example.com/coordinator", true),
        ("https://other.example.com:443", true),
        ("https://caracal.example.com", false),
        (world.base_url.as_str(), false),
    ] {
        let proof = key.proof("POST", &format!("{base}{AGENTS}")).token(&token).sign();
        let answer = start(&world, "DPoP", &token, &[("dpop", &proof)]).await;
        assert_eq!(answer.status == 201, passes, "{base}: {answer:?}");
    }
}

#[tokio::test]
async fn a_certificate_counts_from_a_listed_terminator_only() {
    let (ours, other) = (ClientCertificate::new(), ClientCertificate::new());
    let header = ours.header();
    let world = World::start().await;
    let token = bound(&world, ours.confirmation());
    let answer = start(&world, "Bearer", &token, &[("client-cert", &header)]).await;
    assert_refused(&answer, "invalid_token", "a client certificate is required");

    let world = World::start_with(&[("CLIENT_CERT_PROXIES", "127.0.0.1")]).await;
    let token = bound(&world, ours.confirmation());
    let answer = start(&world, "Bearer", &token, &[]).await;
    assert_refused(&answer, "invalid_token", "a client certificate is required");
    let answer = start(&world, "Bearer", &token, &[("client-cert", &other.header())]).await;
    assert_refused(
        &answer,
        "invalid_token",
        "the token is bound to another client certificate",
    );
    assert_eq!(
        start(&world, "Bearer", &token, &[("client-cert", &header)])
            .await
            .status,
        201
    );

    let key = ProofKey::new();
    let jkt = Possession {
        jkt: key.confirmation().jkt().copied(),
        ..Possession::default()
    };
    let both = bound(&world, ours.confirmation_with(jkt));
    let here = format!("{}{AGENTS}", world.base_url);
    let proof = key.proof("POST", &here).token(&both).sign();
    let answer = start(&world, "DPoP", &both, &[("dpop", &proof)]).await;
    assert_refused(&answer, "invalid_token", "a client certificate is required");
    let headers = [("dpop", &*proof), ("client-cert", &*header)];
    assert_eq!(start(&world, "DPoP", &both, &headers).await.status, 201);
}

#[tokio::test]
async fn the_mandate_of_another_record_is_a_proof_of_it_only_with_its_key() {
    let world = World::start().await;
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let here = format!("{}{AGENTS}", world.base_url);
    let subject = |key: &ProofKey| {
        let subject = mandate("app-a").anchored_in("record-app-a-2", "record-app-a-2");
        subject
            .with(|claims| claims.cnf = Some(key.confirmation()))
            .sign(&world.keys)
    };
    let token = bound(&world, key.confirmation());
    let unbound = mandate("app-a").sign(&world.keys);
    for (mandate, subject, status) in [
        (&token, subject(&other), 403),
        (&unbound, subject(&key), 403),
        (&token, subject(&key), 201),
    ] {
        let body = json!({
            "application_id": "app-a", "subject_session_id": "record-app-a-2", "subject_token": subject,
        });
        let proof = key.proof("POST", &here).token(mandate).sign();
        let (scheme, headers) = if mandate == &token {
            ("DPoP", vec![("dpop", proof.as_str())])
        } else {
            ("Bearer", vec![])
        };
        let answer = start_with(&world, scheme, mandate, &headers, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}
