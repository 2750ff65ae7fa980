//! Starting, reading and ending sessions.

use std::time::Duration;

use caracal_bus::EntryId;
use caracal_testing::wait_until;
use caracal_wire::event::SessionsRevoke;
use caracal_wire::stream::SESSIONS_REVOKE;
use serde_json::{Value, json};

use crate::world::{World, mandate, refused};

#[tokio::test]
async fn a_started_session_is_answered_announced_recorded_and_readable() {
    let world = World::start().await;
    let body = json!({"application_id": "app-a", "labels": [" sales ", "eu"], "metadata": {"job": 1}, "unknown": true});
    let answer = world.app("app-a").post("/v1/zones/zone-1/agents", &body).await;
    let started = answer.expect(201);
    for (member, value) in [
        ("zone_id", json!("zone-1")),
        ("application_id", json!("app-a")),
        ("parent_id", Value::Null),
        ("subject_authority_record_id", json!("record-app-a")),
        ("lifecycle", json!("task")),
        ("labels", json!(["sales", "eu"])),
        ("status", json!("active")),
        ("depth", json!(0)),
        ("ttl_seconds", json!(3600)),
        ("heartbeat_deadline_at", Value::Null),
        ("lease_generation", json!(0)),
        ("delegation_edge_id", Value::Null),
    ] {
        assert_eq!(started[member], value, "{member}");
    }
    let id = answer.text_of("agent_session_id");
    let read = world
        .app("app-a")
        .get(&format!("/zones/zone-1/agents/{id}"))
        .await
        .expect(200);
    assert_eq!(
        (&read["agent_session_id"], &read["metadata"]),
        (&json!(id), &json!({"job": 1}))
    );
    let announced = world
        .column("SELECT payload_json::text FROM caracal_outbox WHERE topic = 'caracal.agents.lifecycle'")
        .await;
    assert_eq!(announced.len(), 1);
    assert!(
        announced[0].contains("\"spawn\"") && announced[0].contains(&id),
        "{announced:?}"
    );
    let recorded = world
        .column("SELECT entity_id FROM admin_audit_events WHERE actor_name = 'app-a'")
        .await;
    assert_eq!(recorded, [id]);
}

#[tokio::test]
async fn a_service_gets_a_lease_and_only_its_holder_ends_it() {
    let world = World::start().await;
    let answer = world.try_session("app-a", &json!({"lifecycle": "service"})).await;
    let started = answer.expect(201);
    assert_eq!(
        (&started["lease_generation"], &started["ttl_seconds"]),
        (&json!(1), &Value::Null)
    );
    assert!(started["heartbeat_deadline_at"].is_string());
    let path = format!("/zones/zone-1/agents/{}", answer.text_of("agent_session_id"));
    let app = world.app("app-a");
    refused(&app.delete(&path).await, 400, "lease_generation_required");
    let fenced = app
        .send(http::Method::DELETE, &path, Some(&json!({"lease_generation": 2})))
        .await;
    refused(&fenced, 409, "session_lease_fenced");
    app.send(http::Method::DELETE, &path, Some(&json!({"lease_generation": 1})))
        .await
        .expect(204);
    refused(&app.delete(&path).await, 404, "session_not_found");
}

