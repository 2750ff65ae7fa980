//! Where does `caracal dev` get a database? A private PostgreSQL that listens on a Unix socket only.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::owner::Owner;

/// The superuser of the private cluster.
const SUPERUSER: &str = "caracal";
/// The longest path of a Unix socket that Linux accepts, less the name PostgreSQL gives its socket.
const SOCKET_DIR_BYTES_MAX: usize = 80;

/// A running private PostgreSQL. [`PrivatePostgres::stop`] ends it; its data stays.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    binaries: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    owner: Owner,
}

impl PrivatePostgres {
    /// Finds or fetches the server, makes the cluster when it is missing, and starts it.
    ///
    /// # Errors
    /// When no server can be found or fetched, or the server does not start; the text says what to do.
    pub(crate) async fn start(home: &Path) -> Result<Self> {
        let owner = Owner::for_database()?;
        let place = place_for(home, &owner)?;
        let binaries = find_binaries(&place).await?;
        let postgres = Self {
            binaries,
            data: place.join("data"),
            socket: socket_dir(&place),
            log: place.join("log"),
            owner,
        };
        for folder in [&place, &postgres.socket] {
            postgres.owner.make_dir(folder)?;
        }
        postgres.initialise().await?;
        postgres.launch().await?;
        Ok(postgres)
    }

    /// The connection URL of `database` as `role`.
    pub(crate) fn url(&self, database: &str, role: &str) -> String {
        let host = percent_encode(&self.socket.to_string_lossy());
        format!("postgres://{role}@localhost/{database}?host={host}")
    }

    /// The connection URL of `database` as the superuser of this cluster.
    pub(crate) fn admin_url(&self, database: &str) -> String {
        self.url(database, SUPERUSER)
    }

    /// Stops the server and waits until it has written everything.
    ///
    /// # Errors
    /// When the server does not stop in time.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.pg_ctl(&["stop", "-m", "fast", "-w", "-t", "20"]).await
    }

    async fn initialise(&self) -> Result<()> {
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let mut command = self.owner.command(&self.binaries.join("initdb"));
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C"]);
        run(command, "initdb").await
    }

    /// Starts the server; one left over from a killed `caracal dev` is stopped first.
    async fn launch(&self) -> Result<()> {
        if self.pg_ctl(&["status"]).await.is_ok() {
            self.stop()
                .await
                .context("a PostgreSQL of an earlier `caracal dev` is still running")?;
        }
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c unix_socket_permissions=0700 -c max_connections=200",
            self.socket.display()
        );
        let log = self.log.to_string_lossy().into_owned();
        self.pg_ctl(&["start", "-w", "-t", "30", "-l", &log, "-o", &options])
            .await
            .with_context(|| format!("PostgreSQL did not start; its log is {log}"))
    }

    async fn pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.owner.command(&self.binaries.join("pg_ctl"));
        command.arg("-D").arg(&self.data).args(arguments);
        run(command, "pg_ctl").await
    }
}

/// Runs a command without a terminal and turns a failure into its own words.
async fn run(mut command: Command, name: &str) -> Result<()> {
    // A server started by pg_ctl inherits its output, so it must not be a pipe that is read to its end.
    let errors = tempfile_for_output()?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?);
    let status = command
        .status()
        .await
        .with_context(|| format!("cannot run {name}"))?;
    if status.success() {
        return Ok(());
    }
    bail!("{name} failed ({status}): {}", read_back(errors)?.trim())
}

fn tempfile_for_output() -> Result<std::fs::File> {
    tempfile::tempfile().context("cannot make a temporary file")
}

fn read_back(mut file: std::fs::File) -> Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(8_192).read_to_string(&mut text)?;
    Ok(text)
}

/// The folder of the cluster: inside the data directory, or, when the database's user cannot reach that, beside the system's state.
fn place_for(home: &Path, owner: &Owner) -> Result<PathBuf> {
    let inside = home.join("postgres");
    if owner.can_reach(home) {
        return Ok(inside);
    }
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    let outside = PathBuf::from(format!("/var/lib/caracal-dev/{:016x}", hasher.finish()));
    std::fs::create_dir_all(&outside).with_context(|| format!("cannot make {}", outside.display()))?;
    std::fs::write(home.join("postgres.location"), format!("{}\n", outside.display()))?;
    Ok(outside.join("postgres"))
}

/// The folder of the socket: in the cluster's folder unless that path is too long for a socket.
fn socket_dir(place: &Path) -> PathBuf {
    let inside = place.join("socket");
    if inside.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
        return inside;
    }
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    std::env::temp_dir().join(format!("caracal-{:016x}", hasher.finish()))
}

/// The folder with `initdb` and `pg_ctl`: the machine's newest PostgreSQL from 15 on, else one fetched into the data directory.
async fn find_binaries(place: &Path) -> Result<PathBuf> {
    if let Some(found) = installed_binaries() {
        return Ok(found);
    }
    let installation = place.join("server");
    if let Some(found) = fetched_binaries(&installation) {
        return Ok(found);
    }
    tracing::info!("no PostgreSQL 15 or newer on this machine: fetching one");
    let settings = postgresql_embedded::Settings {
        installation_dir: installation.clone(),
        data_dir: place.join("unused"),
        ..postgresql_embedded::Settings::default()
    };
    // Its own initialisation is not used and may fail as root; what counts is whether the binaries are there.
    let outcome = postgresql_embedded::PostgreSQL::new(settings).setup().await;
    match (fetched_binaries(&installation), outcome) {
        (Some(found), _) => Ok(found),
        (None, Err(error)) => Err(error).context(
            "no PostgreSQL 15 or newer was found or could be fetched: install it (Debian: apt-get install postgresql) or set DATABASE_URL",
        ),
        (None, Ok(())) => bail!("the fetched PostgreSQL has no initdb: install PostgreSQL 15 or newer, or set DATABASE_URL"),
    }
}

fn installed_binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(version, bin)| *version >= 15 && is_server(bin))
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin).or_else(|| {
        [
            "/usr/local/pgsql/bin",
            "/usr/bin",
            "/usr/local/bin",
            "/opt/homebrew/bin",
        ]
        .iter()
        .map(PathBuf::from)
        .find(|bin| is_server(bin))
    })
}

fn fetched_binaries(installation: &Path) -> Option<PathBuf> {
    let direct = installation.join("bin");
    if is_server(&direct) {
        return Some(direct);
    }
    std::fs::read_dir(installation)
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .find(|bin| is_server(bin))
}

/// A folder that holds a whole server, not only its clients or wrappers.
fn is_server(bin: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|name| {
        std::fs::metadata(bin.join(name))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0 && file.size() > 0)
    })
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
