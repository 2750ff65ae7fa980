//! What did the operator ask of the gateway? Names, defaults and ranges are in `docs/contract/gateway.md`, "Settings".

mod acme;
mod doors;
mod reload;
mod routes;
mod tls;
mod trust;
mod upgrade;
mod upstreams;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Secret;
use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::config::{Mode, Reader};
use caracal_chassis::health::MetricsAccess;
use caracal_token::dpop::Target;
use caracal_wire::gateway_signature::derive_key;
use url::{Host, Url};

use crate::snapshot::routes::RouteRule;
pub(crate) use acme::{AcmeSettings, Challenge};
pub(crate) use doors::Doors;
pub(crate) use reload::Reload;
use routes::read_routes;
pub(crate) use tls::{ClientCertificates, PairFiles, TlsSettings};
pub(crate) use trust::ProxyTrust;
pub(crate) use upgrade::Upgrade;
pub(crate) use upstreams::UpstreamSettings;

/// Shortest HMAC key accepted, in bytes (RFC 2104 section 3: no shorter than the hash).
const HMAC_KEY_BYTES_MIN: usize = 32;
/// `REDIS_URL` that stands for the in-process bus.
const MEMORY_BUS: &str = "memory:";

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);

/// The settings of a gateway, checked.
#[derive(Debug)]
pub struct Config {
    /// Address of the bus: a Redis URL, or `memory:` for the in-process bus.
    pub redis_url: Secret,
    pub(crate) address: SocketAddr,
    pub(crate) admin_address: SocketAddr,
    pub(crate) health_on_main: bool,
    pub(crate) doors: Doors,
    pub(crate) upgrade: Option<Upgrade>,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) sts_urls: Vec<String>,
    pub(crate) sts_timeout: Duration,
    pub(crate) sts_key: Option<HmacKey>,
    /// For MACs that spare signature checks.
    pub(crate) mac_key: Option<HmacKey>,
    pub(crate) issuer_url: String,
    pub(crate) stream_key: Option<HmacKey>,
    pub(crate) stream_key_previous: Option<HmacKey>,
    pub(crate) audit_key: Option<HmacKey>,
    pub(crate) audit_dir: PathBuf,
    pub(crate) audit_bytes_max: u64,
    pub(crate) audit_fsync: bool,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) metrics_access: MetricsAccess,
    /// Taken out by the gateway, which may get others while it runs.
    pub(crate) routes: Vec<RouteRule>,
    pub(crate) reload: Reload,
    pub(crate) trust: ProxyTrust,
    /// TLS terminators that say which certificate a client has shown.
    pub(crate) certificate_proxies: AddressRanges,
    /// By which URLs clients reach this gateway; empty: by whatever host they ask for.
    pub(crate) public_urls: Vec<String>,
    pub(crate) upstream_hosts: Vec<String>,
    pub(crate) dns_server: Option<SocketAddr>,
    pub(crate) dns_cache_for: Duration,
    pub(crate) extra_ca_file: Option<PathBuf>,
    pub(crate) revocation_freshness: Duration,
    pub(crate) jti_fail_open: bool,
    pub(crate) request_bytes_max: u64,
    pub(crate) head_bytes_max: usize,
    pub(crate) bearer_bytes_max: usize,
    pub(crate) connections_max: usize,
    pub(crate) upstream_connections_kept: usize,
    pub(crate) upstreams: UpstreamSettings,
    pub(crate) timeouts: Timeouts,
}

/// How long the gateway waits for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// A connection to an upstream, TLS included.
    pub(crate) connect: Duration,
    /// The head of an upstream's answer.
    pub(crate) upstream: Duration,
    /// A request head.
    pub(crate) read_header: Duration,
    /// The next piece of a request body.
    pub(crate) read: Duration,
    /// A client that does not take its answer.
    pub(crate) write: Duration,
    /// The next piece of an upstream's answer.
    pub(crate) stream_idle: Duration,
    /// The next request on a kept connection.
    pub(crate) idle: Duration,
    /// Requests in progress at a shutdown.
    pub(crate) drain: Duration,
}

