//! `/v1/zones/{zone}/subjects`: who holds authority, and taking all of it back.

use serde_json::{Value, json};

use crate::harness::{Harness, id};

async fn record(api: &Harness, zone: &str, row: (&str, &str, &str), minutes_ago: i32) {
    let (name, kind, subject) = row;
    let claims = (kind == "user").then(|| json!({ "iss": "https://idp.example", "client_id": "x" }));
    sqlx::query(
        "INSERT INTO authority_records
             (id, zone_id, session_type, subject_id, expires_at, authenticated_at, created_at, claims_json)
         VALUES ($1, $2, $3, $4, now() + interval '1 hour', now(), now() - make_interval(mins => $5), $6)",
    )
    .bind(name)
    .bind(zone)
    .bind(kind)
    .bind(subject)
    .bind(minutes_ago)
    .bind(claims)
    .execute(&api.pool)
    .await
    .unwrap();
}

async fn session(api: &Harness, zone: &str, (name, parent): (&str, Option<&str>), on: (&str, &str)) {
    sqlx::query(
        "INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(name)
    .bind(zone)
    .bind(on.0)
    .bind(parent)
    .bind(on.1)
    .execute(&api.pool)
    .await
    .unwrap();
}

async fn connection(api: &Harness, zone: &str, subject: &str) {
    let config = json!({
        "authorization_endpoint": "https://auth.example/a", "token_endpoint": "https://auth.example/t",
        "redirect_uri": "https://us.example/cb", "client_id": "c", "client_secret": "s",
    });
    let body = json!({ "name": "mail", "kind": "oauth2_authorization_code", "config_json": config });
    let provider = api
        .post(&format!("/v1/zones/{zone}/providers"), &body)
        .await
        .expect(201);
    let body = json!({ "subject_id": subject, "provider_id": id(&provider), "access_token": "at" });
    api.post(&format!("/v1/zones/{zone}/provider-connections"), &body)
        .await
        .expect(201);
}

/// The user `ann` with two records, one of them the base of a session with a child; the user `bob`; an application.
async fn seed(api: &Harness, zone: &str) -> String {
    let application = api.application(zone, "Shop Bot").await;
    record(api, zone, ("ann-1", "user", "ann"), 30).await;
    record(api, zone, ("ann-2", "user", "ann"), 10).await;
    record(api, zone, ("bob-1", "user", "bob"), 20).await;
    record(api, zone, ("app-1", "application", &application), 5).await;
    session(api, zone, ("s-ann", None), (&application, "ann-1")).await;
    session(api, zone, ("s-below", Some("s-ann")), (&application, "app-1")).await;
    session(api, zone, ("s-bob", None), (&application, "bob-1")).await;
    application
}

fn subjects(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["subject_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn subjects_are_listed_by_when_they_were_seen_last() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let application = seed(&api, &zone).await;
    let list = format!("/v1/zones/{zone}/subjects");
    let all = api.get(&list).await.expect(200);
    assert_eq!(subjects(&all), [application.as_str(), "ann", "bob"]);
    assert_eq!(all["next_cursor"], Value::Null);
    let ann = &all["items"][1];
    for (member, value) in [
        ("federated", json!(true)),
        ("application_name", Value::Null),
        ("total_sessions", json!(2)),
        ("active_sessions", json!(2)),
        ("revoked_sessions", json!(0)),
        ("last_revoked_at", Value::Null),
        ("issuer", json!("https://idp.example")),
    ] {
        assert_eq!(ann[member], value, "{member}");
    }
    assert!(ann["first_seen"].as_str() < ann["last_seen"].as_str());
    assert_eq!(
        (
            &all["items"][0]["federated"],
            &all["items"][0]["application_name"]
        ),
        (&json!(false), &json!("Shop Bot"))
    );
    for (query, expected) in [
        ("kind=user", vec!["ann", "bob"]),
        ("kind=application", vec![application.as_str()]),
        ("search=AN", vec!["ann"]),
        ("search=shop", vec![application.as_str()]),
        ("search=%25", vec![]),
    ] {
        let page = api.get(&format!("{list}?{query}")).await.expect(200);
        assert_eq!(subjects(&page), expected, "{query}");
    }
    let mut seen = Vec::new();
    let mut path = format!("{list}?limit=1");
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(subjects(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("{list}?limit=1&cursor={cursor}");
    }
    assert_eq!(seen, [application.as_str(), "ann", "bob"]);
    for bad in ["limit=201", "limit=0", "kind=robot"] {
        api.get(&format!("{list}?{bad}"))
            .await
            .refused(400, "invalid_query");
    }
    let other = api.zone("other").await;
    let foreign = api.get(&format!("/v1/zones/{other}/subjects")).await.expect(200);
    assert_eq!(subjects(&foreign), Vec::<&str>::new());
}

#[tokio::test]
async fn an_overview_shows_what_a_subject_has_under_way() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    connection(&api, &zone, "ann").await;
    sqlx::query(
        "INSERT INTO step_up_challenges (id, zone_id, principal_id, subject_anchor, challenge_type, expires_at, rejected_at)
         VALUES ('a1', $1, 'app', 'ann', 'human_approval', now() + interval '1 hour', NULL),
                ('a2', $1, 'ann', NULL, 'human_approval', now() + interval '1 hour', now()),
                ('a3', $1, 'bob', NULL, 'human_approval', now() + interval '1 hour', NULL)",
    )
    .bind(&zone)
    .execute(&api.pool)
    .await
    .unwrap();
    let path = format!("/v1/zones/{zone}/subjects/overview");
    let overview = api.get(&format!("{path}?subject_id=ann")).await.expect(200);
    assert_eq!(overview["subject"]["subject_id"], "ann");
    let governed = &overview["governed"];
    assert_eq!((&governed["active"], &governed["total"]), (&json!(1), &json!(1)));
    assert_eq!(governed["recent"][0]["session_id"], "s-ann");
    assert_eq!(
        governed["recent"][0]["federated_user_issuer"],
        "https://idp.example"
    );
    assert_eq!(overview["approvals"], json!({ "pending": 1, "total": 2 }));
    assert_eq!(overview["connections"].as_array().unwrap().len(), 1);
    assert!(!overview.to_string().contains("access_token"));
    api.get(&format!("{path}?subject_id=nobody"))
        .await
        .refused(404, "subject_not_found");
    for bad in ["", "?subject_id=", "?subject_id=a%0ab"] {
        api.get(&format!("{path}{bad}"))
            .await
            .refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn revoking_a_subject_ends_all_it_holds_and_nothing_of_anybody_else() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    connection(&api, &zone, "ann").await;
    // A session outlives the record it hangs from.
    sqlx::query("UPDATE authority_records SET status = 'expired' WHERE id = 'ann-1'")
        .execute(&api.pool)
        .await
        .unwrap();
    let path = format!("/v1/zones/{zone}/subjects/revoke");
    let answer = api
        .post(&path, &json!({ "subject_id": "ann", "reason": "laptop stolen" }))
        .await
        .expect(200);
    let counted = |records: i64, sessions: i64, connections: i64| {
        json!({ "subject_id": "ann", "authority_records": records, "sessions": sessions, "delegations": 0,
            "connections": connections })
    };
    assert_eq!(answer, counted(1, 2, 1));
    let alive: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM authority_records WHERE zone_id = $1 AND status = 'active'
         UNION ALL SELECT id FROM sessions WHERE zone_id = $1 AND status = 'active' ORDER BY 1",
    )
    .bind(&zone)
    .fetch_all(&api.pool)
    .await
    .unwrap();
    assert_eq!(alive, ["app-1", "bob-1", "s-bob"]);
    let logged: Vec<String> =
        sqlx::query_scalar("SELECT anchor_id FROM revocation_log WHERE zone_id = $1 ORDER BY 1")
            .bind(&zone)
            .fetch_all(&api.pool)
            .await
            .unwrap();
    assert_eq!(logged, ["ann-2", "s-ann", "s-below"]);
    let reasons: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT payload_json ->> 'reason' FROM caracal_outbox WHERE topic = 'caracal.sessions.revoke'",
    )
    .fetch_all(&api.pool)
    .await
    .unwrap();
    assert_eq!(reasons, ["laptop stolen"]);
    let recorded = "SELECT count(*) FROM admin_audit_events
         WHERE zone_id = $1 AND entity_type = 'subjects' AND entity_id = 'ann' AND status_code = 200";
    assert_eq!(api.count(recorded, &zone).await, 1);
    let again = api.post(&path, &json!({ "subject_id": "ann" })).await.expect(200);
    assert_eq!(again, counted(0, 0, 0), "revoking again is no error");
    let overview = api
        .get(&format!("/v1/zones/{zone}/subjects/overview?subject_id=ann"))
        .await
        .expect(200);
    assert_eq!(
        (
            &overview["subject"]["revoked_sessions"],
            overview["subject"]["last_revoked_at"].is_string()
        ),
        (&json!(1), true)
    );
}

#[tokio::test]
async fn nothing_is_revoked_for_nobody() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    let path = format!("/v1/zones/{zone}/subjects/revoke");
    api.post(&path, &json!({ "subject_id": "nobody" }))
        .await
        .refused(404, "subject_not_found");
    for body in [
        json!({}),
        json!({ "subject_id": "" }),
        json!({ "subject_id": "a\nb" }),
        json!({ "subject_id": "a".repeat(513) }),
        json!({ "subject_id": "ann", "reason": "a\nb" }),
        json!({ "subject_id": "ann", "reason": "a".repeat(513) }),
        json!({ "subject_id": "ann", "more": 1 }),
    ] {
        api.post(&path, &body)
            .await
            .refused(400, "invalid_subject_revoke");
    }
    let other = api.zone("other").await;
    api.post(
        &format!("/v1/zones/{other}/subjects/revoke"),
        &json!({ "subject_id": "ann" }),
    )
    .await
    .refused(404, "subject_not_found");
    let active = "SELECT count(*) FROM authority_records WHERE zone_id = $1 AND status = 'active'";
    assert_eq!(api.count(active, &zone).await, 4);
}
