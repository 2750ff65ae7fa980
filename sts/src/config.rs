//! What did the operator ask of the service? Names, defaults and ranges are in `docs/contract/token-exchange.md`, section
//! "Settings".

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_bus::spool::{Fsync, SpoolLimits};
use caracal_chassis::Secret;
use caracal_chassis::config::Reader;
use caracal_chassis::health::MetricsAccess;
use caracal_egress::Settings as EgressSettings;
use caracal_token::dpop::Target;
use caracal_token::envelope::{Kek, KekError, Keyring};
use caracal_wire::gateway_signature;

use crate::state::{MacKeys, Settings};

/// Shortest HMAC key accepted, in bytes (RFC 2104 section 3: no shorter than the hash).
const HMAC_KEY_BYTES_MIN: usize = 32;

const SECOND: Duration = Duration::from_secs(1);

/// The settings of a security token service, checked.
#[derive(Debug)]
pub struct Config {
    /// `REDIS_URL`: where the event streams are; `memory:` for the bus in this process.
    pub redis_url: Secret,
    pub(crate) database_url: Secret,
    pub(crate) database_connections_max: u32,
    pub(crate) database_acquire_timeout: Duration,
    pub(crate) listen: SocketAddr,
    pub(crate) issuer: String,
    pub(crate) keyring: Option<Keyring>,
    pub(crate) streams_key: Option<HmacKey>,
    pub(crate) streams_key_previous: Option<HmacKey>,
    pub(crate) audit_key: Option<HmacKey>,
    pub(crate) gateway_key: Option<HmacKey>,
    pub(crate) macs: Option<Box<MacKeys>>,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) spool_directory: PathBuf,
    pub(crate) spool_limits: SpoolLimits,
    pub(crate) spool_fsync: Fsync,
    pub(crate) secret_verifications: usize,
    pub(crate) zone_poll: Duration,
    pub(crate) zone_outdated_max: Duration,
    pub(crate) session_views_max: u64,
    pub(crate) minted_tokens_max: u64,
    pub(crate) nonces_max: usize,
    pub(crate) denial_events_per_minute: u32,
    pub(crate) policy_evaluations: usize,
    pub(crate) policy_evaluations_waiting_max: usize,
    pub(crate) egress: EgressSettings,
    /// The longest a provider's token is used, in seconds.
    pub(crate) provider_ttl_max: i64,
    pub(crate) approval_waiters_max: usize,
    pub(crate) settings: Settings,
    pub(crate) metrics: MetricsAccess,
}