impl Config {
    /// Reads every setting; what is wrong is recorded in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let sts_urls = read_sts_urls(reader);
        let issuer_url = read_issuer_url(reader, &sts_urls);
        let timeouts = Timeouts::read(reader);
        let sts_timeout = reader.duration("STS_TIMEOUT", 5 * SECOND, Duration::from_millis(50)..=60 * SECOND);
        reader.check(
            timeouts.read > sts_timeout + timeouts.upstream,
            "READ_TIMEOUT",
            "is not longer than STS_TIMEOUT and UPSTREAM_TIMEOUT together",
            "raise READ_TIMEOUT, or lower one of the other two",
        );
        let bytes = |reader: &mut Reader<'_>, key: &str, default: u64, max: u64| {
            usize::try_from(reader.size(key, default, 1_024..=max)).unwrap_or(usize::MAX)
        };
        let (doors, tls) = (Doors::read(reader), TlsSettings::read(reader));
        let acme = tls.as_ref().and_then(|tls| tls.acme.as_ref());
        reader.check(
            acme.is_none_or(|acme| acme.challenge != Challenge::Http01 || doors.plain.is_some()),
            "HTTP_PORT",
            "is not set, and the certificate authority asks there (ACME_CHALLENGE=http-01)",
            "set HTTP_PORT to where port 80 of the names leads, or ACME_CHALLENGE=tls-alpn-01",
        );
        let audit_key = hmac_key(reader.hex_key_outside_dev("AUDIT_HMAC_KEY", HMAC_KEY_BYTES_MIN));
        let sts_key = hmac_key(reader.optional_hex_key("GATEWAY_STS_HMAC_KEY", HMAC_KEY_BYTES_MIN));
        let sts_key = sts_key.or_else(|| audit_key.as_ref().map(derived));
        let stream_key = hmac_key(reader.hex_key_outside_dev("STREAMS_HMAC_KEY", HMAC_KEY_BYTES_MIN));
        let stream_key_previous =
            hmac_key(reader.optional_hex_key("STREAMS_HMAC_KEY_PREVIOUS", HMAC_KEY_BYTES_MIN));
        let others = [
            ("AUDIT_HMAC_KEY", &audit_key),
            ("GATEWAY_STS_HMAC_KEY", &sts_key),
            ("STREAMS_HMAC_KEY", &stream_key),
            ("STREAMS_HMAC_KEY_PREVIOUS", &stream_key_previous),
        ];
        let others = others.map(|(name, key)| (name, key.as_ref().map(HmacKey::expose)));
        let mac_key = reader.optional_own_hex_key("MANDATE_MAC_KEY", HMAC_KEY_BYTES_MIN, &others);
        let redis_url = reader.secret("REDIS_URL");
        Self {
            upgrade: Upgrade::read(reader, is_in_process(&redis_url)),
            redis_url,
            address: reader.listen_address("PORT", 8081),
            admin_address: reader.listen_address("ADMIN_PORT", 8082),
            health_on_main: reader.boolean("ADMIN_ON_MAIN_LISTENER", true),
            doors,
            tls,
            sts_urls,
            sts_timeout,
            mac_key: hmac_key(mac_key),
            sts_key,
            issuer_url,
            stream_key,
            stream_key_previous,
            audit_key,
            audit_dir: reader.path("AUDIT_REPLAY_DIR", Some("/var/lib/caracal/audit-replay")),
            audit_bytes_max: reader.size("AUDIT_SPOOL_BYTES", 1 << 30, 64 << 10..=1 << 40),
            audit_fsync: reader.choice("AUDIT_FSYNC", false, &[("never", false), ("always", true)]),
            admin_token: reader.optional_secret("CARACAL_ADMIN_TOKEN"),
            metrics_access: MetricsAccess::read(reader),
            routes: read_routes(reader),
            reload: Reload::read(reader),
            trust: ProxyTrust::read(reader),
            certificate_proxies: reader.believed_ranges("CLIENT_CERT_PROXIES"),
            public_urls: read_public_urls(reader),
            upstream_hosts: reader.list("UPSTREAM_HOST_ALLOWLIST"),
            dns_server: read_dns_server(reader),
            dns_cache_for: reader.duration("DNS_CACHE_TTL", 5 * SECOND, Duration::ZERO..=300 * SECOND),
            extra_ca_file: reader.optional_path("CARACAL_TLS_EXTRA_CA_FILE"),
            revocation_freshness: reader.duration("REVOCATION_FRESHNESS", 5 * SECOND, SECOND..=600 * SECOND),
            jti_fail_open: reader.insecure_boolean("JTI_FAIL_OPEN"),
            request_bytes_max: reader.size("MAX_REQUEST_BYTES", 10 << 20, 1..=1 << 40),
            head_bytes_max: bytes(reader, "MAX_HEADER_BYTES", 32 << 10, 1_000_000),
            bearer_bytes_max: bytes(reader, "MAX_BEARER_BYTES", 16 << 10, 1_000_000),
            connections_max: read_count(reader, "MAX_CONNECTIONS", 10_000),
            upstream_connections_kept: read_count(reader, "UPSTREAM_CONNECTIONS_KEPT", 200),
            upstreams: UpstreamSettings::read(reader),
            timeouts,
        }
    }

    /// Whether this gateway is the only one: its bus is in the process.
    pub(crate) fn is_alone(&self) -> bool {
        is_in_process(&self.redis_url)
    }
}

