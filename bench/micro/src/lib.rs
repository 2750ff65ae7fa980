//! The steps of a governed request that can be looked at alone, each as a closure that does it once: for what they cost in time
//! (`benches/steps.rs`) and in instructions (`src/main.rs`).

mod authority;
mod evidence;
mod parsing;

use anyhow::Context;

/// One step, ready to be repeated.
pub struct Step {
    /// Its name, in the baseline and in what is printed.
    pub name: &'static str,
    /// Does it once.
    pub run: Box<dyn FnMut()>,
}

impl Step {
    /// A step that gives something, which is only looked at so that it is made.
    fn of<T>(name: &'static str, mut step: impl FnMut() -> T + 'static) -> Self {
        let run = move || {
            std::hint::black_box(step());
        };
        Self {
            name,
            run: Box::new(run),
        }
    }
}

/// Every step.
///
/// # Errors
/// What cannot be set up: something else would be measured.
pub fn steps() -> anyhow::Result<Vec<Step>> {
    let parts = [
        authority::token().context("mandates")?,
        authority::contract().context("decisions")?,
        authority::memory().context("tables in memory")?,
        parsing::steps().context("parsers")?,
        evidence::steps().context("evidence")?,
    ];
    Ok(parts.into_iter().flatten().collect())
}
