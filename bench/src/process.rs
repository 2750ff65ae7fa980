//! What has a process used so far? As the operating system counts it.

use std::time::Duration;

use anyhow::Context;
use caracal_testing::Process;

/// Clock ticks per second of `/proc`, fixed by the kernel's interface on every platform we build for.
const TICKS_PER_SECOND: u32 = 100;

/// Processor time of a process, user and system, in steps of 10 ms.
pub(crate) fn processor_time(process: &Process) -> anyhow::Result<Duration> {
    let id = process.id().context("the process has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name may hold anything but comes first, in parentheses.
    let (_name, fields) = stat.rsplit_once(") ").context("an unknown format")?;
    let ticks = |field: usize| -> anyhow::Result<u32> {
        let text = fields.split(' ').nth(field).context("too few fields")?;
        Ok(text.parse()?)
    };
    // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
    let used = ticks(11)? + ticks(12)?;
    Ok(Duration::from_secs(1) * used / TICKS_PER_SECOND)
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident_mib(process: &Process) -> anyhow::Result<f64> {
    let id = process.id().context("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no VmRSS")?
        .parse()?;
    Ok(kib / 1_024.0)
}
