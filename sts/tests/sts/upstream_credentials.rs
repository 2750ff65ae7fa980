//! Are tokens of upstream providers fetched once, kept, replaced in time, and never waited for without need?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use caracal_testing::{Behaviour, RecordedRequest, Upstream, test_authority, wait_for, wait_until};
use caracal_token::envelope::{CONNECTION_ACCESS_TOKEN_AAD, CONNECTION_REFRESH_TOKEN_AAD, Kek, Keyring};
use futures_util::future::join_all;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::seed;
use crate::stack::{Answer, SOON, Stack};

pub(crate) const RESOURCE: &str = "resource://oauth";

/// A service that may call providers on this machine.
pub(crate) async fn start(settings: &[(&str, &str)]) -> Stack {
    let authority = test_authority();
    let mut all = vec![
        ("CARACAL_MODE", "dev"),
        ("INSECURE_LOOPBACK_EGRESS", "true"),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
    ];
    all.extend(settings);
    Stack::start_with(&all).await
}

pub(crate) fn answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .unwrap()
}

/// A token server whose n-th token is `t-n`, good for `life` seconds; it rotates the refresh token `r-n`.
pub(crate) async fn token_server(life: i64) -> Upstream {
    token_server_of(life, life).await
}

/// The same; the first token has a life of its own.
async fn token_server_of(life_of_first: i64, life_of_others: i64) -> Upstream {
    let issued = Arc::new(AtomicUsize::new(0));
    Upstream::start_tls(Behaviour::Custom(Arc::new(move |_request: &RecordedRequest| {
        let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
        let life = if number == 1 {
            life_of_first
        } else {
            life_of_others
        };
        answer(
            StatusCode::OK,
            &json!({"access_token": format!("t-{number}"), "token_type": "Bearer", "expires_in": life,
                "refresh_token": format!("r-{number}")}),
        )
    })))
    .await
}

pub(crate) async fn refusing_server(status: StatusCode, code: &'static str) -> Upstream {
    Upstream::start_tls(Behaviour::Custom(Arc::new(move |_request: &RecordedRequest| {
        answer(
            status,
            &json!({"error": code, "error_description": "client_secret cs-1 is wrong"}),
        )
    })))
    .await
}

