//! When does another route table come into force? When the configuration file changes, or at SIGHUP.
//!
//! A request keeps the table it began with, so nothing is dropped. A file that is wrong changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::config::{ConfigErrors, Reader, Source};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::telemetry;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Gateway;
use crate::config::Config;
use crate::snapshot::routes::{RouteRule, Routes};

/// A file that is written in place is read twice, this long apart, and counts only if nobody wrote meanwhile.
const SETTLE: Duration = Duration::from_millis(50);
/// What a reload puts in force; everything else in the file needs a restart.
const RELOADED: [&str; 2] = ["route", "caracal_gateway_routes"];

/// Follows the file of one gateway.
#[derive(Debug)]
pub(crate) struct Follower {
    gateway: Arc<Gateway>,
    path: PathBuf,
    hangups: Option<Signal>,
    /// What was read last, whether it was right or wrong.
    last: Option<String>,
    /// The keys last said to need a restart.
    told: Vec<String>,
    /// What was last said to be wrong, while it is: the file may be right, and another one that it names missing.
    wrong: Option<String>,
}

/// What a file says, as far as it can be put in force.
#[derive(Debug)]
struct Said {
    routes: Vec<RouteRule>,
    /// The keys that differ from those of the start and are not put in force.
    needs_restart: Vec<String>,
}

impl Follower {
    /// Follows the file `gateway` was started with; `None` when there was none. SIGHUP is listened to from now on.
    pub(crate) fn of(gateway: &Arc<Gateway>) -> Option<Self> {
        let path = gateway.config.reload.source.file()?.to_owned();
        let hangups = signal(SignalKind::hangup()).inspect_err(|error| {
            tracing::warn!(%error, "SIGHUP is not listened to");
        });
        Some(Self {
            gateway: Arc::clone(gateway),
            hangups: hangups.ok(),
            last: None,
            told: Vec::new(),
            wrong: None,
            path,
        })
    }

    /// Follows until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(self.gateway.config.reload.every) => {}
                () = hangup(self.hangups.as_mut()) => {
                    self.last = Some(String::new());
                    self.wrong = None;
                }
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let settle = async { tokio::time::sleep(SETTLE).await };
        match read_settled(&self.path, self.last.as_deref(), settle).await {
            Ok(Some(text)) => {
                let is_first = self.last.is_none();
                if !(is_first && self.is_of_the_start(&text)) {
                    self.apply(&text);
                }
                self.last = Some(text);
            }
            // The same file may be right now.
            Ok(None) if self.wrong.is_some() => {
                if let Some(text) = self.last.take() {
                    self.apply(&text);
                    self.last = Some(text);
                }
            }
            Ok(None) => {}
            // Between a removal and its replacement there is no file; the next look finds it.
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the configuration cannot be read");
            }
        }
    }

    fn is_of_the_start(&self, text: &str) -> bool {
        let started_with = &self.gateway.config.reload.source;
        started_with
            .with_file_text(text)
            .is_ok_and(|source| started_with.keys_that_differ(&source).is_empty())
    }

    fn apply(&mut self, text: &str) {
        let gateway = &self.gateway;
        match read(&gateway.config.reload.source, text) {
            Ok(said) => {
                self.wrong = None;
                let table = Routes::new(said.routes, Some(&gateway.routes.load()));
                tracing::info!(routes = table.len(), "the route table is loaded");
                gateway.routes.store(Arc::new(table));
                gateway.table_changed.notify_one();
                gateway.metrics.config_reloads.inc();
                if !said.needs_restart.is_empty() && said.needs_restart != self.told {
                    let keys = said.needs_restart.join(", ");
                    tracing::warn!(keys, "these settings have changed too, which needs a restart");
                }
                self.told = said.needs_restart;
            }
            Err(errors) => {
                let wrong = Some(errors.to_string());
                if self.wrong == wrong {
                    return;
                }
                self.wrong = wrong;
                for problem in errors.problems() {
                    let (key, mend) = (&problem.key, &problem.mend);
                    tracing::error!(key, problem = problem.problem, mend, "the configuration is wrong");
                }
                tracing::error!("the route table stays as it was");
                gateway.metrics.config_reload_errors.inc();
            }
        }
    }
}

