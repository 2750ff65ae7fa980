//! Gateways that share a key with the token service are spared signatures, and nobody else notices.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Clock;
use caracal_token::{KeySet, MandateMacKey, Proof, Rules, UnverifiedToken, Use, admit};
use caracal_wire::answer_mac::{self, AnswerMacKey};
use caracal_wire::form;

use crate::stack::{ACCESS_TOKEN, Answer, GRANT, ISSUER, Stack, nonce, signature};

const KEY: [u8; 32] = [0x3a; 32];

async fn with_key() -> Stack {
    Stack::start_with(&[("MANDATE_MAC_KEY", &hex::encode(KEY))]).await
}

/// An answer to a gateway that has the key and asks for a MAC, and the signature of its call.
async fn asked(stack: &Stack, mandate: &str, resource: &str) -> (Answer, String) {
    let macs = AnswerMacKey::derive(&KEY);
    asked_as(stack, mandate, resource, |call| macs.question(call)).await
}

/// The same with another question, made of the signature of the call.
async fn asked_as(
    stack: &Stack,
    mandate: &str,
    resource: &str,
    question: impl FnOnce(&str) -> String,
) -> (Answer, String) {
    let request_id = nonce();
    let body = form::encode(&[
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("subject_token", mandate),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", resource),
        ("request_method", "GET"),
        ("request_path", "/v1/contacts"),
        ("gateway_request_id", &request_id),
    ]);
    let now = Clock::system().unix_seconds();
    let signed = signature(now, &nonce(), "POST", "/oauth/2/token", &body);
    let mut headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let question = question(&signed[2].1);
    headers.extend([
        ("x-request-id", request_id.as_str()),
        (answer_mac::HEADER, question.as_str()),
    ]);
    (stack.post_body(&body, &headers).await, signed[2].1.clone())
}

fn is_sealed(answer: &Answer, call: &str) -> bool {
    answer
        .headers
        .get(answer_mac::HEADER)
        .is_some_and(|mac| AnswerMacKey::derive(&KEY).is_sealed(call, &answer.bytes, mac.as_bytes()))
}

fn has_mac(token: &str) -> bool {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    header.get("mac").is_some()
}

#[tokio::test]
async fn mandates_for_the_gateway_carry_a_mac_and_are_ordinary_mandates() {
    let stack = with_key().await;
    let reusable = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    for (mandate, class) in [
        (stack.one_shot("resource://crm", "crm:read").await, Use::Gateway),
        (reusable, Use::Session),
    ] {
        assert!(has_mac(&mandate));
        stack.verify(&mandate, ISSUER, class).await;
        let keys = stack.get("/.well-known/jwks.json?zone_id=z1").await;
        let keys = KeySet::from_jwks_bytes(&keys.bytes).unwrap();
        let rules = Rules {
            issuer: ISSUER,
            audience: ISSUER,
            leeway_seconds: 60,
            uses: &[class],
        };
        let now = caracal_model::UnixSeconds(Clock::system().unix_seconds());
        let token = UnverifiedToken::parse(&mandate).unwrap();
        let (_claims, proof) = admit(token, &MandateMacKey::derive(&KEY), &keys, &rules, now).unwrap();
        assert_eq!(proof, Proof::Mac);
    }
}

#[tokio::test]
async fn a_mandate_that_no_upstream_sees_is_not_signed_for_a_gateway_that_asks_for_a_mac() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let (answer, call) = asked(&stack, &one_shot, "resource://crm").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["access_token"], "");
    assert_eq!(answer.body["token_type"], "N_A");
    assert!(is_sealed(&answer, &call));
    assert!(!is_sealed(&answer, &"0".repeat(64)), "it answers that call alone");
    let events = stack.events_of(&answer).await;
    let allowed = events.iter().find(|event| event["decision"] == "allow").unwrap();
    assert!(
        allowed["metadata_json"]["token_id"].is_string(),
        "it is in the ledger all the same: {allowed}"
    );
}

#[tokio::test]
async fn a_mandate_that_an_upstream_sees_is_signed() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://mandate", "crm:read").await;
    let (answer, call) = asked(&stack, &one_shot, "resource://mandate").await;
    assert!(is_sealed(&answer, &call));
    let claims = stack
        .verify(&answer.token(), "resource://mandate", Use::Resource)
        .await;
    assert_eq!(claims.aud, ["resource://mandate"]);
    assert!(!has_mac(&answer.token()), "upstreams have no use for it");
}

