//! What did the operator ask of the service? Names, defaults and ranges are in `docs/contract/admin-api.md`, section
//! "Settings".

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Secret;
use caracal_chassis::config::Reader;
use caracal_chassis::health::MetricsAccess;
use caracal_egress::Settings as EgressSettings;
use caracal_storage::PoolLimits;
use caracal_token::envelope::{Kek, KekError, Keyring};
use caracal_wire::gateway_signature;
use url::Url;

/// Shortest HMAC key accepted, in bytes (RFC 2104 section 3: no shorter than the hash).
const HMAC_KEY_BYTES_MIN: usize = 32;
/// Shortest bootstrap token accepted outside of dev, in characters: its digest is stored without a slow hash, so it must
/// not be guessable.
const ADMIN_TOKEN_CHARACTERS_MIN: usize = 32;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The settings of a control service, checked.
#[derive(Debug)]
pub struct Config {
    /// `REDIS_URL`: where the event streams are; `memory:` for the bus in this process.
    pub redis_url: Secret,
    pub(crate) database_url: Secret,
    pub(crate) pool: PoolLimits,
    pub(crate) listen: SocketAddr,
    pub(crate) keyring: Option<Keyring>,
    pub(crate) streams_key: Option<HmacKey>,
    pub(crate) streams_key_previous: Option<HmacKey>,
    pub(crate) audit_key: Option<HmacKey>,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) control_audience: String,
    pub(crate) sts_urls: Vec<Url>,
    pub(crate) gateway_key: Option<HmacKey>,
    pub(crate) resources_per_zone_max: i64,
    pub(crate) requests_per_minute: u64,
    pub(crate) authentication_failures_per_minute: u64,
    pub(crate) readiness_checks_per_minute: u64,
    pub(crate) last_used_debounce_seconds: i64,
    pub(crate) dead_messages_max: i64,
    pub(crate) trust_proxy: bool,
    pub(crate) body_bytes: u64,
    pub(crate) request_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) relay: RelayConfig,
    pub(crate) egress: EgressSettings,
    pub(crate) metrics: MetricsAccess,
}

/// How committed messages are moved to the event streams.
#[derive(Debug)]
pub(crate) struct RelayConfig {
    pub(crate) name: Option<String>,
    pub(crate) poll: Duration,
    pub(crate) batch: u16,
    pub(crate) attempts_max: i32,
}

impl Config {
    /// Reads every setting; what is wrong is recorded in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let audit_key = reader
            .hex_key_outside_dev("AUDIT_HMAC_KEY", HMAC_KEY_BYTES_MIN)
            .map(|key| hmac_key(&key));
        Self {
            redis_url: reader.secret("REDIS_URL"),
            database_url: reader.secret("DATABASE_URL"),
            pool: pool(reader),
            listen: reader.listen_address("PORT", 3000),
            keyring: keyring(reader),
            streams_key: reader
                .hex_key_outside_dev("STREAMS_HMAC_KEY", HMAC_KEY_BYTES_MIN)
                .map(|key| hmac_key(&key)),
            streams_key_previous: reader
                .optional_hex_key("STREAMS_HMAC_KEY_PREVIOUS", HMAC_KEY_BYTES_MIN)
                .map(|key| hmac_key(&key)),
            sts_urls: sts_urls(reader),
            gateway_key: gateway_key(reader, audit_key.as_ref()),
            audit_key,
            admin_token: admin_token(reader),
            control_audience: reader.text("CONTROL_AUDIENCE", Some("caracal-control")),
            resources_per_zone_max: reader.integer("API_MAX_RESOURCES_PER_ZONE", 100_000, 0..=10_000_000),
            requests_per_minute: count(reader, "API_V1_RATE_LIMIT_PER_MIN", 600, 0..=10_000_000),
            authentication_failures_per_minute: count(
                reader,
                "ADMIN_AUTH_FAIL_LIMIT_PER_MIN",
                60,
                0..=1_000_000,
            ),
            readiness_checks_per_minute: count(reader, "READY_RATE_LIMIT_PER_MIN", 120, 0..=1_000_000),
            last_used_debounce_seconds: reader.integer("ADMIN_TOKEN_LAST_USED_DEBOUNCE_SEC", 60, 0..=86_400),
            dead_messages_max: reader.integer("API_READY_OUTBOX_DEAD_MAX", 0, 0..=1_000_000),
            trust_proxy: reader.boolean("TRUST_PROXY", false),
            body_bytes: reader.size("API_BODY_LIMIT_BYTES", 1 << 20, 1 << 10..=1 << 26),
            request_timeout: reader.milliseconds("REQUEST_TIMEOUT_MS", 30 * SECOND, SECOND..=600 * SECOND),
            idle_timeout: reader.milliseconds("KEEP_ALIVE_TIMEOUT_MS", 75 * SECOND, SECOND..=600 * SECOND),
            drain_timeout: reader.milliseconds("SHUTDOWN_GRACE_MS", 15 * SECOND, MILLISECOND..=600 * SECOND),
            relay: RelayConfig {
                name: reader.optional_text("WORKER_ID"),
                poll: reader.milliseconds(
                    "OUTBOX_POLL_MS",
                    250 * MILLISECOND,
                    10 * MILLISECOND..=60 * SECOND,
                ),
                batch: count(reader, "OUTBOX_BATCH_SIZE", 256, 1..=10_000),
                attempts_max: count(reader, "OUTBOX_MAX_ATTEMPTS", 1_000, 1..=1_000_000),
            },
            egress: EgressSettings {
                private_hosts: reader.list("CARACAL_PRIVATE_EGRESS_HOSTS"),
                allow_loopback: reader.insecure_boolean("INSECURE_LOOPBACK_EGRESS"),
                extra_ca_file: reader.optional_path("CARACAL_TLS_EXTRA_CA_FILE"),
            },
            metrics: MetricsAccess::read(reader),
        }
    }
}

