//! What does the gateway add to the time of a request when it is half busy?
//!
//! An open loop: requests arrive at a constant rate, half of what the gateway does at most on its one processor, through the
//! bare proxy and through the gateway in turn.

use std::time::Duration;

use serde_json::json;

use crate::load::Connections;
use crate::open_loop::{self, Paced};
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};
use crate::summary::Repeats;

/// Runs the scenario in a site whose gateway is bound to one processor. `bare` is a proxy without a stage, `most_per_second` what the
/// gateway does at most.
pub(crate) async fn run(
    site: &Site,
    bare: &str,
    most_per_second: f64,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let per_second = most_per_second / 2.0;
    let window = length.pick(Duration::from_secs(2), Duration::from_secs(10));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some thousand"
    )]
    let count = (per_second * window.as_secs_f64()) as usize;
    progress(&format!("{per_second:.0} requests a second, arriving evenly"));
    let (mut direct, mut governed) = (Vec::new(), Vec::new());
    for _repeat in 0..length.repeats() {
        let requests = (0..count).map(|_number| Site::call("/", &site.reusable));
        let connections = Connections::open(bare, CONNECTIONS).await?;
        direct.push(open_loop::run(connections, requests.collect::<Result<_, _>>()?, per_second).await?);
        let mandates = site.one_shot(count).await?;
        site.settle().await?;
        let requests = mandates.iter().map(|mandate| Site::call("/", mandate));
        let connections = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
        governed.push(open_loop::run(connections, requests.collect::<Result<_, _>>()?, per_second).await?);
        site.settle().await?;
    }
    let mut rows = Vec::new();
    let percentile = |of: &[Paced], percent: usize| {
        Repeats::of(
            of.iter()
                .map(|paced| paced.times.percentile_ms(percent))
                .collect(),
        )
        .median
    };
    for (name, paced) in [
        ("bare Pingora", &direct),
        ("gateway, one-shot mandate", &governed),
    ] {
        let mut row = vec![name.to_owned()];
        row.extend([50, 90, 99, 100].map(|percent| format!("{:.2}", percentile(paced, percent))));
        row.push(paced.iter().map(|paced| paced.errors).sum::<usize>().to_string());
        rows.push(row);
        let raw: Vec<_> = paced
            .iter()
            .map(|paced| json!(paced.times.percentiles_ms()))
            .collect();
        report.raw(format!("latency_{name}_percentiles_ms"), raw);
    }
    let added = |percent: usize| percentile(&governed, percent) - percentile(&direct, percent);
    report.figure("added_p50_ms", added(50));
    report.figure("added_p99_ms", added(99));
    report.table(
        "Time of a request at half load, ms",
        &["through", "p50", "p90", "p99", "max", "errors"],
        &rows,
    );
    report.remark(&format!(
        "Open loop: {per_second:.0} requests a second arrive evenly, half of the gateway's most on one processor; the time begins when a request is due. The gateway adds \
         {:.2} ms at p50 and {:.2} ms at p99, waking the token service and Redis on the other processor included. Medians of {} windows of {} s in turn.",
        added(50),
        added(99),
        length.repeats(),
        window.as_secs(),
    ));
    Ok(())
}
