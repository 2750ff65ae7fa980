//! Where do settings come from? Environment variables first, then a TOML file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::errors::{ConfigErrors, Problem};
use super::table::Table;

/// What the operator wrote, unchecked. Its `Debug` shows names only: any value may be a secret.
#[derive(Clone, Default)]
pub struct Source {
    pub(super) environment: BTreeMap<String, String>,
    pub(super) file: toml::Table,
    /// Which file, for messages.
    pub(super) file_name: Option<String>,
    /// Put before every key in messages: empty at the top, `routes[2].` inside a table.
    pub(super) prefix: String,
}

/// A value found, and where.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Environment,
    File,
}

/// Which part of the file a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// The top level.
    Plain,
    /// The `[insecure]` table, which gathers every switch that weakens something.
    Insecure,
}

impl Source {
    /// The environment of this process, and the TOML file at `path` if one is given.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub fn from_env_and_file(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let mut source = match path {
            None => Self::default(),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    one(
                        &name,
                        format!("cannot be read: {error}"),
                        "name a readable TOML file, or none",
                    )
                })?;
                Self {
                    file_name: Some(name.clone()),
                    ..Self::from_named_toml(&name, &text)?
                }
            }
        };
        // A variable that is not UTF-8 cannot be a setting of ours.
        source.environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(source)
    }

    /// Settings given by a program: an embedding, or a test. They count as environment variables.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let environment = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            environment,
            ..Self::default()
        }
    }

    /// Settings of a TOML text alone, without the environment: how a test reads a sample file.
    ///
    /// # Errors
    /// When the text is not TOML.
    pub fn from_toml_str(text: &str) -> Result<Self, ConfigErrors> {
        Self::from_named_toml("configuration", text)
    }

    /// The same settings with `pairs` laid over them, as environment variables win over a file.
    #[must_use]
    pub fn with_pairs<N: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.environment
            .extend(pairs.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The file the settings come from, if they come from one.
    pub fn file(&self) -> Option<&Path> {
        self.file_name.as_deref().map(Path::new)
    }

    /// The same settings with `text` in place of what the file held.
    ///
    /// # Errors
    /// When the text is not TOML.
    pub fn with_file_text(&self, text: &str) -> Result<Self, ConfigErrors> {
        let name = self.file_name.as_deref().unwrap_or("configuration");
        Ok(Self {
            environment: self.environment.clone(),
            file_name: self.file_name.clone(),
            ..Self::from_named_toml(name, text)?
        })
    }

    /// The keys at the top level of the file that say something else in `other`, or are only in one of the two, sorted.
    pub fn keys_that_differ(&self, other: &Self) -> Vec<String> {
        let mut keys: Vec<&String> = self.file.keys().chain(other.file.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter()
            .filter(|key| self.file.get(*key) != other.file.get(*key))
            .cloned()
            .collect()
    }

    /// The same settings without those of the file.
    #[must_use]
    pub fn without_file(&self) -> Self {
        Self {
            environment: self.environment.clone(),
            ..Self::default()
        }
    }

    /// Every setting whose text begins with one of `beginnings`, under its name as an environment variable: variables,
    /// and texts at the top level of the file that no variable overrides.
    pub fn texts_beginning_with(&self, beginnings: &[&str]) -> BTreeMap<String, String> {
        let begins = |text: &str| beginnings.iter().any(|beginning| text.starts_with(beginning));
        let file = self.file.iter().filter_map(|(key, value)| {
            let key = key.to_ascii_uppercase();
            let is_overridden = self.environment.get(&key).is_some_and(|text| !text.is_empty());
            (!is_overridden).then_some((key, value.as_str()?))
        });
        let environment = self
            .environment
            .iter()
            .map(|(key, text)| (key.clone(), text.as_str()));
        file.chain(environment)
            .filter(|(_key, text)| begins(text))
            .map(|(key, text)| (key, text.to_owned()))
            .collect()
    }

    /// The settings of one table of an array of tables, read with the names of `prefix`.
    pub(super) fn from_table(table: toml::Table, prefix: String) -> Self {
        Self {
            file: table,
            prefix,
            ..Self::default()
        }
    }

    fn from_named_toml(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        // The error of the parser quotes the line, which may hold a secret: only its position is reported.
        let file = text.parse::<toml::Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text
                    .get(..span.start)
                    .map_or(0, |before| before.matches('\n').count())
            });
            one(
                name,
                format!("line {line} is not valid TOML: {}", error.message()),
                "mend that line",
            )
        })?;
        Ok(Self {
            file,
            ..Self::default()
        })
    }

    /// The text of `key`, if it is set to something. An empty value counts as unset, because Compose and Helm pass
    /// empty variables for settings nobody chose.
    pub(super) fn find(&self, key: &str, section: Section) -> Result<Option<Found>, Problem> {
        if let Some(text) = self.environment.get(key).filter(|text| !text.is_empty()) {
            return Ok(Some(Found {
                text: text.clone(),
                origin: Origin::Environment,
            }));
        }
        let Some(value) = self
            .section(section)
            .and_then(|table| table.get(&key.to_ascii_lowercase()))
        else {
            return Ok(None);
        };
        match scalar_text(value) {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => Ok(Some(Found {
                text,
                origin: Origin::File,
            })),
            None => Err(Problem::new(
                self.shown(key),
                format!("is {} where one value is expected", kind(value)),
                "write a string, a number or true/false",
            )),
        }
    }

    /// The keys of one section of the file.
    pub(super) fn section(&self, section: Section) -> Option<&toml::Table> {
        match section {
            Section::Plain => Some(&self.file),
            Section::Insecure => self.file.get("insecure").and_then(toml::Value::as_table),
        }
    }

    /// The name of `key` in messages: as an environment variable at the top, with its path inside a table.
    pub(super) fn shown(&self, key: &str) -> String {
        if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}{}", self.prefix, key.to_ascii_lowercase())
        }
    }

    /// The tables `[[name]]` of the file, or of a JSON array in the environment.
    pub(super) fn tables(&self, key: &str) -> Result<Vec<Table>, Problem> {
        let shown = self.shown(key);
        let mend = format!("write [[{}]] tables", key.to_ascii_lowercase());
        let rows = match self.environment.get(key).filter(|text| !text.is_empty()) {
            // The parser's message can quote the text, which may hold a secret.
            Some(text) => serde_json::from_str::<Vec<toml::Table>>(text).map_err(|_not_shown| {
                Problem::new(&shown, "is not a JSON array of objects", "write [{...}, {...}]")
            })?,
            None => match self.file.get(&key.to_ascii_lowercase()) {
                None => Vec::new(),
                Some(toml::Value::Array(rows)) => rows
                    .iter()
                    .map(|row| row.as_table().cloned())
                    .collect::<Option<_>>()
                    .ok_or_else(|| Problem::new(&shown, "has an element that is not a table", &mend))?,
                Some(other) => {
                    return Err(Problem::new(
                        &shown,
                        format!("is {} where tables are expected", kind(other)),
                        mend,
                    ));
                }
            },
        };
        let name = key.to_ascii_lowercase();
        let table =
            |(index, row)| Table::new(Self::from_table(row, format!("{}{name}[{index}].", self.prefix)));
        Ok(rows.into_iter().enumerate().map(table).collect())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Source")
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("file", &self.file.keys().collect::<Vec<_>>())
            .field("file_name", &self.file_name)
            .finish_non_exhaustive()
    }
}

fn one(key: &str, problem: String, mend: &str) -> ConfigErrors {
    ConfigErrors::of(vec![Problem::new(key, problem, mend)])
}

/// Lists are joined with commas, as they are written in an environment variable.
fn scalar_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<_>> = items
                .iter()
                .filter(|item| !item.is_array())
                .map(scalar_text)
                .collect();
            texts
                .filter(|texts| texts.len() == items.len())
                .map(|texts| texts.join(","))
        }
        toml::Value::Table(_) | toml::Value::Datetime(_) => None,
    }
}

fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::Table(_) => "a table",
        toml::Value::Array(_) => "a list",
        toml::Value::Datetime(_) => "a date",
        toml::Value::String(_) => "a string",
        toml::Value::Integer(_) | toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "a switch",
    }
}
