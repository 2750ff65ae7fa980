//! What can be set? The names are those of docs/operating/configuration.md.

use std::net::SocketAddr;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Secret;
use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::config::Reader;
use caracal_chassis::health::MetricsAccess;
use caracal_token::dpop::Target;

/// Checked settings of the coordinator.
#[derive(Debug)]
pub struct Config {
    /// `REDIS_URL`: where the event streams are.
    pub redis_url: Secret,
    pub(crate) database_url: Secret,
    pub(crate) listen: SocketAddr,
    pub(crate) body_bytes_max: usize,
    pub(crate) sts_url: String,
    pub(crate) issuer: String,
    /// The scope a mandate needs here.
    pub(crate) required_scope: String,
    pub(crate) operator_token: Option<Secret>,
    /// By which URLs clients reach this service; empty: by whatever host they ask for.
    pub(crate) public_urls: Vec<String>,
    /// TLS terminators that say which certificate a client has shown.
    pub(crate) certificate_proxies: AddressRanges,
    pub(crate) streams_key: Option<HmacKey>,
    pub(crate) streams_key_previous: Option<HmacKey>,
    pub(crate) audit_key: Option<HmacKey>,
    pub(crate) idempotency: IdempotencyKeys,
    pub(crate) limits: SessionLimits,
    pub(crate) metrics: MetricsAccess,
    pub(crate) expiry_sweep: Duration,
}

/// Keys under which idempotency keys are stored, and how long and how many.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKeys {
    pub(crate) current: HmacKey,
    pub(crate) previous: Option<HmacKey>,
    pub(crate) keep_seconds: i64,
    pub(crate) keep_generated_seconds: i64,
    pub(crate) receipts_max: i64,
}

/// How many sessions there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    pub(crate) per_zone: i64,
    pub(crate) per_application: i64,
    pub(crate) lease_seconds: i32,
}

impl Config {
    /// Reads the settings; mistakes gather in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let streams_key = reader
            .hex_key_outside_dev("STREAMS_HMAC_KEY", 32)
            .map(|key| key_of(&key));
        let idempotency = read_idempotency(reader, streams_key.as_ref());
        Self {
            redis_url: reader.secret("REDIS_URL"),
            database_url: reader.secret("DATABASE_URL"),
            listen: reader.listen_address("PORT", 4000),
            body_bytes_max: usize::try_from(reader.size(
                "COORDINATOR_BODY_LIMIT_BYTES",
                256 << 10,
                1 << 10..=16 << 20,
            ))
            .unwrap_or(256 << 10),
            sts_url: reader.url("STS_URL", &["http"]).trim_end_matches('/').to_owned(),
            issuer: reader.url("ISSUER_URL", &["http", "https"]),
            required_scope: reader.text("AGENT_COORDINATOR_SCOPE", Some("agent:lifecycle")),
            operator_token: reader.optional_secret("CARACAL_COORDINATOR_TOKEN"),
            public_urls: read_public_urls(reader),
            certificate_proxies: reader.believed_ranges("CLIENT_CERT_PROXIES"),
            streams_key,
            streams_key_previous: reader
                .optional_hex_key("STREAMS_HMAC_KEY_PREVIOUS", 32)
                .map(|key| key_of(&key)),
            audit_key: reader
                .optional_hex_key("AUDIT_HMAC_KEY", 32)
                .map(|key| key_of(&key)),
            idempotency,
            limits: SessionLimits {
                per_zone: reader.integer("MAX_AGENTS_PER_ZONE", 50, 1..=1_000_000),
                per_application: reader.integer("MAX_AGENTS_PER_APP", 200, 1..=1_000_000),
                lease_seconds: i32::try_from(reader.integer("SERVICE_AGENT_LEASE_SECONDS", 120, 5..=86_400))
                    .unwrap_or(120),
            },
            metrics: MetricsAccess::read(reader),
            expiry_sweep: reader.milliseconds(
                "TTL_SWEEP_INTERVAL_MS",
                Duration::from_mins(1),
                Duration::from_millis(100)..=Duration::from_hours(1),
            ),
        }
    }
}

