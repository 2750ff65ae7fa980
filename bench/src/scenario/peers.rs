//! What does a request cost the gateway, and what do other proxies take for the same one?
//!
//! Each proxy has one processor to itself, everything else has the others. They take turns in every round, so that whatever the
//! machine does beside falls on all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_testing::Api;
use p256::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::{Value, json};

use crate::headline;
use crate::peer::{BARE, KINDS, Peer, Setting};
use crate::plot;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Origin, Site};
use crate::summary::Repeats;
use crate::way::{Round, Sent, Way};
use crate::wrk::Outcome;

/// What one way came to in each round.
struct Measured {
    way: Way,
    rounds: Vec<Round>,
}

impl From<Way> for Measured {
    fn from(way: Way) -> Self {
        Self {
            way,
            rounds: Vec::new(),
        }
    }
}

/// A site whose gateway is bound to one processor, and what peers need to do the same work in it.
pub(crate) struct Measuring<'s> {
    site: &'s Site,
    setting: Setting,
    _authorizer: Origin,
}

impl<'s> Measuring<'s> {
    /// In this site. `environment` is where peers are that are not in the path of programs.
    pub(crate) async fn of(site: &'s Site, environment: Option<PathBuf>) -> anyhow::Result<Self> {
        let authorizer = Origin::start().await?;
        process::bind(
            authorizer.process.id().context("an authorizer")?,
            &site.processors.rest,
        )?;
        let stack = &site.world.stack;
        let path = format!("/.well-known/jwks.json?zone_id={}", site.world.zone);
        let keys = Api::new(stack.http().clone(), stack.sts_url(), None);
        let keys = keys.get(&path).await.json();
        let setting = Setting {
            origin: site.origin.port,
            authorizer: authorizer.port,
            issuer: stack.sts_url().to_owned(),
            key_pem: pem(keys.pointer("/keys/0").context("a key")?)?,
            key_set: keys.to_string(),
            mandate: site.reusable.clone(),
            environment,
            processor: site.processors.measured.clone(),
        };
        Ok(Self {
            site,
            setting,
            _authorizer: authorizer,
        })
    }

    /// The proxy without a stage.
    pub(crate) async fn bare(&self) -> anyhow::Result<Peer> {
        self.setting.start(&BARE).await
    }

    /// Measures the gateway, the bare proxy and every other that there is; gives what the gateway does at most in a second.
    pub(crate) async fn run(&self, bare: &Peer, length: Length, report: &mut Report) -> anyhow::Result<f64> {
        let (mut peers, mut skipped) = (Vec::new(), Vec::new());
        for kind in &KINDS {
            // A first look has three minutes for all.
            if length == Length::Quick && !headline::holds(&format!("{}_cpu_us", kind.key)) {
                skipped.push(format!("{} (only in longer runs)", kind.name));
                continue;
            }
            match self.setting.start(kind).await {
                Ok(peer) => peers.push(peer),
                Err(error) => {
                    progress(&format!("{} is skipped: {error:#}", kind.name));
                    skipped.push(format!("{} ({error:#})", kind.name));
                }
            }
        }
        let mut ways: Vec<Measured> = Way::through_gateway(self.site)?
            .into_iter()
            .map(Measured::from)
            .collect();
        for peer in std::iter::once(bare).chain(&peers) {
            ways.push(Way::through(peer)?.into());
        }
        let window = length.pick(Duration::from_secs(1), Duration::from_secs(4));
        for round in 0..=length.repeats() {
            progress(&format!("round {round} of {} ways to the upstream", ways.len()));
            for way in &mut ways {
                let measured = way.way.measure(self.site, &Sent::small(window)).await?;
                // The first round warms up.
                if round > 0 {
                    way.rounds.push(measured);
                }
            }
        }
        conclude(&ways, &skipped, window, report);
        let gateway = ways.first().context("a gateway")?;
        Ok(over(gateway, |round| round.outcome.per_second()).median)
    }
}

fn over(way: &Measured, value: fn(&Round) -> f64) -> Repeats {
    Repeats::of(way.rounds.iter().map(value).collect())
}

