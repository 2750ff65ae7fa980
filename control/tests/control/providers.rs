//! `/v1/zones/{zone}/providers`: good paths, refusals, and what is sealed.

use serde_json::{Value, json};

use crate::harness::{Harness, id, keyring};

/// The sealed document of a provider, opened.
async fn secrets(api: &Harness, zone: &str, provider: &str) -> Option<Value> {
    let reference = format!("zones/{zone}/providers/{provider}/secretConfig");
    let envelope: Option<Vec<u8>> = sqlx::query_scalar("SELECT envelope FROM secret_store WHERE ref = $1")
        .bind(&reference)
        .fetch_optional(&api.pool)
        .await
        .unwrap();
    let opened = keyring().open(&envelope?, reference.as_bytes()).unwrap();
    Some(serde_json::from_slice(&opened).unwrap())
}

#[tokio::test]
async fn secrets_are_sealed_and_never_shown() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let body = json!({
        "name": "CRM Key", "kind": "api_key",
        "config_json": { "header_name": "X-Api-Key", "api_key": " top-secret " },
    });
    let made = api.post(&list, &body).await.expect(201);
    assert_eq!(made["identifier"], "provider://crm-key");
    assert_eq!(made["kind"], "api_key");
    assert_eq!(made["config_json"], json!({ "header_name": "X-Api-Key" }));
    assert_eq!(made["secret_config_keys"], json!(["api_key"]));
    assert!(!made.to_string().contains("top-secret"));
    assert_eq!(
        secrets(&api, &zone, &id(&made)).await,
        Some(json!({ "api_key": "top-secret" }))
    );
    let path = format!("{list}/{}", id(&made));
    assert!(
        !api.get(&path)
            .await
            .expect(200)
            .to_string()
            .contains("top-secret")
    );
    let traces =
        "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND payload_text LIKE '%top-secret%'";
    assert_eq!(api.count(traces, &zone).await, 0);
    api.delete(&path).await.expect(204);
    assert_eq!(
        secrets(&api, &zone, &id(&made)).await,
        None,
        "an archived provider keeps no secrets"
    );
    api.get(&path).await.refused(404, "provider_not_found");
    api.delete(&path).await.refused(404, "provider_not_found");
    api.patch(&path, &json!({ "name": "x" }))
        .await
        .refused(404, "provider_not_found");
}

#[tokio::test]
async fn a_patch_keeps_replaces_or_drops_secrets() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let body =
        json!({ "name": "p", "kind": "api_key", "config_json": { "header_name": "X-A", "api_key": "one" } });
    let provider = id(&api.post(&list, &body).await.expect(201));
    let path = format!("{list}/{provider}");
    let change = json!({ "config_json": { "header_name": "X-B" } });
    let kept = api.patch(&path, &change).await.expect(200);
    assert_eq!(
        (&kept["config_json"]["header_name"], &kept["secret_config_keys"]),
        (&json!("X-B"), &json!(["api_key"]))
    );
    assert_eq!(
        secrets(&api, &zone, &provider).await,
        Some(json!({ "api_key": "one" }))
    );
    let change = json!({ "kind": "api_key", "config_json": { "header_name": "X-B", "api_key": "two" } });
    api.patch(&path, &change).await.expect(200);
    assert_eq!(
        secrets(&api, &zone, &provider).await,
        Some(json!({ "api_key": "two" }))
    );
    let incomplete = json!({ "kind": "bearer_token", "config_json": {} });
    api.patch(&path, &incomplete)
        .await
        .refused(400, "invalid_provider_config");
    api.patch(&path, &json!({ "kind": "bearer_token" }))
        .await
        .refused(400, "provider_config_required");
    let none = api
        .patch(&path, &json!({ "kind": "none", "config_json": {} }))
        .await
        .expect(200);
    assert_eq!(
        (&none["kind"], &none["secret_config_keys"]),
        (&json!("none"), &json!([]))
    );
    assert_eq!(secrets(&api, &zone, &provider).await, None);
}

