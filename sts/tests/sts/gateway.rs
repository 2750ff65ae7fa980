//! A gateway exchanges a mandate for a resource mandate and the upstream's credential, and nobody else can.

use caracal_chassis::Clock;
use caracal_token::Use;
use caracal_wire::form;
use serde_json::json;

use crate::stack::{ACCESS_TOKEN, GRANT, ISSUER, Stack, nonce, signature};

#[tokio::test]
async fn a_one_shot_mandate_becomes_a_resource_mandate() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let inbound = stack.verify(&one_shot, ISSUER, Use::Gateway).await;
    let answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    let claims = stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert_eq!(claims.aud, ["resource://crm"]);
    assert_eq!(claims.root_sid, inbound.root_sid);
    assert_ne!(claims.sid, inbound.sid);
    assert_ne!(claims.jti, inbound.jti);
    assert_eq!(
        claims.scope.as_deref(),
        Some("crm:read"),
        "inherited from the presented mandate"
    );
    assert_eq!(claims.delegation_edge_id, inbound.delegation_edge_id);
    assert!(
        claims.exp <= inbound.exp,
        "a resource mandate never outlives the presented one"
    );
    assert_eq!(answer.body["target_resources"], json!(["resource://crm"]));
    let events = stack.events_of(&answer).await;
    let allowed = events.iter().find(|event| event["decision"] == "allow").unwrap();
    assert_eq!(
        allowed["determining_policies_json"],
        json!([{"policy": "caracal-bot-use"}])
    );
    assert_eq!(allowed["metadata_json"]["subject_token_id"], json!(inbound.jti));
}

#[tokio::test]
async fn the_directive_carries_the_credential_of_each_kind_of_provider() {
    let stack = Stack::start().await;
    let cases = [
        (
            "resource://crm",
            json!({"url": "https://crm.example/api", "auth_mode": "provider_apikey", "auth_location": "header",
                "auth_header": "X-Api-Key", "allowed_token_hosts": ["crm.example"], "provider_token": "k-123",
                "provider_id": "p-key"}),
        ),
        (
            "resource://query",
            json!({"url": "https://q.example", "auth_mode": "provider_apikey", "auth_location": "query",
                "query_param_name": "key", "provider_token": "k-456", "provider_id": "p-query"}),
        ),
        (
            "resource://bearer",
            json!({"url": "https://b.example", "auth_mode": "provider_oauth", "auth_header": "Authorization",
                "auth_scheme": "Bearer", "provider_token": "t-123", "provider_id": "p-bearer",
                "forward_caracal_identity": true}),
        ),
        (
            "resource://basic",
            json!({"url": "https://a.example", "auth_mode": "provider_oauth", "auth_header": "Authorization",
                "auth_scheme": "Basic", "provider_token": "dTpw", "provider_id": "p-basic"}),
        ),
        (
            "resource://mandate",
            json!({"url": "https://m.example", "auth_mode": "caracal_jwt", "auth_header": "Authorization",
                "auth_scheme": "Bearer"}),
        ),
        (
            "resource://plain",
            json!({"url": "https://p.example", "auth_mode": "none"}),
        ),
    ];
    for (resource, directive) in cases {
        let one_shot = stack.one_shot(resource, "crm:read").await;
        let answer = stack.at_gateway(&one_shot, resource, &[]).await;
        assert_eq!(
            answer.body["upstreams"],
            json!({ resource: directive }),
            "{}",
            answer.body
        );
    }
    let direct = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await;
    assert!(
        direct.body.get("upstreams").is_none(),
        "only gateways get credentials"
    );
}

#[tokio::test]
async fn a_provider_without_a_credential_is_an_upstream_failure() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://oauth", "crm:read").await;
    let answer = stack.at_gateway(&one_shot, "resource://oauth", &[]).await;
    let (status, code, description) = answer.refusal();
    assert_eq!((status, code), (502, "http_request_failed"));
    assert!(description.starts_with("upstream credential for resource resource://oauth is unavailable: "));
    let events = stack.events_of(&answer).await;
    assert!(events.iter().all(|event| event["decision"] == "deny"));
    assert_eq!(events[0]["evaluation_status"], "provider_credential_unavailable");
}

#[tokio::test]
async fn only_declared_operations_pass_where_they_are_enforced() {
    let stack = Stack::start().await;
    for (method, path, is_permitted) in [
        ("GET", "/v1/contacts", true),
        ("get", "/v1/contacts", true),
        ("POST", "/v1/contacts", false),
        ("GET", "/v1/contacts/1", false),
        ("GET", "/v1/contacts/", false),
        ("", "", false),
    ] {
        let one_shot = stack.one_shot("resource://enforced", "crm:read").await;
        let operation = [("request_method", method), ("request_path", path)];
        let answer = stack
            .at_gateway(&one_shot, "resource://enforced", &operation)
            .await;
        if is_permitted {
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        } else {
            let (status, code, _) = answer.refusal();
            assert_eq!(
                (status, code),
                (403, "operation_not_permitted"),
                "{method} {path}"
            );
            let event = &stack
                .events(|event| {
                    event["evaluation_status"] == "operation_not_permitted"
                        && event["metadata_json"]["path"] == path
                })
                .await[0];
            assert_eq!(event["metadata_json"]["method"], method.to_ascii_uppercase());
        }
    }
}

