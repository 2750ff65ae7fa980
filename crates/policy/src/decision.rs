//! What was decided, on what ground, and what must happen first?

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// The answer of the decision contract.
///
/// Serialises to the result document of `docs/contract/decision-contract.md`, section "Result".
/// An allow without step-up allocates nothing but a reference count.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    allow: bool,
    policy: Option<DeterminingPolicy>,
    /// Those a decision policy names.
    more_policies: Vec<DeterminingPolicy>,
    diagnostics: Vec<Diagnostic>,
}

impl Decision {
    pub(crate) fn allowed(policy: Arc<str>, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            allow: true,
            policy: Some(DeterminingPolicy { policy }),
            more_policies: Vec::new(),
            diagnostics,
        }
    }

    /// A grant whose determining policies are yet to be named.
    pub(crate) fn allowed_unnamed() -> Self {
        Self {
            allow: true,
            policy: None,
            more_policies: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The same, by this policy.
    #[must_use]
    pub(crate) fn named(self, policy: Arc<str>) -> Self {
        Self {
            policy: Some(DeterminingPolicy { policy }),
            ..self
        }
    }

    pub(crate) fn denied(reason: Reason) -> Self {
        Self {
            allow: false,
            policy: None,
            more_policies: Vec::new(),
            diagnostics: vec![Diagnostic::Reason { reason }],
        }
    }

    /// The same, with what a decision policy has said about it.
    #[must_use]
    pub(crate) fn with_said(
        mut self,
        policies: &[DeterminingPolicy],
        tiers: &[Arc<ApprovalTier>],
        said: &[Map<String, Value>],
    ) -> Self {
        self.more_policies.extend_from_slice(policies);
        self.require(tiers);
        self.diagnostics
            .extend(said.iter().cloned().map(Diagnostic::Said));
        self
    }

    /// Asks for these tiers as well.
    fn require(&mut self, tiers: &[Arc<ApprovalTier>]) {
        if tiers.is_empty() {
            return;
        }
        let already = self
            .diagnostics
            .iter_mut()
            .find_map(|diagnostic| match diagnostic {
                Diagnostic::StepUp { step_up_required } => Some(&mut step_up_required.tiers),
                Diagnostic::Reason { .. } | Diagnostic::Risk { .. } | Diagnostic::Said(_) => None,
            });
        match already {
            None => {
                let step_up_required = StepUp {
                    tiers: tiers.to_vec(),
                };
                self.diagnostics
                    .insert(0, Diagnostic::StepUp { step_up_required });
            }
            Some(held) => {
                for tier in tiers {
                    if !held.contains(tier) {
                        held.push(Arc::clone(tier));
                    }
                }
            }
        }
    }

    /// Whether the authority is granted. A grant may still ask for a step-up first.
    pub fn allow(&self) -> bool {
        self.allow
    }

    /// The policies the answer follows from; none when it is a denial.
    pub fn determining_policies(&self) -> Vec<&DeterminingPolicy> {
        self.policy.iter().chain(&self.more_policies).collect()
    }

    /// Everything the contract has to say about the answer, in the order it is published.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Why the authority was refused; `None` when it was granted.
    pub fn first_reason(&self) -> Option<Reason> {
        self.diagnostics.iter().find_map(|diagnostic| match diagnostic {
            Diagnostic::Reason { reason } => Some(*reason),
            Diagnostic::StepUp { .. } | Diagnostic::Risk { .. } | Diagnostic::Said(_) => None,
        })
    }

    /// The approval tiers a human must clear before the grant takes effect; empty for most grants.
    pub fn step_up_tiers(&self) -> &[Arc<ApprovalTier>] {
        self.diagnostics
            .iter()
            .find_map(|diagnostic| match diagnostic {
                Diagnostic::StepUp { step_up_required } => Some(step_up_required.tiers.as_slice()),
                Diagnostic::Reason { .. } | Diagnostic::Risk { .. } | Diagnostic::Said(_) => None,
            })
            .unwrap_or_default()
    }

    /// How the granted scopes are classified, sorted by scope.
    pub fn risk(&self) -> &[RiskHit] {
        self.diagnostics
            .iter()
            .find_map(|diagnostic| match diagnostic {
                Diagnostic::Risk { risk } => Some(risk.as_slice()),
                Diagnostic::Reason { .. } | Diagnostic::StepUp { .. } | Diagnostic::Said(_) => None,
            })
            .unwrap_or_default()
    }

    /// How the evaluation ended. Always `complete`: anything else is a [`crate::PolicyError`].
    pub fn evaluation_status(&self) -> &'static str {
        "complete"
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            decision: &'static str,
            evaluation_status: &'static str,
            determining_policies: Vec<&'a DeterminingPolicy>,
            diagnostics: &'a [Diagnostic],
        }
        Document {
            decision: if self.allow { "allow" } else { "deny" },
            evaluation_status: self.evaluation_status(),
            determining_policies: self.determining_policies(),
            diagnostics: &self.diagnostics,
        }
        .serialize(serializer)
    }
}

