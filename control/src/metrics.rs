//! What does the control service count?

use caracal_chassis::metrics::Registry;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// The metrics of one control service.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Answers by class of status: `2xx`, `4xx`, `5xx`, `other`.
    pub(crate) requests: IntCounterVec,
    /// Refusals by code.
    pub(crate) refusals: IntCounterVec,
    /// Refused requests that were not recorded because too many waited.
    pub(crate) attempts_dropped: IntCounter,
    /// Messages not published yet.
    pub(crate) outbox_pending: IntGauge,
    /// Messages given up.
    pub(crate) outbox_dead: IntGauge,
    /// Age of the oldest message not published yet.
    pub(crate) outbox_oldest_seconds: IntGauge,
}

impl Metrics {
    /// Registers everything with `registry`.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.counter_vec(
                "caracal_control_requests_total",
                "Answers of the admin API by class of status.",
                &["class"],
            ),
            refusals: registry.counter_vec(
                "caracal_control_refusals_total",
                "Refusals of the admin API by code.",
                &["code"],
            ),
            attempts_dropped: registry.counter(
                "caracal_control_attempts_dropped_total",
                "Refused requests that were not recorded because too many waited.",
            ),
            outbox_pending: registry.gauge(
                "caracal_api_outbox_pending_total",
                "Messages not published to the event streams yet.",
            ),
            outbox_dead: registry.gauge(
                "caracal_api_outbox_dead_total",
                "Messages given up until somebody requeues them.",
            ),
            outbox_oldest_seconds: registry.gauge(
                "caracal_api_outbox_oldest_pending_age_seconds",
                "Age of the oldest message that is not published, in seconds.",
            ),
        }
    }
}
