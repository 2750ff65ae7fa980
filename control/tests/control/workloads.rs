//! `/v1/zones/{zone}/workloads`: secrets shown once, bindings checked.

use serde_json::{Value, json};

use crate::harness::{Harness, id};

#[tokio::test]
async fn a_workload_has_a_secret_that_is_shown_once_and_replaced() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/workloads");
    let made = api.post(&list, &json!({ "name": " CI " })).await.expect(201);
    assert_eq!((&made["name"], &made["bindings"]), (&json!("CI"), &json!([])));
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("ws_") && secret.len() == 46, "{secret}");
    let path = format!("{list}/{}", id(&made));
    let found = api.get(&path).await.expect(200);
    assert!(found.get("secret").is_none() && !found.to_string().contains("argon2id"));
    let hash = "SELECT secret_hash FROM workloads WHERE id = $1";
    let stored: String = sqlx::query_scalar(hash)
        .bind(id(&made))
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert!(caracal_token::client_secret::verify(&secret, &stored));
    let rotated = api
        .post(&format!("{path}/rotate-secret"), &json!({}))
        .await
        .expect(200);
    assert_ne!(rotated["secret"], json!(secret));
    let stored: String = sqlx::query_scalar(hash)
        .bind(id(&made))
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert!(
        !caracal_token::client_secret::verify(&secret, &stored),
        "the old one has ended"
    );
    api.post(&list, &json!({ "name": "ci" }))
        .await
        .refused(409, "workload_name_taken");
    assert_eq!(
        api.get(&list).await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    api.delete(&path).await.expect(204);
    for answer in [
        api.get(&path).await,
        api.delete(&path).await,
        api.put(&path, &json!({ "name": "x" })).await,
    ] {
        answer.refused(404, "workload_not_found");
    }
    api.post(&format!("{path}/rotate-secret"), &json!({}))
        .await
        .refused(404, "workload_not_found");
}

#[tokio::test]
async fn bindings_are_stored_without_what_says_nothing() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/workloads");
    let path = format!(
        "{list}/{}",
        id(&api.post(&list, &json!({ "name": "w" })).await.expect(201))
    );
    let bindings = json!([
        { "env": "CRM_TOKEN", "resource": "resource://crm", "scopes": [], "on_failure": "warn" },
        { "env": "_x1", "resource": "resource://mail", "scopes": ["mail:read"], "optional": true },
        { "env": "Y", "resource": "resource://y", "optional": true, "on_failure": "warn" },
    ]);
    let changed = api.put(&path, &json!({ "bindings": bindings })).await.expect(200);
    let stored = json!([
        { "env": "CRM_TOKEN", "resource": "resource://crm" },
        { "env": "_x1", "resource": "resource://mail", "scopes": ["mail:read"], "optional": true, "on_failure": "error" },
        { "env": "Y", "resource": "resource://y", "optional": true, "on_failure": "warn" },
    ]);
    assert_eq!(changed["bindings"], stored);
    let renamed = api.put(&path, &json!({ "name": "other" })).await.expect(200);
    assert_eq!(
        (&renamed["name"], &renamed["bindings"]),
        (&json!("other"), &stored)
    );
    let one = |member: &str, value: Value| {
        let mut binding = json!({ "env": "A", "resource": "resource://a" });
        binding[member] = value;
        json!({ "bindings": [binding] })
    };
    for env in ["1A", "A-B", "node_options", "LD_PRELOAD", "Dyld_Library_Path"] {
        let refused = api.put(&path, &one("env", json!(env))).await;
        refused.refused(400, "invalid_credential_env");
        assert_eq!(refused.body["details"]["env"], env);
    }
    let twice = json!({ "bindings": [bindings[0], bindings[0]] });
    api.put(&path, &twice)
        .await
        .refused(400, "duplicate_credential_env");
    for body in [
        one("env", json!("")),
        one("scopes", json!(vec!["a"; 33])),
        one("on_failure", json!("ignore")),
        one("more", json!(1)),
        json!({ "bindings": vec![bindings[0].clone(); 65] }),
        json!({ "name": "" }),
        json!({ "name": "x", "more": 1 }),
    ] {
        api.put(&path, &body).await.refused(400, "invalid_workload");
    }
    api.put(&path, &json!({})).await.refused(400, "no_fields");
}
