//! `/v1/zones/{zone}/applications`: good paths and refusals.

use serde_json::json;

use crate::harness::{Harness, id};

#[tokio::test]
async fn an_application_is_made_read_changed_and_archived() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/applications");
    let body = json!({ "name": " bot ", "registration_method": "managed", "traits": ["team:red"] });
    let made = api.post(&list, &body).await.expect(201);
    assert_eq!(made["name"], "bot");
    assert_eq!(made["traits"], json!(["team:red"]));
    assert_eq!(made["expires_at"], json!(null));
    let secret = made["client_secret"].as_str().unwrap();
    assert!(
        secret.starts_with("cs_") && secret.len() == 3 + 43,
        "the form of a client secret"
    );
    let path = format!("{list}/{}", id(&made));
    let read = api.get(&path).await.expect(200);
    assert!(read.get("client_secret").is_none(), "the secret is shown once");
    let changed = api
        .patch(&path, &json!({ "name": "robot", "traits": [] }))
        .await
        .expect(200);
    assert_eq!(
        (&changed["name"], &changed["traits"]),
        (&json!("robot"), &json!([]))
    );
    api.delete(&path).await.expect(204);
    api.get(&path).await.refused(404, "application_not_found");
    api.delete(&path).await.refused(404, "application_not_found");
    api.patch(&path, &json!({ "name": "x" }))
        .await
        .refused(404, "application_not_found");
    api.post(&format!("{path}/rotate-secret"), &json!({}))
        .await
        .refused(404, "application_not_found");
    assert_eq!(api.get(&list).await.expect(200)["items"], json!([]));
    let archived = api.get(&format!("{list}?status=archived")).await.expect(200);
    assert!(archived["items"][0]["archived_at"].is_string());
}

#[tokio::test]
async fn a_stored_secret_verifies_and_a_rotated_one_no_longer_does() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/applications");
    let made = api
        .post(&list, &json!({ "name": "bot", "registration_method": "managed" }))
        .await
        .expect(201);
    let stored = async || -> String {
        sqlx::query_scalar("SELECT client_secret_hash FROM applications WHERE id = $1")
            .bind(id(&made))
            .fetch_one(&api.pool)
            .await
            .unwrap()
    };
    let first = made["client_secret"].as_str().unwrap();
    let hash = stored().await;
    assert!(hash.starts_with("argon2id$") && !hash.contains(first));
    assert!(caracal_token::client_secret::verify(first, &hash));
    let path = format!("{list}/{}", id(&made));
    let rotated = api
        .post(&format!("{path}/rotate-secret"), &json!({}))
        .await
        .expect(200);
    let second = rotated["client_secret"].as_str().unwrap();
    let hash = stored().await;
    assert!(caracal_token::client_secret::verify(second, &hash));
    assert!(!caracal_token::client_secret::verify(first, &hash));
    let own = "a-secret-the-caller-chose-of-32-characters";
    api.patch(&path, &json!({ "client_secret": own }))
        .await
        .expect(200);
    assert!(caracal_token::client_secret::verify(own, &stored().await));
    let sealed = api
        .count("SELECT count(*) FROM secret_store WHERE zone_id = $1", &zone)
        .await;
    assert_eq!(sealed, 0, "no readable copy of a client secret is kept");
}

#[tokio::test]
async fn bad_applications_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/applications");
    let bad = [
        json!({ "name": "a" }),
        json!({ "registration_method": "managed" }),
        json!({ "name": "a", "registration_method": "dcr" }),
        json!({ "name": "a", "registration_method": "managed", "client_secret": "x" }),
        json!({ "name": "", "registration_method": "managed" }),
    ];
    for body in bad {
        api.post(&list, &body).await.refused(400, "invalid_application");
    }
    let with = |traits: serde_json::Value| json!({ "name": "a", "registration_method": "managed", "traits": traits });
    api.post(&list, &with(json!(["1"])))
        .await
        .refused(403, "trait_invalid");
    api.post(&list, &with(json!(["a", "a"])))
        .await
        .refused(403, "trait_duplicate");
    api.post(&list, &with(json!(vec!["t"; 65])))
        .await
        .refused(403, "trait_count_exceeded");
    let token = api.token("write", Some(&zone)).await;
    api.with_token(&token, "POST", &list, Some(&with(json!(["control:invoke"]))))
        .await
        .refused(403, "trait_forbidden");
    let path = format!("{list}/{}", api.application(&zone, "bot").await);
    api.patch(&path, &json!({})).await.refused(400, "no_fields");
    api.patch(&path, &json!({ "client_secret": "short" }))
        .await
        .refused(400, "invalid_application");
    sqlx::query("UPDATE applications SET client_secret_hash = NULL")
        .execute(&api.pool)
        .await
        .unwrap();
    let answer = api
        .patch(&path, &json!({ "client_secret": "x".repeat(32) }))
        .await;
    answer.refused(400, "client_secret_not_configured");
    api.get(&format!("{list}?status=gone"))
        .await
        .refused(400, "invalid_query");
}

