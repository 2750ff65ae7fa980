//! Another route table comes into force while requests go on: none fails, and none sees half a table.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use caracal_testing::{Behaviour, Upstream, wait_until};
use http_body_util::Full;
use serde_json::Value;

use crate::client::{Answer, Kept, send};
use crate::executable::Executable;
use crate::rig::{CONFIG_FILE, Rig, SOON};

/// Routes of each table: enough that a half of one lacks some.
const ROUTES: usize = 200;

/// A configuration file that changes.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(text: &str) -> Self {
        let name = format!("caracal-routes-{}.toml", uuid::Uuid::new_v4());
        let file = Self(std::env::temp_dir().join(name));
        file.replace(text);
        file
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Puts another file in its place.
    pub(crate) fn replace(&self, text: &str) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.0).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A temporary one.
        let _removed = std::fs::remove_file(&self.0);
    }
}

/// A table in which every path leads below `version` of the upstream.
fn table(upstream: &str, version: &str) -> String {
    let mut text = String::new();
    for number in 0..ROUTES {
        let written = writeln!(
            text,
            "[[route]]\npath_prefix = \"/r{number}\"\npublic = true\nupstream = \"{upstream}/{version}\"\n"
        );
        written.unwrap();
    }
    text
}

/// A gateway that follows `file`.
async fn following(file: &File) -> Rig {
    let settings = [
        (CONFIG_FILE, file.path()),
        ("RELOAD_INTERVAL", "10ms"),
        ("METRICS_BEARER", "scrape"),
    ];
    Rig::with(&settings).await
}

async fn metrics(rig: &Rig) -> Value {
    let request = http::Request::get("/metrics.json").header("host", "x");
    let request = request.header("authorization", "Bearer scrape");
    send(
        rig.gateway.addresses.admin,
        request.body(Full::default()).unwrap(),
    )
    .await
    .json()
}

async fn count(rig: &Rig, name: &str) -> u64 {
    metrics(rig).await[name].as_u64().unwrap()
}

/// The version of the table that answers for a path.
async fn version(rig: &Rig, path: &str) -> String {
    version_in(&rig.send(http::Request::get(path).header("host", "a.test")).await)
}

/// The version of the table that gave this answer.
fn version_in(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let target = answer.json()["target"].as_str().unwrap().to_owned();
    target.split('/').nth(1).unwrap().to_owned()
}

/// How often the table is replaced: three seconds of a hundred a second, where the machine can.
const CHANGES: usize = 300;
const PACE: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_replacements_a_second_fail_no_request_and_show_no_half_table() {
    let site = Upstream::start(Behaviour::Echo).await;
    let tables = ["old", "new", "last"].map(|version| table(&site.url(), version));
    let file = File::new(&tables[0]);
    let rig = following(&file).await;
    let is_over = AtomicBool::new(false);
    let (old, new) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_told = |version: &str| match version {
        "old" => drop(old.fetch_add(1, Ordering::SeqCst)),
        "new" => drop(new.fetch_add(1, Ordering::SeqCst)),
        "last" => {}
        other => panic!("nobody wrote {other}"),
    };
    // Those at the end are what a half lacks.
    let path = |number: usize| format!("/r{}/x", ROUTES - 1 - number % ROUTES);
    let on_new_connections = async || {
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            number += 1;
            is_told(&version(&rig, &path(number)).await);
        }
        number
    };
    let on_a_kept_connection = async || {
        let mut connection = Kept::to(rig.gateway.addresses.main).await;
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            number += 1;
            let answer = connection.send(http::Request::get(path(number)).header("host", "a.test"));
            is_told(&version_in(&answer.await));
        }
        number
    };
    // Whose authority is asked for, too; the table leads it nowhere.
    let governed = async || {
        let mut connection = Kept::to(rig.gateway.addresses.main).await;
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            number += 1;
            let answer = connection.send(rig.get("/v1/contacts")).await;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
        }
        number
    };
    let change = async {
        let mut pace = tokio::time::interval(PACE);
        for number in 0..CHANGES {
            pace.tick().await;
            file.replace(&tables[number % 2]);
        }
        file.replace(&tables[2]);
        wait_until(SOON, async || version(&rig, "/r0").await == "last").await;
        is_over.store(true, Ordering::SeqCst);
    };
    let (fresh, also_fresh, kept, also_kept, governed, ()) = tokio::join!(
        on_new_connections(),
        on_new_connections(),
        on_a_kept_connection(),
        on_a_kept_connection(),
        governed(),
        change,
    );
    for answered in [fresh, also_fresh, kept, also_kept, governed] {
        assert!(answered > 0);
    }
    assert!(
        old.load(Ordering::SeqCst) > 0 && new.load(Ordering::SeqCst) > 0,
        "tables came into force while requests went on"
    );
    assert_eq!(count(&rig, "config_reload_errors").await, 0);
    assert_eq!(version(&rig, &path(0)).await, "last");
    assert_eq!(version(&rig, &path(ROUTES - 1)).await, "last");
}

