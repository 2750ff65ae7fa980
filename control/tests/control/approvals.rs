//! Operators see what waits, decide it once, and everybody learns of it in the same transaction.

use caracal_bus::{Bus, EntryId};
use caracal_testing::wait_for;
use caracal_wire::{audit, stream};
use serde_json::{Value, json};
use std::time::Duration;

use crate::harness::{AUDIT_KEY, BOOTSTRAP, Harness};

const SOON: Duration = Duration::from_secs(20);

/// Raises an approval; further columns as `name = value` pairs of SQL.
async fn raise(api: &Harness, zone: &str, id: &str, changes: &str) {
    let insert = "INSERT INTO step_up_challenges (id, zone_id, principal_id, resource_set_hash, tier, metadata_json, expires_at)
        VALUES ($1, $2, 'app-1', decode(md5($1), 'hex'), 'sensitive', '{\"agent_labels\": [\"editor\"]}', now() + interval '1 hour')";
    sqlx::query(insert)
        .bind(id)
        .bind(zone)
        .execute(&api.pool)
        .await
        .unwrap();
    if !changes.is_empty() {
        let update = format!("UPDATE step_up_challenges SET {changes} WHERE id = '{id}'");
        sqlx::query(sqlx::AssertSqlSafe(update))
            .execute(&api.pool)
            .await
            .unwrap();
    }
}

