use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use caracal_egress::{Settings, SystemResolver};
use caracal_testing::{Behaviour, Upstream, test_authority};
use http::Response as Answer;
use serde_json::{Value, json};

use super::*;
use crate::{ClientGrant, OAuthSecrets};

fn caller() -> TokenCaller {
    let settings = Settings {
        allow_loopback: true,
        extra_ca_file: Some(test_authority()),
        ..Settings::default()
    };
    TokenCaller::new(Client::new(Arc::new(SystemResolver), &settings).unwrap())
}

fn client(server: &Upstream, more: &Value) -> OAuthClient {
    let mut config = json!({
        "token_endpoint": format!("https://localhost:{}/token", server.address().port()), "client_id": "c:1",
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    let secrets = OAuthSecrets {
        client_secret: Some(Secret::from("s+1")),
        private_key: None,
    };
    OAuthClient::read(&config, &secrets).unwrap()
}

/// Answers each of `answers` once, then repeats the last.
async fn server(answers: &'static [(u16, &'static str)]) -> Upstream {
    let asked = AtomicUsize::new(0);
    Upstream::start_tls(Behaviour::Custom(Arc::new(move |_request| {
        let at = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let (status, body) = answers[at];
        Answer::builder().status(status).body(Bytes::from(body)).unwrap()
    })))
    .await
}

const OWN: ClientGrant = ClientGrant::ClientCredentials {
    audience: None,
    resource: None,
};

#[tokio::test]
async fn the_client_proves_itself_as_configured() {
    let server = server(&[(200, r#"{"access_token": "t-1"}"#)]).await;
    for (method, header, members) in [
        ("client_secret_basic", Some("Basic YzoxOnMrMQ=="), ""),
        ("client_secret_post", None, "&client_id=c%3A1&client_secret=s%2B1"),
        ("none", None, "&client_id=c%3A1"),
    ] {
        let client = client(&server, &json!({"client_auth_method": method}));
        let tokens = caller().request(&client, Grant::Client(&OWN), 0).await.unwrap();
        assert_eq!(tokens.access_token.expose(), "t-1");
        let request = server.take_requests().remove(0);
        assert_eq!(request.header("authorization"), header, "{method}");
        assert_eq!(request.body, format!("grant_type=client_credentials{members}"));
    }
}

#[tokio::test]
async fn a_failing_server_is_asked_twice_for_what_may_be_repeated_only() {
    let flaky = &[(503, ""), (200, r#"{"access_token": "t-1", "expires_in": 60}"#)];
    let server = server(flaky).await;
    let client = client(&server, &json!({}));
    let tokens = caller().request(&client, Grant::Client(&OWN), 0).await.unwrap();
    assert_eq!((tokens.expires_in, server.take_requests().len()), (Some(60), 2));
    let server = self::server(flaky).await;
    let client = self::client(&server, &json!({}));
    let refused = caller()
        .request(&client, Grant::RefreshToken("r-1"), 0)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &refused,
            TokenError::Refused {
                status: 503,
                code: None
            }
        ),
        "{refused}"
    );
    assert!(refused.is_outage());
    assert_eq!(
        server.take_requests().len(),
        1,
        "a refresh token is presented once"
    );
}

#[tokio::test]
async fn answers_that_give_no_usable_token_are_told_apart() {
    for (answer, expected) in [
        (
            (400, r#"{"error": "invalid_grant", "error_description": "s+1"}"#),
            "status 400 (invalid_grant)",
        ),
        ((401, r#"{"error": "<script>"}"#), "status 401"),
        ((302, ""), "status 302"),
        ((201, r#"{"access_token": "t-1"}"#), "status 201"),
        ((200, "{}"), "no token response"),
        ((200, "<html>"), "no token response"),
        (
            (200, r#"{"access_token": "t-1", "token_type": "mac"}"#),
            "not a bearer token",
        ),
    ] {
        let answers: &'static [(u16, &'static str)] = vec![answer].leak();
        let server = server(answers).await;
        let client = client(&server, &json!({}));
        let error = caller()
            .request(&client, Grant::Client(&OWN), 0)
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with(expected), "{answer:?}: {error}");
        assert_eq!(error.is_invalid_grant(), expected.contains("invalid_grant"));
    }
    let server = server(&[(200, r#"{"access_token": "t-1", "token_type": "mac"}"#)]).await;
    let client = client(&server, &json!({"auth_scheme": "MAC"}));
    assert!(
        caller().request(&client, Grant::Client(&OWN), 0).await.is_ok(),
        "somebody said how to present it"
    );
}
