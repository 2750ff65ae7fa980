//! `/v1/zones`: good paths and refusals.

use serde_json::json;

use crate::harness::{Harness, id, keyring};

#[tokio::test]
async fn a_zone_is_made_read_changed_and_archived() {
    let api = Harness::start().await;
    let made = api
        .post("/v1/zones", &json!({ "name": "  My Zone " }))
        .await
        .expect(201);
    assert_eq!(made["name"], "My Zone");
    assert_eq!(made["slug"], "my-zone");
    assert_eq!(made["dcr_enabled"], false);
    assert!(made["created_by"].as_str().unwrap().starts_with("admin:"));
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    let path = format!("/v1/zones/{}", id(&made));
    assert_eq!(api.get(&path).await.expect(200), made);
    let changed = api
        .patch(&path, &json!({ "name": "Other", "operator_governed": true }))
        .await
        .expect(200);
    assert_eq!(
        (&changed["name"], &changed["slug"]),
        (&json!("Other"), &json!("my-zone"))
    );
    assert_eq!(changed["operator_governed"], true);
    let status = api.get(&format!("{path}/dcr-status")).await.expect(200);
    assert_eq!(
        status,
        json!({ "id": id(&made), "dcr_enabled": false, "live_dcr_applications": 0 })
    );
    let gone = api.delete(&path).await;
    assert_eq!((gone.status, gone.body.is_null()), (204, true));
    api.get(&path).await.refused(404, "zone_not_found");
    api.patch(&path, &json!({ "name": "x" }))
        .await
        .refused(404, "zone_not_found");
    api.delete(&path).await.refused(404, "zone_not_found");
    api.post(
        &format!("{path}/applications"),
        &json!({ "name": "a", "registration_method": "managed" }),
    )
    .await
    .refused(404, "zone_not_found");
    let provider = api
        .post(
            &format!("{path}/providers"),
            &json!({ "name": "a", "kind": "none" }),
        )
        .await;
    provider.refused(404, "zone_not_found");
}

#[tokio::test]
async fn bad_zones_are_refused_with_what_is_wrong() {
    let api = Harness::start().await;
    let bad = [
        json!({}),
        json!({ "name": " " }),
        json!({ "name": "x".repeat(121) }),
        json!({ "name": 1 }),
        json!({ "name": "x", "slug": "Not A Slug" }),
        json!({ "name": "x", "dcr_enabled": "yes" }),
        json!({ "name": "x", "owner_account_id": "me" }),
        json!({ "name": "nul\u{0}" }),
    ];
    for body in bad {
        let answer = api.post("/v1/zones", &body).await;
        answer.refused(400, "invalid_zone");
        assert!(
            answer.body["details"]["issues"][0]["message"].is_string(),
            "{}",
            answer.body
        );
        assert!(answer.body["requestId"].is_string());
    }
    for bytes in [&b"[]"[..], b"{", b"null"] {
        let headers = [("authorization", &*format!("Bearer {}", crate::harness::BOOTSTRAP))];
        api.send("POST", "/v1/zones", &headers, bytes)
            .await
            .refused(400, "invalid_body");
    }
    let zone = api.zone("x").await;
    let path = format!("/v1/zones/{zone}");
    api.patch(&path, &json!({})).await.refused(400, "no_fields");
    api.patch(&path, &json!({ "name": null }))
        .await
        .refused(400, "invalid_zone");
    api.patch(&path, &json!({ "dcr_shutdown": "keep_live" }))
        .await
        .refused(400, "dcr_shutdown_not_applicable");
    api.get("/v1/zones/bad%20id").await.refused(400, "invalid_params");
    api.get(&format!("/v1/zones/{}", "x".repeat(129)))
        .await
        .refused(400, "invalid_params");
}

#[tokio::test]
async fn slugs_are_unique_and_derived_ones_step_aside() {
    let api = Harness::start().await;
    let slugs =
        async |name: &str| api.post("/v1/zones", &json!({ "name": name })).await.expect(201)["slug"].clone();
    assert_eq!(slugs("Same").await, "same");
    assert_eq!(slugs("same!").await, "same-2");
    assert_eq!(slugs("!!!").await, "zone");
    api.post("/v1/zones", &json!({ "name": "x", "slug": "same" }))
        .await
        .refused(409, "zone_slug_conflict");
    let zone = api.zone("third").await;
    let patch = api
        .patch(&format!("/v1/zones/{zone}"), &json!({ "slug": "same" }))
        .await;
    patch.refused(409, "zone_slug_conflict");
}

#[tokio::test]
async fn a_zone_has_a_sealed_signing_key_a_version_and_an_epoch_from_the_start() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (kid, envelope): (String, Vec<u8>) = sqlx::query_as(
        "SELECT id, envelope FROM secrets WHERE zone_id = $1 AND entity_id = $1 AND name = 'zone_signing_key'",
    )
    .bind(&zone)
    .fetch_one(&api.pool)
    .await
    .unwrap();
    let aad = caracal_token::envelope::ZONE_SIGNING_KEY_AAD.as_bytes();
    let pem = keyring().open(&envelope, aad).unwrap();
    let pem = std::str::from_utf8(&pem).unwrap();
    caracal_token::SigningKey::from_sec1_pem(kid.parse().unwrap(), pem).unwrap();
    assert_eq!(
        api.count("SELECT version FROM zone_versions WHERE zone_id = $1", &zone)
            .await,
        1
    );
    assert_eq!(
        api.count(
            "SELECT epoch FROM delegation_graph_epochs WHERE zone_id = $1",
            &zone
        )
        .await,
        0
    );
}

#[tokio::test]
async fn ending_self_registration_asks_what_happens_to_who_registered() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let path = format!("/v1/zones/{zone}");
    api.patch(&path, &json!({ "dcr_enabled": true }))
        .await
        .expect(200);
    sqlx::query(
        "INSERT INTO applications (id, zone_id, name, registration_method, expires_at)
         VALUES ('dcr-1', $1, 'self', 'dcr', now() + interval '1 hour')",
    )
    .bind(&zone)
    .execute(&api.pool)
    .await
    .unwrap();
    let asked = api.patch(&path, &json!({ "dcr_enabled": false })).await;
    asked.refused(409, "dcr_shutdown_required");
    assert_eq!(asked.body["details"]["live_dcr_applications"], 1);
    let body = json!({ "dcr_enabled": false, "dcr_shutdown": "revoke_live", "operator_governed": true });
    let changed = api.patch(&path, &body).await.expect(200);
    assert_eq!(
        (&changed["dcr_enabled"], &changed["operator_governed"]),
        (&json!(false), &json!(true))
    );
    let live = "SELECT count(*) FROM applications WHERE zone_id = $1 AND archived_at IS NULL";
    assert_eq!(api.count(live, &zone).await, 0);
}

#[tokio::test]
async fn the_tokens_of_an_archived_zone_end_with_it() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let token = api.token("write", Some(&zone)).await;
    api.delete(&format!("/v1/zones/{zone}")).await.expect(204);
    let answer = api
        .with_token(&token, "GET", &format!("/v1/zones/{zone}"), None)
        .await;
    answer.refused(401, "invalid_admin_token");
}
