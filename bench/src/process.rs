//! What has a process used so far, with all that it started, and on which processors may it run? As the operating system says.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use caracal_testing::Process;

/// Clock ticks per second of `/proc`, fixed by the kernel's interface on every platform we build for.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of a process, user and system, in steps of 10 ms.
pub(crate) fn processor_time(process: &Process) -> anyhow::Result<Duration> {
    tree_time(process.id().context("the process has ended")?)
}

/// The same of a process and all that descend from it: a PostgreSQL has a process for each connection.
pub(crate) fn tree_time(root: u32) -> anyhow::Result<Duration> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut used = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id else { continue };
        // It may have ended since.
        let Ok(text) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
            continue;
        };
        let stat = Stat::parse(&text)?;
        children.entry(stat.parent).or_default().push(id);
        used.insert(id, stat.ticks);
    }
    ensure!(used.contains_key(&root), "the process {root} has ended");
    let (mut ticks, mut waiting) = (0, vec![root]);
    while let Some(id) = waiting.pop() {
        ticks += used.get(&id).copied().unwrap_or_default();
        waiting.extend(children.remove(&id).unwrap_or_default());
    }
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Of its own and of its children that have ended.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> anyhow::Result<Self> {
        // The name may hold anything but comes second, in parentheses.
        let (_name, fields) = text.rsplit_once(") ").context("an unknown format")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // Fields of proc(5), counted from the state, which is the third.
        let field = |number: usize| fields.get(number - 3).context("too few fields");
        let ticks = |number: usize| -> anyhow::Result<u64> { Ok(field(number)?.parse()?) };
        Ok(Self {
            parent: field(4)?.parse()?,
            ticks: ticks(14)? + ticks(15)? + ticks(16)? + ticks(17)?,
        })
    }
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

/// Processors, as `taskset` lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processors {
    /// All of them.
    pub(crate) all: String,
    /// The one that is measured on.
    pub(crate) measured: String,
    /// The others, or the same one if it is alone.
    pub(crate) rest: String,
}

impl Processors {
    /// Of this machine.
    pub(crate) fn of_this_machine() -> anyhow::Result<Self> {
        Ok(Self::of(std::thread::available_parallelism()?.get()))
    }

    fn of(count: usize) -> Self {
        let last = count.saturating_sub(1);
        Self {
            all: format!("0-{last}"),
            measured: "0".to_owned(),
            rest: match last {
                0 => "0".to_owned(),
                last => format!("1-{last}"),
            },
        }
    }
}

/// Binds every thread of a process, and what it starts from now on.
pub(crate) fn bind(id: u32, processors: &str) -> anyhow::Result<()> {
    taskset(&["-a", "-c", "-p", processors, &id.to_string()])
}

/// Binds the thread that this is called from, if it is the first of this process, and what it starts from now on.
pub(crate) fn bind_this_thread(processors: &str) -> anyhow::Result<()> {
    taskset(&["-c", "-p", processors, &std::process::id().to_string()])
}

fn taskset(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let status = command
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .context("taskset")?;
    ensure!(status.success(), "taskset {arguments:?} failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let text = "17 (a) b (c) S 4 17 17 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                parent: 4,
                ticks: 127
            }
        );
    }

    #[test]
    fn what_is_measured_has_a_processor_of_its_own_where_there_are_two() {
        let lists = |count| {
            let processors = Processors::of(count);
            (processors.all, processors.measured, processors.rest)
        };
        let texts =
            |all: &str, measured: &str, rest: &str| (all.to_owned(), measured.to_owned(), rest.to_owned());
        assert_eq!(lists(1), texts("0-0", "0", "0"));
        assert_eq!(lists(2), texts("0-1", "0", "1-1"));
        assert_eq!(lists(8), texts("0-7", "0", "1-7"));
    }

    #[test]
    fn the_time_of_a_process_is_at_least_that_of_its_children() {
        let me = std::process::id();
        let before = tree_time(me).unwrap();
        let mut child = Command::new("sh");
        child.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"]);
        assert!(child.status().unwrap().success());
        assert!(tree_time(me).unwrap() > before);
    }
}
