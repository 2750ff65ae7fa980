//! The configuration of a zone changes a hundred times a second while its agents call: no call fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use caracal_testing::{Behaviour, Service, StackOptions, Upstream, wait_until};
use futures_util::future::join_all;
use serde_json::json;

use crate::world::{READ, SOON, World, text, unique};

/// Changes in all, by so many administrators at once, each at this pace: about a hundred a second where the machine can.
const CHANGES: usize = 300;
const ADMINISTRATORS: usize = 5;
const PACE: Duration = Duration::from_millis(50);
/// Agents that call all the while.
const CALLERS: usize = 3;

/// Renames, rescopes and moves resources of the zone, each of which makes a new version of it.
async fn change(world: &World, elsewhere: &Upstream, changed: &AtomicUsize) {
    let admin = world.stack.admin();
    let mut pace = tokio::time::interval(PACE);
    let resources = world.path("/resources");
    let called = admin
        .get(&format!("{resources}/{}", world.resource))
        .await
        .expect(200);
    let own = json!({
        "name": unique("R"), "identifier": unique("resource://r"), "scopes": [READ],
        "credential_provider_id": called["credential_provider_id"], "upstream_url": world.upstream.url(),
    });
    let resource = text(&admin.post(&resources, &own).await.expect(201), "id");
    let path = format!("{resources}/{resource}");
    loop {
        pace.tick().await;
        let number = changed.fetch_add(1, Ordering::SeqCst);
        if number >= CHANGES {
            return;
        }
        let patch = match number % 2 {
            0 => json!({"name": unique("R")}),
            _ => json!({"scopes": [READ, format!("r:{number}")]}),
        };
        let path = if number.is_multiple_of(5) {
            // The resource that is called.
            world.path(&format!("/resources/{}", world.resource))
        } else {
            path.clone()
        };
        let patch = if number.is_multiple_of(5) {
            let urls = [world.upstream.url(), elsewhere.url()];
            json!({"name": unique("CRM"), "upstream_url": urls[number % 2]})
        } else {
            patch
        };
        admin.patch(&path, &patch).await.expect(200);
    }
}

/// What the last change of the resource that is called says holds, and nothing older comes back.
async fn assert_the_last_change_holds(world: &World, elsewhere: &Upstream, mandate: &str) {
    let resource = world.path(&format!("/resources/{}", world.resource));
    let resource = world.stack.admin().get(&resource).await.expect(200);
    let (last, other) = if resource["upstream_url"] == elsewhere.url() {
        (elsewhere, &world.upstream)
    } else {
        assert_eq!(resource["upstream_url"], world.upstream.url());
        (&world.upstream, elsewhere)
    };
    let arrives = async || {
        last.take_requests();
        other.take_requests();
        let answer = world.call().mandate(mandate).send("/v1/last").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        last.take_requests().len() == 1 && other.take_requests().is_empty()
    };
    wait_until(SOON, arrives).await;
    for _call in 0..20 {
        assert!(arrives().await, "an older configuration came back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_the_zone_changes_a_hundred_times_a_second() {
    let options = StackOptions::default()
        .set_for(Service::Control, "API_V1_RATE_LIMIT_PER_MIN", "0")
        .set_for(Service::Sts, "STS_MINT_RATE_LIMIT_PER_MIN", "1000000");
    let world = World::start(options).await;
    world.bind().await;
    let mandate = world.reusable().await;
    wait_until(SOON, async || {
        world.call().mandate(&mandate).send("/").await.status == 200
    })
    .await;
    let elsewhere = Upstream::start(Behaviour::Echo).await;
    let (changed, calls, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let call = async || {
        while !is_over.load(Ordering::SeqCst) {
            let answer = world.call().mandate(&mandate).send("/v1/contacts").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    let changes = async {
        join_all((0..ADMINISTRATORS).map(|_| change(&world, &elsewhere, &changed))).await;
        is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(changes, join_all((0..CALLERS).map(|_| call())));
    assert!(
        calls.load(Ordering::SeqCst) > CALLERS,
        "there were calls during the changes"
    );
    assert_the_last_change_holds(&world, &elsewhere, &mandate).await;
}
