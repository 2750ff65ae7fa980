//! Every list: pages, cursors, and rows that were made in the same microsecond.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Harness;

const ROWS: usize = 7;

/// The lists of things in a zone, the table behind each, and how a row of it is made.
const LISTS: [(&str, &str); 7] = [
    (
        "applications",
        "INSERT INTO applications (id, zone_id, name, registration_method, created_at)
         SELECT 'row-' || n, $1, 'name-' || n, 'managed', '2026-01-02T03:04:05.000001Z' FROM generate_series(1, 7) n",
    ),
    (
        "providers",
        "INSERT INTO providers (id, zone_id, name, identifier, provider_kind, created_at)
         SELECT 'row-' || n, $1, 'n', 'provider://p' || n, 'none', '2026-01-02T03:04:05.000001Z'
         FROM generate_series(1, 7) n",
    ),
    (
        "policies",
        "INSERT INTO policies (id, zone_id, name, created_by, created_at)
         SELECT 'row-' || n, $1, 'name-' || n, 'x', '2026-01-02T03:04:05.000001Z' FROM generate_series(1, 7) n",
    ),
    (
        "policy-sets",
        "INSERT INTO policy_sets (id, zone_id, name, created_by, created_at)
         SELECT 'row-' || n, $1, 'name-' || n, 'x', '2026-01-02T03:04:05.000001Z' FROM generate_series(1, 7) n",
    ),
    (
        "step-up-challenges",
        "INSERT INTO step_up_challenges (id, zone_id, principal_id, expires_at, created_at)
         SELECT 'row-' || n, $1, 'p-' || n, now() + interval '1 hour', '2026-01-02T03:04:05.000001Z'
         FROM generate_series(1, 7) n",
    ),
    (
        "subject-issuers",
        "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience, created_at)
         SELECT 'row-' || n, $1, 'https://i' || n || '.example', 'https://i.example', 'a', '2026-01-02T03:04:05.000001Z'
         FROM generate_series(1, 7) n",
    ),
    (
        "authority-records",
        "INSERT INTO authority_records
             (id, zone_id, session_type, subject_id, expires_at, authenticated_at, created_at)
         SELECT 'row-' || n, $1, 'application', 'a', now() + interval '1 hour', now(), '2026-01-02T03:04:05.000001Z'
         FROM generate_series(1, 7) n",
    ),
];

fn ids(page: &Value) -> Vec<String> {
    let id = |item: &Value| {
        item.get("id")
            .or_else(|| item.get("authority_record_id"))?
            .as_str()
            .map(str::to_owned)
    };
    page["items"].as_array().unwrap().iter().filter_map(id).collect()
}

#[tokio::test]
async fn rows_of_the_same_moment_are_neither_skipped_nor_repeated() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    for (collection, insert) in LISTS {
        sqlx::query(insert).bind(&zone).execute(&api.pool).await.unwrap();
        let mut seen: Vec<String> = Vec::new();
        let mut path = format!("/v1/zones/{zone}/{collection}?limit=2");
        loop {
            let page = api.get(&path).await.expect(200);
            seen.extend(ids(&page));
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/v1/zones/{zone}/{collection}?limit=2&cursor={cursor}");
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), unique.len()), (ROWS, ROWS), "{collection}: {seen:?}");
        let mut descending = seen.clone();
        descending.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(
            seen, descending,
            "{collection}: rows of one moment are ordered by id"
        );
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "DELETE FROM {} WHERE id LIKE 'row-%'",
            collection.replace('-', "_")
        )))
        .execute(&api.pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn microseconds_apart_is_apart() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    sqlx::query(
        "INSERT INTO applications (id, zone_id, name, registration_method, created_at)
         SELECT 'row-' || n, $1, 'name-' || n, 'managed', timestamptz '2026-01-02T03:04:05.123Z'
             + n * interval '1 microsecond' FROM generate_series(1, 7) n",
    )
    .bind(&zone)
    .execute(&api.pool)
    .await
    .unwrap();
    let list = format!("/v1/zones/{zone}/applications?limit=3");
    let first = api.get(&list).await.expect(200);
    assert_eq!(ids(&first), ["row-7", "row-6", "row-5"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = api.get(&format!("{list}&cursor={cursor}")).await.expect(200);
    assert_eq!(ids(&second), ["row-4", "row-3", "row-2"]);
}

#[tokio::test]
async fn zones_are_paged_like_everything_else() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        api.zone(name).await;
    }
    let first = api.get("/v1/zones?limit=2").await.expect(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = api
        .get(&format!("/v1/zones?limit=2&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(
        (second["items"].as_array().unwrap().len(), &second["next_cursor"]),
        (1, &Value::Null)
    );
}

#[tokio::test]
async fn bad_pages_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    for (collection, max) in [("applications", 500), ("audit", 1000)] {
        let list = format!("/v1/zones/{zone}/{collection}");
        api.get(&format!("{list}?limit={max}")).await.expect(200);
        for limit in [
            "0".to_owned(),
            (max + 1).to_string(),
            "ten".to_owned(),
            "1e2".to_owned(),
        ] {
            api.get(&format!("{list}?limit={limit}"))
                .await
                .refused(400, "invalid_query");
        }
        api.get(&format!("{list}?limit=1&limit=2"))
            .await
            .refused(400, "invalid_query");
        api.get(&format!("{list}?cursor=nonsense"))
            .await
            .refused(400, "invalid_cursor");
        api.get(&format!("{list}?cursor={}", "x".repeat(1_537)))
            .await
            .refused(400, "invalid_query");
        api.get(&format!("{list}?cursor=&limit=")).await.expect(200);
    }
}
