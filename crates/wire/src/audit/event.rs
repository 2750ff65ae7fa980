//! One audit event as a producer writes it, and the producer's signature.

use caracal_model::id::{EventId, ZoneId};
use caracal_model::time::UnixMicros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{equal, hmac_hex};
use crate::error::is_blank;
use crate::stream::Fields;

/// One event. Members that are absent or empty are left out, except the two documents that readers expect as lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its id; ingest keeps the first event with an id.
    pub id: EventId,
    /// The zone whose ledger it belongs to.
    pub zone_id: ZoneId,
    /// What kind of thing happened, see [`super::event_type`].
    #[serde(default)]
    pub event_type: String,
    /// The request it happened in.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub request_id: Option<String>,
    /// How it was decided, see [`super::decision`].
    #[serde(default)]
    pub decision: String,
    /// The policy set that decided.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub policy_set_id: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub policy_set_version_id: Option<String>,
    /// The hash of its manifest, see [`crate::manifest`].
    #[serde(default, skip_serializing_if = "is_blank")]
    pub manifest_sha: Option<String>,
    /// How the decision was reached, see [`super::status`].
    #[serde(default)]
    pub evaluation_status: String,
    /// The policies that decided: a list of objects with the member `policy`.
    #[serde(default = "empty_list")]
    pub determining_policies_json: Value,
    /// What the policies said besides: a list of objects.
    #[serde(default = "empty_list")]
    pub diagnostics_json: Value,
    /// Everything else: an object. Left out when `null`. Never a token, a secret or a body.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata_json: Value,
    /// When it happened.
    pub occurred_at: UnixMicros,
}

fn empty_list() -> Value {
    Value::Array(Vec::new())
}

impl AuditEvent {
    /// An event with its four necessary parts and nothing else.
    pub fn new(id: EventId, zone_id: ZoneId, event_type: impl Into<String>, occurred_at: UnixMicros) -> Self {
        Self {
            id,
            zone_id,
            event_type: event_type.into(),
            request_id: None,
            decision: String::new(),
            policy_set_id: None,
            policy_set_version_id: None,
            manifest_sha: None,
            evaluation_status: String::new(),
            determining_policies_json: empty_list(),
            diagnostics_json: empty_list(),
            metadata_json: Value::Null,
            occurred_at,
        }
    }

    /// The event as one line of JSON text: what is spooled, signed and published. Hot path: one serialisation.
    ///
    /// # Errors
    /// A JSON error, which no event that was built from JSON values produces.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The stream fields of an event whose JSON text is `data`. Without key the entry is unsigned, which ingest accepts
    /// in dev mode only.
    pub fn fields(id: &EventId, data: &str, key: Option<&[u8]>) -> Fields {
        let mut fields = Fields::new();
        fields.insert(super::ID.to_owned(), id.to_string());
        fields.insert(super::DATA.to_owned(), data.to_owned());
        if let Some(key) = key {
            fields.insert(super::DATA_SIG.to_owned(), sign_data(key, data.as_bytes()));
        }
        fields
    }
}

/// The producer's signature over the bytes of an event, as 64 lower-case hex digits.
pub fn sign_data(key: &[u8], data: &[u8]) -> String {
    hmac_hex(key, &[data])
}

/// Whether the signature over exactly these bytes is by this key. Constant time.
pub fn verify_data(key: &[u8], data: &[u8], signature: &str) -> bool {
    equal(&sign_data(key, data), signature)
}
