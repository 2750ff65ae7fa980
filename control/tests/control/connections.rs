//! `/v1/zones/{zone}/provider-connections`: what is sealed, the whole way of an authorization, and every refusal.

use std::sync::Arc;

use bytes::Bytes;
use caracal_testing::{Behaviour, RecordedRequest, Upstream, test_authority};
use caracal_token::envelope::{CONNECTION_ACCESS_TOKEN_AAD, CONNECTION_REFRESH_TOKEN_AAD};
use http::Response;
use serde_json::{Value, json};

use crate::harness::{Harness, id, keyring};

async fn start() -> Harness {
    let authority = test_authority();
    Harness::start_with(&[
        ("CARACAL_MODE", "dev"),
        ("INSECURE_LOOPBACK_EGRESS", "true"),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
    ])
    .await
}

/// A token server that answers every request with this.
async fn server(status: u16, body: &'static str) -> Upstream {
    Upstream::start_tls(Behaviour::Custom(Arc::new(move |_request: &RecordedRequest| {
        Response::builder()
            .status(status)
            .body(Bytes::from(body))
            .unwrap()
    })))
    .await
}

async fn provider(api: &Harness, zone: &str, server: &Upstream, more: &Value) -> String {
    let base = format!("https://localhost:{}", server.address().port());
    let mut config = json!({
        "authorization_endpoint": format!("{base}/authorize?tenant=1"), "token_endpoint": format!("{base}/token"),
        "redirect_uri": "https://console.example/callback", "client_id": "client-1", "client_secret": "cs-1",
        "scopes": ["a", "b"], "authorization_params": { "access_type": "offline" },
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    let body = json!({ "name": "Mail", "kind": "oauth2_authorization_code", "config_json": config });
    id(&api
        .post(&format!("/v1/zones/{zone}/providers"), &body)
        .await
        .expect(201))
}

/// Starts an authorization; the state, and the query of the URL the browser is sent to.
async fn authorize(api: &Harness, zone: &str, body: &Value) -> (String, Vec<(String, String)>) {
    let path = format!("/v1/zones/{zone}/provider-connections/oauth/authorize");
    let started = api.post(&path, body).await.expect(200);
    let url = url::Url::parse(started["authorization_url"].as_str().unwrap()).unwrap();
    (
        started["state"].as_str().unwrap().to_owned(),
        url.query_pairs().into_owned().collect(),
    )
}

async fn callback(api: &Harness, zone: &str, query: &str) -> crate::harness::Answer {
    let path = format!("/v1/zones/{zone}/provider-connections/oauth/callback?{query}");
    api.send("GET", &path, &[], b"").await
}

/// The stored tokens, opened.
async fn tokens(api: &Harness, connection: &str) -> (Option<String>, Option<String>) {
    let query = "SELECT access_token_ct, refresh_token_ct FROM provider_connections WHERE id = $1";
    let (access, refresh): (Option<Vec<u8>>, Option<Vec<u8>>) = sqlx::query_as(query)
        .bind(connection)
        .fetch_one(&api.pool)
        .await
        .unwrap();
    let open = |sealed: Option<Vec<u8>>, aad: &str| {
        let plain = keyring().open(&sealed?, aad.as_bytes()).unwrap();
        Some(String::from_utf8(plain.to_vec()).unwrap())
    };
    (
        open(access, CONNECTION_ACCESS_TOKEN_AAD),
        open(refresh, CONNECTION_REFRESH_TOKEN_AAD),
    )
}

#[tokio::test]
async fn given_tokens_are_sealed_listed_without_themselves_and_replaced() {
    let api = start().await;
    let zone = api.zone("z").await;
    let server = server(200, "{}").await;
    let provider = provider(&api, &zone, &server, &json!({})).await;
    let path = format!("/v1/zones/{zone}/provider-connections");
    let body = json!({ "provider_id": provider, "access_token": "at-1", "refresh_token": "rt-1",
        "expires_at": "2030-01-02T03:04:05Z" });
    let made = api.post(&path, &body).await.expect(201);
    assert_eq!(made["subject_id"], "caracal:shared");
    assert_eq!(
        (&made["status"], &made["renewable"]),
        (&json!("active"), &json!(true))
    );
    assert_eq!(made["expires_at"], "2030-01-02T03:04:05.000Z");
    assert_eq!(
        tokens(&api, &id(&made)).await,
        (Some("at-1".to_owned()), Some("rt-1".to_owned()))
    );
    let version = "SELECT version FROM zone_versions WHERE zone_id = $1";
    let before = api.count(version, &zone).await;
    let again = api
        .post(&path, &json!({ "provider_id": provider, "access_token": "at-2" }))
        .await
        .expect(201);
    assert_eq!((id(&again), &again["renewable"]), (id(&made), &json!(false)));
    assert_eq!(tokens(&api, &id(&made)).await, (Some("at-2".to_owned()), None));
    assert!(
        api.count(version, &zone).await > before,
        "services must learn that it was connected anew"
    );
    let other = json!({ "provider_id": provider, "subject_id": "user-1", "access_token": "at-3" });
    api.post(&path, &other).await.expect(201);
    for (query, count) in [
        ("", 2),
        ("?subject_id=user-1", 1),
        ("?status=revoked", 0),
        ("?provider_id=other", 0),
    ] {
        let list = api.get(&format!("{path}{query}")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
        assert!(!list.to_string().contains("at-"), "{list}");
    }
    let traces =
        "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND payload_text ~ 'at-[0-9]|rt-1'";
    assert_eq!(api.count(traces, &zone).await, 0);
}

#[tokio::test]
async fn connected_accounts_do_not_follow_a_provider_to_another_place() {
    let api = start().await;
    let zone = api.zone("z").await;
    let server = server(200, "{}").await;
    let provider = provider(&api, &zone, &server, &json!({})).await;
    let path = format!("/v1/zones/{zone}/provider-connections");
    let body = json!({ "provider_id": provider, "access_token": "at-1", "refresh_token": "rt-1" });
    let made = api.post(&path, &body).await.expect(201);
    let (state, _) = authorize(&api, &zone, &json!({ "provider_id": provider })).await;
    let provider_path = format!("/v1/zones/{zone}/providers/{provider}");
    let mut config = api.get(&provider_path).await.expect(200)["config_json"].clone();
    config["scopes"] = json!(["a"]);
    api.patch(&provider_path, &json!({ "config_json": config }))
        .await
        .expect(200);
    assert_eq!(
        tokens(&api, &id(&made)).await,
        (Some("at-1".to_owned()), Some("rt-1".to_owned())),
        "no other place, nothing ended"
    );
    config["token_endpoint"] = json!("https://evil.example/token");
    config["allowed_token_hosts"] = json!(["evil.example"]);
    api.patch(&provider_path, &json!({ "config_json": config }))
        .await
        .refused(409, "provider_secrets_required");
    assert_ne!(
        tokens(&api, &id(&made)).await,
        (None, None),
        "a refusal ends nothing"
    );
    config["client_secret"] = json!("cs-2");
    api.patch(&provider_path, &json!({ "config_json": config }))
        .await
        .expect(200);
    assert_eq!(tokens(&api, &id(&made)).await, (None, None));
    let revoked = api.get(&format!("{path}?status=revoked")).await.expect(200);
    assert_eq!(revoked["items"].as_array().unwrap().len(), 1);
    callback(&api, &zone, &format!("state={state}&code=c-1"))
        .await
        .refused(400, "oauth_state_expired");
}

#[tokio::test]
async fn an_authorization_connects_an_account_once() {
    let api = start().await;
    let zone = api.zone("z").await;
    let server = server(
        200,
        r#"{"access_token": "at-9", "refresh_token": "rt-9", "expires_in": 3600, "token_type": "bearer"}"#,
    )
    .await;
    let provider = provider(&api, &zone, &server, &json!({})).await;
    let (state, query) = authorize(
        &api,
        &zone,
        &json!({ "provider_id": provider, "subject_id": "user-1" }),
    )
    .await;
    let parameter = |name: &str| query.iter().find(|(held, _)| held == name).unwrap().1.clone();
    for (name, expected) in [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "client-1"),
        ("redirect_uri", "https://console.example/callback"),
        ("scope", "a b"),
        ("access_type", "offline"),
        ("code_challenge_method", "S256"),
        ("state", &state),
    ] {
        assert_eq!(parameter(name), expected, "{name}");
    }
    let kept: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM provider_oauth_states WHERE state_sha256 = sha256($1::bytea)",
    )
    .bind(&state)
    .fetch_one(&api.pool)
    .await
    .unwrap();
    assert_eq!(kept, 1, "the state itself is not stored");
    let query = format!("state={state}&code=c-1");
    let (one, two) = tokio::join!(callback(&api, &zone, &query), callback(&api, &zone, &query));
    let (made, late) = if one.status == 201 { (one, two) } else { (two, one) };
    late.refused(400, "oauth_state_expired");
    let made = made.expect(201);
    assert_eq!(
        (&made["subject_id"], &made["renewable"]),
        (&json!("user-1"), &json!(true))
    );
    assert!(made["expires_at"].is_string());
    assert_eq!(
        tokens(&api, &id(&made)).await,
        (Some("at-9".to_owned()), Some("rt-9".to_owned()))
    );
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "a code is presented once");
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&requests[0].body)
        .into_owned()
        .collect();
    let sent = |name: &str| form.iter().find(|(held, _)| held == name).unwrap().1.clone();
    assert_eq!(
        (sent("grant_type"), sent("code")),
        ("authorization_code".into(), "c-1".into())
    );
    assert_eq!(sent("redirect_uri"), "https://console.example/callback");
    assert_eq!(
        caracal_oauth::s256(&sent("code_verifier")),
        parameter("code_challenge"),
        "the verifier is the one whose hash the browser carried"
    );
    let recorded =
        "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND entity_type = 'provider-connections'
        AND actor_id IS NULL AND status_code = 201";
    assert_eq!(
        api.count(recorded, &zone).await,
        1,
        "who came back is nobody, but the change is on record"
    );
}

