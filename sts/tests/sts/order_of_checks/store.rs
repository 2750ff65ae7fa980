//! What is answered while something the service needs is away or damaged: an error with a time to come back, and evidence.

use caracal_chassis::Clock;
use caracal_testing::{FaultProxy, Role, TestDatabase, wait_until};
use http::Method;
use serde_json::json;

use super::{Refused, Stack};
use crate::stack::{Answer, SOON, header_map, nonce, signature};

async fn behind_proxy() -> (Stack, FaultProxy) {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("DB_CONNECT_TIMEOUT", "500ms"), ("REVOCATION_FRESHNESS", "60s")];
    (
        Stack::start_on(database, &proxy.url_through(&direct), &settings).await,
        proxy,
    )
}

async fn expect_unavailable(stack: &Stack, answer: &Answer, description: &str) {
    let expected: Refused<'_> = (503, "sts_unavailable", description, "exchange_denied");
    assert_eq!(answer.refusal(), (expected.0, expected.1, expected.2));
    assert_eq!(answer.headers["retry-after"], "1", "{description}");
    stack.expect_refusal(answer, expected, description).await;
}

#[tokio::test]
async fn without_the_database_what_needs_it_is_refused_by_name() {
    let (stack, proxy) = behind_proxy().await;
    let reusable = [("resource", "resource://crm"), ("scope", "agent:lifecycle")];
    stack.mint(&reusable).await.token();
    proxy.refuse();
    let answer = stack.delegated(&[]).await;
    expect_unavailable(&stack, &answer, "session state unavailable").await;
    let answer = stack.mint(&reusable).await;
    expect_unavailable(&stack, &answer, "authority record store unavailable").await;
    let answer = stack.delegated(&[("zone_id", "z3")]).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "zone configuration unavailable")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    let keys = stack.get("/.well-known/jwks.json?zone_id=z3").await;
    assert_eq!(
        keys.refusal(),
        (503, "sts_unavailable", "zone configuration unavailable")
    );
    proxy.resume();
    wait_until(SOON, async || stack.delegated(&[]).await.status == 200).await;
}

#[tokio::test]
async fn a_signing_key_that_cannot_be_opened_signs_nothing() {
    let stack = Stack::start().await;
    stack.delegated(&[]).await.token();
    stack
        .sql("UPDATE secrets SET envelope = '\\x00' WHERE zone_id = 'z1'; UPDATE applications SET name = 'Renamed' WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || stack.delegated(&[]).await.status == 500).await;
    let answer = stack.delegated(&[]).await;
    let expected = (500, "internal_error", "token issuance failed", "exchange_denied");
    stack.expect_refusal(&answer, expected, "a damaged key").await;
    let keys = stack.get("/.well-known/jwks.json?zone_id=z1").await;
    assert_eq!(
        keys.refusal(),
        (500, "internal_error", "zone signing keys unavailable")
    );
}

#[tokio::test]
async fn a_zone_whose_only_policy_cannot_be_used_grants_nothing() {
    let database = TestDatabase::new().await;
    let url = database.url_as(Role::Sts);
    let pool = database.pool().await;
    let stack = Stack::start_on(database, &url, &[]).await;
    // Nobody has asked for the zone yet, so this is the first policy it is loaded with.
    crate::seed::policy(&pool, "psv-2", "package caracal.authz\n\nallow := true").await;
    let answer = stack.delegated(&[]).await;
    let expected = (
        503,
        "policy_eval_failed",
        "policy evaluation failed",
        "policy_eval_failed",
    );
    stack.expect_refusal(&answer, expected, "no usable policy").await;
    assert_eq!(answer.headers["retry-after"], "1");
    let path = "/internal/policy/status/z1";
    let signed = signature(Clock::system().unix_seconds(), &nonce(), "GET", path, "");
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let status = stack.send(Method::GET, path, header_map(&headers), "").await;
    assert_eq!(
        (
            &status.body["loaded"],
            &status.body["policy_set_version_id"],
            status.body["manifest_sha256"].as_str().map(str::len)
        ),
        (&json!(false), &json!("psv-2"), Some(64))
    );
}
