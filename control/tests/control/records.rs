//! What every change leaves behind: a record in the same transaction, a new version of the zone, an announcement.

use std::time::Duration;

use caracal_bus::{Bus, EntryId};
use caracal_storage::Database;
use caracal_storage::admin_audit::{Verdict, verify};
use caracal_testing::{wait_for, wait_until};
use caracal_wire::event::ZonesInvalidate;
use caracal_wire::stream;
use serde_json::{Value, json};

use crate::harness::{AUDIT_KEY, Harness, id};
use crate::policies::document;

/// One change of every kind, each as (method, path, body, entity type, kind of change).
async fn changes(
    api: &Harness,
    zone: &str,
) -> Vec<(&'static str, String, Value, &'static str, &'static str)> {
    let base = format!("/v1/zones/{zone}");
    let application = api.application(zone, "bot").await;
    let provider = api.provider(zone, "p").await;
    let resource = api.resource(zone, "crm", &provider).await;
    let body = json!({ "name": "grants", "content": document("a") });
    let policy = api.post(&format!("{base}/policies"), &body).await.expect(201);
    let set = id(&api
        .post(&format!("{base}/policy-sets"), &json!({ "name": "s" }))
        .await
        .expect(201));
    let manifest = json!({ "manifest": [{ "policy_version_id": policy["version_id"] }] });
    let version = api
        .post(&format!("{base}/policy-sets/{set}/versions"), &manifest)
        .await
        .expect(201);
    let policy = id(&policy);
    let issuer = json!({ "issuer": "https://a.example", "jwks_url": "https://a.example/k", "audience": "a" });
    let issuer = id(&api
        .post(&format!("{base}/subject-issuers"), &issuer)
        .await
        .expect(201));
    vec![
        (
            "PATCH",
            base.clone(),
            json!({ "name": "renamed" }),
            "zones",
            "update",
        ),
        (
            "POST",
            format!("{base}/applications"),
            json!({ "name": "b2", "registration_method": "managed" }),
            "applications",
            "create",
        ),
        (
            "PATCH",
            format!("{base}/applications/{application}"),
            json!({ "name": "b3" }),
            "applications",
            "update",
        ),
        (
            "PATCH",
            format!("{base}/applications/{application}"),
            json!({ "client_secret": "x".repeat(32) }),
            "applications",
            "secret_rotation",
        ),
        (
            "POST",
            format!("{base}/applications/{application}/rotate-secret"),
            json!({}),
            "applications",
            "secret_rotation",
        ),
        (
            "POST",
            format!("{base}/providers"),
            json!({ "name": "k", "kind": "api_key", "config_json": { "header_name": "X-K", "api_key": "k" } }),
            "providers",
            "create",
        ),
        (
            "PATCH",
            format!("{base}/providers/{provider}"),
            json!({ "name": "p2" }),
            "providers",
            "update",
        ),
        (
            "PATCH",
            format!("{base}/resources/{resource}"),
            json!({ "name": "r2" }),
            "resources",
            "update",
        ),
        (
            "PUT",
            format!("{base}/resources/{resource}/gateway-binding"),
            json!({ "application_id": application }),
            "gateway-bindings",
            "update",
        ),
        (
            "DELETE",
            format!("{base}/resources/{resource}/gateway-binding"),
            Value::Null,
            "gateway-bindings",
            "delete",
        ),
        (
            "POST",
            format!("{base}/policy-sets/{set}/activate"),
            json!({ "version_id": version["version_id"] }),
            "policy-sets",
            "action",
        ),
        (
            "POST",
            format!("{base}/policies/{policy}/versions"),
            json!({ "content": document("b") }),
            "policies",
            "action",
        ),
        (
            "POST",
            format!("{base}/subject-issuers"),
            json!({ "issuer": "https://b.example", "jwks_url": "https://b.example/k", "audience": "b" }),
            "subject-issuers",
            "create",
        ),
        (
            "PATCH",
            format!("{base}/subject-issuers/{issuer}"),
            json!({ "audience": "c" }),
            "subject-issuers",
            "update",
        ),
        (
            "DELETE",
            format!("{base}/subject-issuers/{issuer}"),
            Value::Null,
            "subject-issuers",
            "delete",
        ),
        (
            "DELETE",
            format!("{base}/policy-sets/{set}"),
            Value::Null,
            "policy-sets",
            "delete",
        ),
        (
            "DELETE",
            format!("{base}/policies/{policy}"),
            Value::Null,
            "policies",
            "delete",
        ),
        (
            "DELETE",
            format!("{base}/resources/{resource}"),
            Value::Null,
            "resources",
            "delete",
        ),
        (
            "DELETE",
            format!("{base}/providers/{provider}"),
            Value::Null,
            "providers",
            "delete",
        ),
        (
            "DELETE",
            format!("{base}/applications/{application}"),
            Value::Null,
            "applications",
            "delete",
        ),
        ("DELETE", base, Value::Null, "zones", "delete"),
    ]
}