/// Makes the provider of [`RESOURCE`] one of `kind` at `server`.
pub(crate) async fn configure(stack: &Stack, kind: &str, server: &Upstream, more: &Value) {
    let mut config = json!({
        "token_endpoint": format!("https://localhost:{}/token", server.address().port()),
        "authorization_endpoint": "https://localhost/authorize",
        "redirect_uri": "https://console.example/callback",
        "client_id": "client-1",
        "scopes": ["a", "b"],
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    seed::provider_secret(&stack.pool, "p-oauth", r#"{"client_secret": "cs-1"}"#).await;
    stack
        .sql(format!(
            "UPDATE providers SET provider_kind = '{kind}', config_json = '{config}' WHERE id = 'p-oauth'"
        ))
        .await;
    // Until the configuration has arrived the answer is the old one's; it names the missing setting.
    wait_until(SOON, async || {
        let answer = call(stack).await;
        !answer.body.to_string().contains("token_endpoint is invalid")
    })
    .await;
}

pub(crate) async fn call(stack: &Stack) -> Answer {
    let mandate = stack.one_shot(RESOURCE, "crm:read").await;
    stack.at_gateway(&mandate, RESOURCE, &[]).await
}

pub(crate) fn token(answer: &Answer) -> &str {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body["upstreams"][RESOURCE]["provider_token"]
        .as_str()
        .unwrap()
}

fn form(request: &RecordedRequest) -> HashMap<String, String> {
    let form = caracal_wire::form::parse(&request.body, &[]).unwrap();
    [
        "grant_type",
        "scope",
        "audience",
        "refresh_token",
        "client_id",
        "client_secret",
        "x",
    ]
    .iter()
    .filter_map(|name| Some(((*name).to_owned(), form.get(name)?.to_owned())))
    .collect()
}

pub(crate) async fn connect(stack: &Stack, subject: &str, expires: &str, refresh: Option<&str>) {
    let keyring = Keyring::new(Kek::from_hex(seed::KEK).unwrap(), None);
    let access = keyring
        .seal(b"t-0", CONNECTION_ACCESS_TOKEN_AAD.as_bytes())
        .unwrap();
    let refresh = refresh.map(|token| {
        keyring
            .seal(token.as_bytes(), CONNECTION_REFRESH_TOKEN_AAD.as_bytes())
            .unwrap()
    });
    let refresh = refresh.map_or_else(
        || "NULL".to_owned(),
        |bytes| format!("'\\x{}'", hex::encode(bytes)),
    );
    stack
        .sql(format!(
            "INSERT INTO provider_connections
                 (id, zone_id, subject_id, provider_id, access_token_ct, refresh_token_ct, expires_at, created_at)
             VALUES ('c-{subject}', 'z1', '{subject}', 'p-oauth', '\\x{}', {refresh}, {expires}, now() - interval '1 hour')",
            hex::encode(access)
        ))
        .await;
}

pub(crate) async fn column(stack: &Stack, column: &str) -> String {
    let query = format!("SELECT {column}::text FROM provider_connections WHERE id = 'c-app-1'");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn racing_exchanges_share_one_token_and_later_ones_find_it_in_memory() {
    let stack = start(&[]).await;
    let server = token_server(3_600).await;
    let more = json!({"audience": "https://api.example", "token_params": {"x": "1"}, "forward_caracal_identity": true});
    configure(&stack, "oauth2_client_credentials", &server, &more).await;
    stack
        .sql("UPDATE providers SET config_json = config_json || '{\"audience\": \"https://other.example\"}' WHERE id = 'p-oauth'")
        .await;
    wait_until(SOON, async || token(&call(&stack).await) == "t-2").await;
    let answers = join_all((0..20).map(|_| call(&stack))).await;
    for answer in &answers {
        assert_eq!(token(answer), "t-2");
        let directive = &answer.body["upstreams"][RESOURCE];
        assert_eq!(directive["auth_mode"], "provider_oauth");
        assert_eq!(directive["auth_scheme"], "Bearer");
        assert_eq!(directive["forward_caracal_identity"], true);
        assert!(
            directive.get("expires_at").is_none() && directive.get("allowed_token_hosts").is_none(),
            "{directive}"
        );
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "one fetch for each configuration");
    let sent = form(&requests[1]);
    assert_eq!(sent["grant_type"], "client_credentials");
    assert_eq!((sent["scope"].as_str(), sent["x"].as_str()), ("a b", "1"));
    assert_eq!(sent["audience"], "https://other.example");
    assert!(!sent.contains_key("client_id") && !sent.contains_key("client_secret"));
    assert_eq!(
        requests[1].header("authorization"),
        Some("Basic Y2xpZW50LTE6Y3MtMQ==")
    );
}

#[tokio::test]
async fn twenty_first_exchanges_cause_one_fetch() {
    let stack = start(&[]).await;
    let server = token_server(3_600).await;
    let mandates = join_all((0..20).map(|_| stack.one_shot(RESOURCE, "crm:read"))).await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    let asked = || {
        let calls = mandates
            .iter()
            .map(|mandate| stack.at_gateway(mandate, RESOURCE, &[]));
        join_all(calls)
    };
    wait_until(SOON, async || call(&stack).await.status == StatusCode::OK).await;
    for answer in asked().await {
        assert_eq!(token(&answer), "t-1");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_replaced_in_the_background_before_it_runs_out() {
    let stack = start(&[]).await;
    // The second token outlives the test, so that it does not matter when it is asked for.
    let server = token_server_of(6, 3_600).await;
    configure(&stack, "oauth2_client_credentials", &server, &json!({})).await;
    wait_until(SOON, async || call(&stack).await.status == StatusCode::OK).await;
    // Nobody asks meanwhile.
    wait_until(SOON, async || server.requests().len() >= 2).await;
    // Answered although the server holds; the first token may be good for a moment yet.
    server.set(Behaviour::Held);
    wait_until(SOON, async || {
        let answer = call(&stack).await;
        answer.status == StatusCode::OK && token(&answer) == "t-2"
    })
    .await;
}

#[tokio::test]
async fn an_exchange_waits_for_a_provider_only_so_long() {
    let stack = start(&[("UPSTREAM_CREDENTIAL_WAIT", "200ms")]).await;
    let server = Upstream::start_tls(Behaviour::Held).await;
    configure(&stack, "oauth2_client_credentials", &server, &json!({})).await;
    // A call of the provider that is given up after its own, much longer time ends with another description.
    let answer = wait_for(SOON, async || {
        let answer = call(&stack).await;
        let is_late = answer
            .refusal()
            .2
            .ends_with("is unavailable: the provider has not answered in time");
        is_late.then_some(answer)
    })
    .await;
    let (status, code, _) = answer.refusal();
    assert_eq!((status, code), (502, "http_request_failed"));
    let answers = join_all((0..20).map(|_| call(&stack))).await;
    assert!(answers.iter().all(|answer| answer.refusal().0 == 502));
    wait_until(SOON, async || !server.requests().is_empty()).await;
    let fetches = server.requests().len();
    assert!(fetches < answers.len(), "exchanges share a fetch: {fetches}");
}

#[tokio::test]
async fn a_provider_that_keeps_refusing_is_left_alone() {
    let stack = start(&[]).await;
    let server = refusing_server(StatusCode::UNAUTHORIZED, "invalid_client").await;
    configure(&stack, "oauth2_client_credentials", &server, &json!({})).await;
    let answer = call(&stack).await;
    let (_, _, description) = answer.refusal();
    assert!(
        description.ends_with("the token endpoint refused with status 401 (invalid_client)"),
        "{description}"
    );
    wait_until(SOON, async || {
        call(&stack)
            .await
            .body
            .to_string()
            .contains("not asked for a while")
    })
    .await;
    assert_eq!(server.requests().len(), 5);
    let events = stack.events_of(&answer).await;
    assert_eq!(events[0]["evaluation_status"], "provider_credential_unavailable");
    let written = Value::from(events).to_string();
    assert!(!written.contains("cs-1"), "{written}");
}

#[tokio::test]
async fn only_allowed_hosts_and_public_addresses_are_called() {
    let server = token_server(3_600).await;
    let authority = test_authority();
    let stack = Stack::start_with(&[
        ("CARACAL_PRIVATE_EGRESS_HOSTS", "localhost"),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
    ])
    .await;
    configure(&stack, "oauth2_client_credentials", &server, &json!({})).await;
    let answer = call(&stack).await;
    let (status, _, description) = answer.refusal();
    assert_eq!(status, 502);
    assert!(
        description.ends_with("the token endpoint may not be called"),
        "a private host is still no loopback: {description}"
    );
    configure(
        &stack,
        "oauth2_client_credentials",
        &server,
        &json!({"allowed_token_hosts": ["idp.example"]}),
    )
    .await;
    wait_until(SOON, async || {
        call(&stack)
            .await
            .body
            .to_string()
            .contains("allowed_token_hosts is invalid")
    })
    .await;
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn racing_exchanges_of_two_replicas_refresh_a_connection_once() {
    let stack = start(&[]).await;
    let authority = test_authority();
    let other = stack
        .replica(&[
            ("CARACAL_MODE", "dev"),
            ("INSECURE_LOOPBACK_EGRESS", "true"),
            ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
        ])
        .await;
    let server = token_server(3_600).await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    wait_until(SOON, async || call(&other).await.status == StatusCode::FORBIDDEN).await;
    let mandates = join_all((0..20).map(|_| stack.one_shot(RESOURCE, "crm:read"))).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    // Both may know the zone as it was: a refusal is repeated until the connection is known.
    let ask = async |stack: &Stack, mandate: &str| loop {
        let answer = stack.at_gateway(mandate, RESOURCE, &[]).await;
        if answer.status != StatusCode::FORBIDDEN {
            break answer;
        }
    };
    let racing = mandates.iter().enumerate().map(|(number, mandate)| {
        let stack = if number % 2 == 0 { &stack } else { &other };
        ask(stack, mandate)
    });
    for answer in join_all(racing).await {
        assert_eq!(token(&answer), "t-1");
        let directive = &answer.body["upstreams"][RESOURCE];
        assert_eq!(directive["connection_id"], "c-app-1");
        assert!(directive["expires_at"].is_i64());
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "the refresh token was used once");
    let sent = form(&requests[0]);
    assert_eq!(
        (sent["grant_type"].as_str(), sent["refresh_token"].as_str()),
        ("refresh_token", "r-0")
    );
    assert_eq!(column(&stack, "refresh_token_version").await, "1");
    assert_eq!(column(&stack, "refresh_lease IS NULL").await, "true");
    // What is stored now is the rotated token.
    stack
        .sql("UPDATE provider_connections SET expires_at = now(), generation = generation + 1")
        .await;
    wait_until(SOON, async || token(&call(&other).await) == "t-2").await;
    assert_eq!(form(&server.requests()[1])["refresh_token"], "r-1");
}

#[tokio::test]
async fn a_connection_that_ended_is_not_served_from_memory() {
    let stack = start(&[]).await;
    let server = token_server(3_600).await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    let missing = call(&stack).await;
    assert_eq!(
        missing.refusal(),
        (403, "access_denied", "policy denied (credential_not_provisioned)")
    );
    let events = stack.events_of(&missing).await;
    assert_eq!(events[0]["evaluation_status"], "credential_not_provisioned");
    connect(&stack, "caracal:shared", "NULL", None).await;
    wait_until(SOON, async || call(&stack).await.status == StatusCode::OK).await;
    assert_eq!(
        token(&call(&stack).await),
        "t-0",
        "without an end it is served as it is"
    );
    connect(&stack, "app-1", "now() + interval '1 hour'", None).await;
    wait_until(SOON, async || {
        call(&stack).await.body["upstreams"][RESOURCE]["connection_id"] == "c-app-1"
    })
    .await;
    stack
        .sql("UPDATE provider_connections SET status = 'revoked'")
        .await;
    wait_until(SOON, async || call(&stack).await.status == StatusCode::FORBIDDEN).await;
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_connection_that_was_not_renewed_says_why_to_the_ledger() {
    let stack = start(&[]).await;
    let server = refusing_server(StatusCode::BAD_REQUEST, "invalid_request").await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    wait_until(SOON, async || {
        call(&stack).await.status == StatusCode::BAD_GATEWAY
    })
    .await;
    let refused = call(&stack).await;
    let (status, code, description) = refused.refusal();
    assert_eq!((status, code), (502, "http_request_failed"));
    let beginning = "upstream credential for resource resource://oauth is unavailable: ";
    assert!(description.starts_with(beginning), "{description}");
    let not_renewed = |event: &Value| {
        event["event_type"] == "token_exchange"
            && event["decision"] == "deny"
            && event["evaluation_status"] == "credential_refresh_failed"
    };
    assert!(!stack.events(not_renewed).await.is_empty());
}

#[tokio::test]
async fn a_connection_that_cannot_be_renewed_ends() {
    let stack = start(&[]).await;
    let server = refusing_server(StatusCode::BAD_REQUEST, "invalid_grant").await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    for refresh in [None, Some("r-0")] {
        connect(&stack, "app-1", "now() - interval '1 second'", refresh).await;
        wait_until(SOON, async || {
            let answer = call(&stack).await;
            let ended = answer.refusal()
                == (
                    403,
                    "credential_expired_not_renewable",
                    "the connected account has to be connected again",
                );
            ended || column(&stack, "status").await == "expired"
        })
        .await;
        assert_eq!(column(&stack, "status").await, "expired", "{refresh:?}");
        assert_eq!(column(&stack, "access_token_ct IS NULL").await, "true");
        stack.sql("DELETE FROM provider_connections").await;
    }
    assert_eq!(server.requests().len(), 1);
}
