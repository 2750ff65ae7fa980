//! What does the constraint document of a delegation say?
//!
//! The document is read strictly: a member nobody knows could be a restriction nobody enforces, so it makes the whole
//! document invalid (`docs/contract/delegation-rules.md`, "Constraints").

use serde_json::{Map, Value};

use crate::scope::ScopeSet;
use crate::text::ResourceIdentifier;
use crate::time::UnixSeconds;

/// Most resources one document may name.
pub const MAX_RESOURCES: usize = 64;
/// Most hops one document may allow.
pub const MAX_HOPS: u32 = 10;
/// Largest budget one document may give.
pub const MAX_BUDGET: u32 = 64;
/// Longest time to live one document may give, in seconds.
pub const MAX_TTL_SECONDS: i64 = 86_400;
/// Longest reason for a broad delegation, in bytes.
pub const MAX_BROAD_REASON_BYTES: usize = 256;

/// What limits a request beyond the scopes of the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Budget {
    /// At most this many scopes in one request.
    Count(u32),
    /// Only these scopes.
    Scopes(ScopeSet),
}

impl Budget {
    /// Whether a request for these scopes is within the budget.
    pub fn permits(&self, requested: &ScopeSet) -> bool {
        match self {
            Self::Count(most) => fits(requested.len(), *most),
            Self::Scopes(permitted) => requested.is_subset(permitted),
        }
    }
}

/// Whether `count` is at most `most`.
pub(super) fn fits(count: usize, most: u32) -> bool {
    u32::try_from(count).is_ok_and(|count| count <= most)
}

/// The typed content of a constraint document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints {
    /// Resources the delegation is limited to; empty means not limited here.
    pub resources: Vec<ResourceIdentifier>,
    /// How many edges may follow one another from here, this one included; absent or zero means one.
    pub max_hops: Option<u32>,
    /// Longest lifetime of a token minted under the delegation, in seconds.
    pub ttl_seconds: Option<i64>,
    /// A further limit on the scopes of one request.
    pub budget: Option<Budget>,
    /// Whether a broad delegation was approved by policy.
    pub policy_approved: Option<bool>,
    /// When authority under the delegation ends, if earlier than the edge.
    pub expires_at: Option<UnixSeconds>,
    /// Why a delegation without resource was wanted.
    pub broad_reason: Option<String>,
}

/// Why a constraint document is refused. Names the member at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The document is not a JSON object.
    #[error("constraints are not an object")]
    NotAnObject,
    /// A member nobody knows.
    #[error("unknown constraint {0:?}")]
    Unknown(String),
    /// A member of the wrong type, negative, or not readable.
    #[error("constraint {0} is invalid")]
    Invalid(&'static str),
    /// `max_depth` and `max_hops` disagree.
    #[error("constraints max_depth and max_hops disagree")]
    HopsDisagree,
    /// A value outside the range permitted for a new delegation.
    #[error("constraint {0} is out of range")]
    OutOfRange(&'static str),
}

impl ConstraintError {
    /// The member at fault, when it is one of the known ones. `max_depth` is reported as `max_hops`, its real name.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotAnObject | Self::Unknown(_) => None,
            Self::HopsDisagree => Some("max_hops"),
            Self::Invalid(field) | Self::OutOfRange(field) => Some(field),
        }
    }
}

