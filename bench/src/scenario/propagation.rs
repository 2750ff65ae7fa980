//! How long after a change is it in force at every replica: two token services and a gateway?
//!
//! Before each change every observer asks again and again and is answered as before; after it, until the answer is the new
//! one. Two times are kept for each: from the moment the change was asked for (its own work and the commit included: never less
//! than the truth), and from the moment its answer was there (committed by then: never more).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caracal_testing::{Api, Behaviour, StackOptions, TokenClient, Upstream};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::summary::Times;
use crate::world::{self, Agent, READ, RESOURCE, World};

/// Pause between two questions of one observer: what it adds to a time at most, beside the question itself.
const PAUSE: Duration = Duration::from_millis(1);
/// Longest wait for an effect.
const PATIENCE: Duration = Duration::from_secs(20);
/// One-shot mandates a gateway is asked with after a change; each is good for one question.
const MANDATES: usize = 64;

/// Who is watched.
const OBSERVERS: [&str; 3] = ["sts a", "sts b", "gateway"];

/// Times of one kind of change, for each observer.
#[derive(Default)]
struct Kind {
    from_request: BTreeMap<&'static str, Vec<Duration>>,
    from_answer: BTreeMap<&'static str, Vec<Duration>>,
}

/// One change: when it was asked for, and when it was answered.
#[derive(Clone, Copy)]
struct Change {
    asked: Instant,
    answered: Instant,
}

/// Runs the scenario.
pub(crate) async fn run(length: Length, report: &mut Report) -> anyhow::Result<()> {
    let changes = length.pick(30, 200);
    progress("starting a stack with two token services");
    let upstream = Upstream::start(Behaviour::Echo).await;
    let options = StackOptions {
        sts_replicas: 2,
        ..world::options()
    };
    let world = World::start(options, &upstream.url()).await;
    let site = Site::of(&world)?;
    let mut rows = Vec::new();
    if length == Length::Full {
        progress("policies");
        let policies = site.policies(changes).await?;
        policies.conclude("policy activation", "policy", &mut rows, report);
    }
    progress("sessions");
    let sessions = site.sessions(changes).await?;
    sessions.conclude("session termination", "session", &mut rows, report);
    progress("delegations");
    let delegations = site.delegations(changes).await?;
    delegations.conclude("delegation revocation", "delegation", &mut rows, report);
    // At the gateway, and never less than the truth: the commit is later than the request.
    let refused =
        [&sessions, &delegations].map(|kind| kind.from_request.get("gateway").cloned().unwrap_or_default());
    report.figure("revocation_p99_ms", Times::of(refused.concat()).percentile_ms(99));
    if length == Length::Full {
        progress("keys");
        let keys = site.keys(changes).await?;
        keys.conclude("key rotation (compromise)", "key", &mut rows, report);
    }
    let head = [
        "change", "at", "p50 ms", "p99 ms", "max ms", "p50 ms", "p99 ms", "max ms",
    ];
    report.table("From a change to its effect", &head, &rows);
    report.remark(&format!(
        "{changes} changes of each kind, one after the other, on a stack that does nothing else. The first three times begin when the \
         change was asked for, so they include the request, its work and the commit; the last three when it was answered. An effect is \
         there when an answer shows it; observers ask again {} ms after each answer.",
        PAUSE.as_millis()
    ));
    Ok(())
}

/// The world, and how to look at it.
struct Site<'w> {
    world: &'w World,
    replicas: [TokenClient; 2],
    addresses: [String; 2],
}

impl<'w> Site<'w> {
    fn of(world: &'w World) -> anyhow::Result<Self> {
        let addresses: Vec<String> = world
            .stack
            .sts
            .iter()
            .map(|sts| sts.base_url().to_owned())
            .collect();
        let addresses: [String; 2] = addresses.try_into().ok().context("two token services")?;
        let replicas = addresses
            .each_ref()
            .map(|address| world.tokens.clone().at(address));
        Ok(Self {
            world,
            replicas,
            addresses,
        })
    }

