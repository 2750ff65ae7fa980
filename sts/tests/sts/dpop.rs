//! A mandate is bound to a key its client has shown, and is of no use without it (RFC 9449).

use caracal_testing::ProofKey;
use caracal_token::Use;
use caracal_wire::form;
use http::{Method, StatusCode};
use serde_json::json;

use crate::seed;
use crate::stack::{ACCESS_TOKEN, Answer, DIRECT, GRANT, ISSUER, Stack, header_map, with};

const HERE: &str = "https://sts.example.com/oauth/2/token";
const WANTED: [(&str, &str); 2] = [("resource", "resource://crm"), ("scope", "crm:read")];

async fn start() -> Stack {
    start_with(&[]).await
}

async fn start_with(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_with(settings).await;
    // For two minutes after its memory began, proofs are not decided about.
    stack.redis.remember_for_long().await;
    stack
}

/// A direct exchange of `app-1` with these proofs.
async fn mint(stack: &Stack, fields: &[(&str, &str)], proofs: &[String]) -> Answer {
    let body = form::encode(&with(&with(&DIRECT, &WANTED), fields));
    post(stack, "/oauth/2/token", &body, proofs).await
}

async fn post(stack: &Stack, path: &str, body: &str, proofs: &[String]) -> Answer {
    let mut headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    for proof in proofs {
        headers.append("dpop", proof.parse().unwrap());
    }
    stack.send(Method::POST, path, headers, body).await
}

