//! May this principal have this authority? The platform's decision contract, over tables.
//!
//! The rules, their order and their names are `docs/contract/decision-contract.md`. `contract.rego`
//! beside this file says the same in Rego; a test keeps the two equal.

mod explanation;

use std::collections::HashMap;
use std::sync::Arc;

use caracal_model::ScopeSet;
use regorus::rvm::vm::VmError;

use crate::bundle::{Bundle, State};
use crate::decision::{ApprovalTier, Decision, Diagnostic, Reason, RiskHit, StepUp};
use crate::facts::{ClaimFacts, Facts};
use crate::input::Input;
use crate::regime::{Regime, conclude};
use crate::tables::{Approvals, Grant, Risk, ShapeError, Tables};

pub(crate) use explanation::explain;
pub use explanation::{Explanation, GateReport};

/// Version of the decision contract.
pub const CONTRACT_VERSION: &str = "2026-07-12";

/// The contract as text, which approvals are bound to.
const CONTRACT_TEXT: &str = include_str!("contract.rego");

/// The scope of the mandate an application opens its sessions with.
const LIFECYCLE_SCOPE: &str = "agent:lifecycle";

/// SHA-256 of the contract in lower-case hex: an approval given under one contract is void under another.
pub fn contract_sha256() -> String {
    hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        CONTRACT_TEXT.as_bytes(),
    ))
}

