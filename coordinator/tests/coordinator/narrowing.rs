//! Authority only shrinks, whatever is asked in whatever order.

use serde_json::{Value, json};

use crate::world::World;

/// A small generator (Knuth's MMIX constants), so that a failing run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// A delegation that was made, with what was asked for.
struct Made {
    id: String,
    target: String,
    body: Value,
}

/// What nobody passed on before, within what the resource declares.
fn fresh(dice: &mut Dice) -> Value {
    let mut constraints = json!({"max_hops": 2 + dice.below(6)});
    if dice.below(2) == 0 {
        constraints["resources"] = json!(["resource://crm", "resource://mail"]);
    }
    if dice.below(3) == 0 {
        constraints["budget"] = json!(2 + dice.below(3));
    }
    let mut body = json!({
        "scopes": ["crm:read", "crm:write", "crm:admin"], "ttl_seconds": 1800 + dice.below(10) * 60, "constraints": constraints,
    });
    if dice.below(2) == 0 || body["constraints"].get("resources").is_none() {
        body["resource_id"] = json!("res-crm");
    }
    body
}

/// What narrows `parent`.
fn narrower(dice: &mut Dice, parent: &Made) -> Value {
    let mut body = parent.body.clone();
    body["parent_edge_id"] = json!(parent.id);
    if let Some(scopes) = body["scopes"].as_array_mut() {
        scopes.retain(|_| dice.below(4) > 0);
    }
    let hops = body["constraints"]["max_hops"].as_u64().unwrap();
    body["constraints"]["max_hops"] = json!(hops.saturating_sub(1).max(1));
    body["ttl_seconds"] = json!(body["ttl_seconds"].as_u64().unwrap().saturating_sub(60).max(30));
    body
}

/// Goes beyond in one respect; which of them is refused is for the coordinator to find out.
fn widen(dice: &mut Dice, body: &mut Value) {
    match dice.below(8) {
        0 => body["scopes"] = json!(["crm:read", "crm:write", "crm:admin"]),
        1 => body["ttl_seconds"] = json!(3000),
        2 => body["expires_at"] = json!("2099-01-01T00:00:00Z"),
        3 => body["constraints"]["max_hops"] = json!(10),
        4 => body["constraints"]["resources"] = Value::Null,
        5 => body["constraints"]["resources"] = json!(["resource://mail", "resource://crm"]),
        6 => body["constraints"]["budget"] = json!(9),
        _ => body["parent_edge_id"] = Value::Null,
    }
}

fn request(dice: &mut Dice, from: (&str, &str), to: (&str, &str), received: &[&Made]) -> Value {
    let mut body = match received {
        [] => fresh(dice),
        some => {
            let parent = some[dice.below(some.len())];
            narrower(dice, parent)
        }
    };
    if dice.below(3) == 0 {
        widen(dice, &mut body);
    }
    let ends = json!({
        "source_session_id": from.1, "issuer_application_id": from.0, "target_session_id": to.1, "receiver_application_id": to.0,
    });
    crate::world::merged(body, &ends)
}

/// Each statement finds what must not exist.
const NEVER: [(&str, &str); 8] = [
    (
        "a live delegation under a dead one",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id WHERE c.status = 'active' AND p.status <> 'active'",
    ),
    (
        "more scopes than the parent",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id WHERE NOT c.scopes <@ p.scopes",
    ),
    (
        "a longer life than the parent",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id WHERE c.expires_at > p.expires_at",
    ),
    (
        "another resource than the parent's",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id WHERE p.resource_id IS NOT NULL AND c.resource_id IS DISTINCT FROM p.resource_id AND c.constraints_json -> 'resources' IS DISTINCT FROM (SELECT jsonb_build_array(identifier) FROM resources WHERE id = p.resource_id)",
    ),
    (
        "resources outside the parent's list",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id LEFT JOIN resources r ON r.id = c.resource_id WHERE p.constraints_json ? 'resources' AND NOT coalesce(c.constraints_json -> 'resources', jsonb_build_array(r.identifier)) <@ (p.constraints_json -> 'resources')",
    ),
    (
        "as many hops as the parent",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.id = c.parent_edge_id WHERE (c.constraints_json ->> 'max_hops')::int >= (p.constraints_json ->> 'max_hops')::int",
    ),
    (
        "a root from a session that had received something",
        "SELECT c.id FROM delegation_edges c JOIN delegation_edges p ON p.target_session_id = c.source_session_id AND p.created_at < c.created_at WHERE c.parent_edge_id IS NULL",
    ),
    (
        "a circle",
        "WITH RECURSIVE way (start, at) AS (SELECT source_session_id, target_session_id FROM delegation_edges WHERE status = 'active' UNION SELECT w.start, e.target_session_id FROM way w JOIN delegation_edges e ON e.source_session_id = w.at AND e.status = 'active') SELECT start FROM way WHERE start = at",
    ),
];

#[tokio::test]
async fn no_sequence_of_requests_widens_authority() {
    let mut derived = 0;
    for seed in [1, 2026, 77_777] {
        let world = World::start().await;
        let mut dice = Dice(seed);
        let mut sessions = Vec::new();
        for application in ["app-a", "app-b", "app-c", "app-a", "app-b", "app-c"] {
            sessions.push((application, world.session(application, &json!({})).await));
        }
        let mut made: Vec<Made> = Vec::new();
        for step in 0..80 {
            let (from, to) = (&sessions[dice.below(6)], &sessions[dice.below(6)]);
            if dice.below(12) == 0 && !made.is_empty() {
                let path = format!(
                    "/zones/zone-1/delegations/{}/revoke",
                    made[dice.below(made.len())].id
                );
                let status = world.operator().patch(&path, &json!({})).await.status;
                assert!(matches!(status, 200 | 404), "seed {seed}, step {step}: {status}");
                continue;
            }
            let received: Vec<&Made> = made.iter().filter(|edge| edge.target == from.1).collect();
            let body = request(&mut dice, (from.0, &from.1), (to.0, &to.1), &received);
            let answer = world.app(from.0).post("/zones/zone-1/delegations", &body).await;
            assert!(
                answer.status < 500,
                "seed {seed}, step {step}: {} for {body}",
                answer.text()
            );
            if answer.status == 201 {
                derived += usize::from(answer.json()["parent_edge_id"].is_string());
                made.push(Made {
                    id: answer.text_of("delegation_edge_id"),
                    target: to.1.clone(),
                    body,
                });
            }
        }
        for (what, statement) in NEVER {
            assert_eq!(
                world.column(statement).await,
                Vec::<String>::new(),
                "seed {seed}: {what}"
            );
        }
    }
    assert!(
        derived >= 10,
        "enough delegations must be passed on for this to mean something: {derived}"
    );
}
