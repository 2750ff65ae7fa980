//! A closed loop of requests through a proxy, by `wrk`: each connection asks again as soon as it is answered.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::process::Command;

/// What `wrk` is told to send.
const SCRIPT: &str = include_str!("wrk/load.lua");

/// One closed loop.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    /// Where to, with the path.
    pub(crate) url: &'a str,
    pub(crate) connections: usize,
    pub(crate) time: Duration,
    /// Each request carries the next one as its bearer.
    pub(crate) mandates: &'a [String],
    /// Whether a mandate may be sent only once.
    pub(crate) is_once: bool,
    /// Length of the request's body; none makes a `GET`.
    pub(crate) body_bytes: usize,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Which processors `wrk` may use.
    pub(crate) processors: &'a str,
}

/// What a closed loop came to.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Connections that broke, and answers that are none of 2xx and 3xx.
    pub(crate) errors: u64,
    ran_out: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let requests = self.requests as f64;
        requests / self.seconds
    }
}

impl Load<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When `wrk` cannot be run, or there were not enough mandates.
    pub(crate) async fn run(&self) -> anyhow::Result<Outcome> {
        let script = file(SCRIPT)?;
        let mandates = file(&self.mandates.join("\n"))?;
        let time = format!("{}s", self.time.as_secs().max(1));
        let mut command = Command::new("taskset");
        command.args(["-c", self.processors, "wrk", "-t", "1"]);
        command.args([
            "-c",
            &self.connections.to_string(),
            "-d",
            &time,
            "--timeout",
            "10s",
            "-s",
        ]);
        command
            .arg(script.path())
            .arg(self.url)
            .arg("--")
            .arg(mandates.path());
        command.arg(if self.is_once { "once" } else { "again" });
        command.arg(self.body_bytes.to_string());
        for (name, value) in self.headers {
            command.args([name, value]);
        }
        let output = command.stderr(Stdio::inherit()).output().await;
        let output = output.context("wrk is needed for the load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk failed: {text}");
        let Some(line) = text.lines().rfind(|line| line.starts_with('{')) else {
            bail!("wrk said: {text}");
        };
        let outcome: Outcome = serde_json::from_str(line).context("what wrk says")?;
        ensure!(
            outcome.ran_out == 0,
            "{} mandates were too few",
            self.mandates.len()
        );
        ensure!(outcome.requests > 0, "nothing was answered at {}", self.url);
        Ok(outcome)
    }
}

fn file(text: &str) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
