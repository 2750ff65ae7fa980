//! An application may have its mandates bound, always: to its client certificate (RFC 8705), to the key of its proofs
//! (RFC 9449).

use caracal_testing::{ClientCertificate, ProofKey, wait_until};
use caracal_token::{Possession, Use};
use caracal_wire::form;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::idp::{ID_TOKEN, federated};
use crate::stack::{ACCESS_TOKEN, Answer, DIRECT, ISSUER, SOON, Stack, header_map, with};

const HERE: &str = "https://sts.example.com/oauth/2/token";
const WANTED: [(&str, &str); 2] = [("resource", "resource://crm"), ("scope", "crm:read")];
const ONE_SHOT: [(&str, &str); 2] = [("agent_session_id", "s-target"), ("delegation_edge_id", "e-1")];
/// The terminator of these tests.
const US: (&str, &str) = ("CLIENT_CERT_PROXIES", "10.0.0.0/8,127.0.0.1");

const CERTIFICATE_REQUIRED: (u16, &str, &str) = (400, "invalid_token", "a client certificate is required");
const PROOF_REQUIRED: (u16, &str, &str) = (400, "invalid_dpop_proof", "a proof of possession is required");

/// A service in which the mandates of `app-1` are bound as `columns` say.
async fn start(settings: &[(&str, &str)], columns: &str) -> Stack {
    let stack = Stack::start_with(settings).await;
    stack.redis.remember_for_long().await;
    stack
        .sql(format!("UPDATE applications SET {columns} WHERE id = 'app-1'"))
        .await;
    wait_until(SOON, async || mint(&stack, &[], &[]).await.status == 400).await;
    stack
}

/// A direct exchange of `app-1` with these headers.
async fn mint(stack: &Stack, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let body = form::encode(&with(&with(&DIRECT, &WANTED), fields));
    stack.post_body(&body, headers).await
}

