//! What does a governed call cost with its mint, and whom?
//!
//! Each of many agents' connections mints a mandate for one call and makes the call, again and again, on all processors. Then the
//! same once more, slowly and counted: statements, round trips and allocations of a call.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::allocations::Counter;
use crate::load::Connections;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};
use crate::summary::Repeats;

/// Calls over which allocations, statements and round trips are counted.
const COUNTED: usize = 2_000;
/// Who works before an answer is given, and whose time is the price of a governed call.
const PATH: [&str; 4] = ["gateway", "sts", "redis", "postgres"];
/// The stages whose time the gateway tells.
const STAGES: [&str; 9] = [
    "route",
    "authenticate",
    "revocation",
    "exchange",
    "replay",
    "resolve",
    "inject",
    "record",
    "forward",
];

/// Runs the scenario.
pub(crate) async fn run(site: &Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    progress("governed calls with their mint");
    let window = length.pick(Duration::from_secs(3), Duration::from_secs(10));
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let form = site.mint_form();
    let call = |mandate: &str| Site::call("/", mandate);
    sts.governed(&mut gateway, &form, call, Duration::from_secs(1))
        .await?;
    site.settle().await?;

    let stages = stage_times(&site.world.stack.metrics(site.gateway()?).await);
    let (mut errors, mut windows, mut times) = (0, Vec::new(), Vec::new());
    let mut cost: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _repeat in 0..length.repeats() {
        let before = site.used()?;
        let (window, failed) = sts.governed(&mut gateway, &form, call, window).await?;
        let during = site.used()?;
        // Evidence is stored after the answer, and belongs to the price.
        site.settle().await?;
        let after = site.used()?;
        let each_us =
            |since: &[(&str, Duration)], until: &[(&'static str, Duration)]| -> Vec<(&'static str, f64)> {
                let used = until.iter().zip(since);
                #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
                let each = used.map(|((name, until), (_, since))| {
                    (
                        *name,
                        until.saturating_sub(*since).as_secs_f64() * 1e6 / window.count as f64,
                    )
                });
                each.collect()
            };
        for (name, us) in each_us(&before, &after) {
            cost.entry(name).or_default().push(us);
        }
        let until_answered: f64 = each_us(&before, &during)
            .into_iter()
            .filter_map(|(name, us)| PATH.contains(&name).then_some(us))
            .sum();
        cost.entry("until the answers").or_default().push(until_answered);
        errors += failed;
        times.push((window.times.percentile_ms(50), window.times.percentile_ms(99)));
        windows.push(window);
    }
    let told = stage_times(&site.world.stack.metrics(site.gateway()?).await);

    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
    let per_second = Repeats::of(
        windows
            .iter()
            .map(|window| window.count as f64 / window.seconds)
            .collect(),
    );
    report.figure("governed_per_s", per_second.median);
    report.figure(
        "governed_p50_ms",
        Repeats::of(times.iter().map(|(p50, _)| *p50).collect()).median,
    );
    report.figure(
        "governed_p99_ms",
        Repeats::of(times.iter().map(|(_, p99)| *p99).collect()).median,
    );
    report.figure("governed_errors", errors);
    report.raw("governed_cpu_us", json!(cost));
    let cost: Vec<(&str, Repeats)> = cost
        .into_iter()
        .map(|(name, us)| (name, Repeats::of(us)))
        .collect();
    let median = |name: &str| cost.iter().find(|(of, _)| *of == name).map(|(_, us)| us.median);
    if let Some(total) = PATH.iter().map(|name| median(name)).sum::<Option<f64>>() {
        report.figure("governed_cpu_us", total);
    }
    for name in PATH.iter().chain(&["audit"]) {
        if let Some(us) = median(name) {
            report.figure(format!("governed_{name}_cpu_us"), us);
        }
    }
    report.figure("sts_cpu_us", median("sts").unwrap_or_default());
    let rows: Vec<Vec<String>> = cost
        .iter()
        .map(|(name, us)| {
            vec![
                (*name).to_owned(),
                format!("{:.0}", us.median),
                format!("{:.0}", us.spread_percent),
            ]
        })
        .collect();
    report.table(
        "A governed call with its mint: CPU us by process",
        &["process", "CPU us", "±%"],
        &rows,
    );
    report.remark(&format!(
        "{CONNECTIONS} pairs of connections, each of which mints and calls {:.0} times a second in all (±{:.0}%), p50 {:.2} ms and p99 {:.2} ms for both \
         requests together; {errors} errors. Median of {} windows of {} s on all processors, the load on the same ones. The time of each process includes what \
         it does after the answer, down to the evidence in the database: `until the answers` is the sum of gateway, STS, Redis and PostgreSQL (the \
         audit service's writes in it) while calls were made.",
        per_second.median,
        per_second.spread_percent,
        Repeats::of(times.iter().map(|(p50, _)| *p50).collect()).median,
        Repeats::of(times.iter().map(|(_, p99)| *p99).collect()).median,
        length.repeats(),
        window.as_secs(),
    ));
    show_stages(&stages, &told, report);
    count(site, report).await
}

/// Sum and number of the times of each stage.
fn stage_times(metrics: &Value) -> Vec<(f64, f64)> {
    let rows = metrics.pointer("/stage_seconds").and_then(Value::as_array);
    let of = |stage: &str| {
        let mut rows = rows.into_iter().flatten();
        let row = rows.find(|row| row.pointer("/labels/stage").is_some_and(|label| label == stage))?;
        let value = |path: &str| row.pointer(path).and_then(Value::as_f64);
        value("/value/sum").zip(value("/value/count"))
    };
    STAGES.iter().map(|stage| of(stage).unwrap_or_default()).collect()
}

fn show_stages(before: &[(f64, f64)], after: &[(f64, f64)], report: &mut Report) {
    let stages = STAGES.iter().zip(after.iter().zip(before));
    let means: Vec<(&str, f64)> = stages
        .filter(|(_, ((_, number), (_, number_before)))| number > number_before)
        .map(|(stage, ((sum, number), (sum_before, number_before)))| {
            (*stage, (sum - sum_before) * 1e6 / (number - number_before))
        })
        .collect();
    let rows: Vec<Vec<String>> = means
        .iter()
        .map(|(stage, us)| vec![(*stage).to_owned(), format!("{us:.1}")])
        .collect();
    for (stage, us) in means {
        report.figure(format!("gateway_stage_{stage}_us"), us);
    }
    report.table(
        "Time of each stage in the gateway, us",
        &["stage", "mean us"],
        &rows,
    );
    report.remark(
        "Mean from begin to end of a stage under that load, waiting included: exchange and replay wait for others, at the same time; record for the write of the \
         evidence; forward for the upstream; and each for a processor.",
    );
}

/// What counters tell.
struct Reading {
    statements: f64,
    round_trips: f64,
}

impl Reading {
    async fn take(site: &Site) -> anyhow::Result<Self> {
        let sts = site.world.stack.metrics(site.sts()?).await;
        let gateway = site.world.stack.metrics(site.gateway()?).await;
        let value = |of: &Value, name: &str| {
            let value = of.pointer(name).and_then(Value::as_f64);
            value.with_context(|| format!("no {name} among the metrics"))
        };
        Ok(Self {
            statements: value(&sts, "/sts/database_statements")?,
            round_trips: value(&sts, "/sts/bus_round_trips")? + value(&gateway, "/bus_round_trips")?,
        })
    }
}

async fn count(site: &Site, report: &mut Report) -> anyhow::Result<()> {
    progress("counting statements, round trips and allocations");
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let (form, call) = (site.mint_form(), |mandate: &str| Site::call("/", mandate));
    let time = Duration::from_secs(1);
    let before = Reading::take(site).await?;
    let (window, _errors) = sts.governed(&mut gateway, &form, call, time).await?;
    site.settle().await?;
    let after = Reading::take(site).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
    let each = |before: f64, after: f64| (after - before) / window.count as f64;
    let (sql, bus) = (
        each(before.statements, after.statements),
        each(before.round_trips, after.round_trips),
    );
    report.figure("sql_per_call", sql);
    report.figure("redis_per_call", bus);
    let allocations = match allocations(site).await {
        Ok(allocations) => {
            report.figure("allocs_per_call", allocations);
            format!("{allocations:.0}")
        }
        Err(error) => format!("not counted: {error:#}"),
    };
    let rss = process::resident_mib(site.gateway()?)?;
    let rows = [
        vec![
            "SQL statements of the token service".to_owned(),
            format!("{sql:.3}"),
        ],
        vec![
            "round trips of gateway and token service to Redis".to_owned(),
            format!("{bus:.2}"),
        ],
        vec!["heap allocations in the gateway".to_owned(), allocations],
        vec![
            "resident memory of the gateway after that load, MiB".to_owned(),
            format!("{rss:.0}"),
        ],
    ];
    report.table("A governed call with its mint: counts", &["what", "each"], &rows);
    report.remark(
        "Statements and round trips as the services count them, what the background sends in that time included; evidence goes to Redis in batches. Allocations: calls of the \
         executable's allocator, counted by the kernel in the gateway's process alone.",
    );
    Ok(())
}

async fn allocations(site: &Site) -> anyhow::Result<f64> {
    let mandates = site.one_shot(COUNTED).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    gateway
        .call(|_number| Site::call("/", &site.reusable), CONNECTIONS)
        .await?;
    let counter = Counter::attach(site.gateway()?.id().unwrap_or_default())?;
    let call = |number: usize| Site::call("/", mandates.get(number).map_or("", String::as_str));
    let window = gateway.call(call, COUNTED).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a few hundred thousand")]
    let calls = counter.finish()? as f64 / window.count as f64;
    Ok(calls)
}