#[tokio::test]
async fn a_file_that_is_wrong_leaves_the_table_as_it_was() {
    let site = Upstream::start(Behaviour::Echo).await;
    let file = File::new(&table(&site.url(), "old"));
    let rig = following(&file).await;
    for (wrong, number) in ["not toml", "[[route]]\npath = \"/r0\"\n", "max_body = 1\n"]
        .into_iter()
        .zip(0..)
    {
        file.replace(wrong);
        wait_until(SOON, async || count(&rig, "config_reload_errors").await > number).await;
        assert_eq!(version(&rig, "/r0").await, "old", "after {wrong:?}");
    }
    std::fs::remove_file(&file.0).unwrap();
    assert_eq!(version(&rig, "/r0").await, "old", "without a file");
    file.replace(&table(&site.url(), "new"));
    wait_until(SOON, async || version(&rig, "/r0").await == "new").await;
    assert!(count(&rig, "config_reloads").await >= 1);
}

#[tokio::test]
async fn a_file_that_names_a_missing_one_is_tried_again_by_itself_and_told_of_once() {
    let site = Upstream::start(Behaviour::Echo).await;
    let file = File::new(&table(&site.url(), "old"));
    let rig = following(&file).await;
    let secret = file.0.with_extension("secret");
    let next = table(&site.url(), "new");
    file.replace(&format!("caracal_admin_token_file = {secret:?}\n{next}"));
    wait_until(SOON, async || count(&rig, "config_reload_errors").await == 1).await;
    assert_eq!(version(&rig, "/r0").await, "old");
    std::fs::write(&secret, "a secret that is long enough").unwrap();
    wait_until(SOON, async || version(&rig, "/r0").await == "new").await;
    assert_eq!(count(&rig, "config_reload_errors").await, 1);
    std::fs::remove_file(&secret).unwrap();
}

#[tokio::test]
async fn a_hangup_loads_the_table_at_once() {
    let site = Upstream::start(Behaviour::Echo).await;
    let file = File::new(&table(&site.url(), "old"));
    // A process of its own: a signal is for all gateways of one.
    let arguments = ["--config", file.path()];
    let gateway = Executable::start_with(&arguments, &[("RELOAD_INTERVAL", "24h")]).await;
    let target = async || {
        let asked = "GET /r0 HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        gateway.send(asked).await.json()["target"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(target().await, "/old/r0");
    file.replace(&table(&site.url(), "new"));
    gateway.hang_up();
    wait_until(SOON, async || target().await == "/new/r0").await;
}

#[tokio::test]
async fn a_response_that_is_open_keeps_the_route_it_began_with() {
    let site = Upstream::start(Behaviour::Sse(Duration::from_millis(20))).await;
    let file = File::new(&table(&site.url(), "old"));
    let rig = following(&file).await;
    let url = format!("http://{}", rig.gateway.addresses.main);
    let mut stream = caracal_testing::OpenStream::events(&url, "/r0", &[]).await;
    file.replace("[[route]]\npath = \"/now\"\nredirect = \"/x\"\n");
    let status = async |path: &str| {
        let request = http::Request::get(path).header("host", "a.test");
        rig.send(request).await.status
    };
    wait_until(SOON, async || status("/now").await == 308).await;
    assert_eq!(status("/r0").await, 401, "its route is gone");
    for _event in 0..3 {
        stream.until("\n\n").await;
    }
}
