//! A revocation reaches everything below it: mandates in hand, and responses that are open.

use std::time::Duration;

use bytes::Bytes;
use caracal_testing::{Behaviour, StackOptions, wait_until};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::world::{RESOURCE, SOON, World};

/// Waits until the gateway knows of more than the `known` revocations, and calls with fresh copies of one authority until it
/// refuses it; gives that answer. The STS may hear of the revocation a moment earlier and refuse the exchange instead; either
/// way nothing passes any more.
async fn until_refused(world: &World, known: i64, mandates: &mut Vec<String>) -> caracal_testing::Answer {
    // Waited for without calls: each uses up a mandate, and refusals of one source are recorded a few times a second only.
    wait_until(SOON, async || world.revocations_known().await > known).await;
    let (request_id, answer) = caracal_testing::wait_for(SOON, async || {
        let mandate = mandates.pop().expect("enough mandates minted before");
        let request_id = crate::world::unique("revoked");
        let answer = world
            .call()
            .mandate(&mandate)
            .request_id(&request_id)
            .send("/")
            .await;
        assert!([200, 401, 403].contains(&answer.status), "{}", answer.text());
        (answer.status == 401).then_some((request_id, answer))
    })
    .await;
    // A revocation that arrives once the call has been admitted ends it instead of denying it.
    world
        .event_in(&world.zone, &request_id, |event| {
            event["decision"] == "deny" || event["evaluation_status"] == "interrupted"
        })
        .await;
    answer
}

async fn minted(world: &World, agent: &crate::world::Agent, count: usize) -> Vec<String> {
    let mut mandates = Vec::new();
    for _ in 0..count {
        mandates.push(world.one_shot(agent).await);
    }
    mandates
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_session_delegation_or_record_stops_its_mandates() {
    let world = World::start(StackOptions::default()).await;
    let zone = &world.zone;

    let agent = world.agent().await;
    let mut mandates = minted(&world, &agent, 10).await;
    let known = world.revocations_known().await;
    let coordinator = world.stack.coordinator_as(&agent.lifecycle);
    assert_eq!(
        coordinator
            .delete(&format!("/zones/{zone}/agents/{}", agent.session))
            .await
            .status,
        204
    );
    let refused = until_refused(&world, known, &mut mandates).await;
    assert_eq!(
        (refused.status, refused.text_of("error_description").as_str()),
        (401, "session revoked"),
        "{}",
        refused.text()
    );
    let mint = [
        ("resource", RESOURCE),
        ("scope", "crm:read"),
        ("agent_session_id", &agent.session),
        ("delegation_edge_id", &agent.delegation),
    ];
    assert_eq!(
        world.tokens.exchange(&mint).await.status,
        403,
        "nothing new is minted for an ended session"
    );

    let agent = world.agent().await;
    let mut mandates = minted(&world, &agent, 10).await;
    let known = world.revocations_known().await;
    let coordinator = world.stack.coordinator_as(&agent.lifecycle);
    let revoked = coordinator
        .patch(
            &format!("/zones/{zone}/delegations/{}/revoke", agent.delegation),
            &json!({}),
        )
        .await
        .expect(200);
    assert_eq!(revoked["revoked_edges"], 1);
    let refused = until_refused(&world, known, &mut mandates).await;
    assert_eq!(
        (refused.status, refused.text_of("error").as_str()),
        (401, "invalid_token"),
        "{}",
        refused.text()
    );
    let again = coordinator
        .post(
            &format!("/zones/{zone}/agents"),
            &json!({"application_id": world.application, "labels": ["reader"]}),
        )
        .await;
    assert_eq!(
        again.status,
        201,
        "the application itself goes on: {}",
        again.text()
    );

    let agent = world.agent().await;
    let mut mandates = minted(&world, &agent, 10).await;
    let known = world.revocations_known().await;
    let record = caracal_token::UnverifiedToken::parse(&agent.lifecycle)
        .unwrap()
        .unverified_claims()
        .sid
        .to_string();
    let path = world.path(&format!("/authority-records/{record}/revoke"));
    let revoked = world.stack.admin().post(&path, &json!({"reason": "test"})).await;
    assert!(revoked.status < 300, "{}", revoked.text());
    let refused = until_refused(&world, known, &mut mandates).await;
    assert_eq!(
        (refused.status, refused.text_of("error").as_str()),
        (401, "invalid_token"),
        "{}",
        refused.text()
    );
    let coordinator = world.stack.coordinator_as(&agent.lifecycle);
    let identity = coordinator
        .post(
            &format!("/zones/{zone}/agents"),
            &json!({"application_id": world.application}),
        )
        .await;
    assert_eq!(
        (identity.status, identity.text_of("error").as_str()),
        (401, "identity_revoked"),
        "{}",
        identity.text()
    );
    world.assert_chain_verifies().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_session_cuts_its_open_event_stream_and_no_other() {
    let world = World::start(StackOptions::default()).await;
    world.upstream.set(Behaviour::Sse(Duration::from_millis(50)));
    let (ended, kept) = (world.agent().await, world.agent().await);
    let mut doomed = open(&world, &world.one_shot(&ended).await).await;
    let mut living = open(&world, &world.one_shot(&kept).await).await;
    assert!(
        doomed.frame().await.is_some() && living.frame().await.is_some(),
        "both streams flow"
    );

    let coordinator = world.stack.coordinator_as(&ended.lifecycle);
    assert_eq!(
        coordinator
            .delete(&format!("/zones/{}/agents/{}", world.zone, ended.session))
            .await
            .status,
        204
    );
    let answered = std::time::Instant::now();
    let cut = tokio::time::timeout(SOON, async {
        while matches!(doomed.frame().await, Some(Ok(_))) {}
    })
    .await;
    assert!(cut.is_ok(), "the stream of the ended session is still open");
    println!(
        "stream cut {:?} after the session's end was answered",
        answered.elapsed()
    );

    for _ in 0..5 {
        assert!(
            matches!(living.frame().await, Some(Ok(_))),
            "the other session's stream goes on"
        );
    }
    wait_until(SOON, async || world.upstream.open_streams() == 1).await;
}

async fn open(world: &World, mandate: &str) -> hyper::body::Incoming {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("{}/events", world.stack.gateway_url()))
        .header("authorization", format!("Bearer {mandate}"))
        .header("x-caracal-resource", RESOURCE)
        .body(Empty::new())
        .unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body()
}
