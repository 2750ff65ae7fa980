//! Everything at once: starts, ends, delegations and revocations of one zone take their locks in one order.

use std::sync::Arc;

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_changes_of_one_tree_never_stop_each_other() {
    let world = Arc::new(World::start().await);
    let a = world.session("app-a", &json!({})).await;
    let b = world.session("app-b", &json!({})).await;
    let edge = world.edge(("app-a", &a), ("app-b", &b), &json!({})).await;
    let mut running = Vec::new();
    for turn in 0..4 {
        let (world, a, b, edge) = (Arc::clone(&world), a.clone(), b.clone(), edge.clone());
        running.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..4 {
                // A child that inherits, what it passes on, and the end of both.
                let child = world
                    .try_session("app-b", &json!({"parent_id": b, "inherit_parent_edge_id": edge}))
                    .await;
                statuses.push(child.status);
                if child.status == 201 {
                    let id = child.text_of("agent_session_id");
                    let again = world.delegate(("app-a", &a), ("app-b", &id), &json!({})).await;
                    statuses.push(again.status);
                    if again.status == 201 && turn % 2 == 0 {
                        let path = format!(
                            "/zones/zone-1/delegations/{}/revoke",
                            again.text_of("delegation_edge_id")
                        );
                        statuses.push(world.operator().patch(&path, &json!({})).await.status);
                    }
                    statuses.push(
                        world
                            .app("app-b")
                            .delete(&format!("/zones/zone-1/agents/{id}"))
                            .await
                            .status,
                    );
                }
                if turn == 3 {
                    // The parent's other children come and go meanwhile.
                    let other = world.session("app-a", &json!({"parent_id": a})).await;
                    let path = format!("/zones/zone-1/agents/{other}");
                    statuses.push(world.app("app-a").delete(&path).await.status);
                }
            }
            statuses
        }));
    }
    for task in running {
        let statuses = task.await.unwrap();
        assert!(statuses.iter().all(|status| *status < 300), "{statuses:?}");
    }
    let counts = world
        .column("SELECT child_count::text FROM sessions WHERE status = 'active' ORDER BY id")
        .await;
    assert_eq!(counts, ["0", "0"], "every place came back");
    let epochs =
        "SELECT payload_json ->> 'epoch' FROM caracal_outbox WHERE payload_json ->> 'event' = 'edge_create'";
    let mut epochs = world.column(epochs).await;
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 33, "each new delegation has an epoch of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_others_build_on_it_never_stops_them() {
    let world = World::start().await;
    let a = world.session("app-a", &json!({})).await;
    let c = world.session("app-c", &json!({})).await;
    for round in 0..12 {
        let victim = world.session("app-b", &json!({})).await;
        let edge = world.edge(("app-a", &a), ("app-b", &victim), &json!({})).await;
        let child = json!({"parent_id": victim});
        let onward = json!({"ttl_seconds": 60, "constraints": {"max_hops": 1}});
        let (revoke, end) = (
            format!("/zones/zone-1/delegations/{edge}/revoke"),
            format!("/zones/zone-1/agents/{victim}"),
        );
        let (issuer, owner) = (world.app("app-a"), world.app("app-b"));
        let nothing = json!({});
        let answers = tokio::join!(
            world.try_session("app-b", &child),
            world.delegate(("app-b", &victim), ("app-c", &c), &onward),
            world.delegate(("app-a", &a), ("app-b", &victim), &nothing),
            issuer.patch(&revoke, &nothing),
            world.try_session("app-b", &child),
            owner.delete(&end),
            world.delegate(("app-c", &c), ("app-b", &victim), &nothing),
        );
        let statuses = [
            answers.0.status,
            answers.1.status,
            answers.2.status,
            answers.3.status,
            answers.4.status,
            answers.5.status,
            answers.6.status,
        ];
        assert!(
            statuses.iter().all(|status| *status < 500),
            "round {round}: {statuses:?}"
        );
        assert_eq!(answers.5.status, 204);
    }
    let orphans = "SELECT e.id FROM delegation_edges e JOIN sessions s ON s.id IN (e.source_session_id, e.target_session_id)
        WHERE e.status = 'active' AND s.status <> 'active'";
    assert_eq!(world.column(orphans).await, Vec::<String>::new());
    let orphans = "SELECT c.id FROM sessions c JOIN sessions p ON p.id = c.parent_id WHERE c.status = 'active' AND p.status <> 'active'";
    assert_eq!(world.column(orphans).await, Vec::<String>::new());
}