/// A P-256 key of a key set (RFC 7518 section 6.2) as PEM (RFC 5280 section 4.1).
fn pem(key: &Value) -> anyhow::Result<String> {
    let coordinate = |name: &str| {
        let text = key.get(name).and_then(Value::as_str).context("a P-256 key")?;
        anyhow::Ok(URL_SAFE_NO_PAD.decode(text)?)
    };
    // Uncompressed (SEC 1 section 2.3.3).
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let key = p256::PublicKey::from_sec1_bytes(&point)?;
    Ok(key.to_public_key_pem(LineEnding::LF)?)
}

fn conclude(ways: &[Measured], skipped: &[String], window: Duration, report: &mut Report) {
    let bare = ways.iter().find(|way| way.way.key == "bare_proxy");
    let bare = bare.map(|way| over(way, |round| round.cpu_us).median);
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for way in ways {
        let cpu_us = over(way, |round| round.cpu_us);
        report.figure(format!("{}_cpu_us", way.way.key), cpu_us.median);
        report.figure(
            format!("{}_per_s", way.way.key),
            over(way, |round| round.outcome.per_second()).median,
        );
        let raw: Vec<Value> = way
            .rounds
            .iter()
            .map(|round| {
                let Outcome {
                    requests,
                    seconds,
                    errors,
                    p50_us,
                    p90_us,
                    p99_us,
                    max_us,
                    ..
                } = round.outcome;
                json!({"cpu_us": round.cpu_us, "requests": requests, "seconds": seconds, "errors": errors,
                   "p50_us": p50_us, "p90_us": p90_us, "p99_us": p99_us, "max_us": max_us})
            })
            .collect();
        report.raw(format!("peers_{}", way.way.key), raw);
        let failed: u64 = way.rounds.iter().map(|round| round.outcome.errors).sum();
        report.errors(&way.way.key, failed);
        let ratio = bare.map_or_else(|| "-".to_owned(), |bare| format!("{:.2}", cpu_us.median / bare));
        rows.push(vec![
            way.way.name.clone(),
            format!("{:.0}", cpu_us.median),
            format!("{:.0}", cpu_us.spread_percent),
            ratio,
            format!("{:.0}", over(way, |round| round.outcome.per_second()).median),
            format!("{:.2}", over(way, |round| round.outcome.p50_us).median / 1e3),
            format!("{:.2}", over(way, |round| round.outcome.p99_us).median / 1e3),
            failed.to_string(),
        ]);
        bars.push((way.way.name.clone(), cpu_us.median));
    }
    let head = [
        "proxy",
        "CPU us",
        "±%",
        "of bare",
        "per second",
        "p50 ms",
        "p99 ms",
        "errors",
    ];
    report.table("A request through one proxy on one processor", &head, &rows);
    let by_key: BTreeMap<&str, f64> = ways
        .iter()
        .map(|way| (way.way.key.as_str(), over(way, |round| round.cpu_us).median))
        .collect();
    let remark = format!(
        "`wrk` with {CONNECTIONS} kept connections in a closed loop; each proxy alone on one processor with one worker, load, origin, authorizer, token service and stores on \
         the others. CPU is what the kernel charged the proxy's process; what the authorizer of a peer, or the token service, needs is not in it. Median of {} \
         rounds of {} s, in which all took turns; ±: largest minus smallest in percent.",
        ways.first().map_or(0, |way| way.rounds.len()),
        window.as_secs()
    );
    let mut ratios = Vec::new();
    for (name, this, that) in [
        (
            "gateway with a one-shot mandate to Envoy with jwt_authn and ext_authz",
            "gateway",
            "envoy_jwt_authz",
        ),
        (
            "gateway with a one-shot mandate to HAProxy that verifies",
            "gateway",
            "haproxy_jwt",
        ),
        (
            "gateway with a reusable mandate to the bare proxy",
            "reusable_gateway",
            "bare_proxy",
        ),
    ] {
        if let Some((this, that)) = by_key.get(this).zip(by_key.get(that)) {
            ratios.push(format!("ratio of {name}: {:.2}", this / that));
        }
    }
    let mut remark = format!("{remark} In this run, {}.", ratios.join("; "));
    if !skipped.is_empty() {
        remark = format!("{remark} Skipped: {}.", skipped.join("; "));
    }
    if let Some(drawing) = plot::bars("CPU per request on one processor, us", &bars) {
        report.plot("CPU per request", "peers.svg", drawing);
    }
    report.remark(&remark);
}
