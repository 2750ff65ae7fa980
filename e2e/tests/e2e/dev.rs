//! `caracal dev`: one command, no Redis, as root and as an ordinary user; a second start finds its data again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_testing::{Answer, Api, TokenClient, free_ports, wait_for, wait_until};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::world::SOON;

/// A first start makes a database cluster, so it may take a while on a busy machine.
const START: Duration = Duration::from_secs(90);

/// How many consecutive ports it takes.
const PORTS: u16 = 8;

/// A running `caracal dev`.
pub(crate) struct Dev {
    child: Child,
    pub(crate) environment: BTreeMap<String, String>,
    data: PathBuf,
    ports: std::ops::Range<u16>,
}

impl Dev {
    /// Starts it in `folder`, as `user` when one is given, and waits until it is ready.
    pub(crate) async fn start(folder: &Path, user: Option<&str>) -> Self {
        let ready = folder.join("ready");
        drop(std::fs::remove_file(&ready));
        let mut command = match user {
            None => Command::new(binary()),
            Some(user) => {
                // It becomes the program, so signals reach the program.
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", user, "--regid", "nogroup", "--clear-groups"])
                    .arg(folder.join("caracal"));
                command
            }
        };
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let (base, data) = (port_base(), folder.join("data"));
        command
            .args(["dev", "--port-base", &base.to_string()])
            .arg("--data-dir")
            .arg(&data)
            .arg("--ready-file")
            .arg(&ready)
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        wait_until(START, async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!(
                    "caracal dev ended ({status}): {}",
                    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
                );
            }
            ready.exists()
        })
        .await;
        let environment = parse(&std::fs::read_to_string(data.join("dev.env")).unwrap());
        Self {
            child,
            environment,
            data,
            ports: base..base + PORTS,
        }
    }

    fn get(&self, name: &str) -> &str {
        self.environment
            .get(name)
            .unwrap_or_else(|| panic!("dev.env has no {name}"))
    }

    /// Ends it as Ctrl-C does, and waits until it has ended.
    pub(crate) async fn interrupt(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .await
                .unwrap()
                .success()
        );
        let ended = tokio::time::timeout(Duration::from_secs(40), self.child.wait()).await;
        let status = ended.expect("Ctrl-C ends caracal dev").unwrap();
        assert!(
            status.success(),
            "an end that was asked for is no failure: {status}"
        );
        // The database's files are elsewhere when its user cannot reach the folder.
        let cluster = std::fs::read_to_string(self.data.join("postgres.location")).ok();
        let cluster = cluster.map(|line| PathBuf::from(line.trim()));
        for folder in [Some(self.data), cluster].into_iter().flatten() {
            let left = processes_about(&folder);
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        for port in self.ports.clone() {
            let free = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port));
            assert!(free.is_ok(), "port {port} is still taken");
        }
    }

    fn client() -> Client {
        Client::new(ClientLimits {
            timeout: Duration::from_mins(1),
            ..ClientLimits::default()
        })
    }

    /// The two commands of the README: mint, call. Gives the call's answer.
    async fn first_call(&self, request_id: &str) -> Answer {
        let tokens = TokenClient::new(
            Self::client(),
            self.get("CARACAL_STS_URL"),
            self.get("CARACAL_ZONE_ID"),
            self.get("CARACAL_APPLICATION_ID"),
            self.get("CARACAL_APP_CLIENT_SECRET"),
        );
        let minted = tokens
            .exchange(&[
                ("resource", self.get("CARACAL_E2E_RESOURCE")),
                ("scope", self.get("CARACAL_E2E_SCOPE")),
            ])
            .await;
        minted.expect(200);
        let gateway = Api::new(
            Self::client(),
            self.get("CARACAL_GATEWAY_URL"),
            Some(&minted.text_of("access_token")),
        );
        gateway
            .with_header("x-caracal-resource", self.get("CARACAL_E2E_RESOURCE"))
            .with_header("x-request-id", request_id)
            .get("/hello")
            .await
    }

    async fn assert_serves(&self, request_id: &str) {
        let seen = self.first_call(request_id).await.expect(200);
        assert_eq!(seen["headers"]["x-demo-key"], "demo-upstream-key");
        assert!(
            seen["headers"].get("authorization").is_none(),
            "the mandate stays at the gateway: {seen}"
        );
        let admin = Api::new(
            Self::client(),
            self.get("CARACAL_API_URL"),
            Some(self.get("CARACAL_ADMIN_TOKEN")),
        );
        let path = format!(
            "/v1/zones/{}/audit/by-request/{request_id}",
            self.get("CARACAL_ZONE_ID")
        );
        wait_for(SOON, async || {
            let events = admin.get(&path).await.json();
            (events.as_array().map(Vec::len) == Some(3)).then_some(())
        })
        .await;
    }
}

fn binary() -> PathBuf {
    std::env::var_os("CARACAL_BIN")
        .map(PathBuf::from)
        .expect("CARACAL_BIN names the executable; ./x test sets it")
}

/// The first of [`PORTS`] consecutive ports that nobody of this test run uses.
fn port_base() -> u16 {
    free_ports(PORTS)
}

/// The command lines of living processes that name this folder.
fn processes_about(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    let command_lines = processes
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| line.replace('\0', " "));
    command_lines.filter(|line| line.contains(folder)).collect()
}

/// `export NAME=value` lines with plain or single-quoted values.
fn parse(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_redis_serves_a_protected_call_and_finds_its_data_again() {
    let folder = TempDir::new().unwrap();
    let dev = Dev::start(folder.path(), None).await;
    assert_eq!(dev.get("CARACAL_REDIS_URL"), "");
    dev.assert_serves("first-start").await;
    let (zone, secret) = (
        dev.get("CARACAL_ZONE_ID").to_owned(),
        dev.get("CARACAL_APP_CLIENT_SECRET").to_owned(),
    );
    dev.interrupt().await;
    let again = Dev::start(folder.path(), None).await;
    assert_eq!(
        (
            again.get("CARACAL_ZONE_ID"),
            again.get("CARACAL_APP_CLIENT_SECRET")
        ),
        (zone.as_str(), secret.as_str())
    );
    again.assert_serves("second-start").await;
    let admin = Api::new(
        Dev::client(),
        again.get("CARACAL_API_URL"),
        Some(again.get("CARACAL_ADMIN_TOKEN")),
    );
    admin
        .get(&format!("/v1/zones/{zone}/audit/by-request/first-start"))
        .await
        .expect(200);
    again.interrupt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_user_can_run_it_too() {
    if !nix_is_root() {
        println!("this run is an ordinary user's already: the other test of this file shows it");
        return;
    }
    let folder = TempDir::new().unwrap();
    std::fs::copy(binary(), folder.path().join("caracal")).unwrap();
    for command in [["chmod", "-R", "755"], ["chown", "-R", "nobody"]] {
        assert!(
            Command::new(command[0])
                .args(&command[1..])
                .arg(folder.path())
                .status()
                .await
                .unwrap()
                .success()
        );
    }
    let dev = Dev::start(folder.path(), Some("nobody")).await;
    dev.assert_serves("as-nobody").await;
    dev.interrupt().await;
}

fn nix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
