//! What does each class of exchange cost the token service? One process of it, a closed loop over kept connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use caracal_testing::{Process, Stack};
use caracal_wire::form;
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, field};
use serde_json::Value;

use crate::allocations::Counter;
use crate::load::{Connections, Exchanges, Forms, Until, Window};
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::summary::Repeats;
use crate::world::{self, Agent, CONTROL, CONTROL_READ, READ, RESOURCE, World};

/// Connections of the closed loop.
const CONNECTIONS: usize = 16;
/// Mandates that take turns as subject tokens of one class.
const MANDATES: usize = 128;
/// Repeats of each window.
const REPEATS: usize = 3;
/// Exchanges over which allocations, statements and round trips are counted.
const COUNTED: usize = 2_000;

/// One class of exchange.
struct Class {
    name: &'static str,
    key: &'static str,
    exchanges: Exchanges,
}

/// What one class came to.
struct Measured {
    per_second: Repeats,
    cpu_us: Repeats,
    p50_ms: Repeats,
    p99_ms: Repeats,
}

/// What one exchange asks of the heap and of others.
struct Counted {
    /// `None` when they could not be counted on this machine.
    allocations: Option<f64>,
    statements: f64,
    round_trips: f64,
}

/// Runs the scenario.
pub(crate) async fn run(length: Length, only: Option<&str>, report: &mut Report) -> anyhow::Result<()> {
    let (warm_up, window) = length.pick((500, 1_500), (2_000, 5_000));
    let (warm_up, window) = (Duration::from_millis(warm_up), Duration::from_millis(window));
    progress("starting a stack for the exchanges");
    let world = World::start(world::options(), "http://127.0.0.1:9").await;
    let mut classes = classes(&world).await;
    classes.push(sign_in(&world).await);
    classes.retain(|class| only.is_none_or(|only| class.key == only));
    let mut rows = Vec::new();
    let mut measured = Vec::new();
    for class in &classes {
        progress(class.name);
        measured.push(measure(&world, class, warm_up, window).await?);
    }
    report.figure("sts_rss_mib", process::resident_mib(sts(&world.stack)?)?);
    progress("counting allocations, statements and round trips");
    for (class, measured) in classes.iter().zip(&measured) {
        let counted = count(&world, class).await?;
        rows.push(row(class, measured, &counted));
        figures(report, class.key, measured, &counted);
    }
    let head = [
        "exchange",
        "per second",
        "±%",
        "CPU us",
        "±%",
        "p50 ms",
        "p99 ms",
        "allocations",
        "SQL",
        "bus",
    ];
    report.table("Exchanges of the token service", &head, &rows);
    report.remark(&format!(
        "One process of the token service; {CONNECTIONS} connections of a closed loop on the same machine, which use about as much \
         processor time again for themselves. Median of {REPEATS} windows of {} s, and largest minus smallest in percent. CPU: user and \
         system time of the process, everything it does beside included. Allocations, SQL statements and commands to the bus: over \
         {COUNTED} exchanges; those of the same time without load are taken off the last two, and what remains of the bus is the \
         evidence, which is sent in batches. {MANDATES} mandates take turns as subject tokens; each ID token is a new one.",
        window.as_secs_f32()
    ));
    Ok(())
}

fn sts(stack: &Stack) -> anyhow::Result<&Process> {
    stack
        .sts
        .first()
        .ok_or_else(|| anyhow::anyhow!("a stack without a token service"))
}

async fn measure(
    world: &World,
    class: &Class,
    warm_up: Duration,
    window: Duration,
) -> anyhow::Result<Measured> {
    let mut connections = Connections::open(world.stack.sts_url(), CONNECTIONS).await?;
    connections.run(&class.exchanges, Until::Elapsed(warm_up)).await?;
    let mut windows: Vec<(Window, f64)> = Vec::new();
    for _repeat in 0..REPEATS {
        let before = process::processor_time(sts(&world.stack)?)?;
        let done = connections.run(&class.exchanges, Until::Elapsed(window)).await?;
        let used = process::processor_time(sts(&world.stack)?)?.saturating_sub(before);
        let each_us = used.as_secs_f64() * 1e6 / as_f64(done.count);
        windows.push((done, each_us));
    }
    let over = |value: fn(&(Window, f64)) -> f64| Repeats::of(windows.iter().map(value).collect());
    Ok(Measured {
        per_second: over(|(window, _)| as_f64(window.count) / window.seconds),
        cpu_us: over(|(_, cpu_us)| *cpu_us),
        p50_ms: over(|(window, _)| window.times.percentile_ms(50)),
        p99_ms: over(|(window, _)| window.times.percentile_ms(99)),
    })
}