/// Why no decision could be reached. Never an allow, never a plain denial: the caller answers 503.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The input is not an input document, or of another version than [`crate::SCHEMA_VERSION`].
    #[error("the input is not a policy input document of version 2026-05-20")]
    Input(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A document that reads `input` failed, or took longer than its time limit.
    #[error("a data document could not be evaluated")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A document that reads `input` produced a value of another shape than its root requires.
    #[error("a data document has the wrong shape")]
    Shape(#[from] ShapeError),
    /// The risk document puts one scope in two tiers.
    #[error("scope {0} is classified in two risk tiers")]
    RiskConflict(Arc<str>),
    /// The decision policy gave a result of another shape than the contract's.
    #[error("the decision policy gave no result document")]
    Result(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PolicyError {
    /// Whether a decision policy, or a rule of it, spent a budget: it cost as much as it may.
    pub fn is_budget_spent(&self) -> bool {
        let Self::Evaluation(source) = self else {
            return false;
        };
        matches!(
            source.downcast_ref(),
            Some(
                VmError::InstructionLimitExceeded { .. }
                    | VmError::TimeLimitExceeded { .. }
                    | VmError::MemoryLimitExceeded { .. }
                    | VmError::MemoryBudgetExceeded { .. }
            )
        )
    }
}

/// Decides one request.
///
/// A few hash look-ups when nothing is to be interpreted; else an interpreted evaluation of the documents that read `input`
/// and of the decision policy, in the order of 100 microseconds.
///
/// # Errors
/// [`PolicyError`], only possible when something is interpreted.
pub fn decide(bundle: &Bundle, input: &Input<'_>, regime: Regime) -> Result<Decision, PolicyError> {
    decide_facts(bundle, &Facts::of(input), regime, || {
        serde_json::to_string(input).map_err(|error| PolicyError::Input(error.into()))
    })
}

/// Decides on facts; `document` writes the input for what reads it.
pub(crate) fn decide_facts(
    bundle: &Bundle,
    facts: &Facts<'_>,
    regime: Regime,
    document: impl FnOnce() -> Result<String, PolicyError>,
) -> Result<Decision, PolicyError> {
    match bundle.state() {
        State::DenyAll(reason) => Ok(Decision::denied(*reason)),
        State::Constant(tables) => conclude(regime, tables, facts, None),
        State::ReadsInput(interpreted) => {
            let (tables, verdict) = interpreted.answer(&document()?)?;
            conclude(regime, &tables, facts, verdict.as_ref())
        }
    }
}

/// The kinds of requests the contract knows. At most one fits.
enum Shape<'a> {
    /// An application asks for the mandate it opens its sessions with.
    Bootstrap,
    /// A workload's environment is filled.
    Workload,
    /// A delegated session asks for a mandate.
    Mint { edge_scopes: &'a ScopeSet },
    /// The gateway presents a delegated mandate.
    Use { claims: &'a ClaimFacts<'a> },
    /// An application asks for a reusable mandate without a session.
    AmbientMint { grant: &'a Grant, ambient: &'a ScopeSet },
    /// The gateway presents a reusable mandate.
    AmbientUse {
        claims: &'a ClaimFacts<'a>,
        grant: &'a Grant,
        ambient: &'a ScopeSet,
    },
}

/// Applies the contract: freeze, shape, then the gates of the shape in their published order.
pub(crate) fn evaluate(tables: &Tables, facts: &Facts<'_>) -> Result<Decision, PolicyError> {
    if tables.frozen {
        return Ok(Decision::denied(Reason::RestrictionActive));
    }
    let gate = Gate {
        tables,
        facts,
        grant: tables.grants.get(facts.identifier),
    };
    let outcome = match shape(facts, gate.grant) {
        None => Err(Reason::NoRuleMatched),
        Some(Shape::Bootstrap) => gate.bootstrap(),
        Some(Shape::Workload) => return gate.workload(),
        Some(Shape::Mint { edge_scopes }) => return gate.mint(edge_scopes),
        Some(Shape::Use { claims }) => gate.present(claims),
        Some(Shape::AmbientMint { grant, ambient }) => return gate.ambient_mint(grant, ambient),
        Some(Shape::AmbientUse {
            claims,
            grant,
            ambient,
        }) => gate.ambient_use(claims, grant, ambient),
    };
    Ok(outcome.map_or_else(Decision::denied, |policy| Decision::allowed(policy, Vec::new())))
}

fn shape<'a>(facts: &'a Facts<'a>, grant: Option<&'a Grant>) -> Option<Shape<'a>> {
    let asks_lifecycle = facts.requested.contains(LIFECYCLE_SCOPE);
    let asks_work = !facts.requested.is_empty() && !asks_lifecycle;
    let ambient = grant.and_then(|grant| grant.ambient.as_ref().map(|ambient| (grant, ambient)));
    match (&facts.claims, facts.edge_scopes, facts.has_session) {
        (None, None, false) if facts.is_workload => facts.is_injection.then_some(Shape::Workload),
        (None, None, false) if asks_lifecycle && facts.requested.len() == 1 => Some(Shape::Bootstrap),
        (None, None, false) if asks_work => {
            ambient.map(|(grant, ambient)| Shape::AmbientMint { grant, ambient })
        }
        (None, Some(edge_scopes), true) if asks_work => Some(Shape::Mint { edge_scopes }),
        (Some(claims), _, _) if facts.requested.is_empty() && claims.carries_scopes() => {
            if !claims.delegation_edge_id.is_empty() {
                Some(Shape::Use { claims })
            } else if claims.r#use == "session" {
                ambient.map(|(grant, ambient)| Shape::AmbientUse {
                    claims,
                    grant,
                    ambient,
                })
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The gates, over one request and the documents it is judged by.
struct Gate<'a> {
    tables: &'a Tables,
    facts: &'a Facts<'a>,
    grant: Option<&'a Grant>,
}

impl Gate<'_> {
    fn bootstrap(&self) -> Result<Arc<str>, Reason> {
        self.owned().or(Err(Reason::NoRuleMatched))?;
        Ok(Arc::from("caracal-bootstrap"))
    }

    fn workload(&self) -> Result<Decision, PolicyError> {
        self.mintable(|_| Ok(Arc::from("caracal-workload-mint")))
    }

    fn mint(&self, edge_scopes: &ScopeSet) -> Result<Decision, PolicyError> {
        self.mintable(|gate| {
            let grant = gate.owned()?;
            if !gate.facts.requested.is_subset(edge_scopes) {
                return Err(Reason::DelegationScopeExceeded);
            }
            if !gate.confined() {
                return Err(Reason::ConfinementViolation);
            }
            if !gate.role_covers(grant, |held| gate.facts.requested.is_subset(held)) {
                return Err(Reason::RoleScopeMismatch);
            }
            Ok(Arc::clone(&grant.mint_policy))
        })
    }

    fn present(&self, claims: &ClaimFacts<'_>) -> Result<Arc<str>, Reason> {
        if !self.facts.targets_resource(claims) {
            return Err(Reason::MandateTargetMismatch);
        }
        let grant = self.owned()?;
        if !self.role_covers(grant, |held| claims.carries_only(held)) {
            return Err(Reason::RoleScopeMismatch);
        }
        Ok(Arc::clone(&grant.use_policy))
    }

    fn ambient_mint(&self, grant: &Grant, ambient: &ScopeSet) -> Result<Decision, PolicyError> {
        self.mintable(|gate| {
            gate.owned()?;
            if !gate.facts.requested.is_subset(ambient) {
                return Err(Reason::AmbientScopeMismatch);
            }
            Ok(Arc::clone(&grant.ambient_mint_policy))
        })
    }

    fn ambient_use(
        &self,
        claims: &ClaimFacts<'_>,
        grant: &Grant,
        ambient: &ScopeSet,
    ) -> Result<Arc<str>, Reason> {
        if !self.facts.targets_resource(claims) {
            return Err(Reason::MandateTargetMismatch);
        }
        self.owned()?;
        if !claims.carries_only(ambient) {
            return Err(Reason::AmbientScopeMismatch);
        }
        Ok(Arc::clone(&grant.ambient_use_policy))
    }

    /// Wraps the gates of a minting shape: sound risk and approval documents before them, what those
    /// documents say about the requested scopes after them.
    fn mintable(
        &self,
        gates: impl FnOnce(&Self) -> Result<Arc<str>, Reason>,
    ) -> Result<Decision, PolicyError> {
        let Risk::Tiers { of_scope, conflict } = &*self.tables.risk else {
            return Ok(Decision::denied(Reason::MalformedRiskData));
        };
        let Approvals::Tiers(declared) = &*self.tables.approvals else {
            return Ok(Decision::denied(Reason::MalformedApprovalData));
        };
        let policy = match gates(self) {
            Ok(policy) => policy,
            Err(reason) => return Ok(Decision::denied(reason)),
        };
        // Nobody asks for the tier of nothing.
        if let Some(scope) = conflict
            && !self.facts.requested.is_empty()
        {
            return Err(PolicyError::RiskConflict(Arc::clone(scope)));
        }
        Ok(Decision::allowed(
            policy,
            classification(self.facts.requested, of_scope, declared),
        ))
    }

    /// The grant of the resource, if the principal is its application.
    fn owned(&self) -> Result<&Grant, Reason> {
        self.grant
            .filter(|grant| {
                self.tables
                    .app_ids
                    .get(&grant.application)
                    .is_some_and(|id| **id == *self.facts.principal_id)
            })
            .ok_or(Reason::ResourceNotGranted)
    }

    /// Whether every confinement that matches a label holds all requested scopes.
    fn confined(&self) -> bool {
        self.tables.confinement.iter().all(|cap| {
            let applies = self
                .facts
                .labels
                .iter()
                .any(|label| label.starts_with(&*cap.label_prefix));
            !applies || self.facts.requested.is_subset(&cap.scopes)
        })
    }

    /// Whether one single label's role covers it all; roles are never added together.
    fn role_covers(&self, grant: &Grant, covers: impl Fn(&ScopeSet) -> bool) -> bool {
        self.facts
            .labels
            .iter()
            .filter_map(|label| grant.roles.get(label.as_str()))
            .any(covers)
    }
}

/// The approvals and risks of the requested scopes; empty, without allocation, for most.
fn classification(
    requested: &ScopeSet,
    tier_of_scope: &HashMap<Arc<str>, Arc<str>>,
    declared: &[Arc<ApprovalTier>],
) -> Vec<Diagnostic> {
    let risk: Vec<RiskHit> = requested
        .iter()
        .filter_map(|scope| tier_of_scope.get_key_value(scope))
        .map(|(scope, tier)| RiskHit {
            scope: Arc::clone(scope),
            tier: Arc::clone(tier),
        })
        .collect();
    let is_hit = |tier: &&Arc<ApprovalTier>| risk.iter().any(|hit| hit.tier == tier.tier);
    let tiers: Vec<_> = declared.iter().filter(is_hit).map(Arc::clone).collect();
    let step_up = (!tiers.is_empty()).then_some(Diagnostic::StepUp {
        step_up_required: StepUp { tiers },
    });
    let risk = (!risk.is_empty()).then_some(Diagnostic::Risk { risk });
    step_up.into_iter().chain(risk).collect()
}
