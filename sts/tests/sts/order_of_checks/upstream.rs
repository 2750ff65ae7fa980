//! Which credential an upstream gets, and in which words there is none.

use std::sync::Arc;

use bytes::Bytes;
use caracal_chassis::Clock;
use caracal_testing::{
    Behaviour, FaultProxy, Role, TestDatabase, Upstream, free_port, test_authority, wait_for, wait_until,
};
use caracal_wire::form;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Refused, Stack, about};
use crate::seed;
use crate::stack::{ACCESS_TOKEN, Answer, DIRECT, GRANT, SOON};
use crate::upstream_credentials::{
    RESOURCE, call, column, configure, connect, refusing_server, start, token, token_server,
};

/// What is sealed for a provider.
enum Sealed {
    Nothing,
    Document(&'static str),
    /// By a key nobody has any more.
    Damaged,
}

/// Makes a provider of its own the one of [`RESOURCE`], so that no case sees the failures of another.
async fn provider(stack: &Stack, id: &str, kind: &str, config: &Value, sealed: Sealed) {
    stack
        .sql(format!(
            "INSERT INTO providers (id, zone_id, name, identifier, provider_kind, config_json)
             VALUES ('{id}', 'z1', '{id}', '{id}', '{kind}', '{config}')"
        ))
        .await;
    match sealed {
        Sealed::Nothing => {}
        Sealed::Document(document) => seed::provider_secret(&stack.pool, id, document).await,
        Sealed::Damaged => {
            seed::provider_secret(&stack.pool, id, "{}").await;
            let reference = format!("zones/z1/providers/{id}/secretConfig");
            stack
                .sql(format!(
                    "UPDATE secret_store SET envelope = set_byte(envelope, length(envelope) - 1,
                         get_byte(envelope, length(envelope) - 1) # 1) WHERE ref = '{reference}'"
                ))
                .await;
        }
    }
    stack
        .sql(format!(
            "UPDATE resources SET credential_provider_id = '{id}' WHERE id = 'r-oauth'"
        ))
        .await;
}

/// Asks until the answer says that there is no credential because of `reason`, and holds it to the contract.
async fn expect_failure(stack: &Stack, reason: &str, status: &str) {
    let sentence = format!("upstream credential for resource {RESOURCE} is unavailable: {reason}");
    let mut answer = call(stack).await;
    let asking = wait_until(2 * SOON, async || {
        answer = call(stack).await;
        answer.refusal().2 == sentence
    });
    // A configuration that has not arrived yet answers with another reason, which is worth reading when it stays.
    let _given_up = tokio::time::timeout(SOON, asking).await;
    let expected = (502, "http_request_failed", sentence.as_str(), status);
    stack.expect_refusal(&answer, expected, reason).await;
}

/// The configuration of a client at `endpoint`, with `more`.
fn client_at(endpoint: &str, more: &Value) -> Value {
    let mut config = json!({"token_endpoint": endpoint, "client_id": "client-1"});
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    config
}

fn endpoint(server: &Upstream) -> String {
    format!("https://localhost:{}/token", server.address().port())
}

/// A server that answers everything with 200 and `body`.
async fn saying(body: String) -> Upstream {
    Upstream::start_tls(Behaviour::Custom(Arc::new(move |_request| {
        Response::new(Bytes::from(body.clone()))
    })))
    .await
}

#[tokio::test]
async fn a_provider_that_is_not_usable_is_named_with_what_is_wrong_about_it() {
    let stack = Stack::start().await;
    stack
        .sql("ALTER TABLE providers DROP CONSTRAINT providers_provider_kind_check")
        .await;
    let client = "oauth2_client_credentials";
    let secret = || Sealed::Document(r#"{"client_secret": "cs-1"}"#);
    let at = |more: Value| client_at("https://idp.example/token", &more);
    let cases = [
        ("ldap", json!({}), secret(), "provider kind ldap is not supported"),
        (
            "api_key",
            json!({"header_name": "X-Key"}),
            Sealed::Nothing,
            "provider secret api_key is missing",
        ),
        (
            "api_key",
            json!({"header_name": "X-Key", "allowed_token_hosts": 5}),
            Sealed::Document(r#"{"api_key": "k"}"#),
            "provider configuration is malformed",
        ),
        (
            "api_key",
            json!({"header_name": "X-Key"}),
            Sealed::Damaged,
            "provider secrets cannot be opened",
        ),
        (
            client,
            json!({}),
            secret(),
            "provider setting token_endpoint is invalid",
        ),
        (
            client,
            json!({"token_endpoint": "https://idp.example/token"}),
            secret(),
            "provider setting client_id is invalid",
        ),
        (
            client,
            at(json!({})),
            Sealed::Nothing,
            "provider secret client_secret is missing",
        ),
        (
            client,
            at(json!({"allowed_token_hosts": ["other.example"]})),
            secret(),
            "provider setting allowed_token_hosts is invalid",
        ),
        (
            client,
            at(json!({"token_params": {"grant_type": "password"}})),
            secret(),
            "provider setting token_params is invalid",
        ),
    ];
    for (number, (kind, config, sealed, reason)) in cases.into_iter().enumerate() {
        provider(&stack, &format!("p-{number}"), kind, &config, sealed).await;
        expect_failure(&stack, reason, "provider_credential_unavailable").await;
    }
}

#[tokio::test]
async fn a_token_endpoint_that_gives_no_token_is_told_apart_by_its_fault() {
    let stack = start(&[]).await;
    let nowhere = format!("https://localhost:{}/token", free_port());
    let nonsense = saying("{}".to_owned()).await;
    let other_type = saying(r#"{"access_token": "t", "token_type": "mac"}"#.to_owned()).await;
    let long = saying(format!("{{\"access_token\": \"{}\"}}", "x".repeat(64 << 10))).await;
    let refusing = refusing_server(StatusCode::UNAUTHORIZED, "invalid_client").await;
    let cases = [
        (nowhere, "the token endpoint cannot be reached"),
        (
            "https://10.0.0.1/token".to_owned(),
            "the token endpoint may not be called",
        ),
        (endpoint(&long), "the token endpoint cannot be reached"),
        (
            endpoint(&nonsense),
            "the token endpoint gave an answer that is no token response",
        ),
        (
            endpoint(&other_type),
            "the token endpoint gave a token that is not a bearer token",
        ),
        (
            endpoint(&refusing),
            "the token endpoint refused with status 401 (invalid_client)",
        ),
    ];
    for (number, (endpoint, reason)) in cases.into_iter().enumerate() {
        let config = client_at(&endpoint, &json!({}));
        let secret = Sealed::Document(r#"{"client_secret": "cs-1"}"#);
        let id = format!("p-{number}");
        provider(&stack, &id, "oauth2_client_credentials", &config, secret).await;
        expect_failure(&stack, reason, "provider_credential_unavailable").await;
    }
}

#[tokio::test]
async fn a_connected_account_that_gives_no_token_is_told_apart_by_its_fault() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let authority = test_authority();
    let settings = [
        ("CARACAL_MODE", "dev"),
        ("INSECURE_LOOPBACK_EGRESS", "true"),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
        ("REVOCATION_FRESHNESS", "600s"),
        ("DB_CONNECT_TIMEOUT", "500ms"),
    ];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    let server = refusing_server(StatusCode::BAD_REQUEST, "invalid_request").await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    let status = "credential_refresh_failed";
    let refused = "the token endpoint refused with status 400 (invalid_request)";
    expect_failure(&stack, refused, status).await;
    for damaged in ["refresh_token_ct", "access_token_ct"] {
        stack
            .sql(format!(
                "UPDATE provider_connections SET {damaged} = '\\x00',
                     expires_at = CASE WHEN '{damaged}' = 'access_token_ct' THEN now() + interval '1 hour' ELSE expires_at END"
            ))
            .await;
        let sealed = "the tokens of the connected account cannot be opened";
        expect_failure(&stack, sealed, status).await;
    }
    proxy.refuse();
    expect_failure(&stack, "the connected account cannot be read now", status).await;
}

#[tokio::test]
async fn an_account_that_ends_says_so_once_and_is_then_not_connected() {
    let stack = start(&[]).await;
    let server = refusing_server(StatusCode::BAD_REQUEST, "invalid_grant").await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    let ended: Refused<'_> = (
        403,
        "credential_expired_not_renewable",
        "the connected account has to be connected again",
        "credential_refresh_failed",
    );
    let missing: Refused<'_> = (
        403,
        "access_denied",
        "policy denied (credential_not_provisioned)",
        "credential_not_provisioned",
    );
    stack
        .expect_refusal(&call(&stack).await, missing, "never connected")
        .await;
    for refresh in [None, Some("r-0")] {
        connect(&stack, "app-1", "now() - interval '1 second'", refresh).await;
        // What was held to be unconnected a moment ago is looked up before it is refused.
        let answer = call(&stack).await;
        stack
            .expect_refusal(&answer, ended, "the call that finds out")
            .await;
        assert_eq!(column(&stack, "status").await, "expired");
        let answer = call(&stack).await;
        stack.expect_refusal(&answer, missing, "the next").await;
        stack.sql("DELETE FROM provider_connections").await;
    }
}

/// One exchange of a gateway for two resources.
async fn call_for(stack: &Stack, resources: [&str; 2]) -> Answer {
    let mut fields = DIRECT.to_vec();
    fields.extend(resources.map(|resource| ("resource", resource)));
    fields.extend([
        ("scope", "crm:read"),
        ("agent_session_id", "s-target"),
        ("delegation_edge_id", "e-1"),
    ]);
    let mandate = stack.post(&fields).await.token();
    let mut fields = vec![
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("subject_token", &mandate),
        ("subject_token_type", ACCESS_TOKEN),
        ("gateway_request_id", "req-1"),
    ];
    fields.extend(resources.map(|resource| ("resource", resource)));
    stack.post_signed(&form::encode(&fields)).await
}

#[tokio::test]
async fn a_resource_without_its_account_is_dropped_and_the_others_are_granted() {
    let stack = start(&[]).await;
    let server = token_server(3_600).await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    let answer = call_for(&stack, ["resource://crm", RESOURCE]).await;
    answer.token();
    assert_eq!(answer.body["target_resources"], json!(["resource://crm"]));
    let dropped = about(&stack, &answer, RESOURCE).await;
    assert_eq!(
        (
            &dropped["event_type"],
            &dropped["decision"],
            &dropped["evaluation_status"]
        ),
        (
            &json!("token_exchange"),
            &json!("deny"),
            &json!("credential_not_provisioned")
        )
    );
    let granted = about(&stack, &answer, "resource://crm").await;
    assert_eq!(granted["decision"], "allow");
}

#[tokio::test]
async fn a_providers_token_is_used_no_longer_than_the_setting_says() {
    for life in [json!(3_600), Value::Null] {
        let stack = start(&[("MAX_GRANT_TTL_SECONDS", "60")]).await;
        let body = json!({"access_token": "t-1", "refresh_token": "r-1", "expires_in": life});
        let server = saying(body.to_string()).await;
        configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
        connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
        let answer = call(&stack).await;
        let after = Clock::system().unix_seconds();
        assert_eq!(token(&answer), "t-1");
        let end = answer.body["upstreams"][RESOURCE]["expires_at"].as_i64().unwrap();
        assert!(end <= after + 60, "{life}: {end} {after}");
        let life: i32 = sqlx::query_scalar(
            "SELECT extract(epoch FROM expires_at - now())::int FROM provider_connections",
        )
        .fetch_one(&stack.pool)
        .await
        .unwrap();
        assert!(life <= 60, "{life}");
    }
}

#[tokio::test]
async fn the_directive_says_where_a_credential_goes_as_its_provider_is_configured() {
    let stack = Stack::start().await;
    let url = "https://o.example";
    let cases = [
        (
            "api_key",
            json!({"header_name": "X-Key", "auth_scheme": "Token"}),
            r#"{"api_key": "k-1"}"#,
            json!({"url": url, "auth_mode": "provider_apikey", "auth_location": "header", "auth_header": "X-Key",
                "auth_scheme": "Token", "provider_token": "k-1", "provider_id": "p-0"}),
        ),
        (
            "bearer_token",
            json!({"auth_header": "X-Auth", "auth_scheme": "Key"}),
            r#"{"bearer_token": "t-1"}"#,
            json!({"url": url, "auth_mode": "provider_oauth", "auth_header": "X-Auth", "auth_scheme": "Key",
                "provider_token": "t-1", "provider_id": "p-1"}),
        ),
        (
            "aws_sigv4",
            json!({"access_key_id": "AKIA1", "region": "eu-west-1", "service": "s3"}),
            r#"{"secret_access_key": "s-1", "session_token": "st-1"}"#,
            json!({"url": url, "auth_mode": "aws_sigv4", "provider_id": "p-2", "aws": {
                "access_key_id": "AKIA1", "secret_access_key": "s-1", "session_token": "st-1",
                "region": "eu-west-1", "service": "s3"}}),
        ),
    ];
    for (number, (kind, config, secret, directive)) in cases.into_iter().enumerate() {
        provider(
            &stack,
            &format!("p-{number}"),
            kind,
            &config,
            Sealed::Document(secret),
        )
        .await;
        let answer = wait_for(SOON, async || {
            let answer = call(&stack).await;
            let is_new = answer.body["upstreams"][RESOURCE]["provider_id"] == format!("p-{number}").as_str();
            is_new.then_some(answer)
        })
        .await;
        assert_eq!(answer.body["upstreams"], json!({ RESOURCE: directive }), "{kind}");
    }
}
