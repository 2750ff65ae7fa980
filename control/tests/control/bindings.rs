//! `/v1/zones/{zone}/resources/{id}/gateway-binding`

use serde_json::json;

use crate::harness::Harness;

#[tokio::test]
async fn a_binding_is_put_read_replaced_and_removed() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let resource = api.resource(&zone, "crm", &provider).await;
    let (first, second) = (
        api.application(&zone, "a").await,
        api.application(&zone, "b").await,
    );
    let path = format!("/v1/zones/{zone}/resources/{resource}/gateway-binding");
    api.get(&path).await.refused(404, "gateway_binding_not_found");
    let bound = api
        .put(&path, &json!({ "application_id": first }))
        .await
        .expect(200);
    assert_eq!(
        (&bound["application_id"], &bound["resource_identifier"]),
        (&json!(first), &json!("resource://crm"))
    );
    api.put(&path, &json!({ "application_id": second }))
        .await
        .expect(200);
    assert_eq!(api.get(&path).await.expect(200)["application_id"], json!(second));
    let shown = api
        .get(&format!("/v1/zones/{zone}/resources/{resource}"))
        .await
        .expect(200);
    assert_eq!(shown["gateway_application_id"], json!(second));
    api.delete(&path).await.expect(204);
    api.delete(&path).await.refused(404, "gateway_binding_not_found");
}

#[tokio::test]
async fn bad_bindings_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let resource = api.resource(&zone, "crm", &provider).await;
    let path = format!("/v1/zones/{zone}/resources/{resource}/gateway-binding");
    for body in [
        json!({}),
        json!({ "application_id": "not an id" }),
        json!({ "application_id": "a", "more": 1 }),
    ] {
        api.put(&path, &body)
            .await
            .refused(400, "invalid_gateway_binding");
    }
    api.put(&path, &json!({ "application_id": "nothing" }))
        .await
        .refused(404, "application_not_found");
    let other = api.zone("other").await;
    let foreign = api.application(&other, "a").await;
    api.put(&path, &json!({ "application_id": foreign }))
        .await
        .refused(404, "application_not_found");
    let nowhere = format!("/v1/zones/{zone}/resources/nothing/gateway-binding");
    api.put(&nowhere, &json!({ "application_id": foreign }))
        .await
        .refused(404, "resource_not_found");
}

#[tokio::test]
async fn a_binding_follows_its_resource_and_ends_with_resource_or_application() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let provider = api.provider(&zone, "p").await;
    let application = api.application(&zone, "a").await;
    let resource = api.resource(&zone, "crm", &provider).await;
    let path = format!("/v1/zones/{zone}/resources/{resource}");
    let bound = api
        .patch(&path, &json!({ "gateway_application_id": application }))
        .await
        .expect(200);
    assert_eq!(bound["gateway_application_id"], json!(application));
    let renamed = api
        .patch(&path, &json!({ "identifier": "resource://new" }))
        .await
        .expect(200);
    assert_eq!(renamed["gateway_application_id"], json!(application));
    let binding = api.get(&format!("{path}/gateway-binding")).await.expect(200);
    assert_eq!(binding["resource_identifier"], "resource://new");
    let freed = api
        .patch(&path, &json!({ "gateway_application_id": null }))
        .await
        .expect(200);
    assert_eq!(freed["gateway_application_id"], json!(null));

    let bindings = "SELECT count(*) FROM gateway_resource_bindings WHERE zone_id = $1";
    api.patch(&path, &json!({ "gateway_application_id": application }))
        .await
        .expect(200);
    api.delete(&path).await.expect(204);
    assert_eq!(api.count(bindings, &zone).await, 0, "with the resource");
    let resource = api.resource(&zone, "other", &provider).await;
    let path = format!("/v1/zones/{zone}/resources/{resource}");
    api.patch(&path, &json!({ "gateway_application_id": application }))
        .await
        .expect(200);
    api.delete(&format!("/v1/zones/{zone}/applications/{application}"))
        .await
        .expect(204);
    assert_eq!(api.count(bindings, &zone).await, 0, "with the application");
}
