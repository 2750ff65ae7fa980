//! What does a governed request cost the gateway, beside the same HTTP library with no stage?
//!
//! Both proxies run at once, before the same upstream, and take turns under the same closed loop.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use caracal_testing::{Behaviour, Process, ProcessSpec, Stack, Upstream, free_port};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use crate::load::{Connections, Window};
use crate::process;
use crate::report::{Report, progress};
use crate::world::{self, READ, RESOURCE, World};

/// Connections of the closed loop.
const CONNECTIONS: usize = 16;
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

/// What one way to the upstream came to.
struct Measured {
    name: &'static str,
    key: &'static str,
    window: Window,
    cpu_us: f64,
    /// Mean time of each stage in microseconds; `None` for a stage that is not told.
    stages: Vec<Option<f64>>,
}

/// Runs the scenario.
pub(crate) async fn run(quick: bool, report: &mut Report) -> anyhow::Result<()> {
    let count = if quick { 2_000 } else { 10_000 };
    progress("starting a stack for governed requests");
    let body = Bytes::from_static(b"{\"ok\":true}");
    let upstream = Upstream::start(Behaviour::Status(StatusCode::OK, body)).await;
    let world = World::start(world::options(), &upstream.url()).await;
    let plain = plain_proxy(&upstream).await?;
    let reusable = until_it_passes(&world).await;
    let lifecycle = world.lifecycle().await;
    let agent = world.agent(&world.stack.coordinator_as(&lifecycle), 1).await;
    let mut one_shot = Vec::new();
    for _mandate in 0..count {
        one_shot.push(world.one_shot(&agent).await);
    }

    let mut all = Vec::new();
    progress("the plain proxy");
    let request = |_number: usize| ask(&[]);
    all.push(
        measure(
            "plain proxy",
            "plain",
            &plain,
            plain.base_url(),
            None,
            count,
            request,
        )
        .await?,
    );
    let gateway = gateway(&world.stack)?;
    let url = world.stack.gateway_url();
    progress("reusable mandates");
    let bearer = format!("Bearer {reusable}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-caracal-resource", RESOURCE),
    ];
    let request = |_number: usize| ask(&headers);
    let stack = Some(&world.stack);
    all.push(
        measure(
            "gateway, reusable mandate",
            "reusable",
            gateway,
            url,
            stack,
            count,
            request,
        )
        .await?,
    );
    progress("one-shot mandates");
    let request = |number: usize| {
        let mandate = one_shot.get(number).context("enough mandates")?;
        ask(&[
            ("authorization", &format!("Bearer {mandate}")),
            ("x-caracal-resource", RESOURCE),
        ])
    };
    all.push(
        measure(
            "gateway, one-shot mandate",
            "one_shot",
            gateway,
            url,
            stack,
            count,
            request,
        )
        .await?,
    );
    conclude(&all, count, report);
    Ok(())
}

fn gateway(stack: &Stack) -> anyhow::Result<&Process> {
    stack.gateways.first().context("a stack with a gateway")
}

/// The plain proxy, listening.
async fn plain_proxy(upstream: &Upstream) -> anyhow::Result<Process> {
    let program = std::env::current_exe()?.with_file_name("plain_proxy");
    let port = free_port();
    let mut spec = ProcessSpec::program("plain-proxy", program);
    spec.arguments = vec![port.to_string(), upstream.address().to_string()];
    spec.base_url = format!("http://127.0.0.1:{port}");
    // It is ready when the upstream answers through it.
    Ok(Process::start(spec).await)
}

/// A reusable mandate, once the gateway lets it pass.
async fn until_it_passes(world: &World) -> String {
    let mandate = world.reusable().await;
    let bearer = format!("Bearer {mandate}");
    caracal_testing::wait_until(Duration::from_secs(20), async || {
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-caracal-resource", RESOURCE),
        ];
        let Ok(mut connections) = Connections::open(world.stack.gateway_url(), 1).await else {
            return false;
        };
        let one = connections.call(|_number| ask(&headers), 1).await;
        one.is_ok()
    })
    .await;
    mandate
}

fn ask(headers: &[(&str, &str)]) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::get(format!("/v1/{}", READ.replace(':', "/"))).header("host", "gateway.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::default())?)
}

async fn measure(
    name: &'static str,
    key: &'static str,
    process: &Process,
    url: &str,
    stack: Option<&Stack>,
    count: usize,
    request: impl Fn(usize) -> anyhow::Result<Request<Full<Bytes>>>,
) -> anyhow::Result<Measured> {
    let mut connections = Connections::open(url, CONNECTIONS).await?;
    let stages = async || match stack {
        Some(stack) => stage_times(&stack.metrics(process).await),
        None => vec![(0.0, 0.0); STAGES.len()],
    };
    let (before, told_before) = (process::processor_time(process)?, stages().await);
    let window = connections.call(request, count).await?;
    let (after, told_after) = (process::processor_time(process)?, stages().await);
    let used = after.saturating_sub(before);
    let mean = |((sum, number), (sum_before, number_before)): (&(f64, f64), &(f64, f64))| {
        let number = number - number_before;
        (number > 0.0).then(|| (sum - sum_before) * 1e6 / number)
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousand requests")]
    let cpu_us = used.as_secs_f64() * 1e6 / window.count as f64;
    Ok(Measured {
        name,
        key,
        cpu_us,
        stages: told_after.iter().zip(&told_before).map(mean).collect(),
        window,
    })
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

fn conclude(all: &[Measured], count: usize, report: &mut Report) {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|measured| {
            #[expect(clippy::cast_precision_loss, reason = "a count of some thousand requests")]
            let per_second = measured.window.count as f64 / measured.window.seconds;
            let times = &measured.window.times;
            report.figure(format!("gateway_{}_cpu_us", measured.key), measured.cpu_us);
            report.figure(
                format!("gateway_{}_p50_ms", measured.key),
                times.percentile_ms(50),
            );
            report.figure(
                format!("gateway_{}_p99_ms", measured.key),
                times.percentile_ms(99),
            );
            vec![
                measured.name.to_owned(),
                format!("{per_second:.0}"),
                format!("{:.0}", measured.cpu_us),
                format!("{:.2}", times.percentile_ms(50)),
                format!("{:.2}", times.percentile_ms(99)),
            ]
        })
        .collect();
    let head = ["proxy", "per second", "CPU us", "p50 ms", "p99 ms"];
    Report::table("A request through the gateway", &head, &rows);
    let rows: Vec<Vec<String>> = STAGES
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let cells = all.iter().skip(1).map(|measured| {
                let mean = measured.stages.get(index).copied().flatten();
                if let Some(mean) = mean {
                    report.figure(format!("gateway_{}_{stage}_us", measured.key), mean);
                }
                mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.1}"))
            });
            std::iter::once((*stage).to_owned()).chain(cells).collect()
        })
        .collect();
    Report::table(
        "Time of each stage, us",
        &["stage", "reusable", "one-shot"],
        &rows,
    );
    Report::remark(&format!(
        "{count} requests each over {CONNECTIONS} kept connections, one way after the other, to the same upstream. CPU is what the kernel charged \
         the proxy's process. The time of a stage is from its begin to its end, waiting included: exchange and replay wait for others, at the same \
         time, record for the write of the evidence, forward for the upstream."
    ));
}
