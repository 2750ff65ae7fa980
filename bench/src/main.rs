//! Load scenarios against real processes: what do they cost, and how fast is what follows a change?
//!
//! `./x bench <scenario>` builds everything optimised, starts PostgreSQL and Redis on free ports, and runs this. The micro
//! benches are in `benches/`.
#![expect(
    clippy::disallowed_methods,
    reason = "what is measured here is the time that really passes"
)]

mod allocations;
mod load;
mod open_loop;
mod peer;
mod plot;
mod process;
mod report;
mod scenario;
mod site;
mod summary;
mod way;
mod world;
mod wrk;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::report::{Report, progress};
use crate::scenario::{
    Length, disturbance, fanout, governed, growth, latency, peers, propagation, shapes, soak, streams, sts,
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
    /// Also write the figures, flat, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the page, its drawings and the raw figures go.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "CARACAL_BENCH_REPORT",
        default_value = "target/bench"
    )]
    report: PathBuf,
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
    conditions(&arguments, &mut report)?;
    let bound = [
        Scenario::Peers,
        Scenario::Connections,
        Scenario::Bodies,
        Scenario::Fanout,
    ]
    .map(asked);
    if asked(Scenario::Governed) || bound.contains(&true) {
        let mut site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
        if asked(Scenario::Governed) {
            Box::pin(governed::run(&site, length, &mut report)).await?;
        }
        if bound.contains(&true) {
            site.bind().await?;
            Box::pin(on_one_processor(&site, &arguments, bound, length, &mut report)).await?;
            process::bind_this_thread(&site.processors.all)?;
        }
    }
    if asked(Scenario::Disturbance) || asked(Scenario::Growth) {
        let mut site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
        if asked(Scenario::Disturbance) {
            Box::pin(disturbance::run(&mut site, length, &mut report)).await?;
        }
        if asked(Scenario::Growth) {
            Box::pin(growth::run(&mut site, length, &mut report)).await?;
        }
    }
    if asked(Scenario::Soak) {
        let site = Box::pin(Site::start(world::options(), arguments.stores)).await?;
        Box::pin(soak::run(&site, length, &mut report)).await?;
    }
    if asked(Scenario::Streams) {
        Box::pin(streams::run(length, &mut report)).await?;
    }
    if asked(Scenario::Propagation) {
        Box::pin(propagation::run(length, &mut report)).await?;
    }
    if asked(Scenario::Sts) {
        Box::pin(sts::run(length, arguments.only.as_deref(), &mut report)).await?;
    }
    shows_not(&mut report);
    report.write(&arguments.report)?;
    progress(&format!(
        "the report is {}",
        arguments.report.join("report.md").display()
    ));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json())?;
    }
    Ok(())
}

/// The scenarios in which each proxy has one processor.
async fn on_one_processor(
    site: &Site,
    arguments: &Arguments,
    [peers, connections, bodies, fanout]: [bool; 4],
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let setting = peers::Measuring::of(site, arguments.peers.clone()).await?;
    let bare = setting.bare().await?;
    if peers {
        let most_per_second = Box::pin(setting.run(&bare, length, report)).await?;
        Box::pin(latency::run(site, &bare.url, most_per_second, length, report)).await?;
        report.figure("gateway_rss_mib", process::resident_mib(site.gateway()?)?);
    }
    if connections {
        Box::pin(shapes::connections(site, &bare, length, report)).await?;
    }
    if bodies {
        Box::pin(shapes::bodies(site, &bare, length, report)).await?;
    }
    if fanout {
        Box::pin(fanout::run(site, &bare, length, report)).await?;
    }
    Ok(())
}

/// What a reader must know to judge the figures.
fn conditions(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let busy = read("/proc/loadavg");
    report.say("# What the bench measured");
    report.say("");
    report.say(&format!(
        "`./x bench{}{}`: Linux {}, {}, {} processors, load {} at the beginning.",
        arguments
            .scenarios
            .iter()
            .fold(String::new(), |text, scenario| format!("{text} {scenario:?}")
                .to_lowercase()),
        if arguments.quick { " --quick" } else { "" },
        read("/proc/sys/kernel/osrelease").trim(),
        processor.map_or("an unknown processor", |(_, name)| name),
        std::thread::available_parallelism()?,
        busy.split(' ').next().unwrap_or_default(),
    ));
    Ok(())
}

/// What no run of this shows.
fn shows_not(report: &mut Report) {
    report.say("\n## What this does not show\n");
    report.say(
        "Everything runs on one machine and speaks through its loopback: no network, no TLS between the parts, and processors shared with the load. Figures \
         of different runs or machines cannot be compared, ratios within one run can. A virtual machine wakes an idle processor slowly, which counts in every \
         latency and grows with the hops. The database is small and warm.",
    );
}
