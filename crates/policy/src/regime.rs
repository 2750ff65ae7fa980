//! Who has the last word in a zone, the platform's contract or a decision policy?

use std::sync::Arc;

use crate::contract::{PolicyError, evaluate};
use crate::decision::{Decision, Reason};
use crate::facts::Facts;
use crate::tables::Tables;
use crate::verdict::Verdict;

/// What a decision policy may do in a zone. The zone says (`docs/contract/decision-contract.md`, "Decision policies").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Regime {
    /// The contract decides; a decision policy may only refuse what it would grant.
    #[default]
    Restrict,
    /// The decision policy decides instead of the contract.
    Sole,
}

impl Regime {
    /// The value on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restrict => "restrict",
            Self::Sole => "sole",
        }
    }

    /// Reads the value on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Restrict, Self::Sole]
            .into_iter()
            .find(|regime| regime.as_str() == text)
    }
}

/// The name of a decision policy that names no determining policy.
const NAMELESS: &str = "caracal-decision-policy";

/// Brings the contract and the verdict of the decision policy, if there is one, together.
pub(crate) fn conclude(
    regime: Regime,
    tables: &Tables,
    facts: &Facts<'_>,
    verdict: Option<&Verdict>,
) -> Result<Decision, PolicyError> {
    let granted = match regime {
        Regime::Restrict => evaluate(tables, facts)?,
        Regime::Sole => match invariant(tables, facts) {
            Some(reason) => Decision::denied(reason),
            None if verdict.is_none() => Decision::denied(Reason::NoDecisionPolicy),
            None => Decision::allowed_unnamed(),
        },
    };
    Ok(match verdict {
        Some(verdict) if granted.allow() => restricted(granted, facts, verdict),
        _ => granted,
    })
}

/// What no decision policy can give: a frozen zone stays frozen, a delegation never widens, and a token is good for what it
/// was issued for.
pub(crate) fn invariant(tables: &Tables, facts: &Facts<'_>) -> Option<Reason> {
    if tables.frozen {
        return Some(Reason::RestrictionActive);
    }
    if let Some(claims) = &facts.claims {
        if !facts.targets_resource(claims) {
            return Some(Reason::MandateTargetMismatch);
        }
        let carries = |asked: &str| claims.scopes().any(|scope| scope == asked);
        if !facts.requested.iter().all(carries) {
            return Some(Reason::DelegationScopeExceeded);
        }
    }
    facts
        .edge_scopes
        .filter(|edge| !facts.requested.is_subset(edge))
        .map(|_| Reason::DelegationScopeExceeded)
}

fn restricted(granted: Decision, facts: &Facts<'_>, verdict: &Verdict) -> Decision {
    match verdict {
        Verdict::Undefined => Decision::denied(Reason::DecisionPolicyUndefined),
        Verdict::Denied { said } => Decision::denied(Reason::DecisionPolicyDenied).with_said(&[], &[], said),
        // Nobody can be asked while a mandate is used: that was to be done when it was minted.
        Verdict::Allowed { tiers, said, .. } if !tiers.is_empty() && facts.requested.is_empty() => {
            Decision::denied(Reason::DecisionPolicyDenied).with_said(&[], &[], said)
        }
        Verdict::Allowed {
            policies,
            tiers,
            said,
        } => {
            let granted = granted.with_said(policies, tiers, said);
            if granted.determining_policies().is_empty() {
                granted.named(Arc::from(NAMELESS))
            } else {
                granted
            }
        }
    }
}
