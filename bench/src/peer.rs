//! Other proxies that do the same work, or the nearest they can: which are there, how is each set up, and does it do what it is
//! measured for?
//!
//! All are bound to the processor that the gateway is measured on and have one worker; all forward to the same origin. The
//! files beside this one are their configurations, with places (`@PORT@`) for what is known only at the start.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use caracal_testing::{Process, ProcessSpec, free_port};
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;

use crate::load::{Connections, Until};

/// What the peers are set up with.
pub(crate) struct Setting {
    /// Port of the service behind all proxies.
    pub(crate) origin: u16,
    /// Port of the service that authorizes each request of some of them, as an exchange does for the gateway.
    pub(crate) authorizer: u16,
    pub(crate) issuer: String,
    /// The zone's key set.
    pub(crate) key_set: String,
    /// The zone's key as PEM.
    pub(crate) key_pem: String,
    /// A mandate that all of them let pass.
    pub(crate) mandate: String,
    /// Where peers are that are not in the path of programs: the folder of a Python environment.
    pub(crate) environment: Option<PathBuf>,
    /// The processor they are bound to.
    pub(crate) processor: String,
}

/// Which peer: what it is, and how it is started.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Of its figures.
    pub(crate) key: &'static str,
    program: &'static str,
    /// Name and text of each of its files.
    files: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    /// Whether it checks the signature of mandates.
    is_verifying: bool,
}

const ENVOY: &[&str] = &[
    "-c",
    "@FOLDER@/envoy.yaml",
    "--concurrency",
    "1",
    "--disable-hot-restart",
    "-l",
    "error",
];

/// The same HTTP library as the gateway's, and no stage.
pub(crate) const BARE: Kind = Kind {
    name: "bare Pingora",
    key: "bare_proxy",
    program: "plain_proxy",
    files: &[],
    arguments: &["@PORT@", "@ORIGIN@"],
    is_verifying: false,
};

/// Every other peer there is.
pub(crate) const KINDS: [Kind; 9] = [
    Kind {
        name: "nginx",
        key: "nginx",
        program: "nginx",
        files: &[("nginx.conf", include_str!("peer/nginx.conf"))],
        arguments: &["-e", "stderr", "-p", "@FOLDER@", "-c", "nginx.conf"],
        is_verifying: false,
    },
    Kind {
        name: "nginx, auth_request",
        key: "nginx_authz",
        program: "nginx",
        files: &[("nginx.conf", include_str!("peer/nginx_authorized.conf"))],
        arguments: &["-e", "stderr", "-p", "@FOLDER@", "-c", "nginx.conf"],
        is_verifying: false,
    },
    Kind {
        name: "HAProxy",
        key: "haproxy",
        program: "haproxy",
        files: &[("haproxy.cfg", include_str!("peer/haproxy.cfg"))],
        arguments: &["-db", "-f", "@FOLDER@/haproxy.cfg"],
        is_verifying: false,
    },
    Kind {
        name: "HAProxy, jwt_verify",
        key: "haproxy_jwt",
        program: "haproxy",
        files: &[
            ("haproxy.cfg", include_str!("peer/haproxy_jwt.cfg")),
            ("key.pem", "@KEY_PEM@"),
        ],
        arguments: &["-db", "-f", "@FOLDER@/haproxy.cfg"],
        is_verifying: true,
    },
    Kind {
        name: "Envoy",
        key: "envoy",
        program: "envoy",
        files: &[("envoy.yaml", include_str!("peer/envoy.yaml"))],
        arguments: ENVOY,
        is_verifying: false,
    },
    Kind {
        name: "Envoy, jwt_authn",
        key: "envoy_jwt",
        program: "envoy",
        files: &[("envoy.yaml", include_str!("peer/envoy.yaml"))],
        arguments: ENVOY,
        is_verifying: true,
    },
    Kind {
        name: "Envoy, jwt_authn + ext_authz",
        key: "envoy_jwt_authz",
        program: "envoy",
        files: &[("envoy.yaml", include_str!("peer/envoy.yaml"))],
        arguments: ENVOY,
        is_verifying: true,
    },
    Kind {
        name: "Caddy, forward_auth",
        key: "caddy_authz",
        program: "caddy",
        files: &[("caddy.conf", include_str!("peer/caddy.conf"))],
        arguments: &["run", "--adapter", "caddyfile", "--config", "@FOLDER@/caddy.conf"],
        is_verifying: false,
    },
    Kind {
        name: "Traefik, forwardAuth",
        key: "traefik_authz",
        program: "traefik",
        files: &[
            ("traefik.yaml", include_str!("peer/traefik.yaml")),
            ("routes.yaml", include_str!("peer/traefik_routes.yaml")),
        ],
        arguments: &["--configFile=@FOLDER@/traefik.yaml"],
        is_verifying: false,
    },
];