#[tokio::test]
async fn a_start_is_refused_for_the_first_rule_it_breaks() {
    let world = World::start_with(&[("COORDINATOR_BODY_LIMIT_BYTES", "4096")]).await;
    let task = world.session("app-a", &json!({})).await;
    let ended = world.session("app-a", &json!({})).await;
    world
        .app("app-a")
        .delete(&format!("/zones/zone-1/agents/{ended}"))
        .await
        .expect(204);
    let lapsed = world.session("app-a", &json!({})).await;
    world
        .run(
            "UPDATE sessions SET started_at = now() - interval '2 hours' WHERE id = $1",
            &lapsed,
        )
        .await;
    let foreign = world.session("app-b", &json!({})).await;
    let labels: Vec<String> = (0..33).map(|n| format!("l{n}")).collect();
    for (more, status, code) in [
        (json!({"lifecycle": "daemon"}), 400, "invalid_body"),
        (
            json!({"lifecycle": "service", "ttl_seconds": 5}),
            400,
            "invalid_body",
        ),
        (json!({"ttl_seconds": 0}), 400, "invalid_body"),
        (json!({"ttl_seconds": 86_401}), 400, "invalid_body"),
        (json!({"ttl_seconds": 1.5}), 400, "invalid_body"),
        (json!({"labels": labels}), 400, "invalid_body"),
        (json!({"labels": ["  "]}), 400, "invalid_body"),
        (json!({"labels": ["a\u{0}b"]}), 400, "invalid_body"),
        (json!({"metadata": []}), 400, "invalid_body"),
        (json!({"metadata": {"a": ["\u{0}"]}}), 400, "invalid_body"),
        (json!({"metadata": {"\u{0}": 1}}), 400, "invalid_body"),
        (json!({"parent_id": "no id!"}), 400, "invalid_body"),
        (json!({"parent_authority": "some"}), 400, "invalid_body"),
        (
            json!({"metadata": {"a": "x".repeat(5000)}}),
            413,
            "payload_too_large",
        ),
        (
            json!({"application_id": "app-b"}),
            403,
            "application_ownership_required",
        ),
        (
            json!({"application_id": "nobody"}),
            403,
            "application_ownership_required",
        ),
        (
            json!({"subject_session_id": "record-app-b"}),
            403,
            "subject_proof_required",
        ),
        (
            json!({"subject_session_id": "record-user", "subject_token": "x"}),
            403,
            "subject_proof_required",
        ),
        (json!({"parent_id": "missing"}), 404, "parent_not_found"),
        (json!({"parent_id": ended}), 404, "parent_not_found"),
        (json!({"parent_id": lapsed}), 404, "parent_not_found"),
        (
            json!({"parent_id": task, "lifecycle": "service"}),
            409,
            "task_session_cannot_start_service",
        ),
        (json!({"parent_id": foreign}), 403, "parent_ownership_required"),
    ] {
        refused(&world.try_session("app-a", &more).await, status, code);
    }
    let spawner = world.app_with("app-a", "agent:lifecycle coordinator.spawn_for:nobody");
    let answer = spawner
        .post("/zones/zone-1/agents", &json!({"application_id": "nobody"}))
        .await;
    refused(&answer, 404, "application_not_found");
    let app = world.app("app-a");
    refused(
        &app.post("/zones/no%20zone/agents", &json!({})).await,
        400,
        "invalid_params",
    );
    refused(
        &app.post("/zones/zone-1/unknown", &json!({})).await,
        404,
        "not_found",
    );
    refused(
        &app.put("/zones/zone-1/agents", &json!({})).await,
        405,
        "method_not_allowed",
    );
    assert_eq!(
        world.column("SELECT id FROM sessions").await.len(),
        4,
        "a refusal stores nothing"
    );
}

#[tokio::test]
async fn applications_that_registered_themselves_have_one_plain_session() {
    let world = World::start().await;
    refused(
        &world
            .try_session("app-dcr", &json!({"lifecycle": "service"}))
            .await,
        409,
        "dcr_application_cannot_host_service",
    );
    refused(
        &world.try_session("app-dcr", &json!({"parent_id": "x"})).await,
        409,
        "dcr_application_cannot_be_child",
    );
    let only = world.session("app-dcr", &json!({})).await;
    refused(
        &world.try_session("app-dcr", &json!({})).await,
        409,
        "dcr_application_already_bound",
    );
    world
        .app("app-dcr")
        .delete(&format!("/zones/zone-1/agents/{only}"))
        .await
        .expect(204);
    world.session("app-dcr", &json!({})).await;
}

#[tokio::test]
async fn zone_application_children_and_depth_are_bounded_and_places_come_back() {
    let world = World::start_with(&[("MAX_AGENTS_PER_ZONE", "14"), ("MAX_AGENTS_PER_APP", "12")]).await;
    let root = world.session("app-a", &json!({})).await;
    let mut children = Vec::new();
    for _ in 0..10 {
        children.push(world.session("app-a", &json!({"parent_id": root})).await);
    }
    let child = json!({"parent_id": root});
    refused(
        &world.try_session("app-a", &child).await,
        429,
        "session_children_limit_exceeded",
    );
    world
        .app("app-a")
        .delete(&format!("/zones/zone-1/agents/{}", children[0]))
        .await
        .expect(204);
    world.session("app-a", &child).await;
    world.session("app-a", &json!({})).await;
    refused(
        &world.try_session("app-a", &json!({})).await,
        429,
        "session_limit_exceeded",
    );
    world.session("app-b", &json!({})).await;
    world.session("app-b", &json!({})).await;
    refused(
        &world.try_session("app-c", &json!({})).await,
        429,
        "session_zone_limit_exceeded",
    );
    // What has run out takes no room, even before it is swept.
    sqlx::query("UPDATE sessions SET started_at = now() - interval '2 hours'")
        .execute(&world.pool)
        .await
        .unwrap();
    let mut parent = world.session("app-c", &json!({})).await;
    for _ in 0..10 {
        parent = world.session("app-c", &json!({"parent_id": parent})).await;
    }
    let answer = world.try_session("app-c", &json!({"parent_id": parent})).await;
    refused(&answer, 429, "session_depth_limit_exceeded");
}

