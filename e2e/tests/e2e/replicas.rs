//! Two token services behind one gateway: one may die under load, and each follows what is changed at the other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use caracal_testing::{Api, Process, Service, StackOptions, TokenClient, wait_until};
use caracal_token::UnverifiedToken;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::cost::labelled;
use crate::world::{Agent, READ, RESOURCE, SOON, World, activate_in, text};

/// Agents that call at the same time.
const CALLERS: usize = 8;
/// Calls that must pass before the kill, and with one replica gone.
const CALLS: usize = 60;

fn two() -> StackOptions {
    StackOptions {
        sts_replicas: 2,
        ..StackOptions::default()
    }
    // Callers of a test mint more than agents do.
    .set_for(Service::Sts, "STS_MINT_RATE_LIMIT_PER_MIN", "1000000")
}

/// What became of one call.
#[derive(Debug)]
struct Outcome {
    began: Instant,
    ended: Instant,
    status: u16,
}

/// Callers that call until they are told to stop, and what they saw.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    passed: AtomicUsize,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Load {
    async fn call(&self, world: &World, agent: &Agent) {
        while !self.stop.load(Ordering::SeqCst) {
            let mandate = world.one_shot(agent).await;
            let began = Instant::now();
            let answer = world.call().mandate(&mandate).try_send("/").await;
            let status = answer.map_or(0, |answer| answer.status);
            self.passed
                .fetch_add(usize::from(status == 200), Ordering::SeqCst);
            let ended = Instant::now();
            self.outcomes
                .lock()
                .unwrap()
                .push(Outcome { began, ended, status });
        }
    }

    /// Waits for more calls that pass.
    async fn more(&self, count: usize) {
        let goal = self.passed.load(Ordering::SeqCst) + count;
        wait_until(3 * SOON, async || self.passed.load(Ordering::SeqCst) >= goal).await;
    }
}

/// Resource mandates a replica has minted since its start: exchanges of the gateway.
async fn exchanges(world: &World, replica: &Process) -> i64 {
    let metrics = world.stack.metrics(replica).await;
    labelled(&metrics["sts"]["mandates"], "use", "resource")
}

/// What is asserted: a call that failed was in flight while the process was being killed, that is, it began before the process was
/// gone and ended after the signal. A call that began later cannot be excused by the kill. (Most of those in flight pass as
/// well: their connection was closed without an answer, so they are sent once more.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_service_killed_under_load_fails_no_call_beyond_those_in_flight() {
    let mut world = World::start(two()).await;
    let agent = world.agent().await;
    // Taken out, so that the world can be called while it is killed; the mandates come from the other one.
    let mut victim = world.stack.sts.pop().unwrap();
    let load = Load::default();
    let (world, agent, load) = (&world, &agent, &load);
    let callers = join_all((0..CALLERS).map(|_caller| load.call(world, agent)));
    let kill = async {
        load.more(CALLS).await;
        assert!(exchanges(world, &victim).await > 0, "both replicas work");
        let killed = Instant::now();
        victim.kill9();
        let gone = Instant::now();
        load.more(CALLS).await;
        load.stop.store(true, Ordering::SeqCst);
        (killed, gone)
    };
    let ((killed, gone), _ended) = tokio::join!(kill, callers);

    let outcomes = std::mem::take(&mut *load.outcomes.lock().unwrap());
    let in_flight = |call: &&Outcome| call.began < gone && call.ended > killed;
    let in_flight_count = outcomes.iter().filter(in_flight).count();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|call| call.status != 200).collect();
    assert!(
        failed.iter().all(in_flight) && failed.len() <= in_flight_count,
        "killed at {killed:?}, gone at {gone:?}: {failed:?}"
    );

    // Back again: it is used again, and its return fails nothing either.
    victim.restart().await;
    wait_until(3 * SOON, async || {
        let answer = world.call().mandate(&world.one_shot(agent).await).send("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        exchanges(world, &victim).await > 0
    })
    .await;
}

/// The world's application at each of the replicas.
fn at_each(world: &World) -> [TokenClient; 2] {
    [0, 1].map(|replica| world.tokens.clone().at(world.stack.sts[replica].base_url()))
}

/// Waits until every replica answers this exchange with `status`.
async fn until_everywhere(replicas: &[TokenClient], fields: &[(&str, &str)], status: u16) {
    for replica in replicas {
        wait_until(SOON, async || replica.exchange(fields).await.status == status).await;
    }
}

async fn key_ids(world: &World, replica: usize) -> Vec<String> {
    let path = format!("/.well-known/jwks.json?zone_id={}", world.zone);
    let keys = Api::new(
        world.stack.http().clone(),
        world.stack.sts[replica].base_url(),
        None,
    );
    let keys = keys.get(&path).await.expect(200);
    let keys = keys["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().map(|key| text(key, "kid")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_once_is_followed_by_both_replicas() {
    let world = World::start(two()).await;
    let replicas = at_each(&world);
    let (ended, kept, delegated) = (world.agent().await, world.agent().await, world.agent().await);
    let mint = |agent: &Agent| {
        let fields = [
            ("resource", RESOURCE),
            ("scope", READ),
            ("agent_session_id", agent.session.as_str()),
            ("delegation_edge_id", agent.delegation.as_str()),
        ];
        fields.map(|(name, value)| (name, value.to_owned()))
    };
    let (of_ended, of_kept, of_delegated) = (mint(&ended), mint(&kept), mint(&delegated));
    for of_agent in [&of_ended, &of_kept, &of_delegated] {
        until_everywhere(&replicas, &borrowed(of_agent), 200).await;
    }

    // A session, a delegation: what was minted in them a moment ago is not minted again.
    let coordinator = world.stack.coordinator_as(&ended.lifecycle);
    let path = format!("/zones/{}/agents/{}", world.zone, ended.session);
    coordinator.delete(&path).await.expect(204);
    until_everywhere(&replicas, &borrowed(&of_ended), 403).await;
    let path = format!(
        "/zones/{}/delegations/{}/revoke",
        world.zone, delegated.delegation
    );
    coordinator.patch(&path, &json!({})).await.expect(200);
    until_everywhere(&replicas, &borrowed(&of_delegated), 403).await;
    until_everywhere(&replicas, &borrowed(&of_kept), 200).await;

    // A key: rotated at the first, it signs at both, and the gateway takes the mandates of both.
    let administrator = Api::new(
        world.stack.http().clone(),
        world.stack.sts_url(),
        Some(&world.stack.secrets.sts_token),
    );
    let path = format!(
        "/internal/zones/{}/signing-key/rotate?urgency=emergency",
        world.zone
    );
    let rotated = text(&administrator.post(&path, &json!({})).await.expect(200), "kid");
    for replica in [0, 1] {
        wait_until(SOON, async || {
            key_ids(&world, replica).await.first() == Some(&rotated)
        })
        .await;
        wait_until(SOON, async || {
            let minted = replicas[replica].exchange(&borrowed(&of_kept)).await;
            let mandate = minted.text_of("access_token");
            let kid = UnverifiedToken::parse(&mandate)
                .unwrap()
                .unverified_kid()
                .to_owned();
            kid == rotated && world.call().mandate(&mandate).send("/").await.status == 200
        })
        .await;
    }

    // A policy: without its grants nobody gets anything.
    let document =
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {}\ngrants := {}\n";
    activate_in(&world.stack.admin(), &world.path(""), &world.policy_set, document).await;
    until_everywhere(&replicas, &borrowed(&of_kept), 403).await;
}

fn borrowed<'f>(fields: &'f [(&'f str, String)]) -> Vec<(&'f str, &'f str)> {
    fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}
