//! Each resource is decided on its own; what is refused is dropped, with its reason in the ledger.

use caracal_testing::{Role, TestDatabase, TestRedis, wait_until};
use serde_json::json;

use crate::stack::{SOON, Stack, spend, with};

/// Resource, scope, session fields; description and status of the refusal.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

const SESSION: [(&str, &str); 2] = [("agent_session_id", "s-target"), ("delegation_edge_id", "e-1")];

#[tokio::test]
async fn every_refused_resource_says_why_in_the_ledger() {
    let stack = Stack::start().await;
    stack
        .sql("INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                  receiver_application_id, resource_id, scopes, constraints_json, expires_at) VALUES
              ('e-crm', 'z1', 's-source', 's-target', 'app-1', 'app-1', 'r-crm', '{crm:read}', '{}', now() + interval '1 hour'),
              ('e-list', 'z1', 's-source', 's-target', 'app-1', 'app-1', NULL, '{crm:read}',
                  '{\"resources\": [\"resource://crm\"]}', now() + interval '1 hour')")
        .await;
    let cases: [Case<'_>; 9] = [
        (
            "resource://unknown",
            "crm:read",
            &SESSION,
            "policy denied",
            "resource_not_found",
        ),
        (
            "resource://plain",
            "crm:write",
            &SESSION,
            "policy denied",
            "scope_mismatch",
        ),
        (
            "resource://plain",
            "crm:read",
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-crm")],
            "policy denied",
            "resource_outside_delegation",
        ),
        (
            "resource://plain",
            "crm:read",
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-list")],
            "policy denied",
            "resource_outside_delegation",
        ),
        (
            "resource://foreign",
            "crm:read",
            &SESSION,
            "policy denied (resource_not_granted)",
            "complete",
        ),
        (
            "resource://query",
            "agent:lifecycle",
            &SESSION,
            "requested scopes exceed delegation scopes",
            "reference_refused",
        ),
        (
            "resource://crm",
            "",
            &SESSION,
            "policy denied (no_rule_matched)",
            "complete",
        ),
        (
            "resource://crm",
            "crm:write",
            &[],
            "policy denied (ambient_scope_mismatch)",
            "complete",
        ),
        (
            "caracal-control",
            "crm:read",
            &SESSION,
            "control resource requires a control key",
            "control_resource_requires_control_key",
        ),
    ];
    for (resource, scope, session, description, status) in cases {
        let answer = stack
            .mint(&with(&[("resource", resource), ("scope", scope)], session))
            .await;
        assert_eq!(
            answer.refusal(),
            (403, "access_denied", description),
            "{resource} {scope}"
        );
        let events = stack.events_of(&answer).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(
            (&events[0]["decision"], &events[0]["evaluation_status"]),
            (&json!("deny"), &json!(status)),
            "{resource}"
        );
    }
}

#[tokio::test]
async fn the_token_covers_what_was_granted_and_drops_the_rest() {
    let stack = Stack::start().await;
    let fields = [
        ("resource", "resource://plain"),
        ("resource", "resource://foreign"),
        ("resource", "resource://crm"),
        ("resource", "resource://unknown"),
        ("scope", "crm:read"),
        SESSION[0],
        SESSION[1],
    ];
    let mut all = crate::stack::DIRECT.to_vec();
    all.extend(fields);
    let answer = stack.post(&all).await;
    assert_eq!(
        answer.body["target_resources"],
        json!(["resource://crm", "resource://plain"]),
        "{}",
        answer.body
    );
    let events = stack.all_events_of(&answer, 4).await;
    let mut outcomes: Vec<(String, String)> = events
        .iter()
        .map(|event| {
            (
                event["metadata_json"]["resource"].to_string(),
                event["decision"].to_string(),
            )
        })
        .collect();
    outcomes.sort();
    let expected = [
        ("crm", "allow"),
        ("foreign", "deny"),
        ("plain", "allow"),
        ("unknown", "deny"),
    ];
    let expected =
        expected.map(|(name, decision)| (format!("\"resource://{name}\""), format!("\"{decision}\"")));
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn a_gated_scope_waits_for_a_human() {
    let stack = Stack::start().await;
    stack
        .sql("UPDATE resources SET scopes = '{crm:write,crm:danger}' WHERE id = 'r-gated'")
        .await;
    crate::seed::policy(
        &stack.pool,
        "psv-2",
        &crate::seed::POLICY.replace(
            "{\"editor\": [\"crm:write\"]}",
            "{\"editor\": [\"crm:write\", \"crm:danger\"]}",
        ),
    )
    .await;
    let answer = stack
        .mint(&with(
            &[("resource", "resource://gated"), ("scope", "crm:danger")],
            &SESSION,
        ))
        .await;
    assert_eq!(
        answer.refusal(),
        (
            401,
            "interaction_required",
            "Human approval required for this request"
        )
    );
    let event = &stack.events_of(&answer).await[0];
    assert_eq!(event["decision"], "pending");
    let reasons = event["diagnostics_json"].to_string();
    assert!(
        reasons.contains("step_up_required") && reasons.contains("approval_required"),
        "{reasons}"
    );
}

#[tokio::test]
async fn a_spent_budget_drops_the_resource_and_counts_a_governed_request_once() {
    let stack = Stack::start().await;
    let fields = with(
        &[("resource", "resource://limited"), ("scope", "crm:read")],
        &SESSION,
    );
    for _ in 0..2 {
        let one_shot = stack.mint(&fields).await.token();
        for _ in 0..3 {
            assert_eq!(
                stack
                    .at_gateway(&one_shot, "resource://limited", &[])
                    .await
                    .status,
                200,
                "counted at the mint"
            );
        }
    }
    let answer = stack.mint(&fields).await;
    assert_eq!(
        answer.refusal(),
        (429, "provider_rate_limited", "rate limit exceeded")
    );
    let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=1_800).contains(&wait), "two an hour: {wait}");
    assert_eq!(
        stack.events_of(&answer).await[0]["evaluation_status"],
        "rate_limited"
    );
}

#[tokio::test]
async fn a_reusable_mandate_is_counted_each_time_the_gateway_presents_it() {
    let stack = Stack::start_with(&[("STS_MINT_RATE_LIMIT_PER_MIN", "3")]).await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    // The mint of the mandate was the first.
    let refused = spend(3, 2, async || {
        stack.at_gateway(&mandate, "resource://crm", &[]).await
    })
    .await;
    assert_eq!(
        refused.refusal(),
        (429, "provider_rate_limited", "rate limit exceeded")
    );
}

#[tokio::test]
async fn two_replicas_share_a_budget() {
    // So large that whoever has a budget of his own could not spend it within the test.
    let limit = [("STS_MINT_RATE_LIMIT_PER_MIN", "40")];
    let one = Stack::start_with(&limit).await;
    let database = TestDatabase::new().await;
    let url = database.url_as(Role::Sts);
    let two = Stack::start_between(database, &url, TestRedis::new().await, one.redis.url(), &limit).await;
    let mint = async |stack: &Stack| {
        stack
            .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
            .await
            .status
    };
    // The first keeps its budget spent, so what the second hears does not age while it hears it.
    wait_until(SOON, async || {
        while mint(&one).await == 200 {}
        mint(&two).await == 429
    })
    .await;
}
