//! Passing authority on and taking it back.

use serde_json::{Value, json};

use crate::world::{World, refused};

#[tokio::test]
async fn a_delegation_says_what_it_gives_and_its_receiver_can_look_it_up() {
    let world = World::start().await;
    let (source, target) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let answer = world
        .delegate(
            ("app-a", &source),
            ("app-b", &target),
            &json!({"parent_edge_id": "ignored"}),
        )
        .await;
    let edge = answer.expect(201);
    assert_eq!(
        edge["resource_id"], "res-crm",
        "an identifier is stored as the row it names"
    );
    assert_eq!(
        (&edge["scopes"], &edge["status"]),
        (&json!(["crm:read"]), &json!("active"))
    );
    assert_eq!(
        edge["constraints_json"],
        json!({"max_hops": 3, "ttl_seconds": 3600})
    );
    assert_eq!(
        (&edge["parent_edge_id"], &edge["warnings"]),
        (&Value::Null, &json!([]))
    );
    assert_eq!(edge["allow_reason"][2], "source_authority_root");
    assert_eq!(edge["effective_authority"]["max_hops"], 3);
    let id = answer.text_of("delegation_edge_id");
    let receiver = world.app("app-b");
    let list = receiver
        .get(&format!("/zones/zone-1/delegations/inbound/{target}"))
        .await
        .expect(200);
    assert_eq!(
        (&list["items"][0]["id"], &list["next_cursor"]),
        (&json!(id), &Value::Null)
    );
    let one = receiver
        .get(&format!("/zones/zone-1/delegations/inbound/{target}/{id}"))
        .await
        .expect(200);
    assert_eq!((&one["id"], &one["status"]), (&json!(id), &json!("active")));
    assert!(one["expires_at"].is_string());
    let issuers = world
        .app("app-a")
        .get(&format!("/zones/zone-1/delegations/inbound/{source}/{id}"))
        .await;
    refused(&issuers, 404, "delegation_not_found");
    world
        .app("app-a")
        .patch(&format!("/zones/zone-1/delegations/{id}/revoke"), &json!({}))
        .await
        .expect(200);
    let gone = receiver
        .get(&format!("/zones/zone-1/delegations/inbound/{target}/{id}"))
        .await;
    refused(&gone, 404, "delegation_not_found");
}

