//! How does the gateway speak to upstreams? (docs/contract/gateway-upstreams.md)

use std::net::SocketAddr;
use std::time::Duration;

use caracal_chassis::config::Reader;
use caracal_egress::Target;

use super::SECOND;
use crate::upstream::{EjectionRules, IdentityFiles};

/// How connections to upstreams are made.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSettings {
    /// Whether HTTP/2 is offered to upstreams that speak TLS.
    pub(crate) http2: bool,
    /// How often an HTTP/2 upstream with something open is asked whether it is there.
    pub(crate) http2_ping: Duration,
    h2c_hosts: Vec<HostAndPort>,
    /// When an address is left alone.
    pub(crate) ejection: EjectionRules,
    /// The certificate shown to upstreams that ask.
    pub(crate) identity: Option<IdentityFiles>,
}

impl UpstreamSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let hosts = reader.list("UPSTREAM_H2C_HOSTS");
        let h2c_hosts: Vec<_> = hosts.iter().filter_map(|host| HostAndPort::parse(host)).collect();
        reader.check(
            h2c_hosts.len() == hosts.len(),
            "UPSTREAM_H2C_HOSTS",
            "names something that is neither a host nor a host with a port",
            "write e.g. grpc.internal:50051, without a scheme",
        );
        let failures = reader.integer("UPSTREAM_EJECT_AFTER", 5, 0..=1_000);
        let ejection = EjectionRules {
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            first: reader.duration("UPSTREAM_EJECT_TIME", 10 * SECOND, SECOND..=3_600 * SECOND),
            longest: reader.duration("UPSTREAM_EJECT_TIME_MAX", 300 * SECOND, SECOND..=3_600 * SECOND),
        };
        reader.check(
            ejection.first <= ejection.longest,
            "UPSTREAM_EJECT_TIME",
            "is longer than UPSTREAM_EJECT_TIME_MAX",
            "raise UPSTREAM_EJECT_TIME_MAX, or lower UPSTREAM_EJECT_TIME",
        );
        Self {
            ejection,
            identity: read_identity(reader),
            http2: reader.boolean("UPSTREAM_HTTP2", true),
            http2_ping: reader.duration("UPSTREAM_HTTP2_PING", 15 * SECOND, SECOND..=3_600 * SECOND),
            h2c_hosts,
        }
    }

    /// Whether an upstream in clear speaks HTTP/2 from the first byte: its host is listed, or its host and port.
    pub(crate) fn speaks_h2c(&self, target: &Target) -> bool {
        let port = target.addresses().first().map(SocketAddr::port);
        let is_meant = |listed: &HostAndPort| {
            listed.host == target.host() && (listed.port.is_none() || listed.port == port)
        };
        !target.is_tls() && self.h2c_hosts.iter().any(is_meant)
    }
}

/// A host, at one port or at any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostAndPort {
    /// In lower case, an address of IPv6 without brackets.
    host: String,
    port: Option<u16>,
}

impl HostAndPort {
    fn parse(text: &str) -> Option<Self> {
        let authority: http::uri::Authority = text.parse().ok()?;
        let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.');
        let is_whole = !text.contains(['/', '@']) && !host.is_empty() && !text.ends_with(':');
        is_whole.then(|| Self {
            host: host.to_ascii_lowercase(),
            port: authority.port_u16(),
        })
    }
}

fn read_identity(reader: &mut Reader<'_>) -> Option<IdentityFiles> {
    let certificate = reader.optional_path("UPSTREAM_CLIENT_CERT_FILE");
    let key = reader.optional_path("UPSTREAM_CLIENT_KEY_FILE");
    let hosts = reader.list("UPSTREAM_CLIENT_CERT_HOSTS");
    let (has_certificate, has_key) = (certificate.is_some(), key.is_some());
    reader.check(
        has_certificate == has_key && has_key != hosts.is_empty(),
        "UPSTREAM_CLIENT_CERT_FILE",
        "belongs together with UPSTREAM_CLIENT_KEY_FILE and UPSTREAM_CLIENT_CERT_HOSTS, and one of them is missing",
        "set all three, or none",
    );
    Some(IdentityFiles {
        certificate: certificate?,
        key: key?,
        hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use caracal_egress::{Guard, SystemResolver};

    use crate::config::tests::read;

    #[test]
    fn a_certificate_for_upstreams_has_a_key_and_says_who_may_see_it() {
        let (certificate, key, hosts) = (
            ("UPSTREAM_CLIENT_CERT_FILE", "/a.pem"),
            ("UPSTREAM_CLIENT_KEY_FILE", "/a.key"),
            ("UPSTREAM_CLIENT_CERT_HOSTS", "A.internal"),
        );
        for wrong in [
            &[certificate][..],
            &[key],
            &[hosts],
            &[certificate, key],
            &[certificate, hosts],
            &[key, hosts],
        ] {
            let errors = read(wrong).unwrap_err();
            assert!(
                errors.contains("UPSTREAM_CLIENT_CERT_FILE"),
                "{wrong:?}: {errors}"
            );
        }
        let identity = read(&[certificate, key, hosts]).unwrap().upstreams.identity;
        assert_eq!(identity.unwrap().hosts, ["a.internal"]);
    }

    #[test]
    fn hosts_are_not_urls() {
        for wrong in ["http://a", "a/b", "a b", ":80"] {
            let errors = read(&[("UPSTREAM_H2C_HOSTS", wrong)]).unwrap_err();
            assert!(errors.contains("UPSTREAM_H2C_HOSTS"), "{wrong}: {errors}");
        }
        for right in ["a", "a.internal:50051,b", "10.0.0.1:80", "[::1]:80"] {
            assert!(read(&[("UPSTREAM_H2C_HOSTS", right)]).is_ok(), "{right}");
        }
    }

    #[tokio::test]
    async fn a_listed_host_is_meant_at_every_port_and_with_a_port_at_that_one() {
        for (listed, url, is_meant) in [
            ("10.0.0.1", "http://10.0.0.1:50051", true),
            ("10.0.0.1:80", "http://10.0.0.1", true),
            ("10.0.0.1:80", "http://10.0.0.1:80/x", true),
            ("10.0.0.1:81", "http://10.0.0.1", false),
            ("10.0.0.1:81", "http://10.0.0.1:81", true),
            ("10.0.0.2", "http://10.0.0.1", false),
            ("[fd00::1]:80", "http://[fd00::1]", true),
            ("[fd00::1]", "http://[fd00::1]:81", true),
            ("10.0.0.1", "https://10.0.0.1", false),
        ] {
            let settings = read(&[("UPSTREAM_H2C_HOSTS", listed)]).unwrap().upstreams;
            let guard = Guard::of_upstreams(Arc::new(SystemResolver), &[], Duration::ZERO);
            let target = guard.resolve(&url.parse().unwrap()).await.unwrap();
            assert_eq!(settings.speaks_h2c(&target), is_meant, "{listed} {url}");
        }
    }
}
