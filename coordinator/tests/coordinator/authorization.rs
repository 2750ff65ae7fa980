//! Who may call what.

use caracal_chassis::Clock;
use caracal_testing::{Api, Mandate};
use http::Method;
use serde_json::{Value, json};

use crate::world::{World, mandate, refused};

struct Route {
    method: Method,
    path: String,
    body: Value,
}

/// Every route, about a session and a delegation of app-a; the reads of delegations about the receiver, app-b.
fn routes(source: &str, target: &str, edge: &str) -> Vec<Route> {
    let route = |method: Method, path: String, body: Value| Route { method, path, body };
    let delegation = json!({
        "source_session_id": source, "issuer_application_id": "app-a", "target_session_id": target,
        "receiver_application_id": "app-b", "resource_id": "res-crm", "scopes": ["crm:read"], "ttl_seconds": 60,
    });
    let none = json!({});
    vec![
        route(
            Method::POST,
            "/agents".to_owned(),
            json!({"application_id": "app-a"}),
        ),
        route(Method::POST, "/delegations".to_owned(), delegation),
        route(Method::GET, format!("/agents/{source}"), none.clone()),
        route(
            Method::GET,
            format!("/delegations/inbound/{target}"),
            none.clone(),
        ),
        route(
            Method::GET,
            format!("/delegations/inbound/{target}/{edge}"),
            none.clone(),
        ),
        route(Method::PATCH, format!("/delegations/{edge}/revoke"), none.clone()),
        route(Method::DELETE, format!("/agents/{source}"), none),
    ]
}