#[tokio::test]
async fn a_session_speaks_for_a_user_only_with_the_users_mandate_and_dies_with_the_sign_in() {
    let world = World::start().await;
    let proof = |client: &str| {
        mandate(client)
            .anchored_in("record-user", "record-user")
            .sign(&world.keys)
    };
    let wanted = |token: String| json!({"subject_session_id": "record-user", "subject_token": token});
    refused(
        &world.try_session("app-a", &wanted(proof("app-b"))).await,
        403,
        "subject_proof_required",
    );
    let admin = world.app_with("app-a", "agent:lifecycle coordinator.admin");
    let unproven = json!({"application_id": "app-a", "subject_session_id": "record-user"});
    refused(
        &admin.post("/zones/zone-1/agents", &unproven).await,
        403,
        "subject_proof_required",
    );
    let session = world.session("app-a", &wanted(proof("app-a"))).await;
    world
        .run(
            "UPDATE authority_records SET status = 'revoked', revoked_at = now() WHERE id = $1",
            "record-user",
        )
        .await;
    refused(
        &world.try_session("app-a", &wanted(proof("app-a"))).await,
        404,
        "session_not_found",
    );
    refused(
        &world.try_session("app-a", &json!({"parent_id": session})).await,
        404,
        "parent_not_found",
    );
}

#[tokio::test]
async fn ending_a_session_ends_exactly_what_is_below_it() {
    let world = World::start().await;
    let root = world.session("app-a", &json!({})).await;
    let child = world.session("app-a", &json!({"parent_id": root})).await;
    let bystander = world.session("app-a", &json!({})).await;
    let other = world.session("app-b", &json!({})).await;
    let given = world.edge(("app-a", &child), ("app-b", &other), &json!({})).await;
    let unrelated = world
        .edge(("app-a", &bystander), ("app-b", &other), &json!({}))
        .await;
    let path = format!("/zones/zone-1/agents/{root}");
    refused(
        &world.app("app-a").delete(&format!("{path}?reason=")).await,
        400,
        "invalid_query",
    );
    world
        .app("app-a")
        .delete(&format!("{path}?reason=done"))
        .await
        .expect(204);

    let mut ended = world
        .column("SELECT id FROM sessions WHERE status = 'terminated' AND termination_reason = 'done'")
        .await;
    ended.sort();
    let mut expected = vec![root.clone(), child.clone()];
    expected.sort();
    assert_eq!(ended, expected);
    assert_eq!(
        world
            .column("SELECT id FROM delegation_edges WHERE status = 'revoked'")
            .await,
        std::slice::from_ref(&given)
    );
    assert_eq!(
        world
            .column("SELECT id FROM delegation_edges WHERE status = 'active'")
            .await,
        [unrelated]
    );
    let dead_records = "SELECT id FROM authority_records WHERE revoked_at IS NOT NULL";
    assert!(
        world.column(dead_records).await.is_empty(),
        "the application keeps its own authority"
    );
    let mut logged = world
        .column("SELECT kind || ' ' || anchor_id FROM revocation_log")
        .await;
    logged.sort();
    let mut expected = vec![
        format!("delegation {given}"),
        format!("session {root}"),
        format!("session {child}"),
    ];
    expected.sort();
    assert_eq!(logged, expected);

    let bus = &world.bus;
    wait_until(Duration::from_secs(10), async || {
        let news = bus
            .read(&[(SESSIONS_REVOKE, EntryId::ZERO)], 100, Duration::ZERO)
            .await
            .unwrap();
        news.iter().map(|(_, entries)| entries.len()).sum::<usize>() == 3
    })
    .await;
    let news = bus
        .read(&[(SESSIONS_REVOKE, EntryId::ZERO)], 100, Duration::ZERO)
        .await
        .unwrap();
    for entry in news.iter().flat_map(|(_, entries)| entries) {
        let message = SessionsRevoke::from_fields(&entry.fields).unwrap();
        assert_eq!(
            message.session_id, None,
            "no message names the application's record"
        );
        assert_eq!(
            message.anchors().len(),
            1,
            "each message names one thing: {message:?}"
        );
    }
}

#[tokio::test]
async fn a_session_whose_time_ran_out_is_swept_with_its_children() {
    let world = World::start_with(&[("TTL_SWEEP_INTERVAL_MS", "100")]).await;
    let root = world.session("app-a", &json!({})).await;
    let child = world
        .session("app-a", &json!({"parent_id": root, "ttl_seconds": 86_400}))
        .await;
    world
        .run(
            "UPDATE sessions SET started_at = now() - interval '2 hours' WHERE id = $1",
            &root,
        )
        .await;
    wait_until(Duration::from_secs(10), async || {
        world.column("SELECT anchor_id FROM revocation_log").await.len() == 2
    })
    .await;
    let statuses = world
        .column("SELECT id || ' ' || status || ' ' || termination_reason FROM sessions ORDER BY depth")
        .await;
    assert_eq!(
        statuses,
        [format!("{root} expired ttl"), format!("{child} terminated ttl")]
    );
}
