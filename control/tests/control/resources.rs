//! `/v1/zones/{zone}/resources`: good paths and refusals.

use serde_json::{Value, json};

use crate::harness::{Harness, id};

fn body(provider: &str, extra: &Value) -> Value {
    let mut body = json!({
        "name": "CRM", "scopes": ["read", "write"], "credential_provider_id": provider,
        "upstream_url": "https://crm.example/api",
    });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_resource_is_made_read_changed_and_archived() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let list = format!("/v1/zones/{zone}/resources");
    let operations = json!([{ "method": "get", "path": "/contacts", "scope": "read" }]);
    let made = api
        .post(&list, &body(&provider, &json!({ "operations": operations })))
        .await
        .expect(201);
    assert_eq!(made["identifier"], "resource://crm");
    assert_eq!(made["operation_enforcement"], "enforced");
    assert_eq!(made["operations"][0]["method"], "GET");
    assert_eq!(made["gateway_application_id"], json!(null));
    let path = format!("{list}/{}", id(&made));
    assert_eq!(api.get(&path).await.expect(200), made);
    let change =
        json!({ "identifier": "https://crm.example/", "operation_enforcement": "transport_uniform" });
    let changed = api.patch(&path, &change).await.expect(200);
    assert_eq!(changed["identifier"], "https://crm.example/");
    assert_eq!(
        changed["scopes"],
        json!(["read", "write"]),
        "what is not sent stays"
    );
    api.delete(&path).await.expect(204);
    api.get(&path).await.refused(404, "resource_not_found");
    api.delete(&path).await.refused(404, "resource_not_found");
    api.patch(&path, &json!({ "name": "x" }))
        .await
        .refused(404, "resource_not_found");
    let again = api
        .post(
            &list,
            &body(&provider, &json!({ "identifier": "https://crm.example/" })),
        )
        .await;
    again.expect(201);
}

#[tokio::test]
async fn bad_resources_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let list = format!("/v1/zones/{zone}/resources");
    let invalid = [
        json!({ "scopes": [] }),
        json!({ "scopes": ["with space"] }),
        json!({ "scopes": null }),
        json!({ "upstream_url": "ftp://crm.example" }),
        json!({ "operations": [{ "method": "GET" }] }),
        json!({ "operation_enforcement": "sometimes" }),
        json!({ "credential_provider_id": "not an id" }),
    ];
    for extra in invalid {
        api.post(&list, &body(&provider, &extra))
            .await
            .refused(400, "invalid_resource");
    }
    let nameless =
        json!({ "scopes": ["a"], "credential_provider_id": provider, "upstream_url": "http://a.example" });
    api.post(&list, &nameless).await.refused(400, "invalid_resource");
    let coded = [
        (json!({ "identifier": "crm" }), 400, "invalid_resource_identifier"),
        (
            json!({ "identifier": "provider://crm" }),
            400,
            "invalid_resource_identifier",
        ),
        (
            json!({ "credential_provider_id": null }),
            400,
            "credential_provider_required",
        ),
        (
            json!({ "credential_provider_id": "nothing" }),
            404,
            "provider_not_found",
        ),
        (json!({ "upstream_url": null }), 400, "upstream_url_required"),
        (json!({ "check": true }), 400, "resource_verification_unsupported"),
        (
            json!({ "gateway_application_id": "nothing" }),
            404,
            "application_not_found",
        ),
        (
            json!({ "operations": [{ "method": " ", "path": "/", "scope": "read" }] }),
            400,
            "operation_method_and_path_required",
        ),
        (
            json!({ "operations": [{ "method": "GET", "path": "a", "scope": "read" }] }),
            400,
            "operation_path_must_be_absolute",
        ),
        (
            json!({ "operations": [{ "method": "GET", "path": "/", "scope": "other" }] }),
            400,
            "operation_scope_not_in_resource_scopes",
        ),
        (
            json!({ "operations": [
                { "method": "GET", "path": "/", "scope": "read" }, { "method": "get", "path": "/", "scope": "write" },
            ] }),
            400,
            "operation_duplicate",
        ),
    ];
    for (extra, status, code) in coded {
        api.post(&list, &body(&provider, &extra))
            .await
            .refused(status, code);
    }
    let made = api
        .post(&list, &body(&provider, &json!({ "identifier": "resource://a" })))
        .await
        .expect(201);
    let same = body(&provider, &json!({ "identifier": "resource://a" }));
    api.post(&list, &same)
        .await
        .refused(409, "resource_identifier_conflict");
    api.patch(&format!("{list}/{}", id(&made)), &json!({}))
        .await
        .refused(400, "no_fields");
}

#[tokio::test]
async fn stored_operations_are_checked_again_when_scopes_change() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let list = format!("/v1/zones/{zone}/resources");
    let operations = json!([{ "method": "GET", "path": "/", "scope": "write" }]);
    let made = api
        .post(&list, &body(&provider, &json!({ "operations": operations })))
        .await
        .expect(201);
    let path = format!("{list}/{}", id(&made));
    let narrower = json!({ "scopes": ["read"] });
    api.patch(&path, &narrower)
        .await
        .refused(400, "operation_scope_not_in_resource_scopes");
    api.patch(&path, &json!({ "scopes": ["read"], "operations": [] }))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_provider_of_another_zone_is_not_found() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let other = api.zone("other").await;
    let provider = api.provider(&other, "p").await;
    let list = format!("/v1/zones/{zone}/resources");
    api.post(&list, &body(&provider, &json!({})))
        .await
        .refused(404, "provider_not_found");
}

#[tokio::test]
async fn the_quota_holds_also_when_asked_at_once() {
    let api = Harness::start_with(&[("API_MAX_RESOURCES_PER_ZONE", "2")]).await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let list = format!("/v1/zones/{zone}/resources");
    let ask = || async { api.post(&list, &body(&provider, &json!({}))).await.status };
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let mut statuses = [a, b, c];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 409]);
    api.post(&list, &body(&provider, &json!({})))
        .await
        .refused(409, "resource_quota_exceeded");
}

#[tokio::test]
async fn the_resource_of_this_api_is_for_tokens_that_reach_every_zone() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/resources");
    let control = json!({ "identifier": "caracal-control", "scopes": ["control:app:read"] });
    let token = api.token("write", Some(&zone)).await;
    api.with_token(&token, "POST", &list, Some(&control))
        .await
        .refused(409, "protected_resource");
    let made = api.post(&list, &control).await.expect(201);
    assert_eq!(
        made["credential_provider_id"],
        json!(format!("provider-none-{zone}"))
    );
    let path = format!("{list}/{}", id(&made));
    api.with_token(&token, "GET", &path, None)
        .await
        .refused(404, "resource_not_found");
    assert_eq!(
        api.with_token(&token, "GET", &list, None).await.expect(200)["items"],
        json!([])
    );
    api.get(&path).await.expect(200);
    api.delete(&path).await.refused(409, "protected_resource");
}
