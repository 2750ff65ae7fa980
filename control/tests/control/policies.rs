//! Policies and their versions.

use serde_json::{Value, json};

use crate::harness::{BOOTSTRAP, Harness, id};

/// A document that may be stored.
pub(crate) fn document(application: &str) -> String {
    format!(
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\napp_ids := {{\"bot\":\"{application}\"}}\n\
         grants := {{\"resource://crm\":{{\"application\":\"bot\",\"roles\":{{\"reader\":[\"read\"]}}}}}}\n"
    )
}

fn sha256(text: &str) -> String {
    hex::encode(caracal_token::digest(text.as_bytes()))
}

#[tokio::test]
async fn a_policy_gets_versions_that_never_change() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/policies");
    let first = document("app-1");
    let made = api
        .post(&list, &json!({ "name": "grants", "content": first }))
        .await
        .expect(201);
    assert_eq!(made["version"]["version"], 1);
    assert_eq!(made["version_id"], made["version"]["id"]);
    assert_eq!(made["version"]["content_sha256"], json!(sha256(&first)));
    assert_eq!(made["description"], json!(null));
    let path = format!("{list}/{}", id(&made));
    let second = document("app-2");
    let added = api
        .post(&format!("{path}/versions"), &json!({ "content": second }))
        .await
        .expect(201);
    assert_eq!(
        (&added["version"], &added["id"]),
        (&json!(2), &added["version_id"])
    );
    let read = api.get(&path).await.expect(200);
    let versions: Vec<&Value> = read["versions"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&versions[0]["version"], &versions[1]["version"]),
        (&json!(2), &json!(1)),
        "newest first"
    );
    assert_eq!(versions[1]["content"], json!(first));
    let changed = sqlx::query("UPDATE policy_versions SET content = 'x'")
        .execute(&api.pool)
        .await;
    assert!(changed.is_err(), "not even the owner changes a version");
    let listed = api.get(&list).await.expect(200);
    assert_eq!(listed["items"][0]["name"], "grants");
    assert!(listed["items"][0].get("versions").is_none());
    api.delete(&path).await.expect(204);
    for answer in [api.get(&path).await, api.delete(&path).await] {
        answer.refused(404, "policy_not_found");
    }
    api.post(&format!("{path}/versions"), &json!({ "content": second }))
        .await
        .refused(404, "policy_not_found");
    api.post(&list, &json!({ "name": "grants", "content": first }))
        .await
        .expect(201);
    api.post(&list, &json!({ "name": "grants", "content": first }))
        .await
        .refused(409, "policy_name_conflict");
}

#[tokio::test]
async fn versions_are_numbered_one_by_one_also_when_asked_at_once() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/policies");
    let made = api
        .post(&list, &json!({ "name": "grants", "content": document("a") }))
        .await
        .expect(201);
    let versions = format!("{list}/{}/versions", id(&made));
    let add = |n: u8| {
        let body = json!({ "content": document(&format!("app-{n}")) });
        let (api, versions) = (&api, &versions);
        async move {
            api.post(versions, &body).await.expect(201)["version"]
                .as_i64()
                .unwrap()
        }
    };
    let (a, b, c) = tokio::join!(add(1), add(2), add(3));
    let mut numbers = [a, b, c];
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3, 4]);
}

#[tokio::test]
async fn unusable_texts_are_refused_with_the_published_word() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/policies");
    let table = [
        (" ", "empty_policy"),
        ("package caracal.authz\ngrants := {}", "must_be_data_document"),
        (
            "# caracal:data-document\npackage other\ngrants := {}",
            "must_use_package_caracal_authz",
        ),
        (
            "# caracal:data-document\npackage caracal.authz\nresult := {}",
            "data_document_must_not_define_result",
        ),
        (
            "# caracal:data-document\npackage caracal.authz\ngrants := http.send({})",
            "forbidden_builtin:http.send",
        ),
    ];
    for (content, word) in table {
        let created = api.post(&list, &json!({ "name": "p", "content": content })).await;
        created.refused(422, "invalid_rego");
        assert_eq!(created.body["error_description"], word);
        let validated = api
            .post("/v1/policies/validate", &json!({ "content": content }))
            .await;
        assert_eq!(validated.status, 422);
        let expected = json!({ "valid": false, "error": "invalid_rego", "error_description": word });
        assert_eq!(validated.body, expected);
    }
    api.post(&list, &json!({ "content": document("a") }))
        .await
        .refused(400, "invalid_body");
    api.post(&list, &json!({ "name": "", "content": document("a") }))
        .await
        .refused(400, "invalid_body");
    api.post("/v1/policies/validate", &json!({}))
        .await
        .refused(400, "invalid_body");
}

#[tokio::test]
async fn a_good_text_is_described_to_any_token() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let zone_read = api.token("read", Some(&zone)).await;
    for token in [BOOTSTRAP, &zone_read] {
        let body = json!({ "content": document("a") });
        let answer = api
            .with_token(token, "POST", "/v1/policies/validate", Some(&body))
            .await
            .expect(200);
        assert_eq!(answer["valid"], true);
        assert_eq!(answer["schema_version"], "2026-05-20");
        assert_eq!(answer["preview"]["rules"], json!(["app_ids", "grants"]));
        assert_eq!(answer["output_contract"]["rule"], "result");
    }
}

#[tokio::test]
async fn templates_are_a_bare_array_of_texts_that_may_be_stored() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let templates = api.get("/v1/policy-templates").await.expect(200);
    for template in templates.as_array().unwrap() {
        let body = json!({ "name": template["id"], "content": template["content"] });
        api.post(&format!("/v1/zones/{zone}/policies"), &body)
            .await
            .expect(201);
    }
}
