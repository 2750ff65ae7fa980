//! How does a test run the real executable, look at its log, kill it and start it again?

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use caracal_chassis::http_client::{Client, ClientLimits};
use http::{HeaderMap, Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::environment;
use crate::wait::{wait_for, wait_until};

/// Time for a process to become ready: an unoptimised build on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Time for a process to end after SIGTERM: its own drain time and a little more.
const STOP: Duration = Duration::from_secs(30);

/// Lines of the log shown when something fails.
const LOG_LINES: usize = 60;

/// What to run.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// The name in messages, e.g. `sts-0`.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments, e.g. the role.
    pub arguments: Vec<String>,
    /// Its whole environment, beside `PATH` and `HOME`.
    pub environment: BTreeMap<String, String>,
    /// Where it answers `/ready`, without a slash at the end; empty when it does not.
    pub base_url: String,
}

impl ProcessSpec {
    /// The `caracal` executable of this build; see `CARACAL_BIN`.
    ///
    /// # Panics
    /// When it was not built.
    pub fn caracal(name: impl Into<String>, arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..Self::program(name, environment::executable())
        }
    }

    /// Any program, without arguments.
    pub fn program(name: impl Into<String>, program: PathBuf) -> Self {
        Self {
            name: name.into(),
            program,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            base_url: String::new(),
        }
    }
}

/// A child process, killed when dropped. When the test fails, the end of its log is printed.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    log: NamedTempFile,
    child: Option<Child>,
}

impl Process {
    /// Starts it and returns at once.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub fn spawn(spec: ProcessSpec) -> Self {
        let log = NamedTempFile::new().expect("a temporary file");
        let mut process = Self {
            spec,
            log,
            child: None,
        };
        process.start_again();
        process
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready, with the end of its log.
    pub async fn start(spec: ProcessSpec) -> Self {
        let mut process = Self::spawn(spec);
        process.ready().await;
        process
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end by itself with success, with the end of its log.
    pub async fn run_to_end(spec: ProcessSpec) {
        let mut process = Self::spawn(spec);
        let status = process.ended(START).await;
        assert!(
            status.success(),
            "{} ended with {status}\n{}",
            process.spec.name,
            process.log_end()
        );
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Panics
    /// When it ends first, or is not ready in time; with the end of its log.
    pub async fn ready(&mut self) {
        let client = Client::new(ClientLimits::default());
        let url = format!("{}/ready", self.spec.base_url);
        let mut last = "no answer".to_owned();
        let until = tokio::time::Instant::now() + START;
        loop {
            if let Some(status) = self.exit_status() {
                panic!(
                    "{} ended with {status} before it was ready\n{}",
                    self.spec.name,
                    self.log_end()
                );
            }
            match client.request(Method::GET, &url, HeaderMap::new(), "").await {
                Ok(answer) if answer.status == StatusCode::OK => return,
                Ok(answer) => last = String::from_utf8_lossy(&answer.body).into_owned(),
                Err(_) => {}
            }
            let waited_long = tokio::time::Instant::now() > until;
            assert!(
                !waited_long,
                "{} is not ready: {last}\n{}",
                self.spec.name,
                self.log_end()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where it answers.
    pub fn base_url(&self) -> &str {
        &self.spec.base_url
    }

    /// Its process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Changes a variable for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.spec.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Waits until its log has `text`.
    ///
    /// # Panics
    /// When it does not come in time, with the end of the log.
    pub async fn logged(&self, text: &str) {
        let name = &self.spec.name;
        let found = tokio::time::timeout(STOP, wait_until(START, async || self.log().contains(text))).await;
        assert!(found.is_ok(), "{name} did not log {text:?}\n{}", self.log_end());
    }

    /// Ends it as a power failure would, and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself a moment ago.
            let _gone = (child.kill(), child.wait());
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended(STOP).await
    }

    /// Stops its clock: it answers nothing and keeps its connections, until [`Process::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Starts a second one beside it, with the same environment and address, and returns at once.
    ///
    /// # Panics
    /// As [`Process::spawn`].
    #[must_use]
    pub fn another(&self) -> Self {
        Self::spawn(self.spec.clone())
    }

    /// Starts it again after it ended or was killed, with the same environment and address, and returns at once.
    ///
    /// # Panics
    /// When it still runs, or cannot be run.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.spec.name);
        let output = || {
            OpenOptions::new()
                .append(true)
                .open(self.log.path())
                .expect("the log file")
        };
        let child = Command::new(&self.spec.program)
            .args(&self.spec.arguments)
            .env_clear()
            .envs(inherited())
            .envs(&self.spec.environment)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn();
        match child {
            Ok(child) => {
                remember(child.id());
                self.child = Some(child);
            }
            Err(error) => panic!("{} cannot be run: {error}", self.spec.program.display()),
        }
    }

    /// Ends it in good order if it runs, starts it again and waits until it is ready.
    ///
    /// # Panics
    /// See [`Process::stop`] and [`Process::ready`].
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.stop().await;
        }
        self.start_again();
        self.ready().await;
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time, with the end of its log.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let waiting = wait_for(deadline * 2, async || self.exit_status());
        let status = tokio::time::timeout(deadline, waiting).await;
        let Ok(status) = status else {
            panic!("{} does not end\n{}", self.spec.name, self.log_end())
        };
        self.child = None;
        status
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself a moment ago.
            let _gone = kill(Pid::from_raw(id), signal);
        }
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let skipped = lines.len().saturating_sub(LOG_LINES);
        let end: Vec<_> = lines.into_iter().skip(skipped).collect();
        format!("--- log of {} ---\n{}\n---", self.spec.name, end.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.thaw();
        self.kill9();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows why")]
            {
                eprintln!("{}", self.log_end());
            }
        }
    }
}

