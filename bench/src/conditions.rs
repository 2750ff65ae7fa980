//! What must a reader know to judge the figures?

use std::process::Command;
use std::time::{Duration, Instant};

use crate::report::Report;

/// What is noted when a run begins.
pub(crate) struct Conditions {
    command: String,
    began: Instant,
    load: String,
}

impl Conditions {
    /// Those of the run that begins, by this command.
    pub(crate) fn note(command: String) -> Self {
        Self {
            command,
            began: Instant::now(),
            load: load(),
        }
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// In one sentence.
    pub(crate) fn line(&self) -> String {
        format!(
            "`{}` at commit {} on {}, everything on this one machine; load of others included, {} at the beginning.",
            self.command,
            commit(),
            machine(),
            self.load
        )
    }

    /// Adds the section. Nothing of it may fail: what is not there is said to be unknown.
    pub(crate) fn show(&self, report: &mut Report) {
        let rows = [
            ("command", format!("`{}`", self.command)),
            (
                "commit",
                answer("git", &["describe", "--always", "--dirty", "--abbrev=10"]),
            ),
            ("machine", machine()),
            (
                "load of the machine",
                format!("{} at the beginning, {} at the end", self.load, load()),
            ),
            ("took", format!("{} s", self.elapsed().as_secs())),
            ("PostgreSQL", answer("psql", &["--version"])),
            ("Redis", answer("redis-server", &["--version"])),
        ];
        let rows = rows.map(|(what, value)| vec![what.to_owned(), value]);
        report.table("Conditions", &["what", "is"], &rows);
        report.remark(&format!(
            "Everything runs on this one machine: services, stores, load. A load above 0 at the beginning means that others used it too. Their processor time is not charged to the \
             processes that are measured, but their cache misses and waits are. Each process is as it is shipped ({}).",
            if cfg!(debug_assertions) {
                "the bench itself is not optimised, which lowers what closed loops reach"
            } else {
                "optimised"
            }
        ));
    }
}

/// What no run of this shows.
pub(crate) fn shows_not(report: &mut Report) {
    report.section("What this does not show");
    report.remark(
        "No network, no TLS between the parts, no second machine: everything speaks through the loopback, and load, origin and stores take turns with what is measured. Figures of \
         different runs or machines cannot be compared; ratios within one run can. A virtual machine wakes an idle processor slowly, which counts in every latency and grows with \
         the hops. The database is small and warm, nothing fails, and all clients are honest. The peers keep no evidence, refuse no replay, know no revocation and have no policy; \
         their authorizer says yes without looking.",
    );
}

fn commit() -> String {
    answer("git", &["describe", "--always", "--dirty", "--abbrev=10"])
}

fn machine() -> String {
    let processor = read("/proc/cpuinfo");
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    format!(
        "{count} processors ({}), {} GiB, Linux {}",
        processor.map_or("unknown", |(_, name)| name),
        memory.map_or_else(|| "unknown".to_owned(), |kib| (kib >> 20).to_string()),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The average over a minute.
fn load() -> String {
    let load = read("/proc/loadavg");
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// The first line that a program says.
fn answer(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let said = output.ok().filter(|output| output.status.success());
    let said = said.and_then(|output| String::from_utf8(output.stdout).ok());
    let first = said
        .as_deref()
        .and_then(|text| text.lines().next())
        .map(str::to_owned);
    first.unwrap_or_else(|| "unknown".to_owned())
}
