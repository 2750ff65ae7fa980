//! Taking authority back: everything below ends, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use caracal_bus::{Bus, EntryId};
use caracal_testing::{wait_for, wait_until};
use caracal_wire::event::{AgentsLifecycle, DelegationsInvalidate, SessionsRevoke};
use caracal_wire::stream;
use serde_json::json;

use crate::harness::Harness;

/// Two applications in a zone, with this below each (`x` is `a` or `b`):
///
/// ```text
/// record rx -> record rx2 (derived)
/// session sx1 (on rx) -> session sx2 (below sx1), session sx3 (on rx2)
/// delegation dx1: sx1 -> sx2, dx2 below dx1: sx2 -> sx3
/// delegation ab: sa1 -> sb1
/// ```
async fn seed(api: &Harness, zone: &str) -> (String, String) {
    let (a, b) = (api.application(zone, "a").await, api.application(zone, "b").await);
    for (x, application) in [("a", &a), ("b", &b)] {
        for (record, parent) in [(format!("r{x}"), None), (format!("r{x}2"), Some(format!("r{x}")))] {
            sqlx::query(
                "INSERT INTO authority_records
                     (id, zone_id, session_type, subject_id, parent_id, expires_at, authenticated_at)
                 VALUES ($1, $2, 'application', $3, $4, now() + interval '1 hour', now())",
            )
            .bind(record)
            .bind(zone)
            .bind(application)
            .bind(parent)
            .execute(&api.pool)
            .await
            .unwrap();
        }
        let sessions = [
            (format!("s{x}1"), None, format!("r{x}")),
            (format!("s{x}2"), Some(format!("s{x}1")), format!("r{x}")),
            (format!("s{x}3"), None, format!("r{x}2")),
        ];
        for (session, parent, record) in sessions {
            sqlx::query(
                "INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, child_count)
                 VALUES ($1, $2, $3, $4, $5, CASE WHEN $4 IS NULL AND $1 LIKE '%1' THEN 1 ELSE 0 END)",
            )
            .bind(session)
            .bind(zone)
            .bind(application)
            .bind(parent)
            .bind(record)
            .execute(&api.pool)
            .await
            .unwrap();
        }
    }
    let edges = [
        ("da1", "sa1", "sa2", &a, &a, None),
        ("da2", "sa2", "sa3", &a, &a, Some("da1")),
        ("db1", "sb1", "sb2", &b, &b, None),
        ("db2", "sb2", "sb3", &b, &b, Some("db1")),
        ("ab", "sa1", "sb1", &a, &b, None),
    ];
    for (edge, source, target, issuer, receiver, parent) in edges {
        sqlx::query(
            "INSERT INTO delegation_edges
                 (id, zone_id, source_session_id, target_session_id, issuer_application_id, receiver_application_id,
                  parent_edge_id, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, now() + interval '1 hour')",
        )
        .bind(edge)
        .bind(zone)
        .bind(source)
        .bind(target)
        .bind(issuer)
        .bind(receiver)
        .bind(parent)
        .execute(&api.pool)
        .await
        .unwrap();
    }
    (a, b)
}

/// What is still alive, sorted.
async fn alive(api: &Harness, zone: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT id FROM authority_records WHERE zone_id = $1 AND status = 'active'
         UNION ALL SELECT id FROM sessions WHERE zone_id = $1 AND status = 'active'
         UNION ALL SELECT id FROM delegation_edges WHERE zone_id = $1 AND status = 'active' ORDER BY 1",
    )
    .bind(zone)
    .fetch_all(&api.pool)
    .await
    .unwrap()
}

/// What the log says was revoked, sorted.
async fn logged(api: &Harness, zone: &str) -> Vec<String> {
    sqlx::query_scalar("SELECT anchor_id FROM revocation_log WHERE zone_id = $1 ORDER BY 1")
        .bind(zone)
        .fetch_all(&api.pool)
        .await
        .unwrap()
}

const ALL_OF_B: [&str; 7] = ["db1", "db2", "rb", "rb2", "sb1", "sb2", "sb3"];
const ALL_OF_A: [&str; 8] = ["ab", "da1", "da2", "ra", "ra2", "sa1", "sa2", "sa3"];

#[tokio::test]
async fn revoking_a_record_ends_what_is_below_it_and_nothing_else() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    let path = format!("/v1/zones/{zone}/authority-records");
    let answer = api
        .post(&format!("{path}/ra/revoke"), &json!({ "reason": "stolen" }))
        .await
        .expect(200);
    assert_eq!(
        answer,
        json!({ "authority_record_id": "ra", "authority_records": 2, "sessions": 3, "delegations": 3 })
    );
    assert_eq!(alive(&api, &zone).await, ALL_OF_B);
    assert_eq!(logged(&api, &zone).await, ALL_OF_A);
    let again = api
        .post(&format!("{path}/ra/revoke"), &json!({}))
        .await
        .expect(200);
    assert_eq!(
        again["sessions"], 0,
        "revoking again is no error and ends nothing"
    );
    let listed = api.get(&format!("{path}?status=revoked")).await.expect(200);
    assert_eq!(listed["items"][0]["revoked_reason"], "stolen");
    api.post(&format!("{path}/nothing/revoke"), &json!({}))
        .await
        .refused(404, "authority_record_not_found");
    let bad = api
        .post(&format!("{path}/rb/revoke"), &json!({ "reason": "a\nb" }))
        .await;
    bad.refused(400, "invalid_authority_record_revoke");
}