async fn row(api: &Harness, id: &str) -> (bool, bool, Option<String>, Option<String>) {
    sqlx::query_as(
        "SELECT satisfied_at IS NOT NULL, rejected_at IS NOT NULL, approver_subject_id, decision_reason
         FROM step_up_challenges WHERE id = $1",
    )
    .bind(id)
    .fetch_one(&api.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_decision_stands_is_told_and_is_evidence() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    raise(&api, &zone, "h-1", "").await;
    let listener = api.database.pool().await;
    let mut notified = sqlx::postgres::PgListener::connect_with(&listener).await.unwrap();
    notified.listen("caracal_approval_decided").await.unwrap();
    let approve = api.token("approve", Some(&zone)).await;
    let path = format!("/v1/zones/{zone}/approvals/h-1/approve");
    let body = api
        .with_token(&approve, "POST", &path, Some(&json!({"reason": " fine by me "})))
        .await
        .expect(200);
    assert_eq!((&body["id"], &body["state"]), (&json!("h-1"), &json!("approved")));
    assert!(body["satisfied_at"].is_string() && body["rejected_at"].is_null());
    let approver = body["approver_subject_id"].as_str().unwrap().to_owned();
    assert!(approver.starts_with("admin:"), "{approver}");
    assert_eq!(
        row(&api, "h-1").await,
        (true, false, Some(approver.clone()), Some("fine by me".to_owned()))
    );
    let told = tokio::time::timeout(SOON, notified.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told.payload(), "h-1");
    assert_eq!(
        api.count(
            "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND entity_type = 'approvals'",
            &zone
        )
        .await,
        1
    );
    let event = decided_event(&api).await;
    assert_eq!(
        (&event["decision"], &event["evaluation_status"], &event["zone_id"]),
        (&json!("approved"), &json!("complete"), &json!(zone))
    );
    for (member, value) in [
        ("challenge_id", json!("h-1")),
        ("tier", json!("sensitive")),
        ("approver_class", json!("operator")),
        ("privacy_mode", json!("identified")),
        ("approver_plane", json!("operator")),
        ("approver_subject_id", json!(approver)),
        ("reason", json!("fine by me")),
        ("agent_labels", json!(["editor"])),
    ] {
        assert_eq!(event["metadata_json"][member], value, "{member}");
    }
    let again = api.with_token(&approve, "POST", &path, None).await;
    again.refused(409, "approval_not_decidable");
    assert_eq!(again.body["state"], "approved");
}

/// The evidence of the one decision, after its signature was checked.
async fn decided_event(api: &Harness) -> Value {
    let entry = wait_for(SOON, async || {
        let read = api
            .bus
            .read(&[(stream::AUDIT_EVENTS, EntryId::ZERO)], 100, Duration::ZERO)
            .await
            .unwrap();
        read.into_iter().flat_map(|(_, entries)| entries).next()
    })
    .await;
    let key = hex::decode(AUDIT_KEY).unwrap();
    let data = &entry.fields["data"];
    assert!(audit::verify_data(&key, data.as_bytes(), &entry.fields["sig"]));
    let event: Value = serde_json::from_str(data).unwrap();
    assert_eq!(event["event_type"], "step_up_decided");
    event
}

#[tokio::test]
async fn every_refusal_of_a_decision() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    let rows = [
        (
            "subject",
            "approver_class = 'subject'",
            403,
            "subject_approval_required",
            Value::Null,
        ),
        (
            "approved",
            "satisfied_at = now()",
            409,
            "approval_not_decidable",
            json!("approved"),
        ),
        (
            "rejected",
            "rejected_at = now()",
            409,
            "approval_not_decidable",
            json!("rejected"),
        ),
        (
            "expired",
            "expires_at = now() - interval '1 second'",
            409,
            "approval_not_decidable",
            json!("expired"),
        ),
        (
            "consumed",
            "satisfied_at = now(), consumed_at = now()",
            409,
            "approval_not_decidable",
            json!("consumed"),
        ),
        (
            "subject-over",
            "approver_class = 'subject', expires_at = now()",
            409,
            "approval_not_decidable",
            json!("expired"),
        ),
    ];
    for (id, changes, status, code, state) in rows {
        raise(&api, &zone, id, changes).await;
        for verb in ["approve", "reject"] {
            let answer = api
                .post(&format!("/v1/zones/{zone}/approvals/{id}/{verb}"), &json!({}))
                .await;
            answer.refused(status, code);
            assert_eq!(answer.body["state"], state, "{id}");
        }
    }
    let other = api.zone("other").await;
    raise(&api, &other, "foreign", "").await;
    for id in ["nothing", "foreign"] {
        api.post(&format!("/v1/zones/{zone}/approvals/{id}/approve"), &json!({}))
            .await
            .refused(404, "approval_not_found");
    }
    raise(&api, &zone, "open", "approver_class = 'any'").await;
    let path = format!("/v1/zones/{zone}/approvals/open/reject");
    for body in [
        json!({"reason": "x".repeat(501)}),
        json!({"reason": "a\nb"}),
        json!({"why": "x"}),
    ] {
        api.post(&path, &body)
            .await
            .refused(400, "invalid_approval_decision");
    }
    let writes = api.token("write", None).await;
    api.with_token(&writes, "POST", &path, Some(&json!({})))
        .await
        .refused(403, "approve_capability_required");
    assert_eq!(api.post(&path, &json!({})).await.expect(200)["state"], "rejected");
    assert!(
        row(&api, "open").await.1,
        "any class may be decided by an operator"
    );
}

#[tokio::test]
async fn of_racing_decisions_the_first_stands() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    raise(&api, &zone, "h-1", "").await;
    let decisions = (0..20).map(|turn| {
        let verb = if turn % 2 == 0 { "approve" } else { "reject" };
        let (api, path) = (&api, format!("/v1/zones/{zone}/approvals/h-1/{verb}"));
        async move { api.with_token(BOOTSTRAP, "POST", &path, None).await.status }
    });
    let statuses = futures_util::future::join_all(decisions).await;
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| [200, 409].contains(status)),
        "{statuses:?}"
    );
    let (approved, rejected, ..) = row(&api, "h-1").await;
    assert_ne!(approved, rejected);
}

