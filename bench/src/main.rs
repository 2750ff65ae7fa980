//! Load scenarios against real processes: what do they cost, and how fast is what follows a change?
//!
//! `./x bench <scenario>` builds everything optimised, starts PostgreSQL and Redis on free ports, and runs this. The micro
//! benches are in `benches/`.
#![expect(
    clippy::disallowed_methods,
    reason = "what is measured here is the time that really passes"
)]

mod aims;
mod allocations;
mod conditions;
mod docs;
mod headline;
mod load;
mod open_loop;
mod peer;
mod plot;
mod process;
mod profile;
mod report;
mod scenario;
mod site;
mod summary;
mod way;
mod world;
mod wrk;

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

use crate::conditions::Conditions;
use crate::report::{Report, progress};
use crate::scenario::{
    Length, disturbance, fanout, flames, governed, growth, latency, peers, propagation, shapes, soak,
    streams, sts,
};
use crate::site::{Site, Stores};

/// Runs load scenarios and prints what they measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to run. Everything when nothing is named; with --quick, what the headline figures need.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Shorter windows and fewer changes: for a first look.
    #[arg(long)]
    quick: bool,
    /// Measure only this class of exchange, e.g. `gateway_leg`: to look at it with a profiler.
    #[arg(long, value_name = "KEY")]
    only: Option<String>,
    /// Also write the headline figures, flat, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the page, its drawings and the raw figures go.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "CARACAL_BENCH_REPORT",
        default_value = "target/bench/report"
    )]
    report: PathBuf,
    /// Write the sections that the documentation shows into it; for whole runs on a quiet machine.
    #[arg(long)]
    docs: bool,
    /// A Python environment in which peers are installed.
    #[arg(long, value_name = "FOLDER", env = "CARACAL_BENCH_PEERS")]
    peers: Option<PathBuf>,
    #[command(flatten)]
    stores: Stores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// What a governed call costs with its mint, and each process.
    Governed,
    /// Which functions and stages that time goes to; needs `perf`.
    Flames,
    /// What a request costs the gateway and other proxies on one processor; what the gateway adds to its time.
    Peers,
    /// What more connections make of that.
    Connections,
    /// What a body makes of it.
    Bodies,
    /// What an event on an open stream costs, and a message through a web socket.
    Fanout,
    /// Whether a call costs the same in a zone that has grown.
    Growth,
    /// What clients notice of a start, and of configurations that change.
    Disturbance,
    /// What becomes of cost and memory over very many calls.
    Soak,
    /// From a change to its effect at two token services and a gateway.
    Propagation,
    /// From the end of a session to the end of its open responses, among many others.
    Streams,
    /// What each class of exchange costs the token service.
    Sts,
}

/// Where the gateway has a processor of its own.
const BOUND: [Scenario; 4] = [
    Scenario::Peers,
    Scenario::Connections,
    Scenario::Bodies,
    Scenario::Fanout,
];

