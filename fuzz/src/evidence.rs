//! Events of the ledger.

use caracal_wire::audit::AuditEvent;

/// An event that was read says the same once it is written and read again.
pub(crate) fn audit_event(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<AuditEvent>(bytes) else {
        return;
    };
    let written = read.to_json().expect("what was read can be written");
    let again: AuditEvent = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, read);
}
