//! A client proves itself with its own key (RFC 7523, `private_key_jwt`).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Clock;
use caracal_testing::{FaultProxy, Role, TestDatabase, TestRedis, wait_until};
use caracal_wire::form;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::seed;
use crate::stack::{Answer, GRANT, ISSUER, SOON, Stack, header_map, nonce};

const KIND: (&str, &str) = (
    "client_assertion_type",
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
);
const WANTED: [(&str, &str); 2] = [("resource", "resource://crm"), ("scope", "crm:read")];

/// The key pair of a client.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwks(&self, kid: &str) -> Value {
        let point = self.0.public_key().as_ref();
        let coordinate = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
            "x": coordinate(1), "y": coordinate(33)}]})
    }

    fn sign(&self, kid: &str, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!(
            "{}.{}",
            encode(&json!({"alg": "ES256", "kid": kid})),
            encode(claims)
        );
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn claims(client: &str, audience: &str) -> Value {
    let now = Clock::system().unix_seconds();
    json!({"iss": client, "sub": client, "aud": audience, "iat": now, "exp": now + 60, "jti": nonce()})
}

async fn with_key() -> (Stack, Signer) {
    let stack = Stack::start().await;
    let signer = key_of_app_1(&stack).await;
    (stack, signer)
}

/// Makes a key the only way in which `app-1` proves itself.
async fn key_of_app_1(stack: &Stack) -> Signer {
    // For a minute after its memory began, assertions are not decided about.
    stack.redis.remember_for_long().await;
    let signer = Signer::new();
    stack
        .sql(format!(
            "UPDATE applications SET client_jwks = '{}', client_secret_hash = NULL WHERE id = 'app-1'",
            signer.jwks("k1")
        ))
        .await;
    wait_until(SOON, async || {
        let assertion = signer.sign("k1", &claims("app-1", ISSUER));
        ask(stack, &assertion).await.status == StatusCode::OK
    })
    .await;
    signer
}

/// At the token endpoint as it was published.
async fn ask(stack: &Stack, assertion: &str) -> Answer {
    let mut fields = vec![GRANT, ("zone_id", "z1"), ("application_id", "app-1"), KIND];
    fields.extend([("client_assertion", assertion)]);
    fields.extend(WANTED);
    stack.post(&fields).await
}

async fn post(stack: &Stack, path: &str, fields: &[(&str, &str)]) -> Answer {
    let headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    stack
        .send(Method::POST, path, headers, &form::encode(fields))
        .await
}

#[tokio::test]
async fn a_client_without_a_secret_uses_every_endpoint_by_its_key_alone() {
    let (stack, signer) = with_key().await;
    let fresh = |audience: &str| signer.sign("k1", &claims("app-1", audience));
    let zone = format!("{ISSUER}/zones/z1");
    let assertion = fresh(&zone);
    let mut fields = vec![GRANT, KIND, ("client_assertion", assertion.as_str())];
    fields.extend(WANTED);
    let token = post(&stack, "/zones/z1/oauth2/token", &fields).await.token();
    for (path, audience) in [
        ("introspect", zone.clone()),
        ("revoke", format!("{zone}/oauth2/token")),
    ] {
        let assertion = fresh(&audience);
        let fields = [KIND, ("client_assertion", &assertion), ("token", &token)];
        let answer = post(&stack, &format!("/zones/z1/oauth2/{path}"), &fields).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    let endpoint = format!("{ISSUER}/oauth/2/token");
    assert_eq!(ask(&stack, &fresh(&endpoint)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_assertion_is_good_once() {
    let (stack, signer) = with_key().await;
    let assertion = signer.sign("k1", &claims("app-1", ISSUER));
    assert_eq!(ask(&stack, &assertion).await.status, StatusCode::OK);
    assert_eq!(
        ask(&stack, &assertion).await.refusal(),
        (401, "access_denied", "invalid client credentials")
    );
}

#[tokio::test]
async fn whatever_is_wrong_with_an_assertion_looks_the_same() {
    let (stack, signer) = with_key().await;
    let good = claims("app-1", ISSUER);
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims["jti"] = json!(nonce());
        claims[member] = value;
        claims
    };
    let now = Clock::system().unix_seconds();
    let stranger = Signer::new();
    let rows = [
        ("another key", stranger.sign("k1", &good)),
        ("an unknown key id", signer.sign("k2", &good)),
        ("another subject", signer.sign("k1", &with("sub", json!("app-2")))),
        ("another issuer", signer.sign("k1", &with("iss", json!("app-2")))),
        (
            "another audience",
            signer.sign("k1", &with("aud", json!("https://x.example"))),
        ),
        (
            "two audiences",
            signer.sign("k1", &with("aud", json!([ISSUER, "https://x.example"]))),
        ),
        (
            "another zone",
            signer.sign("k1", &with("aud", json!(format!("{ISSUER}/zones/z2")))),
        ),
        ("expired", signer.sign("k1", &with("exp", json!(now - 120)))),
        ("endless", signer.sign("k1", &with("exp", json!(now + 7_200)))),
        (
            "from the future",
            signer.sign("k1", &with("iat", json!(now + 3_600))),
        ),
        ("no id", signer.sign("k1", &with("jti", json!("")))),
        ("no JWT", "x".to_owned()),
        ("too long", "x".repeat(10_000)),
    ];
    for (what, assertion) in rows {
        assert_eq!(
            ask(&stack, &assertion).await.refusal(),
            (401, "access_denied", "invalid client credentials"),
            "{what}"
        );
    }
    wait_until(SOON, async || {
        let refused = |event: &Value| event["event_type"] == "client_authentication";
        stack.events(refused).await.len() >= 13
    })
    .await;
}

#[tokio::test]
async fn a_key_proves_its_own_client_only() {
    let (stack, signer) = with_key().await;
    let assertion = signer.sign("k1", &claims("app-2", ISSUER));
    let mut fields = vec![GRANT, ("zone_id", "z1"), ("application_id", "app-2"), KIND];
    fields.extend([("client_assertion", assertion.as_str())]);
    fields.extend(WANTED);
    assert_eq!(stack.post(&fields).await.refusal().0, 401, "app-2 has no keys");
    let secret = [("client_secret", seed::SECRET)];
    assert_eq!(
        stack.mint(&[WANTED[0], WANTED[1], secret[0]]).await.status,
        StatusCode::UNAUTHORIZED,
        "app-1 has no secret any more"
    );
}

#[tokio::test]
async fn a_key_that_was_taken_away_proves_nothing() {
    let (stack, signer) = with_key().await;
    stack
        .sql("UPDATE applications SET client_jwks = NULL WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || {
        let assertion = signer.sign("k1", &claims("app-1", ISSUER));
        ask(&stack, &assertion).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_looked_at_twice_uses_its_assertion_once() {
    let (stack, signer) = with_key().await;
    for name in ["Renamed", "Renamed again"] {
        stack
            .sql(format!(
                "UPDATE applications SET name = '{name}' WHERE id = 'app-2'"
            ))
            .await;
        let assertion = signer.sign("k1", &claims("app-1", ISSUER));
        let fields = [GRANT, ("zone_id", "z1"), ("application_id", "app-1"), KIND];
        let more = [
            ("client_assertion", assertion.as_str()),
            ("resource", "resource://foreign"),
        ];
        let fields: Vec<(&str, &str)> = fields.into_iter().chain(more).collect();
        assert_eq!(
            stack.post(&fields).await.refusal().0,
            403,
            "the refusal is about the resource, not about the client"
        );
    }
}

#[tokio::test]
async fn without_the_memory_of_uses_no_assertion_is_believed() {
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let proxy = FaultProxy::before(redis.url()).await;
    let (url, through) = (database.url_as(Role::Sts), proxy.url_through(redis.url()));
    let settings = [("REVOCATION_FRESHNESS", "600s")];
    let stack = Stack::start_between(database, &url, redis, &through, &settings).await;
    let signer = key_of_app_1(&stack).await;
    proxy.refuse();
    let answer = ask(&stack, &signer.sign("k1", &claims("app-1", ISSUER))).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "client assertions cannot be checked now")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    proxy.resume();
    let event = &stack.events_of(&answer).await[0];
    assert_eq!(
        (
            &event["event_type"],
            &event["decision"],
            &event["evaluation_status"]
        ),
        (
            &json!("client_authentication"),
            &json!("deny"),
            &json!("client_auth_failed")
        )
    );
}
