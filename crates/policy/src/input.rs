//! What is a decision about? The facts of one request, borrowed from whoever holds them.

mod json;

use std::fmt;

use caracal_model::{DelegationId, Lifecycle, ScopeSet};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Version of the input document; any other is an error, never a guess.
pub const SCHEMA_VERSION: &str = "2026-05-20";

/// The facts of one authorization decision.
///
/// Serialises to the input document of `docs/contract/decision-contract.md`, section "Input",
/// which is what documents that read `input` see. Building one copies nothing.
#[derive(Debug)]
pub struct Input<'a> {
    /// Who asks.
    pub principal: Principal<'a>,
    /// For what.
    pub resource: Resource<'a>,
    /// To do what.
    pub action: Action<'a>,
    /// The authority record bound to the request: `session.id` and `context.session_id`.
    pub authority_record_id: Option<&'a str>,
    /// The governed session bound to the request: `agent_session_id` of principal and context.
    pub agent_session_id: Option<&'a str>,
    /// The delegation bound to the request.
    pub delegation_edge: Option<Edge<'a>>,
    /// The verified claims of the subject token, when one was presented.
    pub subject_claims: Option<SubjectClaims<'a>>,
    /// The request id.
    pub trace_id: &'a str,
    /// Whether an approval was presented and is in force.
    pub challenge_resolved: bool,
    /// The scopes asked for; empty on exchanges the gateway makes.
    pub requested_scopes: &'a ScopeSet,
}

/// Who asks for authority.
#[derive(Debug)]
pub struct Principal<'a> {
    /// What kind of principal `id` names.
    pub kind: PrincipalType,
    /// The application or workload.
    pub id: &'a str,
    /// The zone whose documents decide.
    pub zone_id: &'a str,
    /// How the application came to be, `managed` or `dcr`; absent for workloads.
    pub registration_method: Option<&'a str>,
    /// The lifecycle of the governed session, when one is bound.
    pub lifecycle: Option<Lifecycle>,
    /// The labels of the governed session.
    pub labels: &'a [String],
}

/// The kinds of principals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum PrincipalType {
    /// An application at the token endpoint.
    Application,
    /// A workload at the run endpoints.
    Workload,
}

/// What authority is asked for.
#[derive(Debug)]
pub struct Resource<'a> {
    /// The id of the resource's row.
    pub id: &'a str,
    /// Its identifier, such as `resource://crm`.
    pub identifier: &'a str,
    /// The scopes it declares.
    pub scopes: &'a ScopeSet,
}

/// What is to be done with the authority.
#[derive(Debug)]
pub struct Action<'a> {
    /// The kind of request.
    pub kind: ActionKind,
    /// The upstream method in upper case; only when the gateway asks.
    pub method: Option<&'a str>,
    /// The upstream path as the gateway received it; only when the gateway asks.
    pub path: Option<&'a str>,
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ActionKind {
    /// A token exchange.
    TokenExchange,
    /// A credential for a workload's environment.
    CredentialInjection,
}

/// A delegation, as documents see it.
#[derive(Debug)]
pub struct Edge<'a> {
    /// The delegation.
    pub id: &'a str,
    /// The session that delegated.
    pub source_session_id: &'a str,
    /// The session that received.
    pub target_session_id: &'a str,
    /// The application that delegated.
    pub issuer_application_id: &'a str,
    /// The application that received.
    pub receiver_application_id: &'a str,
    /// The one resource it is limited to.
    pub resource_id: Option<&'a str>,
    /// The scopes it carries.
    pub scopes: &'a ScopeSet,
    /// Its version; zero is not written.
    pub version: u64,
    /// Delegation ids from the root to this one.
    pub path: &'a [DelegationId],
    /// The zone's delegation epoch; zero is not written.
    pub graph_epoch: u64,
    /// Its constraints, the stored JSON as it is.
    pub constraints: Option<&'a RawValue>,
}

/// The claims of the subject token: those the contract reads, and all of them for documents.
#[derive(Clone, Copy)]
pub struct SubjectClaims<'a> {
    /// Claim `use`.
    pub r#use: Option<&'a str>,
    /// Claim `delegation_edge_id`.
    pub delegation_edge_id: Option<&'a str>,
    /// Claim `scope`.
    pub scope: Option<&'a str>,
    /// Claim `target`.
    pub target: &'a [String],
    /// The complete claim set, written out only for documents that read `input`.
    pub complete: &'a dyn CompleteClaims,
}

/// Shows what the contract reads and none of the other claims.
impl fmt::Debug for SubjectClaims<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SubjectClaims")
            .field("use", &self.r#use)
            .field("delegation_edge_id", &self.delegation_edge_id)
            .field("scope", &self.scope)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A claim set that can be written as JSON when a document asks for it. Every `Serialize` type is one.
pub trait CompleteClaims {
    /// The claim set as JSON.
    ///
    /// # Errors
    /// Whatever its `Serialize` reports.
    fn to_json(&self) -> Result<serde_json::Value, serde_json::Error>;
}

impl<T: Serialize> CompleteClaims for T {
    fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json::of(self)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}