#[tokio::test]
async fn the_list_of_what_a_session_received_is_paged() {
    let world = World::start().await;
    let target = world.session("app-b", &json!({})).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        let source = world.session("app-a", &json!({})).await;
        made.push(
            world
                .edge(("app-a", &source), ("app-b", &target), &json!({}))
                .await,
        );
    }
    let path = format!("/zones/zone-1/delegations/inbound/{target}");
    let app = world.app("app-b");
    let first = app.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!(
        (&first["items"][0]["id"], &first["items"][1]["id"]),
        (&json!(made[2]), &json!(made[1]))
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app
        .get(&format!("{path}?limit=2&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(
        (&rest["items"][0]["id"], &rest["next_cursor"]),
        (&json!(made[0]), &Value::Null)
    );
    refused(&app.get(&format!("{path}?limit=0")).await, 400, "invalid_query");
    refused(&app.get(&format!("{path}?limit=x")).await, 400, "invalid_query");
    refused(
        &app.get(&format!("{path}?cursor=%20")).await,
        400,
        "invalid_cursor",
    );
}

#[tokio::test]
async fn a_delegation_is_refused_for_the_first_rule_it_breaks() {
    let world = World::start().await;
    let (source, target) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    for (more, status, code) in [
        (json!({"source_session_id": "\u{0}"}), 400, "invalid_body"),
        (
            json!({"constraints": {"later": 1}}),
            400,
            "invalid_delegation_constraint",
        ),
        (json!({"constraints": {"max_hops": 11}}), 400, "invalid_max_hops"),
        (
            json!({"constraints": {"max_hops": 2, "max_depth": 3}}),
            400,
            "invalid_max_hops",
        ),
        (json!({"constraints": {"budget": 0}}), 400, "invalid_budget"),
        (json!({"ttl_seconds": 0}), 400, "invalid_ttl_seconds"),
        (json!({"ttl_seconds": null}), 400, "delegation_expiry_required"),
        (json!({"expires_at": "soon"}), 400, "invalid_expires_at"),
        (json!({"scopes": ["a b"]}), 400, "invalid_scopes"),
        (
            json!({"issuer_application_id": "app-b"}),
            403,
            "issuer_ownership_required",
        ),
        (
            json!({"target_session_id": source}),
            400,
            "self_delegation_denied",
        ),
        (
            json!({"resource_id": null}),
            403,
            "broad_delegation_permission_required",
        ),
        (
            json!({"target_session_id": "missing"}),
            404,
            "delegation_endpoint_not_found",
        ),
        (
            json!({"receiver_application_id": "app-c"}),
            409,
            "delegation_application_mismatch",
        ),
        (
            json!({"resource_id": "resource://none"}),
            404,
            "resource_not_found",
        ),
        (
            json!({"resource_id": "resource://old"}),
            404,
            "resource_not_found",
        ),
        (
            json!({"constraints": {"resources": ["resource://none"]}}),
            404,
            "resource_not_found",
        ),
        (
            json!({"constraints": {"resources": ["resource://mail"]}}),
            400,
            "delegation_resource_scope_mismatch",
        ),
        (
            json!({"scopes": ["mail:send"]}),
            403,
            "delegation_scopes_exceed_resource",
        ),
        (
            json!({"expires_at": "2020-01-01T00:00:00Z"}),
            400,
            "delegation_expired",
        ),
    ] {
        let answer = world
            .delegate(("app-a", &source), ("app-b", &target), &more)
            .await;
        refused(&answer, status, code);
    }
    assert!(
        world.column("SELECT id FROM delegation_edges").await.is_empty(),
        "a refusal stores nothing"
    );
    world
        .app("app-b")
        .delete(&format!("/zones/zone-1/agents/{target}"))
        .await
        .expect(204);
    let answer = world
        .delegate(("app-a", &source), ("app-b", &target), &json!({}))
        .await;
    refused(&answer, 404, "delegation_endpoint_not_found");
}

#[tokio::test]
async fn a_delegation_without_resource_needs_a_privilege_and_says_so() {
    let world = World::start().await;
    let (source, target) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let body = json!({
        "source_session_id": source, "issuer_application_id": "app-a", "target_session_id": target,
        "receiver_application_id": "app-b", "scopes": ["anything"], "ttl_seconds": 60,
    });
    let privileged = world.app_with("app-a", "agent:lifecycle coordinator.delegate_broad:app-a");
    let edge = privileged
        .post("/zones/zone-1/delegations", &body)
        .await
        .expect(201);
    assert_eq!(
        edge["warnings"],
        json!(["resource_null_delegation_broadens_resource_matching"])
    );
    assert_eq!(
        edge["constraints_json"]["broad_reason"],
        "resource_null_delegation"
    );
    assert_eq!(edge["constraints_json"]["policy_approved"], true);
    assert_eq!(edge["effective_authority"]["broad"], true);
}

#[tokio::test]
async fn each_narrowing_rule_is_enforced_under_a_parent() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let c = world.session("app-c", &json!({})).await;
    let parent = json!({
        "scopes": ["crm:read", "crm:write"], "ttl_seconds": 600,
        "constraints": {"max_hops": 3, "budget": 1, "resources": ["resource://crm"]},
    });
    let parent = world.edge(("app-a", &a), ("app-b", &b), &parent).await;
    let good = json!({"ttl_seconds": 60, "constraints": {"max_hops": 2, "budget": 1}});
    for (rule, more) in [
        ("scopes", json!({"scopes": ["crm:read", "crm:admin"]})),
        (
            "expiry",
            json!({"ttl_seconds": 60, "expires_at": "2100-01-01T00:00:00Z"}),
        ),
        ("resources", json!({"resource_id": "resource://mail"})),
        ("hops", json!({"constraints": {"max_hops": 3, "budget": 1}})),
        ("token lifetime", json!({"ttl_seconds": 601})),
        (
            "no token lifetime",
            json!({"ttl_seconds": null, "expires_at": "2020-01-01T00:00:00Z"}),
        ),
        ("budget", json!({"constraints": {"max_hops": 2, "budget": 2}})),
        (
            "budget by scopes",
            json!({"scopes": ["crm:read", "crm:write"], "constraints": {"max_hops": 2}}),
        ),
    ] {
        let answer = world
            .delegate(
                ("app-b", &b),
                ("app-c", &c),
                &crate::world::merged(good.clone(), &more),
            )
            .await;
        assert_eq!(
            answer.text_of("error"),
            "delegation_exceeds_parent_authority",
            "{rule}"
        );
        assert_eq!(answer.status, 403);
    }
    let named = crate::world::merged(good.clone(), &json!({"parent_edge_id": "another"}));
    refused(
        &world.delegate(("app-b", &b), ("app-c", &c), &named).await,
        403,
        "parent_delegation_not_active",
    );
    let child = world
        .delegate(("app-b", &b), ("app-c", &c), &good)
        .await
        .expect(201);
    assert_eq!(
        child["parent_edge_id"],
        json!(parent),
        "the only live one is the parent"
    );
    let back = json!({"ttl_seconds": 30, "constraints": {"max_hops": 1, "budget": 1}});
    refused(
        &world.delegate(("app-c", &c), ("app-a", &a), &back).await,
        409,
        "delegation_cycle_denied",
    );
}

