//! What can be set? The names are those of docs/operating/configuration.md.

use std::net::SocketAddr;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Secret;
use caracal_chassis::config::Reader;
use caracal_chassis::health::MetricsAccess;

use crate::chain::AuditKeys;

/// Checked settings of the audit service.
#[derive(Debug)]
pub struct Config {
    /// `REDIS_URL`: where the event stream is.
    pub redis_url: Secret,
    pub(crate) database_url: Secret,
    pub(crate) listen: SocketAddr,
    pub(crate) audit_keys: AuditKeys,
    pub(crate) streams_key: Option<HmacKey>,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) metrics: MetricsAccess,
    pub(crate) consumer: String,
    pub(crate) claim_idle: Duration,
}

impl Config {
    /// Reads the settings; mistakes gather in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let host = reader.text("HOSTNAME", Some("audit-worker-0"));
        let current = reader.hex_key_outside_dev("AUDIT_HMAC_KEY", 32);
        let previous = reader.optional_hex_key("AUDIT_HMAC_KEY_PREVIOUS", 32);
        Self {
            redis_url: reader.secret("REDIS_URL"),
            database_url: reader.secret("DATABASE_URL"),
            listen: reader.listen_address("PORT", 9090),
            audit_keys: AuditKeys::new(current.map(key), previous.map(key)),
            streams_key: reader.hex_key_outside_dev("STREAMS_HMAC_KEY", 32).map(key),
            admin_token: reader.optional_secret("AUDIT_ADMIN_TOKEN"),
            metrics: MetricsAccess::read(reader),
            consumer: format!("{host}-{}", std::process::id()),
            claim_idle: reader.seconds(
                "AUDIT_CLAIM_IDLE_SECS",
                Duration::from_secs(30),
                Duration::from_secs(1)..=Duration::from_hours(1),
            ),
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the secret's other copy is wiped here"
)]
fn key(secret: Secret<Vec<u8>>) -> HmacKey {
    HmacKey::new(secret.expose().clone())
}

#[cfg(test)]
mod tests {
    use caracal_chassis::config::Source;

    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn the_sample_file_is_accepted() {
        let sample = include_str!("../../deploy/config/audit.toml");
        let source = Source::from_toml_str(sample).unwrap().with_pairs([
            ("DATABASE_URL", "postgres://localhost/x"),
            ("REDIS_URL", "redis://localhost"),
            ("STREAMS_HMAC_KEY", KEY),
            ("AUDIT_HMAC_KEY", KEY),
            ("METRICS_BEARER", KEY),
            ("AUDIT_ADMIN_TOKEN", KEY),
        ]);
        let mut reader = Reader::new(&source);
        // The executable reads these, for every role.
        caracal_chassis::telemetry::Settings::read(&mut reader);
        Config::read(&mut reader);
        assert_eq!(reader.not_shown_in(sample), [""; 0], "every setting is shown");
        reader.finish().unwrap();
    }
}