/// The same at the endpoint of the zone.
async fn in_zone(stack: &Stack, header: Option<(&'static str, &str)>) -> Answer {
    let fields = [
        ("client_id", "app-1"),
        ("client_secret", crate::seed::SECRET),
        crate::stack::GRANT,
    ];
    let body = form::encode(&with(&fields, &WANTED));
    let mut headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    headers.extend(header_map(header.as_slice()));
    stack
        .send(Method::POST, "/zones/z1/oauth2/token", headers, &body)
        .await
}

#[tokio::test]
async fn a_mandate_is_bound_to_the_certificate_the_terminator_tells_of() {
    let stack = start(&[US], "certificate_bound = true").await;
    let (ours, other) = (ClientCertificate::new(), ClientCertificate::new());
    let header = ours.header();
    for (fields, class) in [(&[][..], Use::Session), (&ONE_SHOT[..], Use::Gateway)] {
        let answer = mint(&stack, fields, &[("client-cert", &header)]).await;
        assert_eq!(answer.body["token_type"], "Bearer", "{}", answer.body);
        let claims = stack.verify(&answer.token(), ISSUER, class).await;
        assert_eq!(claims.cnf, Some(ours.confirmation()), "{class:?}");
        let issued = stack.events_of(&answer).await;
        assert_eq!(
            issued[0]["metadata_json"]["token_confirmation"],
            json!(ours.confirmation())
        );
    }
    let one_shot = mint(&stack, &ONE_SHOT, &[("client-cert", &header)]).await.token();
    let print = |certificate: &ClientCertificate| certificate.confirmation().x5t_s256().unwrap().to_string();
    let not_shown = (
        401,
        "invalid_token",
        "subject_token is bound to a key that was not shown",
    );
    for fields in [
        &[][..],
        &[("sender_x5t_s256", &*print(&other))],
        &[("sender_jkt", &*print(&ours))],
    ] {
        let answer = stack.at_gateway(&one_shot, "resource://crm", fields).await;
        assert_eq!(answer.refusal(), not_shown, "{fields:?}");
    }
    let shown = [("sender_x5t_s256", &*print(&ours))];
    let answer = stack.at_gateway(&one_shot, "resource://crm", &shown).await;
    let claims = stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert_eq!(claims.cnf, None, "the gateway holds no key of the client");
}

#[tokio::test]
async fn no_certificate_is_taken_from_who_is_no_terminator() {
    let header = ClientCertificate::new().header();
    let told = [("client-cert", &*header)];
    for settings in [&[][..], &[("CLIENT_CERT_PROXIES", "10.0.0.0/8")]] {
        let stack = start(settings, "certificate_bound = true").await;
        assert_eq!(
            mint(&stack, &[], &told).await.refusal(),
            CERTIFICATE_REQUIRED,
            "{settings:?}"
        );
        let answer = mint(&stack, &[("application_id", "app-2")], &told).await;
        assert_ne!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "others need none: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_certificate_is_one_certificate() {
    let stack = start(&[US], "certificate_bound = true").await;
    let header = ClientCertificate::new().header();
    assert_eq!(mint(&stack, &[], &[]).await.refusal(), CERTIFICATE_REQUIRED);
    let unreadable = (400, "invalid_token", "the client certificate cannot be read");
    for (certificate, description) in [(None, CERTIFICATE_REQUIRED.2), (Some("x"), unreadable.2)] {
        let answer = in_zone(
            &stack,
            certificate.map(|certificate| ("client-cert", certificate)),
        )
        .await;
        let refusal = (400, "invalid_request", description);
        assert_eq!(answer.refusal(), refusal, "at the endpoint of the zone");
    }
    // The last is longer than a certificate may be, and not than a head may be.
    let too_long = format!(":{}:", "A".repeat(20 << 10));
    for value in ["x", "::", ":AAAA:", &*header.replace(':', ""), &*too_long] {
        let answer = mint(&stack, &[], &[("client-cert", value)]).await;
        assert_eq!(answer.refusal(), unreadable, "{value}");
    }
    let mut twice = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    for _ in 0..2 {
        twice.append("client-cert", header.parse().unwrap());
    }
    let body = form::encode(&with(&DIRECT, &WANTED));
    let answer = stack.send(Method::POST, "/oauth/2/token", twice, &body).await;
    assert_eq!(answer.refusal(), unreadable, "several");
    let refused = stack.events_of(&answer).await;
    assert_eq!(refused[0]["decision"], "deny");
    assert_eq!(refused[0]["evaluation_status"], "exchange_denied");
}

#[tokio::test]
async fn who_is_not_asked_for_a_certificate_is_not_bound_to_one() {
    let stack = Stack::start_with(&[US]).await;
    let header = ClientCertificate::new().header();
    for value in [&*header, "nonsense"] {
        let answer = mint(&stack, &[], &[("client-cert", value)]).await;
        let claims = stack.verify(&answer.token(), ISSUER, Use::Session).await;
        assert_eq!(
            claims.cnf, None,
            "a terminator may ask every client for a certificate"
        );
    }
}

#[tokio::test]
async fn a_client_that_shows_both_keys_is_bound_to_both() {
    let stack = start(&[US], "certificate_bound = true, dpop_bound = true").await;
    let (certificate, key) = (ClientCertificate::new(), ProofKey::new());
    let header = certificate.header();
    let proof = key.proof("POST", HERE).sign();
    let told = ("client-cert", &*header);
    assert_eq!(mint(&stack, &[], &[told]).await.refusal(), PROOF_REQUIRED);
    let unused = mint(&stack, &[], &[("dpop", &proof)]).await;
    assert_eq!(unused.refusal(), CERTIFICATE_REQUIRED);
    let answer = mint(&stack, &[], &[told, ("dpop", &proof)]).await;
    assert_eq!(answer.body["token_type"], "DPoP", "{}", answer.body);
    let token = answer.token();
    let claims = stack.verify(&token, ISSUER, Use::Session).await;
    let jkt = Possession {
        jkt: key.confirmation().jkt().copied(),
        ..Possession::default()
    };
    assert_eq!(claims.cnf, Some(certificate.confirmation_with(jkt)));
    // Presented again by its client, with other keys: it is not taken on one of them.
    let presented = [("subject_token", &*token), ("subject_token_type", ACCESS_TOKEN)];
    let (other_certificate, other_key) = (ClientCertificate::new().header(), ProofKey::new());
    let not_shown = (
        401,
        "invalid_token",
        "subject_token is bound to a key that was not shown",
    );
    for (certificate, key) in [(&*other_certificate, &key), (&*header, &other_key)] {
        let proof = key.proof("POST", HERE).sign();
        let answer = mint(
            &stack,
            &presented,
            &[("client-cert", certificate), ("dpop", &proof)],
        )
        .await;
        assert_eq!(answer.refusal(), not_shown);
    }
}

#[tokio::test]
async fn an_application_that_is_to_send_proofs_gets_nothing_without_one() {
    let stack = start(&[], "dpop_bound = true").await;
    let answer = mint(&stack, &[], &[]).await;
    assert_eq!(answer.refusal(), PROOF_REQUIRED);
    let refused = stack.events_of(&answer).await;
    assert_eq!(refused[0]["evaluation_status"], "exchange_denied");
    assert_eq!(
        in_zone(&stack, None).await.refusal(),
        PROOF_REQUIRED,
        "nor at the endpoint of the zone"
    );
    let key = ProofKey::new();
    let answer = mint(&stack, &[], &[("dpop", &key.proof("POST", HERE).sign())]).await;
    assert_eq!(answer.body["token_type"], "DPoP", "{}", answer.body);
    stack
        .sql("UPDATE applications SET dpop_bound = false WHERE id = 'app-1'")
        .await;
    assert_eq!(
        mint(&stack, &[], &[]).await.status,
        StatusCode::OK,
        "no refusal stands on a configuration that was changed"
    );
}

#[tokio::test]
async fn the_metadata_says_whether_certificates_are_believed() {
    for (settings, expected) in [(&[][..], false), (&[US][..], true)] {
        let stack = Stack::start_with(settings).await;
        let metadata = stack
            .get("/.well-known/oauth-authorization-server/zones/z1")
            .await;
        let said: &Value = &metadata.body["tls_client_certificate_bound_access_tokens"];
        assert_eq!(*said, expected);
    }
}

#[tokio::test]
async fn a_user_who_signs_in_gets_a_mandate_that_is_bound_like_its_applications() {
    let (stack, idp) = federated().await;
    stack
        .sql("UPDATE applications SET dpop_bound = true WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || {
        mint(&stack, &[], &[]).await.status == StatusCode::BAD_REQUEST
    })
    .await;
    let token = idp.token("user-7");
    let fields = [("subject_token", &*token), ("subject_token_type", ID_TOKEN)];
    let body = form::encode(&with(&DIRECT, &fields));
    assert_eq!(stack.post_body(&body, &[]).await.refusal(), PROOF_REQUIRED);
    let key = ProofKey::new();
    let proof = key.proof("POST", HERE).sign();
    let answer = stack.post_body(&body, &[("dpop", &proof)]).await;
    assert_eq!(
        answer.body["token_type"], "DPoP",
        "the token was not used up: {}",
        answer.body
    );
    let claims = stack.verify(&answer.token(), ISSUER, Use::Session).await;
    assert_eq!(claims.cnf, Some(key.confirmation()));
}