#[tokio::test]
async fn every_way_an_authorization_can_fail_is_named() {
    let api = start().await;
    let (zone, other) = (api.zone("z").await, api.zone("other").await);
    let server = server(400, r#"{"error": "invalid_grant", "error_description": "cs-1"}"#).await;
    let provider = provider(&api, &zone, &server, &json!({})).await;
    let body = json!({ "provider_id": provider });
    callback(&api, &zone, "code=c")
        .await
        .refused(400, "invalid_oauth_callback");
    callback(&api, &zone, "state=short&code=c")
        .await
        .refused(400, "invalid_oauth_callback");
    let unknown = "x".repeat(43);
    callback(&api, &zone, &format!("state={unknown}&code=c"))
        .await
        .refused(400, "oauth_state_expired");
    let (state, _) = authorize(&api, &zone, &body).await;
    callback(&api, &other, &format!("state={state}&code=c"))
        .await
        .refused(400, "oauth_state_mismatch");
    callback(&api, &zone, &format!("state={state}&code=c"))
        .await
        .refused(400, "oauth_state_expired");
    let (state, _) = authorize(&api, &zone, &body).await;
    callback(&api, &zone, &format!("state={state}&error=access_denied"))
        .await
        .refused(400, "provider_oauth_denied");
    let (state, _) = authorize(&api, &zone, &body).await;
    callback(&api, &zone, &format!("state={state}"))
        .await
        .refused(400, "authorization_code_required");
    let (state, _) = authorize(&api, &zone, &body).await;
    sqlx::query("UPDATE provider_oauth_states SET expires_at = now() - interval '1 second'")
        .execute(&api.pool)
        .await
        .unwrap();
    callback(&api, &zone, &format!("state={state}&code=c"))
        .await
        .refused(400, "oauth_state_expired");
    let (state, _) = authorize(&api, &zone, &body).await;
    let refused = callback(&api, &zone, &format!("state={state}&code=c")).await;
    refused.refused(502, "provider_token_exchange_failed");
    assert!(!refused.body.to_string().contains("cs-1"), "{}", refused.body);
    for (answer, code) in [
        ("{}", "provider_token_response_invalid"),
        (
            r#"{"access_token": "t", "token_type": "mac"}"#,
            "provider_token_type_unsupported",
        ),
    ] {
        server.set(Behaviour::Status(http::StatusCode::OK, Bytes::from(answer)));
        let (state, _) = authorize(&api, &zone, &body).await;
        callback(&api, &zone, &format!("state={state}&code=c"))
            .await
            .refused(502, code);
    }
    let mandate = api.provider(&zone, "mandate").await;
    let path = format!("/v1/zones/{zone}/provider-connections");
    for (body, status, code) in [
        (json!({}), 400, "invalid_provider_connection"),
        (
            json!({ "provider_id": provider, "access_token": "a", "x": 1 }),
            400,
            "invalid_provider_connection",
        ),
        (
            json!({ "provider_id": provider, "access_token": "a", "expires_at": "soon" }),
            400,
            "invalid_provider_connection",
        ),
        (
            json!({ "provider_id": "nope", "access_token": "a" }),
            404,
            "provider_not_found",
        ),
        (
            json!({ "provider_id": mandate, "access_token": "a" }),
            400,
            "provider_connection_unsupported",
        ),
    ] {
        api.post(&path, &body).await.refused(status, code);
    }
    api.post(
        &format!("{path}/oauth/authorize"),
        &json!({ "provider_id": mandate }),
    )
    .await
    .refused(400, "provider_connection_unsupported");
    api.post(&format!("{path}/oauth/authorize"), &json!({}))
        .await
        .refused(400, "invalid_provider_oauth_authorize");
}

#[tokio::test]
async fn a_revoked_connection_loses_its_tokens_and_the_provider_is_told() {
    let api = start().await;
    let zone = api.zone("z").await;
    let server = server(200, "").await;
    let endpoint = format!("https://localhost:{}/revoke", server.address().port());
    let provider = provider(&api, &zone, &server, &json!({ "revocation_endpoint": endpoint })).await;
    let path = format!("/v1/zones/{zone}/provider-connections");
    let given = json!({ "provider_id": provider, "access_token": "at-1", "refresh_token": "rt-1" });
    let made = api.post(&path, &given).await.expect(201);
    let whose = json!({ "provider_id": provider });
    let ended = api.post(&format!("{path}/revoke"), &whose).await.expect(200);
    assert_eq!(
        (&ended["status"], &ended["upstream_revocation"]),
        (&json!("revoked"), &json!("revoked"))
    );
    assert_eq!(tokens(&api, &id(&made)).await, (None, None));
    let told: Vec<String> = server
        .requests()
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned())
        .collect();
    assert_eq!(
        told,
        [
            "token=rt-1&token_type_hint=refresh_token",
            "token=at-1&token_type_hint=access_token"
        ]
    );
    api.post(&format!("{path}/revoke"), &whose)
        .await
        .refused(404, "provider_connection_not_found");
    api.post(&path, &given).await.expect(201);
    server.set(Behaviour::Status(
        http::StatusCode::SERVICE_UNAVAILABLE,
        Bytes::new(),
    ));
    let ended = api.post(&format!("{path}/revoke"), &whose).await.expect(200);
    assert_eq!(
        ended["upstream_revocation"], "failed",
        "it has ended here all the same"
    );
}
