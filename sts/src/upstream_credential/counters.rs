//! How often are credentials fetched, and what became of it?

use caracal_chassis::metrics::Registry;
use prometheus::IntCounter;

/// Counts of fetches, for the whole process.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    pub(super) fetched: IntCounter,
    pub(super) failed: IntCounter,
    pub(super) shared: IntCounter,
    pub(super) leased: IntCounter,
    pub(super) waited: IntCounter,
    pub(super) errors: IntCounter,
    pub(super) circuit_open: IntCounter,
}

impl Counters {
    /// Registers the counters under `name`s.
    pub(crate) fn new(registry: &Registry, name: impl Fn(&str) -> String) -> Self {
        let counter = |short: &str, help: &str| registry.counter(&name(short), help);
        let fetches = registry.counter_vec(
            &name("upstream_credentials_total"),
            "Fetches of upstream credentials by outcome.",
            &["outcome"],
        );
        Self {
            fetched: fetches.with_label_values(&["fetched"]),
            failed: fetches.with_label_values(&["failed"]),
            shared: counter(
                "provider_refresh_shared_total",
                "Exchanges that waited for a fetch another one had started here.",
            ),
            leased: counter(
                "provider_refresh_leased_total",
                "Refreshes of connected accounts this replica made.",
            ),
            waited: counter(
                "provider_refresh_waited_total",
                "Fetches that waited for a refresh another replica made.",
            ),
            errors: counter(
                "provider_refresh_errors_total",
                "Refreshes of connected accounts that failed.",
            ),
            circuit_open: counter(
                "provider_circuit_open_total",
                "Times a provider was left alone after repeated failures.",
            ),
        }
    }
}