    /// Two versions in turn: one without grants, one with them.
    async fn policies(&self, changes: usize) -> anyhow::Result<Kind> {
        let versions = [
            self.world.policy_version("nothing", &[]).await,
            self.world.policy_version("reading", &[READ]).await,
        ];
        let reusable = self.world.reusable().await;
        let mut kind = Kind::default();
        for (version, grants) in versions.iter().zip([false, true]).cycle().take(changes) {
            let shows = |status: u16| (status == 200) == grants;
            let minted = async |replica: &TokenClient| {
                shows(
                    replica
                        .exchange(&[("resource", RESOURCE), ("scope", READ)])
                        .await
                        .status,
                )
            };
            let change = self.world.activate(version);
            let [a, b] = &self.replicas;
            kind.watch(
                change,
                async || minted(a).await,
                async || minted(b).await,
                async || shows(self.call(&reusable).await),
            )
            .await?;
        }
        Ok(kind)
    }

    async fn sessions(&self, changes: usize) -> anyhow::Result<Kind> {
        let lifecycle = self.world.lifecycle().await;
        let coordinator = self.world.stack.coordinator_as(&lifecycle);
        let source = self.world.session(&coordinator).await;
        let mut kind = Kind::default();
        for _change in 0..changes {
            let agent = self.world.agent_below(&coordinator, &source, 1).await;
            let path = format!("/zones/{}/agents/{}", self.world.zone, agent.session);
            let end = async {
                coordinator.delete(&path).await.expect(204);
            };
            self.watch_agent(&mut kind, &agent, end).await?;
        }
        Ok(kind)
    }

    async fn delegations(&self, changes: usize) -> anyhow::Result<Kind> {
        let lifecycle = self.world.lifecycle().await;
        let coordinator = self.world.stack.coordinator_as(&lifecycle);
        let source = self.world.session(&coordinator).await;
        let mut kind = Kind::default();
        for _change in 0..changes {
            let agent = self.world.agent_below(&coordinator, &source, 1).await;
            let path = format!(
                "/zones/{}/delegations/{}/revoke",
                self.world.zone, agent.delegation
            );
            let revoke = async {
                coordinator.patch(&path, &json!({})).await.expect(200);
            };
            self.watch_agent(&mut kind, &agent, revoke).await?;
            // A zone has room for some hundred sessions.
            let path = format!("/zones/{}/agents/{}", self.world.zone, agent.session);
            coordinator.delete(&path).await.expect(204);
        }
        Ok(kind)
    }

    /// The keys that signed until then are withdrawn, so what they signed is refused. The token services are asked for the key set, because
    /// one of them makes the change itself.
    async fn keys(&self, changes: usize) -> anyhow::Result<Kind> {
        let secret = &self.world.stack.secrets.sts_token;
        let administrator = Api::new(self.world.stack.http().clone(), &self.addresses[0], Some(secret));
        let path = format!(
            "/internal/zones/{}/signing-key/rotate?urgency=compromise",
            self.world.zone
        );
        let mut kind = Kind::default();
        for _change in 0..changes {
            let reusable = self.world.reusable().await;
            caracal_testing::wait_until(PATIENCE, async || self.call(&reusable).await == 200).await;
            let before = self.key_id(0).await;
            let rotate = async {
                administrator.post(&path, &Value::Null).await.expect(200);
            };
            kind.watch(
                rotate,
                async || self.key_id(0).await != before,
                async || self.key_id(1).await != before,
                async || self.call(&reusable).await == 401,
            )
            .await?;
        }
        Ok(kind)
    }

    /// Watches a change that ends what an agent may do.
    async fn watch_agent(
        &self,
        kind: &mut Kind,
        agent: &Agent,
        change: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut mandates = Vec::new();
        for _mandate in 0..MANDATES {
            mandates.push(self.world.one_shot(agent).await);
        }
        let fields = [
            ("resource", RESOURCE),
            ("scope", READ),
            ("agent_session_id", &agent.session),
            ("delegation_edge_id", &agent.delegation),
        ];
        let refused = async |replica: &TokenClient| replica.exchange(&fields).await.status == 403;
        let [a, b] = &self.replicas;
        refused_before(!refused(a).await && !refused(b).await)?;
        let mut mandates = mandates.into_iter();
        let mut asked = 0;
        kind.watch(
            change,
            async || refused(a).await,
            async || refused(b).await,
            async || {
                asked += 1;
                // Few enough mandates at first to ask often, enough left to wait long.
                if asked > MANDATES / 2 {
                    tokio::time::sleep(20 * PAUSE).await;
                }
                match mandates.next() {
                    Some(mandate) => [401, 403].contains(&self.call(&mandate).await),
                    None => false,
                }
            },
        )
        .await
    }

