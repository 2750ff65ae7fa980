//! The first mistake answers.

use caracal_wire::form;
use http::{HeaderMap, Method};

use super::Stack;
use crate::stack::{DIRECT, SOON, header_map, with};

const FORM: &str = "application/x-www-form-urlencoded";

async fn send(
    stack: &Stack,
    path: &str,
    media_type: &str,
    more: &[(&str, &str)],
    body: &str,
) -> (u16, String, String) {
    let headers: HeaderMap = header_map(&[&[("content-type", media_type)], more].concat());
    let answer = stack.send(Method::POST, path, headers, body).await;
    let (status, code, description) = answer.refusal();
    (status, code.to_owned(), description.to_owned())
}

/// What it shows, path, media type, more headers, body; status and description of the refusal.
type Case<'c> = (
    &'c str,
    &'c str,
    &'c str,
    &'c [(&'c str, &'c str)],
    String,
    u16,
    &'c str,
);

#[tokio::test]
async fn of_two_mistakes_the_earlier_check_answers() {
    let stack = Stack::start().await;
    let usual = form::encode(&with(&DIRECT, &[("resource", "resource://crm")]));
    let bad_signature = [("x-caracal-gateway-signature", "00")];
    let cases: [Case<'_>; 6] = [
        (
            "query before media type",
            "/oauth/2/token?x=1",
            "text/plain",
            &[],
            usual.clone(),
            400,
            "query parameters are not allowed",
        ),
        (
            "media type before size",
            "/oauth/2/token",
            "text/plain",
            &[],
            "a".repeat(65_537),
            415,
            "application/x-www-form-urlencoded content type is required",
        ),
        (
            "a field twice before actor_token",
            "/oauth/2/token",
            FORM,
            &[],
            "scope=a&scope=b&actor_token=x".to_owned(),
            400,
            "duplicate form field: scope",
        ),
        (
            "lifetime before the gateway's signature",
            "/oauth/2/token",
            FORM,
            &bad_signature,
            format!("{usual}&ttl_seconds=x"),
            400,
            "invalid ttl_seconds",
        ),
        (
            "the gateway's signature before resources",
            "/oauth/2/token",
            FORM,
            &bad_signature,
            format!("{usual}&resource="),
            401,
            "invalid gateway exchange signature",
        ),
        (
            "the kind of token before the client",
            "/oauth/2/token",
            FORM,
            &[],
            format!(
                "{}&requested_token_type=urn%3Ax",
                usual.replace("app-1", "app-unknown")
            ),
            400,
            "unsupported requested_token_type",
        ),
    ];
    for (what, path, media_type, headers, body, status, description) in cases {
        let answer = send(&stack, path, media_type, headers, &body).await;
        assert_eq!((answer.0, answer.2.as_str()), (status, description), "{what}");
    }
}

#[tokio::test]
async fn every_field_but_resource_is_given_once() {
    let stack = Stack::start().await;
    for name in [
        "client_secret",
        "approval_id",
        "zone_id",
        "subject_token",
        "grant_type",
        "ttl_seconds",
    ] {
        let body = format!("{name}=a&{name}=a");
        let answer = send(&stack, "/oauth/2/token", FORM, &[], &body).await;
        let description = format!("duplicate form field: {name}");
        assert_eq!(answer, (400, "invalid_token".to_owned(), description));
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let stack = Stack::start().await;
    let usual = format!(
        "{}&x=",
        form::encode(&with(&DIRECT, &[("resource", "resource://unknown")]))
    );
    let body = format!("{usual}{}", "a".repeat(65_536 - usual.len()));
    let answer = send(&stack, "/oauth/2/token", FORM, &[], &body).await;
    assert_eq!((answer.0, answer.2.as_str()), (403, "policy denied"));
}

#[tokio::test]
async fn a_client_proves_itself_in_one_way() {
    let stack = Stack::start().await;
    let assertion = [
        ("client_assertion", "a.b.c"),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
    ];
    let body = form::encode(&with(
        &DIRECT,
        &[("resource", "resource://crm"), assertion[0], assertion[1]],
    ));
    let answer = send(&stack, "/oauth/2/token", FORM, &[], &body).await;
    let sentence = "client_assertion must be a JWT and the only client authentication";
    assert_eq!(answer, (400, "invalid_token".to_owned(), sentence.to_owned()));
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_malformed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stack = Stack::start().await;
    let address = stack.base.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /oauth/2/token HTTP/1.1\r\nhost: sts\r\ncontent-type: {FORM}\r\ncontent-length: 100\r\n\r\nscope=a"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, connection.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty()
            || (answer.starts_with("HTTP/1.1 400") && answer.contains("malformed request body")),
        "{answer}"
    );
}