#[tokio::test]
async fn a_token_is_good_for_the_resources_it_was_minted_for_and_the_roles_of_now() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack.at_gateway(&one_shot, "resource://plain", &[]).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "policy denied (mandate_target_mismatch)")
    );
    assert_eq!(
        stack.at_gateway(&one_shot, "r-crm", &[]).await.status,
        200,
        "a row id names the resource as well"
    );
    let other = [("application_id", "app-2")];
    let answer = stack.at_gateway(&one_shot, "resource://crm", &other).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "authority record client mismatch")
    );
    let other = [("agent_session_id", "s-source")];
    let answer = stack.at_gateway(&one_shot, "resource://crm", &other).await;
    assert_eq!(answer.refusal(), (403, "access_denied", "Session mismatch"));
    let other = [("delegation_edge_id", "e-2")];
    let answer = stack.at_gateway(&one_shot, "resource://crm", &other).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "delegation edge mismatch")
    );
    let other = [("session_id", "ar-1")];
    let answer = stack.at_gateway(&one_shot, "resource://crm", &other).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "authority record mismatch")
    );
}

#[tokio::test]
async fn a_forged_expired_or_foreign_mandate_is_refused() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let (head, signature) = one_shot.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{head}.{flipped}{}", &signature[1..]);
    let resource_mandate = stack.at_gateway(&one_shot, "resource://crm", &[]).await.token();
    let keys = caracal_testing::TestKeys::new();
    let now = Clock::system().unix_seconds();
    let foreign = caracal_testing::Mandate::gateway("z1", "app-1", now)
        .issuer(ISSUER)
        .sign(&keys);
    for mandate in [forged.as_str(), "x", "a.b.c", &resource_mandate, &foreign] {
        let answer = stack.at_gateway(mandate, "resource://crm", &[]).await;
        assert_eq!(answer.refusal(), (401, "invalid_token", "invalid subject_token"));
    }
    let events = stack
        .events(|event| event["evaluation_status"] == "subject_token_invalid")
        .await;
    assert_eq!(events[0]["decision"], "deny");
}

#[tokio::test]
async fn only_a_gateways_fresh_signature_over_exactly_this_request_is_believed() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let body = form::encode(&[
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("subject_token", &one_shot),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", "resource://crm"),
        ("gateway_request_id", "req-1"),
    ]);
    let now = Clock::system().unix_seconds();
    let good = || signature(now, &nonce(), "POST", "/oauth/2/token", &body);
    let old = signature(now - 61, &nonce(), "POST", "/oauth/2/token", &body);
    let early = signature(now + 70, &nonce(), "POST", "/oauth/2/token", &body);
    let other_path = signature(now, &nonce(), "POST", "/oauth/2/tokens", &body);
    let other_method = signature(now, &nonce(), "GET", "/oauth/2/token", &body);
    let other_body = signature(now, &nonce(), "POST", "/oauth/2/token", &format!("{body}&x=1"));
    let mut partial = good();
    partial[2].1 = String::new();
    let refused = (401, "access_denied", "invalid gateway exchange signature");
    for (what, headers) in [
        ("old", old),
        ("early", early),
        ("path", other_path),
        ("method", other_method),
        ("body", other_body),
        ("partial", partial),
    ] {
        let mut headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        headers.push(("x-request-id", "req-1"));
        assert_eq!(
            stack.post_body(&body, &headers).await.refusal(),
            refused,
            "{what}"
        );
    }
    let signed = good();
    let mut headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    headers.push(("x-request-id", "req-2"));
    assert_eq!(
        stack.post_body(&body, &headers).await.refusal(),
        refused,
        "another request id"
    );
    headers.pop();
    headers.push(("x-request-id", "req-1"));
    assert_eq!(stack.post_body(&body, &headers).await.status, 200);
    assert_eq!(
        stack.post_body(&body, &headers).await.refusal(),
        refused,
        "the same nonce again"
    );
    let events = stack
        .events(|event| event["evaluation_status"] == "client_auth_failed")
        .await;
    assert_eq!(
        events[0]["diagnostics_json"][0]["reason"],
        "invalid gateway exchange signature"
    );
}

#[tokio::test]
async fn a_gateway_needs_a_mandate() {
    let stack = Stack::start().await;
    let body = form::encode(&[
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("resource", "resource://crm"),
        ("gateway_request_id", "req-1"),
    ]);
    assert_eq!(
        stack.post_signed(&body).await.refusal(),
        (401, "access_denied", "invalid client credentials")
    );
}

#[tokio::test]
async fn a_reusable_mandate_passes_where_its_client_is_bound_and_the_grant_is_ambient() {
    let stack = Stack::start().await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    for _ in 0..2 {
        let answer = stack.at_gateway(&mandate, "resource://crm", &[]).await;
        let claims = stack
            .verify(&answer.token(), "resource://crm", Use::Resource)
            .await;
        let session = stack.verify(&mandate, ISSUER, Use::Session).await;
        assert_eq!(claims.root_sid, session.sid);
        assert_eq!(claims.scope.as_deref(), Some("crm:read"));
    }
    let unbound = stack
        .mint(&[("resource", "resource://plain"), ("scope", "crm:read")])
        .await
        .token();
    let answer = stack.at_gateway(&unbound, "resource://plain", &[]).await;
    assert_eq!(
        answer.refusal(),
        (401, "invalid_token", "invalid subject_token"),
        "no binding row"
    );
    let lifecycle = stack
        .mint(&[("resource", "resource://crm"), ("scope", "agent:lifecycle")])
        .await
        .token();
    let answer = stack.at_gateway(&lifecycle, "resource://crm", &[]).await;
    assert_eq!(
        answer.refusal().0,
        403,
        "the lifecycle scope is not ambient: {}",
        answer.body
    );
}

#[tokio::test]
async fn a_reusable_mandate_is_refused_at_the_gateway_when_that_is_off() {
    let stack = Stack::start_with(&[("AMBIENT_AT_GATEWAY", "false")]).await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    let answer = stack.at_gateway(&mandate, "resource://crm", &[]).await;
    assert_eq!(answer.refusal(), (401, "invalid_token", "invalid subject_token"));
}