/// A mandate of `app-1` bound to `key`.
async fn bound(stack: &Stack, key: &ProofKey, fields: &[(&str, &str)]) -> String {
    let answer = mint(stack, fields, &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(answer.body["token_type"], "DPoP", "{}", answer.body);
    answer.token()
}

const ONE_SHOT: [(&str, &str); 2] = [("agent_session_id", "s-target"), ("delegation_edge_id", "e-1")];

#[tokio::test]
async fn a_mandate_names_the_key_its_client_has_shown() {
    let stack = start().await;
    let key = ProofKey::new();
    for (fields, class) in [(&[][..], Use::Session), (&ONE_SHOT[..], Use::Gateway)] {
        let token = bound(&stack, &key, fields).await;
        let claims = stack.verify(&token, ISSUER, class).await;
        assert_eq!(claims.cnf, Some(key.confirmation()), "{class:?}");
    }
    let answer = mint(&stack, &[], &[key.proof("POST", HERE).sign()]).await;
    let issued = stack.events_of(&answer).await;
    assert_eq!(
        issued[0]["metadata_json"]["token_confirmation"],
        json!(key.confirmation())
    );
    let plain = mint(&stack, &[], &[]).await;
    assert_eq!(plain.body["token_type"], "Bearer");
    let claims = stack.verify(&plain.token(), ISSUER, Use::Session).await;
    assert_eq!(claims.cnf, None);
    assert!(!plain.headers.contains_key("dpop-nonce"), "nobody asked");
}

#[tokio::test]
async fn the_endpoint_of_the_zone_takes_proofs_for_itself_and_tells_of_them() {
    let stack = start().await;
    let key = ProofKey::new();
    let path = "/zones/z1/oauth2/token";
    let body = form::encode(&with(
        &[GRANT, ("client_id", "app-1"), ("client_secret", seed::SECRET)],
        &WANTED,
    ));
    let proof = key.proof("POST", "https://sts.example.com/zones/z1/oauth2/token");
    let answer = post(&stack, path, &body, &[proof.sign()]).await;
    assert_eq!(answer.body["token_type"], "DPoP", "{}", answer.body);
    let token = answer.token();
    let elsewhere = post(&stack, path, &body, &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(
        elsewhere.refusal(),
        (400, "invalid_dpop_proof", "the proof is for another address")
    );
    let metadata = stack
        .get("/.well-known/oauth-authorization-server/zones/z1")
        .await;
    assert_eq!(
        metadata.body["dpop_signing_alg_values_supported"],
        json!(["ES256"])
    );
    let asked = form::encode(&[
        ("token", &*token),
        ("client_id", "app-1"),
        ("client_secret", seed::SECRET),
    ]);
    let document = post(&stack, "/zones/z1/oauth2/introspect", &asked, &[]).await;
    assert_eq!(document.body["active"], true, "{}", document.body);
    assert_eq!(document.body["token_type"], "DPoP");
    assert_eq!(document.body["cnf"], json!(key.confirmation()));
}

#[tokio::test]
async fn a_proof_that_is_not_for_this_request_gets_nothing() {
    let stack = start().await;
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let now = caracal_chassis::Clock::system().unix_seconds();
    let usual = || key.proof("POST", HERE);
    let mut private = key.jwk();
    private["d"] = json!("AAAA");
    let rows: Vec<(Vec<String>, &str)> = vec![
        (
            vec![usual().sign(), usual().sign()],
            "there is more than one proof",
        ),
        (vec!["x".to_owned()], "the proof is malformed"),
        (vec!["x".repeat(5_000)], "the proof is too long"),
        (
            vec![usual().header("typ", "JWT").sign()],
            "the proof is malformed",
        ),
        (
            vec![usual().header("alg", "none").sign()],
            "the proof is malformed",
        ),
        (
            vec![usual().header("jwk", private).sign()],
            "the proof has no usable public key",
        ),
        (
            vec![usual().header("jwk", other.jwk()).sign()],
            "the signature of the proof is invalid",
        ),
        (
            vec![key.proof("GET", HERE).sign()],
            "the proof is for another method",
        ),
        (
            vec![key.proof("POST", "https://evil.example/oauth/2/token").sign()],
            "the proof is for another address",
        ),
        (
            vec![usual().claim("iat", now - 150).sign()],
            "the proof is too old",
        ),
        (
            vec![usual().claim("iat", now + 150).sign()],
            "the proof is from the future",
        ),
        (
            vec![usual().claim("jti", "").sign()],
            "the proof has no usable id",
        ),
    ];
    for (proofs, description) in rows {
        let answer = mint(&stack, &[], &proofs).await;
        assert_eq!(answer.refusal(), (400, "invalid_dpop_proof", description));
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    let stranger = mint(&stack, &[("client_secret", "wrong")], &["x".to_owned()]).await;
    assert_eq!(
        stranger.status,
        StatusCode::UNAUTHORIZED,
        "only a client's proof is looked at"
    );
}

#[tokio::test]
async fn a_proof_is_used_once_on_whichever_replica() {
    let stack = start().await;
    let other = stack.replica(&[]).await;
    let key = ProofKey::new();
    let proof = key.proof("POST", HERE).claim("jti", "p-1").sign();
    let uses = (0..8).map(|attempt| {
        let at = if attempt % 2 == 0 { &stack } else { &other };
        let proof = proof.clone();
        async move { mint(at, &[], &[proof]).await }
    });
    let answers = futures_util::future::join_all(uses).await;
    let used = (400, "invalid_dpop_proof", "the proof was used before");
    let granted = answers.iter().filter(|answer| answer.status == StatusCode::OK);
    assert_eq!(granted.count(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
        assert_eq!(answer.refusal(), used);
    }
    let of_another_key = ProofKey::new().proof("POST", HERE).claim("jti", "p-1").sign();
    assert_eq!(
        mint(&stack, &[], &[of_another_key]).await.status,
        StatusCode::OK,
        "ids belong to keys"
    );
}

#[tokio::test]
async fn nobody_is_believed_while_nobody_can_tell_what_was_used() {
    let stack = Stack::start().await;
    let key = ProofKey::new();
    let answer = mint(&stack, &[], &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(
        answer.refusal(),
        (
            503,
            "sts_unavailable",
            "proofs of possession cannot be checked now"
        ),
        "the store may have forgotten"
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(
        mint(&stack, &[], &[]).await.status,
        StatusCode::OK,
        "who sends none needs none"
    );
}

#[tokio::test]
async fn a_nonce_of_any_replica_is_good_and_may_be_demanded() {
    let stack = start_with(&[("DPOP_NONCE_REQUIRED", "true")]).await;
    let lenient = stack.replica(&[]).await;
    let key = ProofKey::new();
    let demanded = (
        400,
        "use_dpop_nonce",
        "the proof has to answer the nonce of this answer",
    );
    let first = mint(&stack, &[], &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(first.refusal(), demanded);
    let nonce = first.headers["dpop-nonce"].to_str().unwrap().to_owned();
    let with_nonce = |nonce: &str| key.proof("POST", HERE).claim("nonce", nonce).sign();
    let answer = mint(&stack, &[], &[with_nonce(&nonce)]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(answer.headers.contains_key("dpop-nonce"), "for the next proof");
    let answer = mint(&lenient, &[], &[with_nonce(&nonce)]).await;
    assert_eq!(answer.status, StatusCode::OK, "no replica remembers nonces");
    let answer = mint(&lenient, &[], &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(answer.status, StatusCode::OK, "it demands none");
    for replica in [&stack, &lenient] {
        let invented = mint(replica, &[], &[with_nonce("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]).await;
        assert_eq!(invented.refusal(), demanded, "what is answered must be ours");
    }
    assert_eq!(
        mint(&stack, &[], &[]).await.status,
        StatusCode::OK,
        "who shows no key needs no nonce"
    );
}

#[tokio::test]
async fn a_bound_mandate_is_presented_with_its_key_or_not_at_all() {
    let stack = start().await;
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let token = bound(&stack, &key, &[]).await;
    let presented = [("subject_token", &*token), ("subject_token_type", ACCESS_TOKEN)];
    let not_shown = (
        401,
        "invalid_token",
        "subject_token is bound to a key that was not shown",
    );
    let jkt = key.confirmation().jkt().unwrap().to_string();
    let claimed = [presented[0], presented[1], ("sender_jkt", &*jkt)];
    for (fields, proofs) in [
        (&presented[..], vec![]),
        (&presented[..], vec![other.proof("POST", HERE).sign()]),
        (&claimed[..], vec![]),
        (&claimed[..], vec![other.proof("POST", HERE).sign()]),
    ] {
        let answer = mint(&stack, fields, &proofs).await;
        assert_eq!(answer.refusal(), not_shown, "a client's word is no proof");
    }
    let shown = mint(&stack, &presented, &[key.proof("POST", HERE).sign()]).await;
    assert_eq!(
        (shown.refusal().0, shown.refusal().1),
        (403, "access_denied"),
        "the key is the right one; the policy knows of no such request"
    );
}

#[tokio::test]
async fn the_gateway_says_what_the_holder_has_shown_and_gets_a_mandate_of_its_own() {
    let stack = start().await;
    let key = ProofKey::new();
    let token = bound(&stack, &key, &ONE_SHOT).await;
    let jkt = key.confirmation().jkt().unwrap().to_string();
    let other = ProofKey::new().confirmation().jkt().unwrap().to_string();
    let not_shown = (
        401,
        "invalid_token",
        "subject_token is bound to a key that was not shown",
    );
    for fields in [
        &[][..],
        &[("sender_jkt", &*other)],
        &[("sender_jkt", "x")],
        &[("sender_x5t_s256", &*jkt)],
    ] {
        let answer = stack.at_gateway(&token, "resource://crm", fields).await;
        assert_eq!(answer.refusal(), not_shown, "{fields:?}");
    }
    let answer = stack
        .at_gateway(&token, "resource://crm", &[("sender_jkt", &jkt)])
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body["token_type"], "Bearer");
    let claims = stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert_eq!(claims.cnf, None, "the gateway holds it, without the key");
    let unbound = stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack
        .at_gateway(&unbound, "resource://crm", &[("sender_jkt", &jkt)])
        .await;
    assert_eq!(answer.status, StatusCode::OK, "more than was asked for");
}

#[tokio::test]
async fn a_token_given_again_is_bound_to_the_same_key() {
    let stack = start().await;
    let policy = seed::POLICY.replace(
        "{\"editor\": [\"crm:write\"]}",
        "{\"editor\": [\"crm:write\", \"crm:danger\"]}",
    );
    seed::policy(&stack.pool, "psv-2", &policy).await;
    let key = ProofKey::new();
    let fields = with(
        &ONE_SHOT,
        &[("resource", "resource://gated"), ("scope", "crm:danger")],
    );
    let proof = || vec![key.proof("POST", HERE).sign()];
    let held = mint(&stack, &fields, &proof()).await;
    let id = held.body["approval_id"].as_str().unwrap().to_owned();
    stack
        .sql("UPDATE step_up_challenges SET satisfied_at = now(), approver_subject_id = 'test'")
        .await;
    let presented = with(&fields, &[("approval_id", id.as_str())]);
    let first = mint(&stack, &presented, &proof()).await;
    assert_eq!(first.body["token_type"], "DPoP", "{}", first.body);
    stack
        .sql("UPDATE step_up_challenges SET consumed_at = consumed_at - interval '10 seconds'")
        .await;
    let consumed = (
        409,
        "approval_consumed",
        "approval already used; another request consumed it",
    );
    assert_eq!(mint(&stack, &presented, &[]).await.refusal(), consumed, "unbound");
    let other = vec![ProofKey::new().proof("POST", HERE).sign()];
    assert_eq!(
        mint(&stack, &presented, &other).await.refusal(),
        consumed,
        "bound to another key"
    );
    let again = mint(&stack, &presented, &proof()).await;
    let token = again.token();
    let claims = stack.verify(&token, ISSUER, Use::Gateway).await;
    assert_eq!(claims.cnf, Some(key.confirmation()));
}
