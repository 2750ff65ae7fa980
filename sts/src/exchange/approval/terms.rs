//! What do all the tiers together ask for? The strictest of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use caracal_policy::{ApprovalTier, Approver, Privacy};

const OPERATOR_WINDOW_SECONDS: i32 = 4 * 3_600;
const SUBJECT_WINDOW_SECONDS: i32 = 15 * 60;
const WINDOW_SECONDS_MIN: i32 = 60;
const OPERATOR_WINDOW_SECONDS_MAX: i32 = 7 * 86_400;
const SUBJECT_WINDOW_SECONDS_MAX: i32 = 86_400;

/// One approval that satisfies every tier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The names of the tiers, sorted, joined by commas.
    pub(crate) tier: String,
    pub(crate) approver: Approver,
    pub(crate) privacy: Privacy,
    /// How long it can be decided and used.
    pub(crate) window_seconds: i32,
}

/// One tier needs an operator and another the user: no single decision is both.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClassConflict;

impl Terms {
    /// Merges the tiers of all resources. `any` yields to a class, the strictest privacy and the shortest window win.
    ///
    /// # Errors
    /// [`ClassConflict`].
    pub(crate) fn merge(tiers: &[&Arc<ApprovalTier>]) -> Result<Self, ClassConflict> {
        let names: BTreeSet<&str> = tiers.iter().map(|tier| &*tier.tier).collect();
        let asks = |class: Approver| tiers.iter().any(|tier| tier.approver == class);
        let approver = match (asks(Approver::Operator), asks(Approver::Subject)) {
            (true, true) => return Err(ClassConflict),
            (false, true) => Approver::Subject,
            (false, false) if asks(Approver::Any) => Approver::Any,
            (true | false, false) => Approver::Operator,
        };
        let privacy = tiers
            .iter()
            .map(|tier| tier.privacy)
            .max_by_key(|privacy| strictness(*privacy));
        let declared = tiers.iter().filter_map(|tier| declared_window(tier)).min();
        let (default, max) = match approver {
            Approver::Operator => (OPERATOR_WINDOW_SECONDS, OPERATOR_WINDOW_SECONDS_MAX),
            Approver::Subject | Approver::Any => (SUBJECT_WINDOW_SECONDS, SUBJECT_WINDOW_SECONDS_MAX),
        };
        Ok(Self {
            tier: names.into_iter().collect::<Vec<_>>().join(","),
            approver,
            privacy: privacy.unwrap_or(Privacy::Identified),
            window_seconds: declared.unwrap_or(default).clamp(WINDOW_SECONDS_MIN, max),
        })
    }
}

fn strictness(privacy: Privacy) -> u8 {
    match privacy {
        Privacy::Identified => 0,
        Privacy::Pseudonymous => 1,
        Privacy::Anonymous => 2,
    }
}

/// What the document says, not what it leaves to a default: the default depends on who decides in the end.
fn declared_window(tier: &ApprovalTier) -> Option<i32> {
    tier.declaration.get("ttl_seconds")?;
    Some(i32::try_from(tier.ttl_seconds).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tier(name: &str, approver: Approver, privacy: Privacy, ttl: Option<u64>) -> Arc<ApprovalTier> {
        Arc::new(ApprovalTier {
            tier: name.into(),
            approver,
            ttl_seconds: ttl.unwrap_or(1_800),
            privacy,
            declaration: ttl.map_or_else(
                || json!({"tier": name}),
                |ttl| json!({"tier": name, "ttl_seconds": ttl}),
            ),
        })
    }

    fn merge(tiers: &[Arc<ApprovalTier>]) -> Result<Terms, ClassConflict> {
        Terms::merge(&tiers.iter().collect::<Vec<_>>())
    }

    #[test]
    fn every_row_of_the_merge_rules() {
        use Approver::{Any, Operator, Subject};
        use Privacy::{Anonymous, Identified, Pseudonymous};
        let rows = [
            (
                vec![tier("a", Operator, Identified, None)],
                ("a", Operator, Identified, 14_400),
            ),
            (
                vec![tier("a", Subject, Identified, None)],
                ("a", Subject, Identified, 900),
            ),
            (
                vec![tier("a", Any, Identified, None)],
                ("a", Any, Identified, 900),
            ),
            // Names are sorted and named once.
            (
                vec![
                    tier("z", Operator, Identified, None),
                    tier("a", Operator, Identified, None),
                    tier("z", Operator, Identified, None),
                ],
                ("a,z", Operator, Identified, 14_400),
            ),
            // Any yields.
            (
                vec![
                    tier("a", Any, Identified, None),
                    tier("b", Operator, Identified, None),
                ],
                ("a,b", Operator, Identified, 14_400),
            ),
            (
                vec![
                    tier("a", Any, Identified, None),
                    tier("b", Subject, Identified, None),
                ],
                ("a,b", Subject, Identified, 900),
            ),
            // The strictest privacy.
            (
                vec![
                    tier("a", Operator, Pseudonymous, None),
                    tier("b", Operator, Identified, None),
                ],
                ("a,b", Operator, Pseudonymous, 14_400),
            ),
            (
                vec![
                    tier("a", Operator, Pseudonymous, None),
                    tier("b", Operator, Anonymous, None),
                ],
                ("a,b", Operator, Anonymous, 14_400),
            ),
            // The shortest declared window, within its bounds.
            (
                vec![
                    tier("a", Operator, Identified, Some(900)),
                    tier("b", Operator, Identified, Some(600)),
                ],
                ("a,b", Operator, Identified, 600),
            ),
            (
                vec![
                    tier("a", Operator, Identified, Some(20_000)),
                    tier("b", Operator, Identified, None),
                ],
                ("a,b", Operator, Identified, 20_000),
            ),
            (
                vec![tier("a", Operator, Identified, Some(1))],
                ("a", Operator, Identified, 60),
            ),
            (
                vec![tier("a", Operator, Identified, Some(u64::MAX))],
                ("a", Operator, Identified, 604_800),
            ),
            (
                vec![tier("a", Subject, Identified, Some(604_800))],
                ("a", Subject, Identified, 86_400),
            ),
            (
                vec![tier("a", Any, Identified, Some(604_800))],
                ("a", Any, Identified, 86_400),
            ),
        ];
        for (tiers, (name, approver, privacy, window_seconds)) in rows {
            let expected = Terms {
                tier: name.to_owned(),
                approver,
                privacy,
                window_seconds,
            };
            assert_eq!(merge(&tiers), Ok(expected), "{tiers:?}");
        }
        let both = [
            tier("a", Operator, Identified, None),
            tier("b", Any, Identified, None),
            tier("c", Subject, Identified, None),
        ];
        assert_eq!(merge(&both), Err(ClassConflict));
    }
}
