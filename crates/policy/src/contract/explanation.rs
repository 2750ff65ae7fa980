//! Why was it decided so? The gates of the contract one by one, in their published order, in words.
//!
//! A simulation asks; the request path never does. The gates are those of [`super::Gate`], asked again; a test holds the
//! first one that fails here to the reason that the decision names.

use serde::Serialize;

use caracal_model::ScopeSet;

use super::{Gate, Shape, shape};
use crate::bundle::{Bundle, State};
use crate::contract::PolicyError;
use crate::decision::{Decision, Reason};
use crate::facts::{ClaimFacts, Facts};
use crate::regime::{Regime, conclude, invariant};
use crate::tables::{Approvals, Grant, Risk, Tables};
use crate::verdict::Verdict;

/// A decision and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// What was decided.
    #[serde(skip)]
    pub decision: Decision,
    /// The shape of the request, such as `mint`; `None` when it has none.
    pub shape: Option<&'static str>,
    /// The gates that were asked, up to the first that refused.
    pub gates: Vec<GateReport>,
}

/// What one gate found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Its name.
    pub gate: &'static str,
    /// Whether the request passed.
    pub passed: bool,
    /// The reason it refuses with.
    pub refuses_with: &'static str,
    /// What was compared with what.
    pub because: String,
}

/// Decides on facts and says why.
pub(crate) fn explain(
    bundle: &Bundle,
    facts: &Facts<'_>,
    regime: Regime,
    document: impl FnOnce() -> Result<String, PolicyError>,
) -> Result<Explanation, PolicyError> {
    match bundle.state() {
        State::DenyAll(reason) => Ok(Explanation {
            decision: Decision::denied(*reason),
            shape: None,
            gates: vec![GateReport {
                gate: "policy_is_active",
                passed: false,
                refuses_with: reason.as_str(),
                because: "no policy set is in force".to_owned(),
            }],
        }),
        State::Constant(tables) => explain_tables(tables, facts, regime, None),
        State::ReadsInput(interpreted) => {
            let (tables, verdict) = interpreted.answer(&document()?)?;
            explain_tables(&tables, facts, regime, verdict.as_ref())
        }
    }
}

fn explain_tables(
    tables: &Tables,
    facts: &Facts<'_>,
    regime: Regime,
    verdict: Option<&Verdict>,
) -> Result<Explanation, PolicyError> {
    let decision = conclude(regime, tables, facts, verdict)?;
    let gate = Gate {
        tables,
        facts,
        grant: tables.grants.get(facts.identifier),
    };
    let shape = shape(facts, gate.grant);
    let mut report = Report::default();
    let passed = match regime {
        Regime::Restrict => report.all(&gate, shape.as_ref()),
        Regime::Sole => report.invariants(&gate),
    };
    if passed.is_some() && (verdict.is_some() || regime == Regime::Sole) {
        report.decision_policy(&decision);
    }
    Ok(Explanation {
        decision,
        shape: shape.as_ref().map(Shape::name),
        gates: report.gates,
    })
}

impl Shape<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Workload => "workload",
            Self::Mint { .. } => "mint",
            Self::Use { .. } => "use",
            Self::AmbientMint { .. } => "ambient_mint",
            Self::AmbientUse { .. } => "ambient_use",
        }
    }
}

#[derive(Default)]
struct Report {
    gates: Vec<GateReport>,
}

impl Report {
    /// Asks every gate of the shape, in order, until one refuses.
    fn all(&mut self, gate: &Gate<'_>, shape: Option<&Shape<'_>>) -> Option<()> {
        self.ask(
            "zone_is_not_frozen",
            Reason::RestrictionActive,
            !gate.tables.frozen,
            "whether `restrict` holds anything",
        )?;
        let Some(shape) = shape else {
            return self.ask(
                "has_a_shape",
                Reason::NoRuleMatched,
                false,
                "the request is neither a bootstrap, a workload, a mint, a use nor an ambient mint or use",
            );
        };
        if matches!(
            shape,
            Shape::Workload | Shape::Mint { .. } | Shape::AmbientMint { .. }
        ) {
            self.well_formed(gate)?;
        }
        match shape {
            Shape::Workload => Some(()),
            Shape::Bootstrap => self.owner(gate, Reason::NoRuleMatched),
            Shape::Mint { edge_scopes } => {
                self.owner(gate, Reason::ResourceNotGranted)?;
                let asked = gate.facts.requested;
                self.ask(
                    "within_delegation",
                    Reason::DelegationScopeExceeded,
                    asked.is_subset(edge_scopes),
                    &asked_and_held(asked, "the delegation", edge_scopes),
                )?;
                self.confinement(gate)?;
                self.role(gate, asked, |held| asked.is_subset(held))
            }
            Shape::Use { claims } => {
                self.targeted(gate, claims)?;
                self.owner(gate, Reason::ResourceNotGranted)?;
                self.role(gate, &carried(claims), |held| claims.carries_only(held))
            }
            Shape::AmbientMint { ambient, .. } => {
                self.owner(gate, Reason::ResourceNotGranted)?;
                let requested = gate.facts.requested;
                self.ambient(requested, ambient, requested.is_subset(ambient))
            }
            Shape::AmbientUse { claims, ambient, .. } => {
                self.targeted(gate, claims)?;
                self.owner(gate, Reason::ResourceNotGranted)?;
                self.ambient(&carried(claims), ambient, claims.carries_only(ambient))
            }
        }
    }

