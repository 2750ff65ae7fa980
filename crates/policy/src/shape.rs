//! Is a root what the contract says it is? The published shapes, member by member.
//!
//! The tables of [`crate::tables`] take what they can read; this check, made before a set is put in force, also refuses
//! what they would pass over: a member nobody knows is nearly always a misspelt one.

use std::collections::BTreeMap;

use regorus::Value;

use crate::place::{Place, Step};
use crate::tables::{Root, positive_integer};

/// What may stand at a place.
enum Shape {
    /// A text, which may be empty.
    AnyText,
    Text,
    Scope,
    OneOf(&'static [&'static str]),
    PositiveInteger,
    /// An object with keys of the document's choice.
    Map(&'static Shape),
    /// An array.
    Array(&'static Shape),
    /// An array or a set.
    List(&'static Shape),
    /// An object with these members and no others.
    Record(&'static [Member]),
    /// An array, a set or an object of anything.
    Collection,
}

struct Member {
    name: &'static str,
    is_required: bool,
    shape: Shape,
}

const fn required(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        is_required: true,
        shape,
    }
}

const fn optional(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        is_required: false,
        shape,
    }
}

const SCOPES: Shape = Shape::List(&Shape::Scope);
const GRANT: Shape = Shape::Record(&[
    required("application", Shape::Text),
    optional("roles", Shape::Map(&SCOPES)),
    optional("ambient", SCOPES),
]);
const CONFINEMENT: Shape = Shape::Record(&[
    required("label_prefix", Shape::AnyText),
    required("scopes", SCOPES),
]);
const RISK: Shape = Shape::Record(&[required("scope", Shape::Scope), required("tier", Shape::Text)]);
const APPROVAL_TIER: Shape = Shape::Record(&[
    required("tier", Shape::Text),
    optional("approver", Shape::OneOf(&["operator", "subject", "any"])),
    optional("ttl_seconds", Shape::PositiveInteger),
    optional(
        "privacy",
        Shape::OneOf(&["identified", "pseudonymous", "anonymous"]),
    ),
]);

const fn shape_of(root: Root) -> Shape {
    match root {
        Root::AppIds => Shape::Map(&Shape::Text),
        Root::Grants => Shape::Map(&GRANT),
        Root::Confinement => Shape::List(&CONFINEMENT),
        Root::Restrict => Shape::Collection,
        Root::Risk => Shape::Array(&RISK),
        Root::ApprovalTiers => Shape::Array(&APPROVAL_TIER),
    }
}

/// Something that does not belong where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) place: Place,
    pub(crate) problem: String,
}

/// Adds everything in the value of `root` that does not belong there; `Undefined` is the same as absent.
pub(crate) fn check(root: Root, value: &Value, misfits: &mut Vec<Misfit>) {
    if *value == Value::Undefined {
        return;
    }
    let mut check = Check {
        place: Place {
            root,
            steps: Vec::new(),
        },
        misfits,
    };
    check.value(&shape_of(root), value);
    if root == Root::Risk {
        check.tiers_agree(value);
    }
}

struct Check<'m> {
    place: Place,
    misfits: &'m mut Vec<Misfit>,
}

impl Check<'_> {
    fn value(&mut self, shape: &Shape, value: &Value) {
        match shape {
            Shape::AnyText => self.expect(value.as_string().is_ok(), "must be a text"),
            Shape::Text => self.expect(non_empty(value).is_some(), "must be a text that is not empty"),
            Shape::Scope => self.expect(
                non_empty(value).is_some_and(|text| !text.contains(char::is_whitespace)),
                "must be a scope: a text that is not empty and has no white space",
            ),
            Shape::OneOf(words) => {
                let is_one = non_empty(value).is_some_and(|text| words.contains(&text));
                self.expect(is_one, &format!("must be one of {}", words.join(", ")));
            }
            Shape::PositiveInteger => {
                self.expect(
                    positive_integer(value).is_some(),
                    "must be a whole number above zero",
                );
            }
            Shape::Map(inner) => self.map(inner, value),
            Shape::Array(inner) => match value {
                Value::Array(items) => self.items(inner, items.iter()),
                _ => self.misfit("must be an array"),
            },
            Shape::List(inner) => match value {
                Value::Array(items) => self.items(inner, items.iter()),
                Value::Set(items) => self.items(inner, items.iter()),
                _ => self.misfit("must be an array or a set"),
            },
            Shape::Record(members) => self.record(members, value),
            Shape::Collection => {
                let is_one = matches!(value, Value::Array(_) | Value::Set(_) | Value::Object(_));
                self.expect(is_one, "must be an array, a set or an object");
            }
        }
    }

    fn map(&mut self, inner: &Shape, value: &Value) {
        let Value::Object(fields) = value else {
            return self.misfit("must be an object");
        };
        for (key, value) in fields.iter() {
            match key.as_string() {
                Ok(key) => self.inside(Step::Key(key.to_string()), |check| check.value(inner, value)),
                Err(_) => self.misfit("must have texts as keys"),
            }
        }
    }

    fn items<'v>(&mut self, inner: &Shape, items: impl Iterator<Item = &'v Value>) {
        for (index, item) in items.enumerate() {
            self.inside(Step::Item(index), |check| check.value(inner, item));
        }
    }

    fn record(&mut self, members: &[Member], value: &Value) {
        let Value::Object(fields) = value else {
            return self.misfit("must be an object");
        };
        for key in fields.keys() {
            let name = key.as_string().map(AsRef::as_ref).unwrap_or_default();
            if !members.iter().any(|member| member.name == name) {
                let known: Vec<&str> = members.iter().map(|member| member.name).collect();
                let problem = format!("is not a known member; there are {}", known.join(", "));
                self.inside(Step::Key(name.to_owned()), |check| check.misfit(&problem));
            }
        }
        for member in members {
            match fields.get(&Value::from(member.name)) {
                Some(value) => {
                    self.inside(Step::Member(member.name), |check| {
                        check.value(&member.shape, value);
                    });
                }
                None if member.is_required => {
                    self.inside(Step::Member(member.name), |check| check.misfit("is missing"));
                }
                None => {}
            }
        }
    }

    /// No scope may be in two tiers: which of them holds would be a matter of chance.
    fn tiers_agree(&mut self, value: &Value) {
        let mut known = BTreeMap::new();
        for (index, rule) in value.as_array().into_iter().flatten().enumerate() {
            let member = |name: &str| rule.as_object().ok()?.get(&Value::from(name));
            let (Some(scope), Some(tier)) = (member("scope"), member("tier")) else {
                continue;
            };
            let first = *known.entry(scope).or_insert((index, tier));
            if first.1 != tier {
                let problem = format!("puts the scope in another tier than risk[{}] does", first.0);
                self.inside(Step::Item(index), |check| check.misfit(&problem));
            }
        }
    }

    fn inside(&mut self, step: Step, check: impl FnOnce(&mut Self)) {
        self.place.steps.push(step);
        check(self);
        self.place.steps.pop();
    }

    fn expect(&mut self, is_so: bool, problem: &str) {
        if !is_so {
            self.misfit(problem);
        }
    }

    fn misfit(&mut self, problem: &str) {
        self.misfits.push(Misfit {
            place: self.place.clone(),
            problem: problem.to_owned(),
        });
    }
}

fn non_empty(value: &Value) -> Option<&str> {
    let text: &str = value.as_string().ok()?;
    (!text.is_empty()).then_some(text)
}
