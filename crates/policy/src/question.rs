//! A decision for which documents must be interpreted, so that the work can be done somewhere else.
//!
//! Interpreting takes a hundred times longer than all the rest of a decision and is the one part whose cost a document's
//! author controls. The parts here are owned and may cross threads; [`Input`] is borrowed and stays where it is.

use std::sync::Arc;

use crate::bundle::{Bundle, State};
use crate::contract::PolicyError;
use crate::decision::Decision;
use crate::facts::Facts;
use crate::input::Input;
use crate::regime::{Regime, conclude};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// What the documents that read `input` have to be asked.
#[derive(Debug)]
pub struct Question {
    bundle: Arc<Bundle>,
    input_json: String,
}

/// What the documents and the decision policy said about one input. Good for that input only.
#[derive(Debug)]
pub struct Answer {
    tables: Tables,
    verdict: Option<Verdict>,
}

/// The question to ask before [`decide_answered`]; `None` when no document reads `input`, so that [`crate::decide`] costs
/// only look-ups.
///
/// # Errors
/// [`PolicyError::Input`] when the input cannot be written.
pub fn question(bundle: &Arc<Bundle>, input: &Input<'_>) -> Result<Option<Question>, PolicyError> {
    if !bundle.reads_input() {
        return Ok(None);
    }
    let input_json = serde_json::to_string(input).map_err(|error| PolicyError::Input(error.into()))?;
    Ok(Some(Question {
        bundle: Arc::clone(bundle),
        input_json,
    }))
}

impl Question {
    /// Interprets the documents and the decision policy: 50 microseconds and up, cut off at
    /// [`crate::INTERPRETATION_LIMIT`] and [`crate::PROGRAM_LIMIT`]. Blocks.
    ///
    /// # Errors
    /// Any [`PolicyError`] but [`PolicyError::RiskConflict`].
    pub fn answer(&self) -> Result<Answer, PolicyError> {
        let State::ReadsInput(interpreted) = self.bundle.state() else {
            return Err(PolicyError::Evaluation("no document reads the input".into()));
        };
        let (tables, verdict) = interpreted.answer(&self.input_json)?;
        Ok(Answer { tables, verdict })
    }
}

/// Decides on the input that the answer was given for. Memory only.
///
/// # Errors
/// [`PolicyError::RiskConflict`].
pub fn decide_answered(answer: &Answer, input: &Input<'_>, regime: Regime) -> Result<Decision, PolicyError> {
    conclude(regime, &answer.tables, &Facts::of(input), answer.verdict.as_ref())
}