async fn hangup(hangups: Option<&mut Signal>) {
    if let Some(hangups) = hangups
        && hangups.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Checks the whole file as at a start, so that one that would not start is not half in force.
fn read(started_with: &Source, text: &str) -> Result<Said, ConfigErrors> {
    let source = started_with.with_file_text(text)?;
    let mut reader = Reader::new(&source);
    // The executable reads these, for every role.
    telemetry::Settings::read(&mut reader);
    let routes = Config::read(&mut reader).routes;
    reader.finish()?;
    let mut needs_restart = started_with.keys_that_differ(&source);
    needs_restart.retain(|key| !RELOADED.contains(&key.as_str()));
    Ok(Said {
        routes,
        needs_restart,
    })
}

/// The text of the file if it is not `last`, and stays the same over `pause`. An empty one is about to be written. Another file that is put in its place meanwhile does not
/// matter: this one is whole.
async fn read_settled(
    path: &Path,
    last: Option<&str>,
    pause: impl Future<Output = ()>,
) -> io::Result<Option<String>> {
    let mut file = File::open(path).await?;
    let mut text = String::new();
    file.read_to_string(&mut text).await?;
    if Some(text.as_str()) == last {
        return Ok(None);
    }
    pause.await;
    let mut again = String::with_capacity(text.len());
    file.rewind().await?;
    file.read_to_string(&mut again).await?;
    Ok((text == again && !text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "sts_url = \"http://sts\"\nport = 8081\n[[route]]\npath = \"/a\"\nresource = \"resource://a\"\n";

    fn started() -> Source {
        let key = "0123456789abcdef".repeat(4);
        let secrets = [
            ("REDIS_URL", "redis://redis"),
            ("STREAMS_HMAC_KEY", key.as_str()),
            ("AUDIT_HMAC_KEY", key.as_str()),
        ];
        Source::from_toml_str(FILE).unwrap().with_pairs(secrets)
    }

    #[test]
    fn a_file_gives_its_routes_and_what_needs_a_restart() {
        let said = read(&started(), FILE).unwrap();
        assert_eq!((said.routes.len(), said.needs_restart.len()), (1, 0));
        let changed = FILE.replace("8081", "8082").replace("/a", "/b") + "sts_timeout = \"1s\"";
        // What comes after a table is in it.
        assert!(read(&started(), &changed).is_err());
        let changed = format!("sts_timeout = \"1s\"\n{}", FILE.replace("8081", "8082"));
        assert_eq!(
            read(&started(), &changed).unwrap().needs_restart,
            ["port", "sts_timeout"]
        );
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_does_not_count_yet() {
        let name = format!("caracal-reload-{}.toml", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let read = async |last, pause: &dyn Fn()| {
            let pause = async { pause() };
            read_settled(&path, last, pause).await.unwrap()
        };
        write("a");
        assert_eq!(read(None, &|| write("ab")).await, None, "it is written just now");
        assert_eq!(read(None, &|| ()).await.as_deref(), Some("ab"));
        assert_eq!(read(Some("ab"), &|| ()).await, None, "nothing new");
        let next = path.with_extension("next");
        std::fs::write(&next, "c").unwrap();
        let replaced = read(None, &|| std::fs::rename(&next, &path).unwrap()).await;
        assert_eq!(
            replaced.as_deref(),
            Some("ab"),
            "a file that was replaced is whole"
        );
        write("");
        assert_eq!(
            read(None, &|| ()).await,
            None,
            "an empty one is about to be written"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_wrong_anywhere_gives_nothing() {
        for text in [
            "not toml",
            &FILE.replace("8081", "\"x\""),
            &FILE.replace("\"/a\"", "\"a\""),
            &FILE.replace("resource =", "resurce ="),
        ] {
            let errors = read(&started(), text).unwrap_err();
            let is_mendable = |problem: &caracal_chassis::config::Problem| !problem.mend.is_empty();
            assert!(errors.problems().iter().all(is_mendable), "{errors}");
        }
    }
}
