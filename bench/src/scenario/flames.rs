//! Which functions take the processor time of a governed call, in the gateway and in the STS?

use std::time::Duration;

use crate::load::Connections;
use crate::plot;
use crate::profile::{Sampling, Stacks};
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};

/// Runs the scenario. Nothing is measured meanwhile: sampling costs time.
pub(crate) async fn run(site: &Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let time = length.pick(Duration::from_secs(3), Duration::from_secs(10));
    let mut shares = Vec::new();
    let mut drawings = Vec::new();
    for (name, process) in [("gateway", site.gateway()?), ("sts", site.sts()?)] {
        progress(&format!("sampling the {name}"));
        match sampled(site, process.id().unwrap_or_default(), time, report).await {
            Ok(stacks) => {
                if name == "gateway" {
                    shares.extend(stacks.stages());
                }
                drawings.push((name, stacks));
            }
            Err(error) => {
                report.section("Flame graphs");
                report.remark(&format!("Skipped: {error:#}."));
                return Ok(());
            }
        }
    }
    show_stages(shares, report);
    report.section("Flame graphs");
    for (name, stacks) in drawings {
        let title = format!("{name}: processor time of governed calls with their mint");
        report.plot(&title, &format!("flames_{name}.svg"), stacks.flame_graph(&title)?);
        report.file(format!("flames_{name}.folded"), stacks.into_text());
    }
    report.remark(
        "`perf` under the load of mints and governed calls, in a run of its own; functions that the compiler has inlined count for whoever they are in. The folded stacks are beside \
         the drawings.",
    );
    Ok(())
}

async fn sampled(site: &Site, pid: u32, time: Duration, report: &mut Report) -> anyhow::Result<Stacks> {
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let (form, call) = (site.mint_form(), |mandate: &str| Site::call("/", mandate));
    let sampling = Sampling::start(pid, time)?;
    let (_window, errors) = sts.governed(&mut gateway, &form, call, time).await?;
    report.errors("flames", errors);
    let stacks = sampling.finish().await;
    site.settle().await?;
    stacks
}

/// The gateway's time of a governed call, shared out by the samples.
fn show_stages(shares: Vec<(String, f64)>, report: &mut Report) {
    let Some(us) = report
        .figures()
        .get("governed_gateway_cpu_us")
        .and_then(serde_json::Value::as_f64)
    else {
        return;
    };
    let mut stages: Vec<(String, f64)> = shares
        .into_iter()
        .map(|(stage, percent)| (stage, us * percent / 100.0))
        .collect();
    stages.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let rows: Vec<Vec<String>> = stages
        .iter()
        .map(|(stage, stage_us)| {
            vec![
                stage.clone(),
                format!("{stage_us:.1}"),
                format!("{:.0}", 100.0 * stage_us / us),
            ]
        })
        .collect();
    report.table(
        "CPU of a governed call in the gateway, by stage",
        &["stage", "CPU us", "%"],
        &rows,
    );
    let names: Vec<&str> = stages.iter().map(|(stage, _)| stage.as_str()).collect();
    let values = stages.iter().map(|(_, us)| *us).collect();
    let title = "CPU us of a governed call in the gateway, by stage";
    if let Some(drawing) = plot::stacked(title, &names, &[("gateway".to_owned(), values)]) {
        report.plot(title, "stages.svg", drawing);
    }
    report.remark(
        "The gateway's processor time of `A governed call with its mint`, shared out as samples of its stacks lie; kernel time counts for whoever called it. In no stage are HTTP \
         with client and upstream, the publishing of evidence, and the runtime, whose threads sleep and wake each other.",
    );
}
