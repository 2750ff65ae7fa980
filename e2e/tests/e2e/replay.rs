//! A one-shot mandate passes once: at one gateway, and at two at once.

use caracal_testing::{Service, StackOptions, wait_until};
use futures_util::StreamExt;
use futures_util::stream::iter;

use crate::world::{SOON, World, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_a_hundred_uses_at_two_gateways_passes() {
    let world = World::start(StackOptions {
        gateways: 2,
        ..StackOptions::default()
    })
    .await;
    let agent = world.agent().await;

    let first = world.one_shot(&agent).await;
    assert_eq!(world.call().mandate(&first).send("/once").await.status, 200);
    let request_id = unique("replayed");
    let again = world
        .call()
        .mandate(&first)
        .request_id(&request_id)
        .send("/once")
        .await;
    assert_eq!(
        (again.status, again.text_of("error").as_str()),
        (401, "invalid_token"),
        "{}",
        again.text()
    );
    assert_eq!(again.text_of("error_description"), "token replay detected");
    let elsewhere = world.call_through(1).mandate(&first).send("/once").await;
    assert_eq!(
        elsewhere.status,
        401,
        "the other gateway knows too: {}",
        elsewhere.text()
    );
    let events = world.evidence(&request_id, 1).await;
    assert!(
        events
            .iter()
            .any(|event| event["event_type"] == "replay_detected" && event["decision"] == "deny"),
        "{events:#?}"
    );
    assert_eq!(world.upstream.take_requests().len(), 1);

    for _round in 0..3 {
        let mandate = world.one_shot(&agent).await;
        let uses = (0..100).map(|index| world.call_through(index % 2).mandate(&mandate).send("/race"));
        let answers = futures_util::future::join_all(uses).await;
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        let refused = answers.iter().filter(|answer| answer.status == 401).count();
        assert_eq!(
            (passed, refused),
            (1, 99),
            "{:?}",
            answers.iter().map(|answer| answer.status).collect::<Vec<_>>()
        );
        assert_eq!(
            world.upstream.take_requests().len(),
            1,
            "the upstream hears of the one use only"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burned_mandate_stays_burned_when_redis_loses_its_memory() {
    let world = World::start(StackOptions {
        gateways: 2,
        ..StackOptions::default()
    })
    .await;
    let agent = world.agent().await;
    let burned = world.one_shot(&agent).await;
    assert_eq!(world.call().mandate(&burned).send("/once").await.status, 200);

    world.stack.redis.as_ref().unwrap().empty().await;
    let undecided = world.call_through(1).mandate(&burned).send("/once").await;
    assert_eq!(undecided.status, 503, "{}", undecided.text());
    wait_until(SOON, async || {
        let fresh = world.one_shot(&agent).await;
        world.call_through(1).mandate(&fresh).send("/fresh").await.status == 200
    })
    .await;
    let late = world.call_through(1).mandate(&burned).send("/once").await;
    assert_ne!(late.status, 200, "{}", late.text());
    let uses = world.upstream.take_requests();
    assert_eq!(
        uses.iter().filter(|request| request.target == "/once").count(),
        1,
        "the upstream heard of the one use only"
    );
}

/// Mandates of the following test. `./x bench replay` does the same with ten thousand.
const MANDATES: usize = 2_000;
/// How many are presented at the same time.
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_thousand_mandates_presented_to_both_gateways_at_once_each_passes_exactly_once() {
    let options = StackOptions {
        gateways: 2,
        ..StackOptions::default()
    };
    let world = World::start(options.set_for(Service::Sts, "STS_MINT_RATE_LIMIT_PER_MIN", "1000000")).await;
    let agent = world.agent().await;
    let present = async || {
        let mandate = world.one_shot(&agent).await;
        let [one, other] = [0, 1].map(|gateway| world.call_through(gateway).mandate(&mandate).send("/once"));
        let (one, other) = tokio::join!(one, other);
        (one.status, other.status)
    };
    let outcomes: Vec<(u16, u16)> = iter((0..MANDATES).map(|_mandate| present()))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let wrong: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !matches!(outcome, (200, 401) | (401, 200)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        outcomes.contains(&(200, 401)) && outcomes.contains(&(401, 200)),
        "both gateways were first at times"
    );
    assert_eq!(world.upstream.take_requests().len(), MANDATES);
}