#[tokio::test]
async fn losing_a_delegation_never_makes_a_session_a_root() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let c = world.session("app-c", &json!({})).await;
    let first = world.edge(("app-a", &a), ("app-b", &b), &json!({})).await;
    let second = world.edge(("app-c", &c), ("app-b", &b), &json!({})).await;
    let d = world.session("app-c", &json!({})).await;
    let narrow = json!({"ttl_seconds": 60, "constraints": {"max_hops": 1}});
    refused(
        &world.delegate(("app-b", &b), ("app-c", &d), &narrow).await,
        409,
        "parent_delegation_ambiguous",
    );
    let revoke = format!("/zones/zone-1/delegations/{first}/revoke");
    world.app("app-a").patch(&revoke, &json!({})).await.expect(200);
    world
        .run(
            "UPDATE delegation_edges SET expires_at = now() WHERE id = $1",
            &second,
        )
        .await;
    let refused_as_root = world.delegate(("app-b", &b), ("app-c", &d), &narrow).await;
    refused(&refused_as_root, 403, "parent_delegation_not_active");
    refused(
        &world.try_session("app-b", &json!({"parent_id": b})).await,
        409,
        "inherit_parent_edge_not_active",
    );
    // Not even when nobody remembers the delegations themselves.
    sqlx::query("DELETE FROM delegation_edges")
        .execute(&world.pool)
        .await
        .unwrap();
    let forgotten = world.delegate(("app-b", &b), ("app-c", &d), &narrow).await;
    refused(&forgotten, 403, "parent_delegation_not_active");
    refused(
        &world.try_session("app-b", &json!({"parent_id": b})).await,
        409,
        "inherit_parent_edge_not_active",
    );
    world
        .session("app-b", &json!({"parent_id": b, "parent_authority": "none"}))
        .await;
}

#[tokio::test]
async fn a_child_inherits_a_copy_of_what_its_parent_lives_on() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let plain = world
        .try_session("app-b", &json!({"parent_id": b}))
        .await
        .expect(201);
    assert_eq!(
        plain["delegation_edge_id"],
        Value::Null,
        "a parent without delegation passes none on"
    );
    let named = json!({"parent_id": b, "inherit_parent_edge_id": "nothing"});
    refused(
        &world.try_session("app-b", &named).await,
        409,
        "inherit_parent_edge_not_active",
    );

    let edge = world.edge(("app-a", &a), ("app-b", &b), &json!({})).await;
    let child = world.try_session("app-b", &json!({"parent_id": b})).await;
    child.expect(201);
    let child_id = child.text_of("agent_session_id");
    let copy = format!(
        "/zones/zone-1/delegations/inbound/{child_id}/{}",
        child.text_of("delegation_edge_id")
    );
    let copy = world.app("app-b").get(&copy).await.expect(200);
    assert_eq!(
        (&copy["parent_edge_id"], &copy["source_session_id"]),
        (&json!(edge), &json!(b))
    );
    assert_eq!(
        (&copy["scopes"], &copy["resource_id"]),
        (&json!(["crm:read"]), &json!("res-crm"))
    );
    assert_eq!(copy["constraints_json"]["max_hops"], 2, "the copy is a hop");
    let spawner = world.app_with("app-c", "agent:lifecycle coordinator.spawn_under:app-b");
    let other = json!({"application_id": "app-c", "parent_id": b});
    let other = spawner.post("/zones/zone-1/agents", &other).await.expect(201);
    assert_eq!(
        other["delegation_edge_id"],
        Value::Null,
        "another application has its own authority"
    );
    let none = world
        .try_session("app-b", &json!({"parent_id": b, "parent_authority": "none"}))
        .await
        .expect(201);
    assert_eq!(none["delegation_edge_id"], Value::Null);

    let second = world.edge(("app-a", &a), ("app-b", &b), &json!({})).await;
    refused(
        &world.try_session("app-b", &json!({"parent_id": b})).await,
        409,
        "inherit_parent_edge_ambiguous",
    );
    let named = world
        .try_session(
            "app-b",
            &json!({"parent_id": b, "inherit_parent_edge_id": second}),
        )
        .await;
    named.expect(201);
    let revoke = format!("/zones/zone-1/delegations/{second}/revoke");
    let revoked = world.app("app-a").patch(&revoke, &json!({})).await.expect(200);
    assert_eq!(revoked["revoked_edges"], 2, "the copy goes with its original");
}

