//! How often does a process ask for memory? The kernel counts the calls of its allocator's entry points (uprobes, by `perf`),
//! in the executable as it is shipped. That takes a microsecond or two a call, so nothing is timed meanwhile.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, bail, ensure};

/// What the executable's allocator is asked by (the policy engine's memory budget brings it), and the name of each probe.
const ENTRY_POINTS: [(&str, &str); 3] = [
    ("mi_malloc_aligned", "caracal_bench:malloc"),
    ("mi_zalloc_aligned", "caracal_bench:zalloc"),
    ("mi_realloc_aligned", "caracal_bench:realloc"),
];

/// Probes in one executable, which are taken out when this is dropped.
#[derive(Debug)]
struct Probes;

impl Probes {
    fn put_into(executable: &Path) -> anyhow::Result<Self> {
        remove_probes();
        let probes = Self;
        for (entry_point, probe) in ENTRY_POINTS {
            let mut perf = Command::new("perf");
            perf.args(["probe", "-q", "-x"]).arg(executable);
            let output = perf.args(["--add", &format!("{probe}={entry_point}")]).output();
            let output = output.context("perf is needed to count allocations")?;
            ensure!(
                output.status.success(),
                "no probe at {entry_point}, which takes root and a kernel with uprobes: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(probes)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        remove_probes();
    }
}

fn remove_probes() {
    let mut perf = Command::new("perf");
    // There may be none.
    let _none = perf.args(["probe", "-q", "--del", "caracal_bench:*"]).output();
}

/// Counts in one process until it is dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    perf: Child,
    output: BufReader<ChildStderr>,
    _probes: Probes,
}

impl Counter {
    /// Begins to count in the process `pid`.
    ///
    /// # Errors
    /// Why it cannot be counted: no `perf`, no right to probe, or another allocator in the executable.
    pub(crate) fn attach(pid: u32) -> anyhow::Result<Self> {
        let probes = Probes::put_into(&std::fs::read_link(format!("/proc/{pid}/exe"))?)?;
        let mut command = Command::new("perf");
        command.args(["stat", "-I", "100", "-x", ",", "-e"]);
        command.arg(ENTRY_POINTS.map(|(_, probe)| probe).join(","));
        command.args(["-p", &pid.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut perf = command.spawn().context("perf")?;
        let output = perf.stderr.take().context("perf without output")?;
        let mut counter = Self {
            perf,
            output: BufReader::new(output),
            _probes: probes,
        };
        counter.skip_interval()?;
        Ok(counter)
    }

    /// Calls since the counter was attached.
    pub(crate) fn finish(mut self) -> anyhow::Result<u64> {
        self.stop()?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        rest.lines().map(calls).sum()
    }

    /// Until the first interval has ended: the probes count.
    fn skip_interval(&mut self) -> anyhow::Result<()> {
        for _line in ENTRY_POINTS {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            calls(&line)?;
        }
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        let mut kill = Command::new("kill");
        kill.args(["-INT", &self.perf.id().to_string()]);
        kill.status().context("kill")?;
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // When it has ended already there is nobody to stop.
        let _gone = self.stop();
        let _ended = self.perf.wait();
    }
}

/// The count in a line like `1.007277729,7586,,caracal_bench:malloc,19854488,100.00,,`.
fn calls(line: &str) -> anyhow::Result<u64> {
    let count = line.split(',').nth(1).and_then(|count| count.parse().ok());
    match count {
        Some(count) => Ok(count),
        None => bail!("perf says: {}", line.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_counts_is_read_and_anything_else_is_said() {
        assert_eq!(
            calls("     0.5,6424,,caracal_bench:malloc,2,100.00,,\n").unwrap(),
            6424
        );
        let told = calls("     0.5,<not counted>,,caracal_bench:malloc,0,100.00,,").unwrap_err();
        assert!(told.to_string().contains("<not counted>"), "{told}");
    }
}
