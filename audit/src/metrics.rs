//! What is counted? The names operators' dashboards expect.

use caracal_chassis::metrics::Registry;
use prometheus::IntCounter;

/// The service's counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Links stored.
    pub(crate) inserts: IntCounter,
    /// Events that are not the JSON they should be.
    pub(crate) parse_errors: IntCounter,
    /// Entries put aside.
    pub(crate) dead_letters: IntCounter,
    /// Attempts that ended because the database was away.
    pub(crate) retries: IntCounter,
    /// Events whose signature was missing or wrong.
    pub(crate) hmac_failures: IntCounter,
    /// Events that came again with another content.
    pub(crate) tamper_replay: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            inserts: registry.counter("caracal_audit_inserts_total", "Events linked into the ledger"),
            parse_errors: registry.counter(
                "caracal_audit_parse_errors_total",
                "Events that could not be parsed",
            ),
            dead_letters: registry.counter("caracal_audit_dlq_total", "Entries put aside as dead letters"),
            retries: registry.counter(
                "caracal_audit_retries_total",
                "Attempts repeated because the database was away",
            ),
            hmac_failures: registry.counter(
                "caracal_audit_hmac_failures_total",
                "Events without a valid signature",
            ),
            tamper_replay: registry.counter(
                "caracal_audit_tamper_replay_total",
                "Replayed events with another content",
            ),
        }
    }
}
