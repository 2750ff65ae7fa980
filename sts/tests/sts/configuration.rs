//! A change of configuration takes effect through the event streams, without a restart and without a gap.

use caracal_testing::wait_until;
use http::StatusCode;
use serde_json::json;

use crate::seed;
use crate::stack::{SOON, Stack, with};

const DELEGATED: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:write"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

#[tokio::test]
async fn a_removed_role_stops_mints_and_mandates_already_minted() {
    let stack = Stack::start().await;
    let minted = stack.mint(&DELEGATED).await.token();
    let narrowed = seed::POLICY.replace(
        "{\"editor\": [\"crm:read\", \"crm:write\"], \"reader\": [\"crm:read\"]}, \"ambient\"",
        "{\"editor\": [\"crm:read\"]}, \"ambient\"",
    );
    seed::policy(&stack.pool, "psv-2", &narrowed).await;
    wait_until(SOON, async || stack.mint(&DELEGATED).await.status == 403).await;
    let answer = stack.at_gateway(&minted, "resource://crm", &[]).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "policy denied (role_scope_mismatch)")
    );
    let event = &stack.events_of(&answer).await[0];
    assert_eq!(event["policy_set_version_id"], "psv-2");
}

#[tokio::test]
async fn a_grant_of_a_moment_ago_is_honoured_at_once() {
    let stack = Stack::start().await;
    let fields = with(
        &DELEGATED,
        &[("resource", "resource://foreign"), ("scope", "crm:read")],
    );
    assert_eq!(stack.mint(&fields).await.status, StatusCode::FORBIDDEN);
    let granted = seed::POLICY.replace(
        "\"resource://foreign\": {\"application\": \"other\"",
        "\"resource://foreign\": {\"application\": \"bot\"",
    );
    seed::policy(&stack.pool, "psv-2", &granted).await;
    wait_until(SOON, async || stack.mint(&fields).await.status == 200).await;
}

#[tokio::test]
async fn a_zone_without_an_active_policy_grants_nothing() {
    let stack = Stack::start().await;
    stack.mint(&DELEGATED).await.token();
    stack
        .sql("UPDATE policy_set_bindings SET active_version_id = NULL")
        .await;
    wait_until(SOON, async || stack.mint(&DELEGATED).await.status == 403).await;
    let answer = stack.mint(&DELEGATED).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "policy denied (no_active_policy_set)")
    );
}

#[tokio::test]
async fn a_broken_policy_leaves_the_one_before_in_force() {
    let stack = Stack::start().await;
    stack.mint(&DELEGATED).await.token();
    seed::policy(&stack.pool, "psv-2", "package caracal.authz\n\nallow := true").await;
    stack
        .sql("UPDATE applications SET name = 'Renamed' WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || {
        let answer = stack.mint(&DELEGATED).await;
        let event = &stack.events_of(&answer).await[0];
        assert_eq!(
            (&event["decision"], &event["policy_set_version_id"]),
            (&json!("allow"), &json!("psv-1"))
        );
        event["metadata_json"]["application_name"] == "Renamed"
    })
    .await;
}

#[tokio::test]
async fn a_rotated_client_secret_is_the_only_one_that_works() {
    let stack = Stack::start().await;
    stack.mint(&DELEGATED).await.token();
    let stored = caracal_token::client_secret::hash("cs_new", &[9; 16]);
    stack
        .sql(format!(
            "UPDATE applications SET client_secret_hash = '{stored}' WHERE id = 'app-1'"
        ))
        .await;
    assert_eq!(
        stack
            .mint(&with(&DELEGATED, &[("client_secret", "cs_new")]))
            .await
            .status,
        200,
        "at once"
    );
    assert_eq!(stack.mint(&DELEGATED).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_rotated_provider_secret_reaches_the_gateway() {
    let stack = Stack::start().await;
    let token_of = async || {
        let one_shot = stack.one_shot("resource://crm", "crm:read").await;
        let answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
        answer.body["upstreams"]["resource://crm"]["provider_token"].clone()
    };
    assert_eq!(token_of().await, "k-123");
    seed::provider_secret(&stack.pool, "p-key", r#"{"api_key": "k-new"}"#).await;
    wait_until(SOON, async || token_of().await == "k-new").await;
}

#[tokio::test]
async fn an_archived_application_resource_or_zone_is_gone() {
    let stack = Stack::start().await;
    stack.mint(&DELEGATED).await.token();
    stack
        .sql("UPDATE resources SET archived_at = now() WHERE id = 'r-crm'")
        .await;
    wait_until(SOON, async || {
        stack.mint(&DELEGATED).await.refusal().2 == "policy denied"
    })
    .await;
    stack
        .sql("UPDATE zones SET archived_at = now() WHERE id = 'z1'")
        .await;
    wait_until(SOON, async || {
        stack.mint(&DELEGATED).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
}
