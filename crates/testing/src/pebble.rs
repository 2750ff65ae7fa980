//! An ACME server nobody here wrote: Pebble, with a name server that knows every name as this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::port::ReservedPort;
use crate::process::{Process, ProcessSpec};
use crate::tls::file;
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
    management: ReservedPort,
    name_ports: [ReservedPort; 2],
    _folder: TempDir,
}

impl Pebble {
    /// Starts one whose certificates are valid for `validity`, and which asks at `challenged` (loopback), in clear and in
    /// handshakes alike, whatever the name.
    ///
    /// # Panics
    /// When it cannot be started: it is in the Debian package `pebble`.
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
        let this = Self {
            server,
            _names: names,
            directory,
            management,
            name_ports: [dns, dns_management],
            _folder: folder,
        };
        this.until_listening().await;
        this
    }

    /// Its directory, for `ACME_DIRECTORY_URL`. Its certificate is by [`test_authority`](crate::test_authority).
    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.directory.number())
    }

    /// Where it gives the root of what it issues, PEM; by the same certificate.
    pub fn root_url(&self) -> String {
        format!("https://localhost:{}/roots/0", self.management.number())
    }

    /// Ends it, without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.server.kill9();
    }

    async fn until_listening(&self) {
        for port in [&self.directory, &self.management, &self.name_ports[0]] {
            let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
            wait_until(START, async || TcpStream::connect(address).await.is_ok()).await;
        }
    }
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
