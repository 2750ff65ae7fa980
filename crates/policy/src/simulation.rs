//! What would be decided about this input document? The contract over JSON somebody wrote.

use caracal_model::ScopeSet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::contract::{self, Explanation, PolicyError, decide_facts};
use crate::decision::Decision;
use crate::facts::{ClaimFacts, Facts};
use crate::input::SCHEMA_VERSION;
use crate::regime::Regime;

/// Decides on an input document in JSON, as [`crate::decide`] would on the same facts.
///
/// Members the contract does not read may be absent or of any type; `null` is the same as absent.
/// Documents that read `input` see `input_json` as it is.
///
/// # Errors
/// [`PolicyError::Input`] when `input_json` is not an input document of [`SCHEMA_VERSION`]; any other
/// [`PolicyError`] as for [`crate::decide`].
pub fn simulate(bundle: &Bundle, input_json: &str, regime: Regime) -> Result<Decision, PolicyError> {
    let document = read(input_json)?;
    decide_facts(bundle, &document.facts(), regime, || Ok(input_json.to_owned()))
}

/// The same, and why: every gate of the contract that was asked.
///
/// # Errors
/// As for [`simulate`].
pub fn explain(bundle: &Bundle, input_json: &str, regime: Regime) -> Result<Explanation, PolicyError> {
    let document = read(input_json)?;
    contract::explain(bundle, &document.facts(), regime, || Ok(input_json.to_owned()))
}

/// An input document with [`SCHEMA_VERSION`] where it names none. What is no document stays as it is.
pub fn with_schema_version(input_json: &str) -> String {
    match serde_json::from_str::<Value>(input_json) {
        Ok(Value::Object(mut members)) => {
            let version = members.entry("schema_version").or_insert(Value::Null);
            if version.is_null() || version == "" {
                *version = Value::from(SCHEMA_VERSION);
            }
            Value::Object(members).to_string()
        }
        _ => input_json.to_owned(),
    }
}

fn read(input_json: &str) -> Result<Document, PolicyError> {
    let document: Document =
        serde_json::from_str(input_json).map_err(|error| PolicyError::Input(error.into()))?;
    if document.schema_version != SCHEMA_VERSION {
        return Err(PolicyError::Input("another schema version".into()));
    }
    Ok(document)
}

/// The members of an input document that the contract reads.
#[derive(Deserialize)]
struct Document {
    schema_version: String,
    #[serde(default, deserialize_with = "or_default")]
    principal: Principal,
    #[serde(default, deserialize_with = "or_default")]
    resource: Resource,
    #[serde(default, deserialize_with = "or_default")]
    action: Action,
    #[serde(default)]
    delegation_edge: Option<Edge>,
    #[serde(default, deserialize_with = "or_default")]
    context: Context,
}

#[derive(Default, Deserialize)]
struct Principal {
    #[serde(default, deserialize_with = "or_default")]
    r#type: String,
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    labels: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Resource {
    #[serde(default, deserialize_with = "or_default")]
    identifier: String,
}

#[derive(Default, Deserialize)]
struct Action {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
}

#[derive(Deserialize)]
struct Edge {
    #[serde(rename = "id", deserialize_with = "non_empty")]
    _id: (),
    #[serde(default, deserialize_with = "scopes")]
    scopes: ScopeSet,
}

#[derive(Default, Deserialize)]
struct Context {
    #[serde(default)]
    subject_claims: Option<Claims>,
    #[serde(default, deserialize_with = "or_default")]
    agent_session_id: String,
    #[serde(default, deserialize_with = "scopes")]
    requested_scopes: ScopeSet,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "or_default")]
    r#use: String,
    #[serde(default, deserialize_with = "or_default")]
    delegation_edge_id: String,
    #[serde(default, deserialize_with = "or_default")]
    scope: String,
    #[serde(default, deserialize_with = "or_default")]
    target: Vec<String>,
}

impl Document {
    fn facts(&self) -> Facts<'_> {
        Facts {
            is_workload: self.principal.r#type == "Workload",
            is_injection: self.action.id == "CredentialInjection",
            principal_id: &self.principal.id,
            labels: &self.principal.labels,
            identifier: &self.resource.identifier,
            has_session: !self.context.agent_session_id.is_empty(),
            edge_scopes: self.delegation_edge.as_ref().map(|edge| &edge.scopes),
            claims: self.context.subject_claims.as_ref().map(|claims| ClaimFacts {
                r#use: &claims.r#use,
                delegation_edge_id: &claims.delegation_edge_id,
                scope: &claims.scope,
                target: &claims.target,
            }),
            requested: &self.context.requested_scopes,
        }
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        Err(D::Error::custom("an empty id"))
    } else {
        Ok(())
    }
}

/// Scopes as an array of texts, none of which would read as two scopes.
fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ScopeSet, D::Error> {
    let texts: Vec<String> = or_default(deserializer)?;
    if texts
        .iter()
        .any(|text| text.is_empty() || text.contains(char::is_whitespace))
    {
        return Err(D::Error::custom("a scope is empty or has white space in it"));
    }
    Ok(texts.iter().collect())
}
