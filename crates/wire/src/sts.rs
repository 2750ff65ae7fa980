//! What does the token endpoint take and give?
//!
//! RFC 8693 token exchange with the members of `docs/contract/wire-formats.md`, "Token exchange".

use std::collections::BTreeMap;
use std::fmt;

use caracal_model::id::{IdError, ZoneId};
use caracal_model::revocation::{Anchor, AnchorKind};
use serde::{Deserialize, Serialize};

use crate::json_text::{begin_member, write_member, write_text};

/// The only accepted `grant_type` (RFC 8693 section 2.1).
pub const TOKEN_EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The token type of mandates (RFC 8693 section 3).
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The token type of a JSON Web Token (RFC 8693 section 3); asked for, it means a mandate by the profile of RFC 9068.
pub const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The token type of a federated user's ID token (RFC 8693 section 3).
pub const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";
/// The only accepted `client_assertion_type` (RFC 7523 section 2.2).
pub const CLIENT_ASSERTION_JWT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Value of `token_type` in every success answer (RFC 6750).
pub const BEARER: &str = "Bearer";
/// `token_type` of an answer that holds no token (RFC 8693 section 2.2.1).
pub const NO_TOKEN: &str = "N_A";
/// `token_type` of a token that is sent with proofs of a key (RFC 9449 section 5).
pub const DPOP: &str = "DPoP";
/// The media type of a token request.
pub const FORM_MEDIA_TYPE: &str = "application/x-www-form-urlencoded";
/// Path of the token endpoint.
pub const TOKEN_PATH: &str = "/oauth/2/token";
/// Path of the key set (RFC 7517), with the zone in the query parameter `zone_id`.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";
/// Path of the revocation snapshot for gateways.
pub const REVOCATIONS_PATH: &str = "/internal/gateway/revocations";
/// Query parameter of the same: a gateway gets a part, which begins after what the part before told as its `next`; the first
/// after 0.
pub const REVOCATIONS_AFTER: &str = "after";

/// Names of the form fields of a token request.
pub mod field {
    /// Must be the token exchange grant.
    pub const GRANT_TYPE: &str = "grant_type";
    /// The zone of the request.
    pub const ZONE_ID: &str = "zone_id";
    /// The calling application.
    pub const APPLICATION_ID: &str = "application_id";
    /// The application's secret.
    pub const CLIENT_SECRET: &str = "client_secret";
    /// The token presented for exchange.
    pub const SUBJECT_TOKEN: &str = "subject_token";
    /// Its type.
    pub const SUBJECT_TOKEN_TYPE: &str = "subject_token_type";
    /// A protected resource; may repeat (RFC 8707).
    pub const RESOURCE: &str = "resource";
    /// The same by another name; may repeat (RFC 8693 section 2.1).
    pub const AUDIENCE: &str = "audience";
    /// Which kind of token is wanted.
    pub const REQUESTED_TOKEN_TYPE: &str = "requested_token_type";
    /// Scopes, separated by white space.
    pub const SCOPE: &str = "scope";
    /// The authority record to bind, despite the name.
    pub const SESSION_ID: &str = "session_id";
    /// The governed session.
    pub const AGENT_SESSION_ID: &str = "agent_session_id";
    /// The delegation.
    pub const DELEGATION_EDGE_ID: &str = "delegation_edge_id";
    /// An approval raised by an earlier request.
    pub const APPROVAL_ID: &str = "approval_id";
    /// The same approval, by clients of the step-up routes.
    pub const CHALLENGE_ID: &str = "challenge_id";
    /// The secret that came with it.
    pub const CHALLENGE_RESPONSE: &str = "challenge_response";
    /// The token lifetime asked for, in seconds.
    pub const TTL_SECONDS: &str = "ttl_seconds";
    /// Method of the governed request; only a gateway may send it.
    pub const REQUEST_METHOD: &str = "request_method";
    /// Path of the governed request; only a gateway may send it.
    pub const REQUEST_PATH: &str = "request_path";
    /// The gateway's request id; equals the header `X-Request-Id`.
    pub const GATEWAY_REQUEST_ID: &str = "gateway_request_id";
    /// Thumbprint of the key the sender of the mandate has shown to the gateway with a proof.
    pub const SENDER_JKT: &str = "sender_jkt";
    /// Thumbprint of the client certificate the sender of the mandate has shown to the gateway.
    pub const SENDER_X5T: &str = "sender_x5t_s256";
    /// Not supported; its presence is refused.
    pub const ACTOR_TOKEN: &str = "actor_token";
    /// A token with which the application proves itself (RFC 7523 section 2.2).
    pub const CLIENT_ASSERTION: &str = "client_assertion";
    /// Must say that it is a JWT.
    pub const CLIENT_ASSERTION_TYPE: &str = "client_assertion_type";
}

/// How the gateway proves the caller to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// No credential.
    #[default]
    None,
    /// The resource mandate itself.
    CaracalJwt,
    /// A token of the provider, after a scheme.
    ProviderOauth,
    /// A key of the provider, in a header or the query.
    ProviderApikey,
    /// An AWS Signature Version 4 over the request, made by the gateway.
    AwsSigv4,
}

