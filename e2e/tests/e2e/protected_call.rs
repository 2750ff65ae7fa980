//! A protected call: the upstream sees its own credential and never the mandate, and the ledger tells what happened.

use caracal_testing::StackOptions;

use crate::world::{CREDENTIAL, RESOURCE, World, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_governed_call_carries_the_real_credential_and_leaves_decision_intent_and_outcome() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    let mandate = world.one_shot(&agent).await;
    let request_id = unique("governed");

    let answer = world
        .call()
        .mandate(&mandate)
        .request_id(&request_id)
        .send("/v1/contacts?limit=5&q=a%2Fb")
        .await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["x-request-id"], request_id.as_str());
    let seen = world.upstream.take_requests();
    assert_eq!(seen.len(), 1, "the upstream is called exactly once");
    assert_eq!(
        seen[0].header("x-upstream-key"),
        Some(CREDENTIAL),
        "the gateway shows the credential"
    );
    assert_eq!(
        seen[0].target, "/v1/contacts?limit=5&q=a%2Fb",
        "path and query go upstream byte for byte"
    );
    for (name, value) in &seen[0].headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        assert!(
            !value.contains(&mandate) && !value.contains("eyJ"),
            "the header {name} carries a mandate"
        );
        assert!(
            !name.as_str().starts_with("x-caracal-"),
            "the header {name} is ours and stays here"
        );
    }

    let events = world.evidence(&request_id, 3).await;
    let of = |kind: &str, status: &str| {
        events
            .iter()
            .find(|event| event["event_type"] == kind && event["evaluation_status"] == status)
            .unwrap_or_else(|| panic!("no {kind} {status} in {events:#?}"))
    };
    let decision = of("token_exchange", "complete");
    assert_eq!(decision["decision"], "allow");
    assert_eq!(
        decision["determining_policies_json"][0]["policy"],
        "caracal-agent-use"
    );
    of("gateway_resource_request", "forwarding");
    let outcome = of("gateway_resource_request", "executed");
    assert_eq!(outcome["metadata_json"]["resource"], RESOURCE);
    assert_eq!(outcome["metadata_json"]["upstream_status"], 200);
    world.assert_chain_verifies().await;

    let by_request = world
        .stack
        .admin()
        .get(&world.path(&format!("/audit/by-request/{request_id}")))
        .await
        .expect(200);
    assert_eq!(
        by_request.as_array().map(Vec::len),
        Some(3),
        "the admin API tells the same: {by_request}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reusable_mandate_works_where_a_binding_names_its_client_and_nowhere_else() {
    let world = World::start(StackOptions::default()).await;
    let mandate = world.reusable().await;

    let unbound = world.call().mandate(&mandate).send("/").await;
    assert_eq!(
        (unbound.status, unbound.text_of("error").as_str()),
        (401, "invalid_token"),
        "no binding: {}",
        unbound.text()
    );

    world.bind().await;
    caracal_testing::wait_until(crate::world::SOON, async || {
        world.call().mandate(&mandate).send("/").await.status == 200
    })
    .await;
    for round in 0..3 {
        let again = world.call().mandate(&mandate).send(&format!("/{round}")).await;
        assert_eq!(
            again.status,
            200,
            "a reusable mandate is used again: {}",
            again.text()
        );
    }
    assert!(world.upstream.take_requests().len() >= 4);
}
