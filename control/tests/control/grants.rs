//! `/v1/zones/{zone}/grants`: what may be granted, and what ends when a grant does.

use serde_json::{Value, json};

use crate::harness::{Harness, id};

struct Zone {
    api: Harness,
    id: String,
    application: String,
    resource: String,
}

impl Zone {
    async fn start() -> Self {
        let api = Harness::start().await;
        let zone = api.zone("z").await;
        let application = api.application(&zone, "bot").await;
        let provider = api.provider(&zone, "p").await;
        let resource = api.resource(&zone, "crm", &provider).await;
        Self {
            api,
            id: zone,
            application,
            resource,
        }
    }

    fn path(&self) -> String {
        format!("/v1/zones/{}/grants", self.id)
    }

    fn body(&self, user: &str, scopes: &[&str]) -> Value {
        json!({ "application_id": self.application, "user_id": user, "resource_id": self.resource, "scopes": scopes })
    }

    /// Makes an authority record of a subject.
    async fn record(&self, record: &str, subject: &str, kind: &str) {
        sqlx::query(
            "INSERT INTO authority_records (id, zone_id, subject_id, session_type, status, expires_at, authenticated_at)
             VALUES ($1, $2, $3, $4, 'active', now() + interval '1 hour', now())",
        )
        .bind(record)
        .bind(&self.id)
        .bind(subject)
        .bind(kind)
        .execute(&self.api.pool)
        .await
        .unwrap();
    }

