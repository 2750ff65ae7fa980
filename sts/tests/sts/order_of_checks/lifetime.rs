//! How long the token lives, and what is written in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_token::Use;
use serde_json::{Value, json};

use super::Stack;
use crate::stack::ISSUER;

const TOO_LONG: super::Refused<'static> = (
    400,
    "invalid_token",
    "ttl_seconds exceeds token TTL cap",
    "exchange_denied",
);

#[tokio::test]
async fn a_lifetime_over_the_cap_is_refused_after_policy_has_spoken() {
    let stack = Stack::start().await;
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("scope", "agent:lifecycle"),
            ("ttl_seconds", "3601"),
        ])
        .await;
    stack.expect_refusal(&answer, TOO_LONG, "without a token").await;
    let answer = stack
        .delegated(&[("resource", "resource://foreign"), ("ttl_seconds", "3601")])
        .await;
    let expected = (
        403,
        "access_denied",
        "policy denied (resource_not_granted)",
        "complete",
    );
    stack.expect_refusal(&answer, expected, "policy first").await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack
        .at_gateway(&one_shot, "resource://crm", &[("ttl_seconds", "901")])
        .await;
    let (status, code, description, _) = TOO_LONG;
    assert_eq!(answer.refusal(), (status, code, description), "with a token");
}

#[tokio::test]
async fn a_resource_mandate_lives_no_longer_than_the_mandate_it_was_given_for() {
    let stack = Stack::start().await;
    let short = stack.delegated(&[("ttl_seconds", "60")]).await.token();
    let inbound = stack.verify(&short, ISSUER, Use::Gateway).await;
    let answer = stack.at_gateway(&short, "resource://crm", &[]).await;
    let claims = stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert!(claims.exp <= inbound.exp, "{} {}", claims.exp, inbound.exp);
    assert!(answer.body["expires_in"].as_i64().unwrap() <= 60);
}

#[tokio::test]
async fn the_end_a_delegation_sets_is_kept() {
    let stack = Stack::start().await;
    let edge = |id: &str, end: &str| {
        format!(
            "INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                 receiver_application_id, scopes, constraints_json, expires_at)
             VALUES ('{id}', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{{crm:read}}',
                 jsonb_build_object('expires_at', to_char((now() + interval '{end}') AT TIME ZONE 'UTC',
                     'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')), now() + interval '1 hour')"
        )
    };
    stack.sql(edge("e-soon", "5 minutes")).await;
    stack.sql(edge("e-over", "-1 minute")).await;
    let answer = stack.delegated(&[("delegation_edge_id", "e-soon")]).await;
    let lifetime = answer.body["expires_in"].as_i64().unwrap();
    assert!((1..=300).contains(&lifetime), "{lifetime}");
    let answer = stack.delegated(&[("delegation_edge_id", "e-over")]).await;
    let expected = (
        403,
        "access_denied",
        "delegation edge inactive or expired",
        "reference_refused",
    );
    stack.expect_refusal(&answer, expected, "over").await;
}

#[tokio::test]
async fn a_token_is_written_as_the_contract_says() {
    let stack = Stack::start().await;
    let scope = "crm:read  crm:write";
    let answer = stack.delegated(&[("scope", scope)]).await;
    assert_eq!(answer.body["scope"], scope, "as it was asked for");
    let token = answer.token();
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part));
    let mut document = || -> Value { serde_json::from_slice(&parts.next().unwrap().unwrap()).unwrap() };
    let (header, payload) = (document(), document());
    let kid = &header["kid"];
    assert_eq!(header, json!({"alg": "ES256", "kid": kid, "typ": "JWT"}));
    let claims = stack.verify(&token, ISSUER, Use::Gateway).await;
    assert_eq!(
        payload,
        json!({
            "iss": ISSUER, "sub": "app-1", "aud": [ISSUER], "exp": claims.iat + 900, "iat": claims.iat,
            "jti": claims.jti, "zone_id": "z1", "client_id": "app-1", "scope": scope, "sid": claims.sid,
            "root_sid": "ar-1", "use": "gateway", "sub_type": "application", "target": ["resource://crm"],
            "agent_session_id": "s-target", "delegation_edge_id": "e-1", "source_session_id": "s-source",
            "target_session_id": "s-target", "delegation_path": ["e-1"],
            "delegation_chain": [
                {"application_id": "app-1", "agent_session_id": "s-source", "delegation_edge_id": "e-1"},
                {"application_id": "app-1", "agent_session_id": "s-target"},
            ],
            "hop_count": 1, "delegation_graph_epoch": 7,
            "act": {"sub": "app-1", "act": {"sub": "app-1"}},
        }),
        "nothing else, and no nbf"
    );
}
