//! Does a governed call cost the same in a zone that has grown: 10,000 applications and resources, chains of delegations, a million
//! revocations?
//!
//! The zone grows by statements in its database, which fire the same triggers as the admin API, only sooner.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::load::Connections;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};
use crate::summary::Repeats;
use crate::world::RESOURCE;

/// Applications, and resources, of a grown zone.
const CROWD: usize = 10_000;
/// Lengths of chains.
const HOPS: [usize; 3] = [1, 3, 10];
/// Live revocations. The others are compared with the first.
const REVOCATIONS: [usize; 3] = [1_000, 100_000, MILLION];
const MILLION: usize = 1_000_000;
/// Longest wait until a service knows so much more.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a governed call costs with its mint.
struct Cost {
    gateway_us: Repeats,
    sts_us: Repeats,
    p50_ms: f64,
    gateway_mib: f64,
    sts_mib: f64,
}

/// Runs the scenario.
pub(crate) async fn run(site: &mut Site, length: Length, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let form = site.mint_form();
    progress("a small zone");
    let small = cost(site, &form, length).await?;
    rows.push(row("small zone, 1 hop", &small, &small));
    for hops in HOPS {
        progress(&format!("{hops} hops"));
        let coordinator = site.world.stack.coordinator_as(&site.world.lifecycle().await);
        let agent = site.world.agent(&coordinator, hops).await;
        let deep = cost(site, &site.mint_form_of(&agent), length).await?;
        report.figure(format!("hops_{hops}_gateway_cpu_us"), deep.gateway_us.median);
        report.figure(format!("hops_{hops}_sts_cpu_us"), deep.sts_us.median);
        rows.push(row(&format!("chain of {hops} hops"), &deep, &small));
    }
    progress("10,000 applications and resources");
    crowd(site).await?;
    let crowded = cost(site, &form, length).await?;
    report.figure("crowd_ratio", total(&crowded) / total(&small));
    rows.push(row("10,000 applications and resources", &crowded, &small));
    let (mut remark, mut few) = (String::new(), None);
    for count in REVOCATIONS {
        progress(&format!("{count} revocations"));
        if !revoke(site, count).await? {
            remark = format!(
                " With {count} live revocations the gateway did not start within {} s.",
                PATIENCE.as_secs()
            );
            break;
        }
        let revoked = cost(site, &form, length).await?;
        rows.push(row(&format!("and {count} live revocations"), &revoked, &small));
        let few = few.get_or_insert((total(&revoked), revoked.gateway_mib));
        if count == MILLION {
            report.figure("million_revocations_ratio", total(&revoked) / few.0);
            report.figure("million_revocations_added_mib", revoked.gateway_mib - few.1);
        }
    }
    let head = [
        "zone",
        "gateway CPU us",
        "±%",
        "STS CPU us",
        "±%",
        "of small",
        "p50 ms",
        "gateway MiB",
        "STS MiB",
    ];
    report.table("A governed call with its mint as a zone grows", &head, &rows);
    report.remark(&format!(
        "{CONNECTIONS} pairs of connections in a closed loop on all processors; medians of {} windows. `of small`: gateway and STS together, compared with the small zone. Both services \
         were started anew to learn the revocations.",
        length.repeats()
    ));
    if !remark.is_empty() {
        report.remark(remark.trim());
    }
    Ok(())
}

fn total(cost: &Cost) -> f64 {
    cost.gateway_us.median + cost.sts_us.median
}

fn row(name: &str, cost: &Cost, small: &Cost) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.0}", cost.gateway_us.median),
        format!("{:.0}", cost.gateway_us.spread_percent),
        format!("{:.0}", cost.sts_us.median),
        format!("{:.0}", cost.sts_us.spread_percent),
        format!("{:.2}", total(cost) / total(small)),
        format!("{:.2}", cost.p50_ms),
        format!("{:.0}", cost.gateway_mib),
        format!("{:.0}", cost.sts_mib),
    ]
}