#[tokio::test]
async fn names_are_unique_whatever_their_case_also_when_asked_for_at_once() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/applications");
    let ask = |name: &str| {
        let body = json!({ "name": name, "registration_method": "managed" });
        let (api, list) = (&api, &list);
        async move { api.post(list, &body).await.status }
    };
    let (first, second) = tokio::join!(ask("Bot"), ask("bOT"));
    let mut statuses = [first, second];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let other = api.application(&zone, "other").await;
    api.patch(&format!("{list}/{other}"), &json!({ "name": "BOT" }))
        .await
        .refused(409, "application_name_taken");
    api.patch(&format!("{list}/{other}"), &json!({ "name": "OTHER" }))
        .await
        .expect(200);
}

#[tokio::test]
async fn traits_are_shown_only_to_tokens_that_reach_every_zone() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let path = format!(
        "/v1/zones/{zone}/applications/{}",
        api.application(&zone, "bot").await
    );
    let token = api.token("read", Some(&zone)).await;
    assert!(
        api.with_token(&token, "GET", &path, None)
            .await
            .expect(200)
            .get("traits")
            .is_none()
    );
    assert!(api.get(&path).await.expect(200).get("traits").is_some());
}

#[tokio::test]
async fn the_keys_of_an_application_are_public_es256_keys_or_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let application = api.application(&zone, "bot").await;
    let path = format!("/v1/zones/{zone}/applications/{application}/keys");
    api.get(&path).await.refused(404, "application_keys_not_found");
    let key = |kid: &str| {
        let key = caracal_token::SigningKey::generate(kid.try_into().unwrap()).unwrap();
        serde_json::to_value(key.jwk()).unwrap()
    };
    let (one, other) = (key("k1"), key("k2"));
    let put = api.put(&path, &json!({ "keys": [one, other] })).await;
    assert_eq!((put.status, &put.body), (200, &json!({ "keys": [one, other] })));
    assert_eq!(api.get(&path).await.body, put.body);
    let with = |member: &str, value: serde_json::Value| {
        let mut key = one.clone();
        key[member] = value;
        json!({ "keys": [key] })
    };
    for bad in [
        json!({}),
        json!({ "keys": [] }),
        json!({ "keys": [one, one] }),
        json!({ "keys": [one], "more": 1 }),
        json!({ "keys": ["k"] }),
        json!({ "keys": (0..9).map(|n| key(&format!("k{n}"))).collect::<Vec<_>>() }),
        with("d", json!("AAAA")),
        with("alg", json!("RS256")),
        with("kid", json!("")),
        with("x", json!("AAAA")),
        with("x", one["y"].clone()),
    ] {
        api.put(&path, &bad)
            .await
            .refused(400, "invalid_application_keys");
    }
    assert_eq!(
        api.get(&path).await.body,
        put.body,
        "a refused set changes nothing"
    );
    assert_eq!(api.delete(&path).await.status, 204);
    api.get(&path).await.refused(404, "application_keys_not_found");
    let missing = format!("/v1/zones/{zone}/applications/missing/keys");
    for answer in [
        api.get(&missing).await,
        api.put(&missing, &json!({ "keys": [one] })).await,
        api.delete(&missing).await,
    ] {
        answer.refused(404, "application_not_found");
    }
}

#[tokio::test]
async fn whether_mandates_are_bound_is_set_by_the_names_of_the_client_metadata() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/applications");
    let bound = |application: &serde_json::Value| {
        (
            application["dpop_bound_access_tokens"].as_bool().unwrap(),
            application["tls_client_certificate_bound_access_tokens"]
                .as_bool()
                .unwrap(),
        )
    };
    let body = json!({ "name": "plain", "registration_method": "managed" });
    assert_eq!(bound(&api.post(&list, &body).await.expect(201)), (false, false));
    let body = json!({ "name": "bot", "registration_method": "managed", "dpop_bound_access_tokens": true });
    let made = api.post(&list, &body).await.expect(201);
    assert_eq!(bound(&made), (true, false));
    let path = format!("{list}/{}", id(&made));
    let version = async || -> i64 {
        sqlx::query_scalar("SELECT version FROM zone_versions WHERE zone_id = $1")
            .bind(&zone)
            .fetch_one(&api.pool)
            .await
            .unwrap()
    };
    let before = version().await;
    let patch = json!({ "tls_client_certificate_bound_access_tokens": true });
    assert_eq!(bound(&api.patch(&path, &patch).await.expect(200)), (true, true));
    assert!(version().await > before, "the token service hears of it");
    let patch = json!({ "dpop_bound_access_tokens": false });
    assert_eq!(bound(&api.patch(&path, &patch).await.expect(200)), (false, true));
    assert_eq!(bound(&api.get(&path).await.expect(200)), (false, true));
    assert_eq!(
        bound(&api.patch(&path, &json!({ "name": "x" })).await.expect(200)),
        (false, true)
    );
    api.patch(&path, &json!({ "dpop_bound_access_tokens": "yes" }))
        .await
        .refused(400, "invalid_application");
}
