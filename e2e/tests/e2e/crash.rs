//! Killing any process at any moment: no call is forwarded unrecorded, no decision is lost, no one-shot mandate passes twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use caracal_testing::{Service, StackOptions, wait_until};
use caracal_token::UnverifiedToken;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::world::{READ, RESOURCE, SOON, World, unique};

/// Between two attempts to get a mandate.
const RETRY: Duration = Duration::from_millis(20);
/// How many callers there are at once.
const WORKERS: usize = 4;
/// How many calls pass before the next process is killed.
const CALLS_BETWEEN_KILLS: usize = 20;
/// Marks the decision that released a token.
const MINTED: &str = "minted";

/// What one worker saw.
#[derive(Default)]
struct Seen {
    /// Mandates that passed, with their request ids.
    passed: Vec<(String, String)>,
    /// Mandates whose call got no answer, as when a process was killed: they may have passed or not.
    unanswered: Vec<(String, String)>,
    /// The ids of all minted mandates: each is a decision.
    minted: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_forwarded_unrecorded_or_twice_whatever_is_killed() {
    // A killed consumer leaves entries behind that another one takes over after this time.
    let options = StackOptions::default().set_for(Service::Audit, "AUDIT_CLAIM_IDLE_SECS", "2");
    let mut world = World::start(options).await;
    let agent = world.agent().await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let until_load = async || {
        let before = answered.load(Ordering::SeqCst);
        wait_until(SOON, async || {
            answered.load(Ordering::SeqCst) >= before + CALLS_BETWEEN_KILLS
        })
        .await;
    };
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let worker = Worker {
                http: world.stack.http().clone(),
                tokens: world.tokens.clone(),
                gateway: world.stack.gateway_url().to_owned(),
                session: agent.session.clone(),
                delegation: agent.delegation.clone(),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
            };
            tokio::spawn(worker.run())
        })
        .collect();

    until_load().await;
    world.stack.gateways[0].kill9();
    world.stack.gateways[0].restart().await;
    until_load().await;
    world.stack.sts[0].kill9();
    world.stack.sts[0].restart().await;
    world.stack.audit.kill9();
    world.stack.coordinator.kill9();
    world.stack.control.kill9();
    until_load().await;
    world.stack.audit.restart().await;
    world.stack.coordinator.restart().await;
    world.stack.control.restart().await;
    wait_until(SOON, async || {
        world
            .call()
            .mandate(&world.one_shot(&agent).await)
            .send("/")
            .await
            .status
            == 200
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    let mut seen = Seen::default();
    for worker in workers {
        let one = worker.await.unwrap();
        seen.minted.extend(one.minted);
        seen.unanswered.extend(one.unanswered);
        seen.passed.extend(one.passed);
    }
    assert!(
        seen.passed.len() > 20,
        "there was load: {} calls passed, {} mandates",
        seen.passed.len(),
        seen.minted.len()
    );

    // Burned before, between and after the kills: burned for good.
    let some = seen.passed.iter().step_by((seen.passed.len() / 60).max(1));
    for (mandate, _) in some {
        let again = world.call().mandate(mandate).send("/again").await.status;
        assert_eq!(again, 401, "a burned mandate stays burned");
    }
    // A call whose answer was lost may have passed or not; its mandate passes at most once in all.
    let mut late = Vec::new();
    for (mandate, id) in &seen.unanswered {
        if world.call().mandate(mandate).send("/late").await.status == 200 {
            late.push(id.clone());
        }
    }
    let forwarded: Vec<String> = world
        .upstream
        .take_requests()
        .iter()
        .map(|request| request.header("x-request-id").unwrap_or_default().to_owned())
        .collect();
    let once: BTreeSet<&String> = forwarded.iter().filter(|id| id.starts_with("load-")).collect();
    assert_eq!(
        once.len(),
        forwarded.iter().filter(|id| id.starts_with("load-")).count(),
        "a request reached the upstream twice"
    );
    for id in &late {
        assert!(
            !once.contains(id),
            "the mandate of {id} passed before its answer was lost, and again"
        );
    }
    let expected: Vec<(String, &str)> = forwarded
        .iter()
        .flat_map(|id| [(id.clone(), "forwarding"), (id.clone(), "complete")])
        .chain(seen.minted.iter().map(|token| (token.clone(), MINTED)))
        .collect();
    let mut missing = Vec::new();
    let complete = wait_until(6 * SOON, async || {
        let ledger = ledger(&world).await;
        let is_missing =
            |(id, status): &&(String, &str)| !ledger.contains(&(id.clone(), (*status).to_owned()));
        missing = expected.iter().filter(is_missing).cloned().collect();
        missing.is_empty()
    });
    let complete = tokio::time::timeout(3 * SOON, complete).await;
    assert!(
        complete.is_ok(),
        "{} of {} events never reached the ledger: {missing:?}",
        missing.len(),
        expected.len()
    );
    // The outcome is written after the answer, so a kill may take the one of the call each worker had in hand; never more.
    let ledger = ledger(&world).await;
    let without = seen
        .passed
        .iter()
        .filter(|(_, id)| !ledger.contains(&(id.clone(), "executed".to_owned())))
        .count();
    assert!(
        without <= WORKERS,
        "{without} of {} answered calls have no outcome in the ledger",
        seen.passed.len()
    );
    world.assert_chain_verifies().await;
}

struct Worker {
    http: caracal_chassis::http_client::Client,
    tokens: caracal_testing::TokenClient,
    gateway: String,
    session: String,
    delegation: String,
    stop: Arc<AtomicBool>,
    /// Calls that passed, of all workers.
    answered: Arc<AtomicUsize>,
}

impl Worker {
    async fn run(self) -> Seen {
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::SeqCst) {
            let Some(mandate) = self.mint().await else {
                // The token service is away: until it is back there is nothing to do but to ask again.
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let claims = UnverifiedToken::parse(&mandate)
                .unwrap()
                .unverified_claims()
                .jti
                .to_string();
            seen.minted.push(claims);
            let id = unique("load");
            match self.call(&mandate, &id).await {
                Some(200) => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    seen.passed.push((mandate, id));
                }
                Some(_refused) => {}
                None => seen.unanswered.push((mandate, id)),
            }
        }
        seen
    }

    async fn mint(&self) -> Option<String> {
        let fields = [
            ("resource", RESOURCE),
            ("scope", READ),
            ("agent_session_id", &self.session),
            ("delegation_edge_id", &self.delegation),
        ];
        let answer = self.tokens.try_exchange(&fields).await?;
        (answer.status == 200).then(|| answer.text_of("access_token"))
    }

    async fn call(&self, mandate: &str, id: &str) -> Option<u16> {
        let header = |name: &'static str, value: &str| {
            (
                HeaderName::from_static(name),
                HeaderValue::try_from(value).unwrap(),
            )
        };
        let headers = HeaderMap::from_iter([
            header("authorization", &format!("Bearer {mandate}")),
            header("x-caracal-resource", RESOURCE),
            header("x-request-id", id),
        ]);
        let answer = self
            .http
            .request(
                Method::GET,
                &format!("{}/load", self.gateway),
                headers,
                Vec::new(),
            )
            .await
            .ok()?;
        Some(answer.status.as_u16())
    }
}

/// Every (request id, evaluation status) of the zone's ledger, and every (token id, [`MINTED`]).
async fn ledger(world: &World) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!(
            "/api/audit/search?zone_id={}&limit=200&cursor={cursor}",
            world.zone
        );
        let page: Value = world.stack.auditor().get(&path).await.expect(200);
        for found in page["events"].as_array().into_iter().flatten() {
            let text = |member: &str| found["Event"][member].as_str().unwrap_or_default().to_owned();
            all.insert((text("request_id"), text("evaluation_status")));
            if let Some(token) = found["Event"]["metadata_json"]["token_id"].as_str() {
                all.insert((token.to_owned(), MINTED.to_owned()));
            }
        }
        page["next_cursor"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut cursor);
        if cursor.is_empty() {
            return all;
        }
    }
}
