//! What does a governed call ask of the database, of Redis, of other services and of the heap? The same load once more, counted.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::allocations::Counter;
use crate::load::{Connections, Until};
use crate::process;
use crate::report::{Report, progress};
use crate::site::{CONNECTIONS, Site};

/// Calls over which allocations are counted.
const COUNTED: usize = 2_000;

/// What counters tell.
struct Reading {
    statements: f64,
    round_trips: f64,
    sts_calls: f64,
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
            sts_calls: value(&gateway, "/sts_exchanges")?,
        })
    }
}

/// Counts in a site that is warm.
pub(crate) async fn run(site: &Site, report: &mut Report) -> anyhow::Result<()> {
    progress("counting statements, round trips and allocations");
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let (form, call) = (site.mint_form(), |mandate: &str| Site::call("/", mandate));
    let before = Reading::take(site).await?;
    let (window, errors) = sts
        .governed(&mut gateway, &form, call, Duration::from_secs(1))
        .await?;
    site.settle().await?;
    let after = Reading::take(site).await?;
    report.errors("counting", errors);
    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
    let each = |value: fn(&Reading) -> f64| (value(&after) - value(&before)) / window.count as f64;
    let (sql, bus, calls) = (
        each(|reading| reading.statements),
        each(|reading| reading.round_trips),
        each(|reading| reading.sts_calls),
    );
    report.figure("sql_per_call", sql);
    report.figure("redis_per_call", bus);
    report.figure("sts_calls_per_call", calls);
    let allocations = match allocations(site).await {
        Ok(allocations) => {
            report.figure("allocs_per_call", allocations);
            format!("{allocations:.0}")
        }
        Err(error) => format!("not counted: {error:#}"),
    };
    let rss = process::resident_mib(site.gateway()?)?;
    let rows = [
        ("SQL statements of the STS", format!("{sql:.3}")),
        ("round trips of gateway and STS to Redis", format!("{bus:.2}")),
        ("HTTP requests of the client: mint and call", "2".to_owned()),
        ("HTTP requests of the gateway to the STS", format!("{calls:.2}")),
        ("HTTP requests of the gateway to the upstream", "1".to_owned()),
        ("heap allocations in the gateway", allocations),
        (
            "resident memory of the gateway after that load, MiB",
            format!("{rss:.0}"),
        ),
    ];
    let rows = rows.map(|(what, count)| vec![what.to_owned(), count]);
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
        .call(
            |_number| Site::call("/", &site.reusable),
            Until::Count(CONNECTIONS),
        )
        .await?;
    let counter = Counter::attach(site.gateway()?.id().unwrap_or_default())?;
    let call = |number: usize| Site::call("/", mandates.get(number).map_or("", String::as_str));
    let window = gateway.call(call, Until::Count(COUNTED)).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a few hundred thousand")]
    let calls = counter.finish()? as f64 / window.count as f64;
    Ok(calls)
}