    /// Asks the gates that hold whatever a sole decision policy says.
    fn invariants(&mut self, gate: &Gate<'_>) -> Option<()> {
        let broken = invariant(gate.tables, gate.facts);
        for (name, reason, because) in [
            (
                "zone_is_not_frozen",
                Reason::RestrictionActive,
                "whether `restrict` holds anything",
            ),
            (
                "mandate_targets_resource",
                Reason::MandateTargetMismatch,
                "whether the mandate, if there is one, is for the resource",
            ),
            (
                "within_delegation",
                Reason::DelegationScopeExceeded,
                "whether the delegation and the mandate, if there are any, have the wanted scopes",
            ),
        ] {
            self.ask(name, reason, broken != Some(reason), because)?;
        }
        Some(())
    }

    /// Adds what the decision policy found.
    fn decision_policy(&mut self, decision: &Decision) -> Option<()> {
        let reason = decision.first_reason().unwrap_or(Reason::DecisionPolicyDenied);
        self.ask(
            "decision_policy_allows",
            reason,
            decision.allow(),
            "what the decision policy of the set decides",
        )
    }

    fn well_formed(&mut self, gate: &Gate<'_>) -> Option<()> {
        self.ask(
            "risk_is_well_formed",
            Reason::MalformedRiskData,
            matches!(&*gate.tables.risk, Risk::Tiers { .. }),
            "whether `risk` is an array of {scope, tier}",
        )?;
        self.ask(
            "approval_tiers_are_well_formed",
            Reason::MalformedApprovalData,
            matches!(&*gate.tables.approvals, Approvals::Tiers(_)),
            "whether `approval_tiers` is an array of {tier, approver, ttl_seconds, privacy}",
        )
    }

    fn targeted(&mut self, gate: &Gate<'_>, claims: &ClaimFacts<'_>) -> Option<()> {
        self.ask(
            "mandate_targets_resource",
            Reason::MandateTargetMismatch,
            gate.facts.targets_resource(claims),
            &format!("the mandate is for {}", listed(claims.target)),
        )
    }

    fn owner(&mut self, gate: &Gate<'_>, reason: Reason) -> Option<()> {
        let because = match gate.grant {
            None => format!("grants has no {:?}", gate.facts.identifier),
            Some(grant) => {
                let key = &grant.application;
                match gate.tables.app_ids.get(key) {
                    None => format!("the resource is granted to {key:?}, which app_ids does not name"),
                    Some(id) => format!(
                        "the resource is granted to {key:?}, which is {id:?}; the principal is {:?}",
                        gate.facts.principal_id
                    ),
                }
            }
        };
        self.ask("principal_owns_resource", reason, gate.owned().is_ok(), &because)
    }

    fn confinement(&mut self, gate: &Gate<'_>) -> Option<()> {
        let caps = gate.tables.confinement.iter().filter(|cap| {
            let prefix = &*cap.label_prefix;
            gate.facts.labels.iter().any(|label| label.starts_with(prefix))
        });
        let said: Vec<String> = caps
            .map(|cap| format!("labels {:?}* may have {}", cap.label_prefix, held(&cap.scopes)))
            .collect();
        let because = if said.is_empty() {
            "no confinement matches a label".to_owned()
        } else {
            said.join("; ")
        };
        self.ask(
            "within_confinement",
            Reason::ConfinementViolation,
            gate.confined(),
            &because,
        )
    }

    /// `wanted` is what is said; `covers` decides, as the contract does.
    fn role(&mut self, gate: &Gate<'_>, wanted: &ScopeSet, covers: impl Fn(&ScopeSet) -> bool) -> Option<()> {
        let role = |grant: &Grant, label: &String| match grant.roles.get(label.as_str()) {
            None => format!("label {label:?} has no role"),
            Some(scopes) => format!("label {label:?} may have {}", held(scopes)),
        };
        let said: Vec<String> = gate.grant.map_or_else(Vec::new, |grant| {
            gate.facts.labels.iter().map(|label| role(grant, label)).collect()
        });
        let because = if said.is_empty() {
            "the session has no labels".to_owned()
        } else {
            format!("{} is wanted; {}", held(wanted), said.join("; "))
        };
        let is_covered = gate.grant.is_some_and(|grant| gate.role_covers(grant, covers));
        self.ask(
            "one_role_covers_scopes",
            Reason::RoleScopeMismatch,
            is_covered,
            &because,
        )
    }

    fn ambient(&mut self, wanted: &ScopeSet, ambient: &ScopeSet, is_within: bool) -> Option<()> {
        self.ask(
            "within_ambient",
            Reason::AmbientScopeMismatch,
            is_within,
            &asked_and_held(wanted, "`ambient`", ambient),
        )
    }

    /// Adds what a gate found; `None` when it refused.
    fn ask(&mut self, gate: &'static str, reason: Reason, passed: bool, because: &str) -> Option<()> {
        self.gates.push(GateReport {
            gate,
            passed,
            refuses_with: reason.as_str(),
            because: because.to_owned(),
        });
        passed.then_some(())
    }
}

/// The scopes the mandate carries, one by one: white space other than the single space does not part them.
fn carried(claims: &ClaimFacts<'_>) -> ScopeSet {
    claims.scopes().collect()
}

fn asked_and_held(asked: &ScopeSet, holder: &str, scopes: &ScopeSet) -> String {
    format!("{} is wanted; {holder} has {}", held(asked), held(scopes))
}

fn held(scopes: &ScopeSet) -> String {
    if scopes.is_empty() {
        "nothing".to_owned()
    } else {
        scopes.to_text()
    }
}

fn listed(texts: &[String]) -> String {
    if texts.is_empty() {
        "nothing".to_owned()
    } else {
        texts.join(" ")
    }
}
