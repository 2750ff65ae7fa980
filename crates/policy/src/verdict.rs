//! What has a decision policy said? Its result document, read strictly.

use std::sync::Arc;

use regorus::Value;
use serde::Deserialize;
use serde_json::Map;

use crate::contract::PolicyError;
use crate::decision::{ApprovalTier, DeterminingPolicy};
use crate::measure;
use crate::tables::approval_tier;

/// A human is asked for with this member of a diagnostic.
const STEP_UP: &str = "step_up_required";

/// The answer of a decision policy.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// No rule applies.
    Undefined,
    /// Yes, if a human agrees as far as `tiers` ask for one.
    Allowed {
        policies: Vec<DeterminingPolicy>,
        tiers: Vec<Arc<ApprovalTier>>,
        said: Vec<Map<String, serde_json::Value>>,
    },
    /// No.
    Denied {
        said: Vec<Map<String, serde_json::Value>>,
    },
}

/// The published shape. Members nobody knows are passed over, as the published engine does.
#[derive(Deserialize)]
struct Document {
    decision: Word,
    evaluation_status: Status,
    #[serde(default)]
    determining_policies: Vec<Map<String, serde_json::Value>>,
    #[serde(default)]
    diagnostics: Vec<Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Complete,
}

impl Verdict {
    /// Reads the value of `result`.
    ///
    /// # Errors
    /// [`PolicyError::Result`]: nothing is known then.
    pub(crate) fn read(value: &Value) -> Result<Self, PolicyError> {
        if *value == Value::Undefined {
            return Ok(Self::Undefined);
        }
        measure::check(value, &measure::ANSWER).map_err(|error| PolicyError::Result(error.into()))?;
        let document = serde_json::to_value(value)
            .and_then(serde_json::from_value::<Document>)
            .map_err(|error| PolicyError::Result(error.into()))?;
        let Document {
            decision,
            evaluation_status: Status::Complete,
            determining_policies,
            mut diagnostics,
        } = document;
        let tiers = tiers(&diagnostics)?;
        diagnostics.retain(|said| !said.contains_key(STEP_UP));
        Ok(match decision {
            Word::Deny => Self::Denied { said: diagnostics },
            Word::Allow => Self::Allowed {
                policies: determining_policies.iter().filter_map(named).collect(),
                tiers,
                said: diagnostics,
            },
        })
    }
}

fn named(policy: &Map<String, serde_json::Value>) -> Option<DeterminingPolicy> {
    let policy = Arc::from(policy.get("policy")?.as_str()?);
    Some(DeterminingPolicy { policy })
}

/// Every tier that is asked for. One that cannot be read is never passed over: a human was to be asked.
fn tiers(diagnostics: &[Map<String, serde_json::Value>]) -> Result<Vec<Arc<ApprovalTier>>, PolicyError> {
    let mut tiers = Vec::new();
    for step_up in diagnostics.iter().filter_map(|said| said.get(STEP_UP)) {
        let is_known = step_up.get("type").and_then(serde_json::Value::as_str) == Some("human_approval");
        let declared = step_up.get("tiers").and_then(serde_json::Value::as_array);
        let declared = declared.filter(|declared| is_known && !declared.is_empty());
        let unreadable = || PolicyError::Result(format!("{STEP_UP} has another shape").into());
        for declaration in declared.ok_or_else(unreadable)? {
            let tier = approval_tier(&Value::from(declaration.clone())).ok_or_else(unreadable)?;
            tiers.push(Arc::new(tier));
        }
    }
    Ok(tiers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Verdict, PolicyError> {
        Verdict::read(&Value::from_json_str(text).unwrap())
    }

    #[test]
    fn only_a_complete_document_with_a_known_decision_is_an_answer() {
        for text in [
            r#"{"decision": "allow"}"#,
            r#"{"decision": "allow", "evaluation_status": "partial"}"#,
            r#"{"decision": "ALLOW", "evaluation_status": "complete"}"#,
            r#"{"decision": true, "evaluation_status": "complete"}"#,
            r#"{"decision": "allow", "evaluation_status": "complete", "diagnostics": ["x"]}"#,
            r#"{"evaluation_status": "complete"}"#,
            "true",
            r#""allow""#,
            "[]",
        ] {
            assert!(matches!(read(text), Err(PolicyError::Result(_))), "{text}");
        }
        let text = r#"{"decision": "allow", "evaluation_status": "complete", "more": 1}"#;
        assert!(matches!(read(text), Ok(Verdict::Allowed { .. })));
        let undefined = Verdict::read(&Value::Undefined);
        assert!(matches!(undefined, Ok(Verdict::Undefined)));
    }

    #[test]
    fn a_human_who_is_asked_for_in_a_way_nobody_knows_is_never_passed_over() {
        let with = |step_up: &str| {
            let text = format!(
                r#"{{"decision": "allow", "evaluation_status": "complete", "diagnostics": [{{"step_up_required": {step_up}}}]}}"#
            );
            read(&text)
        };
        for step_up in [
            "true",
            "{}",
            r#"{"type": "human_approval"}"#,
            r#"{"type": "human_approval", "tiers": []}"#,
            r#"{"type": "human_approval", "tiers": [{"approver": "operator"}]}"#,
            r#"{"type": "human_approval", "tiers": [{"tier": "t", "approver": "nobody"}]}"#,
            r#"{"type": "other", "tiers": [{"tier": "t"}]}"#,
        ] {
            assert!(matches!(with(step_up), Err(PolicyError::Result(_))), "{step_up}");
        }
        let Ok(Verdict::Allowed { tiers, said, .. }) =
            with(r#"{"type": "human_approval", "tiers": [{"tier": "t", "ttl_seconds": 60}]}"#)
        else {
            panic!("refused")
        };
        assert_eq!((tiers.len(), &*tiers[0].tier, tiers[0].ttl_seconds), (1, "t", 60));
        assert!(said.is_empty(), "it is said once, with the tiers of the contract");
    }
}
