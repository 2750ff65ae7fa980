//! How is the input written? Field by field as `docs/contract/decision-contract.md` publishes it.

use caracal_model::{DelegationId, Lifecycle, ScopeSet};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{ActionKind, Input, PrincipalType, SCHEMA_VERSION};

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema_version: &'static str,
    principal: Principal<'a>,
    resource: Resource<'a>,
    action: Action<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_edge: Option<Edge<'a>>,
    context: Context<'a>,
}

#[derive(Serialize)]
struct Principal<'a> {
    r#type: PrincipalType,
    id: &'a str,
    zone_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifecycle: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
}

#[derive(Serialize)]
struct Resource<'a> {
    r#type: &'static str,
    id: &'a str,
    identifier: &'a str,
    scopes: Scopes<'a>,
}

#[derive(Serialize)]
struct Action<'a> {
    id: ActionKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
}

#[derive(Serialize)]
struct Session<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct Edge<'a> {
    id: &'a str,
    source_session_id: &'a str,
    target_session_id: &'a str,
    issuer_application_id: &'a str,
    receiver_application_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<&'a str>,
    scopes: Scopes<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    #[serde(rename = "edge_version")]
    version: u64,
    path: &'a [DelegationId],
    #[serde(skip_serializing_if = "is_zero")]
    graph_epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints_json: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Context<'a> {
    actor_claims: ActorClaims<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_claims: Option<serde_json::Value>,
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_edge_id: Option<&'a str>,
    challenge_resolved: bool,
    requested_scopes: Scopes<'a>,
}

#[derive(Serialize)]
struct ActorClaims<'a> {
    caracal_client_id: &'a str,
}

/// A scope set as the array it is in JSON.
struct Scopes<'a>(&'a ScopeSet);

impl Serialize for Scopes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(super) fn of<'a>(input: &Input<'a>) -> Result<Document<'a>, serde_json::Error> {
    let claims = input
        .subject_claims
        .map(|claims| claims.complete.to_json())
        .transpose()?;
    let (principal, resource, action) = (&input.principal, &input.resource, &input.action);
    Ok(Document {
        schema_version: SCHEMA_VERSION,
        principal: Principal {
            r#type: principal.kind,
            id: principal.id,
            zone_id: principal.zone_id,
            registration_method: principal.registration_method,
            agent_session_id: input.agent_session_id,
            lifecycle: principal.lifecycle.map(Lifecycle::as_str),
            labels: principal.labels,
        },
        resource: Resource {
            r#type: "Resource",
            id: resource.id,
            identifier: resource.identifier,
            scopes: Scopes(resource.scopes),
        },
        action: Action {
            id: action.kind,
            method: action.method,
            path: action.path,
        },
        session: input.authority_record_id.map(|id| Session { id }),
        delegation_edge: input.delegation_edge.as_ref().map(edge),
        context: Context {
            actor_claims: ActorClaims {
                caracal_client_id: principal.id,
            },
            subject_claims: claims,
            trace_id: input.trace_id,
            session_id: input.authority_record_id,
            agent_session_id: input.agent_session_id,
            delegation_edge_id: input.delegation_edge.as_ref().map(|edge| edge.id),
            challenge_resolved: input.challenge_resolved,
            requested_scopes: Scopes(input.requested_scopes),
        },
    })
}