async fn cost(site: &Site, form: &Bytes, length: Length) -> anyhow::Result<Cost> {
    let time = length.pick(Duration::from_secs(1), Duration::from_secs(4));
    let mut sts = Connections::open(site.world.stack.sts_url(), CONNECTIONS).await?;
    let mut gateway = Connections::open(site.world.stack.gateway_url(), CONNECTIONS).await?;
    let call = |mandate: &str| Site::call("/", mandate);
    sts.governed(&mut gateway, form, call, Duration::from_secs(1))
        .await?;
    let (mut gateway_us, mut sts_us, mut p50_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _repeat in 0..length.repeats() {
        site.settle().await?;
        let used = || -> anyhow::Result<_> {
            let gateway = process::processor_time(site.gateway()?)?;
            Ok((gateway, process::processor_time(site.sts()?)?))
        };
        let before = used()?;
        let (window, errors) = sts.governed(&mut gateway, form, call, time).await?;
        let after = used()?;
        ensure!(errors == 0, "{errors} governed calls failed");
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let each_us = |since: Duration, until: Duration| {
            until.saturating_sub(since).as_secs_f64() * 1e6 / window.count as f64
        };
        gateway_us.push(each_us(before.0, after.0));
        sts_us.push(each_us(before.1, after.1));
        p50_ms.push(window.times.percentile_ms(50));
    }
    Ok(Cost {
        gateway_us: Repeats::of(gateway_us),
        sts_us: Repeats::of(sts_us),
        p50_ms: Repeats::of(p50_ms).median,
        gateway_mib: process::resident_mib(site.gateway()?)?,
        sts_mib: process::resident_mib(site.sts()?)?,
    })
}

async fn crowd(site: &Site) -> anyhow::Result<()> {
    let zone = &site.world.zone;
    sql(
        site,
        &format!(
            "INSERT INTO applications (id, zone_id, name, registration_method)
             SELECT 'crowd-' || n, '{zone}', 'crowd ' || n, 'managed' FROM generate_series(1, {CROWD}) n;
             INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, scopes)
             SELECT 'crowd-' || n, zone_id, 'crowd ' || n, 'resource://crowd-' || n, upstream_url, credential_provider_id, scopes
             FROM resources, generate_series(1, {CROWD}) n WHERE zone_id = '{zone}' AND identifier = '{RESOURCE}'"
        ),
    )?;
    site.settle().await
}

/// Revokes until there are so many; false when the gateway does not start with them.
async fn revoke(site: &mut Site, count: usize) -> anyhow::Result<bool> {
    let zone = &site.world.zone;
    sql(
        site,
        &format!(
            "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
             SELECT '{zone}', 'session', 'crowd-' || n, 'session_terminated', now() + interval '24 hours'
             FROM generate_series(1, {count}) n ON CONFLICT DO NOTHING"
        ),
    )?;
    let stack = &mut site.world.stack;
    stack.sts.first_mut().context("a token service")?.restart().await;
    let gateway = stack.gateways.first_mut().context("a gateway")?;
    gateway.stop().await;
    gateway.start_again();
    let knows = caracal_testing::wait_until(2 * PATIENCE, async || {
        let Ok(gateway) = site.gateway() else { return false };
        if site
            .world
            .stack
            .http()
            .request(
                Method::GET,
                &format!("{}/ready", gateway.base_url()),
                HeaderMap::new(),
                "",
            )
            .await
            .is_err()
        {
            return false;
        }
        let known = site.world.stack.metrics(gateway).await;
        let known = known.pointer("/revocations_active").and_then(Value::as_u64);
        known.is_some_and(|known| usize::try_from(known).is_ok_and(|known| known >= count))
    });
    if tokio::time::timeout(PATIENCE, knows).await.is_err() {
        return Ok(false);
    }
    site.until_it_passes().await;
    Ok(true)
}

/// Statements for the site's database.
fn sql(site: &Site, text: &str) -> anyhow::Result<()> {
    let mut psql = Command::new("psql");
    psql.args([
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        text,
        &site.world.stack.database.url(),
    ]);
    let output = psql.output().context("psql")?;
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
