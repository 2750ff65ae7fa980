//! What does the policy of a zone say at a path? The question of a client of OPA's Data API.

use std::sync::Arc;

use crate::bundle::{Bundle, State};
use crate::contract::PolicyError;
use crate::decision::Decision;
use crate::program::within;
use crate::regime::Regime;
use crate::simulation::{simulate, with_schema_version};

/// The path of the decision of the zone: the contract's and the decision policy's together.
pub const DECISION_PATH: [&str; 3] = ["caracal", "authz", "result"];

/// What is asked. Owned, so that the work can be done somewhere else.
#[derive(Debug)]
pub struct DataQuestion {
    /// The policy that is asked.
    pub bundle: Arc<Bundle>,
    /// Who decides in the zone.
    pub regime: Regime,
    /// The segments below `data`.
    pub path: Vec<String>,
    /// The input in JSON, if there is one.
    pub input: Option<String>,
}

/// What the policy says.
#[derive(Debug)]
pub struct DataAnswer {
    /// The value, `None` when it is undefined.
    pub value: Option<serde_json::Value>,
    /// The decision that was asked for, when it was one.
    pub decision: Option<Decision>,
}

impl DataQuestion {
    /// Evaluates what the path names: the decision of the zone at [`DECISION_PATH`], else a rule of a decision policy, a
    /// place in its value, or all rules of a package. Data documents are not shown. Blocks; bounded as a decision is.
    ///
    /// # Errors
    /// [`PolicyError`]; [`PolicyError::Input`] also when a decision is asked for without an input document.
    pub fn answer(&self) -> Result<DataAnswer, PolicyError> {
        if let Some(below) = self.below_decision() {
            return self.decision(below);
        }
        let value = match self.bundle.state() {
            State::DenyAll(_) | State::Constant(_) => None,
            State::ReadsInput(interpreted) => interpreted.look_up(&self.path, self.input.as_deref())?,
        };
        Ok(DataAnswer {
            value,
            decision: None,
        })
    }

    fn below_decision(&self) -> Option<&[String]> {
        let (path, below) = self.path.split_at_checked(DECISION_PATH.len())?;
        (path == DECISION_PATH).then_some(below)
    }

    fn decision(&self, below: &[String]) -> Result<DataAnswer, PolicyError> {
        let input = self.input.as_deref().unwrap_or("null");
        let decision = simulate(&self.bundle, &with_schema_version(input), self.regime)?;
        let value = serde_json::to_value(&decision).map_err(|error| PolicyError::Result(error.into()))?;
        Ok(DataAnswer {
            value: within(value, below),
            decision: Some(decision),
        })
    }
}