impl Config {
    /// Reads every setting; what is wrong is recorded in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let streams_key = reader
            .hex_key_outside_dev("STREAMS_HMAC_KEY", HMAC_KEY_BYTES_MIN)
            .map(|key| hmac_key(&key));
        let audit_key = reader
            .hex_key_outside_dev("AUDIT_HMAC_KEY", HMAC_KEY_BYTES_MIN)
            .map(|key| hmac_key(&key));
        let gateway_key = reader.optional_hex_key("GATEWAY_STS_HMAC_KEY", HMAC_KEY_BYTES_MIN);
        let derived = || {
            audit_key
                .as_ref()
                .map(|key| HmacKey::new(gateway_signature::derive_key(key.expose())))
        };
        let gateway_key = gateway_key.map(|key| hmac_key(&key)).or_else(derived);
        let streams_key_previous = reader
            .optional_hex_key("STREAMS_HMAC_KEY_PREVIOUS", HMAC_KEY_BYTES_MIN)
            .map(|key| hmac_key(&key));
        let others = [
            ("AUDIT_HMAC_KEY", &audit_key),
            ("GATEWAY_STS_HMAC_KEY", &gateway_key),
            ("STREAMS_HMAC_KEY", &streams_key),
            ("STREAMS_HMAC_KEY_PREVIOUS", &streams_key_previous),
        ];
        let others = others.map(|(name, key)| (name, key.as_ref().map(HmacKey::expose)));
        let mac_key = reader.optional_own_hex_key("MANDATE_MAC_KEY", HMAC_KEY_BYTES_MIN, &others);
        let total_bytes = reader.size("AUDIT_SPOOL_BYTES", 1 << 30, 1 << 20..=1 << 40);
        Self {
            redis_url: reader.secret("REDIS_URL"),
            database_url: reader.secret("DATABASE_URL"),
            database_connections_max: count(reader, "DB_MAX_CONNS", 20, 1..=1_000),
            database_acquire_timeout: reader.duration(
                "DB_CONNECT_TIMEOUT",
                10 * SECOND,
                SECOND / 10..=60 * SECOND,
            ),
            listen: reader.listen_address("PORT", 8080),
            issuer: issuer(reader),
            keyring: keyring(reader),
            streams_key,
            streams_key_previous,
            gateway_key,
            macs: mac_key.map(|key| Box::new(MacKeys::derive(key.expose()))),
            audit_key,
            admin_token: reader.optional_secret("STS_ADMIN_TOKEN"),
            spool_directory: spool_directory(reader),
            spool_limits: SpoolLimits {
                segment_bytes: (total_bytes / 8).clamp(1 << 16, 1 << 24),
                total_bytes,
            },
            spool_fsync: reader.choice(
                "AUDIT_FSYNC",
                Fsync::Never,
                &[("never", Fsync::Never), ("always", Fsync::Always)],
            ),
            secret_verifications: count(reader, "STS_SECRET_VERIFY_CONCURRENCY", 2, 1..=64),
            zone_poll: reader.seconds("OPA_POLL_SECONDS", 60 * SECOND, SECOND..=300 * SECOND),
            zone_outdated_max: reader.duration("ZONE_STALENESS_MAX", 30 * SECOND, SECOND..=3_600 * SECOND),
            session_views_max: count(reader, "STS_SESSION_VIEWS_MAX", 100_000, 1_000..=10_000_000),
            minted_tokens_max: count(reader, "STS_MINTED_TOKENS_MAX", 20_000, 1_000..=10_000_000),
            nonces_max: count(reader, "STS_NONCES_MAX", 2_000_000, 10_000..=100_000_000),
            denial_events_per_minute: count(reader, "STS_DENIAL_EVENTS_PER_MIN", 120, 1..=1_000_000),
            policy_evaluations: count(reader, "STS_POLICY_EVALUATIONS", 4, 1..=256),
            policy_evaluations_waiting_max: count(
                reader,
                "STS_POLICY_EVALUATIONS_WAITING_MAX",
                1_000,
                1..=100_000,
            ),
            egress: egress(reader),
            provider_ttl_max: reader.integer("MAX_GRANT_TTL_SECONDS", 3_600, 60..=86_400),
            approval_waiters_max: count(reader, "STS_APPROVAL_WAITERS_MAX", 1_000, 1..=100_000),
            settings: Settings {
                upstream_credential_wait: reader.duration(
                    "UPSTREAM_CREDENTIAL_WAIT",
                    4 * SECOND,
                    SECOND / 20..=9 * SECOND,
                ),
                revocation_freshness: reader.duration(
                    "REVOCATION_FRESHNESS",
                    5 * SECOND,
                    SECOND..=600 * SECOND,
                ),
                demands_proof_nonce: reader.boolean("DPOP_NONCE_REQUIRED", false),
                certificate_proxies: reader.believed_ranges("CLIENT_CERT_PROXIES"),
                ambient_at_gateway: reader.boolean("AMBIENT_AT_GATEWAY", true),
                mints_per_minute: count(reader, "STS_MINT_RATE_LIMIT_PER_MIN", 1_000, 1..=10_000_000),
                token_management_per_minute: count(
                    reader,
                    "STS_TOKEN_MANAGEMENT_PER_MIN",
                    6_000,
                    1..=10_000_000,
                ),
                policy_questions_per_minute: count(reader, "STS_POLICY_QUESTIONS_PER_MIN", 0, 0..=10_000_000),
                control_audience: reader.text("CONTROL_AUDIENCE", Some("caracal-control")),
            },
            metrics: MetricsAccess::read(reader),
        }
    }
}

