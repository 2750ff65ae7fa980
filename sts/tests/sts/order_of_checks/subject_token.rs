//! Which token is exchanged. The zone's own key is read from the database, so that a token is wrong in one thing only.

use caracal_chassis::Clock;
use caracal_token::envelope::{Kek, Keyring, ZONE_SIGNING_KEY_AAD};
use caracal_token::{Claims, SigningKey, Use};
use serde_json::{Value, json};

use super::Stack;
use crate::seed::KEK;
use crate::stack::{ACCESS_TOKEN, ISSUER};

const REFUSED: super::Refused<'static> = (
    401,
    "invalid_token",
    "invalid subject_token",
    "subject_token_invalid",
);

async fn key_of(stack: &Stack, zone: &str) -> SigningKey {
    let (kid, envelope): (String, Vec<u8>) = sqlx::query_as(
        "SELECT id, envelope FROM secrets WHERE zone_id = $1 AND name = 'zone_signing_key' ORDER BY created_at DESC LIMIT 1",
    )
    .bind(zone)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    let keyring = Keyring::new(Kek::from_hex(KEK).unwrap(), None);
    let pem = keyring.open(&envelope, ZONE_SIGNING_KEY_AAD.as_bytes()).unwrap();
    SigningKey::from_sec1_pem(kid.parse().unwrap(), std::str::from_utf8(&pem).unwrap()).unwrap()
}

async fn new_key_of_another_zone(stack: &Stack) -> SigningKey {
    let key = SigningKey::generate("kid-of-z2".parse().unwrap()).unwrap();
    let keyring = Keyring::new(Kek::from_hex(KEK).unwrap(), None);
    let pem = key.to_sec1_pem().unwrap();
    let envelope = keyring
        .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())
        .unwrap();
    sqlx::query(
        "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope)
         VALUES ('kid-of-z2', 'z2', 'z2', 'zone_signing_key', 'token', $1)",
    )
    .bind(envelope)
    .execute(&stack.pool)
    .await
    .unwrap();
    let keys = stack.get("/.well-known/jwks.json?zone_id=z2").await;
    assert_eq!(keys.body["keys"][0]["kid"], "kid-of-z2");
    key
}

fn changed(claims: &Claims, member: &str, value: Value) -> Claims {
    let mut document = serde_json::to_value(claims).unwrap();
    document[member] = value;
    serde_json::from_value(document).unwrap()
}

#[tokio::test]
async fn a_token_that_is_wrong_in_one_claim_is_refused_whoever_signed_it() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let claims = stack.verify(&one_shot, ISSUER, Use::Gateway).await;
    let key = key_of(&stack, "z1").await;
    let now = Clock::system().unix_seconds();
    let right = key
        .sign(&changed(&claims, "jti", json!("jti-of-a-test")))
        .unwrap();
    assert_eq!(
        stack.at_gateway(&right, "resource://crm", &[]).await.status,
        200,
        "the claims are what is wrong below"
    );
    let unknown =
        SigningKey::from_sec1_pem("kid-unknown".parse().unwrap(), &key.to_sec1_pem().unwrap()).unwrap();
    let foreign = new_key_of_another_zone(&stack).await;
    let cases = [
        ("over", key.sign(&changed(&claims, "exp", json!(now - 61)))),
        (
            "from the future",
            key.sign(&changed(&claims, "iat", json!(now + 120))),
        ),
        (
            "another issuer",
            key.sign(&changed(&claims, "iss", json!("https://other.example"))),
        ),
        (
            "for another audience",
            key.sign(&changed(&claims, "aud", json!(["resource://crm"]))),
        ),
        (
            "another zone",
            key.sign(&changed(&claims, "zone_id", json!("z2"))),
        ),
        ("an unknown key id", unknown.sign(&claims)),
        ("the key of another zone", foreign.sign(&claims)),
        (
            "another zone and its key",
            foreign.sign(&changed(&claims, "zone_id", json!("z2"))),
        ),
        (
            "for an upstream",
            key.sign(&changed(&claims, "use", json!("resource"))),
        ),
    ];
    for (what, token) in cases {
        let answer = stack.at_gateway(&token.unwrap(), "resource://crm", &[]).await;
        let (status, code, description, _) = REFUSED;
        assert_eq!(answer.refusal(), (status, code, description), "{what}");
    }
    let events = stack
        .events(|event| event["evaluation_status"] == "subject_token_invalid")
        .await;
    assert!(events.iter().all(|event| {
        event["event_type"] == "token_exchange"
            && event["decision"] == "deny"
            && event["diagnostics_json"][0]["reason"] == "invalid subject_token"
    }));
}

#[tokio::test]
async fn a_token_for_an_upstream_is_no_subject_token_of_a_client() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let resource_mandate = stack.at_gateway(&one_shot, "resource://crm", &[]).await.token();
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("subject_token", &resource_mandate),
            ("subject_token_type", ACCESS_TOKEN),
        ])
        .await;
    stack
        .expect_refusal(&answer, REFUSED, "an upstream's token")
        .await;
}

#[tokio::test]
async fn what_only_a_gateway_may_exchange_is_said_after_policy_has_spoken() {
    let stack = Stack::start().await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    let exchange = async |resource: &str| {
        stack
            .mint(&[
                ("resource", resource),
                ("subject_token", &mandate),
                ("subject_token_type", ACCESS_TOKEN),
            ])
            .await
    };
    let expected = (
        403,
        "access_denied",
        "resource exchanges must use the Gateway",
        "exchange_denied",
    );
    stack
        .expect_refusal(&exchange("resource://crm").await, expected, "granted")
        .await;
    let expected = (
        403,
        "access_denied",
        "policy denied (mandate_target_mismatch)",
        "complete",
    );
    stack
        .expect_refusal(&exchange("resource://plain").await, expected, "not granted")
        .await;
}