/// Counts over a fixed number of exchanges, and over the same time without any.
async fn count(world: &World, class: &Class) -> anyhow::Result<Counted> {
    let mut connections = Connections::open(world.stack.sts_url(), CONNECTIONS).await?;
    // What is allocated or read once is in place afterwards.
    connections.run(&class.exchanges, Until::Count(COUNTED)).await?;
    let before = Reading::take(world).await?;
    let busy = connections.run(&class.exchanges, Until::Count(COUNTED)).await?;
    let after = Reading::take(world).await?;
    let idle = Reading::take(world).await?;
    tokio::time::sleep(Duration::from_secs_f64(busy.seconds)).await;
    let rested = Reading::take(world).await?;
    let beyond = |value: fn(&Reading) -> f64| {
        ((value(&after) - value(&before)) - (value(&rested) - value(&idle))) / as_f64(busy.count)
    };
    Ok(Counted {
        allocations: allocations(world, class).await,
        statements: beyond(|reading| reading.statements).max(0.0),
        round_trips: beyond(|reading| reading.round_trips).max(0.0),
    })
}

async fn allocations(world: &World, class: &Class) -> Option<f64> {
    match count_allocations(world, class).await {
        Ok(allocations) => Some(allocations),
        Err(error) => {
            progress(&format!("allocations are not counted: {error:#}"));
            None
        }
    }
}

async fn count_allocations(world: &World, class: &Class) -> anyhow::Result<f64> {
    let token_service = sts(&world.stack)?.id();
    let counter = Counter::attach(token_service.context("the token service has ended")?)?;
    let mut connections = Connections::open(world.stack.sts_url(), CONNECTIONS).await?;
    let busy = connections.run(&class.exchanges, Until::Count(COUNTED)).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a few thousand calls")]
    let calls = counter.finish()? as f64;
    Ok(calls / as_f64(busy.count))
}

/// The counters of the token service.
struct Reading {
    statements: f64,
    round_trips: f64,
}

