//! What does the gateway add to the time of a request when it is half busy?
//!
//! An open loop: requests arrive at a constant rate, half of what the gateway does at most on its one processor, through the
//! bare proxy and through the gateway in turn.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::load::{Connections, send};
use crate::open_loop::{self, Paced, percentile};
use crate::plot;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};

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
    let window = length.pick(Duration::from_secs(1), Duration::from_secs(10));
    let count = open_loop::count(per_second, window);
    progress(&format!("{per_second:.0} requests a second, arriving evenly"));
    let gateway = site.world.stack.gateway_url();
    let (mut direct, mut reusable, mut governed) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 0..=length.repeats() {
        let again = Arc::new(vec![site.reusable.clone()]);
        let windows = [
            pace(bare, Arc::clone(&again), count, per_second).await?,
            pace(gateway, again, count, per_second).await?,
        ];
        let once = Arc::new(site.one_shot(count).await?);
        site.settle().await?;
        let once = pace(gateway, once, count, per_second).await?;
        site.settle().await?;
        // The first round warms up.
        if repeat > 0 {
            let [through_bare, through_gateway] = windows;
            direct.push(through_bare);
            reusable.push(through_gateway);
            governed.push(once);
        }
    }
    let ways = [
        ("bare Pingora", &direct),
        ("gateway, reusable mandate", &reusable),
        ("gateway, one-shot mandate", &governed),
    ];
    for (name, paced) in ways {
        let raw: Vec<_> = paced
            .iter()
            .map(|paced| json!(paced.times.percentiles_ms()))
            .collect();
        report.raw(format!("latency_{name}_percentiles_ms"), raw);
    }
    let errors = ways
        .iter()
        .flat_map(|(_, paced)| *paced)
        .map(|paced| paced.errors);
    report.errors("latency", errors.sum());
    let added = |of: &[Paced], percent: usize| percentile(of, percent) - percentile(&direct, percent);
    for percent in [50, 99] {
        report.figure(format!("added_p{percent}_ms"), added(&governed, percent));
        report.figure(format!("reusable_added_p{percent}_ms"), added(&reusable, percent));
    }
    let rows = ways.map(|(name, paced)| open_loop::row(name, paced));
    report.table("Time of a request at half load, ms", &open_loop::HEAD, &rows);
    let series: Vec<(String, Vec<(f64, f64)>)> = ways
        .iter()
        .map(|(name, paced)| {
            let points = [50, 75, 90, 95, 98, 99].map(|percent| {
                // One in so many is slower.
                #[expect(clippy::cast_precision_loss, reason = "a percentage")]
                let one_in = 100.0 / (100.0 - percent as f64);
                (one_in, percentile(paced, percent))
            });
            ((*name).to_owned(), points.to_vec())
        })
        .collect();
    let title = "Time of the slowest request of so many, at half load";
    if let Some(drawing) = plot::lines(title, "requests", "ms", &series) {
        report.plot(title, "latency.svg", drawing);
    }
    report.remark(&format!(
        "Open loop: {per_second:.0} requests a second arrive evenly, half of the gateway's most on one processor with one-shot mandates; the time begins when a request is due. With a one-shot mandate the \
         gateway adds {:.2} ms at p50 and {:.2} ms at p99, waking the STS and Redis on the other processor included. Medians of {} windows of {} s in turn, after a round of warm-up.",
        added(&governed, 50),
        added(&governed, 99),
        length.repeats(),
        window.as_secs(),
    ));
    Ok(())
}

/// One window of requests, each with the next of the mandates.
async fn pace(url: &str, mandates: Arc<Vec<String>>, count: usize, per_second: f64) -> anyhow::Result<Paced> {
    let connections = Connections::open(url, CONNECTIONS).await?;
    let ask = move |mut connection, number: usize| {
        let mandates = Arc::clone(&mandates);
        async move {
            let mandate = mandates.get(number % mandates.len().max(1));
            let asked = async {
                let request = Site::call("/", mandate.map_or("", String::as_str))?;
                send(&mut connection, request).await.map(drop)
            };
            let outcome = asked.await;
            (connection, outcome)
        }
    };
    open_loop::run(connections.senders, count, per_second, ask).await
}