/// Where the replicas of the token service are.
fn sts_urls(reader: &mut Reader<'_>) -> Vec<Url> {
    let mut urls = Vec::new();
    for text in reader.list("STS_URL") {
        let url = Url::parse(&text)
            .ok()
            .filter(|url| url.scheme() == "http" && url.host().is_some());
        reader.check(
            url.is_some(),
            "STS_URL",
            format!("has {text:?}, which is no http: URL"),
            "write http://host:port, several with commas between them",
        );
        urls.extend(url);
    }
    urls
}

/// The key that the token service believes questions by; derived from the audit key where none is given, as it does.
fn gateway_key(reader: &mut Reader<'_>, audit_key: Option<&HmacKey>) -> Option<HmacKey> {
    let given = reader.optional_hex_key("GATEWAY_STS_HMAC_KEY", HMAC_KEY_BYTES_MIN);
    let derived = || audit_key.map(|key| HmacKey::new(gateway_signature::derive_key(key.expose())));
    given.map(|key| hmac_key(&key)).or_else(derived)
}

fn pool(reader: &mut Reader<'_>) -> PoolLimits {
    PoolLimits {
        connections_max: count(reader, "DB_POOL_MAX", 20, 1..=1_000),
        acquire_timeout: reader.milliseconds(
            "DB_CONNECTION_TIMEOUT_MS",
            5 * SECOND,
            100 * MILLISECOND..=60 * SECOND,
        ),
        statement_timeout: reader.milliseconds("DB_STATEMENT_TIMEOUT_MS", 15 * SECOND, SECOND..=600 * SECOND),
        idle_in_transaction_timeout: reader.milliseconds(
            "DB_IDLE_IN_TX_TIMEOUT_MS",
            30 * SECOND,
            SECOND..=600 * SECOND,
        ),
        idle_timeout: reader.milliseconds("DB_IDLE_TIMEOUT_MS", 300 * SECOND, SECOND..=3_600 * SECOND),
        ..PoolLimits::default()
    }
}

/// `SECRET_STORE_KEK`, or `ZONE_KEK` where that is what the installation has.
fn keyring(reader: &mut Reader<'_>) -> Option<Keyring> {
    let older_name = reader.optional_secret("ZONE_KEK");
    let (name, current) = match (reader.optional_secret("SECRET_STORE_KEK"), older_name) {
        (Some(current), _) => ("SECRET_STORE_KEK", current),
        (None, Some(current)) => ("ZONE_KEK", current),
        (None, None) => ("SECRET_STORE_KEK", reader.secret("SECRET_STORE_KEK")),
    };
    let previous = reader.optional_secret("SECRET_STORE_KEK_PREVIOUS");
    let current = kek(reader, name, &current);
    let previous = previous.and_then(|text| kek(reader, "SECRET_STORE_KEK_PREVIOUS", &text));
    Some(Keyring::new(current?, previous))
}

