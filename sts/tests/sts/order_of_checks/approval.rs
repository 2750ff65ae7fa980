//! What is kept of an approval, and what anybody may see of it.

use caracal_storage::approval::{self, Verdict};
use caracal_testing::{Role, wait_until};
use serde_json::{Value, json};

use super::about;
use crate::approvals::{GATED, count, decide, gated, held, retry};
use crate::stack::SOON;

#[tokio::test]
async fn who_decides_sees_all_that_was_asked_for() {
    let stack = gated().await;
    stack
        .sql(
            "INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, depth)
             VALUES ('s-user', 'z1', 'app-1', 'ar-user', '{editor}', 3600, 1);
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                 receiver_application_id, scopes, constraints_json, expires_at)
             VALUES ('e-user', 'z1', 's-source', 's-user', 'app-1', 'app-1', '{crm:danger}', '{}',
                 now() + interval '1 hour')",
        )
        .await;
    let manifest: String =
        sqlx::query_scalar("SELECT manifest_sha256 FROM policy_set_versions WHERE id = 'psv-2'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    for (session, edge, user) in [("s-target", "e-1", None), ("s-user", "e-user", Some("user-1"))] {
        let mut fields = GATED.to_vec();
        fields[2].1 = session;
        fields[3].1 = edge;
        let id = held(&stack.mint(&fields).await);
        let (metadata, anchor): (Value, Option<String>) =
            sqlx::query_as("SELECT metadata_json, subject_anchor FROM step_up_challenges WHERE id = $1")
                .bind(&id)
                .fetch_one(&stack.pool)
                .await
                .unwrap();
        assert_eq!(anchor.as_deref(), user, "{session}");
        let contract = &metadata["decision_contract_sha"];
        assert_eq!(contract.as_str().unwrap().len(), 64);
        assert_eq!(
            metadata,
            json!({
                "requested_scopes": ["crm:danger"], "resources": ["resource://gated"], "granted": ["r-gated"],
                "agent_session_id": session, "agent_labels": ["editor"], "delegation_edge_id": edge,
                "policy_set_version_id": "psv-2", "policy_manifest_sha": manifest,
                "decision_contract_version": metadata["decision_contract_version"],
                "decision_contract_sha": contract,
            })
        );
        let raised = |event: &Value| {
            event["event_type"] == "step_up_issued" && event["metadata_json"]["challenge_id"] == id.as_str()
        };
        let event = &stack.events(raised).await[0]["metadata_json"];
        assert_eq!(
            event.get("subject_anchor"),
            user.map(Value::from).as_ref(),
            "{event}"
        );
    }
}

#[tokio::test]
async fn a_look_tells_the_state_and_the_end_and_whatever_the_wait_an_unknown_id_is_unknown() {
    let stack = gated().await;
    let first = stack.mint(&GATED).await;
    let path = format!("/approvals/{}", held(&first));
    for (change, state) in [
        ("id = id", "pending"),
        ("satisfied_at = now()", "approved"),
        ("expires_at = now() - interval '1 hour'", "expired"),
        ("rejected_at = now()", "rejected"),
        ("consumed_at = now()", "consumed"),
    ] {
        stack.sql(format!("UPDATE step_up_challenges SET {change}")).await;
        let end: String = sqlx::query_scalar(
            "SELECT to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM step_up_challenges",
        )
        .fetch_one(&stack.pool)
        .await
        .unwrap();
        let answer = stack.get(&path).await;
        assert_eq!(
            answer.body,
            json!({"expires_at": end, "id": held(&first), "state": state})
        );
        if state == "pending" {
            assert_eq!(first.body["approval_expires_at"], end.as_str());
        }
    }
    let unknown = (404, "resource_not_found", "approval not found");
    for wait in ["", "?wait=soon", "?wait=-1"] {
        let answer = stack.get(&format!("/approvals/nonsense{wait}")).await;
        assert_eq!(answer.refusal(), unknown, "{wait}");
    }
}

#[tokio::test]
async fn what_is_granted_only_since_the_hold_is_dropped_with_its_reason() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    stack
        .sql("UPDATE step_up_challenges SET metadata_json = jsonb_set(metadata_json, '{granted}', '[]')")
        .await;
    let answer = retry(&stack, &id).await;
    let expected = (403, "access_denied", "policy denied", "approval_invalid");
    stack.expect_refusal(&answer, expected, "granted since").await;
    assert_eq!(
        about(&stack, &answer, "resource://gated").await["decision"],
        "deny"
    );
}

#[tokio::test]
async fn an_approval_is_deleted_a_day_after_the_newest_moment_of_its_life() {
    let stack = gated().await;
    stack
        .sql(
            "INSERT INTO step_up_challenges (id, zone_id, expires_at, rejected_at, consumed_at, principal_id) VALUES
                 ('rejected-long-ago', 'z1', now() - interval '30 hours', now() - interval '25 hours', NULL, 'rejected-long-ago'),
                 ('rejected', 'z1', now() - interval '30 hours', now() - interval '23 hours', NULL, 'rejected'),
                 ('consumed', 'z1', now() - interval '30 hours', NULL, now() - interval '23 hours', 'consumed'),
                 ('over-long-ago', 'z1', now() - interval '25 hours', NULL, NULL, 'over-long-ago'),
                 ('over', 'z1', now() - interval '23 hours', NULL, NULL, 'over'),
                 ('open', 'z1', now() + interval '1 hour', now() - interval '25 hours', NULL, 'open')",
        )
        .await;
    let _sweeps_when_it_starts = stack.replica(&[]).await;
    let kept = "SELECT count(*) FROM step_up_challenges";
    wait_until(SOON, async || count(&stack, kept).await <= 4).await;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM step_up_challenges ORDER BY id")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(ids, ["consumed", "open", "over", "rejected"]);
}

#[tokio::test]
async fn whatever_changed_since_the_yes_was_seen_is_looked_at_when_it_is_used() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    let database = stack.database_as(Role::Sts).await;
    let zone = "z1".parse().unwrap();
    let used = async || {
        approval::consume_without_record(&database, &zone, &id)
            .await
            .unwrap()
    };
    stack
        .sql("CREATE TABLE saved AS SELECT * FROM step_up_challenges")
        .await;
    for change in [
        "satisfied_at = NULL",
        "approver_subject_id = NULL",
        "rejected_at = now()",
        "expires_at = now() - interval '1 second'",
        "consumed_at = now()",
        "challenge_type = 'mfa'",
        "session_id = 'ar-revoked'",
        "session_id = 'ar-expired'",
        "zone_id = 'z2', application_id = NULL",
    ] {
        stack.sql(format!("UPDATE step_up_challenges SET {change}")).await;
        assert!(!used().await, "{change}");
        stack
            .sql("DELETE FROM step_up_challenges; INSERT INTO step_up_challenges SELECT * FROM saved")
            .await;
    }
    assert!(used().await);
    assert!(!used().await, "once");
}