impl Timeouts {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut timeout = |key: &str, default_s: u32| {
            reader.duration(key, SECOND * default_s, Duration::from_millis(50)..=DAY)
        };
        Self {
            connect: timeout("CONNECT_TIMEOUT", 5),
            upstream: timeout("UPSTREAM_TIMEOUT", 30),
            read_header: timeout("READ_HEADER_TIMEOUT", 5),
            read: timeout("READ_TIMEOUT", 45),
            write: timeout("WRITE_TIMEOUT", 60),
            stream_idle: timeout("STREAM_IDLE_TIMEOUT", 60),
            idle: timeout("IDLE_TIMEOUT", 120),
            drain: timeout("DRAIN_TIMEOUT", 14),
        }
    }
}

fn is_in_process(redis_url: &Secret) -> bool {
    redis_url.expose().starts_with(MEMORY_BUS)
}

fn hmac_key(secret: Option<Secret<Vec<u8>>>) -> Option<HmacKey> {
    secret.map(|secret| HmacKey::new(secret.expose().clone()))
}

/// The key both sides use when none is configured (docs/contract/wire-formats.md, "Gateway signature").
fn derived(audit_key: &HmacKey) -> HmacKey {
    HmacKey::new(derive_key(audit_key.expose()).to_vec())
}

fn read_count(reader: &mut Reader<'_>, key: &str, default: i64) -> usize {
    usize::try_from(reader.integer(key, default, 1..=1_000_000)).unwrap_or(usize::MAX)
}