/// A peer that runs and has shown that it does its work.
pub(crate) struct Peer {
    pub(crate) kind: &'static Kind,
    pub(crate) process: Process,
    pub(crate) url: String,
    _folder: TempDir,
}

impl Setting {
    /// Starts one.
    ///
    /// # Errors
    /// Why it cannot be compared with: it is not there, does not answer, or lets an altered mandate pass.
    pub(crate) async fn start(&self, kind: &'static Kind) -> anyhow::Result<Peer> {
        let folder = TempDir::new()?;
        let program = self
            .find(kind.program)
            .with_context(|| format!("{} is not installed", kind.program))?;
        let port = free_port();
        for (name, text) in kind.files {
            std::fs::write(
                folder.path().join(name),
                self.fill(kind, text, port, folder.path()),
            )?;
        }
        let arguments = kind.arguments.iter();
        let arguments = arguments.map(|argument| self.fill(kind, argument, port, folder.path()));
        let mut spec = ProcessSpec::program(kind.key, PathBuf::from("taskset"));
        spec.arguments = [
            "-c".to_owned(),
            self.processor.clone(),
            program.display().to_string(),
        ]
        .into();
        spec.arguments.extend(arguments);
        spec.environment
            .insert("HOME".to_owned(), folder.path().display().to_string());
        let peer = Peer {
            kind,
            process: Process::spawn(spec),
            url: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        };
        peer.prove(&self.mandate).await?;
        Ok(peer)
    }

    fn fill(&self, kind: &Kind, text: &str, port: u16, folder: &Path) -> String {
        let mut filters = String::new();
        if kind.key.starts_with("envoy_jwt") {
            filters.push_str(include_str!("peer/envoy_jwt.yaml"));
        }
        if kind.key == "envoy_jwt_authz" {
            filters.push_str(include_str!("peer/envoy_authorized.yaml"));
        }
        let text = text.replace("@FILTERS@\n", &filters);
        [
            ("@PORT@", port.to_string()),
            ("@FOLDER@", folder.display().to_string()),
            ("@ORIGIN@", format!("127.0.0.1:{}", self.origin)),
            ("@ORIGIN_PORT@", self.origin.to_string()),
            ("@AUTHORIZER@", format!("127.0.0.1:{}", self.authorizer)),
            ("@AUTHORIZER_PORT@", self.authorizer.to_string()),
            ("@ISSUER@", self.issuer.clone()),
            ("@JWKS@", self.key_set.clone()),
            ("@KEY_PEM@", self.key_pem.clone()),
        ]
        .into_iter()
        .fold(text, |text, (place, value)| text.replace(place, &value))
    }

    /// The program beside this one, in the environment of the peers, or in the path of programs.
    fn find(&self, program: &str) -> Option<PathBuf> {
        let own = std::env::current_exe().ok();
        let own = own.map(|own| own.with_file_name(program));
        let environment = self
            .environment
            .as_ref()
            .map(|folder| folder.join("bin").join(program));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path: Vec<PathBuf> = std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .collect();
        // Where daemons are, which are in the path of few users.
        let daemons = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
        let places = own.into_iter().chain(environment).chain(path).chain(daemons);
        places.into_iter().find(|place| place.is_file())
    }
}

impl Peer {
    /// Waits until the mandate passes; if it verifies, an altered one must not.
    async fn prove(&self, mandate: &str) -> anyhow::Result<()> {
        let mut last = "no answer".to_owned();
        for _attempt in 0..200 {
            match self.ask(mandate).await {
                Ok(()) => {
                    let altered = alter(mandate)?;
                    let is_refused = self.ask(&altered).await.is_err();
                    ensure!(
                        is_refused || !self.kind.is_verifying,
                        "it lets an altered mandate pass"
                    );
                    return Ok(());
                }
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut said = String::new();
        self.process.log().lines().take(5).for_each(|line| {
            // Writing to a text does not fail.
            let _written = write!(said, "; {line}");
        });
        bail!("{last}{said}")
    }

    async fn ask(&self, mandate: &str) -> anyhow::Result<()> {
        let request = |_number: usize| {
            let authority = self.url.trim_start_matches("http://");
            let request = Request::get("/").header("host", authority);
            Ok(request
                .header("authorization", format!("Bearer {mandate}"))
                .body(Full::default())?)
        };
        Connections::open(&self.url, 1)
            .await?
            .call(request, Until::Count(1))
            .await?;
        Ok(())
    }
}

/// The same with another signature.
fn alter(mandate: &str) -> anyhow::Result<String> {
    let (signed, signature) = mandate.rsplit_once('.').context("a mandate")?;
    let altered: String = signature.chars().rev().collect();
    ensure!(
        altered != signature,
        "a signature that reads the same from both ends"
    );
    Ok(format!("{signed}.{altered}"))
}
