//! What does a governed call cost with its mint, and whom?
//!
//! On all processors, with each of many connections in a closed loop: a mint and the call with what was minted, a mint alone, and a call
//! with a reusable mandate. Then mint and call as they come when half as many are asked for, evenly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::load::{Connections, Exchanges, Forms, Until, Window, mint, send};
use crate::open_loop::{self, Paced};
use crate::plot;
use crate::report::{Report, progress};
use crate::scenario::{Length, counts};
use crate::site::{CONNECTIONS, Site};
use crate::summary::Repeats;

/// Who works before an answer is given, and whose time is the price of a governed call.
const PATH: [&str; 4] = ["gateway", "sts", "redis", "postgres"];
/// The same, and who stores the evidence.
const PROCESSES: [&str; 5] = ["gateway", "sts", "redis", "postgres", "audit"];
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

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    MintAndCall,
    Mint,
    Reusable,
}

impl Work {
    const ALL: [Self; 3] = [Self::MintAndCall, Self::Mint, Self::Reusable];

    fn name(self) -> &'static str {
        match self {
            Self::MintAndCall => "mint and governed call",
            Self::Mint => "mint alone",
            Self::Reusable => "call with a reusable mandate",
        }
    }

    /// Of its figures.
    fn key(self) -> &'static str {
        match self {
            Self::MintAndCall => "governed",
            Self::Mint => "mint",
            Self::Reusable => "reusable",
        }
    }
}

/// The connections of the load.
struct Loads<'s> {
    site: &'s Site,
    sts: Connections,
    gateway: Connections,
    form: Bytes,
}

impl Loads<'_> {
    /// One window, and what failed in it.
    async fn run(&mut self, work: Work, time: Duration) -> anyhow::Result<(Window, u64)> {
        match work {
            Work::MintAndCall => {
                let call = |mandate: &str| Site::call("/", mandate);
                self.sts.governed(&mut self.gateway, &self.form, call, time).await
            }
            Work::Mint => {
                let exchanges = Exchanges {
                    forms: Forms::Turns(vec![(self.form.clone(), "bench".to_owned())]),
                    gateway_key: None,
                };
                Ok((self.sts.run(&exchanges, Until::Elapsed(time)).await?, 0))
            }
            Work::Reusable => {
                let call = |_number| Site::call("/", &self.site.reusable);
                Ok((self.gateway.call(call, Until::Elapsed(time)).await?, 0))
            }
        }
    }
}

/// What one kind of work came to.
struct Cost {
    work: Work,
    /// CPU microseconds of each process in each window, and of those on the path until the answers were there.
    us: BTreeMap<&'static str, Vec<f64>>,
    windows: Vec<Window>,
    errors: u64,
}

impl Cost {
    fn median(&self, process: &str) -> Option<f64> {
        Some(Repeats::of(self.us.get(process)?.clone()).median)
    }

    /// Of all on the path, when all of them could be looked at.
    fn path(&self) -> Option<f64> {
        PATH.iter().map(|name| self.median(name)).sum()
    }

    fn per_second(&self) -> Repeats {
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let each = self
            .windows
            .iter()
            .map(|window| window.count as f64 / window.seconds);
        Repeats::of(each.collect())
    }

    fn percentile_ms(&self, percent: usize) -> f64 {
        let each = self
            .windows
            .iter()
            .map(|window| window.times.percentile_ms(percent));
        Repeats::of(each.collect()).median
    }
}

/// Runs the scenario.
pub(crate) async fn run(site: &Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let time = length.pick(Duration::from_secs(1), Duration::from_secs(10));
    let mut loads = Loads {
        site,
        sts: Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?,
        gateway: Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?,
        form: site.mint_form(),
    };
    let mut costs = Vec::new();
    for work in Work::ALL {
        progress(work.name());
        loads.run(work, Duration::from_secs(1)).await?;
        site.settle().await?;
        let before = stage_times(&site.world.stack.metrics(site.gateway()?).await);
        let cost = measure(&mut loads, work, time, length.repeats()).await?;
        let after = stage_times(&site.world.stack.metrics(site.gateway()?).await);
        report.errors(work.key(), cost.errors);
        report.raw(format!("{}_cpu_us", work.key()), json!(cost.us));
        costs.push((cost, before, after));
    }
    let mut stages = None;
    let mut kept = Vec::new();
    for (cost, before, after) in costs {
        if cost.work == Work::MintAndCall {
            stages = Some((before, after));
        }
        kept.push(cost);
    }
    show(&kept, time, length, report);
    if let Some((before, after)) = stages {
        show_stages(&before, &after, report);
    }
    if let Some(governed) = kept.first() {
        paced(site, governed.per_second().median / 2.0, length, report).await?;
    }
    counts::run(site, report).await
}

