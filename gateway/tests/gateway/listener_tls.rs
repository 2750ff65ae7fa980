//! The listener shows the certificate of the name that was asked for, takes over new files while it runs, and counts the
//! certificate a client shows to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use caracal_testing::wait_until;
use caracal_token::{Confirmation, Possession, Thumbprint};
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Kept, send};
use crate::rig::{RESOURCE, Rig, SOON};
use crate::sts::one_shot;

/// An authority of a test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// What it has issued.
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    pem: String,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.issue_as(&CertificateParams::new(names).unwrap())
    }

    pub(crate) fn issue_as(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    /// Trusts this authority, and shows `shown`.
    fn connector(&self, shown: Option<&Issued>) -> TlsConnector {
        self.connector_for(shown, rustls::DEFAULT_VERSIONS, b"http/1.1")
    }

    /// The same in these versions of TLS, for this application protocol.
    fn connector_for(
        &self,
        shown: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
        protocol: &[u8],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some(shown) => {
                let key = PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap();
                config
                    .with_client_auth_cert(vec![shown.der.clone()], key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

impl Issued {
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        replace(&certificate, &self.pem);
        replace(&key, &self.key.serialize_pem());
        (certificate, key)
    }

    fn confirmation(&self) -> Confirmation {
        let keys = Possession {
            x5t_s256: Some(Thumbprint::of_certificate(&self.der)),
            ..Possession::default()
        };
        keys.confirmation().unwrap()
    }
}

/// Writes a file so that nobody sees a part of it.
fn replace(path: &Path, text: &str) {
    let made = path.with_extension("made");
    std::fs::write(&made, text).unwrap();
    std::fs::rename(&made, path).unwrap();
}

async fn connect(rig: &Rig, connector: &TlsConnector, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(rig.gateway.addresses.main).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector.connect(name, stream).await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

async fn metrics(rig: &Rig) -> String {
    let request = http::Request::get("/metrics")
        .header("host", "x")
        .header("accept", "text/plain")
        .header("authorization", "Bearer reader");
    let answer = send(
        rig.gateway.addresses.admin,
        request.body(Full::default()).unwrap(),
    )
    .await;
    String::from_utf8(answer.body.to_vec()).unwrap()
}

const METRICS: (&str, &str) = ("METRICS_BEARER", "reader");
const OFTEN: (&str, &str) = ("TLS_RELOAD_INTERVAL", "10ms");

#[tokio::test]
async fn each_name_gets_its_certificate() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let usual = authority.issue(&["gateway.example", "localhost"]);
    let wild = authority.issue(&["*.tenant.example"]);
    let (certificate, key) = usual.write(folder.path(), "usual");
    let (wild_certificate, wild_key) = wild.write(folder.path(), "wild");
    let table = serde_json::json!([{"cert_file": wild_certificate, "key_file": wild_key}]).to_string();
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
        ("CERTIFICATE", &table),
        METRICS,
    ])
    .await;
    let connector = authority.connector(None);
    for (name, expected) in [
        ("gateway.example", &usual),
        ("localhost", &usual),
        ("a.tenant.example", &wild),
        ("B.tenant.example", &wild),
    ] {
        let stream = connect(&rig, &connector, name).await.unwrap();
        assert_eq!(shown(&stream), expected.der, "{name}");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = Kept::over(stream).await;
        assert_eq!(client.send(rig.get("/")).await.status, 200);
    }
    let unknown = connect(&rig, &connector, "x.example").await;
    assert!(
        unknown.is_err(),
        "the first certificate, which is not for that name"
    );
    let text = metrics(&rig).await;
    for name in ["gateway.example", "*.tenant.example"] {
        let line = format!("caracal_gateway_tls_certificate_expires_seconds{{name=\"{name}\"}} ");
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn new_files_are_shown_to_new_connections_and_broken_ones_to_nobody() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let [first, second, third] = [(); 3].map(|()| authority.issue(&["localhost"]));
    let (certificate, key) = first.write(folder.path(), "current");
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
        OFTEN,
        METRICS,
    ])
    .await;
    let connector = authority.connector(None);
    let now_shown = async || shown(&connect(&rig, &connector, "localhost").await.unwrap());
    let errors = async |count: u32| {
        let line = format!("caracal_gateway_tls_reload_errors_total {count}\n");
        wait_until(SOON, async || metrics(&rig).await.contains(&line)).await;
    };
    let stream = connect(&rig, &connector, "localhost").await.unwrap();
    assert_eq!(shown(&stream), first.der);
    let mut open = Kept::over(stream).await;
    assert_eq!(open.send(rig.get("/")).await.status, 200);

    second.write(folder.path(), "current");
    wait_until(SOON, async || now_shown().await == second.der).await;
    let answer = open.send(rig.get("/")).await;
    assert_eq!(answer.status, 200);

    // The key of another certificate, rubbish, and no file at all.
    let before: u32 = {
        let text = metrics(&rig).await;
        let (_before, rest) = text
            .split_once("\ncaracal_gateway_tls_reload_errors_total ")
            .unwrap();
        rest.lines().next().unwrap().parse().unwrap()
    };
    replace(&key, &third.key.serialize_pem());
    errors(before + 1).await;
    assert_eq!(now_shown().await, second.der);
    replace(&certificate, "rubbish");
    errors(before + 2).await;
    assert_eq!(now_shown().await, second.der);
    std::fs::remove_file(&certificate).unwrap();
    errors(before + 3).await;
    assert_eq!(now_shown().await, second.der);

    replace(&certificate, &third.pem);
    wait_until(SOON, async || now_shown().await == third.der).await;
    errors(before + 3).await;
}

