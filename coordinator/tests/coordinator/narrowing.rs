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

fn request(dice: &mut Dice, from: (&str, &str), to: (&str, &str), edges: &[String]) -> Value {
    let all = ["crm:read", "crm:write", "crm:admin", "mail:send"];
    let scopes: Vec<&str> = all.into_iter().filter(|_| dice.below(3) > 0).collect();
    let mut constraints = json!({"max_hops": 1 + dice.below(5)});
    if dice.below(2) == 0 {
        constraints["resources"] = json!([["resource://crm"], ["resource://mail"]][dice.below(2)]);
    } else if dice.below(2) == 0 {
        constraints["resources"] = json!(["resource://crm", "resource://mail"]);
    }
    if dice.below(4) == 0 {
        constraints["budget"] = json!(1 + dice.below(3));
    }
    let mut body = json!({
        "source_session_id": from.1, "issuer_application_id": from.0, "target_session_id": to.1,
        "receiver_application_id": to.0, "scopes": scopes, "ttl_seconds": 60 + dice.below(10) * 60, "constraints": constraints,
    });
    if dice.below(3) > 0 {
        body["resource_id"] = json!(["res-crm", "resource://mail"][dice.below(2)]);
    }
    if !edges.is_empty() && dice.below(2) == 0 {
        body["parent_edge_id"] = json!(edges[dice.below(edges.len())]);
    }
    body
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
    let mut accepted = 0;
    for seed in [1, 2026, 77_777] {
        let world = World::start().await;
        let mut dice = Dice(seed);
        let mut sessions = Vec::new();
        for application in ["app-a", "app-b", "app-c", "app-a", "app-b", "app-c"] {
            sessions.push((application, world.session(application, &json!({})).await));
        }
        let mut edges: Vec<String> = Vec::new();
        for step in 0..45 {
            let (from, to) = (&sessions[dice.below(6)], &sessions[dice.below(6)]);
            if dice.below(9) == 0 && !edges.is_empty() {
                let path = format!(
                    "/zones/zone-1/delegations/{}/revoke",
                    edges[dice.below(edges.len())]
                );
                let status = world.operator().patch(&path, &json!({})).await.status;
                assert!(matches!(status, 200 | 404), "seed {seed}, step {step}: {status}");
                continue;
            }
            let body = request(&mut dice, (from.0, &from.1), (to.0, &to.1), &edges);
            let answer = world.app(from.0).post("/zones/zone-1/delegations", &body).await;
            assert!(
                answer.status < 500,
                "seed {seed}, step {step}: {} for {body}",
                answer.text()
            );
            if answer.status == 201 {
                accepted += 1;
                edges.push(answer.text_of("delegation_edge_id"));
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
        accepted > 20,
        "the requests must be likely enough to be accepted: {accepted}"
    );
}
