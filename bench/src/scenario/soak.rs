//! What becomes of cost and memory over very many calls, each of which the gateway remembers?

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Connections;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};

/// Calls between two looks.
const PART: Duration = Duration::from_secs(10);
/// Longest run.
const PATIENCE: Duration = Duration::from_mins(20);

/// Runs the scenario.
pub(crate) async fn run(site: &Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let calls = length.pick(20_000, 1_000_000);
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let (form, call) = (site.mint_form(), |mandate: &str| Site::call("/", mandate));
    let (mut rows, mut raw, mut done, mut errors, mut spent) = (Vec::new(), Vec::new(), 0, 0, Duration::ZERO);
    let mut memory = Vec::new();
    while done < calls && spent < PATIENCE {
        let before = process::processor_time(site.gateway()?)?;
        let (window, failed) = sts.governed(&mut gateway, &form, call, PART).await?;
        let used = process::processor_time(site.gateway()?)?.saturating_sub(before);
        done += window.count;
        errors += failed;
        spent += PART;
        let metrics = site.world.stack.metrics(site.gateway()?).await;
        let remembered = metrics.pointer("/replay_table_entries").and_then(Value::as_u64);
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let cpu_us = used.as_secs_f64() * 1e6 / window.count as f64;
        let (gateway_mib, sts_mib) = (
            process::resident_mib(site.gateway()?)?,
            process::resident_mib(site.sts()?)?,
        );
        memory.push((remembered.unwrap_or_default(), gateway_mib));
        progress(&format!("{done} of {calls} calls, {gateway_mib:.0} MiB"));
        raw.push(json!({"calls": done, "remembered": remembered, "cpu_us": cpu_us, "gateway_mib": gateway_mib, "sts_mib": sts_mib}));
        rows.push(vec![
            done.to_string(),
            remembered.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            format!("{cpu_us:.0}"),
            format!("{gateway_mib:.0}"),
            format!("{sts_mib:.0}"),
        ]);
    }
    report.figure("soak_calls", done);
    report.errors("soak", errors);
    // From a gateway that is warm to one that remembers so many more.
    let (first, last) = (memory.first(), memory.last());
    if let Some(((some, least), (many, most))) = first.zip(last)
        && done >= 1_000_000
    {
        #[expect(clippy::cast_precision_loss, reason = "some million")]
        let millions = (many - some) as f64 / 1e6;
        report.figure("million_jtis_added_mib", (most - least) / millions);
    }
    report.figure("soak_gateway_mib", process::resident_mib(site.gateway()?)?);
    report.raw("soak", raw);
    // Twenty looks are enough to see a slope.
    let step = rows.len().div_ceil(20).max(1);
    let last = rows.len() - 1;
    let shown: Vec<_> = rows
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at % step == 0 || *at == last)
        .map(|(_, row)| row)
        .collect();
    let head = [
        "calls",
        "mandates remembered",
        "gateway CPU us",
        "gateway MiB",
        "STS MiB",
    ];
    report.table("Many calls", &head, &shown);
    report.remark(&format!(
        "{done} governed calls with their mints in a closed loop of {CONNECTIONS} pairs of connections, {errors} errors. The gateway remembers each mandate until it has expired."
    ));
    Ok(())
}
