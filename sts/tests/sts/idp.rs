//! An identity provider, and signing in with its tokens.

use caracal_testing::{test_authority, wait_until};
use http::StatusCode;
use serde_json::{Value, json};

use crate::stack::{Answer, SOON, Stack, with};

pub(crate) use caracal_testing::IdentityProvider as Idp;

pub(crate) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

pub(crate) fn claims(user: &str) -> Value {
    Idp::claims(user)
}

/// What lets a service reach a provider on this machine.
pub(crate) fn settings() -> [(&'static str, String); 3] {
    let authority = test_authority().to_str().unwrap().to_owned();
    [
        ("CARACAL_MODE", "dev".to_owned()),
        ("INSECURE_LOOPBACK_EGRESS", "true".to_owned()),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority),
    ]
}

/// A service that believes the provider, and has done so for long.
pub(crate) async fn federated() -> (Stack, Idp) {
    federated_with(&[]).await
}

/// The same with `more` settings.
pub(crate) async fn federated_with(more: &[(&str, &str)]) -> (Stack, Idp) {
    let idp = Idp::start().await;
    let settings = settings();
    let mut settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    settings.extend(more);
    let stack = Stack::start_with(&settings).await;
    believe(&stack, &idp).await;
    // For a minute after the memory of uses began, tokens are not decided about.
    stack.redis.remember_for_long().await;
    (stack, idp)
}

/// Makes the zone believe the provider.
pub(crate) async fn believe(stack: &Stack, idp: &Idp) {
    stack
        .sql(format!(
            "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience)
             VALUES ('si-1', 'z1', 'https://idp.example', '{}', 'caracal')",
            idp.url("/jwks")
        ))
        .await;
    // A token that is good for nothing else shows when the service has heard of it.
    let probe = idp.sign(
        "k1",
        &json!({"iss": "https://idp.example", "sub": "probe", "aud": "x", "exp": 1, "iat": 1}),
    );
    wait_until(SOON, async || {
        sign_in(stack, &probe, &[]).await.refusal().2 == "invalid subject_token: audience mismatch"
    })
    .await;
}

pub(crate) async fn sign_in(stack: &Stack, token: &str, fields: &[(&str, &str)]) -> Answer {
    let usual = [("subject_token", token), ("subject_token_type", ID_TOKEN)];
    stack.mint(&with(&usual, fields)).await
}

/// Waits until a fresh token of the user is answered with this reason.
pub(crate) async fn until_refused(stack: &Stack, idp: &Idp, reason: &str) {
    let description = format!("invalid subject_token: {reason}");
    wait_until(SOON, async || {
        let answer = sign_in(stack, &idp.token("u"), &[]).await;
        answer.status == StatusCode::UNAUTHORIZED && answer.refusal().2 == description
    })
    .await;
}
