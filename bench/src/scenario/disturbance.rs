//! What do clients notice of a start, and of configurations that change under load?

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::load::Connections;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};
use crate::summary::Times;
use crate::world::READ;

/// Pause between two activations.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs the scenario.
pub(crate) async fn run(site: &mut Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = starts(site, length, report).await?;
    rows.extend(changes(site, length, report).await?);
    report.table(
        "Starts and changes",
        &["what", "p50 ms", "p99 ms", "max ms", "errors"],
        &rows,
    );
    report.remark(&format!(
        "A start is from the process to the first governed call that passes, with everything else running. Under load: {CONNECTIONS} pairs of connections that mint and call; a policy \
         version is put in force every {} ms.",
        PAUSE.as_millis()
    ));
    Ok(())
}

fn row(name: &str, times: &Times, errors: u64) -> Vec<String> {
    let times = [times.percentile_ms(50), times.percentile_ms(99), times.max_ms()];
    let mut row = vec![name.to_owned()];
    row.extend(times.map(|ms| format!("{ms:.1}")));
    row.push(errors.to_string());
    row
}

async fn starts(site: &mut Site, length: Length, report: &mut Report) -> anyhow::Result<Vec<Vec<String>>> {
    progress("starts");
    let (mut gateway, mut sts) = (Vec::new(), Vec::new());
    for _start in 0..length.pick(3, 10) {
        site.world
            .stack
            .gateways
            .first_mut()
            .context("a gateway")?
            .kill9();
        let began = Instant::now();
        site.world
            .stack
            .gateways
            .first_mut()
            .context("a gateway")?
            .start_again();
        site.until_it_passes().await;
        gateway.push(began.elapsed());
        site.world
            .stack
            .sts
            .first_mut()
            .context("a token service")?
            .kill9();
        let began = Instant::now();
        site.world
            .stack
            .sts
            .first_mut()
            .context("a token service")?
            .start_again();
        site.until_it_passes().await;
        sts.push(began.elapsed());
    }
    let (gateway, sts) = (Times::of(gateway), Times::of(sts));
    report.figure("gateway_start_p50_ms", gateway.percentile_ms(50));
    report.figure("sts_start_p50_ms", sts.percentile_ms(50));
    Ok(vec![
        row("start of the gateway after a kill", &gateway, 0),
        row("start of the token service after a kill", &sts, 0),
    ])
}

async fn changes(site: &Site, length: Length, report: &mut Report) -> anyhow::Result<Vec<Vec<String>>> {
    progress("configurations under load");
    let time = length.pick(Duration::from_secs(3), Duration::from_secs(15));
    let versions = [
        site.world.policy_version("one", &[READ]).await,
        site.world.policy_version("other", &[READ]).await,
    ];
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let (form, call) = (site.mint_form(), |mandate: &str| Site::call("/", mandate));
    sts.governed(&mut gateway, &form, call, Duration::from_secs(1))
        .await?;
    let (still, failed_still) = sts.governed(&mut gateway, &form, call, time).await?;
    let change = async {
        for version in versions.iter().cycle() {
            site.world.activate(version).await;
            tokio::time::sleep(PAUSE).await;
        }
    };
    let changing = sts.governed(&mut gateway, &form, call, time);
    let (changing, failed) = tokio::select! {
        changing = changing => changing?,
        () = change => anyhow::bail!("changes do not end"),
    };
    report.figure("change_p99_ms", changing.times.percentile_ms(99));
    report.figure("change_still_p99_ms", still.times.percentile_ms(99));
    report.errors("change", failed);
    report.errors("change_still", failed_still);
    Ok(vec![
        row("governed call, nothing changes", &still.times, failed_still),
        row("governed call, policies change", &changing.times, failed),
    ])
}
