//! Keys, health, metrics and the revocations gateways load.

use std::collections::BTreeSet;

use caracal_chassis::Clock;
use caracal_wire::sts::RevocationSnapshot;
use http::{HeaderMap, Method, StatusCode};

use crate::stack::{Stack, header_map, nonce, signature};

#[tokio::test]
async fn the_keys_of_a_zone_are_public_and_cacheable() {
    let stack = Stack::start().await;
    let path = "/.well-known/jwks.json?zone_id=z1";
    assert_eq!(
        stack.get(path).await.refusal(),
        (404, "resource_not_found", "zone signing key not found"),
        "no key yet"
    );
    stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack.get(path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.headers["cache-control"],
        "public, max-age=300, must-revalidate"
    );
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let key = &answer.body["keys"][0];
    for (member, value) in [("kty", "EC"), ("crv", "P-256"), ("use", "sig"), ("alg", "ES256")] {
        assert_eq!(key[member], value);
    }
    let etag = answer.headers["etag"].to_str().unwrap();
    let again = stack
        .send(Method::GET, path, header_map(&[("if-none-match", etag)]), "")
        .await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let head = stack.send(Method::HEAD, path, HeaderMap::new(), "").await;
    assert_eq!((head.status, head.bytes.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn keys_are_asked_for_by_zone() {
    let stack = Stack::start().await;
    for path in [
        "/.well-known/jwks.json",
        "/.well-known/jwks.json?zone_id=",
        "/.well-known/jwks.json?zone=z1",
    ] {
        assert_eq!(
            stack.get(path).await.refusal(),
            (400, "invalid_token", "zone_id required")
        );
    }
    for zone in ["z-unknown", "no%20id", "z2"] {
        let answer = stack.get(&format!("/.well-known/jwks.json?zone_id={zone}")).await;
        assert_eq!(
            answer.refusal(),
            (404, "resource_not_found", "zone signing key not found")
        );
    }
}

#[tokio::test]
async fn two_first_mints_make_one_key() {
    let stack = Stack::start().await;
    let fields = [("resource", "resource://crm"), ("scope", "agent:lifecycle")];
    let (one, two) = tokio::join!(stack.mint(&fields), stack.mint(&fields));
    let _tokens = [one.token(), two.token()];
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM secrets WHERE zone_id = 'z1'")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(keys, 1);
}

#[tokio::test]
async fn a_gateway_loads_what_is_revoked() {
    let stack = Stack::start().await;
    stack
        .sql(
            "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at) VALUES
              ('z1', 'session', 's-1', 'test', now() + interval '1 hour'),
              ('z2', 'authority_record', 'ar-9', 'test', now() + interval '1 hour'),
              ('z1', 'delegation', 'e-over', 'test', now() - interval '1 second')",
        )
        .await;
    let path = "/internal/gateway/revocations";
    let ask = async |headers: &[(&str, &str)]| stack.send(Method::GET, path, header_map(headers), "").await;
    assert_eq!(ask(&[]).await.refusal().0, 401);
    let signed = signature(Clock::system().unix_seconds(), &nonce(), "GET", path, "");
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let answer = ask(&headers).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let revoked = answer.body["revocations"].as_array().unwrap();
    let mut ids: Vec<&str> = revoked
        .iter()
        .map(|revoked| revoked["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["ar-9", "s-1"]);
    assert!(answer.body["as_of_unix_ms"].as_i64().unwrap() > 0);
    assert_eq!(ask(&headers).await.refusal().0, 401, "a signature is good once");
}

#[tokio::test]
async fn more_revocations_than_one_answer_holds_come_in_parts() {
    const COUNT: usize = 7_000;
    let stack = Stack::start().await;
    stack
        .sql(&format!(
            "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
             SELECT 'z1', 'session', 's-' || n, 'test', now() + n * interval '1 second' FROM generate_series({COUNT}, 1, -1) n"
        ))
        .await;
    let ask = async |query: &str| {
        let path = format!("/internal/gateway/revocations{query}");
        let signed = signature(Clock::system().unix_seconds(), &nonce(), "GET", &path, "");
        let headers: Vec<(&str, &str)> = signed
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        stack.send(Method::GET, &path, header_map(&headers), "").await
    };
    let (mut ids, mut after, mut parts) = (BTreeSet::new(), Some(0), 0);
    while let Some(from) = after {
        let part = ask(&format!("?after={from}")).await;
        assert_eq!(part.status, StatusCode::OK, "{}", part.body);
        let part: RevocationSnapshot = serde_json::from_value(part.body).unwrap();
        assert!(part.revocations.len() < COUNT, "nobody holds all of them at once");
        ids.extend(part.revocations.into_iter().map(|revoked| revoked.id));
        after = part.next;
        parts += 1;
    }
    assert_eq!((ids.len(), parts), (COUNT, 2));
    let whole: RevocationSnapshot = serde_json::from_value(ask("").await.body).unwrap();
    assert_eq!(
        (whole.revocations.len(), whole.next),
        (COUNT, None),
        "who knows nothing of parts misses nothing"
    );
    assert_eq!(ask("?after=x").await.refusal().0, 400);
}