/// Which providers may be called.
fn egress(reader: &mut Reader<'_>) -> EgressSettings {
    EgressSettings {
        private_hosts: reader.list("CARACAL_PRIVATE_EGRESS_HOSTS"),
        allow_loopback: reader.insecure_boolean("INSECURE_LOOPBACK_EGRESS"),
        extra_ca_file: reader.optional_path("CARACAL_TLS_EXTRA_CA_FILE"),
    }
}

/// `SECRET_STORE_KEK`, or `ZONE_KEK` where that is what the installation has.
fn keyring(reader: &mut Reader<'_>) -> Option<Keyring> {
    let has_newer_name = reader.optional_text("SECRET_STORE_KEK").is_some()
        || reader.optional_text("SECRET_STORE_KEK_FILE").is_some();
    let current = match reader.optional_secret("ZONE_KEK") {
        Some(current) if !has_newer_name => ("ZONE_KEK", current),
        _ => ("SECRET_STORE_KEK", reader.secret("SECRET_STORE_KEK")),
    };
    let previous = reader.optional_secret("SECRET_STORE_KEK_PREVIOUS");
    let current = kek(reader, current.0, &current.1);
    let previous = previous.and_then(|text| kek(reader, "SECRET_STORE_KEK_PREVIOUS", &text));
    Some(Keyring::new(current?, previous))
}