/// The key may be left out: it is then derived from the streams' key, which the same process holds.
fn read_idempotency(reader: &mut Reader<'_>, streams_key: Option<&HmacKey>) -> IdempotencyKeys {
    let given = reader
        .optional_hex_key("IDEMPOTENCY_HMAC_KEY", 32)
        .map(|key| key_of(&key));
    let derived = streams_key.map(|key| derive(key.expose()));
    reader.check(
        given.is_some() || derived.is_some() || reader.mode().is_dev(),
        "IDEMPOTENCY_HMAC_KEY",
        "is not set",
        "set 32 random bytes in hex (`caracal keys` prints some), or STREAMS_HMAC_KEY, from which it is derived",
    );
    IdempotencyKeys {
        current: given
            .or(derived)
            .unwrap_or_else(|| HmacKey::new(std::process::id().to_be_bytes())),
        previous: reader
            .optional_hex_key("IDEMPOTENCY_HMAC_KEY_PREVIOUS", 32)
            .map(|key| key_of(&key)),
        keep_seconds: reader.integer("IDEMPOTENCY_RETENTION_SECONDS", 604_800, 3_600..=31_536_000),
        keep_generated_seconds: reader.integer(
            "GENERATED_IDEMPOTENCY_RETENTION_SECONDS",
            86_400,
            3_600..=31_536_000,
        ),
        receipts_max: reader.integer("IDEMPOTENCY_MAX_RECEIPTS_PER_SCOPE", 10_000, 100..=10_000_000),
    }
}

/// HMAC-SHA256 as a one-block key derivation (RFC 5869 expand with an empty counter would add nothing for a 32-byte output).
fn derive(key: &[u8]) -> HmacKey {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    HmacKey::new(aws_lc_rs::hmac::sign(&key, b"caracal/idempotency-hmac-key/v1").as_ref())
}

fn key_of(secret: &Secret<Vec<u8>>) -> HmacKey {
    HmacKey::new(secret.expose().clone())
}

/// By which URLs clients know this service: those they make proofs for.
fn read_public_urls(reader: &mut Reader<'_>) -> Vec<String> {
    const KEY: &str = "COORDINATOR_PUBLIC_URLS";
    let urls = reader.optional_urls(KEY, &["http", "https"]);
    reader.check(
        urls.iter().all(|url| Target::parse(url).is_some()),
        KEY,
        "names an address that no proof can be made for",
        "write it plainly, e.g. https://coordinator.example.com",
    );
    urls
}

#[cfg(test)]
mod tests {
    use caracal_chassis::config::Source;

    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_public_url_that_no_proof_can_name_is_refused() {
        for (urls, is_accepted) in [
            ("https://a.example, http://b.example:4000/coordinator/", true),
            ("https://a.example, https:b.example", false),
            ("https://b\u{fc}cher.example", false),
            ("b.example", false),
        ] {
            let source = Source::from_pairs([("COORDINATOR_PUBLIC_URLS", urls)]);
            let mut reader = Reader::new(&source);
            read_public_urls(&mut reader);
            assert_eq!(reader.finish().is_ok(), is_accepted, "{urls}");
        }
    }

    #[test]
    fn the_sample_file_is_accepted() {
        let sample = include_str!("../../deploy/config/coordinator.toml");
        let source = Source::from_toml_str(sample).unwrap().with_pairs([
            ("DATABASE_URL", "postgres://localhost/x"),
            ("REDIS_URL", "redis://localhost"),
            ("STREAMS_HMAC_KEY", KEY),
            ("AUDIT_HMAC_KEY", KEY),
            ("METRICS_BEARER", KEY),
            ("CARACAL_COORDINATOR_TOKEN", KEY),
            ("IDEMPOTENCY_HMAC_KEY", KEY),
        ]);
        let mut reader = Reader::new(&source);
        // The executable reads these, for every role.
        caracal_chassis::telemetry::Settings::read(&mut reader);
        Config::read(&mut reader);
        assert_eq!(reader.not_shown_in(sample), [""; 0], "every setting is shown");
        reader.finish().unwrap();
    }
}
