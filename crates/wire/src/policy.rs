//! What is asked about policies between services, signed like an exchange (`docs/contract/policy-administration.md`).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Path of the simulation: a POST with a [`SimulationRequest`].
pub const SIMULATE_PATH: &str = "/internal/policy/simulate";
/// Path before a zone's id: a GET that is answered with a [`PolicyStatus`].
pub const STATUS_PATH: &str = "/internal/policy/status/";

/// What a set of documents is to be tried on.
#[derive(Debug, Deserialize)]
pub struct SimulationRequest {
    /// The set, repeated in the answer.
    #[serde(default)]
    pub policy_set_id: String,
    /// The version, repeated in the answer.
    #[serde(default)]
    pub version_id: String,
    /// The manifest's hash, repeated in the answer.
    #[serde(default)]
    pub manifest_sha256: String,
    /// The documents, in the order of the manifest.
    pub policies: Vec<SimulatedDocument>,
    /// The input document; without one the documents are only compiled.
    #[serde(default)]
    pub input: Option<Box<RawValue>>,
}

/// One document of a simulation.
#[derive(Debug, Serialize, Deserialize)]
pub struct SimulatedDocument {
    /// Its id.
    pub id: String,
    /// Its text.
    pub content: String,
}

/// Which policy one replica of the token service decides by in one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The zone.
    pub zone_id: String,
    /// Whether there is something to decide by; a zone without an active policy set denies everything by it.
    pub loaded: bool,
    /// The version of the policy set, if one is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_set_version_id: Option<String>,
    /// The manifest's hash, or `no_active_policy_set`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
    /// When it was compiled, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<String>,
    /// How many seconds ago that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// The version of the zone's configuration it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_version: Option<i64>,
    /// The process that answered: a new one after each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}
