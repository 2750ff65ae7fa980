//! Which certificates does the listener show, and which does it ask its clients for? (`docs/contract/gateway-tls.md`)

use std::path::PathBuf;
use std::time::Duration;

use caracal_chassis::config::Reader;

use super::acme::AcmeSettings;

/// How the listener speaks TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    /// Certificates in files. The first is shown to clients that ask for no name, or for one nobody has.
    pub(crate) pairs: Vec<PairFiles>,
    /// What clients are asked for.
    pub(crate) clients: ClientCertificates,
    /// How often the files are looked at.
    pub(crate) reload_every: Duration,
    /// Certificates the gateway gets by itself.
    pub(crate) acme: Option<AcmeSettings>,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Which certificates clients are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// None.
    Off,
    /// One by an authority of this file, from those who have one.
    Request(PathBuf),
    /// One by an authority of this file, from everybody.
    Require(PathBuf),
    /// Any, from those who have one: it proves a key, and nothing about whose it is.
    Any,
}

impl TlsSettings {
    /// Reads them; `None` when the listener speaks in clear.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut pairs: Vec<_> = read_pair(reader, "TLS_CERT_FILE", "TLS_KEY_FILE")
            .into_iter()
            .collect();
        for table in reader.tables("CERTIFICATE") {
            let pair = reader.table(&table, |reader| {
                let pair = read_pair(reader, "CERT_FILE", "KEY_FILE");
                reader.check(
                    pair.is_some(),
                    "CERT_FILE",
                    "does not say which certificate is meant",
                    "write cert_file and key_file",
                );
                pair
            });
            pairs.extend(pair);
        }
        let acme = AcmeSettings::read(reader);
        let is_tls = !pairs.is_empty() || acme.is_some();
        let clients = read_clients(reader);
        let reload_every = reader.duration(
            "TLS_RELOAD_INTERVAL",
            Duration::from_secs(5),
            Duration::from_millis(10)..=Duration::from_hours(1),
        );
        reader.check(
            clients == ClientCertificates::Off || is_tls,
            "TLS_CLIENT_AUTH",
            "asks for certificates on connections in clear",
            "give the listener a certificate of its own (TLS_CERT_FILE, ACME_DOMAINS), or set TLS_CLIENT_AUTH=off",
        );
        is_tls.then_some(Self {
            pairs,
            clients,
            reload_every,
            acme,
        })
    }
}

fn read_pair(reader: &mut Reader<'_>, certificate_key: &str, key_key: &str) -> Option<PairFiles> {
    let certificate = reader.optional_path(certificate_key);
    let key = reader.optional_path(key_key);
    reader.check(
        certificate.is_some() == key.is_some(),
        certificate_key,
        format!("and {key_key} belong together, and one is missing"),
        "set both, or none",
    );
    certificate
        .zip(key)
        .map(|(certificate, key)| PairFiles { certificate, key })
}

fn read_clients(reader: &mut Reader<'_>) -> ClientCertificates {
    const WORDS: [(&str, &str); 4] = [
        ("off", "off"),
        ("request", "request"),
        ("require", "require"),
        ("any", "any"),
    ];
    let authorities = reader.optional_path("TLS_CLIENT_CA_FILE");
    let word = reader.choice("TLS_CLIENT_AUTH", "off", &WORDS);
    reader.check(
        matches!(word, "request" | "require") == authorities.is_some(),
        "TLS_CLIENT_CA_FILE",
        "says who issues the certificates of clients, for TLS_CLIENT_AUTH=request and require",
        "set it for these two, and for no other",
    );
    match (word, authorities) {
        ("request", Some(authorities)) => ClientCertificates::Request(authorities),
        ("require", Some(authorities)) => ClientCertificates::Require(authorities),
        ("any", _) => ClientCertificates::Any,
        _ => ClientCertificates::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    #[test]
    fn certificates_are_read_from_the_two_settings_and_from_tables() {
        assert!(read(&[]).unwrap().tls.is_none(), "in clear");
        let tls = read(&[
            ("TLS_CERT_FILE", "/a.pem"),
            ("TLS_KEY_FILE", "/a.key"),
            ("CERTIFICATE", r#"[{"cert_file":"/b.pem","key_file":"/b.key"}]"#),
            ("TLS_CLIENT_AUTH", "require"),
            ("TLS_CLIENT_CA_FILE", "/ca.pem"),
        ])
        .unwrap()
        .tls
        .unwrap();
        let files = |name: &str| PairFiles {
            certificate: format!("/{name}.pem").into(),
            key: format!("/{name}.key").into(),
        };
        assert_eq!(tls.pairs, [files("a"), files("b")]);
        assert_eq!(tls.clients, ClientCertificates::Require("/ca.pem".into()));
        let only_table = [("CERTIFICATE", r#"[{"cert_file":"/b.pem","key_file":"/b.key"}]"#)];
        assert_eq!(read(&only_table).unwrap().tls.unwrap().pairs, [files("b")]);
    }

    #[test]
    fn settings_that_contradict_are_refused() {
        let pair = [("TLS_CERT_FILE", "/a.pem"), ("TLS_KEY_FILE", "/a.key")];
        for (settings, key) in [
            (&[("TLS_KEY_FILE", "/a")][..], "TLS_CERT_FILE"),
            (&[("CERTIFICATE", r#"[{"cert_file":"/b.pem"}]"#)], "cert_file"),
            (&[("CERTIFICATE", "[{}]")], "cert_file"),
            (&[("TLS_CLIENT_AUTH", "any")], "TLS_CLIENT_AUTH"),
            (
                &[pair[0], pair[1], ("TLS_CLIENT_AUTH", "require")],
                "TLS_CLIENT_CA_FILE",
            ),
            (
                &[pair[0], pair[1], ("TLS_CLIENT_CA_FILE", "/ca.pem")],
                "TLS_CLIENT_CA_FILE",
            ),
            (
                &[
                    pair[0],
                    pair[1],
                    ("TLS_CLIENT_AUTH", "any"),
                    ("TLS_CLIENT_CA_FILE", "/ca.pem"),
                ],
                "TLS_CLIENT_CA_FILE",
            ),
        ] {
            let errors = read(settings).unwrap_err();
            assert!(errors.contains(key), "{key}: {errors}");
        }
    }
}