#[tokio::test]
async fn a_derived_record_takes_nothing_above_it() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    let path = format!("/v1/zones/{zone}/authority-records/ra2/revoke");
    api.post(&path, &json!({})).await.expect(200);
    let expected: Vec<&str> = [
        &["ab", "da1"][..],
        &ALL_OF_B[..2],
        &["ra", "rb", "rb2", "sa1", "sa2"],
        &ALL_OF_B[4..],
    ]
    .concat();
    assert_eq!(
        alive(&api, &zone).await,
        expected,
        "sa3 and the delegation to it ended, da1 above it did not"
    );
}

#[tokio::test]
async fn every_end_is_announced_by_exactly_one_message_about_itself() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    api.post(
        &format!("/v1/zones/{zone}/authority-records/ra/revoke"),
        &json!({}),
    )
    .await
    .expect(200);
    let from = [(stream::SESSIONS_REVOKE, EntryId::ZERO)];
    let entries = wait_for(Duration::from_secs(20), async || {
        let read = api.bus.read(&from, 100, Duration::ZERO).await.unwrap();
        read.into_iter()
            .next()
            .map(|(_, entries)| entries)
            .filter(|entries| entries.len() >= 8)
    })
    .await;
    let mut announced = Vec::new();
    for entry in &entries {
        let message = SessionsRevoke::from_fields(&entry.fields).unwrap();
        let anchors = message.anchors();
        assert_eq!(
            anchors.len(),
            1,
            "a message names only what it is about: {message:?}"
        );
        assert_eq!(message.zone_id.as_str(), zone);
        let named = [
            message.session_id.map(|id| id.to_string()),
            message.agent_session_id.map(|id| id.to_string()),
            message.delegation_edge_id.map(|id| id.to_string()),
        ];
        announced.extend(named.into_iter().flatten());
    }
    announced.sort_unstable();
    assert_eq!(announced, ALL_OF_A);

    let from = [(stream::AGENTS_LIFECYCLE, EntryId::ZERO)];
    let ended = wait_for(Duration::from_secs(20), async || {
        let read = api.bus.read(&from, 100, Duration::ZERO).await.unwrap();
        read.into_iter()
            .next()
            .map(|(_, entries)| entries)
            .filter(|entries| entries.len() >= 3)
    })
    .await;
    let sessions: BTreeSet<String> = ended
        .iter()
        .map(|entry| {
            AgentsLifecycle::from_fields(&entry.fields)
                .unwrap()
                .agent_session_id
                .to_string()
        })
        .collect();
    assert_eq!(sessions.into_iter().collect::<Vec<_>>(), ["sa1", "sa2", "sa3"]);

    let from = [(stream::DELEGATIONS_INVALIDATE, EntryId::ZERO)];
    let edges = wait_for(Duration::from_secs(20), async || {
        let read = api.bus.read(&from, 100, Duration::ZERO).await.unwrap();
        read.into_iter()
            .next()
            .map(|(_, entries)| entries)
            .filter(|entries| entries.len() >= 3)
    })
    .await;
    for entry in &edges {
        assert_eq!(
            DelegationsInvalidate::from_fields(&entry.fields).unwrap().epoch,
            1
        );
    }
    assert_eq!(
        api.count(
            "SELECT epoch FROM delegation_graph_epochs WHERE zone_id = $1",
            &zone
        )
        .await,
        1
    );
}

#[tokio::test]
async fn archiving_an_application_ends_its_authority_in_the_same_transaction() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (a, _) = seed(&api, &zone).await;
    sqlx::query("REVOKE UPDATE ON sessions FROM caracalapi")
        .execute(&api.pool)
        .await
        .unwrap();
    let path = format!("/v1/zones/{zone}/applications/{a}");
    api.delete(&path).await.refused(500, "internal_error");
    api.get(&path).await.expect(200);
    assert_eq!(alive(&api, &zone).await.len(), 15, "either all of it or none");
    sqlx::query("GRANT UPDATE ON sessions TO caracalapi")
        .execute(&api.pool)
        .await
        .unwrap();
    api.delete(&path).await.expect(204);
    assert_eq!(alive(&api, &zone).await, ALL_OF_B);
}

