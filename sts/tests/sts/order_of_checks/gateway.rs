//! Whether a gateway asks.

use caracal_chassis::Clock;
use caracal_wire::{form, gateway_signature};

use super::Stack;
use crate::stack::{ACCESS_TOKEN, Answer, DIRECT, GRANT, nonce, signature, with};

const REFUSED: (u16, &str, &str) = (401, "access_denied", "invalid gateway exchange signature");

fn body(mandate: &str, request_id: Option<&str>) -> String {
    let mut fields = vec![
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("subject_token", mandate),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", "resource://crm"),
    ];
    fields.extend(request_id.map(|id| ("gateway_request_id", id)));
    form::encode(&fields)
}

async fn post(stack: &Stack, body: &str, signed: &[(&str, String)], request_id: Option<&str>) -> Answer {
    let mut headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    headers.extend(request_id.map(|id| ("x-request-id", id)));
    stack.post_body(body, &headers).await
}

#[tokio::test]
async fn a_signature_is_read_byte_for_byte() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let body = body(&one_shot, Some("req-1"));
    let now = Clock::system().unix_seconds();
    let good = || signature(now, &nonce(), "POST", "/oauth/2/token", &body);
    let changed = |index: usize, change: &dyn Fn(&str) -> String| {
        let mut signed = good();
        signed[index].1 = change(&signed[index].1);
        signed
    };
    let flip = |text: &str| {
        let last = if text.ends_with('0') { '1' } else { '0' };
        format!("{}{last}", &text[..text.len() - 1])
    };
    let mut foreign = good();
    let key = gateway_signature::derive_key(&[9; 32]);
    let at = foreign[1].1.clone();
    foreign[2].1 = gateway_signature::sign(&key, now, &at, "POST", "/oauth/2/token", body.as_bytes());
    for (what, signed) in [
        (
            "a time that is no number",
            changed(0, &|time| format!("{time}.0")),
        ),
        ("another key", foreign),
        ("another digit", changed(2, &flip)),
        ("upper case", changed(2, &|text| text.to_ascii_uppercase())),
        ("no nonce", changed(1, &|_| String::new())),
    ] {
        let answer = post(&stack, &body, &signed, Some("req-1")).await;
        assert_eq!(answer.refusal(), REFUSED, "{what}");
        let expected = (REFUSED.0, REFUSED.1, REFUSED.2, "client_auth_failed");
        let events = stack
            .events(|event| event["event_type"] == "client_authentication")
            .await;
        assert!(
            events.iter().all(|event| event["decision"] == "deny"),
            "{expected:?}"
        );
    }
    assert_eq!(post(&stack, &body, &good(), Some("req-1")).await.status, 200);
}

#[tokio::test]
async fn the_gateway_names_the_request_it_asks_for() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let now = Clock::system().unix_seconds();
    for (what, in_form, in_header) in [
        ("only in the header", None, Some("req-1")),
        ("empty in the form", Some(""), Some("req-1")),
        ("only in the form", Some("req-1"), None),
        ("nowhere", None, None),
        ("a header that no service adopts", Some("a b"), Some("a b")),
    ] {
        let body = body(&one_shot, in_form);
        let signed = signature(now, &nonce(), "POST", "/oauth/2/token", &body);
        let answer = post(&stack, &body, &signed, in_header).await;
        assert_eq!(answer.refusal(), REFUSED, "{what}");
    }
}

#[tokio::test]
async fn three_empty_headers_are_no_signature() {
    let stack = Stack::start().await;
    let fields = with(&DIRECT, &[("resource", "resource://crm"), ("scope", "crm:read")]);
    let empty = [
        (gateway_signature::TIMESTAMP, String::new()),
        (gateway_signature::NONCE, String::new()),
        (gateway_signature::SIGNATURE, String::new()),
    ];
    let answer = post(&stack, &form::encode(&fields), &empty, None).await;
    answer.token();
    assert!(answer.body.get("upstreams").is_none());
}