#[tokio::test]
async fn a_child_of_a_session_that_may_not_pass_on_starts_bound_by_the_same_limit() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    world
        .edge(
            ("app-a", &a),
            ("app-b", &b),
            &json!({"constraints": {"max_hops": 1}}),
        )
        .await;
    let child = world.try_session("app-b", &json!({"parent_id": b})).await;
    child.expect(201);
    child.text_of("delegation_edge_id");
    let child = child.text_of("agent_session_id");
    let c = world.session("app-c", &json!({})).await;
    let onward = json!({"ttl_seconds": 60, "constraints": {"max_hops": 1}});
    refused(
        &world.delegate(("app-b", &child), ("app-c", &c), &onward).await,
        403,
        "delegation_exceeds_parent_authority",
    );
}

#[tokio::test]
async fn revoking_takes_what_was_narrowed_from_it_and_nothing_else() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let (c, d) = (
        world.session("app-c", &json!({})).await,
        world.session("app-a", &json!({})).await,
    );
    let root = world.edge(("app-a", &a), ("app-b", &b), &json!({})).await;
    let below = json!({"ttl_seconds": 60, "constraints": {"max_hops": 2}});
    let narrowed = world.edge(("app-b", &b), ("app-c", &c), &below).await;
    let beside = world.edge(("app-a", &d), ("app-c", &c), &json!({})).await;
    let path = format!("/zones/zone-1/delegations/{root}/revoke");
    refused(
        &world.app("app-b").patch(&path, &json!({})).await,
        403,
        "issuer_ownership_required",
    );
    let answer = world.app("app-a").patch(&path, &json!({})).await.expect(200);
    assert_eq!(
        (&answer["revoked_edges"], &answer["affected_sessions"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(answer["terminated_sessions"], 0);
    refused(
        &world.app("app-a").patch(&path, &json!({})).await,
        404,
        "delegation_not_found",
    );

    let active = world
        .column("SELECT id FROM delegation_edges WHERE status = 'active'")
        .await;
    assert_eq!(active, [beside]);
    assert_eq!(
        world
            .column("SELECT id FROM sessions WHERE status = 'active'")
            .await
            .len(),
        4
    );
    let mut gone = vec![root, narrowed];
    gone.sort();
    let mut logged = world
        .column("SELECT anchor_id FROM revocation_log WHERE kind = 'delegation'")
        .await;
    logged.sort();
    assert_eq!(logged, gone);
    assert_eq!(
        world.column("SELECT anchor_id FROM revocation_log").await.len(),
        2
    );
    let revokes = "SELECT payload_json ->> 'delegation_edge_id' FROM caracal_outbox WHERE topic = 'caracal.sessions.revoke' ORDER BY 1";
    assert_eq!(world.column(revokes).await, gone);
    let named = "SELECT id FROM caracal_outbox WHERE topic = 'caracal.sessions.revoke' AND (payload_json ? 'session_id' OR payload_json ? 'agent_session_id')";
    assert!(
        world.column(named).await.is_empty(),
        "neither a record nor a session is revoked"
    );
    let graph = "SELECT payload_json ->> 'edge_id' FROM caracal_outbox WHERE topic = 'caracal.delegations.invalidate' AND payload_json ->> 'event' = 'edge_revoke' ORDER BY 1";
    assert_eq!(world.column(graph).await, gone);
    let epochs = world.column("SELECT payload_json ->> 'epoch' FROM caracal_outbox WHERE topic = 'caracal.delegations.invalidate' ORDER BY position").await;
    assert_eq!(
        epochs,
        ["1", "2", "3", "4", "4"],
        "the epoch only grows, and one cascade is one step"
    );
}