/// Where the replicas of the STS are. Outside of dev the exchange may travel in clear only where no stranger can be on the
/// way: to this machine, or to a single-label name as container networks give them.
fn read_sts_urls(reader: &mut Reader<'_>) -> Vec<String> {
    let urls = reader.urls("STS_URL", &["http", "https", "unix"]);
    for url in &urls {
        if let Ok(parsed) = Url::parse(url)
            && parsed.scheme() == "http"
            && reader.mode() != Mode::Dev
        {
            let is_near = match parsed.host() {
                Some(Host::Domain(name)) => !name.contains('.'),
                Some(Host::Ipv4(address)) => address.is_loopback(),
                Some(Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            };
            reader.check(
                is_near,
                "STS_URL",
                "sends mandates in clear to another network",
                "use https, a single-label host name, or a loopback address",
            );
        }
    }
    urls
}

/// Whose mandates are accepted. One STS may go without a name of its own; replicas issue in one name, which is to be told.
fn read_issuer_url(reader: &mut Reader<'_>, sts_urls: &[String]) -> String {
    let default = match sts_urls {
        [only] => Some(only.as_str()),
        _ => None,
    };
    reader.url_or("ISSUER_URL", default, &["http", "https"])
}

/// By which URLs clients know this gateway: those they make proofs for.
fn read_public_urls(reader: &mut Reader<'_>) -> Vec<String> {
    const KEY: &str = "GATEWAY_PUBLIC_URLS";
    let urls = reader.optional_urls(KEY, &["http", "https"]);
    reader.check(
        urls.iter().all(|url| Target::parse(url).is_some()),
        KEY,
        "names an address that no proof can be made for",
        "write it plainly, e.g. https://gateway.example.com",
    );
    urls
}

fn read_dns_server(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let text = reader.optional_text("GATEWAY_DNS_SERVER")?;
    let server = text
        .parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
    reader.check(
        server.is_some(),
        "GATEWAY_DNS_SERVER",
        format!("is {text:?}, not an address"),
        "write e.g. 10.0.0.2 or 10.0.0.2:53",
    );
    server
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use caracal_chassis::config::Source;

    pub(super) fn read(more: &[(&str, &str)]) -> Result<Config, String> {
        let key = "0123456789abcdef".repeat(4);
        let mut settings = vec![
            ("STS_URL", "http://sts:8080"),
            ("REDIS_URL", "redis://redis"),
            ("GATEWAY_STS_HMAC_KEY", key.as_str()),
            ("STREAMS_HMAC_KEY", key.as_str()),
            ("AUDIT_HMAC_KEY", key.as_str()),
        ];
        settings.retain(|(name, _value)| !more.iter().any(|(other, _value)| name == other));
        settings.extend(more);
        let pairs = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let source = Source::from_pairs(pairs);
        let mut reader = Reader::new(&source);
        let config = Config::read(&mut reader);
        reader
            .finish()
            .map(|()| config)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = read(&[]).unwrap();
        assert_eq!((config.address.port(), config.admin_address.port()), (8081, 8082));
        assert_eq!(config.issuer_url, "http://sts:8080");
        assert_eq!(config.sts_timeout, 5 * SECOND);
        assert_eq!(config.request_bytes_max, 10_485_760);
        assert_eq!(config.bearer_bytes_max, 16_384);
        assert_eq!(config.timeouts.stream_idle, 60 * SECOND);
        assert!(!config.is_alone() && !config.jti_fail_open && config.health_on_main);
    }

    #[test]
    fn settings_that_weaken_or_contradict_are_refused() {
        for (settings, key) in [
            (&[("STS_URL", "http://sts.example.com")][..], "STS_URL"),
            (
                &[
                    ("STS_URL", "http://sts,http://sts.example.com"),
                    ("ISSUER_URL", "https://i"),
                ],
                "STS_URL",
            ),
            (&[("STS_URL", "http://sts-a,http://sts-b")], "ISSUER_URL"),
            (&[("STS_URL", " , ")], "STS_URL"),
            (&[("JTI_FAIL_OPEN", "true")], "JTI_FAIL_OPEN"),
            (&[("READ_TIMEOUT", "10s")], "READ_TIMEOUT"),
            (&[("TLS_CERT_FILE", "/a")], "TLS_CERT_FILE"),
            (&[("GATEWAY_STS_HMAC_KEY", "00")], "GATEWAY_STS_HMAC_KEY"),
            (
                &[("TRUST_PROXY", "true"), ("TRUSTED_PROXIES", "10.0.0.0/40")],
                "TRUSTED_PROXIES",
            ),
            (&[("TRUSTED_PROXIES", "10.0.0.0/8")], "TRUSTED_PROXIES"),
            (
                &[("CARACAL_GATEWAY_ROUTES", "crm=resource://crm")],
                "CARACAL_GATEWAY_ROUTES",
            ),
            (&[("GATEWAY_DNS_SERVER", "dns.example")], "GATEWAY_DNS_SERVER"),
            (
                &[("GATEWAY_PUBLIC_URLS", "https://a.example, b.example")],
                "GATEWAY_PUBLIC_URLS",
            ),
            // They are URLs, and are none that a proof could name.
            (
                &[("GATEWAY_PUBLIC_URLS", "https://a.example,https:b.example")],
                "GATEWAY_PUBLIC_URLS",
            ),
            (
                &[("GATEWAY_PUBLIC_URLS", "https://b\u{fc}cher.example")],
                "GATEWAY_PUBLIC_URLS",
            ),
            (&[("CLIENT_CERT_PROXIES", "10.0.0.0/7")], "CLIENT_CERT_PROXIES"),
        ] {
            let errors = read(settings).unwrap_err();
            assert!(errors.contains(key), "{key}: {errors}");
        }
        for url in [
            "http://localhost:8080",
            "http://127.0.0.1",
            "http://[::1]:80",
            "https://sts.example.com",
        ] {
            assert!(read(&[("STS_URL", url)]).is_ok(), "{url}");
        }
    }

    #[test]
    fn the_sample_is_accepted_and_shows_the_defaults() {
        let key = "0123456789abcdef".repeat(4);
        let secrets = [
            ("REDIS_URL", "redis://redis"),
            ("STREAMS_HMAC_KEY", key.as_str()),
            ("AUDIT_HMAC_KEY", key.as_str()),
        ];
        let sample = include_str!("../../deploy/config/gateway.toml");
        let source = Source::from_toml_str(sample).unwrap().with_pairs(secrets);
        let mut reader = Reader::new(&source);
        // The executable reads these, for every role.
        caracal_chassis::telemetry::Settings::read(&mut reader);
        let shown = Config::read(&mut reader);
        assert_eq!(reader.not_shown_in(sample), [""; 0], "every setting is shown");
        reader.finish().unwrap();
        let default = read(&[]).unwrap();
        assert_eq!(shown.address, default.address);
        assert_eq!(shown.admin_address, default.admin_address);
        assert_eq!(format!("{:?}", shown.timeouts), format!("{:?}", default.timeouts));
        assert_eq!(
            (
                shown.request_bytes_max,
                shown.head_bytes_max,
                shown.bearer_bytes_max,
                shown.connections_max
            ),
            (
                default.request_bytes_max,
                default.head_bytes_max,
                default.bearer_bytes_max,
                default.connections_max
            )
        );
        assert_eq!(
            (
                shown.sts_timeout,
                shown.dns_cache_for,
                shown.revocation_freshness,
                shown.audit_bytes_max
            ),
            (
                default.sts_timeout,
                default.dns_cache_for,
                default.revocation_freshness,
                default.audit_bytes_max
            )
        );
        assert!(shown.routes.len() > 2, "the sample shows routes");
    }

    #[test]
    fn the_key_of_macs_is_of_no_other_purpose() {
        let (own, shared) = ("fedcba9876543210".repeat(4), "0123456789abcdef".repeat(4));
        assert!(read(&[("MANDATE_MAC_KEY", &own)]).is_ok());
        for other in ["AUDIT_HMAC_KEY", "GATEWAY_STS_HMAC_KEY", "STREAMS_HMAC_KEY"] {
            let errors = read(&[("MANDATE_MAC_KEY", &shared)]).unwrap_err();
            let told = format!("MANDATE_MAC_KEY: is the same key as {other}");
            assert!(
                errors.contains(&told) && errors.contains("openssl rand"),
                "{errors}"
            );
            assert!(!errors.contains(&shared), "a key is not shown");
        }
        let previous = ("STREAMS_HMAC_KEY_PREVIOUS", own.as_str());
        assert!(read(&[("MANDATE_MAC_KEY", &own), previous]).is_err());
    }

    #[test]
    fn the_key_of_the_exchange_follows_from_the_audit_key() {
        let derived_key = |settings: &[(&str, &str)]| {
            let key = read(settings).unwrap().sts_key.expect("a key");
            hex::encode(key.expose())
        };
        let audit = "0123456789abcdef".repeat(4);
        let expected = hex::encode(derive_key(&hex::decode(&audit).unwrap()));
        assert_eq!(derived_key(&[("GATEWAY_STS_HMAC_KEY", "")]), expected);
        assert_eq!(derived_key(&[]), audit, "a configured key wins");
    }
}
