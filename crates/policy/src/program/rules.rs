//! Which rules do the modules of a decision policy define, and what do those at a path say?
//!
//! Only `result` decides; the others are there for it, and for whoever asks for them by name (the Data API of OPA,
//! `docs/contract/policy-data.md`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::program::Program as Instructions;
use regorus::unstable::{Ref, Rule};
use regorus::{CompiledPolicy, Value};
use serde_json::Map;

use super::RESULT;
use crate::documents::head_of;
use crate::interpreter::Failure;
use crate::measure;

/// Most rules that are evaluated for one question.
const RULES_OF_PACKAGE_MAX: usize = 64;

/// The rules by their paths, compiled when they are asked for.
pub(crate) struct Rules {
    compiled: CompiledPolicy,
    /// `data.<package>.<name>` of every rule that has a value.
    paths: BTreeSet<String>,
    /// By the path of the rule or package that was asked for: as many as there are.
    instructions: Mutex<HashMap<String, Arc<Instructions>>>,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// A rule, and a place in its value.
    Rule { name: String, depth: usize },
    /// A package, or several with a common beginning.
    Package(Vec<String>),
}

impl Rules {
    pub(crate) fn of(compiled: CompiledPolicy) -> Self {
        let mut paths: BTreeSet<String> = compiled
            .get_rules()
            .iter()
            .filter(|(path, definitions)| path.as_str() != RESULT && !definitions.iter().any(is_function))
            .map(|(path, _)| path.clone())
            .collect();
        // `a.b := 1` is known by `a` as well, with the value of `a.b`.
        let beginnings: BTreeSet<String> = paths
            .iter()
            .flat_map(|path| path.match_indices('.').filter_map(|(at, _)| path.get(..at)))
            .map(str::to_owned)
            .collect();
        paths.retain(|path| !beginnings.contains(path));
        Self {
            compiled,
            paths,
            instructions: Mutex::default(),
        }
    }

    /// The value at `path`, asked from `evaluate`, which gives the value of each of the named rules.
    pub(crate) fn look_up(
        &self,
        path: &[String],
        evaluate: impl FnOnce(&Arc<Instructions>, &[String]) -> Result<Vec<Value>, Failure>,
    ) -> Result<Option<serde_json::Value>, Failure> {
        let Some(named) = self.named(path) else {
            return Ok(None);
        };
        let (key, names, depth) = match named {
            Named::Rule { name, depth } => (name.clone(), vec![name], Some(depth)),
            Named::Package(names) => (dotted(path), names, None),
        };
        let instructions = self.instructions(key, &names)?;
        let values = evaluate(&instructions, &names)?;
        measure::check(&Value::from(values.clone()), &measure::ANSWER)?;
        match depth {
            Some(depth) => {
                let below = path.get(depth..).unwrap_or_default();
                let value = values.first().map(json).transpose()?.flatten();
                Ok(value.and_then(|value| within(value, below)))
            }
            None => package(path.len(), &names, &values).map(Some),
        }
    }

    fn named(&self, path: &[String]) -> Option<Named> {
        for depth in (1..=path.len()).rev() {
            let name = dotted(path.get(..depth)?);
            if self.paths.contains(&name) {
                return Some(Named::Rule { name, depth });
            }
        }
        let package = format!("{}.", dotted(path));
        let names: Vec<String> = self
            .paths
            .range(package.clone()..)
            .take_while(|name| name.starts_with(&package))
            .cloned()
            .collect();
        (!names.is_empty()).then_some(Named::Package(names))
    }

    fn instructions(&self, key: String, names: &[String]) -> Result<Arc<Instructions>, Failure> {
        if names.len() > RULES_OF_PACKAGE_MAX {
            return Err("the package has too many rules".into());
        }
        if let Some(known) = self.known().get(&key) {
            return Ok(Arc::clone(known));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let instructions =
            Compiler::compile_from_policy(&self.compiled, &names).map_err(|source| source.to_string())?;
        self.known().insert(key, Arc::clone(&instructions));
        Ok(instructions)
    }

    /// A map is whole whenever its lock is free.
    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Instructions>>> {
        self.instructions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `data.<segment>.<segment>`. A segment with a dot in it cannot name anything: names of rules have none.
fn dotted(path: &[String]) -> String {
    let mut text = "data".to_owned();
    for segment in path {
        text.push('.');
        text.push_str(segment);
    }
    text
}

fn is_function(rule: &Ref<Rule>) -> bool {
    head_of(rule).1
}

/// `None` for what is undefined.
fn json(value: &Value) -> Result<Option<serde_json::Value>, Failure> {
    match value {
        Value::Undefined => Ok(None),
        value => Ok(Some(serde_json::to_value(value)?)),
    }
}

/// The place in a value.
pub(crate) fn within(value: serde_json::Value, path: &[String]) -> Option<serde_json::Value> {
    let mut at = value;
    for segment in path {
        at = match at {
            serde_json::Value::Object(mut members) => members.remove(segment)?,
            serde_json::Value::Array(items) => items.into_iter().nth(segment.parse().ok()?)?,
            _ => return None,
        };
    }
    Some(at)
}

/// The values of the rules of a package as one document; those that are undefined are not in it.
fn package(depth: usize, names: &[String], values: &[Value]) -> Result<serde_json::Value, Failure> {
    let mut document = Map::new();
    for (name, value) in names.iter().zip(values) {
        let Some(value) = json(value)? else { continue };
        // The first segment is `data`.
        let mut segments: Vec<&str> = name.split('.').skip(depth + 1).collect();
        let Some(last) = segments.pop() else { continue };
        let mut at = &mut document;
        for segment in segments {
            let below = at.entry(segment).or_insert_with(|| Map::new().into());
            let serde_json::Value::Object(below) = below else {
                return Err("a rule and a package have one name".into());
            };
            at = below;
        }
        at.insert(last.to_owned(), value);
    }
    Ok(document.into())
}
