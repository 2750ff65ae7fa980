//! Instructions for the rules somebody asks for, made when they are asked for. A few are kept.
//!
//! What a zone may ask for is as much as its policy has rules, packages and beginnings of packages, so what is kept of it is
//! bounded in number and in size.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::program::Program as Instructions;
use regorus::{CompiledPolicy, Value};

use crate::interpreter::Failure;
use crate::measure;

/// Most instructions that are kept for one zone, by what was asked.
const KEPT_MAX: usize = 16;

/// Largest that are kept, [`measure::KEPT`] literals beside them; the others are made again for each question.
const KEPT_INSTRUCTIONS_MAX: usize = 16_384;

/// The instructions, or why there are none.
type Outcome = Result<Arc<Instructions>, Arc<str>>;

/// The policy, and what was made of it last.
pub(super) struct Compiled {
    policy: CompiledPolicy,
    /// The one that was asked for last is at the end.
    kept: Mutex<VecDeque<(Vec<String>, Outcome)>>,
    /// Held by who makes instructions: one at a time.
    making: Mutex<()>,
}

impl Compiled {
    pub(super) fn new(policy: CompiledPolicy) -> Self {
        Self {
            policy,
            kept: Mutex::default(),
            making: Mutex::default(),
        }
    }

    /// The instructions for the rules with these names; the names are the entry points.
    pub(super) fn instructions(&self, names: &[String]) -> Result<Arc<Instructions>, Failure> {
        self.outcome(names).map_err(|reason| reason.to_string().into())
    }

    fn outcome(&self, names: &[String]) -> Outcome {
        if let Some(outcome) = self.known(names) {
            return outcome;
        }
        let _turn = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have made them meanwhile.
        if let Some(outcome) = self.known(names) {
            return outcome;
        }
        let entry_points: Vec<&str> = names.iter().map(String::as_str).collect();
        let outcome = compile(&self.policy, &entry_points).map_err(|failure| failure.to_string().into());
        if outcome.as_deref().is_ok_and(is_large) {
            return outcome;
        }
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((names.to_vec(), outcome.clone()));
        outcome
    }

    fn known(&self, names: &[String]) -> Option<Outcome> {
        let mut kept = self.kept();
        let at = kept.iter().position(|(known, _)| known == names)?;
        let found = kept.remove(at)?;
        let outcome = found.1.clone();
        kept.push_back(found);
        Some(outcome)
    }

    /// The list is whole whenever its lock is free.
    fn kept(&self) -> MutexGuard<'_, VecDeque<(Vec<String>, Outcome)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles the rules of these names, and drops the text of all modules, which comes with every compilation and which nobody
/// reads.
pub(super) fn compile(policy: &CompiledPolicy, names: &[&str]) -> Result<Arc<Instructions>, Failure> {
    let mut instructions =
        Compiler::compile_from_policy(policy, names).map_err(|source| source.to_string())?;
    if let Some(instructions) = Arc::get_mut(&mut instructions) {
        instructions.sources = Vec::new();
        instructions.instruction_spans = Vec::new();
    }
    Ok(instructions)
}

fn is_large(instructions: &Instructions) -> bool {
    let literals = Value::from(instructions.literals.clone());
    instructions.instructions.len() > KEPT_INSTRUCTIONS_MAX
        || measure::check(&literals, &measure::KEPT).is_err()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::documents::parse;

    fn compiled(text: &str) -> Compiled {
        let mut engine = parse(&[("d", text)]).unwrap();
        Compiled::new(engine.compile_with_entrypoint(&"data.p.r0".into()).unwrap())
    }

    fn ask(compiled: &Compiled, name: &str) -> Outcome {
        compiled.outcome(&[format!("data.p.{name}")])
    }

    #[test]
    fn of_a_large_policy_with_many_rules_little_is_kept() {
        let mut text = format!("package p\n# {}\n", "x".repeat(200_000));
        for number in 0..100 {
            writeln!(text, "r{number} := {number}").unwrap();
        }
        let compiled = compiled(&text);
        for number in 0..100 {
            ask(&compiled, &format!("r{number}")).unwrap();
        }
        let kept = compiled.kept();
        assert_eq!(kept.len(), KEPT_MAX);
        for (names, outcome) in &*kept {
            let instructions = outcome.as_ref().unwrap();
            assert!(instructions.sources.is_empty(), "{names:?}");
            assert!(instructions.instruction_spans.is_empty(), "{names:?}");
        }
    }

    #[test]
    fn what_is_asked_often_stays_and_a_failure_too() {
        let mut text = "package p\nbad if true with input as 1\n".to_owned();
        for number in 0..40 {
            writeln!(text, "r{number} := {number}").unwrap();
        }
        let compiled = compiled(&text);
        let first = ask(&compiled, "r0").unwrap();
        let failure = ask(&compiled, "bad").unwrap_err();
        for number in 1..40 {
            ask(&compiled, &format!("r{number}")).unwrap();
            assert!(Arc::ptr_eq(&first, &ask(&compiled, "r0").unwrap()));
            assert!(Arc::ptr_eq(&failure, &ask(&compiled, "bad").unwrap_err()));
        }
    }

    #[test]
    fn what_is_large_is_made_again() {
        let large: Vec<u32> = (0..20_000).collect();
        let compiled = compiled(&format!(
            "package p\nr0 := {large:?}\nr1 := \"{}\"",
            "x".repeat(300_000)
        ));
        for name in ["r0", "r1"] {
            let (one, other) = (ask(&compiled, name).unwrap(), ask(&compiled, name).unwrap());
            assert!(!Arc::ptr_eq(&one, &other), "{name}");
        }
        assert!(compiled.kept().is_empty());
    }
}
