//! Whole documents, as clients and older services send and read them, survive a round trip without loss.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use caracal_model::revocation::Anchor;
use caracal_wire::approval::{ApprovalState, HoldBody};
use caracal_wire::audit::{AuditEvent, ReceivedEvent};
use caracal_wire::error::{ErrorBody, ErrorCode};
use caracal_wire::event::SessionsRevoke;
use caracal_wire::stream::Fields;
use caracal_wire::sts::TokenResponse;
use caracal_wire::trace::{Traceparent, strip_caracal_members};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a document and expects it back member by member.
fn round_trip<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let read: T = serde_json::from_str(text).unwrap();
    let expected: Value = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), expected);
    read
}

#[test]
fn a_token_response() {
    let response: TokenResponse = round_trip(include_str!("fixtures/token-response.json"));
    assert_eq!(response.target_resources, ["resource://crm"]);
    assert!(response.upstreams.is_empty());
}

#[test]
fn a_revocation() {
    let fields: Fields = serde_json::from_str(include_str!("fixtures/revocation-event.json")).unwrap();
    let message = SessionsRevoke::from_fields(&fields).unwrap();
    let anchors = [
        Anchor::AuthorityRecord("record-7".parse().unwrap()),
        Anchor::Session("session-7".parse().unwrap()),
    ];
    assert_eq!(message.anchors(), anchors);
    let mut written = message.to_fields();
    for bookkeeping in ["outbox_id", "_sig"] {
        written.insert(bookkeeping.to_owned(), fields.get(bookkeeping).unwrap().clone());
    }
    assert_eq!(written, fields);
}

#[test]
fn an_audit_event() {
    let text = include_str!("fixtures/audit-event.json");
    let event: AuditEvent = round_trip(text);
    let received = ReceivedEvent::parse(text.as_bytes()).unwrap();
    assert_eq!(received.id, event.id.as_str());
    assert_eq!(received.manifest_sha.as_deref(), event.manifest_sha.as_deref());
}

#[test]
fn request_headers() {
    let headers: Fields = serde_json::from_str(include_str!("fixtures/request-headers.json")).unwrap();
    let traceparent = headers.get("traceparent").unwrap();
    assert_eq!(Traceparent::parse(traceparent).unwrap().to_string(), *traceparent);
    assert_eq!(
        strip_caracal_members(headers.get("baggage").unwrap()),
        Some("tenant=acme".to_owned())
    );
}

#[test]
fn an_error() {
    let body: ErrorBody = round_trip(include_str!("fixtures/error.json"));
    assert_eq!(body.error, ErrorCode::AccessDenied);
}

#[test]
fn a_hold() {
    let hold: HoldBody = round_trip(include_str!("fixtures/hold.json"));
    assert_eq!(
        (hold.error, hold.state),
        (ErrorCode::InteractionRequired, ApprovalState::Pending)
    );
}