#[tokio::test]
async fn who_asks_for_no_mac_or_is_no_gateway_gets_a_signature() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert!(!answer.headers.contains_key(answer_mac::HEADER));
    let fields = crate::stack::with(
        &crate::stack::DIRECT,
        &[("resource", "resource://crm"), ("scope", "crm:read")],
    );
    let answer = stack
        .post_body(
            &form::encode(&fields),
            &[(answer_mac::HEADER, &AnswerMacKey::derive(&KEY).question(""))],
        )
        .await;
    stack.verify(&answer.token(), ISSUER, Use::Session).await;
    assert!(!answer.headers.contains_key(answer_mac::HEADER));
}

#[tokio::test]
async fn a_gateway_that_does_not_show_our_key_gets_a_signature() {
    let stack = with_key().await;
    let macs = AnswerMacKey::derive(&KEY);
    let other = AnswerMacKey::derive(&[0x3b; 32]);
    let questions: [&dyn Fn(&str) -> String; 4] = [
        &|call| other.question(call),
        &|_call| macs.question(&"0".repeat(64)),
        &|_call| answer_mac::VERSION.to_owned(),
        &|call| macs.seal(call, b""),
    ];
    for (count, question) in (1..).zip(questions) {
        let one_shot = stack.one_shot("resource://crm", "crm:read").await;
        let (answer, _call) = asked_as(&stack, &one_shot, "resource://crm", question).await;
        stack
            .verify(&answer.token(), "resource://crm", Use::Resource)
            .await;
        assert!(!answer.headers.contains_key(answer_mac::HEADER));
        assert_eq!(stack.metric("mac_questions_unproven_total").await, count);
    }
}

#[tokio::test]
async fn evidence_of_mandates_without_their_signatures_has_a_budget_for_each_zone() {
    let stack = Stack::start_with(&[
        ("MANDATE_MAC_KEY", &hex::encode(KEY)),
        ("STS_DENIAL_EVENTS_PER_MIN", "3"),
    ])
    .await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let other = stack.one_shot("resource://crm", "crm:read").await;
    let cut = format!(
        "{}.{}",
        one_shot.rsplit_once('.').unwrap().0,
        other.rsplit_once('.').unwrap().1
    );
    let began = tokio::time::Instant::now();
    for _again in 0..8 {
        let (answer, _call) = asked(&stack, &cut, "resource://crm").await;
        assert_eq!(answer.status, 401);
    }
    // Others at the same gateway are not concerned.
    let unknown = stack
        .post(&[
            GRANT,
            ("zone_id", "z1"),
            ("application_id", "app-unknown"),
            ("client_secret", "x"),
        ])
        .await;
    assert!(!stack.events_of(&unknown).await.is_empty());
    let written = stack
        .events(|event| {
            event["event_type"] == "token_exchange"
                && event["diagnostics_json"][0]["reason"] == "invalid subject_token"
        })
        .await
        .len();
    // One window more for each minute the machine has taken.
    let earned = 3 * usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    assert!((3..=3 + earned).contains(&written), "{written}");
    assert!(stack.metric("denial_events_suppressed_total").await > 0);
}

#[tokio::test]
async fn without_the_key_everything_is_signed() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    assert!(!has_mac(&one_shot));
    let (answer, _call) = asked(&stack, &one_shot, "resource://crm").await;
    stack
        .verify(&answer.token(), "resource://crm", Use::Resource)
        .await;
    assert!(!answer.headers.contains_key(answer_mac::HEADER));
}

#[tokio::test]
async fn the_mac_of_a_mandate_proves_nothing_to_the_token_service() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let (content, signature) = one_shot.rsplit_once('.').unwrap();
    let other = stack.one_shot("resource://crm", "crm:read").await;
    let forged = format!("{content}.{}", other.rsplit_once('.').unwrap().1);
    assert_ne!(forged, format!("{content}.{signature}"));
    let (answer, _call) = asked(&stack, &forged, "resource://crm").await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    let (answer, _call) = asked(&stack, &one_shot, "resource://crm").await;
    assert_eq!(answer.status, 200);
}
