//! The evidence lists: filters, order, and what is kept back.

use serde_json::json;

use crate::harness::Harness;

async fn seed_events(api: &Harness, zone: &str) {
    sqlx::query(
        "INSERT INTO audit_events
             (id, zone_id, event_type, request_id, decision, evaluation_status, metadata_json, occurred_at)
         VALUES
             ('e1', $1, 'token_exchange', 'req-1', 'allow', 'complete',
              '{\"application_id\":\"app-1\",\"agent_session_id\":\"s1\",\"session_id\":\"rec-1\",\"access_token\":\"x\"}',
              '2026-01-02T03:04:05.000001Z'),
             ('e2', $1, 'token_exchange', 'req-1', 'deny', 'scope_mismatch',
              '{\"application_id\":\"app-2\",\"agent_labels\":[\"red, {team}\"]}', '2026-01-02T03:04:05.000002Z'),
             ('e3', $1, 'gateway_request', 'req-2', 'allow', 'complete', NULL, '2026-01-03T00:00:00Z')",
    )
    .bind(zone)
    .execute(&api.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed_events(&api, &zone).await;
    let other = api.zone("other").await;
    sqlx::query(
        "INSERT INTO audit_events (id, zone_id, event_type, request_id, decision, occurred_at)
         VALUES ('foreign', $1, 'token_exchange', 'req-1', 'allow', '2026-01-02T03:04:05Z')",
    )
    .bind(&other)
    .execute(&api.pool)
    .await
    .unwrap();
    let table = [
        ("", vec!["e3", "e2", "e1"]),
        (
            "since=2026-01-02T03:04:05.000002Z&until=2026-01-03T00:00:00Z",
            vec!["e2"],
        ),
        ("request_id=req-1", vec!["e2", "e1"]),
        ("decision=deny", vec!["e2"]),
        ("event_type=gateway_request,other", vec!["e3"]),
        ("application_id=app-1", vec!["e1"]),
        ("session_id=s1", vec!["e1"]),
        ("authority_record_id=rec-1", vec!["e1"]),
        ("label=red,%20%7Bteam%7D", vec!["e2"]),
        ("label=red", vec![]),
    ];
    for (query, expected) in table {
        let page = api
            .get(&format!("/v1/zones/{zone}/audit?{query}"))
            .await
            .expect(200);
        let found: Vec<&str> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["id"].as_str().unwrap())
            .collect();
        assert_eq!(found, expected, "{query}");
    }
    let page = api
        .get(&format!("/v1/zones/{zone}/audit?application_id=app-1"))
        .await
        .expect(200);
    let metadata = &page["items"][0]["metadata_json"];
    assert_eq!(
        (&metadata["access_token"], &metadata["session_id"]),
        (&json!("[redacted]"), &json!("[redacted]"))
    );
    assert_eq!(metadata["agent_session_id"], "s1");
    for query in ["decision=maybe", "since=yesterday", "event_type=,", "format=csv"] {
        api.get(&format!("/v1/zones/{zone}/audit?{query}"))
            .await
            .refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn the_events_of_one_request_are_a_bare_array_in_order() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed_events(&api, &zone).await;
    let events = api
        .get(&format!("/v1/zones/{zone}/audit/by-request/req-1"))
        .await
        .expect(200);
    let found: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["e1", "e2"]);
    api.get(&format!("/v1/zones/{zone}/audit/by-request/nothing"))
        .await
        .refused(404, "request_not_found");
    api.get(&format!("/v1/zones/{zone}/audit/by-request/bad%20id"))
        .await
        .refused(400, "invalid_params");
}

#[tokio::test]
async fn administrative_records_are_found_by_who_and_what() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let application = api.application(&zone, "bot").await;
    api.delete(&format!("/v1/zones/{zone}/applications/{application}"))
        .await
        .expect(204);
    let list = format!("/v1/zones/{zone}/admin-audit");
    let all = api.get(&list).await.expect(200);
    let seen: Vec<(&str, &str)> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (
                record["method"].as_str().unwrap(),
                record["entity_type"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("DELETE", "applications"),
            ("POST", "applications"),
            ("POST", "zones")
        ]
    );
    assert_eq!(all["items"][0]["chain_seq"], 3);
    assert_eq!(all["items"][0]["signed"], true);
    assert_eq!(all["items"][0]["payload_json"]["change_kind"], "delete");
    let actor = all["items"][0]["actor_id"].as_str().unwrap();
    for (query, count) in [
        (format!("entity_id={application}"), 2),
        ("entity_type=zones".to_owned(), 1),
        ("method=DELETE".to_owned(), 1),
        (format!("actor_id={actor}"), 3),
        ("actor_id=nobody".to_owned(), 0),
        ("until=2020-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let page = api.get(&format!("{list}?{query}")).await.expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{query}");
    }
}
