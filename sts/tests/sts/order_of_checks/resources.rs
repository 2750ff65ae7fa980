//! What is asked for, resource by resource.

use caracal_testing::{Role, TestDatabase, wait_until};
use serde_json::json;

use super::{DELEGATED, Stack, about};
use crate::stack::{Answer, DIRECT, SOON, spend};

/// A delegated mint for several resources.
async fn mint_for(stack: &Stack, resources: &[&str], scope: &str) -> Answer {
    let mut fields = DIRECT.to_vec();
    fields.extend(resources.iter().map(|resource| ("resource", *resource)));
    fields.extend([("scope", scope), DELEGATED[2], DELEGATED[3]]);
    stack.post(&fields).await
}

#[tokio::test]
async fn a_spent_budget_is_told_only_when_nothing_is_granted() {
    let stack = Stack::start().await;
    for _ in 0..2 {
        mint_for(&stack, &["resource://limited"], "crm:read")
            .await
            .token();
    }
    let answer = mint_for(&stack, &["resource://limited", "resource://crm"], "crm:read").await;
    answer.token();
    assert_eq!(answer.body["target_resources"], json!(["resource://crm"]));
    let event = about(&stack, &answer, "resource://limited").await;
    assert_eq!(
        (
            &event["event_type"],
            &event["decision"],
            &event["evaluation_status"]
        ),
        (&json!("token_exchange"), &json!("deny"), &json!("rate_limited"))
    );
    let answer = mint_for(&stack, &["resource://foreign", "resource://limited"], "crm:read").await;
    assert_eq!(
        answer.refusal(),
        (429, "provider_rate_limited", "rate limit exceeded")
    );
}

#[tokio::test]
async fn what_is_refused_before_it_is_counted_costs_no_budget() {
    let stack = Stack::start().await;
    for _ in 0..5 {
        let answer = mint_for(&stack, &["resource://limited"], "crm:write").await;
        assert_eq!(answer.status, 403, "out of the resource's scopes");
    }
    for _ in 0..2 {
        mint_for(&stack, &["resource://limited"], "crm:read")
            .await
            .token();
    }
    let answer = mint_for(&stack, &["resource://limited"], "crm:read").await;
    assert_eq!(answer.status, 429);
}

#[tokio::test]
async fn the_limit_of_the_platform_counts_when_it_is_lower() {
    for (platform, granted) in [(2, 2), (50, 4)] {
        let database = TestDatabase::new().await;
        let statement = format!("INSERT INTO sts_rate_limit (limit_per_minute) VALUES ({platform})");
        crate::seed::run(&database.pool().await, statement).await;
        let url = database.url_as(Role::Sts);
        let stack = Stack::start_on(database, &url, &[("STS_MINT_RATE_LIMIT_PER_MIN", "4")]).await;
        spend(granted, granted, async || {
            mint_for(&stack, &["resource://crm"], "crm:read").await
        })
        .await;
    }
}

#[tokio::test]
async fn of_several_refused_resources_the_first_by_name_gives_the_reason() {
    let stack = Stack::start().await;
    let answer = mint_for(&stack, &["resource://unknown", "resource://foreign"], "crm:read").await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "policy denied (resource_not_granted)")
    );
    let events = stack.all_events_of(&answer, 2).await;
    assert_eq!(events.len(), 2, "each has its own reason: {events:?}");
}

#[tokio::test]
async fn an_operation_that_is_not_declared_ends_the_exchange_for_every_resource() {
    let stack = Stack::start().await;
    let one_shot = mint_for(&stack, &["resource://enforced", "resource://crm"], "crm:read")
        .await
        .token();
    let sentence = "the operation is not declared for the scopes of the presented mandate";
    let operation = [("request_method", "POST"), ("request_path", "/v1/contacts")];
    let answer = stack
        .at_gateway(&one_shot, "resource://enforced", &operation)
        .await;
    assert_eq!(answer.refusal(), (403, "operation_not_permitted", sentence));
    let event = &stack
        .events(|event| event["evaluation_status"] == "operation_not_permitted")
        .await[0];
    assert_eq!(
        (&event["event_type"], &event["decision"]),
        (&json!("token_exchange"), &json!("deny"))
    );
    let writing = mint_for(&stack, &["resource://enforced"], "crm:write")
        .await
        .token();
    let answer = stack
        .at_gateway(&writing, "resource://enforced", &operation)
        .await;
    assert_eq!(answer.status, 200, "declared for crm:write: {}", answer.body);
    let reading = [("request_method", "GET"), ("request_path", "/v1/contacts")];
    let answer = stack.at_gateway(&writing, "resource://enforced", &reading).await;
    assert_eq!(answer.refusal(), (403, "operation_not_permitted", sentence));
}

#[tokio::test]
async fn a_resource_whose_provider_is_gone_is_refused() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    stack
        .sql("UPDATE providers SET archived_at = now() WHERE id = 'p-key'")
        .await;
    let mut answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    wait_until(SOON, async || {
        answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
        answer.status == 403
    })
    .await;
    assert_eq!(answer.refusal(), (403, "access_denied", "policy denied"));
    let event = &stack
        .events(|event| event["evaluation_status"] == "provider_unavailable")
        .await[0];
    assert_eq!(
        (&event["event_type"], &event["decision"]),
        (&json!("token_exchange"), &json!("deny"))
    );
}

#[tokio::test]
async fn a_resource_without_an_upstream_knows_no_scope_it_does_not_declare() {
    let stack = Stack::start().await;
    stack
        .sql("UPDATE resources SET upstream_url = NULL WHERE id = 'r-crm'")
        .await;
    let expected = (403, "access_denied", "policy denied", "scope_mismatch");
    let lifecycle = [("resource", "resource://crm"), ("scope", "agent:lifecycle")];
    let mut answer = stack.mint(&lifecycle).await;
    wait_until(SOON, async || {
        answer = stack.mint(&lifecycle).await;
        answer.status == 403
    })
    .await;
    stack.expect_refusal(&answer, expected, "agent:lifecycle").await;
}

#[tokio::test]
async fn allowed_or_not_the_ledger_names_the_policy_that_decided() {
    let stack = Stack::start().await;
    let manifest: String =
        sqlx::query_scalar("SELECT manifest_sha256 FROM policy_set_versions WHERE id = 'psv-1'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    for resource in ["resource://crm", "resource://foreign"] {
        let answer = mint_for(&stack, &[resource], "crm:read").await;
        let event = about(&stack, &answer, resource).await;
        for (member, value) in [
            ("policy_set_id", "ps-1"),
            ("policy_set_version_id", "psv-1"),
            ("manifest_sha", manifest.as_str()),
        ] {
            assert_eq!(event[member], value, "{resource} {member}");
        }
        let metadata = &event["metadata_json"];
        assert_eq!(
            metadata["delegation_chain"],
            json!([
                {"application_id": "app-1", "agent_session_id": "s-source", "delegation_edge_id": "e-1"},
                {"application_id": "app-1", "agent_session_id": "s-target"},
            ])
        );
    }
}
