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
mod process;
mod report;
mod scenario;
mod summary;
mod world;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Runs load scenarios and prints what they measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to run; everything when nothing is named.
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// From a change to its effect at two token services and a gateway.
    Propagation,
    /// What each class of exchange costs the token service.
    Sts,
    /// What a governed request costs the gateway, beside a proxy with no stage.
    Gateway,
    /// From the end of a session to the end of its open responses, among many others.
    Streams,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let asked = |scenario| arguments.scenarios.is_empty() || arguments.scenarios.contains(&scenario);
    let mut report = Report::default();
    if asked(Scenario::Sts) {
        Box::pin(scenario::sts::run(
            arguments.quick,
            arguments.only.as_deref(),
            &mut report,
        ))
        .await?;
    }
    if asked(Scenario::Gateway) {
        Box::pin(scenario::gateway::run(arguments.quick, &mut report)).await?;
    }
    if asked(Scenario::Streams) {
        Box::pin(scenario::streams::run(arguments.quick, &mut report)).await?;
    }
    if asked(Scenario::Propagation) {
        Box::pin(scenario::propagation::run(arguments.quick, &mut report)).await?;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json())?;
    }
    Ok(())
}