async fn call(api: &Api, route: &Route) -> (u16, String) {
    let body = (route.method != Method::GET).then_some(&route.body);
    let answer = api
        .send(
            route.method.clone(),
            &format!("/zones/zone-1{}", route.path),
            body,
        )
        .await;
    (
        answer.status,
        answer.json()["error"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn every_route_refuses_whoever_is_not_entitled() {
    let world = World::start().await;
    let (source, target) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let edge = world
        .edge(("app-a", &source), ("app-b", &target), &json!({}))
        .await;
    let ended = world.session("app-a", &json!({})).await;
    world
        .app("app-a")
        .delete(&format!("/zones/zone-1/agents/{ended}"))
        .await
        .expect(204);
    let now = Clock::system().unix_seconds();
    let app_a = || mandate("app-a");
    let signed = |mandate: Mandate| world.bearer(&mandate.sign(&world.keys));
    let anchored = |record: &str| app_a().anchored_in(record, record);
    let other_keys = caracal_testing::TestKeys::new();
    let callers = [
        ("nobody", world.api(None), 401, "missing_token"),
        ("an empty bearer", world.bearer(" "), 401, "missing_token"),
        (
            "a bearer of 17 KiB",
            world.bearer(&"x".repeat(17 << 10)),
            401,
            "missing_token",
        ),
        ("noise", world.bearer("a.b.c"), 401, "invalid_token"),
        (
            "a foreign key",
            world.bearer(&app_a().sign(&other_keys)),
            401,
            "invalid_token",
        ),
        (
            "an expired mandate",
            signed(app_a().issued(now - 1000, 900)),
            401,
            "invalid_token",
        ),
        (
            "another issuer",
            signed(app_a().issuer("http://evil.test")),
            401,
            "invalid_token",
        ),
        (
            "a one-shot mandate",
            signed(Mandate::gateway("zone-1", "app-a", now).scope("agent:lifecycle")),
            401,
            "invalid_token",
        ),
        (
            "a mandate that is bound to a key",
            signed(app_a().with(|claims| claims.cnf = Some(caracal_testing::ProofKey::new().confirmation()))),
            401,
            "invalid_token",
        ),
        (
            "another scope",
            signed(app_a().scope("crm:read")),
            403,
            "missing_scope",
        ),
        (
            "another zone",
            signed(
                Mandate::session("zone-2", "app-z2", now)
                    .scope("agent:lifecycle")
                    .anchored_in("record-app-z2", "record-app-z2"),
            ),
            403,
            "zone_mismatch",
        ),
        (
            "a revoked record",
            signed(anchored("record-revoked")),
            401,
            "identity_revoked",
        ),
        (
            "an expired record",
            signed(anchored("record-lapsed")),
            401,
            "identity_revoked",
        ),
        (
            "an unknown record",
            signed(anchored("record-none")),
            401,
            "identity_revoked",
        ),
        (
            "an archived application",
            world.app("app-gone"),
            401,
            "identity_revoked",
        ),
        (
            "an ended session",
            signed(app_a().with(|claims| claims.agent_session_id = Some(ended.parse().unwrap()))),
            401,
            "identity_revoked",
        ),
        (
            "another's session",
            signed(app_a().with(|claims| claims.agent_session_id = Some(target.parse().unwrap()))),
            401,
            "identity_revoked",
        ),
        (
            "an unknown delegation",
            signed(app_a().with(|claims| claims.delegation_edge_id = Some("none".parse().unwrap()))),
            401,
            "identity_revoked",
        ),
    ];
    for route in &routes(&source, &target, &edge) {
        for (who, api, status, code) in &callers {
            let got = call(api, route).await;
            assert_eq!(
                got,
                (*status, (*code).to_owned()),
                "{who} at {} {}",
                route.method,
                route.path
            );
        }
    }
}

#[tokio::test]
async fn applications_see_and_change_their_own_things_and_the_operator_sees_and_ends() {
    let world = World::start().await;
    let (source, target) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let edge = world
        .edge(("app-a", &source), ("app-b", &target), &json!({}))
        .await;
    let routes = routes(&source, &target, &edge);
    let stranger = world.app("app-c");
    let forbidden = [
        (403, "application_ownership_required"),
        (403, "issuer_ownership_required"),
        (404, "session_not_found"),
        (404, "session_not_found"),
        (404, "session_not_found"),
        (403, "issuer_ownership_required"),
        (403, "application_ownership_required"),
    ];
    for (route, (status, code)) in routes.iter().zip(forbidden) {
        assert_eq!(
            call(&stranger, route).await,
            (status, code.to_owned()),
            "{} {}",
            route.method,
            route.path
        );
    }
    let administrator = world.app_with("app-c", "agent:lifecycle coordinator.admin");
    for (api, refusals) in [
        (world.operator(), [(401, "invalid_token"), (401, "invalid_token")]),
        (
            administrator,
            [
                (403, "application_ownership_required"),
                (403, "issuer_ownership_required"),
            ],
        ),
    ] {
        let (source, target) = (
            world.session("app-a", &json!({})).await,
            world.session("app-b", &json!({})).await,
        );
        let edge = world
            .edge(("app-a", &source), ("app-b", &target), &json!({}))
            .await;
        let routes = self::routes(&source, &target, &edge);
        for (route, (status, code)) in routes.iter().zip(refusals) {
            assert_eq!(
                call(&api, route).await,
                (status, code.to_owned()),
                "{} {}",
                route.method,
                route.path
            );
        }
        let mut statuses = Vec::new();
        for route in routes.iter().skip(2) {
            statuses.push(call(&api, route).await.0);
        }
        assert_eq!(statuses, [200, 200, 200, 200, 204]);
    }
    let actors = world
        .column("SELECT DISTINCT actor_name FROM admin_audit_events ORDER BY 1")
        .await;
    assert_eq!(actors, ["app-a", "app-b", "app-c", "caracal-operator"]);
}

#[tokio::test]
async fn privileges_name_one_application() {
    let world = World::start().await;
    let body = json!({"application_id": "app-b"});
    let wrong = world.app_with("app-a", "agent:lifecycle coordinator.spawn_for:app-c");
    refused(
        &wrong.post("/zones/zone-1/agents", &body).await,
        403,
        "application_ownership_required",
    );
    let right = world.app_with("app-a", "agent:lifecycle coordinator.spawn_for:app-b");
    let started = right.post("/zones/zone-1/agents", &body).await;
    started.expect(201);
    let path = format!("/zones/zone-1/agents/{}", started.text_of("agent_session_id"));
    refused(&wrong.delete(&path).await, 403, "application_ownership_required");
    right.delete(&path).await.expect(204);
}