impl Reading {
    async fn take(world: &World) -> anyhow::Result<Self> {
        let metrics = world.stack.metrics(sts(&world.stack)?).await;
        let value = |name: &str| metrics.pointer(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        Ok(Self {
            statements: value("/sts/database_statements"),
            round_trips: value("/sts/bus_round_trips"),
        })
    }
}

/// Every class there is, with forms to send.
async fn classes(world: &World) -> Vec<Class> {
    let coordinator = world.stack.coordinator_as(&world.lifecycle().await);
    let near = world.agent(&coordinator, 1).await;
    let far = world.agent(&coordinator, 3).await;
    let reusable = world.reusable().await;
    let client = (world.application.as_str(), world.client_secret.as_str());
    let control = (world.control_key.0.as_str(), world.control_key.1.as_str());
    vec![
        Class {
            name: "session mint (client credentials)",
            key: "session_mint",
            exchanges: direct(
                world,
                client,
                &[(field::RESOURCE, RESOURCE), (field::SCOPE, READ)],
            ),
        },
        Class {
            name: "one-shot mint, 1 hop",
            key: "one_shot_mint",
            exchanges: direct(world, client, &one_shot(&near)),
        },
        Class {
            name: "one-shot mint, 3 hops",
            key: "one_shot_mint_3_hops",
            exchanges: direct(world, client, &one_shot(&far)),
        },
        Class {
            name: "gateway leg, 1 hop",
            key: "gateway_leg",
            exchanges: gateway(world, &mandates(world, &near).await),
        },
        Class {
            name: "gateway leg, 3 hops",
            key: "gateway_leg_3_hops",
            exchanges: gateway(world, &mandates(world, &far).await),
        },
        Class {
            name: "gateway leg, reusable mandate",
            key: "ambient_gateway_leg",
            exchanges: gateway(world, &[reusable]),
        },
        Class {
            name: "resource mint (control key)",
            key: "resource_mint",
            exchanges: direct(
                world,
                control,
                &[(field::RESOURCE, CONTROL), (field::SCOPE, CONTROL_READ)],
            ),
        },
    ]
}

/// Users of another issuer, each ID token good once.
async fn sign_in(world: &World) -> Class {
    let issuer = world.believed_issuer().await;
    let (zone, application) = (world.zone.clone(), world.application.clone());
    let client_secret = world.client_secret.clone();
    let make = move || {
        let form = form::encode(&[
            (field::APPLICATION_ID, &application),
            (field::CLIENT_SECRET, &client_secret),
            (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
            (field::SUBJECT_TOKEN, &issuer.token("user-1")),
            (field::SUBJECT_TOKEN_TYPE, ID_TOKEN_TYPE),
            (field::ZONE_ID, &zone),
        ]);
        (Bytes::from(form), "bench".to_owned())
    };
    Class {
        name: "user sign-in (ID token)",
        key: "sign_in",
        exchanges: Exchanges {
            forms: Forms::Fresh(Arc::new(make)),
            gateway_key: None,
        },
    }
}

fn one_shot(agent: &Agent) -> [(&'static str, &str); 4] {
    [
        (field::RESOURCE, RESOURCE),
        (field::SCOPE, READ),
        (field::AGENT_SESSION_ID, &agent.session),
        (field::DELEGATION_EDGE_ID, &agent.delegation),
    ]
}

async fn mandates(world: &World, agent: &Agent) -> Vec<String> {
    let mut mandates = Vec::new();
    for _mandate in 0..MANDATES {
        mandates.push(world.one_shot(agent).await);
    }
    mandates
}

/// What an application sends with its secret.
fn direct(world: &World, (application, secret): (&str, &str), fields: &[(&str, &str)]) -> Exchanges {
    let credentials = [
        (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
        (field::ZONE_ID, world.zone.as_str()),
        (field::APPLICATION_ID, application),
        (field::CLIENT_SECRET, secret),
    ];
    let form = form::encode(&[&credentials, fields].concat());
    Exchanges {
        forms: Forms::Turns(vec![(Bytes::from(form), "bench".to_owned())]),
        gateway_key: None,
    }
}

/// What a gateway sends for calls with these mandates.
fn gateway(world: &World, mandates: &[String]) -> Exchanges {
    let forms = mandates.iter().enumerate().map(|(number, mandate)| {
        let request_id = format!("bench-{number}");
        let form = form::encode(&[
            (field::APPLICATION_ID, world.application.as_str()),
            (field::GATEWAY_REQUEST_ID, &request_id),
            (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
            (field::REQUEST_METHOD, "GET"),
            (field::REQUEST_PATH, "/v1/contacts"),
            (field::RESOURCE, RESOURCE),
            (field::SUBJECT_TOKEN, mandate),
            (field::SUBJECT_TOKEN_TYPE, ACCESS_TOKEN_TYPE),
            (field::ZONE_ID, &world.zone),
        ]);
        (Bytes::from(form), request_id)
    });
    Exchanges {
        forms: Forms::Turns(forms.collect()),
        gateway_key: hex::decode(&world.stack.secrets.gateway_key).ok(),
    }
}

fn row(class: &Class, measured: &Measured, counted: &Counted) -> Vec<String> {
    let spread = |repeats: &Repeats| format!("{:.0}", repeats.spread_percent);
    vec![
        class.name.to_owned(),
        format!("{:.0}", measured.per_second.median),
        spread(&measured.per_second),
        format!("{:.1}", measured.cpu_us.median),
        spread(&measured.cpu_us),
        format!("{:.2}", measured.p50_ms.median),
        format!("{:.2}", measured.p99_ms.median),
        counted
            .allocations
            .map_or_else(|| "not counted".to_owned(), |count| format!("{count:.0}")),
        format!("{:.2}", counted.statements),
        format!("{:.2}", counted.round_trips),
    ]
}

fn figures(report: &mut Report, key: &str, measured: &Measured, counted: &Counted) {
    report.figure(format!("sts_{key}_per_s"), measured.per_second.median);
    report.figure(format!("sts_{key}_cpu_us"), measured.cpu_us.median);
    report.figure(
        format!("sts_{key}_cpu_spread_percent"),
        measured.cpu_us.spread_percent,
    );
    report.figure(format!("sts_{key}_p50_ms"), measured.p50_ms.median);
    report.figure(format!("sts_{key}_p99_ms"), measured.p99_ms.median);
    if let Some(allocations) = counted.allocations {
        report.figure(format!("sts_{key}_allocs"), allocations);
    }
    report.figure(format!("sts_{key}_sql"), counted.statements);
    report.figure(format!("sts_{key}_bus"), counted.round_trips);
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
