# The decision contract of the platform in Rego.
#
# The services evaluate the same rules natively; this text is the reference they are tested against,
# and its SHA-256 is what approvals are bound to. The rules are explained in
# docs/contract/decision-contract.md.
package caracal.authz

import rego.v1

# ---- the request ---------------------------------------------------------

is_workload if input.principal.type == "Workload"

has_claims if is_object(input.context.subject_claims)

has_edge if is_object(input.delegation_edge)

has_session if {
	is_string(input.context.agent_session_id)
	input.context.agent_session_id != ""
}

# Nothing but the principal itself stands behind the request.
alone if {
	not has_claims
	not has_edge
	not has_session
}

requested contains scope if some scope in input.context.requested_scopes

asks_for_work if {
	count(requested) > 0
	not "agent:lifecycle" in requested
}

carried contains scope if {
	some scope in split(input.context.subject_claims.scope, " ")
	scope != ""
}

# The gateway presents a mandate: it asks for nothing, the mandate carries everything.
presents if {
	has_claims
	count(requested) == 0
	count(carried) > 0
}

delegated_mandate if {
	is_string(input.context.subject_claims.delegation_edge_id)
	input.context.subject_claims.delegation_edge_id != ""
}

grant := data.caracal.authz.grants[input.resource.identifier]

has_ambient if grant.ambient

default shape := "none"

shape := "workload" if {
	alone
	is_workload
	input.action.id == "CredentialInjection"
}

shape := "bootstrap" if {
	alone
	not is_workload
	requested == {"agent:lifecycle"}
}

shape := "ambient-mint" if {
	alone
	not is_workload
	asks_for_work
	has_ambient
}

shape := "mint" if {
	not has_claims
	has_edge
	has_session
	asks_for_work
}

shape := "use" if {
	presents
	delegated_mandate
}

shape := "ambient-use" if {
	presents
	not delegated_mandate
	input.context.subject_claims.use == "session"
	has_ambient
}

mints if shape in {"mint", "ambient-mint", "workload"}

needs_owner if shape in {"mint", "use", "ambient-mint", "ambient-use"}

# ---- the gates -----------------------------------------------------------

# Everything but an empty collection and false freezes: a mistake in the type must not thaw a zone.
frozen if {
	restriction := data.caracal.authz.restrict
	not harmless(restriction)
}

harmless(restriction) if restriction == false

harmless(restriction) if restriction == []

harmless(restriction) if restriction == {}

harmless(restriction) if restriction == set()

owner if data.caracal.authz.app_ids[grant.application] == input.principal.id

within(wanted, held) if count(wanted - {scope | some scope in held}) == 0

# One single label's role covers it all; roles are never added together.
covered_by_role(wanted) if {
	some label in input.principal.labels
	within(wanted, grant.roles[label])
}

escapes_confinement if {
	some cap in data.caracal.authz.confinement
	some label in input.principal.labels
	startswith(label, cap.label_prefix)
	not within(requested, cap.scopes)
}

on_target if input.resource.identifier in input.context.subject_claims.target

# ---- risk and approval ---------------------------------------------------

default risk_rules := []

risk_rules := data.caracal.authz.risk

default tier_rules := []

tier_rules := data.caracal.authz.approval_tiers

named(value) if {
	is_string(value)
	value != ""
}

malformed_risk if not is_array(risk_rules)

malformed_risk if {
	is_array(risk_rules)
	some rule in risk_rules
	not sound_risk(rule)
}

sound_risk(rule) if {
	is_object(rule)
	named(rule.scope)
	named(rule.tier)
}

malformed_approval if not is_array(tier_rules)

malformed_approval if {
	is_array(tier_rules)
	some rule in tier_rules
	not sound_approval(rule)
}

sound_approval(rule) if {
	is_object(rule)
	named(rule.tier)
	object.get(rule, "approver", "operator") in {"operator", "subject", "any"}
	object.get(rule, "privacy", "identified") in {"identified", "pseudonymous", "anonymous"}
	whole(object.get(rule, "ttl_seconds", 1800))
}

whole(seconds) if {
	is_number(seconds)
	seconds > 0
	seconds == floor(seconds)
}

# One scope in two tiers makes this object, and with it the decision, an error.
tier_of := {rule.scope: rule.tier | some rule in risk_rules}

risk_hits := [{"scope": scope, "tier": tier_of[scope]} |
	some scope in sort(requested)
	tier_of[scope]
]

step_up_tiers := sort({rule |
	some rule in tier_rules
	some hit in risk_hits
	rule.tier == hit.tier
})

# ---- the answer ----------------------------------------------------------

refusal := "restriction_active" if {
	frozen
} else := "no_rule_matched" if {
	shape == "none"
} else := "malformed_risk_data" if {
	mints
	malformed_risk
} else := "malformed_approval_data" if {
	mints
	malformed_approval
} else := "no_rule_matched" if {
	shape == "bootstrap"
	not owner
} else := "mandate_target_mismatch" if {
	shape in {"use", "ambient-use"}
	not on_target
} else := "resource_not_granted" if {
	needs_owner
	not owner
} else := "delegation_scope_exceeded" if {
	shape == "mint"
	not within(requested, input.delegation_edge.scopes)
} else := "confinement_violation" if {
	shape == "mint"
	escapes_confinement
} else := "role_scope_mismatch" if {
	shape == "mint"
	not covered_by_role(requested)
} else := "role_scope_mismatch" if {
	shape == "use"
	not covered_by_role(carried)
} else := "ambient_scope_mismatch" if {
	shape == "ambient-mint"
	not within(requested, grant.ambient)
} else := "ambient_scope_mismatch" if {
	shape == "ambient-use"
	not within(carried, grant.ambient)
}

policy_name := "caracal-bootstrap" if {
	shape == "bootstrap"
} else := "caracal-workload-mint" if {
	shape == "workload"
} else := sprintf("caracal-%s-%s", [grant.application, shape])

default remarks := []

remarks := array.concat(
	[{"step_up_required": {"type": "human_approval", "tiers": step_up_tiers}} | count(step_up_tiers) > 0],
	[{"risk": risk_hits} | count(risk_hits) > 0],
) if {
	mints
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [{"reason": refusal}],
} if {
	refusal
} else := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": [{"policy": policy_name}],
	"diagnostics": remarks,
}
