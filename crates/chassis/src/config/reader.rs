//! Reading settings: every mistake is collected, none ends the reading.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::errors::{ConfigErrors, Problem};
use super::mode::Mode;
use super::scalar::{format_duration, format_size, parse_boolean, parse_duration, parse_size};
use super::source::{Found, Origin, Section, Source};
use super::table::Table;
use super::unknown::{KnownKeys, unknown_keys};
use crate::secret::Secret;

/// A usable stand-in for a key that was reported as wrong; the configuration it goes into is never used.
const DUMMY_KEY: [u8; 32] = [0; 32];

/// Reads and checks settings. A method that finds a mistake records it, returns a stand-in and goes on, so that
/// [`Reader::finish`] can report everything at once. Names are those of the environment variables, in capitals.
#[derive(Debug)]
pub struct Reader<'s> {
    source: &'s Source,
    mode: Mode,
    known: KnownKeys,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl<'s> Reader<'s> {
    /// Starts reading: resolves the mode, and refuses `INSECURE_*` variables outside of dev even though nothing reads
    /// them, because who sets one expects a weaker service than he would get.
    pub fn new(source: &'s Source) -> Self {
        let mut reader = Self {
            source,
            mode: Mode::Stable,
            known: KnownKeys::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        reader.mode = reader.resolve_mode();
        reader.refuse_insecure_variables();
        reader
    }

    /// How strict this process is: `CARACAL_MODE`.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Text that must be set, unless there is a default.
    pub fn text(&mut self, key: &str, default: Option<&str>) -> String {
        match (self.find(key), default) {
            (Some(found), _) => found.text,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                self.missing(key, key);
                String::new()
            }
        }
    }

    /// Text that may be left out.
    pub fn optional_text(&mut self, key: &str) -> Option<String> {
        self.find(key).map(|found| found.text)
    }

    /// One of several words, each with what it means. The first is the default.
    pub fn choice<T: Clone>(&mut self, key: &str, default: T, words: &[(&str, T)]) -> T {
        let Some(found) = self.find(key) else {
            return default;
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == found.text) {
            return meaning.clone();
        }
        let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.report(
            key,
            format!("is {:?}", found.text),
            format!("write one of: {}", allowed.join(", ")),
        );
        default
    }

    /// A list separated by commas; in the file a list of strings. Blanks around elements and empty elements are
    /// dropped.
    pub fn list(&mut self, key: &str) -> Vec<String> {
        let text = self.optional_text(key).unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!("write a whole number from {} to {}", range.start(), range.end());
        match found.text.trim().parse::<i64>() {
            Ok(number) if range.contains(&number) => number,
            Ok(number) => self.wrong(key, format!("is {number}, out of range"), mend, default),
            Err(_) => self.wrong(
                key,
                format!("is {:?}, not a whole number", found.text),
                mend,
                default,
            ),
        }
    }

    /// A duration with its unit, within `range`: `250ms`, `45s`, `1m30s`, `2h`.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!(
            "write a duration with its unit from {} to {}, e.g. {}",
            format_duration(*range.start()),
            format_duration(*range.end()),
            format_duration(default)
        );
        match parse_duration(found.text.trim()) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => self.wrong(key, format!("is {:?}, out of range", found.text), mend, default),
            None => self.wrong(key, format!("is {:?}, not a duration", found.text), mend, default),
        }
    }

    /// A duration whose name says its unit (`..._MS`): a whole number of milliseconds. A value with a unit is
    /// accepted too.
    pub fn milliseconds(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.duration_in(key, default, range, Duration::from_millis(1))
    }

    /// A duration whose name says its unit (`..._SECONDS`, `..._SEC`): a whole number of seconds. A value with a
    /// unit is accepted too.
    pub fn seconds(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.duration_in(key, default, range, Duration::from_secs(1))
    }

    /// A number of bytes within `range`: `1MiB`, `64KiB`; a plain integer is bytes.
    pub fn size(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!(
            "write a size from {} to {}",
            format_size(*range.start()),
            format_size(*range.end())
        );
        match parse_size(found.text.trim()) {
            Some(bytes) if range.contains(&bytes) => bytes,
            Some(_) => self.wrong(key, format!("is {:?}, out of range", found.text), mend, default),
            None => self.wrong(key, format!("is {:?}, not a size", found.text), mend, default),
        }
    }

    /// A switch: `true`/`false`, `1`/`0`, `yes`/`no`, `on`/`off`.
    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.find(key) {
            None => default,
            Some(found) => self.switch(key, &found, default),
        }
    }

    /// A switch that weakens something when it is on. Off by default, refused outside of dev mode, listed among the
    /// [`Reader::warnings`] when on. In the file it is written under `[insecure]`.
    pub fn insecure_boolean(&mut self, key: &str) -> bool {
        let on = match self.find_in(key, Section::Insecure) {
            None => false,
            Some(found) => self.switch(key, &found, false),
        };
        if on && !self.mode.is_dev() {
            self.report(
                key,
                format!(
                    "weakens the service and is refused in mode {}",
                    self.mode.as_str()
                ),
                "remove it, or set CARACAL_MODE=dev on a developer's machine",
            );
            return false;
        }
        if on {
            self.warnings.push(format!(
                "{} is on: never use this in production",
                self.source.shown(key)
            ));
        }
        on
    }

    /// A secret that must be set, as `KEY` or as the content of the file `KEY_FILE`. Trailing white space of the file
    /// is dropped.
    pub fn secret(&mut self, key: &str) -> Secret {
        let before = self.problems.len();
        if let Some(secret) = self.optional_secret(key) {
            return secret;
        }
        if self.problems.len() == before {
            self.missing(key, &format!("{key} or {key}_FILE"));
        }
        Secret::from("")
    }

    /// A secret that may be left out.
    pub fn optional_secret(&mut self, key: &str) -> Option<Secret> {
        let key_file = format!("{key}_FILE");
        let direct = self.find(key);
        let by_file = self.find(&key_file);
        match (direct, by_file) {
            (Some(direct), None) => Some(self.direct_secret(key, direct)),
            (Some(direct), Some(by_file))
                if direct.origin == Origin::Environment || by_file.origin == Origin::File =>
            {
                Some(self.direct_secret(key, direct))
            }
            (_, Some(by_file)) => self.secret_file(&key_file, Path::new(&by_file.text)),
            (None, None) => None,
        }
    }

    /// A secret that must be set in every mode but dev.
    pub fn secret_outside_dev(&mut self, key: &str) -> Option<Secret> {
        if self.mode.is_dev() {
            self.optional_secret(key)
        } else {
            Some(self.secret(key))
        }
    }

    /// A key of at least `min_bytes` bytes, written in hexadecimal, that must be set.
    pub fn hex_key(&mut self, key: &str, min_bytes: usize) -> Secret<Vec<u8>> {
        let before = self.problems.len();
        let secret = self.secret(key);
        if self.problems.len() > before {
            return Secret::new(DUMMY_KEY.to_vec());
        }
        self.decode_key(key, &secret, min_bytes)
    }

    /// A key in hexadecimal that may be left out.
    pub fn optional_hex_key(&mut self, key: &str, min_bytes: usize) -> Option<Secret<Vec<u8>>> {
        let secret = self.optional_secret(key)?;
        Some(self.decode_key(key, &secret, min_bytes))
    }

    /// A key in hexadecimal that must be set in every mode but dev.
    pub fn hex_key_outside_dev(&mut self, key: &str, min_bytes: usize) -> Option<Secret<Vec<u8>>> {
        if self.mode.is_dev() {
            self.optional_hex_key(key, min_bytes)
        } else {
            Some(self.hex_key(key, min_bytes))
        }
    }

    /// An absolute URL that must be set, with one of `schemes`, without user, password, query or fragment.
    pub fn url(&mut self, key: &str, schemes: &[&str]) -> String {
        self.url_or(key, None, schemes)
    }

    /// The same with a default.
    pub fn url_or(&mut self, key: &str, default: Option<&str>, schemes: &[&str]) -> String {
        let before = self.problems.len();
        let text = self.text(key, default);
        if self.problems.len() == before {
            self.check_url(key, &text, schemes);
        }
        text
    }

    /// The same for a URL that may be left out.
    pub fn optional_url(&mut self, key: &str, schemes: &[&str]) -> Option<String> {
        let text = self.optional_text(key)?;
        self.check_url(key, &text, schemes);
        Some(text)
    }

    /// A path that must be set, unless there is a default. Whether it exists is checked by its user.
    pub fn path(&mut self, key: &str, default: Option<&str>) -> PathBuf {
        PathBuf::from(self.text(key, default))
    }

    /// A path that may be left out.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional_text(key).map(PathBuf::from)
    }

    /// An address and port, e.g. `127.0.0.1:8082`, `[::1]:8082`.
    pub fn socket_addr(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        let Some(found) = self.find(key) else {
            return default;
        };
        match found.text.trim().parse() {
            Ok(address) => address,
            Err(_) => self.wrong(
                key,
                format!("is {:?}, not an address and port", found.text),
                format!("write e.g. {default}"),
                default,
            ),
        }
    }

    /// Where a service listens: `HOST` (default 127.0.0.1; `localhost` is that too) and the port named `port_key`.
    /// Port 0 takes a free one.
    pub fn listen_address(&mut self, port_key: &str, default_port: u16) -> SocketAddr {
        let host = self.host();
        let port = self.integer(port_key, i64::from(default_port), 0..=i64::from(u16::MAX));
        SocketAddr::new(host, u16::try_from(port).unwrap_or(default_port))
    }

    /// The tables `[[key]]` of the file; as an environment variable a JSON array of objects. Read each with
    /// [`Reader::table`].
    pub fn tables(&mut self, key: &str) -> Vec<Table> {
        self.know(key, Section::Plain);
        self.source.tables(key).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Vec::new()
        })
    }

    /// Reads one table with the same methods, and reports its unknown keys too.
    pub fn table<T>(&mut self, table: &Table, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let mut inner = Reader {
            source: table.source(),
            mode: self.mode,
            known: KnownKeys::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        let value = read(&mut inner);
        let unknown = unknown_keys(inner.source, &inner.known);
        self.problems.append(&mut inner.problems);
        self.problems.extend(unknown);
        self.warnings.append(&mut inner.warnings);
        value
    }

    /// Records a problem unless `condition` holds: for rules between several settings.
    pub fn check(&mut self, condition: bool, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        if !condition {
            self.report(key, problem, mend);
        }
    }

    /// What is allowed but should be known: log each at start, as a warning.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Everything that was found to be wrong, and every key of the file that nobody read with the nearest name that
    /// somebody did.
    pub fn finish(mut self) -> Result<(), ConfigErrors> {
        let unknown = unknown_keys(self.source, &self.known);
        self.problems.extend(unknown);
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors::of(self.problems))
        }
    }

    fn resolve_mode(&mut self) -> Mode {
        let mode = self.optional_text("CARACAL_MODE");
        let environment = self.optional_text("CARACAL_ENV");
        Mode::resolve(mode.as_deref(), environment.as_deref()).unwrap_or_else(|| {
            let text = mode.unwrap_or_default();
            self.wrong(
                "CARACAL_MODE",
                format!("is {text:?}"),
                "write dev, rc or stable",
                Mode::Stable,
            )
        })
    }

    fn refuse_insecure_variables(&mut self) {
        let is_on = |text: &str| parse_boolean(text) == Some(true);
        for (name, text) in &self.source.environment {
            if name.starts_with("INSECURE_") && is_on(text) && !self.mode.is_dev() {
                self.problems.push(Problem::new(
                    name,
                    format!("is on, which mode {} refuses", self.mode.as_str()),
                    "remove it, or set CARACAL_MODE=dev on a developer's machine",
                ));
            }
        }
    }

    fn host(&mut self) -> IpAddr {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        match self.optional_text("HOST").as_deref().map(str::trim) {
            None | Some("localhost") => loopback,
            Some(text) => match text.parse() {
                Ok(address) => address,
                Err(_) => self.wrong(
                    "HOST",
                    format!("is {text:?}, not an IP address"),
                    "write 127.0.0.1 to be reached from this machine only, or 0.0.0.0",
                    loopback,
                ),
            },
        }
    }

    fn duration_in(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
        unit: Duration,
    ) -> Duration {
        let Some(found) = self.find(key) else {
            return default;
        };
        let text = found.text.trim();
        let bare = text.parse::<u32>().ok().map(|count| unit.saturating_mul(count));
        let in_units = |duration: Duration| duration.as_millis() / unit.as_millis();
        let name = if unit == Duration::from_secs(1) {
            "seconds"
        } else {
            "milliseconds"
        };
        let mend = format!(
            "write a whole number of {name} from {} to {}",
            in_units(*range.start()),
            in_units(*range.end())
        );
        match bare.or_else(|| parse_duration(text)) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => self.wrong(key, format!("is {text:?}, out of range"), mend, default),
            None => self.wrong(key, format!("is {text:?}, not a number of {name}"), mend, default),
        }
    }

    fn switch(&mut self, key: &str, found: &Found, default: bool) -> bool {
        match parse_boolean(found.text.trim()) {
            Some(on) => on,
            None => self.wrong(
                key,
                format!("is {:?}, not a switch", found.text),
                "write true or false",
                default,
            ),
        }
    }

    /// A secret in the file itself is easily committed or copied; an address without a password is no secret.
    fn direct_secret(&mut self, key: &str, found: Found) -> Secret {
        let is_plain_address = found.text.contains(':') && !found.text.contains('@');
        if found.origin == Origin::File && !is_plain_address {
            self.warnings.push(format!(
                "{} is written in the configuration file: prefer {key}_FILE or the environment",
                self.source.shown(key)
            ));
        }
        Secret::new(found.text)
    }

    fn secret_file(&mut self, key_file: &str, path: &Path) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim_end().is_empty() => {
                self.report(
                    key_file,
                    format!("{} is empty", path.display()),
                    "write the secret into it",
                );
                None
            }
            Ok(text) => {
                let text = Secret::new(text);
                Some(Secret::new(text.expose().trim_end().to_owned()))
            }
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", path.display());
                self.report(key_file, problem, "name a file this process may read");
                None
            }
        }
    }

    fn decode_key(&mut self, key: &str, secret: &Secret, min_bytes: usize) -> Secret<Vec<u8>> {
        let mend = format!(
            "write at least {} hexadecimal digits, e.g. from: openssl rand -hex {min_bytes}",
            min_bytes * 2
        );
        match hex::decode(secret.expose().trim()) {
            Ok(bytes) if bytes.len() >= min_bytes => return Secret::new(bytes),
            Ok(bytes) => self.report(
                key,
                format!("has {} bytes, which is too short", bytes.len()),
                mend,
            ),
            Err(_) => self.report(key, "is not hexadecimal", mend),
        }
        Secret::new(DUMMY_KEY.to_vec())
    }

    fn check_url(&mut self, key: &str, text: &str, schemes: &[&str]) {
        let mend = format!(
            "write an absolute URL beginning with {}",
            schemes.join(": or ") + ":"
        );
        // The text may hold a password: it is not shown.
        let Ok(url) = Url::parse(text) else {
            return self.report(key, "is not an absolute URL", mend);
        };
        if !schemes.contains(&url.scheme()) {
            return self.report(key, format!("has the scheme {:?}", url.scheme()), mend);
        }
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        self.check(
            !has_credentials,
            key,
            "carries a user or a password",
            "remove them from the URL",
        );
        let has_more = url.query().is_some() || url.fragment().is_some();
        self.check(
            !has_more,
            key,
            "has a query or a fragment",
            "end the URL after its path",
        );
    }

    fn find(&mut self, key: &str) -> Option<Found> {
        self.find_in(key, Section::Plain)
    }

    fn find_in(&mut self, key: &str, section: Section) -> Option<Found> {
        self.know(key, section);
        self.source.find(key, section).unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        })
    }

    fn know(&mut self, key: &str, section: Section) {
        self.known.insert((key.to_ascii_uppercase(), section));
    }

    fn missing(&mut self, key: &str, names: &str) {
        self.report(
            key,
            "is not set",
            format!("set {names}, or {} in the file", key.to_ascii_lowercase()),
        );
    }

    fn wrong<T>(&mut self, key: &str, problem: String, mend: impl Into<String>, stand_in: T) -> T {
        self.report(key, problem, mend);
        stand_in
    }

    fn report(&mut self, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        self.problems
            .push(Problem::new(self.source.shown(key), problem, mend));
    }
}