async fn measure(loads: &mut Loads<'_>, work: Work, time: Duration, repeats: usize) -> anyhow::Result<Cost> {
    let mut cost = Cost {
        work,
        us: BTreeMap::new(),
        windows: Vec::new(),
        errors: 0,
    };
    for _repeat in 0..repeats {
        let before = loads.site.used()?;
        let (window, failed) = loads.run(work, time).await?;
        let during = loads.site.used()?;
        // Evidence is stored after the answer, and belongs to the price.
        loads.site.settle().await?;
        let after = loads.site.used()?;
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let each_us = |until: &[(&'static str, Duration)]| -> Vec<(&'static str, f64)> {
            let used = until.iter().zip(&before).map(|((name, until), (_, since))| {
                let used = until.saturating_sub(*since).as_secs_f64();
                (*name, used * 1e6 / window.count as f64)
            });
            used.collect()
        };
        for (name, us) in each_us(&after) {
            cost.us.entry(name).or_default().push(us);
        }
        let answered = each_us(&during).into_iter();
        let answered = answered.filter_map(|(name, us)| PATH.contains(&name).then_some(us));
        cost.us
            .entry("until the answers")
            .or_default()
            .push(answered.sum());
        cost.errors += failed;
        cost.windows.push(window);
    }
    Ok(cost)
}

fn show(costs: &[Cost], time: Duration, length: Length, report: &mut Report) {
    for cost in costs {
        let key = cost.work.key();
        report.figure(format!("{key}_per_s"), cost.per_second().median);
        for percent in [50, 99] {
            report.figure(format!("{key}_p{percent}_ms"), cost.percentile_ms(percent));
        }
        if let Some(total) = cost.path() {
            report.figure(format!("{key}_cpu_us"), total);
        }
        for name in PROCESSES {
            if let Some(us) = cost.median(name) {
                report.figure(format!("{key}_{name}_cpu_us"), us);
            }
        }
        if cost.work == Work::MintAndCall {
            report.figure("sts_cpu_us", cost.median("sts").unwrap_or_default());
        }
    }
    let names: BTreeSet<&str> = costs.iter().flat_map(|cost| cost.us.keys().copied()).collect();
    let line = |name: &str, value: &dyn Fn(&Cost) -> [String; 2]| {
        let cells = costs.iter().flat_map(value);
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let cells = |repeats: Repeats, digits: usize| {
        let spread = format!("{:.0}", repeats.spread_percent);
        [format!("{:.digits$}", repeats.median), spread]
    };
    let mut rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            line(name, &|cost| {
                cells(Repeats::of(cost.us.get(name).cloned().unwrap_or_default()), 0)
            })
        })
        .collect();
    let none = String::new;
    rows.push(line("**gateway, STS, Redis and PostgreSQL**", &|cost| {
        [
            cost.path()
                .map_or_else(|| "-".to_owned(), |us| format!("{us:.0}")),
            none(),
        ]
    }));
    rows.push(line("a second", &|cost| cells(cost.per_second(), 0)));
    rows.push(line("p50 ms", &|cost| {
        [format!("{:.2}", cost.percentile_ms(50)), none()]
    }));
    rows.push(line("p99 ms", &|cost| {
        [format!("{:.2}", cost.percentile_ms(99)), none()]
    }));
    rows.push(line("errors", &|cost| [cost.errors.to_string(), none()]));
    let head: Vec<&str> = std::iter::once("CPU us of")
        .chain(costs.iter().flat_map(|cost| [cost.work.name(), "±%"]))
        .collect();
    report.table("A governed call with its mint", &head, &rows);
    let bars: Vec<(String, Vec<f64>)> = costs
        .iter()
        .map(|cost| {
            let parts = PROCESSES.iter().map(|name| cost.median(name).unwrap_or_default());
            (cost.work.name().to_owned(), parts.collect())
        })
        .collect();
    if let Some(drawing) = plot::stacked(
        "CPU us by process, down to the evidence in the database",
        &PROCESSES,
        &bars,
    ) {
        report.plot("CPU by process", "governed.svg", drawing);
    }
    report.remark(&format!(
        "Closed loop of {CONNECTIONS} connections, or pairs of them, on all processors, the load on the same ones. Medians of {} windows of {} s after a warm-up; ±: largest minus \
         smallest. The time of a process is what the kernel charged it, with what it does after the answer, down to the evidence in the database; `until the \
         answers` is the sum of gateway, STS, Redis and PostgreSQL while calls were made (the audit service's writes in it).",
        length.repeats(),
        time.as_secs(),
    ));
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

/// Mint and call at a constant rate.
async fn paced(site: &Site, per_second: f64, length: Length, report: &mut Report) -> anyhow::Result<()> {
    progress(&format!(
        "{per_second:.0} mints and calls a second, arriving evenly"
    ));
    let count = open_loop::count(
        per_second,
        length.pick(Duration::from_secs(1), Duration::from_secs(10)),
    );
    let (form, authority) = (site.mint_form(), authority(site.world.stack.sts_url()));
    let mut all: Vec<Paced> = Vec::new();
    for repeat in 0..=length.repeats() {
        let sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
        let gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
        let pairs = sts.senders.into_iter().zip(gateway.senders).collect();
        let (form, authority) = (form.clone(), authority.clone());
        let ask = move |(mut sts, mut gateway), _number| {
            let (form, authority) = (form.clone(), authority.clone());
            async move {
                let governed = async {
                    let mandate = mint(&mut sts, &authority, &form).await?;
                    send(&mut gateway, Site::call("/", &mandate)?).await?;
                    Ok(())
                };
                let outcome = governed.await;
                ((sts, gateway), outcome)
            }
        };
        let paced = open_loop::run(pairs, count, per_second, ask).await?;
        site.settle().await?;
        // The first warms up.
        if repeat > 0 {
            all.push(paced);
        }
    }
    report.errors("paced", all.iter().map(|paced| paced.errors).sum());
    for percent in [50, 99] {
        report.figure(
            format!("paced_p{percent}_ms"),
            open_loop::percentile(&all, percent),
        );
    }
    let row = open_loop::row("mint and governed call", &all);
    report.table("Mint and call at a constant rate, ms", &open_loop::HEAD, &[row]);
    report.remark(&format!(
        "Open loop on all processors: {per_second:.0} a second arrive evenly, half of what the closed loop did. The time of both requests together begins when the first is due, so \
         a stall is paid by all that it kept waiting. Medians of {} windows of {count}.",
        length.repeats()
    ));
    Ok(())
}

fn authority(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}
