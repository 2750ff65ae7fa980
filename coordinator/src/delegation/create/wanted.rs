//! What does a body ask for, and does it keep the rules of form?

use caracal_model::delegation::Constraints;
use caracal_model::{ApplicationId, ScopeSet, SessionId, UnixSeconds};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

const TTL_SECONDS_MAX: i64 = 86_400;
const SCOPES_MAX: usize = 256;

/// The body. Unknown members are ignored; unknown constraints are not.
#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    pub(super) source_session_id: SessionId,
    pub(super) target_session_id: SessionId,
    pub(super) issuer_application_id: ApplicationId,
    pub(super) receiver_application_id: ApplicationId,
    pub(super) parent_edge_id: Option<String>,
    pub(super) resource_id: Option<String>,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    pub(super) constraints: Option<Map<String, Value>>,
    pub(super) constraints_json: Option<Map<String, Value>>,
    pub(super) expires_at: Option<String>,
    pub(super) ttl_seconds: Option<i64>,
}

/// A body that keeps the rules of form.
pub(super) struct Wanted {
    pub(super) body: Body,
    pub(super) scopes: ScopeSet,
    pub(super) constraints: Constraints,
    pub(super) expires_at: UnixSeconds,
}

impl Wanted {
    /// Constraints, then expiry, as the contract orders them.
    pub(super) fn check(body: Body, now: UnixSeconds) -> Result<Self, Refusal> {
        let constraints = constraints_of(&body)?;
        let ttl_end = constraints.ttl_seconds.map(|ttl| UnixSeconds(now.0 + ttl));
        let named_end = match &body.expires_at {
            Some(text) => Some(
                UnixSeconds::parse_rfc3339(text)
                    .map_err(|_invalid| Refusal::bad_request("invalid_expires_at"))?,
            ),
            None => None,
        };
        // What ends first ends the edge.
        let expires_at = [
            named_end,
            constraints.expires_at,
            named_end.is_none().then_some(ttl_end).flatten(),
        ]
        .into_iter()
        .flatten()
        .min();
        let expires_at = expires_at.ok_or_else(|| Refusal::bad_request("delegation_expiry_required"))?;
        if body.scopes.len() > SCOPES_MAX
            || body
                .scopes
                .iter()
                .any(|scope| scope.is_empty() || scope.chars().any(|c| c.is_whitespace() || c.is_control()))
        {
            return Err(Refusal::bad_request("invalid_scopes"));
        }
        let names_nothing = |name: &String| name.is_empty() || name.chars().any(char::is_control);
        if body.resource_id.as_ref().is_some_and(names_nothing) {
            return Err(Refusal::bad_request("invalid_resource_id"));
        }
        let scopes = body.scopes.iter().collect();
        Ok(Self {
            body,
            scopes,
            constraints,
            expires_at,
        })
    }

    pub(super) fn is_broad(&self) -> bool {
        self.body.resource_id.is_none() && self.constraints.resources.is_empty()
    }
}

/// Both members merged, `constraints` winning, and the body's own lifetime as a constraint.
fn constraints_of(body: &Body) -> Result<Constraints, Refusal> {
    let mut merged = body.constraints_json.clone().unwrap_or_default();
    merged.extend(body.constraints.clone().unwrap_or_default());
    merged.retain(|_, value| !value.is_null());
    if let Some(ttl) = body.ttl_seconds {
        if !(1..=TTL_SECONDS_MAX).contains(&ttl) {
            return Err(Refusal::bad_request("invalid_ttl_seconds"));
        }
        merged.entry("ttl_seconds").or_insert_with(|| ttl.into());
    }
    let refused = |field: Option<&str>| {
        Refusal::bad_request(&field.map_or_else(
            || "invalid_delegation_constraint".to_owned(),
            |field| format!("invalid_{field}"),
        ))
    };
    let constraints = Constraints::parse(&Value::Object(merged)).map_err(|error| refused(error.field()))?;
    constraints
        .check_ranges()
        .map_err(|error| refused(error.field()))?;
    Ok(constraints)
}
