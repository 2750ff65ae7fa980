//! Documents of gateways: kept sealed, changed by one replica at a time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Clock;
use caracal_wire::form;
use http::Method;

use crate::stack::{Answer, Stack, header_map, nonce, signature};

const PATH: &str = "/internal/gateway/documents/acme-1";
const LEASE: &str = "/internal/gateway/documents/acme-1/lease";

async fn send(stack: &Stack, method: Method, path: &str, fields: &[(&str, &str)]) -> Answer {
    let body = form::encode(fields);
    let signed = signature(
        Clock::system().unix_seconds(),
        &nonce(),
        method.as_str(),
        path,
        &body,
    );
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    stack.send(method, path, header_map(&headers), &body).await
}

async fn read(stack: &Stack) -> (i64, Option<Vec<u8>>, bool) {
    let answer = send(stack, Method::GET, PATH, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let document = answer.body["document"].as_str();
    (
        answer.body["version"].as_i64().unwrap(),
        document.map(|text| URL_SAFE_NO_PAD.decode(text).unwrap()),
        answer.body["is_leased"].as_bool().unwrap(),
    )
}

async fn lease(stack: &Stack, holder: &str, seconds: &str) -> Answer {
    send(
        stack,
        Method::POST,
        LEASE,
        &[("holder", holder), ("seconds", seconds)],
    )
    .await
}

async fn write(stack: &Stack, holder: &str, version: &str, document: &[u8]) -> Answer {
    let document = URL_SAFE_NO_PAD.encode(document);
    let fields = [("holder", holder), ("version", version), ("document", &document)];
    send(stack, Method::POST, PATH, &fields).await
}

const LEASED: (u16, &str, &str) = (
    409,
    "operation_not_permitted",
    "the document is leased by another",
);
const CHANGED: (u16, &str, &str) = (
    409,
    "operation_not_permitted",
    "the document is not leased by the sender, or was changed",
);

#[tokio::test]
async fn one_holder_at_a_time_changes_what_it_has_read() {
    let stack = Stack::start().await;
    assert_eq!(read(&stack).await, (0, None, false), "nobody has written");
    assert_eq!(
        write(&stack, "one", "0", b"x").await.refusal(),
        CHANGED,
        "no lease"
    );
    assert_eq!(lease(&stack, "one", "600").await.status, 200);
    assert_eq!(lease(&stack, "two", "600").await.refusal(), LEASED);
    assert_eq!(
        lease(&stack, "one", "600").await.status,
        200,
        "it may be made longer"
    );
    assert_eq!(write(&stack, "two", "0", b"x").await.refusal(), CHANGED);
    assert_eq!(write(&stack, "one", "1", b"x").await.refusal(), CHANGED);
    assert_eq!(write(&stack, "one", "0", b"first").await.body["version"], 1);
    assert_eq!(write(&stack, "one", "0", b"again").await.refusal(), CHANGED);
    assert_eq!(read(&stack).await, (1, Some(b"first".to_vec()), true));
    assert_eq!(
        lease(&stack, "two", "0").await.status,
        200,
        "gives back what it has not"
    );
    assert_eq!(lease(&stack, "two", "600").await.refusal(), LEASED);
    assert_eq!(lease(&stack, "one", "0").await.status, 200);
    assert_eq!(read(&stack).await, (1, Some(b"first".to_vec()), false));
    let leased = lease(&stack, "two", "600").await;
    assert_eq!(leased.body["version"], 1);
    assert_eq!(leased.body["document"], URL_SAFE_NO_PAD.encode(b"first"));
    assert_eq!(write(&stack, "one", "1", b"late").await.refusal(), CHANGED);
    assert_eq!(write(&stack, "two", "1", b"second").await.body["version"], 2);
    stack
        .sql("UPDATE gateway_documents SET lease_until = now()")
        .await;
    assert_eq!(
        write(&stack, "two", "2", b"late").await.refusal(),
        CHANGED,
        "it is over"
    );
    assert_eq!(lease(&stack, "one", "600").await.status, 200);
    assert_eq!(read(&stack).await, (2, Some(b"second".to_vec()), true));
}

#[tokio::test]
async fn of_many_replicas_one_gets_the_lease() {
    let stack = Stack::start().await;
    let holders: Vec<String> = (0..8).map(|number| format!("gateway-{number}")).collect();
    let asked = holders.iter().map(|holder| lease(&stack, holder, "600"));
    let answers = futures_util::future::join_all(asked).await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 1);
}

#[tokio::test]
async fn a_document_is_at_rest_sealed_and_only_under_its_name() {
    let stack = Stack::start().await;
    assert_eq!(lease(&stack, "one", "600").await.status, 200);
    assert_eq!(write(&stack, "one", "0", b"a private key").await.status, 200);
    let envelope: Vec<u8> = sqlx::query_scalar("SELECT envelope FROM gateway_documents")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(!envelope.windows(7).any(|bytes| bytes == b"private"));
    stack.sql("UPDATE gateway_documents SET name = 'acme-2'").await;
    let moved = send(&stack, Method::GET, "/internal/gateway/documents/acme-2", &[]).await;
    let expected = (500, "internal_error", "the document cannot be opened");
    assert_eq!(moved.refusal(), expected);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let stack = Stack::start().await;
    let malformed = (400, "invalid_token", "malformed request body");
    let long = "h".repeat(129);
    for fields in [
        &[("holder", "one")][..],
        &[("seconds", "1")],
        &[("holder", ""), ("seconds", "1")],
        &[("holder", &long), ("seconds", "1")],
        &[("holder", "one"), ("seconds", "601")],
        &[("holder", "one"), ("seconds", "-1")],
        &[("holder", "one"), ("seconds", "1"), ("seconds", "2")],
    ] {
        let answer = send(&stack, Method::POST, LEASE, fields).await;
        assert_eq!(answer.refusal(), malformed, "{fields:?}");
    }
    for fields in [
        &[("holder", "one"), ("version", "0")][..],
        &[("holder", "one"), ("version", "x"), ("document", "YQ")],
        &[("version", "0"), ("document", "YQ")],
        &[("holder", "one"), ("version", "0"), ("document", "?")],
    ] {
        let answer = send(&stack, Method::POST, PATH, fields).await;
        assert_eq!(answer.refusal(), malformed, "{fields:?}");
    }
    let too_large = (413, "payload_too_large", "request body too large");
    for bytes in [(256 << 10) + 1, 1 << 20] {
        let answer = write(&stack, "one", "0", &vec![0; bytes]).await;
        assert_eq!(answer.refusal(), too_large, "{bytes}");
    }
    assert_eq!(lease(&stack, "one", "600").await.status, 200);
    assert_eq!(write(&stack, "one", "0", &vec![0; 256 << 10]).await.status, 200);
    for name in ["Acme", "acme.1", "a%2Fb"] {
        let path = format!("/internal/gateway/documents/{name}");
        let answer = send(&stack, Method::GET, &path, &[]).await;
        assert_eq!(
            answer.refusal(),
            (404, "resource_not_found", "no such document"),
            "{name}"
        );
    }
}
