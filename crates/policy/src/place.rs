//! Where in which document does a value stand? From a path in a table back to a line of Rego.

use std::fmt;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use crate::tables::Root;

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member the contract names.
    Member(&'static str),
    /// A key the document chose.
    Key(String),
    /// An item of an array, or of a set in the order of its values.
    Item(usize),
}

/// A place in the value of a root, written as `grants["resource://crm"].roles["editor"][0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) root: Root,
    pub(crate) steps: Vec<Step>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.root.name())?;
        for step in &self.steps {
            match step {
                Step::Member(name) => write!(formatter, ".{name}")?,
                Step::Key(key) => write!(formatter, "[{key:?}]")?,
                Step::Item(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The module (by its number) and line that come closest to `place`.
///
/// A value that is written out is found to the line; of one that is computed, the line is that of the rule or expression
/// that computes it. Reads syntax trees; for activation only.
pub(crate) fn locate(modules: &[Ref<Module>], place: &Place) -> Option<(usize, u32)> {
    let mut nearest: Option<(usize, (usize, u32))> = None;
    for (number, module) in modules.iter().enumerate() {
        for rule in &module.policy {
            let Some((depth, line)) = line_in(rule, place) else {
                continue;
            };
            if nearest.is_none_or(|(known, _)| depth > known) {
                nearest = Some((depth, (number, line)));
            }
        }
    }
    nearest.map(|(_, found)| found)
}

/// How many steps of `place` the rule follows, and the line where it stops; `None` when it defines something else.
fn line_in(rule: &Ref<Rule>, place: &Place) -> Option<(usize, u32)> {
    let (head, value) = match rule.as_ref() {
        Rule::Default { refr, value, .. } => (refr, Some(value)),
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref().map(|assign| &assign.value)),
            RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => (refr, None),
        },
    };
    let (name, keys) = parts_of(head);
    if name != place.root.name() {
        return None;
    }
    let line = head.span().line;
    for (depth, key) in keys.iter().enumerate() {
        match (key, place.steps.get(depth)) {
            // The place is what the rule adds to, or the rule says at run time what it adds.
            (_, None) | (None, _) => return Some((depth, line)),
            (Some(key), Some(step)) if is_named(step, key) => {}
            (Some(_), Some(_)) => return None,
        }
    }
    let rest = place.steps.get(keys.len()..).unwrap_or_default();
    Some(match value {
        None => (keys.len(), line),
        Some(value) => {
            let (depth, line) = descend(value, rest);
            (keys.len() + depth, line)
        }
    })
}

/// The name a head defines and the keys behind it; a key that is computed is `None`.
fn parts_of(head: &Ref<Expr>) -> (&str, Vec<Option<&str>>) {
    let mut keys = Vec::new();
    let mut at = head;
    loop {
        match at.as_ref() {
            Expr::RefDot { refr, field, .. } => {
                keys.push(Some(field.0.text()));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                keys.push(text_of(index));
                at = refr;
            }
            other => {
                keys.reverse();
                return (other.span().text(), keys);
            }
        }
    }
}

/// Follows `steps` into a value that is written out, as far as it is; how far that was, and the line.
fn descend(value: &Ref<Expr>, steps: &[Step]) -> (usize, u32) {
    let mut at = value;
    let mut line = at.span().line;
    for (depth, step) in steps.iter().enumerate() {
        let next = match (at.as_ref(), step) {
            (Expr::Object { fields, .. }, Step::Key(_) | Step::Member(_)) => fields
                .iter()
                .find(|(_, key, _)| text_of(key).is_some_and(|key| is_named(step, key)))
                .map(|(_, key, value)| (key.span().line, value)),
            (Expr::Array { items, .. }, Step::Item(index)) => {
                items.get(*index).map(|item| (item.span().line, item))
            }
            _ => None,
        };
        let Some((found, inner)) = next else {
            return (depth, line);
        };
        line = found;
        at = inner;
    }
    (steps.len(), line)
}

fn is_named(step: &Step, key: &str) -> bool {
    match step {
        Step::Member(name) => *name == key,
        Step::Key(name) => name == key,
        Step::Item(_) => false,
    }
}

fn text_of(expression: &Ref<Expr>) -> Option<&str> {
    match expression.as_ref() {
        Expr::String { value, .. } | Expr::RawString { value, .. } => {
            value.as_string().ok().map(AsRef::as_ref)
        }
        _ => None,
    }
}
