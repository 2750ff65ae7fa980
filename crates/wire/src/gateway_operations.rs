//! What does the token service tell gateways about the operations of a zone?
//! (`docs/contract/wire-formats.md`, "Operations of a zone")

use caracal_model::operation::Operation;
use caracal_model::{ApplicationId, ResourceIdentifier, ZoneId};
use serde::{Deserialize, Serialize};

/// Path of the request.
pub const OPERATIONS_PATH: &str = "/internal/gateway/operations";
/// How long the entries of an answer may be together, in bytes of JSON. Resources that do not fit are left out.
pub const ENTRIES_BYTES_MAX: usize = 4 << 20;

/// What an undeclared operation is answered, by token service and gateway alike.
pub const NOT_DECLARED: &str = "the operation is not declared for the scopes of the presented mandate";

/// Parameters of the query.
pub mod parameter {
    /// Which zone.
    pub const ZONE_ID: &str = "zone_id";
    /// The version the gateway has.
    pub const VERSION: &str = "version";
}

/// The path and query of a request about `zone`, of which the gateway knows version `known`.
pub fn target(zone: &ZoneId, known: Option<i64>) -> String {
    // Neither an id nor a number needs escaping.
    let zone = format!("{OPERATIONS_PATH}?{}={zone}", parameter::ZONE_ID);
    match known {
        Some(version) => format!("{zone}&{}={version}", parameter::VERSION),
        None => zone,
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneOperations {
    /// Version of the zone's configuration.
    pub version: i64,
    /// The resources whose operations are enforced; absent when the gateway has this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<EnforcedResource>>,
}

/// A resource that can be called by declared operations only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedResource {
    /// Its identifier, which mandates have as target.
    pub identifier: ResourceIdentifier,
    /// What a request may call it: its identifier, its row id.
    pub names: Vec<String>,
    /// The application that may call it with a reusable mandate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reusable_by: Option<ApplicationId>,
    /// Its operations.
    pub operations: Vec<Operation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_written_as_the_contract_says() {
        let text = concat!(
            r#"{"version":7,"resources":[{"identifier":"resource://crm","names":["resource://crm","r-1"],"#,
            r#""reusable_by":"app-1","operations":[{"method":"GET","path":"/v1/users/{id}","scope":"crm:read"}]}]}"#
        );
        let answer: ZoneOperations = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
        let same = ZoneOperations {
            version: 7,
            resources: None,
        };
        assert_eq!(serde_json::to_string(&same).unwrap(), r#"{"version":7}"#);
    }

    #[test]
    fn a_question_names_the_zone_and_the_version_that_is_known() {
        let zone = "z1".parse().unwrap();
        assert_eq!(target(&zone, None), "/internal/gateway/operations?zone_id=z1");
        assert_eq!(
            target(&zone, Some(-7)),
            "/internal/gateway/operations?zone_id=z1&version=-7"
        );
    }
}
