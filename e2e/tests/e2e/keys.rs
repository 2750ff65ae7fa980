//! A new key encryption key, while somebody keeps killing the command that seals everything anew.

use std::time::Duration;

use caracal_testing::{Process, ProcessSpec, TestDatabase};
use caracal_token::envelope::{Kek, Keyring};
use sqlx::PgPool;

const OLD: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";
const NEW: &str = "00f1e2d3c4b5a69788796a5b4c3d2e1f102132435465768798a9bacbdcedfe0f";
const LOST: &str = "5b4c3d2e1f102132435465768798a9bacbdcedfe0f00f1e2d3c4b5a69788796a";
const SECRETS: usize = 1_000;
const SOON: Duration = Duration::from_secs(90);

fn ring(kek: &str) -> Keyring {
    Keyring::new(Kek::from_hex(kek).unwrap(), None)
}

async fn seed(pool: &PgPool) {
    sqlx::query("INSERT INTO zones (id, name, slug) VALUES ('z1', 'z1', 'z1')")
        .execute(pool)
        .await
        .unwrap();
    let old = ring(OLD);
    let names: Vec<String> = (0..SECRETS)
        .map(|n| format!("zones/z1/providers/p{n}/secretConfig"))
        .collect();
    let envelopes: Vec<Vec<u8>> = names
        .iter()
        .map(|name| {
            old.seal(format!("value of {name}").as_bytes(), name.as_bytes())
                .unwrap()
        })
        .collect();
    sqlx::query(
        "INSERT INTO secret_store (ref, zone_id, envelope)
         SELECT r, 'z1', e FROM unnest($1::text[], $2::bytea[]) AS t(r, e)",
    )
    .bind(&names)
    .bind(&envelopes)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope)
         VALUES ('k1', 'z1', 'z1', 'zone_signing_key', 'token', $1)",
    )
    .bind(old.seal(b"a key", b"caracal/secrets/zoneSigningKey").unwrap())
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO providers (id, zone_id, name, identifier, provider_kind)
         VALUES ('p1', 'z1', 'p', 'provider://p', 'oauth2_authorization_code')",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO provider_oauth_states (state_sha256, zone_id, subject_id, provider_id, code_verifier_ct, expires_at)
         VALUES ($1, 'z1', 's', 'p1', $2, now())",
    )
    .bind(vec![7_u8; 32])
    .bind(old.seal(b"verifier", b"v").unwrap())
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO provider_connections (id, zone_id, subject_id, provider_id, access_token_ct, refresh_token_ct)
         VALUES ('c1', 'z1', 's', 'p1', $1, NULL)",
    )
    .bind(old.seal(b"access", b"a").unwrap())
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO gateway_documents (name, envelope, version, lease_holder, lease_until) VALUES ('acme', $1, 1, 'g', now())",
    )
    .bind(old.seal(b"certificates", b"gateway_documents/acme").unwrap())
    .execute(pool)
    .await
    .unwrap();
}

fn command(database: &TestDatabase, arguments: &[&str]) -> ProcessSpec {
    let mut all = vec!["keys", "rewrap"];
    all.extend(arguments);
    let mut spec = ProcessSpec::caracal("rewrap", &all);
    for (name, value) in [
        ("DATABASE_URL", database.url()),
        ("SECRET_STORE_KEK", NEW.to_owned()),
        ("SECRET_STORE_KEK_PREVIOUS", OLD.to_owned()),
    ] {
        spec.environment.insert(name.to_owned(), value);
    }
    spec
}

async fn envelopes(pool: &PgPool) -> Vec<(String, Vec<u8>)> {
    sqlx::query_as("SELECT ref, envelope FROM secret_store ORDER BY ref")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_new_key_encryption_key_survives_being_killed_and_being_repeated() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    seed(&pool).await;

    let mut killed = Process::spawn(command(&database, &["--batch", "1"]));
    killed.logged("secret_store.envelope: 20 of").await;
    killed.kill9();
    let opened = envelopes(&pool)
        .await
        .iter()
        .filter(|(name, envelope)| ring(NEW).open(envelope, name.as_bytes()).is_ok())
        .count();
    assert!(
        opened >= 20,
        "what was committed before the kill is done: {opened}"
    );
    let mut check = Process::spawn(command(&database, &["--check"]));
    let is_done = check.ended(SOON).await.success();
    assert!(
        !is_done || opened == SECRETS,
        "{opened} of {SECRETS}: {}",
        check.log()
    );

    Process::run_to_end(command(&database, &[])).await;
    let all = envelopes(&pool).await;
    assert_eq!(all.len(), SECRETS);
    for (name, envelope) in &all {
        let opened = ring(NEW).open(envelope, name.as_bytes()).unwrap();
        assert_eq!(opened.as_slice(), format!("value of {name}").as_bytes());
    }
    let key: Vec<u8> = sqlx::query_scalar("SELECT envelope FROM secrets WHERE id = 'k1'")
        .fetch_one(&pool)
        .await
        .unwrap();
    let key = ring(NEW).open(&key, b"caracal/secrets/zoneSigningKey").unwrap();
    assert_eq!(key.as_slice(), b"a key");

    for (column, table, aad) in [
        ("code_verifier_ct", "provider_oauth_states", "v"),
        ("access_token_ct", "provider_connections", "a"),
        ("envelope", "gateway_documents", "gateway_documents/acme"),
    ] {
        let statement = format!("SELECT {column} FROM {table}");
        let envelope: Vec<u8> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!(ring(NEW).open(&envelope, aad.as_bytes()).is_ok(), "{table}");
    }

    Process::run_to_end(command(&database, &[])).await;
    assert_eq!(envelopes(&pool).await, all, "a repetition changes nothing");
    Process::run_to_end(command(&database, &["--check"])).await;
}

#[tokio::test]
async fn what_neither_key_opens_is_named_and_the_rest_is_done() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    seed(&pool).await;
    sqlx::query("UPDATE secret_store SET envelope = $1 WHERE ref = 'zones/z1/providers/p7/secretConfig'")
        .bind(ring(LOST).seal(b"x", b"y").unwrap())
        .execute(&pool)
        .await
        .unwrap();
    let mut rewrap = Process::spawn(command(&database, &[]));
    assert!(!rewrap.ended(SOON).await.success());
    let log = rewrap.log();
    assert!(
        log.contains("secret_store.envelope zones/z1/providers/p7/secretConfig: sealed under an unknown key encryption key"),
        "{log}"
    );
    assert!(
        log.contains("secret_store.envelope: 999 sealed anew, 1 cannot be opened"),
        "{log}"
    );
}