#[tokio::test]
async fn certificates_behind_a_link_are_new_when_the_link_is() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let pairs = [(); 2].map(|()| authority.issue(&["localhost"]));
    for (pair, name) in pairs.iter().zip(["..1", "..2"]) {
        let versioned = folder.path().join(name);
        std::fs::create_dir(&versioned).unwrap();
        pair.write(&versioned, "tls");
    }
    let link = |name: &str| {
        let made = folder.path().join("..next");
        std::os::unix::fs::symlink(name, &made).unwrap();
        std::fs::rename(&made, folder.path().join("..data")).unwrap();
    };
    link("..1");
    let file = |name: &str| {
        folder
            .path()
            .join("..data")
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (certificate, key) = (file("tls.pem"), file("tls.key"));
    let rig = Rig::with(&[("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &key), OFTEN]).await;
    let connector = authority.connector(None);
    let now_shown = async || shown(&connect(&rig, &connector, "localhost").await.unwrap());
    assert_eq!(now_shown().await, pairs[0].der);
    link("..2");
    wait_until(SOON, async || now_shown().await == pairs[1].der).await;
}

/// A request with a mandate that is bound to that certificate, on a connection that shows this one; the status, or `None`
/// when there was no connection.
async fn call_bound(rig: &Rig, connector: &TlsConnector, bound_to: Option<&Issued>) -> Option<u16> {
    let stream = connect(rig, connector, "localhost").await.ok()?;
    let mandate = one_shot().with(|claims| claims.cnf = bound_to.map(Issued::confirmation));
    let request = rig.request("GET", "/", &rig.sts.sign(mandate));
    Some(Kept::over(stream).await.try_send(request).await?.status)
}

#[tokio::test]
async fn the_certificate_of_the_handshake_counts_as_the_settings_say() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    let clients = Authority::new();
    let authorities = folder.path().join("clients.pem");
    std::fs::write(&authorities, &clients.pem).unwrap();
    let (ours, other) = (clients.issue(&["agent"]), clients.issue(&["other"]));
    let stranger = Issued::self_signed("stranger");
    let [nothing, with_ours, with_other, with_stranger] =
        [None, Some(&ours), Some(&other), Some(&stranger)].map(|shown| authority.connector(shown));
    let (passes, refused, no_connection) = (Some(200), Some(401), None);
    for (mode, rows) in [
        (
            "off",
            vec![
                (&nothing, None, passes),
                (&with_ours, Some(&ours), refused),
                (&with_stranger, None, passes),
            ],
        ),
        (
            "request",
            vec![
                (&nothing, None, passes),
                (&nothing, Some(&ours), refused),
                (&with_ours, Some(&ours), passes),
                (&with_ours, None, passes),
                (&with_other, Some(&ours), refused),
                (&with_stranger, Some(&stranger), no_connection),
            ],
        ),
        (
            "require",
            vec![
                (&nothing, None, no_connection),
                (&with_ours, Some(&ours), passes),
                (&with_other, None, passes),
                (&with_stranger, None, no_connection),
            ],
        ),
        (
            "any",
            vec![
                (&nothing, None, passes),
                (&nothing, Some(&stranger), refused),
                (&with_stranger, Some(&stranger), passes),
                (&with_ours, Some(&ours), passes),
                (&with_other, Some(&stranger), refused),
            ],
        ),
    ] {
        let mut settings = vec![
            ("TLS_CERT_FILE", certificate.to_str().unwrap()),
            ("TLS_KEY_FILE", key.to_str().unwrap()),
            ("TLS_CLIENT_AUTH", mode),
        ];
        if matches!(mode, "request" | "require") {
            settings.push(("TLS_CLIENT_CA_FILE", authorities.to_str().unwrap()));
        }
        let rig = Rig::with(&settings).await;
        for (number, (connector, bound_to, expected)) in rows.into_iter().enumerate() {
            // Twice: a resumed session must say the same.
            for _ in 0..2 {
                let status = call_bound(&rig, connector, bound_to).await;
                assert_eq!(status, expected, "{mode}, row {number}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_only_where_clients_are_not_asked_for_certificates() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    for (mode, second) in [("off", HandshakeKind::Resumed), ("any", HandshakeKind::Full)] {
        let rig = Rig::with(&[
            ("TLS_CERT_FILE", certificate.to_str().unwrap()),
            ("TLS_KEY_FILE", key.to_str().unwrap()),
            ("TLS_CLIENT_AUTH", mode),
        ])
        .await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let connector = authority.connector_for(None, &[version], b"http/1.1");
            for expected in [HandshakeKind::Full, second] {
                let stream = connect(&rig, &connector, "localhost").await.unwrap();
                let kind = stream.get_ref().1.handshake_kind();
                assert_eq!(kind, Some(expected), "{mode}, {version:?}");
                // What resumes a session comes with the answer, if it comes.
                let answer = Kept::over(stream).await.try_send(rig.get("/")).await;
                assert_eq!(answer.unwrap().status, 200);
            }
        }
    }
}

#[tokio::test]
async fn the_certificate_of_the_handshake_counts_for_every_stream_of_http2() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    let (ours, other) = (Issued::self_signed("agent"), Issued::self_signed("other"));
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
        ("TLS_CLIENT_AUTH", "any"),
    ])
    .await;
    for (shown, bound_to, expected) in [
        (Some(&ours), Some(&ours), 200),
        (Some(&ours), None, 200),
        (Some(&other), Some(&ours), 401),
        (None, Some(&ours), 401),
    ] {
        let connector = authority.connector_for(shown, rustls::DEFAULT_VERSIONS, b"h2");
        let stream = connect(&rig, &connector, "localhost").await.unwrap();
        let mut sender = crate::http2::over(stream).await;
        for _stream in 0..2 {
            let mandate = one_shot().with(|claims| claims.cnf = bound_to.map(Issued::confirmation));
            let request = crate::http2::call(&rig, "/", mandate);
            let answer = crate::http2::send(&mut sender, request, "").await;
            assert_eq!(answer.status(), expected, "shown {}", shown.is_some());
        }
    }
}

#[tokio::test]
async fn a_terminators_own_certificate_is_not_its_clients() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    let terminator = Issued::self_signed("terminator");
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
        ("TLS_CLIENT_AUTH", "any"),
        ("CLIENT_CERT_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let connector = authority.connector(Some(&terminator));
    assert_eq!(call_bound(&rig, &connector, Some(&terminator)).await, Some(401));
    let client = caracal_testing::ClientCertificate::new();
    let mandate = one_shot().with(|claims| claims.cnf = Some(client.confirmation()));
    let request = rig
        .request("GET", "/", &rig.sts.sign(mandate))
        .header("client-cert", client.header());
    let stream = connect(&rig, &connector, "localhost").await.unwrap();
    let answer = Kept::over(stream).await.try_send(request).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?} for {RESOURCE}");
}

