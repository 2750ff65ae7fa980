//! One audit event as a producer writes it, and the producer's signature.

use caracal_model::id::{EventId, ZoneId};
use caracal_model::time::UnixMicros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Details;
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

    /// The same with `details` as its metadata, in the place of [`Self::metadata_json`], which must be `null`.
    ///
    /// # Errors
    /// As [`Self::to_json`], and when a detail could not be written.
    pub fn to_json_with(&self, details: &Details) -> Result<Vec<u8>, serde_json::Error> {
        debug_assert!(self.metadata_json.is_null(), "an event has its metadata once");
        let mut line = self.to_json()?;
        details.join(&mut line)?;
        Ok(line)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{DATA, DATA_SIG, ReceivedEvent, decision, event_type, status};
    use super::*;

    fn intent() -> AuditEvent {
        AuditEvent {
            request_id: Some("req-1".to_owned()),
            decision: decision::ALLOW.to_owned(),
            evaluation_status: status::FORWARDING.to_owned(),
            metadata_json: json!({"resource": "resource://crm"}),
            ..AuditEvent::new(
                "evt-1".parse().unwrap(),
                "z1".parse().unwrap(),
                event_type::GATEWAY_RESOURCE_REQUEST,
                UnixMicros(1_767_323_045_123_456),
            )
        }
    }

    #[test]
    fn members_without_content_are_left_out_but_the_lists_stay() {
        let text = String::from_utf8(intent().to_json().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"id":"evt-1","zone_id":"z1","event_type":"gateway_resource_request","request_id":"req-1","decision":"allow","evaluation_status":"forwarding","determining_policies_json":[],"diagnostics_json":[],"metadata_json":{"resource":"resource://crm"},"occurred_at":"2026-01-02T03:04:05.123456Z"}"#
        );
        assert_eq!(serde_json::from_str::<AuditEvent>(&text).unwrap(), intent());
    }

    #[test]
    fn ingest_reads_what_a_producer_writes() {
        let data = intent().to_json().unwrap();
        let read = ReceivedEvent::parse(&data).unwrap();
        assert_eq!(
            (read.id.as_ref(), read.decision.as_deref()),
            ("evt-1", Some("allow"))
        );
        assert_eq!(read.determining_policies_json.unwrap().get(), "[]");
        assert_eq!(read.occurred_at, intent().occurred_at);
    }

    #[test]
    fn the_signature_covers_the_bytes_as_they_travel() {
        let data = String::from_utf8(intent().to_json().unwrap()).unwrap();
        let fields = AuditEvent::fields(&intent().id, &data, Some(b"key"));
        assert!(verify_data(b"key", fields[DATA].as_bytes(), &fields[DATA_SIG]));
        assert!(
            !verify_data(b"key", format!("{data} ").as_bytes(), &fields[DATA_SIG]),
            "not one byte may change"
        );
        assert!(!verify_data(b"other", data.as_bytes(), &fields[DATA_SIG]));
        assert!(!AuditEvent::fields(&intent().id, &data, None).contains_key(DATA_SIG));
    }

    #[test]
    fn an_event_can_always_be_signed_as_a_stream_entry() {
        let event = AuditEvent {
            metadata_json: json!({"note": "two\nlines\u{7f}"}),
            ..intent()
        };
        let data = String::from_utf8(event.to_json().unwrap()).unwrap();
        let fields = AuditEvent::fields(&event.id, &data, Some(b"key"));
        assert!(crate::stream::sign(b"k", crate::stream::AUDIT_EVENTS, &fields).is_ok());
    }
}
