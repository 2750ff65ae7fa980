//! Is a zone's first key created once, the newest one used, and does a secret stay in its zone?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use caracal_migrations::Role;
use caracal_model::{KeyId, ZoneId};
use caracal_storage::{Database, PoolLimits, StorageError, ZoneScope, secret, signing_key};
use caracal_testing::TestDatabase;

async fn connect(test: &TestDatabase, role: Role) -> Database {
    sqlx::query("INSERT INTO zones (id, name, slug) VALUES ('one', 'One', 'one'), ('two', 'Two', 'two') ON CONFLICT DO NOTHING")
        .execute(&test.pool().await)
        .await
        .unwrap();
    Database::connect(&test.url_as(role), "caracal-test", &PoolLimits::default())
        .await
        .unwrap()
}

fn zone(name: &str) -> ZoneId {
    name.parse().unwrap()
}

fn key(name: &str) -> KeyId {
    name.parse().unwrap()
}

#[tokio::test]
async fn many_replicas_at_once_create_one_first_key() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Sts).await;
    let one = zone("one");
    let create = (0..8).map(|n| {
        let (database, one) = (database.clone(), one.clone());
        async move {
            let mut tx = database.write(ZoneScope::All).await.unwrap();
            let newest = signing_key::lock_newest(&mut tx, &one).await.unwrap();
            if newest.is_none() {
                signing_key::insert(&mut tx, &one, &key(&format!("k{n}")), b"sealed")
                    .await
                    .unwrap();
            }
            tx.commit().await.unwrap();
            newest.is_none()
        }
    });
    let created = futures_util::future::join_all(create).await;
    assert_eq!(created.into_iter().filter(|created| *created).count(), 1);
    let keys = signing_key::newest(&mut database.read().await.unwrap(), &one, 10)
        .await
        .unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].envelope, b"sealed");
}

#[tokio::test]
async fn the_newest_keys_come_first_and_other_zones_have_their_own() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Sts).await;
    for (name, id) in [("one", "a"), ("two", "x"), ("one", "b"), ("one", "c")] {
        let mut tx = database.write(ZoneScope::All).await.unwrap();
        signing_key::insert(&mut tx, &zone(name), &key(id), b"sealed")
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = database.read().await.unwrap();
    let ids: Vec<String> = signing_key::newest(&mut tx, &zone("one"), 2)
        .await
        .unwrap()
        .iter()
        .map(|key| key.id.to_string())
        .collect();
    assert_eq!(ids, ["c", "b"]);
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let taken = signing_key::insert(&mut tx, &zone("two"), &key("a"), b"sealed")
        .await
        .unwrap_err();
    assert_eq!(taken.conflict(), Some("secrets_pkey"));
}

#[tokio::test]
async fn a_secret_is_replaced_in_its_zone_and_cannot_be_taken_by_another() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    let (one, two) = (zone("one"), zone("two"));
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(secret::put(&mut tx, &one, "ref", b"first").await.unwrap(), 1);
    assert_eq!(secret::put(&mut tx, &one, "ref", b"second").await.unwrap(), 2);
    let refusal = secret::put(&mut tx, &two, "ref", b"stolen").await.unwrap_err();
    assert!(
        matches!(
            refusal,
            StorageError::Inconsistent {
                table: "secret_store",
                ..
            }
        ),
        "{refusal:?}"
    );
    let found = secret::find(&mut tx, &one, "ref").await.unwrap().unwrap();
    assert_eq!(
        (found.envelope.as_slice(), found.version),
        (b"second".as_slice(), 2)
    );
    assert!(secret::find(&mut tx, &two, "ref").await.unwrap().is_none());
    assert!(
        !format!("{found:?}").contains("envelope"),
        "what is sealed is not printed either"
    );
    assert!(!secret::delete(&mut tx, &two, "ref").await.unwrap());
    assert!(secret::delete(&mut tx, &one, "ref").await.unwrap());
    assert!(secret::list(&mut tx, &one).await.unwrap().is_empty());
}
