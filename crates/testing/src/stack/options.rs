//! What does a test want of its stack?

use super::Settings;

/// A role of the product that runs as a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Admits and forwards.
    Gateway,
    /// Mints.
    Sts,
    /// Configures.
    Control,
    /// Coordinates sessions and delegations.
    Coordinator,
    /// Keeps the evidence.
    Audit,
}

impl Service {
    /// The word after `caracal`.
    pub fn subcommand(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Sts => "sts",
            Self::Control => "control",
            Self::Coordinator => "coordinator",
            Self::Audit => "audit",
        }
    }
}

/// How many of what, and with which settings beside those a stack needs.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// How many gateways.
    pub gateways: usize,
    /// How many token services. Every gateway calls all of them; with `faults`, the first.
    pub sts_replicas: usize,
    /// Whether the services share a Redis; without, `REDIS_URL` is `memory:`.
    pub redis: bool,
    /// Whether proxies stand before PostgreSQL, Redis and the first token service.
    pub faults: bool,
    /// `CARACAL_MODE`. Stable, so that tests run under the strict rules.
    pub mode: &'static str,
    /// Settings beside those a stack needs, for one service or all; see [`StackOptions::set`].
    pub settings: Vec<(Option<Service>, String, String)>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            gateways: 1,
            sts_replicas: 1,
            redis: true,
            faults: false,
            mode: "stable",
            settings: Vec::new(),
        }
    }
}

impl StackOptions {
    /// Adds a setting for every service. It wins over what the stack sets itself.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((None, name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a setting for one service.
    #[must_use]
    pub fn set_for(mut self, service: Service, name: &str, value: &str) -> Self {
        self.settings
            .push((Some(service), name.to_owned(), value.to_owned()));
        self
    }

    /// The settings for `service`.
    pub(super) fn settings(&self, service: Service) -> Settings {
        let chosen = self
            .settings
            .iter()
            .filter(|(only, ..)| only.is_none_or(|only| only == service));
        chosen
            .map(|(_, name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
