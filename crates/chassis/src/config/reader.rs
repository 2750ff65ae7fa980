//! Reading settings: every mistake is collected, none ends the reading.

mod address;
mod number;
mod secret;

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::errors::{ConfigErrors, Problem};
use super::mode::Mode;
use super::scalar::parse_boolean;
use super::source::{Found, Section, Source};
use super::table::Table;
use super::unknown::{KnownKeys, unknown_keys};

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

    /// What is read.
    pub fn source(&self) -> &'s Source {
        self.source
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

    /// One of several words, each with what it means.
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

    /// A path that must be set, unless there is a default. Whether it exists is checked by its user.
    pub fn path(&mut self, key: &str, default: Option<&str>) -> PathBuf {
        PathBuf::from(self.text(key, default))
    }

    /// A path that may be left out.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional_text(key).map(PathBuf::from)
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

    /// The settings read so far that `sample`, the text of a file, does not show, in the file's spelling. A line shows
    /// a setting by setting it or by opening its table, also behind a `#`; a secret is shown by the key of its file as
    /// well.
    pub fn not_shown_in(&self, sample: &str) -> Vec<String> {
        let shown: BTreeSet<&str> = sample
            .lines()
            .map(|line| line.split_once('=').map_or(line, |(key, _value)| key))
            .map(|key| key.trim_matches(['#', '[', ']', ' ']))
            .collect();
        let keys: BTreeSet<String> = self
            .known
            .iter()
            .map(|(key, _section)| key.to_ascii_lowercase())
            .collect();
        let is_shown = |key: &str| shown.contains(key) || shown.contains(format!("{key}_file").as_str());
        let is_file_of_another = |key: &str| {
            key.strip_suffix("_file")
                .is_some_and(|secret| keys.contains(secret))
        };
        keys.iter()
            .filter(|key| !is_shown(key) && !is_file_of_another(key))
            .cloned()
            .collect()
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
        let problem = Problem::new(self.source.shown(key), problem, mend);
        // A key may be read twice, as HOST is by a service with two listeners.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}