#[tokio::test]
async fn an_oauth_provider_cannot_change_to_a_method_its_stored_secret_does_not_fit() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let config =
        json!({ "token_endpoint": "https://idp.example/token", "client_id": "c", "client_secret": "s" });
    let body = json!({ "name": "p", "kind": "oauth2_client_credentials", "config_json": config });
    let made = api.post(&list, &body).await.expect(201);
    assert!(
        made["connectivity_failed_at"].is_string(),
        "nobody has shown that it can be reached"
    );
    let change = json!({ "config_json": {
        "token_endpoint": "https://idp.example/token", "client_id": "c", "client_auth_method": "private_key_jwt",
    } });
    api.patch(&format!("{list}/{}", id(&made)), &change)
        .await
        .refused(400, "invalid_provider_config");
}

#[tokio::test]
async fn stored_secrets_do_not_follow_a_provider_to_another_place() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let config = |endpoint: &str| json!({ "token_endpoint": endpoint, "client_id": "c" });
    let mut first = config("https://idp.example/token");
    first["client_secret"] = json!("s-1");
    let body = json!({ "name": "p", "kind": "oauth2_client_credentials", "config_json": first });
    let provider = id(&api.post(&list, &body).await.expect(201));
    let path = format!("{list}/{provider}");
    let elsewhere = json!({ "config_json": config("https://evil.example/token") });
    let answer = api.patch(&path, &elsewhere).await;
    answer.refused(409, "provider_secrets_required");
    assert_eq!(
        answer.body["details"]["members"],
        json!(["token_endpoint", "allowed_token_hosts"])
    );
    let mut more_hosts = config("https://idp.example/token");
    more_hosts["allowed_token_hosts"] = json!(["idp.example", "evil.example"]);
    api.patch(&path, &json!({ "config_json": more_hosts }))
        .await
        .refused(409, "provider_secrets_required");
    assert_eq!(
        secrets(&api, &zone, &provider).await,
        Some(json!({ "client_secret": "s-1" }))
    );
    let mut renamed = config("https://idp.example/token");
    renamed["client_id"] = json!("d");
    api.patch(&path, &json!({ "config_json": renamed }))
        .await
        .expect(200);
    let mut moved = config("https://evil.example/token");
    moved["client_secret"] = json!("s-2");
    api.patch(&path, &json!({ "config_json": moved }))
        .await
        .expect(200);
    assert_eq!(
        secrets(&api, &zone, &provider).await,
        Some(json!({ "client_secret": "s-2" })),
        "nothing of the old secrets is left"
    );
}

#[tokio::test]
async fn a_secret_that_is_kept_for_no_method_goes_when_its_place_changes() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let config = |host: &str, method: &str| {
        json!({ "token_endpoint": format!("https://{host}/token"), "redirect_uri": "https://console.example/cb",
            "authorization_endpoint": "https://idp.example/authorize", "client_id": "c",
            "client_auth_method": method })
    };
    let mut first = config("idp.example", "client_secret_basic");
    first["client_secret"] = json!("s-1");
    let body = json!({ "name": "p", "kind": "oauth2_authorization_code", "config_json": first });
    let provider = id(&api.post(&list, &body).await.expect(201));
    let path = format!("{list}/{provider}");
    for (host, kept) in [("idp.example", true), ("evil.example", false)] {
        let change = json!({ "config_json": config(host, "none") });
        let changed = api.patch(&path, &change).await.expect(200);
        assert_eq!(
            secrets(&api, &zone, &provider).await.is_some(),
            kept,
            "{host}: {changed}"
        );
    }
    let back = json!({ "config_json": config("evil.example", "client_secret_basic") });
    api.patch(&path, &back)
        .await
        .refused(400, "invalid_provider_config");
}