impl Constraints {
    /// Reads a document. `null` and `{}` mean no constraints. A member that is `null` counts as absent.
    ///
    /// # Errors
    /// [`ConstraintError`] for a document that is not an object, an unknown member, a wrong type, a negative number, or a
    /// `max_depth` that differs from `max_hops`.
    pub fn parse(document: &Value) -> Result<Self, ConstraintError> {
        let members = match document {
            Value::Null => return Ok(Self::default()),
            Value::Object(members) => members,
            _ => return Err(ConstraintError::NotAnObject),
        };
        let mut constraints = Self::default();
        let mut max_depth = None;
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "resources" => constraints.resources = read_resources(value)?,
                "max_hops" => constraints.max_hops = Some(read_count("max_hops", value)?),
                "max_depth" => max_depth = Some(read_count("max_hops", value)?),
                "ttl_seconds" => constraints.ttl_seconds = Some(i64::from(read_count("ttl_seconds", value)?)),
                "budget" => constraints.budget = Some(read_budget(value)?),
                "policy_approved" => constraints.policy_approved = Some(read_bool("policy_approved", value)?),
                "expires_at" => constraints.expires_at = Some(read_moment("expires_at", value)?),
                "broad_reason" => {
                    constraints.broad_reason = Some(read_text("broad_reason", value)?.to_owned());
                }
                _ => return Err(ConstraintError::Unknown(name.clone())),
            }
        }
        constraints.max_hops = match (constraints.max_hops, max_depth) {
            (Some(hops), Some(depth)) if hops != depth => return Err(ConstraintError::HopsDisagree),
            (hops, depth) => hops.or(depth),
        };
        Ok(constraints)
    }

    /// The ranges a new delegation must keep. Reading does not enforce them, so that an edge written under wider
    /// limits can still be shown.
    ///
    /// # Errors
    /// [`ConstraintError::OutOfRange`] naming the first member outside its range.
    pub fn check_ranges(&self) -> Result<(), ConstraintError> {
        let budget_fits = match &self.budget {
            None => true,
            Some(Budget::Count(count)) => (1..=MAX_BUDGET).contains(count),
            Some(Budget::Scopes(scopes)) => !scopes.is_empty() && fits(scopes.len(), MAX_BUDGET),
        };
        let checks = [
            ("resources", self.resources.len() <= MAX_RESOURCES),
            (
                "max_hops",
                self.max_hops.is_none_or(|hops| (1..=MAX_HOPS).contains(&hops)),
            ),
            (
                "ttl_seconds",
                self.ttl_seconds
                    .is_none_or(|ttl| (1..=MAX_TTL_SECONDS).contains(&ttl)),
            ),
            ("budget", budget_fits),
            (
                "broad_reason",
                self.broad_reason
                    .as_ref()
                    .is_none_or(|reason| (1..=MAX_BROAD_REASON_BYTES).contains(&reason.len())),
            ),
        ];
        match checks.into_iter().find(|(_, within)| !within) {
            Some((field, _)) => Err(ConstraintError::OutOfRange(field)),
            None => Ok(()),
        }
    }

    /// How many edges may follow one another from here, this one included. At least one.
    pub fn hops(&self) -> u32 {
        self.max_hops.unwrap_or(1).max(1)
    }

    /// The document in its one canonical form: absent members left out, `max_depth` written as `max_hops`, times in UTC.
    ///
    /// Reading it back gives the same constraints.
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                members.insert(name.to_owned(), value);
            }
        };
        let resources = (!self.resources.is_empty()).then(|| {
            self.resources
                .iter()
                .map(|resource| Value::from(resource.as_str()))
                .collect()
        });
        let budget = self.budget.as_ref().map(|budget| match budget {
            Budget::Count(count) => Value::from(*count),
            Budget::Scopes(scopes) => scopes.iter().map(Value::from).collect(),
        });
        put("broad_reason", self.broad_reason.as_deref().map(Value::from));
        put("budget", budget);
        put(
            "expires_at",
            self.expires_at.map(|moment| Value::from(moment.to_rfc3339())),
        );
        put("max_hops", self.max_hops.map(Value::from));
        put("policy_approved", self.policy_approved.map(Value::from));
        put("resources", resources);
        put("ttl_seconds", self.ttl_seconds.map(Value::from));
        Value::Object(members)
    }
}

fn read_resources(value: &Value) -> Result<Vec<ResourceIdentifier>, ConstraintError> {
    let invalid = || ConstraintError::Invalid("resources");
    let items = value.as_array().ok_or_else(invalid)?;
    let mut resources = Vec::with_capacity(items.len().min(MAX_RESOURCES));
    for item in items {
        let text = item.as_str().ok_or_else(invalid)?;
        let resource = ResourceIdentifier::try_from(text).map_err(|_malformed| invalid())?;
        if !resources.contains(&resource) {
            resources.push(resource);
        }
    }
    Ok(resources)
}

fn read_budget(value: &Value) -> Result<Budget, ConstraintError> {
    let invalid = || ConstraintError::Invalid("budget");
    let Some(items) = value.as_array() else {
        return read_count("budget", value).map(Budget::Count);
    };
    let mut scopes = Vec::with_capacity(items.len());
    for item in items {
        let scope = item.as_str().ok_or_else(invalid)?;
        if scope.is_empty() || scope.contains(char::is_whitespace) {
            return Err(invalid());
        }
        scopes.push(scope);
    }
    Ok(Budget::Scopes(scopes.into_iter().collect()))
}

/// A whole number from 0 to `u32::MAX`; a negative one, a fraction or a text is invalid.
fn read_count(field: &'static str, value: &Value) -> Result<u32, ConstraintError> {
    value
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(ConstraintError::Invalid(field))
}

fn read_bool(field: &'static str, value: &Value) -> Result<bool, ConstraintError> {
    value.as_bool().ok_or(ConstraintError::Invalid(field))
}

fn read_text<'v>(field: &'static str, value: &'v Value) -> Result<&'v str, ConstraintError> {
    value.as_str().ok_or(ConstraintError::Invalid(field))
}

fn read_moment(field: &'static str, value: &Value) -> Result<UnixSeconds, ConstraintError> {
    UnixSeconds::parse_rfc3339(read_text(field, value)?).map_err(|_malformed| ConstraintError::Invalid(field))
}

#[cfg(test)]
mod tests;