#[tokio::test]
async fn approvals_are_listed_counted_and_filtered() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    raise(&api, &zone, "pending", "tier = 'other', principal_id = 'app-2'").await;
    raise(
        &api,
        &zone,
        "approved",
        "satisfied_at = now(), created_at = '2026-01-02T03:04:05Z'",
    )
    .await;
    raise(&api, &zone, "rejected", "rejected_at = now()").await;
    raise(&api, &zone, "expired", "expires_at = now()").await;
    raise(
        &api,
        &zone,
        "consumed",
        "satisfied_at = now(), consumed_at = now()",
    )
    .await;
    let foreign = api.zone("other").await;
    raise(&api, &foreign, "foreign", "").await;
    let base = format!("/v1/zones/{zone}/approvals");
    let ids = |body: &Value| -> Vec<String> {
        let items = body["items"].as_array().unwrap().iter();
        items
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    for state in ["pending", "approved", "rejected", "expired", "consumed"] {
        let body = api.get(&format!("{base}?state={state}")).await.expect(200);
        assert_eq!(ids(&body), [state]);
        assert_eq!(body["items"][0]["state"], state);
    }
    assert_eq!(ids(&api.get(&base).await.expect(200)).len(), 5);
    assert_eq!(
        ids(&api.get(&format!("{base}?tier=other")).await.expect(200)),
        ["pending"]
    );
    assert_eq!(
        ids(&api.get(&format!("{base}?principal=app-2")).await.expect(200)),
        ["pending"]
    );
    let before = api
        .get(&format!("{base}?until=2026-01-02T03:04:05Z"))
        .await
        .expect(200);
    assert_eq!(ids(&before), ["approved"]);
    assert_eq!(
        ids(&api
            .get(&format!("{base}?since=2026-01-02T03:04:06Z"))
            .await
            .expect(200))
        .len(),
        4
    );
    api.get(&format!("{base}?state=open"))
        .await
        .refused(400, "invalid_query");
    assert_eq!(
        api.get(&format!("{base}/counts")).await.expect(200),
        json!({"pending": 1, "approved": 1, "rejected": 1, "expired": 1, "consumed": 1})
    );
    let one = api.get(&format!("{base}/rejected")).await.expect(200);
    assert_eq!(
        (&one["prior_approved"], &one["prior_rejected"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        (&one["approval_type"], &one["principal_federated"]),
        (&json!("human_approval"), &json!(false))
    );
    assert_eq!(one["binding"].as_str().unwrap().len(), 32, "the hash in hex");
    assert!(
        !one.to_string().contains("secret"),
        "nothing of the secret is shown: {one}"
    );
    api.get(&format!("{base}/foreign"))
        .await
        .refused(404, "approval_not_found");
}

#[tokio::test]
async fn the_step_up_routes_decide_the_same_approvals() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    raise(&api, &zone, "h-1", "session_id = 'ar-1'").await;
    let base = format!("/v1/zones/{zone}/step-up-challenges");
    let listed = api.get(&base).await.expect(200);
    let one = api.get(&format!("{base}/h-1")).await.expect(200);
    assert_eq!(listed["items"], json!([one]));
    let members: Vec<&String> = one.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "challenge_type",
            "created_at",
            "expires_at",
            "id",
            "metadata_json",
            "satisfied_at",
            "session_id",
            "zone_id"
        ]
    );
    api.get(&format!("{base}/nothing"))
        .await
        .refused(404, "challenge_not_found");
    let satisfied = api
        .post(&format!("{base}/h-1/satisfy"), &json!({}))
        .await
        .expect(200);
    assert_eq!(satisfied["id"], "h-1");
    assert!(satisfied["satisfied_at"].is_string());
    for id in ["h-1", "nothing"] {
        api.post(&format!("{base}/{id}/satisfy"), &json!({}))
            .await
            .refused(404, "challenge_not_found_or_expired");
    }
    let approval = api
        .get(&format!("/v1/zones/{zone}/approvals/h-1"))
        .await
        .expect(200);
    assert_eq!(approval["state"], "approved");
}
