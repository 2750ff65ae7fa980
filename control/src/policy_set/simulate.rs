//! What would a version decide, were it in force?

use caracal_model::{PolicySetId, PolicySetVersionId, PolicyVersionId, ZoneId};
use caracal_policy::{Explanation, Regime};
use caracal_storage::policy_set::PolicySetVersion;
use caracal_storage::{ZoneScope, zone};
use serde_json::{Map, Value};

use super::{find_version, manifest, policy_versions};
use crate::control::Control;
use crate::policy::SCHEMA_VERSION;
use crate::refusal::{Code, Refusal};

/// Longest input document, as the token service's.
const INPUT_BYTES_MAX: usize = 65_536;

/// What came out.
#[derive(Debug)]
pub(crate) struct Simulation {
    /// The version that was asked.
    pub(crate) version: PolicySetVersion,
    /// The texts it names.
    pub(crate) policies: Vec<PolicyVersionId>,
    /// What a decision policy may do in the zone.
    pub(crate) regime: Regime,
    /// Doubts about the input.
    pub(crate) warnings: Vec<String>,
    /// The decision and how it came about; `Err` says why there is none, `None` that no input was given.
    pub(crate) result: Option<Result<Explanation, String>>,
}

impl Simulation {
    /// Whether the version could be activated as it is; a version that could not is refused before this exists.
    pub(crate) const fn would_activate(&self) -> bool {
        !matches!(self.result, Some(Err(_)))
    }

    /// The decision, when there is one.
    pub(crate) fn decision(&self) -> Option<&'static str> {
        let explanation = self.explanation()?;
        Some(if explanation.decision.allow() {
            "allow"
        } else {
            "deny"
        })
    }

    /// How the decision came about, when there is one.
    pub(crate) fn explanation(&self) -> Option<&Explanation> {
        self.result.as_ref()?.as_ref().ok()
    }
}

/// Compiles a version and, when an input is given, decides on it.
///
/// # Errors
/// A refusal when the version does not exist or does not compile.
pub(crate) async fn simulate(
    control: &Control,
    zone: &ZoneId,
    id: &PolicySetId,
    version: &PolicySetVersionId,
    input: Option<Map<String, Value>>,
) -> Result<Simulation, Refusal> {
    let version = match find_version(control, zone, id, version).await {
        Err(refusal) if refusal.code() == Code::PolicySetVersionNotFound => {
            return Err(Code::VersionNotFound.into());
        }
        answer => answer?,
    };
    let regime = regime(control, zone).await?;
    let policies = policy_versions(&version)?;
    let documents = manifest::load(control, zone, &policies).await?;
    manifest::check(zone, &policies, &documents)?;
    let bundle = manifest::compile(control, &policies, documents).await?;
    let warnings = input
        .as_ref()
        .map(|input| warnings(zone, input))
        .unwrap_or_default();
    let result = match input {
        None => None,
        Some(input) => {
            let text = Value::Object(with_schema_version(input)).to_string();
            if text.len() > INPUT_BYTES_MAX {
                return Err(Refusal::because(Code::PayloadTooLarge, "The input is too large"));
            }
            let decided = control.evaluations.run(move || {
                caracal_policy::explain(&bundle, &text, regime).map_err(|error| error.to_string())
            });
            Some(decided.await?)
        }
    };
    Ok(Simulation {
        version,
        policies,
        regime,
        warnings,
        result,
    })
}

async fn regime(control: &Control, zone: &ZoneId) -> Result<Regime, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = zone::find(&mut tx, zone).await?.ok_or(Code::ZoneNotFound)?;
    Ok(Regime::parse(&found.policy_mode).unwrap_or_default())
}

fn with_schema_version(mut input: Map<String, Value>) -> Map<String, Value> {
    input
        .entry("schema_version")
        .or_insert_with(|| Value::from(SCHEMA_VERSION));
    input
}

fn warnings(zone: &ZoneId, input: &Map<String, Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let version = input.get("schema_version").and_then(Value::as_str);
    if let Some(other) = version.filter(|version| *version != SCHEMA_VERSION) {
        warnings.push(format!("input_schema_mismatch:{other}"));
    }
    let principal_zone = input
        .get("principal")
        .and_then(|principal| principal.get("zone_id"));
    if principal_zone
        .and_then(Value::as_str)
        .is_some_and(|named| named != zone.as_str())
    {
        warnings.push("principal_zone_mismatch".to_owned());
    }
    for name in ["resource", "action", "context"] {
        if !input.get(name).is_some_and(Value::is_object) {
            warnings.push(format!("missing_{name}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn doubtful_inputs_are_named() {
        let zone = "z1".parse().unwrap();
        let of = |input: Value| warnings(&zone, input.as_object().unwrap());
        assert_eq!(
            of(json!({ "resource": {}, "action": {}, "context": {} })),
            Vec::<String>::new()
        );
        assert_eq!(
            of(
                json!({ "schema_version": "x", "principal": { "zone_id": "z2" }, "resource": 1, "context": {} })
            ),
            [
                "input_schema_mismatch:x",
                "principal_zone_mismatch",
                "missing_resource",
                "missing_action"
            ]
        );
    }
}
