//! Where does the processor time of a process go? `perf` samples it, and what it found is drawn as a flame graph (inferno) and shared
//! out among the gateway's stages.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use inferno::collapse::Collapse as _;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;
use tokio::process::{Child, Command};

/// Samples a second. No divisor of what timers do.
const FREQUENCY: &str = "397";
/// Bytes of stack that are kept of each sample, to walk it afterwards.
const STACK: &str = "dwarf,16384";
/// How the functions of a stage are called.
const STAGE: &str = "caracal_gateway::stage::";

/// A process that is being sampled.
pub(crate) struct Sampling {
    perf: Child,
    samples: tempfile::TempDir,
}

/// Stacks, each as one line `outermost;...;innermost count`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stacks(String);

impl Sampling {
    /// Samples the process `pid` for some time.
    ///
    /// # Errors
    /// When there is no `perf`.
    pub(crate) fn start(pid: u32, time: Duration) -> anyhow::Result<Self> {
        let samples = tempfile::tempdir()?;
        let mut perf = Command::new("perf");
        perf.args([
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            FREQUENCY,
            "--call-graph",
            STACK,
        ]);
        perf.args(["-p", &pid.to_string(), "-o"])
            .arg(samples.path().join("samples"));
        perf.args(["--", "sleep", &time.as_secs_f64().to_string()]);
        perf.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            perf: perf.spawn().context("perf is needed for flame graphs")?,
            samples,
        })
    }

    /// What was sampled, when the time is over.
    ///
    /// # Errors
    /// When `perf` may not sample here.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Stacks> {
        let status = self.perf.wait().await?;
        ensure!(status.success(), "perf may not sample processes here");
        let mut script = Command::new("perf");
        script
            .args(["script", "--no-inline", "-i"])
            .arg(self.samples.path().join("samples"));
        let output = script.stderr(Stdio::null()).output().await?;
        ensure!(output.status.success(), "perf cannot read its own samples");
        Stacks::of(&output.stdout)
    }
}

impl Stacks {
    /// Of what `perf script` says.
    fn of(script: &[u8]) -> anyhow::Result<Self> {
        let mut folded = Vec::new();
        Folder::default().collapse(script, &mut folded)?;
        let stacks = Self(String::from_utf8(folded)?);
        ensure!(
            !stacks.0.is_empty(),
            "the process did not run while it was sampled"
        );
        Ok(stacks)
    }

    /// As a drawing.
    pub(crate) fn flame_graph(&self, title: &str) -> anyhow::Result<String> {
        let mut options = flamegraph::Options::default();
        title.clone_into(&mut options.title);
        options.min_width = 0.1;
        let mut drawing = Vec::new();
        flamegraph::from_lines(&mut options, self.0.lines(), &mut drawing)?;
        Ok(String::from_utf8(drawing)?)
    }

    /// Which share of the samples lies within each stage of the gateway, and in what goes on around them, in percent.
    pub(crate) fn stages(&self) -> BTreeMap<String, f64> {
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        let mut all = 0.0;
        for line in self.0.lines() {
            let Some((stack, count)) = line.rsplit_once(' ') else {
                continue;
            };
            let count: f64 = count.parse().unwrap_or_default();
            let stage = part(stack);
            *counts.entry(stage.to_owned()).or_default() += count;
            all += count;
        }
        for count in counts.values_mut() {
            *count *= 100.0 / all;
        }
        counts
    }

    /// The lines.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

/// What is no stage, by a part of a function's name; the first that is found counts.
const AROUND: [(&str, &str); 9] = [
    ("caracal_gateway::sts_client::", "exchange"),
    ("caracal_gateway::admit::", "between stages"),
    ("caracal_bus::spool::", "publishing of evidence"),
    ("caracal_bus::redis::", "publishing of evidence"),
    ("pingora_", "HTTP"),
    ("caracal_gateway::listener::", "HTTP"),
    ("caracal_gateway::connection::", "HTTP"),
    ("caracal_gateway::proxy::", "HTTP"),
    ("http::", "HTTP"),
];

/// The stage that a stack is in. The outermost one: what a stage calls belongs to it.
fn part(stack: &str) -> &str {
    let Some((_, stage)) = stack.split_once(STAGE) else {
        let around = AROUND.iter().find(|(name, _)| stack.contains(name));
        return around.map_or("runtime and waking", |(_, part)| part);
    };
    let end = stage.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    stage.get(..end.unwrap_or(stage.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "worker 7 1.0: 2518891 cpu-clock: \n\
        \t  10 caracal_token::verify+0x1 (/bin/caracal)\n\
        \t  11 caracal_gateway::stage::authenticate::authenticate+0x2 (/bin/caracal)\n\
        \t  12 caracal_gateway::admit::admit+0x3 (/bin/caracal)\n\n\
        worker 7 1.1: 2518891 cpu-clock: \n\
        \t  13 epoll_wait+0x1 (/lib/libc.so.6)\n\
        \t  14 tokio::park+0x2 (/bin/caracal)\n\n";

    #[test]
    fn samples_become_a_drawing_and_shares_of_stages() {
        let stacks = Stacks::of(SCRIPT.as_bytes()).unwrap();
        let shares: Vec<(String, f64)> = stacks.stages().into_iter().collect();
        assert_eq!(
            shares,
            [
                ("authenticate".to_owned(), 50.0),
                ("runtime and waking".to_owned(), 50.0)
            ]
        );
        let drawing = stacks.flame_graph("Gateway").unwrap();
        for text in ["<svg", "Gateway", "caracal_gateway::admit::admit"] {
            assert!(drawing.contains(text), "no {text} in the drawing");
        }
    }

    #[test]
    fn a_process_that_did_not_run_has_no_drawing() {
        assert!(Stacks::of(b"").is_err());
    }
}