impl AuthMode {
    /// The mode as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CaracalJwt => "caracal_jwt",
            Self::ProviderOauth => "provider_oauth",
            Self::ProviderApikey => "provider_apikey",
            Self::AwsSigv4 => "aws_sigv4",
        }
    }
}

/// Where an API key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthLocation {
    /// Into a header.
    Header,
    /// Into the query.
    Query,
}

/// With what the gateway signs a request to an AWS service. `Debug` redacts the secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsSigning {
    /// The id of the access key; not a secret.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The token of temporary credentials, sent in `X-Amz-Security-Token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// The region of the credential scope.
    pub region: String,
    /// The service of the credential scope, e.g. `s3`.
    pub service: String,
}

impl fmt::Debug for AwsSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSigning")
            .field("access_key_id", &self.access_key_id)
            .field("region", &self.region)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Where the gateway sends a request and which credential it puts in. Only gateways ever receive one.
///
/// `Debug` redacts the credential.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Base URL of the upstream; may be empty, then nothing can be forwarded.
    #[serde(default)]
    pub url: String,
    /// Which kind of credential.
    pub auth_mode: AuthMode,
    /// Where an API key goes; absent means header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_location: Option<AuthLocation>,
    /// The header to set; absent means `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_header: Option<String>,
    /// The query parameter to set, when the key goes into the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_param_name: Option<String>,
    /// Put before the credential, for example `Bearer`; empty means the bare value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_scheme: Option<String>,
    /// Hosts that may receive the credential; empty means the host of `url`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_token_hosts: Vec<String>,
    /// The credential itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_token: Option<String>,
    /// With what to sign the request, in mode [`AuthMode::AwsSigv4`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsSigning>,
    /// The provider it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// The stored connection it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<String>,
    /// When the credential expires, in seconds since the epoch; only for connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Whether the upstream also receives the mandate in `X-Caracal-Identity`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward_caracal_identity: bool,
}

impl Upstream {
    /// Whether the upstream sees the resource mandate: as its credential, or beside one of a provider.
    pub fn sees_mandate(&self) -> bool {
        match self.auth_mode {
            AuthMode::CaracalJwt => true,
            AuthMode::None => false,
            AuthMode::ProviderOauth | AuthMode::ProviderApikey | AuthMode::AwsSigv4 => {
                self.forward_caracal_identity
            }
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("url", &self.url)
            .field("auth_mode", &self.auth_mode)
            .field("auth_location", &self.auth_location)
            .field("auth_header", &self.auth_header)
            .field("query_param_name", &self.query_param_name)
            .field("auth_scheme", &self.auth_scheme)
            .field("allowed_token_hosts", &self.allowed_token_hosts)
            .field(
                "provider_token",
                &self.provider_token.as_ref().map(|_| "[redacted]"),
            )
            .field("aws", &self.aws)
            .field("provider_id", &self.provider_id)
            .field("connection_id", &self.connection_id)
            .field("expires_at", &self.expires_at)
            .field("forward_caracal_identity", &self.forward_caracal_identity)
            .finish()
    }
}

/// The success answer of the token endpoint (RFC 8693 section 2.2.1). `Debug` redacts the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The mandate; empty in an answer with a MAC ([`crate::answer_mac`]) when no upstream would see it.
    pub access_token: String,
    /// [`BEARER`], [`DPOP`], or [`NO_TOKEN`] without a mandate.
    pub token_type: String,
    /// Lifetime in whole seconds, at least 1.
    pub expires_in: i64,
    /// The scopes granted, when there are any.
    #[serde(default, skip_serializing_if = "crate::error::is_blank")]
    pub scope: Option<String>,
    /// Always [`ACCESS_TOKEN_TYPE`].
    pub issued_token_type: String,
    /// Identifiers of the resources granted; may be fewer than asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_resources: Vec<String>,
    /// One directive per granted resource, by identifier; only in answers to gateways.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, Upstream>,
}

impl TokenResponse {
    /// The answer as JSON, byte for byte as its serialisation. Hot path: one allocation, and tokens are copied at once.
    ///
    /// # Errors
    /// A JSON error, which no answer produces.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        /// What most answers need beside the token.
        const USUAL_BYTES: usize = 768;
        let mut text = Vec::with_capacity(USUAL_BYTES + self.access_token.len());
        text.extend_from_slice(b"{\"access_token\":");
        write_text(&mut text, &self.access_token)?;
        begin_member(&mut text, "token_type");
        write_text(&mut text, &self.token_type)?;
        begin_member(&mut text, "expires_in");
        serde_json::to_writer(&mut text, &self.expires_in)?;
        write_member(&mut text, "scope", self.scope.as_deref().unwrap_or_default())?;
        begin_member(&mut text, "issued_token_type");
        write_text(&mut text, &self.issued_token_type)?;
        if !self.target_resources.is_empty() {
            begin_member(&mut text, "target_resources");
            serde_json::to_writer(&mut text, &self.target_resources)?;
        }
        if !self.upstreams.is_empty() {
            begin_member(&mut text, "upstreams");
            serde_json::to_writer(&mut text, &self.upstreams)?;
        }
        text.push(b'}');
        Ok(text)
    }
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("access_token", &"[redacted]")
            .field("token_type", &self.token_type)
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .field("issued_token_type", &self.issued_token_type)
            .field("target_resources", &self.target_resources)
            .field("upstreams", &self.upstreams)
            .finish()
    }
}