#[tokio::test]
async fn a_key_goes_to_fewer_hosts_as_it_is_and_to_more_only_when_it_is_sent_again() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    let config = |hosts: &Value| json!({ "header_name": "X-A", "allowed_token_hosts": hosts });
    let mut first = config(&json!(["a.example", "b.example"]));
    first["api_key"] = json!("one");
    let body = json!({ "name": "p", "kind": "api_key", "config_json": first });
    let provider = id(&api.post(&list, &body).await.expect(201));
    let path = format!("{list}/{provider}");
    let patch = |hosts: &Value| json!({ "config_json": config(hosts) });
    for wider in [json!(["a.example", "evil.example"]), Value::Null] {
        let answer = api.patch(&path, &patch(&wider)).await;
        answer.refused(409, "provider_secrets_required");
        assert_eq!(answer.body["details"]["members"], json!(["allowed_token_hosts"]));
    }
    api.patch(&path, &patch(&json!(["a.example"]))).await.expect(200);
    assert_eq!(
        secrets(&api, &zone, &provider).await,
        Some(json!({ "api_key": "one" }))
    );
    let mut again = patch(&json!(["c.example"]));
    again["config_json"]["api_key"] = json!("one");
    api.patch(&path, &again).await.expect(200);
}

#[tokio::test]
async fn bad_providers_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/providers");
    for body in [
        json!({}),
        json!({ "kind": "none" }),
        json!({ "name": " ", "kind": "none" }),
        json!({ "name": "a", "kind": "magic" }),
        json!({ "name": "a", "kind": "none", "config_json": [] }),
    ] {
        api.post(&list, &body).await.refused(400, "invalid_provider");
    }
    for identifier in [
        "provider://A",
        "provider://",
        "provider://a--b",
        "resource://a",
        "provider://a-",
    ] {
        let body = json!({ "identifier": identifier, "kind": "none" });
        api.post(&list, &body)
            .await
            .refused(400, "invalid_provider_identifier");
    }
    let body =
        json!({ "name": "a", "kind": "api_key", "config_json": { "header_name": "Host", "api_key": "k" } });
    let answer = api.post(&list, &body).await;
    answer.refused(400, "invalid_provider_config");
    assert!(
        answer.body["error_description"]
            .as_str()
            .unwrap()
            .contains("header_name")
    );
    let check = json!({ "name": "a", "kind": "none", "check": true });
    api.post(&list, &check)
        .await
        .refused(400, "provider_check_unsupported");
    let body = json!({ "identifier": "provider://same", "kind": "none" });
    let first = id(&api.post(&list, &body).await.expect(201));
    api.post(&list, &body)
        .await
        .refused(409, "provider_identifier_conflict");
    let derived = api
        .post(&list, &json!({ "name": "Same", "kind": "none" }))
        .await
        .expect(201);
    assert_eq!(derived["identifier"], "provider://same-2");
    let path = format!("{list}/{}", id(&derived));
    let taken = json!({ "identifier": "provider://same" });
    api.patch(&path, &taken)
        .await
        .refused(409, "provider_identifier_conflict");
    api.patch(&path, &json!({ "unknown": 1 }))
        .await
        .refused(400, "no_fields");
    api.delete(&format!("{list}/{first}")).await.expect(204);
    api.patch(&path, &taken).await.expect(200);
}

#[tokio::test]
async fn a_provider_whose_secrets_cannot_be_stored_does_not_exist() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    sqlx::query("REVOKE INSERT ON secret_store FROM caracalapi")
        .execute(&api.pool)
        .await
        .unwrap();
    let body = json!({ "name": "p", "kind": "bearer_token", "config_json": { "bearer_token": "t" } });
    let answer = api.post(&format!("/v1/zones/{zone}/providers"), &body).await;
    answer.refused(500, "internal_error");
    assert!(
        !answer.body.to_string().contains("secret_store"),
        "{}",
        answer.body
    );
    assert_eq!(
        api.count("SELECT count(*) FROM providers WHERE zone_id = $1", &zone)
            .await,
        0
    );
    let records = "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND entity_type = 'providers'";
    assert_eq!(api.count(records, &zone).await, 0, "no change, no record of one");
}