/// The variables a program needs to run at all; everything else would make a test depend on the machine.
fn inherited() -> impl Iterator<Item = (&'static str, String)> {
    let names = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];
    names
        .into_iter()
        .filter_map(|name| Some((name, environment::optional(name)?)))
}

/// Tells the runner of the tests which process to end if this one is killed before it can.
fn remember(id: u32) {
    let Some(path) = environment::optional("CARACAL_TEST_PIDS") else {
        return;
    };
    let file: std::io::Result<File> = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{id}"));
    assert!(written.is_ok(), "CARACAL_TEST_PIDS: {path} cannot be written");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> ProcessSpec {
        ProcessSpec {
            name: "script".to_owned(),
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
            base_url: "http://127.0.0.1:1".to_owned(),
        }
    }

    #[tokio::test]
    async fn the_log_is_kept_over_restarts() {
        let mut process = Process::spawn(shell("echo \"$GREETING $CARGO_MANIFEST_DIR.\"; echo more >&2"));
        assert!(process.ended(START).await.success());
        process.set("GREETING", "again");
        process.start_again();
        assert!(process.ended(START).await.success());
        assert_eq!(process.log(), "hello .\nmore\nagain .\nmore\n");
    }

    #[tokio::test]
    async fn a_stopped_process_may_end_in_good_order_and_a_killed_one_may_not() {
        let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done";
        let mut process = Process::spawn(shell(script));
        process.logged("up").await;
        assert_eq!(process.stop().await.code(), Some(3));
        assert!(process.log().ends_with("bye\n"));
        process.start_again();
        process.kill9();
        assert!(process.id().is_none());
        assert_eq!(process.log().matches("bye").count(), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "a reason to end")]
    async fn a_process_that_ends_too_early_shows_its_log() {
        Process::start(shell("echo a reason to end; exit 1")).await;
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let process = Process::spawn(shell("sleep 600"));
        let id = Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap());
        assert!(kill(id, None).is_ok());
        drop(process);
        assert!(kill(id, None).is_err(), "the process must be gone and reaped");
    }
}
