//! What does a request need? Every dependency as a field; nothing global.

use std::sync::Arc;

use caracal_bus::{Bus, HmacKey, SingleUse};
use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::{Clock, Secret};
use caracal_storage::Database;

use crate::Config;
use crate::config::{IdempotencyKeys, SessionLimits};
use crate::jwks::KeySets;

/// The service's dependencies.
pub(crate) struct Coordinator {
    pub(crate) database: Database,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Clock,
    pub(crate) keys: Arc<KeySets>,
    pub(crate) issuer: String,
    pub(crate) required_scope: String,
    pub(crate) operator_token: Option<Secret>,
    pub(crate) public_urls: Vec<String>,
    pub(crate) certificate_proxies: AddressRanges,
    /// The proofs of possession that were used.
    pub(crate) single_use: SingleUse,
    pub(crate) audit_key: Option<HmacKey>,
    pub(crate) idempotency: IdempotencyKeys,
    pub(crate) limits: SessionLimits,
    pub(crate) metrics: caracal_chassis::health::MetricsAccess,
    pub(crate) expiry_sweep: std::time::Duration,
    pub(crate) body_bytes_max: usize,
}

impl Coordinator {
    pub(crate) fn new(config: Config, database: Database, bus: Arc<dyn Bus>, clock: Clock) -> Self {
        Self {
            database,
            single_use: SingleUse::new(Arc::clone(&bus)),
            bus,
            keys: Arc::new(KeySets::new(
                Client::new(ClientLimits::default()),
                config.sts_url,
                clock.clone(),
            )),
            clock,
            issuer: config.issuer,
            required_scope: config.required_scope,
            operator_token: config.operator_token,
            public_urls: config.public_urls,
            certificate_proxies: config.certificate_proxies,
            audit_key: config.audit_key,
            idempotency: config.idempotency,
            limits: config.limits,
            metrics: config.metrics,
            expiry_sweep: config.expiry_sweep,
            body_bytes_max: config.body_bytes_max,
        }
    }
}