#[tokio::test]
async fn archiving_a_zone_ends_everything_in_it_and_nothing_elsewhere() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    let other = api.zone("other").await;
    let application = api.application(&other, "c").await;
    sqlx::query(
        "INSERT INTO authority_records (id, zone_id, session_type, subject_id, expires_at, authenticated_at)
         VALUES ('rc', $1, 'application', $2, now() + interval '1 hour', now())",
    )
    .bind(&other)
    .bind(&application)
    .execute(&api.pool)
    .await
    .unwrap();
    api.delete(&format!("/v1/zones/{zone}")).await.expect(204);
    assert_eq!(alive(&api, &zone).await, Vec::<String>::new());
    assert_eq!(alive(&api, &other).await, ["rc"]);
    assert_eq!(logged(&api, &zone).await.len(), 15);
}

#[tokio::test]
async fn archiving_a_resource_ends_the_delegations_that_are_for_nothing_else() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    let provider = api.provider(&zone, "p").await;
    let resource = api.resource(&zone, "crm", &provider).await;
    sqlx::query("UPDATE delegation_edges SET resource_id = $1 WHERE id = 'da1'")
        .bind(&resource)
        .execute(&api.pool)
        .await
        .unwrap();
    sqlx::query(
        "UPDATE delegation_edges SET constraints_json = '{\"resources\":[\"resource://crm\"]}' WHERE id = 'db2'",
    )
    .execute(&api.pool)
    .await
    .unwrap();
    sqlx::query(
        "UPDATE delegation_edges SET constraints_json = '{\"resources\":[\"resource://crm\",\"resource://x\"]}'
         WHERE id = 'ab'",
    )
    .execute(&api.pool)
    .await
    .unwrap();
    api.delete(&format!("/v1/zones/{zone}/resources/{resource}"))
        .await
        .expect(204);
    assert_eq!(
        logged(&api, &zone).await,
        ["da1", "da2", "db2"],
        "with what narrows them, and no session"
    );
}

#[tokio::test]
async fn a_parent_that_lives_on_gets_the_places_of_its_children_back() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    seed(&api, &zone).await;
    sqlx::query("UPDATE sessions SET subject_authority_record_id = 'ra2' WHERE id = 'sa2'")
        .execute(&api.pool)
        .await
        .unwrap();
    api.post(
        &format!("/v1/zones/{zone}/authority-records/ra2/revoke"),
        &json!({}),
    )
    .await
    .expect(200);
    let children = "SELECT child_count::bigint FROM sessions WHERE zone_id = $1 AND id = 'sa1'";
    assert_eq!(api.count(children, &zone).await, 0);
}

#[tokio::test]
async fn sessions_are_listed_with_whom_they_stand_for() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (a, _) = seed(&api, &zone).await;
    sqlx::query("UPDATE sessions SET labels = '{\"red, {team}\"}' WHERE id = 'sa2'")
        .execute(&api.pool)
        .await
        .unwrap();
    let list = format!("/v1/zones/{zone}/sessions");
    let table = [
        (format!("application_id={a}"), 3),
        ("parent_session_id=sa1".to_owned(), 1),
        (format!("subject_id={a}"), 3),
        ("label=red,%20%7Bteam%7D".to_owned(), 1),
        ("status=terminated".to_owned(), 0),
        ("lifecycle=task".to_owned(), 6),
    ];
    for (query, count) in table {
        let page = api.get(&format!("{list}?{query}")).await.expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{query}");
    }
    let page = api
        .get(&format!("{list}?parent_session_id=sa1"))
        .await
        .expect(200);
    assert_eq!(page["items"][0]["session_id"], "sa2");
    assert_eq!(page["items"][0]["subject_id"], json!(a));
    api.get(&format!("{list}?status=odd"))
        .await
        .refused(400, "invalid_query");
}

#[tokio::test]
async fn the_sweep_ends_what_was_issued_too_late_and_marks_what_is_overdue() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (a, b) = (
        api.application(&zone, "a").await,
        api.application(&zone, "b").await,
    );
    api.delete(&format!("/v1/zones/{zone}/applications/{a}"))
        .await
        .expect(204);
    for (record, application, ends) in [
        ("late", &a, "1 hour"),
        ("overdue", &b, "-1 hour"),
        ("live", &b, "1 hour"),
    ] {
        sqlx::query(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, expires_at, authenticated_at)
             VALUES ($1, $2, 'application', $3, now() + $4::interval, now())",
        )
        .bind(record)
        .bind(&zone)
        .bind(application)
        .bind(ends)
        .execute(&api.pool)
        .await
        .unwrap();
    }
    let (database, pool) = api.stop().await;
    let api = Harness::on(database, pool, &[]).await;
    wait_until(Duration::from_secs(20), async || {
        alive(&api, &zone).await == ["live"]
    })
    .await;
    assert_eq!(
        logged(&api, &zone).await,
        ["late"],
        "what ends by itself is not revoked"
    );
}
