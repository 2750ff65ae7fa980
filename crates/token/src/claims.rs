//! What does a mandate say? The claim set, exactly as `docs/contract/mandate.md` lists it.

use std::fmt;

use caracal_model::{
    Anchors, ApplicationId, AuthorityRecordId, DelegationId, ScopeSet, SessionId, SubjectId, TokenId, ZoneId,
};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Confirmation;

/// Longest list a claim may hold: audiences, targets, path and chain.
///
/// A bearer is bounded by the caller in bytes; this bounds the work one short entry can cause.
const LIST_MAX: usize = 256;

/// What a mandate may be used for. Written in lower case as claim `use`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Held by an application; opens governed sessions, and calls a resource only through a binding.
    Session,
    /// One call through the gateway.
    Gateway,
    /// Minted by the gateway's exchange for one resource server.
    Resource,
}

impl Use {
    /// The value of the claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Gateway => "gateway",
            Self::Resource => "resource",
        }
    }
}

/// Whom claim `sub` names. Written in lower case as claim `sub_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectType {
    /// The application itself.
    Application,
    /// A federated user on whose behalf the application acts.
    User,
}

impl SubjectType {
    /// The value of the claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::User => "user",
        }
    }
}

/// One application on the way from the first delegator to the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// The application that held the authority at this hop.
    pub application_id: ApplicationId,
    /// The governed session it held the authority in.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub agent_session_id: Option<SessionId>,
    /// The delegation that carried the authority onwards; absent at the last hop.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub delegation_edge_id: Option<DelegationId>,
}

/// Who acts for the subject (RFC 8693 section 4.1): the outermost is the present actor, those inside acted before it and
/// count for nothing but the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The application that acts.
    pub sub: String,
    /// Whoever acted before, and delegated to it.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub act: Option<Box<Actor>>,
}

impl Actor {
    /// The applications of a delegation, root first, as one claim; `None` when there are none.
    pub fn of_chain<'h>(applications: impl IntoIterator<Item = &'h ApplicationId>) -> Option<Self> {
        let nest = |before: Option<Self>, application: &ApplicationId| {
            Some(Self {
                sub: application.to_string(),
                act: before.map(Box::new),
            })
        };
        applications.into_iter().fold(None, nest)
    }
}

/// The claim set of a mandate (RFC 7519 registered names and Caracal's own).
///
/// Absent optional claims are absent in the JSON too: never `null`, never an empty list or zero.
/// Reading is strict about types and about a known claim given twice, and indifferent to unknown
/// claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer: the public URL of the STS, compared byte for byte.
    pub iss: String,
    /// Subject: an application id or a federated subject.
    pub sub: SubjectId,
    /// Audience: the issuer for session and gateway mandates, the targets for resource mandates.
    /// Read from a string or an array of 1 to 256 strings, always written as an array.
    #[serde(deserialize_with = "audience")]
    pub aud: Vec<String>,
    /// Expiry, seconds since the Unix epoch.
    pub exp: i64,
    /// Issue time, seconds since the Unix epoch.
    pub iat: i64,
    /// Unique name of this token.
    pub jti: TokenId,
    /// The zone whose key signed the token.
    pub zone_id: ZoneId,
    /// The authenticated application.
    pub client_id: ApplicationId,
    /// Space-separated scopes.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub scope: Option<String>,
    /// The authority record of this exchange.
    pub sid: AuthorityRecordId,
    /// The authority record at the root of the exchange's ancestry.
    pub root_sid: AuthorityRecordId,
    /// What the token may be used for.
    pub r#use: Use,
    /// Whom `sub` names.
    pub sub_type: SubjectType,
    /// Identifiers of the resources the token was granted for.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<String>,
    /// The governed session the token is bound to.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub agent_session_id: Option<SessionId>,
    /// The delegation the token is bound to.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub delegation_edge_id: Option<DelegationId>,
    /// The delegating session of that delegation.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub source_session_id: Option<SessionId>,
    /// The receiving session of that delegation.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub target_session_id: Option<SessionId>,
    /// Delegations from the root to `delegation_edge_id`, root first.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub delegation_path: Vec<DelegationId>,
    /// The applications along that path, root first; the last hop has no delegation.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub delegation_chain: Vec<Hop>,
    /// Who acts, where authority was delegated.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub act: Option<Actor>,
    /// The keys whoever sends the token must hold; absent for a token that whoever has it may send.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub cnf: Option<Confirmation>,
    /// Length of `delegation_path`; zero is not written.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub hop_count: u32,
    /// The zone's delegation epoch at the time of minting; zero is not written.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub delegation_graph_epoch: u64,
}

impl Claims {
    /// The up to four names whose revocation ends this token.
    pub fn anchors(&self) -> Anchors {
        Anchors {
            sid: self.sid.clone(),
            root_sid: self.root_sid.clone(),
            session: self.agent_session_id.clone(),
            delegation: self.delegation_edge_id.clone(),
        }
    }

    /// The scopes of claim `scope`; empty when it is absent.
    pub fn scopes(&self) -> ScopeSet {
        ScopeSet::parse(self.scope.as_deref().unwrap_or_default())
    }

    /// Whether claim `scope` names the scope, without making a set of it.
    pub fn carries_scope(&self, scope: &str) -> bool {
        let held = self.scope.as_deref().unwrap_or_default();
        held.split_whitespace().any(|held| held == scope)
    }

    /// Whether claim `target` names the resource `identifier`.
    pub fn allows_target(&self, identifier: &str) -> bool {
        self.target.iter().any(|target| target == identifier)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

/// Reads an optional claim that, when given, must have its type: `null` is refused.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a list of at most [`LIST_MAX`] entries.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(ListVisitor(std::marker::PhantomData))
}

/// Reads `aud`: one non-empty string, or 1 to [`LIST_MAX`] of them (RFC 7519 section 4.1.3).
pub(crate) fn audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let audiences = deserializer.deserialize_any(AudienceVisitor)?;
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(D::Error::custom("an audience is empty"));
    }
    Ok(audiences)
}

struct ListVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an array of at most {LIST_MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut out = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if out.len() == LIST_MAX {
                return Err(A::Error::invalid_length(LIST_MAX + 1, &self));
            }
            out.push(entry);
        }
        Ok(out)
    }
}

struct AudienceVisitor;

impl<'de> Visitor<'de> for AudienceVisitor {
    type Value = Vec<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or an array of strings")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<String>, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Vec<String>, A::Error> {
        ListVisitor(std::marker::PhantomData).visit_seq(entries)
    }
}
