//! The tokens of the environment: made at every start, rotated with the environment, revocable.

use serde_json::json;

use crate::harness::{BOOTSTRAP, Harness};

async fn live(api: &Harness) -> Vec<(String, String)> {
    sqlx::query_as("SELECT name, capability FROM admin_tokens WHERE revoked_at IS NULL ORDER BY name")
        .fetch_all(&api.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn four_tokens_exist_after_any_number_of_starts() {
    let api = Harness::start().await;
    let expected = [
        ("bootstrap", "write"),
        ("console-approve", "approve"),
        ("console-read-only", "read"),
        ("console-write", "write"),
    ]
    .map(|(name, capability)| (name.to_owned(), capability.to_owned()));
    assert_eq!(live(&api).await, expected);
    let (database, pool) = api.stop().await;
    let api = Harness::on(database, pool, &[]).await;
    assert_eq!(live(&api).await, expected);
    let hashes: i64 = sqlx::query_scalar("SELECT count(*) FROM admin_tokens WHERE token_hash IS NOT NULL")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(hashes, 0, "a digest of a random token is enough");
}

#[tokio::test]
async fn another_environment_value_revokes_the_old_tokens() {
    let api = Harness::start().await;
    let (database, pool) = api.stop().await;
    let other = "another-bootstrap-token-of-the-control-tests-0123";
    let api = Harness::on(database, pool, &[("CARACAL_ADMIN_TOKEN", other)]).await;
    assert_eq!(live(&api).await.len(), 4);
    api.with_token(BOOTSTRAP, "GET", "/v1/zones", None)
        .await
        .refused(401, "invalid_admin_token");
    api.with_token(other, "GET", "/v1/zones", None).await.expect(200);
}

#[tokio::test]
async fn a_revoked_bootstrap_token_stays_revoked() {
    let api = Harness::start().await;
    sqlx::query("UPDATE admin_tokens SET revoked_at = now() WHERE name = 'bootstrap'")
        .execute(&api.pool)
        .await
        .unwrap();
    let (database, pool) = api.stop().await;
    let api = Harness::on(database, pool, &[]).await;
    api.get("/v1/zones").await.refused(401, "invalid_admin_token");
}

#[tokio::test]
async fn an_expired_token_is_no_token_and_a_used_one_shows_its_use() {
    let api = Harness::start().await;
    let token = api.token("read", None).await;
    api.with_token(&token, "GET", "/v1/zones", None).await.expect(200);
    let used: i64 =
        sqlx::query_scalar("SELECT count(*) FROM admin_tokens WHERE name = $1 AND last_used_at IS NOT NULL")
            .bind(&token)
            .fetch_one(&api.pool)
            .await
            .unwrap();
    assert_eq!(used, 1);
    let late = api.token("read", None).await;
    sqlx::query("UPDATE admin_tokens SET expires_at = now() WHERE name = $1")
        .bind(&late)
        .execute(&api.pool)
        .await
        .unwrap();
    api.with_token(&late, "GET", "/v1/zones", None)
        .await
        .refused(401, "invalid_admin_token");
}

#[tokio::test]
async fn changes_are_attributed_to_the_token_whatever_headers_say() {
    let api = Harness::start().await;
    let authorization = format!("Bearer {BOOTSTRAP}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-caracal-authorized-by", "the boss"),
        ("x-caracal-created-via", "operator"),
    ];
    let body = json!({ "name": "z" }).to_string();
    let made = api
        .send("POST", "/v1/zones", &headers, body.as_bytes())
        .await
        .expect(201);
    assert!(made["created_by"].as_str().unwrap().starts_with("admin:"));
    assert_eq!(made["created_via_operator"], false);
}