    async fn is_active(&self, record: &str) -> bool {
        sqlx::query_scalar("SELECT status = 'active' FROM authority_records WHERE id = $1")
            .bind(record)
            .fetch_one(&self.api.pool)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_grant_is_made_found_and_listed_by_what_it_is_about() {
    let zone = Zone::start().await;
    let path = zone.path();
    let made = zone
        .api
        .post(&path, &zone.body("user-1", &["read", "write"]))
        .await
        .expect(201);
    assert_eq!(
        (&made["status"], &made["user_id"], &made["scopes"]),
        (&json!("active"), &json!("user-1"), &json!(["read", "write"]))
    );
    zone.api
        .post(&path, &zone.body("user-2", &["read"]))
        .await
        .expect(201);
    zone.api
        .post(&path, &zone.body("user-2", &["read"]))
        .await
        .expect(201);
    let found = zone.api.get(&format!("{path}/{}", id(&made))).await.expect(200);
    assert_eq!(found, made);
    for (query, count) in [
        ("", 3),
        ("?user_id=user-2", 2),
        ("?subject_id=user-1", 1),
        ("?scopes=read,write", 1),
        ("?scopes=read", 3),
        ("?status=revoked", 0),
        ("?application_id=other", 0),
        ("?provider_id=other", 0),
        ("?resource_id=other", 0),
    ] {
        let list = zone.api.get(&format!("{path}{query}")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
    }
    let first = zone.api.get(&format!("{path}?limit=2")).await.expect(200);
    let next = format!("{path}?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = zone.api.get(&next).await.expect(200);
    let count = |page: &Value| page["items"].as_array().unwrap().len();
    assert_eq!((count(&first), count(&second)), (2, 1));
    assert_eq!(id(&second["items"][0]), id(&made), "the newest comes first");
    let list = zone.api.get(&format!("{path}?user_id=user-1")).await.expect(200);
    assert_eq!(
        (
            &list["items"][0]["application_name"],
            &list["items"][0]["resource_name"],
            &list["items"][0]["provider_kind"]
        ),
        (&json!("bot"), &json!("crm"), &json!("caracal_mandate"))
    );
}

#[tokio::test]
async fn what_cannot_be_granted_is_refused() {
    let zone = Zone::start().await;
    let path = zone.path();
    let refused = async |change: &dyn Fn(&mut Value), status: u16, code: &str| {
        let mut body = zone.body("user-1", &["read"]);
        change(&mut body);
        zone.api.post(&path, &body).await.refused(status, code);
    };
    refused(
        &|body| body["scopes"] = json!(["read", "admin"]),
        403,
        "grant_scopes_exceed_resource",
    )
    .await;
    refused(
        &|body| body["application_id"] = json!("nobody"),
        404,
        "application_not_found",
    )
    .await;
    refused(
        &|body| body["resource_id"] = json!("nothing"),
        404,
        "resource_not_found",
    )
    .await;
    for scopes in [
        json!([]),
        json!(["Read"]),
        json!(["a b"]),
        json!("read"),
        Value::Null,
    ] {
        refused(&|body| body["scopes"] = scopes.clone(), 400, "invalid_body").await;
    }
    for member in ["application_id", "user_id", "resource_id", "scopes"] {
        let without = |body: &mut Value| {
            body.as_object_mut().unwrap().remove(member);
        };
        refused(&without, 400, "invalid_body").await;
    }
    sqlx::query("UPDATE applications SET expires_at = now() - interval '1 second' WHERE id = $1")
        .bind(&zone.application)
        .execute(&zone.api.pool)
        .await
        .unwrap();
    refused(&|_| {}, 404, "application_not_found").await;
    zone.api
        .get(&format!("{path}/nothing"))
        .await
        .refused(404, "grant_not_found");
}

#[tokio::test]
async fn a_revoked_grant_ends_what_its_user_has_under_way_and_nobody_elses() {
    let zone = Zone::start().await;
    let path = zone.path();
    let made = zone
        .api
        .post(&path, &zone.body("user-1", &["read"]))
        .await
        .expect(201);
    zone.record("ar-1", "user-1", "user").await;
    zone.record("ar-2", "user-2", "user").await;
    zone.record("ar-3", "user-1", "application").await;
    let one = format!("{path}/{}", id(&made));
    zone.api.delete(&one).await.expect(204);
    assert!(!zone.is_active("ar-1").await);
    assert!(zone.is_active("ar-2").await, "another user's");
    assert!(zone.is_active("ar-3").await, "an application's of the same name");
    let revoked = zone.api.get(&one).await.expect(200);
    assert_eq!(revoked["status"], "revoked");
    let announced: Vec<Value> = sqlx::query_scalar(
        "SELECT payload_json FROM caracal_outbox
         WHERE topic = 'caracal.sessions.revoke' AND payload_json ->> 'zone_id' = $1",
    )
    .bind(&zone.id)
    .fetch_all(&zone.api.pool)
    .await
    .unwrap();
    let expected = json!({
        "zone_id": zone.id, "session_id": "ar-1", "reason": "grant_revoked", "grant_id": made["id"],
    });
    assert_eq!(announced, [expected]);
    zone.record("ar-4", "user-1", "user").await;
    zone.api.delete(&one).await.expect(204);
    assert_eq!(zone.api.get(&one).await.expect(200), revoked, "once is enough");
    assert!(zone.is_active("ar-4").await, "begun since");
    let recorded = "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND entity_type = 'grants'";
    assert_eq!(zone.api.count(recorded, &zone.id).await, 3);
    zone.api
        .delete(&format!("{path}/nothing"))
        .await
        .refused(404, "grant_not_found");
}

#[tokio::test]
async fn a_grant_is_of_its_zone_and_nothing_of_the_platform_is_granted() {
    let zone = Zone::start().await;
    let made = zone
        .api
        .post(&zone.path(), &zone.body("user-1", &["read"]))
        .await
        .expect(201);
    let other = zone.api.zone("other").await;
    zone.record("ar-1", "user-1", "user").await;
    let elsewhere = format!("/v1/zones/{other}/grants/{}", id(&made));
    zone.api.get(&elsewhere).await.refused(404, "grant_not_found");
    zone.api.delete(&elsewhere).await.refused(404, "grant_not_found");
    assert!(zone.is_active("ar-1").await);
    let foreign = format!("/v1/zones/{other}/grants");
    zone.api
        .post(&foreign, &zone.body("user-1", &["read"]))
        .await
        .refused(404, "application_not_found");
    sqlx::query("UPDATE resources SET identifier = 'caracal-control' WHERE id = $1")
        .bind(&zone.resource)
        .execute(&zone.api.pool)
        .await
        .unwrap();
    zone.api
        .post(&zone.path(), &zone.body("user-1", &["read"]))
        .await
        .refused(403, "control_resource_not_grantable");
}