#[tokio::test]
async fn every_change_is_recorded_moves_the_zone_once_and_is_announced() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let version = "SELECT version FROM zone_versions WHERE zone_id = $1";
    let records = "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1";
    let announced = "SELECT count(*) FROM event_outbox
                     WHERE stream_name = 'caracal.zones.invalidate' AND payload_json ->> 'zone_id' = $1";
    for (method, path, body, entity, kind) in changes(&api, &zone).await {
        let before = (
            api.count(version, &zone).await,
            api.count(records, &zone).await,
            api.count(announced, &zone).await,
        );
        let body = (!body.is_null()).then_some(&body);
        let answer = api
            .with_token(crate::harness::BOOTSTRAP, method, &path, body)
            .await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.body);
        let after = (
            api.count(version, &zone).await,
            api.count(records, &zone).await,
            api.count(announced, &zone).await,
        );
        assert_eq!(
            after,
            (before.0 + 1, before.1 + 1, before.2 + 1),
            "{method} {path}"
        );
        let record: (String, String, i32, String, String) = sqlx::query_as(
            "SELECT method || ' ' || path, entity_type, status_code, request_id, payload_text FROM admin_audit_events
             WHERE zone_id = $1 ORDER BY chain_seq DESC LIMIT 1",
        )
        .bind(&zone)
        .fetch_one(&api.pool)
        .await
        .unwrap();
        assert_eq!(
            (record.0, record.1.as_str()),
            (format!("{method} {path}"), entity)
        );
        assert_eq!(
            record.2,
            i32::from(answer.status),
            "{method} {path}: the recorded status"
        );
        assert_eq!(record.3, answer.headers["x-request-id"].to_str().unwrap());
        let payload: Value = serde_json::from_str(&record.4).unwrap();
        assert_eq!(payload["change_kind"], kind, "{method} {path}");
    }
}

#[tokio::test]
async fn the_chain_of_records_verifies_and_a_changed_record_is_found() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    changes(&api, &zone).await;
    let key = hex::decode(AUDIT_KEY).unwrap();
    let database = Database::from_pool(api.pool.clone());
    let of_zone = zone.parse().unwrap();
    let mut tx = database.read().await.unwrap();
    let verdict = verify(&mut tx, Some(&key), Some(&of_zone)).await.unwrap();
    drop(tx);
    assert!(
        matches!(verdict, Verdict::Intact { records } if records >= 7),
        "{verdict:?}"
    );
    sqlx::query("UPDATE admin_audit_events SET actor_name = 'somebody' WHERE zone_id = $1 AND chain_seq = 2")
        .bind(&zone)
        .execute(&api.pool)
        .await
        .unwrap();
    let mut tx = database.read().await.unwrap();
    let verdict = verify(&mut tx, Some(&key), Some(&of_zone)).await.unwrap();
    assert!(matches!(verdict, Verdict::Broken { seq: 2, .. }), "{verdict:?}");
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_does_not_happen() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    sqlx::query("REVOKE INSERT ON admin_audit_events FROM caracalapi")
        .execute(&api.pool)
        .await
        .unwrap();
    let body = json!({ "name": "bot", "registration_method": "managed" });
    api.post(&format!("/v1/zones/{zone}/applications"), &body)
        .await
        .refused(500, "internal_error");
    assert_eq!(
        api.count("SELECT count(*) FROM applications WHERE zone_id = $1", &zone)
            .await,
        0
    );
    assert_eq!(
        api.count("SELECT version FROM zone_versions WHERE zone_id = $1", &zone)
            .await,
        1
    );
}

#[tokio::test]
async fn refused_requests_are_recorded_where_they_belong() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let read = api.token("read", None).await;
    let path = format!("/v1/zones/{zone}");
    api.with_token(&read, "DELETE", &path, None)
        .await
        .refused(403, "admin_token_read_only");
    api.get(&format!("{path}/applications/nothing"))
        .await
        .refused(404, "application_not_found");
    api.get("/v1/zones/no-such-zone")
        .await
        .refused(404, "zone_not_found");
    api.with_token("cat_wrong", "GET", &path, None)
        .await
        .refused(401, "invalid_admin_token");
    let refused =
        "SELECT count(*) FROM admin_audit_events WHERE status_code >= 400 AND coalesce(zone_id, '') = $1";
    wait_until(Duration::from_secs(20), async || {
        api.count(refused, &zone).await == 2
    })
    .await;
    wait_until(Duration::from_secs(20), async || {
        api.count(refused, "").await == 2
    })
    .await;
    let anonymous: Option<String> =
        sqlx::query_scalar("SELECT actor_id FROM admin_audit_events WHERE status_code = 401")
            .fetch_one(&api.pool)
            .await
            .unwrap();
    assert_eq!(anonymous, None);
    let chains: i64 = sqlx::query_scalar("SELECT count(*) FROM admin_audit_chain_heads")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(chains, 2, "an invented zone gets no chain of its own");
}

#[tokio::test]
async fn the_relay_publishes_the_new_version_signed() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let from = [(stream::ZONES_INVALIDATE, EntryId::ZERO)];
    let entry = wait_for(Duration::from_secs(20), async || {
        let read = api.bus.read(&from, 10, Duration::ZERO).await.unwrap();
        read.into_iter()
            .next()
            .and_then(|(_, entries)| entries.into_iter().next())
    })
    .await;
    let message = ZonesInvalidate::from_fields(&entry.fields).unwrap();
    assert_eq!((message.zone_id.as_str(), message.version), (zone.as_str(), 1));
    let key = hex::decode(AUDIT_KEY).unwrap();
    assert!(stream::verify(&[&key], stream::ZONES_INVALIDATE, &entry.fields));
}