#[tokio::test]
async fn new_authorities_of_clients_are_taken_over() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    let [before, after] = [(); 2].map(|()| Authority::new());
    let authorities = folder.path().join("clients.pem");
    std::fs::write(&authorities, &before.pem).unwrap();
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
        ("TLS_CLIENT_AUTH", "require"),
        ("TLS_CLIENT_CA_FILE", authorities.to_str().unwrap()),
        OFTEN,
        METRICS,
    ])
    .await;
    let (old, new) = (before.issue(&["agent"]), after.issue(&["agent"]));
    let (with_old, with_new) = (authority.connector(Some(&old)), authority.connector(Some(&new)));
    assert_eq!(call_bound(&rig, &with_old, None).await, Some(200));
    assert_eq!(call_bound(&rig, &with_new, None).await, None);
    replace(&authorities, "no authority");
    let line = "caracal_gateway_tls_reload_errors_total 1\n";
    wait_until(SOON, async || metrics(&rig).await.contains(line)).await;
    assert_eq!(
        call_bound(&rig, &with_old, None).await,
        Some(200),
        "the old ones stay"
    );
    replace(&authorities, &after.pem);
    wait_until(SOON, async || {
        call_bound(&rig, &with_new, None).await == Some(200)
    })
    .await;
    let resumed = call_bound(&rig, &with_old, None).await;
    assert_eq!(resumed, None, "a session of before is not resumed");
}
