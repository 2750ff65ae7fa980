//! What do the data documents of a zone say? Rego values turned into tables, once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use caracal_model::ScopeSet;
use regorus::Value;

use crate::decision::{ApprovalTier, Approver, Privacy};

/// The names an adopter may define. Anything else in a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Root {
    AppIds,
    Grants,
    Confinement,
    Restrict,
    Risk,
    ApprovalTiers,
}

impl Root {
    pub(crate) const ALL: [Self; 6] = [
        Self::AppIds,
        Self::Grants,
        Self::Confinement,
        Self::Restrict,
        Self::Risk,
        Self::ApprovalTiers,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppIds => "app_ids",
            Self::Grants => "grants",
            Self::Confinement => "confinement",
            Self::Restrict => "restrict",
            Self::Risk => "risk",
            Self::ApprovalTiers => "approval_tiers",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|root| root.name() == name)
    }
}

/// A value has another shape than its root requires.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at} must be {expected}")]
pub struct ShapeError {
    /// Where, for example `grants["resource://crm"].roles["editor"]`.
    pub at: String,
    /// What belongs there.
    pub expected: &'static str,
}

/// The data documents of a zone in the form the contract reads.
///
/// Each root is shared, so that replacing the few that depend on the request copies nothing else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(crate) app_ids: Arc<HashMap<Box<str>, Box<str>>>,
    pub(crate) grants: Arc<HashMap<Box<str>, Grant>>,
    pub(crate) confinement: Arc<[Confinement]>,
    pub(crate) frozen: bool,
    pub(crate) risk: Arc<Risk>,
    pub(crate) approvals: Arc<Approvals>,
}

/// Who owns a resource, and which labels may do what with it.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) application: Box<str>,
    pub(crate) roles: HashMap<Box<str>, ScopeSet>,
    /// What the owner may do without a governed session; absent unless the document says so.
    pub(crate) ambient: Option<ScopeSet>,
    pub(crate) mint_policy: Arc<str>,
    pub(crate) use_policy: Arc<str>,
    pub(crate) ambient_mint_policy: Arc<str>,
    pub(crate) ambient_use_policy: Arc<str>,
}

/// Whoever has a label with this prefix may mint only these scopes.
#[derive(Debug)]
pub(crate) struct Confinement {
    pub(crate) label_prefix: Box<str>,
    pub(crate) scopes: ScopeSet,
}

/// How scopes are classified.
#[derive(Debug)]
pub(crate) enum Risk {
    Tiers {
        of_scope: HashMap<Arc<str>, Arc<str>>,
        /// A scope in two tiers.
        conflict: Option<Arc<str>>,
    },
    Malformed,
}

impl Default for Risk {
    fn default() -> Self {
        Self::Tiers {
            of_scope: HashMap::new(),
            conflict: None,
        }
    }
}

/// Which tiers need a human, in the order of their declarations' values.
#[derive(Debug)]
pub(crate) enum Approvals {
    Tiers(Vec<Arc<ApprovalTier>>),
    Malformed,
}

impl Default for Approvals {
    fn default() -> Self {
        Self::Tiers(Vec::new())
    }
}

impl Tables {
    /// Replaces one root by what a document defines for it; `Undefined` is the same as absent.
    pub(crate) fn set(&mut self, root: Root, value: &Value) -> Result<(), ShapeError> {
        if *value == Value::Undefined {
            return Ok(());
        }
        let at = root.name();
        match root {
            Root::AppIds => self.app_ids = Arc::new(app_ids(at, value)?),
            Root::Grants => self.grants = Arc::new(grants(at, value)?),
            Root::Confinement => self.confinement = confinement(at, value)?,
            Root::Restrict => self.frozen = freezes(value),
            Root::Risk => self.risk = Arc::new(risk(value)),
            Root::ApprovalTiers => self.approvals = Arc::new(approvals(value)),
        }
        Ok(())
    }
}

/// Everything but an empty collection and `false` freezes: a mistake in the type must not thaw a zone.
fn freezes(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Set(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(frozen) => *frozen,
        Value::Undefined => false,
        Value::Null | Value::Number(_) | Value::String(_) => true,
    }
}

fn app_ids(at: &str, value: &Value) -> Result<HashMap<Box<str>, Box<str>>, ShapeError> {
    entries(at, value)?
        .map(|(at, key, id)| Ok((key.into(), text(&at, id)?.into())))
        .collect()
}

fn grants(at: &str, value: &Value) -> Result<HashMap<Box<str>, Grant>, ShapeError> {
    entries(at, value)?
        .map(|(at, identifier, value)| Ok((identifier.into(), grant(&at, value)?)))
        .collect()
}

fn grant(at: &str, value: &Value) -> Result<Grant, ShapeError> {
    let field = |name: &str| {
        value
            .as_object()
            .ok()
            .and_then(|fields| fields.get(&Value::from(name)))
    };
    if value.as_object().is_err() {
        return Err(ShapeError {
            at: at.to_owned(),
            expected: "an object",
        });
    }
    let application = text(
        &format!("{at}.application"),
        field("application").unwrap_or(&Value::Undefined),
    )?;
    let roles = match field("roles") {
        None => HashMap::new(),
        Some(roles) => entries(&format!("{at}.roles"), roles)?
            .map(|(at, label, held)| Ok((label.into(), scopes(&at, held)?)))
            .collect::<Result<_, ShapeError>>()?,
    };
    let ambient = field("ambient")
        .map(|held| scopes(&format!("{at}.ambient"), held))
        .transpose()?;
    let policy = |rule: &str| Arc::from(format!("caracal-{application}-{rule}"));
    Ok(Grant {
        mint_policy: policy("mint"),
        use_policy: policy("use"),
        ambient_mint_policy: policy("ambient-mint"),
        ambient_use_policy: policy("ambient-use"),
        application: application.into(),
        roles,
        ambient,
    })
}