fn edge<'a>(edge: &super::Edge<'a>) -> Edge<'a> {
    Edge {
        id: edge.id,
        source_session_id: edge.source_session_id,
        target_session_id: edge.target_session_id,
        issuer_application_id: edge.issuer_application_id,
        receiver_application_id: edge.receiver_application_id,
        resource_id: edge.resource_id,
        scopes: Scopes(edge.scopes),
        version: edge.version,
        path: edge.path,
        graph_epoch: edge.graph_epoch,
        constraints_json: edge.constraints,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::*;

    #[test]
    fn the_input_of_a_delegated_mint_is_written_as_published() {
        let scopes = ScopeSet::parse("crm:read crm:write");
        let requested = ScopeSet::parse("crm:write");
        let labels = ["editor".to_owned()];
        let path = ["e1".parse().unwrap()];
        let constraints = RawValue::from_string(r#"{"max_hops":1}"#.to_owned()).unwrap();
        let input = Input {
            principal: Principal {
                kind: PrincipalType::Application,
                id: "app-1",
                zone_id: "z1",
                registration_method: Some("managed"),
                lifecycle: Some(Lifecycle::Task),
                labels: &labels,
            },
            resource: Resource {
                id: "r1",
                identifier: "resource://crm",
                scopes: &scopes,
            },
            action: Action {
                kind: ActionKind::TokenExchange,
                method: None,
                path: None,
            },
            authority_record_id: None,
            agent_session_id: Some("s2"),
            delegation_edge: Some(Edge {
                id: "e1",
                source_session_id: "s1",
                target_session_id: "s2",
                issuer_application_id: "app-1",
                receiver_application_id: "app-1",
                resource_id: None,
                scopes: &requested,
                version: 0,
                path: &path,
                graph_epoch: 7,
                constraints: Some(&constraints),
            }),
            subject_claims: None,
            trace_id: "req-1",
            challenge_resolved: false,
            requested_scopes: &requested,
        };
        assert_eq!(
            serde_json::to_value(&input).unwrap(),
            json!({
                "schema_version": "2026-05-20",
                "principal": {
                    "type": "Application", "id": "app-1", "zone_id": "z1", "registration_method": "managed",
                    "agent_session_id": "s2", "lifecycle": "task", "labels": ["editor"]
                },
                "resource": {
                    "type": "Resource", "id": "r1", "identifier": "resource://crm", "scopes": ["crm:read", "crm:write"]
                },
                "action": {"id": "TokenExchange"},
                "delegation_edge": {
                    "id": "e1", "source_session_id": "s1", "target_session_id": "s2",
                    "issuer_application_id": "app-1", "receiver_application_id": "app-1",
                    "scopes": ["crm:write"], "path": ["e1"], "graph_epoch": 7, "constraints_json": {"max_hops": 1}
                },
                "context": {
                    "actor_claims": {"caracal_client_id": "app-1"}, "trace_id": "req-1",
                    "agent_session_id": "s2", "delegation_edge_id": "e1",
                    "challenge_resolved": false, "requested_scopes": ["crm:write"]
                }
            })
        );
    }

    #[test]
    fn the_input_of_the_gateways_exchange_carries_the_claims_and_the_call() {
        let (declared, none) = (ScopeSet::empty(), ScopeSet::empty());
        let complete = json!({"sub": "u", "use": "gateway", "scope": "crm:write", "vendor": {"x": 1}});
        let input = Input {
            principal: Principal {
                kind: PrincipalType::Workload,
                id: "job-1",
                zone_id: "z1",
                registration_method: None,
                lifecycle: None,
                labels: &[],
            },
            resource: Resource {
                id: "r1",
                identifier: "resource://crm",
                scopes: &declared,
            },
            action: Action {
                kind: ActionKind::CredentialInjection,
                method: Some("POST"),
                path: Some("/v1/x"),
            },
            authority_record_id: Some("ar-1"),
            agent_session_id: None,
            delegation_edge: None,
            subject_claims: Some(SubjectClaims {
                r#use: Some("gateway"),
                delegation_edge_id: None,
                scope: Some("crm:write"),
                target: &[],
                complete: &complete,
            }),
            trace_id: "req-1",
            challenge_resolved: true,
            requested_scopes: &none,
        };
        assert_eq!(
            serde_json::to_value(&input).unwrap(),
            json!({
                "schema_version": "2026-05-20",
                "principal": {"type": "Workload", "id": "job-1", "zone_id": "z1"},
                "resource": {"type": "Resource", "id": "r1", "identifier": "resource://crm", "scopes": []},
                "action": {"id": "CredentialInjection", "method": "POST", "path": "/v1/x"},
                "session": {"id": "ar-1"},
                "context": {
                    "actor_claims": {"caracal_client_id": "job-1"}, "subject_claims": complete,
                    "trace_id": "req-1", "session_id": "ar-1", "challenge_resolved": true, "requested_scopes": []
                }
            })
        );
    }
}