    /// The status of a governed call.
    async fn call(&self, mandate: &str) -> u16 {
        let bearer = format!("Bearer {mandate}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-caracal-resource", RESOURCE),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
        });
        let url = format!("{}/", self.world.stack.gateway_url());
        let http = self.world.stack.http();
        let answer = http
            .request(Method::GET, &url, headers.collect::<HeaderMap>(), "")
            .await;
        answer.map_or(0, |answer| answer.status.as_u16())
    }

    /// The newest key of the zone as a token service publishes it.
    async fn key_id(&self, replica: usize) -> Option<String> {
        let path = format!("/.well-known/jwks.json?zone_id={}", self.world.zone);
        let address = self.addresses.get(replica)?;
        let keys = Api::new(self.world.stack.http().clone(), address, None)
            .get(&path)
            .await;
        let keys = keys.json();
        Some(keys.pointer("/keys/0/kid")?.as_str()?.to_owned())
    }
}

impl Kind {
    /// Adds the times to the tables and the report.
    fn conclude(&self, name: &str, key: &str, rows: &mut Vec<Vec<String>>, report: &mut Report) {
        let mut all = Vec::new();
        for observer in OBSERVERS {
            let from_request = self.from_request.get(observer).cloned().unwrap_or_default();
            let from_answer = self.from_answer.get(observer).cloned().unwrap_or_default();
            all.extend_from_slice(&from_request);
            let mut row = vec![name.to_owned(), observer.to_owned()];
            for times in [Times::of(from_request), Times::of(from_answer)] {
                let figures = [times.percentile_ms(50), times.percentile_ms(99), times.max_ms()];
                row.extend(figures.map(|ms| format!("{ms:.1}")));
            }
            rows.push(row);
        }
        let all = Times::of(all);
        report.figure(format!("propagation_{key}_p50_ms"), all.percentile_ms(50));
        report.figure(format!("propagation_{key}_p99_ms"), all.percentile_ms(99));
    }

    /// Makes the change and watches it at the three observers until all of them show it.
    async fn watch(
        &mut self,
        change: impl Future<Output = ()>,
        a: impl AsyncFnMut() -> bool,
        b: impl AsyncFnMut() -> bool,
        gateway: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let (begin, begun) = watch::channel(false);
        let change = async {
            let asked = Instant::now();
            begin.send_replace(true);
            change.await;
            Change {
                asked,
                answered: Instant::now(),
            }
        };
        let observers = async {
            tokio::join!(
                seen(begun.clone(), a),
                seen(begun.clone(), b),
                seen(begun.clone(), gateway),
            )
        };
        let (change, (a, b, gateway)) = tokio::join!(change, observers);
        for (observer, seen) in OBSERVERS.into_iter().zip([a, b, gateway]) {
            let seen = seen.with_context(|| format!("no effect at {observer} within {PATIENCE:?}"))?;
            let of = |since: Instant| seen.saturating_duration_since(since);
            self.from_request
                .entry(observer)
                .or_default()
                .push(of(change.asked));
            self.from_answer
                .entry(observer)
                .or_default()
                .push(of(change.answered));
        }
        Ok(())
    }
}

/// When `shows` first held after the change was asked for.
async fn seen(mut begun: watch::Receiver<bool>, mut shows: impl AsyncFnMut() -> bool) -> Option<Instant> {
    begun.wait_for(|begun| *begun).await.ok()?;
    let until = Instant::now() + PATIENCE;
    loop {
        if shows().await {
            return Some(Instant::now());
        }
        if Instant::now() > until {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn refused_before(holds: bool) -> anyhow::Result<()> {
    ensure!(holds, "refused before anything was changed");
    Ok(())
}