fn confinement(at: &str, value: &Value) -> Result<Arc<[Confinement]>, ShapeError> {
    items(at, value)?
        .map(|(at, cap)| {
            let field = |name: &str| {
                cap.as_object()
                    .ok()
                    .and_then(|fields| fields.get(&Value::from(name)))
                    .unwrap_or(&Value::Undefined)
            };
            Ok(Confinement {
                label_prefix: text(&format!("{at}.label_prefix"), field("label_prefix"))?.into(),
                scopes: scopes(&format!("{at}.scopes"), field("scopes"))?,
            })
        })
        .collect()
}

fn risk(value: &Value) -> Risk {
    let Ok(rules) = value.as_array() else {
        return Risk::Malformed;
    };
    let mut of_scope = HashMap::<Arc<str>, Arc<str>>::new();
    let mut conflict = None;
    for rule in rules {
        let (Some(scope), Some(tier)) = (non_empty(rule, "scope"), non_empty(rule, "tier")) else {
            return Risk::Malformed;
        };
        if of_scope
            .insert(Arc::clone(&scope), Arc::clone(&tier))
            .is_some_and(|other| other != tier)
        {
            conflict.get_or_insert(scope);
        }
    }
    Risk::Tiers { of_scope, conflict }
}

fn approvals(value: &Value) -> Approvals {
    let Ok(declarations) = value.as_array() else {
        return Approvals::Malformed;
    };
    let in_order: BTreeSet<&Value> = declarations.iter().collect();
    in_order
        .into_iter()
        .map(|declaration| approval_tier(declaration).map(Arc::new))
        .collect::<Option<_>>()
        .map_or(Approvals::Malformed, Approvals::Tiers)
}

/// A declared tier; `None` when it has another shape.
pub(crate) fn approval_tier(value: &Value) -> Option<ApprovalTier> {
    let declared = |name: &str| {
        value
            .as_object()
            .ok()
            .and_then(|fields| fields.get(&Value::from(name)))
    };
    let approver = match declared("approver").map(|value| value.as_string().map(AsRef::as_ref)) {
        None | Some(Ok("operator")) => Approver::Operator,
        Some(Ok("subject")) => Approver::Subject,
        Some(Ok("any")) => Approver::Any,
        Some(_) => return None,
    };
    let privacy = match declared("privacy").map(|value| value.as_string().map(AsRef::as_ref)) {
        None | Some(Ok("identified")) => Privacy::Identified,
        Some(Ok("pseudonymous")) => Privacy::Pseudonymous,
        Some(Ok("anonymous")) => Privacy::Anonymous,
        Some(_) => return None,
    };
    let ttl_seconds = match declared("ttl_seconds") {
        None => 1_800,
        Some(value) => positive_integer(value)?,
    };
    let declaration = serde_json::to_value(value).ok()?;
    Some(ApprovalTier {
        tier: non_empty(value, "tier")?,
        approver,
        ttl_seconds,
        privacy,
        declaration,
    })
}

/// A positive whole number; one beyond `u64` counts as the largest.
pub(crate) fn positive_integer(value: &Value) -> Option<u64> {
    let number = value.as_number().ok()?;
    let whole = number.is_integer() && number.is_positive();
    let seconds = number.as_u64().or_else(|| whole.then_some(u64::MAX))?;
    (whole && seconds > 0).then_some(seconds)
}

fn non_empty(object: &Value, field: &str) -> Option<Arc<str>> {
    let text = object
        .as_object()
        .ok()?
        .get(&Value::from(field))?
        .as_string()
        .ok()?;
    (!text.is_empty()).then(|| Arc::clone(text))
}

fn text<'v>(at: &str, value: &'v Value) -> Result<&'v str, ShapeError> {
    value.as_string().map(AsRef::as_ref).or(Err(ShapeError {
        at: at.to_owned(),
        expected: "a string",
    }))
}

/// A collection of scopes. A text with white space would read as two scopes elsewhere.
fn scopes(at: &str, value: &Value) -> Result<ScopeSet, ShapeError> {
    let mut held = Vec::new();
    for (at, scope) in items(at, value)? {
        let scope = text(&at, scope)?;
        if scope.is_empty() || scope.contains(char::is_whitespace) {
            return Err(ShapeError {
                at,
                expected: "a scope: not empty and without white space",
            });
        }
        held.push(scope);
    }
    Ok(held.into_iter().collect())
}

/// The fields of an object whose keys are strings, each with its place.
fn entries<'v>(
    at: &str,
    value: &'v Value,
) -> Result<impl Iterator<Item = (String, &'v str, &'v Value)>, ShapeError> {
    let expected = |at: &str| ShapeError {
        at: at.to_owned(),
        expected: "an object with text keys",
    };
    let fields = value.as_object().or(Err(expected(at)))?;
    let entries = fields
        .iter()
        .map(|(key, value)| {
            let key: &str = key.as_string().or(Err(expected(at)))?;
            Ok((format!("{at}[{key:?}]"), key, value))
        })
        .collect::<Result<Vec<_>, ShapeError>>()?;
    Ok(entries.into_iter())
}

/// The items of an array or set, each with its place.
fn items<'v>(at: &str, value: &'v Value) -> Result<impl Iterator<Item = (String, &'v Value)>, ShapeError> {
    let items: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Set(items) => items.iter().collect(),
        _ => {
            return Err(ShapeError {
                at: at.to_owned(),
                expected: "an array or a set",
            });
        }
    };
    let at = at.to_owned();
    Ok(items
        .into_iter()
        .enumerate()
        .map(move |(index, item)| (format!("{at}[{index}]"), item)))
}
