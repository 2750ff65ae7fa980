//! How many instructions does each step take, and is that more than before? `caracal-micro check|update <baseline>`.
//!
//! Each step runs in a process of its own under callgrind, which counts the same whatever else the machine does. The counts depend on the
//! compiler, the libraries and what kind of processor callgrind pretends to be; the baseline says for which kind it was written.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

/// How often a step is repeated, after it was done once to warm up.
const REPEATS: u64 = 20;
/// How much more than the baseline is too much, in percent.
const WORSE_PERCENT: u64 = 5;
/// What counting begins and ends with.
const COUNTED: &str = "*caracal_micro*counted*";
/// Features of a processor by which the libraries choose their code.
const FEATURES: [&str; 4] = ["adx", "avx2", "bmi2", "sha_ni"];

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["run", step] => {
            run(step)?;
            Ok(ExitCode::SUCCESS)
        }
        ["check", baseline] => check(Path::new(baseline)),
        ["update", baseline] => {
            let counts = count_all()?;
            std::fs::write(baseline, Baseline::of(counts).to_text())?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: caracal-micro check|update <baseline>"),
    }
}

/// Does one step, for callgrind to count.
fn run(name: &str) -> anyhow::Result<()> {
    let mut steps = caracal_micro::steps()?.into_iter();
    let mut step = steps.find(|step| step.name == name).context("no such step")?;
    (step.run)();
    counted(&mut *step.run);
    Ok(())
}

/// What callgrind counts: this function and everything below it.
#[inline(never)]
fn counted(step: &mut dyn FnMut()) {
    for _repeat in 0..REPEATS {
        step();
    }
}

/// Instructions of each step.
fn count_all() -> anyhow::Result<BTreeMap<String, u64>> {
    let steps = caracal_micro::steps()?;
    let counts = steps
        .iter()
        .map(|step| Ok((step.name.to_owned(), count(step.name)?)));
    counts.collect()
}

fn count(name: &str) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(std::env::current_exe()?).args(["run", name]);
    let output = command
        .output()
        .context("valgrind counts instructions, and is needed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {said}");
    let total = said.lines().find_map(|line| line.split_once("Collected : "));
    let total: u64 = total.context("no count")?.1.trim().parse()?;
    ensure!(total > REPEATS, "{name}: nothing was counted");
    Ok(total / REPEATS)
}

/// Counts to compare with, and the kind of processor they are of.
#[derive(Debug, PartialEq, Eq)]
struct Baseline {
    processor: String,
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    fn of(counts: BTreeMap<String, u64>) -> Self {
        Self {
            processor: processor(),
            counts,
        }
    }

    fn to_text(&self) -> String {
        let head = format!(
            "# Instructions of each step, written by ./x bench --update-baseline.\nprocessor {}\n",
            self.processor
        );
        let counts = self
            .counts
            .iter()
            .map(|(step, count)| format!("{count:>10} {step}\n"));
        std::iter::once(head).chain(counts).collect()
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut lines = lines.map(|line| line.trim().split_once(' ').context("no name in a line"));
        let processor = lines.next().context("an empty baseline")??.1.to_owned();
        let counts = lines.map(|line| {
            let (count, step) = line?;
            Ok((step.to_owned(), count.parse()?))
        });
        Ok(Self {
            processor,
            counts: counts.collect::<anyhow::Result<_>>()?,
        })
    }

    /// A line for each step of which `now` is worse, or which only one of both has.
    fn faults(&self, now: &BTreeMap<String, u64>) -> Vec<String> {
        let names = self
            .counts
            .keys()
            .chain(now.keys().filter(|step| !self.counts.contains_key(*step)));
        let faults = names.filter_map(|step| match (self.counts.get(step), now.get(step)) {
            (Some(before), Some(now)) if now * 100 > before * (100 + WORSE_PERCENT) => {
                Some(format!("{step} takes {now} instructions, {before} before"))
            }
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some(format!("{step} is not measured any more")),
            (None, _) => Some(format!("{step} is not in the baseline")),
        });
        faults.collect()
    }
}

/// What this processor is able to do, of that which matters here.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = told
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let has = |feature: &&str| line.split(' ').any(|flag| flag == *feature);
    let features: Vec<&str> = FEATURES.into_iter().filter(has).collect();
    format!("{} {}", std::env::consts::ARCH, features.join(" "))
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let baseline = Baseline::parse(&text)?;
    if baseline.processor != processor() {
        say(&format!(
            "the baseline is of a processor with {}, this one has {}: not compared",
            baseline.processor,
            processor()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let now = count_all()?;
    for (step, count) in &now {
        let before = baseline.counts.get(step).copied().unwrap_or_default();
        say(&format!(
            "{count:>10} instructions ({before:>10} in the baseline)  {step}"
        ));
    }
    let faults = baseline.faults(&now);
    for fault in &faults {
        say(&format!("more than {WORSE_PERCENT}% worse, or unknown: {fault}"));
    }
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say("if this is meant: ./x bench --update-baseline");
    Ok(ExitCode::FAILURE)
}

#[expect(clippy::print_stdout, reason = "a command for people")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
        rows.iter()
            .map(|(step, count)| ((*step).to_owned(), *count))
            .collect()
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let baseline = Baseline::of(counts(&[("token sign", 1_000), ("form parse", 7)]));
        assert_eq!(Baseline::parse(&baseline.to_text()).unwrap(), baseline);
        assert!(Baseline::parse("").is_err());
        assert!(Baseline::parse("processor x\nword form parse\n").is_err());
    }

    #[test]
    fn only_what_is_more_than_five_percent_worse_is_a_fault() {
        let baseline = Baseline::of(counts(&[("a", 1_000), ("b", 1_000), ("c", 1_000)]));
        let now = counts(&[("a", 1_050), ("b", 1_051), ("c", 10)]);
        assert_eq!(baseline.faults(&now), ["b takes 1051 instructions, 1000 before"]);
    }

    #[test]
    fn a_step_that_came_or_went_is_a_fault() {
        let baseline = Baseline::of(counts(&[("old", 1_000)]));
        let faults = baseline.faults(&counts(&[("new", 1)]));
        assert_eq!(
            faults,
            ["old is not measured any more", "new is not in the baseline"]
        );
    }

    #[test]
    fn every_step_has_a_name_of_its_own_and_can_be_repeated() {
        let mut names = std::collections::BTreeSet::new();
        for mut step in caracal_micro::steps().unwrap() {
            assert!(names.insert(step.name), "{} twice", step.name);
            (step.run)();
            (step.run)();
        }
    }
}