fn kek(reader: &mut Reader<'_>, name: &str, text: &Secret) -> Option<Kek> {
    // An absent one is reported already.
    if text.expose().is_empty() {
        return None;
    }
    let kek = Kek::from_hex(text.expose().trim());
    if let Err(fault) = &kek {
        let problem = match fault {
            KekError::Format => "is not 64 hexadecimal digits",
            KekError::Weak => "is a pattern that can be guessed",
        };
        reader.check(
            false,
            name,
            problem,
            "write 32 random bytes in hexadecimal, e.g. from: openssl rand -hex 32",
        );
    }
    kek.ok()
}

fn admin_token(reader: &mut Reader<'_>) -> Option<Secret> {
    let token = reader.optional_secret("CARACAL_ADMIN_TOKEN")?;
    let token = Secret::new(token.expose().trim().to_owned());
    let characters = token.expose().chars().count();
    reader.check(
        reader.mode().is_dev() || characters >= ADMIN_TOKEN_CHARACTERS_MIN,
        "CARACAL_ADMIN_TOKEN",
        format!("has {characters} characters, which can be guessed"),
        "write at least 32 random characters, e.g. from: openssl rand -hex 32",
    );
    (characters > 0).then_some(token)
}

fn hmac_key(key: &Secret<Vec<u8>>) -> HmacKey {
    HmacKey::new(key.expose().clone())
}

fn count<T: TryFrom<i64> + Default>(
    reader: &mut Reader<'_>,
    key: &str,
    default: i64,
    range: RangeInclusive<i64>,
) -> T {
    T::try_from(reader.integer(key, default, range)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use caracal_chassis::config::Source;

    use super::*;

    const KEK: &str = "6f1c0b8a2d7e4953a1f06c2b9d8e7f5031425364758697a8b9cadbecfd0e1f20";
    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn problems(pairs: &[(&str, &str)]) -> String {
        let source = Source::from_pairs(pairs.iter().copied());
        let mut reader = Reader::new(&source);
        Config::read(&mut reader);
        reader
            .finish()
            .map_or_else(|errors| errors.to_string(), |()| String::new())
    }

    #[test]
    fn the_least_that_must_be_set_is_enough() {
        let least = [
            ("DATABASE_URL", "postgres://localhost/x"),
            ("REDIS_URL", "redis://localhost"),
            ("ZONE_KEK", KEK),
            ("STREAMS_HMAC_KEY", KEY),
            ("AUDIT_HMAC_KEY", KEY),
        ];
        assert_eq!(problems(&least), "");
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let report = problems(&[
            ("SECRET_STORE_KEK", &"ab".repeat(32)),
            ("CARACAL_ADMIN_TOKEN", "hunter2"),
            ("API_V1_RATE_LIMIT_PER_MIN", "10abc"),
        ]);
        for key in [
            "DATABASE_URL",
            "REDIS_URL",
            "SECRET_STORE_KEK",
            "STREAMS_HMAC_KEY",
            "AUDIT_HMAC_KEY",
            "CARACAL_ADMIN_TOKEN",
            "API_V1_RATE_LIMIT_PER_MIN",
        ] {
            assert!(report.contains(key), "{key} is missing in: {report}");
        }
        assert!(!report.contains("hunter2"), "a secret leaked into: {report}");
    }

    #[test]
    fn the_sample_file_is_accepted_and_knows_every_setting() {
        let sample = include_str!("../../deploy/config/control.toml");
        let source = Source::from_toml_str(sample).unwrap().with_pairs([
            ("DATABASE_URL", "postgres://localhost/x"),
            ("REDIS_URL", "redis://localhost"),
            ("SECRET_STORE_KEK", KEK),
            ("STREAMS_HMAC_KEY", KEY),
            ("AUDIT_HMAC_KEY", KEY),
            ("CARACAL_ADMIN_TOKEN", KEY),
            ("METRICS_BEARER", KEY),
        ]);
        let mut reader = Reader::new(&source);
        // The executable reads these, for every role.
        caracal_chassis::telemetry::Settings::read(&mut reader);
        Config::read(&mut reader);
        assert_eq!(reader.not_shown_in(sample), [""; 0], "every setting is shown");
        reader.finish().unwrap();
    }
}
