//! What is measured while the configuration of a zone is read and understood?

use caracal_chassis::metrics::Registry;
use prometheus::{Histogram, IntCounter};

/// Measures of loading zones. Nothing of it happens on the path of a request.
#[derive(Debug, Clone)]
pub(crate) struct Loading {
    /// Reading the rows and building the model.
    pub(crate) seconds: Histogram,
    /// Policies.
    pub(crate) compiling: Compiling,
    /// Signing keys that could not be opened.
    pub(crate) keys_invalid: IntCounter,
    /// Secrets of providers that were read.
    pub(crate) secrets_read: IntCounter,
    /// Providers whose secrets could not be opened.
    pub(crate) secrets_sealed: IntCounter,
}

/// Measures of compiling policies.
#[derive(Debug, Clone)]
pub(crate) struct Compiling {
    pub(crate) seconds: Histogram,
    pub(crate) errors: IntCounter,
}

impl Loading {
    /// Registers the measures under `name`s.
    pub(crate) fn new(registry: &Registry, name: impl Fn(&str) -> String) -> Self {
        let counter = |short: &str, help: &str| registry.counter(&name(short), help);
        Self {
            seconds: registry.histogram(
                &name("zone_load_seconds"),
                "Time to read the configuration of a zone and to build what decides from it.",
            ),
            compiling: Compiling {
                seconds: registry.histogram(
                    &name("policy_compile_seconds"),
                    "Time to check and compile one policy set version, usable or not.",
                ),
                errors: counter(
                    "opa_compile_errors_total",
                    "Policy set versions that could not be used when they were loaded.",
                ),
            },
            keys_invalid: counter(
                "jwks_invalid_keys_total",
                "Signing keys that could not be opened when their zone was loaded.",
            ),
            secrets_read: counter(
                "secret_backend_reads_total",
                "Secrets of providers read from the built-in store when their zone was loaded.",
            ),
            secrets_sealed: counter(
                "secret_backend_errors_total",
                "Providers whose secrets could not be opened when their zone was loaded.",
            ),
        }
    }
}

impl Compiling {
    /// Runs a compilation and notes how long it took and whether it failed.
    pub(super) fn time<T, E>(&self, compile: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let timer = self.seconds.start_timer();
        let compiled = compile();
        timer.observe_duration();
        if compiled.is_err() {
            self.errors.inc();
        }
        compiled
    }
}
