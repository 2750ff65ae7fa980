//! Which rules do the modules of a decision policy define, and what do those at a path say?
//!
//! Only `result` decides; the others are there for it, and for whoever asks for them by name (the Data API of OPA,
//! `docs/contract/policy-data.md`).

use std::fmt::Write as _;
use std::sync::Arc;

use regorus::rvm::program::Program as Instructions;
use regorus::{CompiledPolicy, Value};
use serde_json::Map;

use super::compiled::Compiled;
use super::names::{Named, Names, Place};
use crate::document::is_dotted_name;
use crate::interpreter::Failure;
use crate::measure;

/// Most rules that are evaluated for one question.
const RULES_OF_PACKAGE_MAX: usize = 64;

/// The rules by their places, compiled when they are asked for.
pub(crate) struct Rules {
    names: Names,
    compiled: Compiled,
}

impl Rules {
    pub(crate) fn of(policy: CompiledPolicy) -> Self {
        Self {
            names: Names::of(policy.get_modules()),
            compiled: Compiled::new(policy),
        }
    }

    /// The value at `path`, asked from `evaluate`, which gives the value of each of the named rules.
    pub(crate) fn look_up(
        &self,
        path: &[String],
        evaluate: impl FnOnce(&Arc<Instructions>, &[String]) -> Result<Vec<Value>, Failure>,
    ) -> Result<Option<serde_json::Value>, Failure> {
        let Some(named) = self.names.find(path) else {
            return Ok(None);
        };
        let (places, depth) = match named {
            Named::Rule(place) => {
                let depth = place.len();
                (vec![place], Some(depth))
            }
            Named::Package(places) => (places, None),
            Named::Mixed => return Err("what is defined there in several ways cannot be told whole".into()),
        };
        if places.len() > RULES_OF_PACKAGE_MAX {
            return Err("the package has too many rules".into());
        }
        let names: Vec<String> = places.iter().map(|place| name(place)).collect();
        let values = evaluate(&self.compiled.instructions(&names)?, &names)?;
        measure::check(&Value::from(values.clone()), &measure::ANSWER)?;
        match depth {
            Some(depth) => {
                let below = path.get(depth..).unwrap_or_default();
                let value = values.first().map(json).transpose()?.flatten();
                Ok(value.and_then(|value| within(value, below)))
            }
            None => package(path.len(), &places, &values).map(Some),
        }
    }
}

/// As Rego writes it: `data.shop["a-b"].allow`.
fn name(place: &[String]) -> String {
    let mut text = "data".to_owned();
    for segment in place {
        // Writing to a text does not fail.
        let _written = if is_dotted_name(segment) && !segment.contains('.') {
            write!(text, ".{segment}")
        } else {
            write!(text, "[{}]", serde_json::Value::from(segment.as_str()))
        };
    }
    text
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
fn package(depth: usize, places: &[Place], values: &[Value]) -> Result<serde_json::Value, Failure> {
    let mut document = Map::new();
    for (place, value) in places.iter().zip(values) {
        let Some(value) = json(value)? else { continue };
        let Some((last, above)) = place.get(depth..).and_then(<[String]>::split_last) else {
            continue;
        };
        let mut at = &mut document;
        for segment in above {
            let below = at.entry(segment.as_str()).or_insert_with(|| Map::new().into());
            let serde_json::Value::Object(below) = below else {
                return Err("a rule and a package have one name".into());
            };
            at = below;
        }
        at.insert(last.clone(), value);
    }
    Ok(document.into())
}
