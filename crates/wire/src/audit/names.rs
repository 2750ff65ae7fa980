//! The words that stand in the members `event_type`, `decision` and `evaluation_status`.

/// Values of `event_type`.
pub mod event_type {
    /// The STS decided on a token.
    pub const TOKEN_EXCHANGE: &str = "token_exchange";
    /// The gateway forwards a request (status `forwarding`), or knows how it went.
    pub const GATEWAY_RESOURCE_REQUEST: &str = "gateway_resource_request";
    /// The gateway refused a request.
    pub const GATEWAY_REQUEST_DENIED: &str = "gateway_request_denied";
    /// A one-shot mandate was presented a second time.
    pub const REPLAY_DETECTED: &str = "replay_detected";
    /// A token request waits for an approval.
    pub const STEP_UP_ISSUED: &str = "step_up_issued";
    /// Somebody decided on an approval.
    pub const STEP_UP_DECIDED: &str = "step_up_decided";
    /// An approval was used.
    pub const STEP_UP_CONSUMED: &str = "step_up_consumed";
    /// A workload fetched what it is launched with.
    pub const RUN_LAUNCH: &str = "run_launch";
    /// An application failed to authenticate.
    pub const CLIENT_AUTHENTICATION: &str = "client_authentication";
    /// The remote invoke endpoint ran a command.
    pub const CONTROL_INVOKE: &str = "control.invoke";
    /// A credential was shown to an administrator.
    pub const CREDENTIAL_REVEALED: &str = "credential_revealed";
    /// The holder of a token ended it.
    pub const TOKEN_REVOKED: &str = "token_revoked";
    /// An application asked what the policy of its zone says.
    pub const POLICY_QUESTION: &str = "policy_question";
    /// A zone got a new signing key.
    pub const SIGNING_KEY_ROTATED: &str = "signing_key_rotated";
}

/// Values of `decision`.
pub mod decision {
    /// Granted.
    pub const ALLOW: &str = "allow";
    /// Refused.
    pub const DENY: &str = "deny";
    /// Waiting for a human.
    pub const PENDING: &str = "pending";
    /// A human said yes.
    pub const APPROVED: &str = "approved";
    /// A human said no.
    pub const REJECTED: &str = "rejected";
    /// A yes was used.
    pub const CONSUMED: &str = "consumed";
    /// Some of several parts were granted.
    pub const PARTIAL: &str = "partial";
}

/// Values of `evaluation_status`: how the decision was reached, or why it could not be.
///
/// In [`event_type::GATEWAY_REQUEST_DENIED`] the status is the code of the denial, which the gateway defines.
pub mod status {
    /// A policy was evaluated to its end.
    pub const COMPLETE: &str = "complete";
    /// Something that should never happen did.
    pub const ANOMALY: &str = "anomaly";

    /// The gateway is about to forward: the intent.
    pub const FORWARDING: &str = "forwarding";
    /// The upstream answered.
    pub const EXECUTED: &str = "executed";
    /// The upstream could not be reached or did not answer.
    pub const UPSTREAM_ERROR: &str = "upstream_error";
    /// The address or host of the upstream is not permitted.
    pub const UPSTREAM_REJECTED: &str = "upstream_rejected";
    /// The request to the upstream could not be built.
    pub const BUILD_FAILED: &str = "build_failed";
    /// An open answer was cut by a revocation or by the mandate's expiry.
    pub const INTERRUPTED: &str = "interrupted";

    /// Not one refusal but a count of those that were left out, source by source.
    pub const SUPPRESSED: &str = "suppressed";

    /// The zone has no such resource.
    pub const RESOURCE_NOT_FOUND: &str = "resource_not_found";
    /// The resource does not declare a requested scope.
    pub const SCOPE_MISMATCH: &str = "scope_mismatch";
    /// The delegation does not reach the resource.
    pub const RESOURCE_OUTSIDE_DELEGATION: &str = "resource_outside_delegation";
    /// The method and path are not declared, or their scope is not held.
    pub const OPERATION_NOT_PERMITTED: &str = "operation_not_permitted";
    /// Too many tokens in a minute.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// The control resource is only for control keys.
    pub const CONTROL_RESOURCE_REQUIRES_CONTROL_KEY: &str = "control_resource_requires_control_key";
    /// The provider of the resource cannot be loaded.
    pub const PROVIDER_UNAVAILABLE: &str = "provider_unavailable";
    /// The user has no connection to the provider.
    pub const CREDENTIAL_NOT_PROVISIONED: &str = "credential_not_provisioned";
    /// The user's connection could not be refreshed.
    pub const CREDENTIAL_REFRESH_FAILED: &str = "credential_refresh_failed";
    /// The policy could not be evaluated.
    pub const POLICY_EVAL_FAILED: &str = "policy_eval_failed";
    /// Nothing was granted.
    pub const EXCHANGE_DENIED: &str = "exchange_denied";
    /// No such approval, or it is bound to another request.
    pub const APPROVAL_INVALID: &str = "approval_invalid";
    /// The approval was used by another request.
    pub const APPROVAL_ALREADY_CONSUMED: &str = "approval_already_consumed";
    /// The approval was refused.
    pub const APPROVAL_REJECTED: &str = "approval_rejected";
    /// The approval came, or was used, too late.
    pub const APPROVAL_EXPIRED: &str = "approval_expired";
    /// A challenge was answered wrongly.
    pub const CHALLENGE_INVALID: &str = "challenge_invalid";
    /// Challenges were answered wrongly too often.
    pub const CHALLENGE_COOLDOWN: &str = "challenge_cooldown";
    /// Two resources ask for approvers that exclude each other.
    pub const APPROVAL_CLASS_CONFLICT: &str = "approval_class_conflict";
    /// The credential may not be handed to a workload.
    pub const CREDENTIAL_INJECTION_DENIED: &str = "credential_injection_denied";
    /// The credential for the upstream could not be obtained.
    pub const PROVIDER_CREDENTIAL_UNAVAILABLE: &str = "provider_credential_unavailable";
    /// A federated token is not acceptable.
    pub const SUBJECT_FEDERATION_INVALID: &str = "subject_federation_invalid";
    /// A federated subject is not permitted.
    pub const SUBJECT_FEDERATION_REJECTED: &str = "subject_federation_rejected";
    /// A workload failed to authenticate.
    pub const WORKLOAD_AUTH_FAILED: &str = "workload_auth_failed";
    /// An application failed to authenticate.
    pub const CLIENT_AUTH_FAILED: &str = "client_auth_failed";
    /// A session, delegation or authority record does not support the request.
    pub const REFERENCE_REFUSED: &str = "reference_refused";
    /// The presented token is not acceptable.
    pub const SUBJECT_TOKEN_INVALID: &str = "subject_token_invalid";
}