/// What the headline figures need.
const HEADLINE: [Scenario; 4] = [
    Scenario::Governed,
    Scenario::Peers,
    Scenario::Streams,
    Scenario::Propagation,
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let length = if arguments.quick {
        Length::Quick
    } else {
        Length::Full
    };
    let asked = |scenario| {
        let is_headline = HEADLINE.contains(&scenario) || length == Length::Full;
        arguments.scenarios.contains(&scenario) || arguments.scenarios.is_empty() && is_headline
    };
    let mut report = Report::default();
    let conditions = Conditions::note(command(&arguments));
    let is_bound = BOUND.into_iter().any(asked);
    if asked(Scenario::Governed) || asked(Scenario::Flames) || is_bound {
        let ran = Box::pin(governed_calls(&arguments, &asked, length, &mut report)).await;
        report.ended("governed calls", ran);
    }
    if asked(Scenario::Disturbance) || asked(Scenario::Growth) {
        let ran = Box::pin(growing(&arguments, &asked, length, &mut report)).await;
        report.ended("a zone that grows", ran);
    }
    if asked(Scenario::Soak) {
        let ran = Box::pin(many_calls(&arguments, length, &mut report)).await;
        report.ended("soak", ran);
    }
    if asked(Scenario::Streams) {
        let ran = Box::pin(streams::run(length, &mut report)).await;
        report.ended("streams", ran);
    }
    if asked(Scenario::Propagation) {
        let ran = Box::pin(propagation::run(length, &mut report)).await;
        report.ended("propagation", ran);
    }
    if asked(Scenario::Sts) {
        let ran = Box::pin(sts::run(length, arguments.only.as_deref(), &mut report)).await;
        report.ended("sts", ran);
    }
    aims::show(&mut report);
    conditions.show(&mut report);
    conditions::shows_not(&mut report);
    headline::show(&conditions.line(), &mut report);
    report.put_first(4);
    report.write(&arguments.report)?;
    progress(&format!(
        "the report of these {} s is {}",
        conditions.elapsed().as_secs(),
        arguments.report.join("report.md").display()
    ));
    if arguments.docs {
        docs::renew(&report)?;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json())?;
    }
    // What was measured is kept, and who asked learns that it is not all.
    ensure!(
        report.unfinished().is_empty(),
        "not everything ran to its end: {}",
        report.unfinished().join(", ")
    );
    Ok(())
}

/// What a governed call costs, and what goes on beside it.
async fn governed_calls(
    arguments: &Arguments,
    asked: &impl Fn(Scenario) -> bool,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
    if asked(Scenario::Governed) {
        let ran = Box::pin(governed::run(&site, length, report)).await;
        report.ended("governed", ran);
    }
    if asked(Scenario::Flames) {
        let ran = Box::pin(flames::run(&site, length, report)).await;
        report.ended("flames", ran);
    }
    if BOUND.into_iter().any(asked) {
        site.bind().await?;
        let ran = Box::pin(on_one_processor(&site, arguments, asked, length, report)).await;
        report.ended("proxies on one processor", ran);
        process::bind_this_thread(&site.processors.all)?;
    }
    Ok(())
}

/// What changes and growth do to it.
async fn growing(
    arguments: &Arguments,
    asked: &impl Fn(Scenario) -> bool,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
    if asked(Scenario::Disturbance) {
        let ran = Box::pin(disturbance::run(&mut site, length, report)).await;
        report.ended("disturbance", ran);
    }
    if asked(Scenario::Growth) {
        let ran = Box::pin(growth::run(&mut site, length, report)).await;
        report.ended("growth", ran);
    }
    Ok(())
}

async fn many_calls(arguments: &Arguments, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
    Box::pin(soak::run(&site, length, report)).await
}

/// The scenarios in which each proxy has one processor.
async fn on_one_processor(
    site: &Site,
    arguments: &Arguments,
    asked: &impl Fn(Scenario) -> bool,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let setting = peers::Measuring::of(site, arguments.peers.clone()).await?;
    let bare = setting.bare().await?;
    if asked(Scenario::Peers) {
        let most_per_second = Box::pin(setting.run(&bare, length, report)).await?;
        Box::pin(latency::run(site, &bare.url, most_per_second, length, report)).await?;
        report.figure("gateway_rss_mib", process::resident_mib(site.gateway()?)?);
    }
    if asked(Scenario::Connections) {
        let ran = Box::pin(shapes::connections(site, &bare, length, report)).await;
        report.ended("connections", ran);
    }
    if asked(Scenario::Bodies) {
        let ran = Box::pin(shapes::bodies(site, &bare, length, report)).await;
        report.ended("bodies", ran);
    }
    if asked(Scenario::Fanout) {
        let ran = Box::pin(fanout::run(site, &bare, length, report)).await;
        report.ended("fanout", ran);
    }
    Ok(())
}

/// What to run to get this again.
fn command(arguments: &Arguments) -> String {
    let scenarios = arguments.scenarios.iter().filter_map(Scenario::to_possible_value);
    let mut command = "./x bench".to_owned();
    for scenario in scenarios {
        command.push(' ');
        command.push_str(scenario.get_name());
    }
    if arguments.quick {
        command.push_str(" --quick");
    }
    command
}