fn kek(reader: &mut Reader<'_>, name: &str, text: &Secret) -> Option<Kek> {
    // An absent one is reported already.
    if text.expose().is_empty() {
        return None;
    }
    let kek = Kek::from_hex(text.expose().trim());
    if let Err(problem) = &kek {
        let problem = match problem {
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

fn spool_directory(reader: &mut Reader<'_>) -> PathBuf {
    let other_name = reader.optional_path("SPOOL_DIR");
    let directory = reader.optional_path("AUDIT_REPLAY_DIR").or(other_name);
    directory.unwrap_or_else(|| PathBuf::from("/var/lib/caracal/audit-replay"))
}

fn hmac_key(key: &Secret<Vec<u8>>) -> HmacKey {
    HmacKey::new(key.expose().clone())
}

fn count<T: TryFrom<i64> + Default>(
    reader: &mut Reader<'_>,
    key: &str,
    default: i64,
    range: std::ops::RangeInclusive<i64>,
) -> T {
    T::try_from(reader.integer(key, default, range)).unwrap_or_default()
}

/// The name tokens are issued in, under which clients know this service: proofs are made for it.
fn issuer(reader: &mut Reader<'_>) -> String {
    const KEY: &str = "ISSUER_URL";
    let url = reader.url(KEY, &["http", "https"]);
    reader.check(
        url.is_empty() || Target::parse(&url).is_some(),
        KEY,
        "is an address that no proof can be made for",
        "write it plainly, e.g. https://sts.example.com",
    );
    url
}

#[cfg(test)]
mod tests {
    use caracal_chassis::config::Source;

    use super::*;

    const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";
    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn source(more: &[(&str, &str)]) -> Source {
        let necessary = [
            ("DATABASE_URL", "postgres://sts@localhost/caracal"),
            ("REDIS_URL", "redis://localhost"),
            ("ISSUER_URL", "https://sts.example.com"),
            ("STREAMS_HMAC_KEY", KEY),
            ("AUDIT_HMAC_KEY", KEY),
        ];
        Source::from_pairs(
            necessary
                .iter()
                .chain(more)
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
    }

    fn read(more: &[(&str, &str)]) -> Result<Config, String> {
        let source = source(more);
        let mut reader = Reader::new(&source);
        let config = Config::read(&mut reader);
        reader.finish().map_err(|errors| errors.to_string())?;
        Ok(config)
    }

    #[test]
    fn the_key_encryption_key_has_two_names() {
        for name in ["SECRET_STORE_KEK", "ZONE_KEK"] {
            assert!(read(&[(name, KEK)]).unwrap().keyring.is_some(), "{name}");
        }
        assert!(read(&[]).unwrap_err().contains("SECRET_STORE_KEK"));
    }

    #[test]
    fn an_issuer_that_no_proof_can_name_is_refused() {
        for url in ["https:sts.example.com", "https://b\u{fc}cher.example"] {
            let errors = read(&[("ISSUER_URL", url), ("ZONE_KEK", KEK)]).unwrap_err();
            assert!(errors.contains("ISSUER_URL"), "{url}: {errors}");
        }
    }

    #[test]
    fn a_guessable_key_encryption_key_is_refused() {
        let zeros = "0".repeat(64);
        assert!(
            read(&[("SECRET_STORE_KEK", &zeros)])
                .unwrap_err()
                .contains("guessed")
        );
        assert!(
            read(&[("SECRET_STORE_KEK", "xyz")])
                .unwrap_err()
                .contains("hexadecimal")
        );
    }

    #[test]
    fn the_gateway_key_is_derived_when_none_is_given() {
        let derived = read(&[("ZONE_KEK", KEK)]).unwrap().gateway_key.unwrap();
        assert_eq!(
            derived.expose(),
            gateway_signature::derive_key(&hex::decode(KEY).unwrap())
        );
        let given = read(&[("ZONE_KEK", KEK), ("GATEWAY_STS_HMAC_KEY", KEK)])
            .unwrap()
            .gateway_key
            .unwrap();
        assert_eq!(hex::encode(given.expose()), KEK);
    }

    #[test]
    fn the_key_of_macs_is_of_no_other_purpose() {
        let derived = hex::encode(gateway_signature::derive_key(&hex::decode(KEY).unwrap()));
        for (mac_key, other) in [
            (KEY, "AUDIT_HMAC_KEY"),
            (KEY, "STREAMS_HMAC_KEY"),
            (&KEY.to_uppercase(), "STREAMS_HMAC_KEY"),
            (&derived, "GATEWAY_STS_HMAC_KEY"),
        ] {
            let errors = read(&[("ZONE_KEK", KEK), ("MANDATE_MAC_KEY", mac_key)]).unwrap_err();
            assert!(
                errors.contains(&format!("MANDATE_MAC_KEY: is the same key as {other}")),
                "{errors}"
            );
            assert!(!errors.contains(mac_key), "a key is not shown");
        }
        for other in ["GATEWAY_STS_HMAC_KEY", "STREAMS_HMAC_KEY_PREVIOUS"] {
            let errors = read(&[("ZONE_KEK", KEK), ("MANDATE_MAC_KEY", KEK), (other, KEK)]).unwrap_err();
            assert!(errors.contains(other), "{errors}");
        }
        assert!(read(&[("ZONE_KEK", KEK), ("MANDATE_MAC_KEY", KEK)]).is_ok());
    }

    #[test]
    fn the_sample_configuration_is_valid_but_for_the_secrets_it_names() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/sts.toml");
        let source = Source::from_env_and_file(Some(std::path::Path::new(path))).unwrap();
        let mut reader = Reader::new(&source);
        // The executable reads these, for every role.
        caracal_chassis::telemetry::Settings::read(&mut reader);
        drop(Config::read(&mut reader));
        let sample = std::fs::read_to_string(path).unwrap();
        assert_eq!(reader.not_shown_in(&sample), [""; 0], "every setting is shown");
        let errors = reader.finish().unwrap_err().to_string();
        let unexpected: Vec<&str> = errors
            .lines()
            .filter(|line| !line.contains("/run/secrets/"))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}
