//! The rows of the order of checks of approvals: without an id, with an id of something else, at the use, and without a
//! database.

use caracal_storage::approval::Verdict;
use caracal_testing::{FaultProxy, Role, TestDatabase, wait_until};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::approvals::{GATED, count, decide, gated, held, retry, tiers};
use crate::stack::{SOON, Stack, header_map, with};

#[tokio::test]
async fn every_row_of_the_gate_of_a_request_that_names_no_approval() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    let again = stack.mint(&GATED).await;
    assert_eq!(
        (held(&again), &again.body["state"]),
        (id.clone(), &json!("pending"))
    );
    let event = &stack.events_of(&again).await[0];
    assert_eq!(
        (&event["event_type"], &event["decision"]),
        (&json!("token_exchange"), &json!("pending")),
        "found, not raised"
    );
    decide(&stack, &id, Verdict::Rejected).await;
    let refused = stack.mint(&GATED).await;
    assert_eq!(refused.refusal(), (403, "access_denied", "approval was rejected"));
    assert_eq!(
        stack.events_of(&refused).await[0]["evaluation_status"],
        "approval_rejected"
    );
    stack
        .sql("UPDATE step_up_challenges SET expires_at = now() - interval '1 second'")
        .await;
    let new = held(&stack.mint(&GATED).await);
    assert_ne!(new, id, "one that is over makes room, also when it was refused");
    assert_eq!(count(&stack, "SELECT count(*) FROM step_up_challenges").await, 1);
    decide(&stack, &new, Verdict::Approved).await;
    assert_eq!(stack.mint(&GATED).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_approval_of_anything_else_is_unknown_whatever_became_of_it() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    stack
        .sql("CREATE TABLE saved AS SELECT * FROM step_up_challenges")
        .await;
    for change in [
        "zone_id = 'z2', application_id = NULL",
        "principal_id = 'app-2'",
        "session_id = 'ar-1'",
        "resource_set_hash = sha256('x')",
        "challenge_type = 'mfa'",
    ] {
        for state in [
            "satisfied_at = now()",
            "rejected_at = now()",
            "consumed_at = now()",
        ] {
            stack
                .sql(format!("UPDATE step_up_challenges SET {change}, {state}"))
                .await;
            let answer = retry(&stack, &id).await;
            assert_eq!(
                answer.refusal(),
                (
                    401,
                    "access_denied",
                    "approval not found or bindings do not match"
                ),
                "{change}, {state}"
            );
            assert_eq!(
                stack.events_of(&answer).await[0]["evaluation_status"],
                "approval_invalid",
                "{change}, {state}"
            );
            stack
                .sql("DELETE FROM step_up_challenges; INSERT INTO step_up_challenges SELECT * FROM saved")
                .await;
        }
    }
    assert_eq!(retry(&stack, &id).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_yes_is_not_used_once_the_record_it_was_asked_under_has_ended() {
    let stack = gated().await;
    let bound = with(&GATED, &[("session_id", "ar-1")]);
    let id = held(&stack.mint(&bound).await);
    decide(&stack, &id, Verdict::Approved).await;
    // Nobody has announced it: what is in memory still passes, the statement that uses the yes does not.
    stack
        .sql("UPDATE authority_records SET status = 'revoked' WHERE id = 'ar-1'")
        .await;
    let answer = stack.mint(&with(&bound, &[("approval_id", &id)])).await;
    assert_eq!(
        answer.refusal(),
        (
            409,
            "approval_consumed",
            "approval already used; another request consumed it"
        )
    );
    let status = |event: &Value| event["evaluation_status"] == "approval_already_consumed";
    assert!(stack.events_of(&answer).await.iter().any(status));
    let used = "SELECT count(*) FROM step_up_challenges WHERE consumed_at IS NOT NULL";
    assert_eq!(count(&stack, used).await, 0);
}

#[tokio::test]
async fn without_the_database_nothing_is_known_or_decided_about_an_approval() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    // What was revoked counts as known meanwhile.
    let settings = [("REVOCATION_FRESHNESS", "60s"), ("DB_CONNECT_TIMEOUT", "500ms")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    tiers(&stack, "psv-2", r#"[{"tier": "sensitive"}]"#).await;
    wait_until(SOON, async || stack.mint(&GATED).await.status == 401).await;
    let id = held(&stack.mint(&GATED).await);
    proxy.refuse();
    let unavailable = (503, "sts_unavailable", "approval store unavailable");
    let look = stack.get(&format!("/approvals/{id}")).await;
    let headers = header_map(&[("authorization", "Bearer x")]);
    let path = format!("/approvals/{id}/decision");
    let decision = stack
        .send(
            Method::POST,
            &path,
            headers,
            r#"{"decision": "approved", "binding": ""}"#,
        )
        .await;
    for answer in [retry(&stack, &id).await, stack.mint(&GATED).await, look, decision] {
        assert_eq!(answer.refusal(), unavailable);
        assert_eq!(answer.headers["retry-after"], "1");
    }
    proxy.resume();
    wait_until(SOON, async || {
        stack.get(&format!("/approvals/{id}")).await.body["state"] == "pending"
    })
    .await;
}
