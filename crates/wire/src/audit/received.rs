//! One audit event as ingest reads it.

use std::borrow::Cow;

use caracal_model::time::UnixMicros;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Why the bytes of an entry are not an event.
#[derive(Debug, thiserror::Error)]
pub enum ReceivedError {
    /// Not a JSON object with members of the right types.
    #[error("audit event is not readable")]
    Json(#[from] serde_json::Error),
    /// `id` or `zone_id` is empty.
    #[error("audit event without {0}")]
    Missing(&'static str),
}

/// An event borrowed from the bytes it came in. The three documents keep the text the producer wrote, because parsing and
/// rewriting numbers would change evidence. Unknown members are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceivedEvent<'a> {
    /// Its id; never empty.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The zone whose ledger it belongs to; never empty.
    #[serde(borrow)]
    pub zone_id: Cow<'a, str>,
    /// What kind of thing happened.
    #[serde(borrow, default)]
    pub event_type: Option<Cow<'a, str>>,
    /// The request it happened in.
    #[serde(borrow, default)]
    pub request_id: Option<Cow<'a, str>>,
    /// How it was decided.
    #[serde(borrow, default)]
    pub decision: Option<Cow<'a, str>>,
    /// The policy set that decided.
    #[serde(borrow, default)]
    pub policy_set_id: Option<Cow<'a, str>>,
    /// Its version.
    #[serde(borrow, default)]
    pub policy_set_version_id: Option<Cow<'a, str>>,
    /// The hash of its manifest.
    #[serde(borrow, default)]
    pub manifest_sha: Option<Cow<'a, str>>,
    /// How the decision was reached.
    #[serde(borrow, default)]
    pub evaluation_status: Option<Cow<'a, str>>,
    /// The policies that decided, as JSON text; `None` when absent or `null`.
    #[serde(borrow, default)]
    pub determining_policies_json: Option<&'a RawValue>,
    /// What the policies said besides, as JSON text; `None` when absent or `null`.
    #[serde(borrow, default)]
    pub diagnostics_json: Option<&'a RawValue>,
    /// Everything else, as JSON text; `None` when absent or `null`.
    #[serde(borrow, default)]
    pub metadata_json: Option<&'a RawValue>,
    /// When it happened, cut to the microsecond.
    pub occurred_at: UnixMicros,
}

impl<'a> ReceivedEvent<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// [`ReceivedError`] when the bytes are not JSON, a required member is missing or empty, or `occurred_at` is not RFC 3339.
    pub fn parse(data: &'a [u8]) -> Result<Self, ReceivedError> {
        let event: Self = serde_json::from_slice(data)?;
        if event.id.is_empty() {
            return Err(ReceivedError::Missing("id"));
        }
        if event.zone_id.is_empty() {
            return Err(ReceivedError::Missing("zone_id"));
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_the_text_the_producer_wrote() {
        let data = br#"{"id":"e\u0031","zone_id":"z1","occurred_at":"2026-01-02T03:04:05.123456789Z",
            "metadata_json":{"amount":1.50,"big":12345678901234567890123},"diagnostics_json":null,"later":true}"#;
        let event = ReceivedEvent::parse(data).unwrap();
        assert_eq!(event.id, "e1");
        assert_eq!(
            event.metadata_json.unwrap().get(),
            r#"{"amount":1.50,"big":12345678901234567890123}"#
        );
        assert!(event.diagnostics_json.is_none() && event.determining_policies_json.is_none());
        assert_eq!(event.occurred_at, UnixMicros(1_767_323_045_123_456));
        assert_eq!(event.decision, None);
    }

    #[test]
    fn an_event_without_its_necessary_parts_is_refused() {
        for data in [
            "",
            "[]",
            r#"{"zone_id":"z1","occurred_at":"2026-01-02T03:04:05Z"}"#,
            r#"{"id":"e1","occurred_at":"2026-01-02T03:04:05Z"}"#,
            r#"{"id":"e1","zone_id":"z1"}"#,
            r#"{"id":"e1","zone_id":"z1","occurred_at":"yesterday"}"#,
            r#"{"id":"e1","zone_id":"z1","occurred_at":"2026-01-02T03:04:05Z","decision":5}"#,
        ] {
            assert!(
                matches!(ReceivedEvent::parse(data.as_bytes()), Err(ReceivedError::Json(_))),
                "{data}"
            );
        }
        let nameless = br#"{"id":"","zone_id":"z1","occurred_at":"2026-01-02T03:04:05Z"}"#;
        assert!(matches!(
            ReceivedEvent::parse(nameless),
            Err(ReceivedError::Missing("id"))
        ));
        let homeless = br#"{"id":"e1","zone_id":"","occurred_at":"2026-01-02T03:04:05Z"}"#;
        assert!(matches!(
            ReceivedEvent::parse(homeless),
            Err(ReceivedError::Missing("zone_id"))
        ));
    }
}
