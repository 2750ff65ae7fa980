//! An ACME server nobody here wrote: Pebble, with a name server that knows every name as this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::port::ReservedPort;
use crate::process::{Process, ProcessSpec};
use crate::tls::{file, test_authority};
use crate::wait::wait_until;

/// A name for which it issues nothing.
pub const BLOCKED_NAME: &str = "blocked.example.com";

/// Time to start on a busy machine.
const START: Duration = Duration::from_mins(1);

/// A running certificate authority; it ends when dropped.
#[derive(Debug)]
pub struct Pebble {
    server: Process,
    _names: Process,
    directory: ReservedPort,
    root: CertificateDer<'static>,
    _ports: [ReservedPort; 3],
    _folder: TempDir,
}

impl Pebble {
    /// Starts one whose certificates are valid for `validity`, and which asks at `challenged` (loopback), in clear and in
    /// handshakes alike, whatever the name.
    ///
    /// # Panics
    /// When it cannot be started (it is in the Debian package `pebble`), or does not give its root.
    pub async fn start(validity: Duration, challenged: SocketAddr) -> Self {
        let [directory, management, dns, dns_management] = [(); 4].map(|()| ReservedPort::new());
        let at = |port: &ReservedPort| format!("127.0.0.1:{}", port.number());
        let folder = TempDir::new().expect("a temporary folder");
        let config = folder.path().join("pebble.json");
        let settings = json!({"pebble": {
            "listenAddress": at(&directory),
            "managementListenAddress": at(&management),
            "certificate": file("server.pem"),
            "privateKey": file("server.key"),
            "httpPort": challenged.port(),
            "tlsPort": challenged.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": [BLOCKED_NAME],
            "certificateValidityPeriod": validity.as_secs(),
        }});
        std::fs::write(&config, settings.to_string()).expect("the configuration is written");
        let names = Process::spawn(spec(
            "pebble-challtestsrv",
            &[
                "-dns01",
                &at(&dns),
                "-management",
                &at(&dns_management),
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ],
        ));
        let config = config.to_str().expect("a path that is text").to_owned();
        let server = Process::spawn(spec("pebble", &["-config", &config, "-dnsserver", &at(&dns)]));
        for port in [&directory, &management, &dns] {
            let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
            wait_until(START, async || TcpStream::connect(address).await.is_ok()).await;
        }
        Self {
            server,
            _names: names,
            root: root(&management).await,
            directory,
            _ports: [management, dns, dns_management],
            _folder: folder,
        }
    }

    /// Its directory, for `ACME_DIRECTORY_URL`. Its certificate is by [`test_authority`](crate::test_authority).
    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.directory.number())
    }

    /// The certificate that a server shows for `name` to a client that trusts nobody but this authority; `None` when there is none, or
    /// none that holds.
    ///
    /// # Panics
    /// When nobody listens at `server`.
    pub async fn shown_by(&self, server: SocketAddr, name: &str) -> Option<CertificateDer<'static>> {
        let stream = TcpStream::connect(server).await.expect("the server listens");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = connector(self.root.clone()).connect(name, stream).await.ok()?;
        let (_stream, session) = stream.get_ref();
        Some(session.peer_certificates()?.first()?.clone().into_owned())
    }

    /// Ends it, without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.server.kill9();
    }
}

/// The root of what it issues; it makes another one at each start.
async fn root(management: &ReservedPort) -> CertificateDer<'static> {
    let authority =
        CertificateDer::from_pem_file(test_authority()).expect("the authority is in the repository");
    let address = SocketAddr::from(([127, 0, 0, 1], management.number()));
    let stream = TcpStream::connect(address).await.expect("it listens");
    let mut stream = connector(authority)
        .connect(ServerName::try_from("localhost").expect("a name"), stream)
        .await
        .expect("its certificate is by the test's authority");
    let request = b"GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("it reads");
    let mut answer = Vec::new();
    // The end of the stream, with or without a close notification.
    let _closed = stream.read_to_end(&mut answer).await;
    CertificateDer::from_pem_slice(&answer).expect("its root is PEM")
}

fn connector(root: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("AWS-LC speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn spec(program: &str, arguments: &[&str]) -> ProcessSpec {
    let environment = [
        ("PEBBLE_VA_NOSLEEP", "1"),
        ("PEBBLE_WFE_NONCEREJECT", "0"),
        ("PEBBLE_AUTHZREUSE", "0"),
    ];
    ProcessSpec {
        name: program.to_owned(),
        program: PathBuf::from(program),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        environment: BTreeMap::from(environment.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        base_url: String::new(),
    }
}