/// The name of the rule a grant follows from, such as `caracal-crm-bot-mint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeterminingPolicy {
    /// The name.
    pub policy: Arc<str>,
}

/// One remark of the contract about its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Diagnostic {
    /// Why the answer is a denial.
    Reason {
        /// The reason.
        reason: Reason,
    },
    /// The grant waits for a human.
    StepUp {
        /// For whom.
        step_up_required: StepUp,
    },
    /// The granted scopes are classified.
    Risk {
        /// How.
        risk: Vec<RiskHit>,
    },
    /// What a decision policy has to say, as it said it.
    Said(Map<String, Value>),
}

/// The approval a grant waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct StepUp {
    /// The tiers to clear, in the order of their declarations' values.
    pub tiers: Vec<Arc<ApprovalTier>>,
}

impl Serialize for StepUp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            r#type: &'static str,
            tiers: Vec<&'a Value>,
        }
        let tiers = self.tiers.iter().map(|tier| &tier.declaration).collect();
        Document {
            r#type: "human_approval",
            tiers,
        }
        .serialize(serializer)
    }
}

/// A declared tier of approval, its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalTier {
    /// Its name.
    pub tier: Arc<str>,
    /// Who may clear it; an operator unless declared.
    pub approver: Approver,
    /// How long an approval holds, in seconds; 1800 unless declared.
    pub ttl_seconds: u64,
    /// What the approver learns about the subject; everything unless declared.
    pub privacy: Privacy,
    /// The declaration as it stands in the document.
    pub declaration: Value,
}

/// Who may clear an approval tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Approver {
    /// An operator of the zone.
    Operator,
    /// The subject the application acts for.
    Subject,
    /// Either of them.
    Any,
}

impl Approver {
    /// The value in documents and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Subject => "subject",
            Self::Any => "any",
        }
    }
}

/// What an approver learns about the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// Who the subject is.
    Identified,
    /// A stable pseudonym.
    Pseudonymous,
    /// Nothing.
    Anonymous,
}

impl Privacy {
    /// The value in documents and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identified => "identified",
            Self::Pseudonymous => "pseudonymous",
            Self::Anonymous => "anonymous",
        }
    }
}

/// A granted scope and the risk tier it is classified in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RiskHit {
    /// The scope.
    pub scope: Arc<str>,
    /// Its tier.
    pub tier: Arc<str>,
}

/// Why authority is refused. The names are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The zone is frozen.
    RestrictionActive,
    /// The risk document is not well-formed, so nothing classified may be minted.
    MalformedRiskData,
    /// The approval document is not well-formed, so nothing gated may be minted.
    MalformedApprovalData,
    /// The principal is not the application the resource is granted to.
    ResourceNotGranted,
    /// A requested scope is outside the delegation.
    DelegationScopeExceeded,
    /// A label confines the principal to other scopes.
    ConfinementViolation,
    /// No single label's role covers the scopes.
    RoleScopeMismatch,
    /// The mandate was minted for other resources.
    MandateTargetMismatch,
    /// A scope is outside what the resource grants without a governed session.
    AmbientScopeMismatch,
    /// The request has none of the shapes the contract knows, or a stranger asks for a bootstrap.
    NoRuleMatched,
    /// The zone has no active policy set.
    NoActivePolicySet,
    /// The decision policy says no.
    DecisionPolicyDenied,
    /// The decision policy says nothing.
    DecisionPolicyUndefined,
    /// The decision policy alone decides, and there is none.
    NoDecisionPolicy,
}

impl Reason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RestrictionActive => "restriction_active",
            Self::MalformedRiskData => "malformed_risk_data",
            Self::MalformedApprovalData => "malformed_approval_data",
            Self::ResourceNotGranted => "resource_not_granted",
            Self::DelegationScopeExceeded => "delegation_scope_exceeded",
            Self::ConfinementViolation => "confinement_violation",
            Self::RoleScopeMismatch => "role_scope_mismatch",
            Self::MandateTargetMismatch => "mandate_target_mismatch",
            Self::AmbientScopeMismatch => "ambient_scope_mismatch",
            Self::NoRuleMatched => "no_rule_matched",
            Self::NoActivePolicySet => "no_active_policy_set",
            Self::DecisionPolicyDenied => "decision_policy_denied",
            Self::DecisionPolicyUndefined => "decision_policy_undefined",
            Self::NoDecisionPolicy => "no_decision_policy",
        }
    }
}
