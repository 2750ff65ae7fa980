//! Which refusals can the admin API answer with, and what does a client read of them?
//!
//! Every refusal of the API is one [`Code`]; its status and its wire name stand in one table, so that a client library
//! can be written from this file (`docs/contract/admin-api.md` section 3).

use std::borrow::Cow;

use caracal_storage::StorageError;
use serde_json::{Value, json};

macro_rules! codes {
    ($($variant:ident = $status:literal $name:literal,)*) => {
        /// The refusals of the admin API: `docs/contract/admin-api.md` section 3.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!($status, " `", $name, "`.")] $variant,)*
        }

        impl Code {
            /// The HTTP status of the refusal.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The value of the `error` member.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    InvalidParams = 400 "invalid_params",
    InvalidQuery = 400 "invalid_query",
    InvalidCursor = 400 "invalid_cursor",
    InvalidFields = 400 "invalid_fields",
    InvalidBody = 400 "invalid_body",
    NoFields = 400 "no_fields",
    InvalidZone = 400 "invalid_zone",
    DcrShutdownNotApplicable = 400 "dcr_shutdown_not_applicable",
    InvalidApplication = 400 "invalid_application",
    InvalidApplicationKeys = 400 "invalid_application_keys",
    ClientSecretNotConfigured = 400 "client_secret_not_configured",
    InvalidResource = 400 "invalid_resource",
    InvalidResourceIdentifier = 400 "invalid_resource_identifier",
    CredentialProviderRequired = 400 "credential_provider_required",
    UpstreamUrlRequired = 400 "upstream_url_required",
    OperationMethodAndPathRequired = 400 "operation_method_and_path_required",
    OperationPathMustBeAbsolute = 400 "operation_path_must_be_absolute",
    OperationScopeNotInResourceScopes = 400 "operation_scope_not_in_resource_scopes",
    OperationDuplicate = 400 "operation_duplicate",
    InvalidGatewayBinding = 400 "invalid_gateway_binding",
    InvalidWorkload = 400 "invalid_workload",
    InvalidCredentialEnv = 400 "invalid_credential_env",
    DuplicateCredentialEnv = 400 "duplicate_credential_env",
    InvalidProvider = 400 "invalid_provider",
    InvalidProviderIdentifier = 400 "invalid_provider_identifier",
    InvalidProviderConfig = 400 "invalid_provider_config",
    ProviderConfigRequired = 400 "provider_config_required",
    ProviderCheckUnsupported = 400 "provider_check_unsupported",
    InvalidProviderConnection = 400 "invalid_provider_connection",
    ProviderConnectionUnsupported = 400 "provider_connection_unsupported",
    InvalidProviderOauthAuthorize = 400 "invalid_provider_oauth_authorize",
    ProviderAuthorizationEndpointInvalid = 400 "provider_authorization_endpoint_invalid",
    InvalidOauthCallback = 400 "invalid_oauth_callback",
    OauthStateExpired = 400 "oauth_state_expired",
    OauthStateInvalid = 400 "oauth_state_invalid",
    OauthStateMismatch = 400 "oauth_state_mismatch",
    ProviderOauthDenied = 400 "provider_oauth_denied",
    AuthorizationCodeRequired = 400 "authorization_code_required",
    ProviderTokenEndpointNotAllowed = 400 "provider_token_endpoint_not_allowed",
    ResourceVerificationUnsupported = 400 "resource_verification_unsupported",
    InvalidAuthorityRecordRevoke = 400 "invalid_authority_record_revoke",
    InvalidApprovalDecision = 400 "invalid_approval_decision",
    InvalidSubjectIssuer = 400 "invalid_subject_issuer",
    InvalidSubjectRevoke = 400 "invalid_subject_revoke",
    InvalidAdminToken = 401 "invalid_admin_token",
    InvalidAccountAssertion = 401 "invalid_account_assertion",
    AdminTokenReadOnly = 403 "admin_token_read_only",
    AdminTokenApproveOnly = 403 "admin_token_approve_only",
    ApproveCapabilityRequired = 403 "approve_capability_required",
    AdminTokenZoneMismatch = 403 "admin_token_zone_mismatch",
    SystemZoneReadOnly = 403 "system_zone_read_only",
    AccountScopeRequired = 403 "account_scope_required",
    ZoneForbidden = 403 "zone_forbidden",
    SubjectApprovalRequired = 403 "subject_approval_required",
    GrantScopesExceedResource = 403 "grant_scopes_exceed_resource",
    ControlResourceNotGrantable = 403 "control_resource_not_grantable",
    TraitCountExceeded = 403 "trait_count_exceeded",
    TraitInvalid = 403 "trait_invalid",
    TraitDuplicate = 403 "trait_duplicate",
    TraitForbidden = 403 "trait_forbidden",
    RouteNotFound = 404 "not_found",
    ZoneNotFound = 404 "zone_not_found",
    ApplicationNotFound = 404 "application_not_found",
    ApplicationKeysNotFound = 404 "application_keys_not_found",
    WorkloadNotFound = 404 "workload_not_found",
    ResourceNotFound = 404 "resource_not_found",
    ProviderNotFound = 404 "provider_not_found",
    ProviderConnectionNotFound = 404 "provider_connection_not_found",
    GatewayBindingNotFound = 404 "gateway_binding_not_found",
    PolicyNotFound = 404 "policy_not_found",
    PolicySetNotFound = 404 "policy_set_not_found",
    PolicySetVersionNotFound = 404 "policy_set_version_not_found",
    PolicySetBindingNotFound = 404 "policy_set_binding_not_found",
    ActivePolicySetVersionNotFound = 404 "active_policy_set_version_not_found",
    VersionNotFound = 404 "version_not_found",
    AuthorityRecordNotFound = 404 "authority_record_not_found",
    RequestNotFound = 404 "request_not_found",
    GrantNotFound = 404 "grant_not_found",
    SubjectIssuerNotFound = 404 "subject_issuer_not_found",
    SubjectNotFound = 404 "subject_not_found",
    ApprovalNotFound = 404 "approval_not_found",
    ChallengeNotFound = 404 "challenge_not_found",
    ChallengeNotFoundOrExpired = 404 "challenge_not_found_or_expired",
    ReservedNamespace = 409 "reserved_namespace",
    DcrShutdownRequired = 409 "dcr_shutdown_required",
    ZoneSlugConflict = 409 "zone_slug_conflict",
    ApplicationNameTaken = 409 "application_name_taken",
    WorkloadNameTaken = 409 "workload_name_taken",
    ResourceIdentifierConflict = 409 "resource_identifier_conflict",
    ResourceQuotaExceeded = 409 "resource_quota_exceeded",
    ProtectedResource = 409 "protected_resource",
    ProviderIdentifierConflict = 409 "provider_identifier_conflict",
    ProviderSecretsRequired = 409 "provider_secrets_required",
    PolicyNameConflict = 409 "policy_name_conflict",
    PolicySetNameConflict = 409 "policy_set_name_conflict",
    ReferencedPolicyVersionMissing = 409 "referenced_policy_version_missing",
    ApprovalNotDecidable = 409 "approval_not_decidable",
    SubjectIssuerExists = 409 "subject_issuer_exists",
    SubjectIssuerLimitReached = 409 "subject_issuer_limit_reached",
    WriteConflict = 409 "write_conflict",
    PayloadTooLarge = 413 "payload_too_large",
    InvalidRego = 422 "invalid_rego",
    InvalidPolicyContract = 422 "invalid_policy_contract",
    InvalidPolicyBundle = 422 "invalid_policy_bundle",
    InvalidOpaBundle = 422 "invalid_opa_bundle",
    RateLimited = 429 "rate_limited",
    Internal = 500 "internal_error",
    ProviderTokenExchangeFailed = 502 "provider_token_exchange_failed",
    ProviderTokenResponseInvalid = 502 "provider_token_response_invalid",
    ProviderTokenTypeUnsupported = 502 "provider_token_type_unsupported",
    DatabaseUnreachable = 503 "postgres_unreachable",
}

/// One refusal: a code, an optional sentence for the reader, optional structured details, and the cause for the log.
///
/// The cause never reaches the client.
#[derive(Debug, thiserror::Error)]
#[error("{}", code.as_str())]
pub(crate) struct Refusal {
    code: Code,
    description: Option<Cow<'static, str>>,
    details: Option<Value>,
    member: Option<Box<(&'static str, Value)>>,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Refusal {
    /// A refusal that its code explains.
    pub(crate) const fn new(code: Code) -> Self {
        Self {
            code,
            description: None,
            details: None,
            member: None,
            cause: None,
        }
    }

    /// A refusal with a sentence that names what to change.
    pub(crate) fn because(code: Code, description: impl Into<Cow<'static, str>>) -> Self {
        Self {
            description: Some(description.into()),
            ..Self::new(code)
        }
    }

    /// A failure of this service: the client reads `internal_error`, the log the cause.
    pub(crate) fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::caused(Code::Internal, cause)
    }

    /// A refusal with a cause for the log.
    pub(crate) fn caused(code: Code, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(code)
        }
    }

    /// The same refusal with a sentence for the client.
    #[must_use]
    pub(crate) fn explained(self, description: impl Into<Cow<'static, str>>) -> Self {
        Self {
            description: Some(description.into()),
            ..self
        }
    }

    /// The code and its causes, outermost first, for the log.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    /// The same refusal with a `details` member.
    #[must_use]
    pub(crate) fn with_details(self, details: Value) -> Self {
        Self {
            details: Some(details),
            ..self
        }
    }

    /// The same refusal with a member of its own beside `error`.
    #[must_use]
    pub(crate) fn with_member(self, name: &'static str, value: Value) -> Self {
        Self {
            member: Some(Box::new((name, value))),
            ..self
        }
    }

    /// Which refusal it is.
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// Whether this service is at fault, so that the cause belongs into the log.
    pub(crate) const fn is_ours(&self) -> bool {
        self.code.status() >= 500
    }

    /// The JSON body: `error`, and `error_description`, `requestId` and `details` where there is one.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let mut body = json!({ "error": self.code.as_str(), "requestId": request_id });
        if let (Some(object), Some(description)) = (body.as_object_mut(), self.sentence()) {
            object.insert("error_description".into(), Value::from(description));
        }
        if let (Some(object), Some(details)) = (body.as_object_mut(), &self.details) {
            object.insert("details".into(), details.clone());
        }
        if let (Some(object), Some((name, value))) = (body.as_object_mut(), self.member.as_deref()) {
            object.insert((*name).into(), value.clone());
        }
        body
    }

    fn sentence(&self) -> Option<&str> {
        match (&self.description, self.code) {
            (Some(description), _) => Some(description),
            (None, Code::Internal) => Some("The service failed to process the request"),
            (None, Code::WriteConflict) => Some("Another change was in progress; try again"),
            (None, Code::DatabaseUnreachable) => Some("The database did not answer; try again"),
            (None, _) => None,
        }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        let code = if error.is_unavailable() {
            Code::DatabaseUnreachable
        } else if error.is_contention() {
            Code::WriteConflict
        } else {
            Code::Internal
        };
        Self {
            cause: Some(Box::new(error)),
            ..Self::new(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_ours_never_shows_its_cause() {
        let refusal = Refusal::internal(std::io::Error::other("password=hunter2"));
        let body = refusal.body("r-1").to_string();
        assert!(!body.contains("hunter2"), "the cause leaked: {body}");
        assert!(body.contains("internal_error") && body.contains("r-1"));
    }

    #[test]
    fn a_sentence_and_details_reach_the_client() {
        let refusal =
            Refusal::because(Code::InvalidZone, "name is missing").with_details(json!({ "issues": [] }));
        let body = refusal.body("r-2");
        assert_eq!(body["error"], "invalid_zone");
        assert_eq!(body["error_description"], "name is missing");
        assert_eq!(body["details"]["issues"], json!([]));
    }
}