/// One revoked thing in a [`RevocationSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RevokedAnchor {
    /// The zone it belongs to.
    pub zone_id: ZoneId,
    /// What kind of thing it is.
    pub kind: AnchorKind,
    /// Its id.
    pub id: String,
    /// Until when it must be remembered, in seconds since the epoch: no token that stands on it lives longer.
    pub expires_at: i64,
}

impl RevokedAnchor {
    /// The anchor, checked.
    ///
    /// # Errors
    /// [`IdError`] when `id` is not an id.
    pub fn anchor(&self) -> Result<Anchor, IdError> {
        Anchor::from_parts(self.kind, &self.id)
    }
}

/// What is revoked now: the answer to `GET /internal/gateway/revocations`, which a gateway signs like an exchange, over an empty
/// body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationSnapshot {
    /// The moment up to which the snapshot is complete, in milliseconds since the epoch.
    pub as_of_unix_ms: i64,
    /// The live revocations; a part of them when the query asked for one.
    pub revocations: Vec<RevokedAnchor>,
    /// What to ask for the next part with; absent when this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response() -> TokenResponse {
        TokenResponse {
            access_token: "head.body.seal".to_owned(),
            token_type: BEARER.to_owned(),
            expires_in: 900,
            scope: None,
            issued_token_type: ACCESS_TOKEN_TYPE.to_owned(),
            target_resources: Vec::new(),
            upstreams: BTreeMap::new(),
        }
    }

    #[test]
    fn members_without_content_are_left_out() {
        assert_eq!(
            serde_json::to_string(&response()).unwrap(),
            r#"{"access_token":"head.body.seal","token_type":"Bearer","expires_in":900,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#
        );
    }

    proptest! {
        #[test]
        fn an_answer_is_written_as_it_is_serialised(
            texts in proptest::collection::vec(r"[ -~\n\PC]{0,12}", 5),
            has_scope: bool,
            expires_in: i64,
            targets in proptest::collection::vec("[ -~\"]{0,8}", 0..3),
        ) {
            let upstreams = targets.iter().map(|target| (target.clone(), Upstream {
                provider_token: Some(texts[4].clone()),
                ..Upstream::default()
            }));
            let answer = TokenResponse {
                access_token: texts[0].clone(),
                token_type: texts[1].clone(),
                expires_in,
                scope: has_scope.then(|| texts[2].clone()),
                issued_token_type: texts[3].clone(),
                upstreams: upstreams.collect(),
                target_resources: targets,
            };
            prop_assert_eq!(answer.to_json().unwrap(), serde_json::to_vec(&answer).unwrap());
        }
    }

    #[test]
    fn an_answer_to_a_gateway_is_read_back() {
        let text = r#"{"access_token":"head.body.seal","token_type":"Bearer","expires_in":900,"scope":"crm:read",
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token","target_resources":["resource://crm"],
            "upstreams":{"resource://crm":{"url":"https://crm.example/api","auth_mode":"provider_apikey",
            "auth_location":"header","auth_header":"X-Api-Key","allowed_token_hosts":["crm.example"],
            "provider_token":"k-123","provider_id":"prov-1","a_later_member":1}}}"#;
        let read: TokenResponse = serde_json::from_str(text).unwrap();
        let upstream = &read.upstreams["resource://crm"];
        assert_eq!(upstream.auth_mode, AuthMode::ProviderApikey);
        assert_eq!(upstream.auth_location, Some(AuthLocation::Header));
        assert_eq!(upstream.provider_token.as_deref(), Some("k-123"));
        assert!(!upstream.forward_caracal_identity);
        let again: TokenResponse = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn an_unknown_mode_is_not_guessed() {
        assert!(serde_json::from_str::<Upstream>(r#"{"url":"","auth_mode":"magic"}"#).is_err());
        assert!(
            serde_json::from_str::<Upstream>(r#"{"url":""}"#).is_err(),
            "the mode must be said"
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let upstream = Upstream {
            provider_token: Some("k-123".to_owned()),
            ..Upstream::default()
        };
        let shown = format!(
            "{:?}",
            TokenResponse {
                upstreams: [("r".to_owned(), upstream)].into(),
                ..response()
            }
        );
        assert!(!shown.contains("k-123") && !shown.contains("seal"), "{shown}");
    }

    #[test]
    fn a_snapshot_names_its_kinds() {
        let text = r#"{"as_of_unix_ms":5,"revocations":[{"zone_id":"z1","kind":"session","id":"s1","expires_at":9}]}"#;
        let snapshot: RevocationSnapshot = serde_json::from_str(text).unwrap();
        assert_eq!(
            snapshot.revocations[0].anchor().unwrap(),
            Anchor::Session("s1".parse().unwrap())
        );
        assert_eq!(serde_json::to_string(&snapshot).unwrap(), text);
    }
}
