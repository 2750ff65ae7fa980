//! For which names does the gateway get certificates by itself, and from whom? (`docs/contract/gateway-tls.md`, "ACME")

use std::path::PathBuf;
use std::time::Duration;

use caracal_chassis::config::Reader;
use url::Url;

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Names at most. Their certificates are one document of the store.
const DOMAINS_MAX: usize = 25;

/// How certificates are obtained.
#[derive(Clone, Debug)]
pub(crate) struct AcmeSettings {
    /// Where the authority says what it offers.
    pub(crate) directory: Url,
    /// Mail addresses the authority may write to, as URLs.
    pub(crate) contacts: Vec<String>,
    /// The names, in lower case; each gets a certificate of its own.
    pub(crate) domains: Vec<String>,
    /// How the gateway proves that a name is its.
    pub(crate) challenge: Challenge,
    /// Who is trusted to be the authority's server, beside the machine's authorities.
    pub(crate) ca_file: Option<PathBuf>,
    /// How often other replicas' certificates are looked for while there is nothing to do.
    pub(crate) poll_every: Duration,
}

/// How the gateway proves that a name is its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// By an answer in clear (RFC 8555 section 8.3).
    Http01,
    /// In a handshake (RFC 8737).
    TlsAlpn01,
}

impl AcmeSettings {
    /// Reads them; `None` when no names are listed.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let domains = read_domains(reader);
        let directory = reader.url_or("ACME_DIRECTORY_URL", Some(DIRECTORY), &["https"]);
        let contacts = reader.list("ACME_CONTACT").into_iter().map(|contact| {
            if contact.starts_with("mailto:") {
                contact
            } else {
                format!("mailto:{contact}")
            }
        });
        let contacts = contacts.collect();
        let challenge = reader.choice(
            "ACME_CHALLENGE",
            Challenge::TlsAlpn01,
            &[
                ("tls-alpn-01", Challenge::TlsAlpn01),
                ("http-01", Challenge::Http01),
            ],
        );
        let is_agreed = reader.boolean("ACME_TERMS_AGREED", false);
        let ca_file = reader.optional_path("ACME_CA_FILE");
        let poll_every = reader.duration(
            "ACME_POLL_INTERVAL",
            Duration::from_mins(1),
            Duration::from_millis(10)..=Duration::from_hours(1),
        );
        reader.check(
            is_agreed || domains.is_empty(),
            "ACME_TERMS_AGREED",
            "is off, and no authority gives certificates to who has not agreed to its terms of service",
            "read the terms of the authority, and set ACME_TERMS_AGREED=true",
        );
        let directory = Url::parse(&directory).ok()?;
        (!domains.is_empty()).then_some(Self {
            directory,
            contacts,
            domains,
            challenge,
            ca_file,
            poll_every,
        })
    }
}

fn read_domains(reader: &mut Reader<'_>) -> Vec<String> {
    const KEY: &str = "ACME_DOMAINS";
    let mut domains = Vec::new();
    for domain in reader.list(KEY) {
        let domain = domain.to_ascii_lowercase();
        reader.check(
            is_host_name(&domain),
            KEY,
            format!("names {domain:?}, for which no certificate can be had this way"),
            "write full host names, e.g. gateway.example.com: no addresses, no wildcards, other scripts as xn--",
        );
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    reader.check(
        domains.len() <= DOMAINS_MAX,
        KEY,
        format!("names more than {DOMAINS_MAX} hosts"),
        "list fewer, or bring certificates in files",
    );
    domains
}

/// Whether it is a name of at least two labels that a certificate may be for (RFC 1123 section 2.1).
fn is_host_name(name: &str) -> bool {
    let labels = || name.split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253
        && labels().count() >= 2
        && labels().all(is_label)
        && !labels().next_back().is_none_or(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    const AGREED: (&str, &str) = ("ACME_TERMS_AGREED", "true");

    #[test]
    fn names_alone_are_enough() {
        let tls = read(&[
            (
                "ACME_DOMAINS",
                "Gateway.example.com, gateway.example.com,b.example",
            ),
            AGREED,
        ])
        .unwrap()
        .tls
        .unwrap();
        let acme = tls.acme.unwrap();
        assert_eq!(acme.domains, ["gateway.example.com", "b.example"]);
        assert_eq!(acme.directory.as_str(), DIRECTORY);
        assert_eq!(acme.challenge, Challenge::TlsAlpn01);
        assert!(tls.pairs.is_empty());
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let name = ("ACME_DOMAINS", "a.example");
        let many = (0..26)
            .map(|number| format!("n{number}.example"))
            .collect::<Vec<_>>()
            .join(",");
        for (settings, key) in [
            (&[name][..], "ACME_TERMS_AGREED"),
            (&[name, AGREED, ("ACME_CHALLENGE", "http-01")], "HTTP_PORT"),
            (&[name, AGREED, ("ACME_CHALLENGE", "dns-01")], "ACME_CHALLENGE"),
            (
                &[name, AGREED, ("ACME_DIRECTORY_URL", "http://ca.example")],
                "ACME_DIRECTORY_URL",
            ),
            (&[("ACME_DOMAINS", "*.example.com"), AGREED], "ACME_DOMAINS"),
            (&[("ACME_DOMAINS", "localhost"), AGREED], "ACME_DOMAINS"),
            (&[("ACME_DOMAINS", "192.0.2.1"), AGREED], "ACME_DOMAINS"),
            (&[("ACME_DOMAINS", "a..example"), AGREED], "ACME_DOMAINS"),
            (&[("ACME_DOMAINS", "-a.example"), AGREED], "ACME_DOMAINS"),
            (&[("ACME_DOMAINS", &many), AGREED], "ACME_DOMAINS"),
        ] {
            let errors = read(settings).unwrap_err();
            assert!(errors.contains(key), "{key}: {errors}");
        }
    }
}
