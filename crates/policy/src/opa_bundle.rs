//! What is in a bundle of OPA, and which documents say the same here?
//!
//! Modules stay as they are; data becomes documents with one rule for each member (`docs/contract/policy-administration.md`,
//! "Bundles of OPA"). Whether the documents may be put in force is for [`crate::Bundle::check`] to say.

mod archive;
mod data;

use serde::Deserialize;

use self::archive::{Files, unpack};
use self::data::Data;
use crate::document::{self, DECISION_MARKER, MARKER};

/// Most entries of an archive.
pub const ENTRIES_MAX: usize = 1_024;

/// Most members of data that become rules.
pub const MEMBERS_MAX: usize = 8_192;

/// Most bytes of an archive, unpacked.
pub const UNPACKED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most roots of a manifest.
pub const ROOTS_MAX: usize = 64;

/// Most segments of a package, a root, or the path of a rule.
pub const SEGMENTS_MAX: usize = 32;

/// Longest revision, in characters.
pub const REVISION_CHARACTERS_MAX: usize = 256;

const MANIFEST: &str = ".manifest";

/// A bundle that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaBundle {
    /// What its author calls this version of it.
    pub revision: Option<String>,
    /// Its modules, then its data, each in the order of the paths.
    pub documents: Vec<OpaDocument>,
}

/// A text of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaDocument {
    /// The path in the bundle, or `data:` and the path of the data.
    pub name: String,
    /// The text, to be stored like any other.
    pub content: String,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpaBundleError {
    /// Not a gzipped tar, or a damaged one.
    #[error("the bundle is not a gzipped tar archive")]
    Archive(#[source] std::io::Error),
    /// More than [`UNPACKED_BYTES_MAX`] bytes.
    #[error("the bundle unpacks to more than 8 MiB")]
    TooLarge,
    /// More than [`ENTRIES_MAX`].
    #[error("the bundle has more than 1024 entries")]
    TooManyEntries,
    /// More than [`MEMBERS_MAX`].
    #[error("the data has more than 8192 members that become rules")]
    TooManyMembers,
    /// More than [`ROOTS_MAX`], or [`REVISION_CHARACTERS_MAX`].
    #[error("the manifest has more than 64 roots, or a revision of more than 256 characters")]
    LongManifest,
    /// More than [`SEGMENTS_MAX`], or data that is an object in an object so often that taking it apart costs too much.
    #[error("data.{0} is too deep: a package or rule has at most 32 names above it")]
    TooDeep(String),
    /// A link, a device, a sparse file.
    #[error("{0} is not a plain file")]
    NotAFile(String),
    /// A path that leads out, is no text, or is there twice.
    #[error("{0} is not a path of a bundle, or is there twice")]
    Path(String),
    /// The manifest is not what it should be.
    #[error("the manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    /// Two roots of the manifest overlap.
    #[error("the roots of the manifest overlap: {0}")]
    Roots(String),
    /// Something of a bundle that is not offered here.
    #[error("{path}: {what} not taken")]
    NotOffered {
        /// Where.
        path: String,
        /// What, with its verb.
        what: &'static str,
    },
    /// A module is not text, or has no package.
    #[error("{0} is not a Rego module")]
    Module(String),
    /// A data file is not a JSON object.
    #[error("{path} is not a JSON object")]
    Json {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Data at a place that no rule can define.
    #[error(
        "data.{0} cannot be defined by a rule: names of packages and rules are letters, digits and _, none is called result, and a package is above every rule"
    )]
    Place(String),
    /// Data that is there twice.
    #[error("data.{0} is defined twice")]
    Twice(String),
    /// A package or data outside of the roots of the manifest.
    #[error("data.{0} is not within the roots of the manifest")]
    OutsideRoots(String),
}

#[derive(Default, Deserialize)]
struct Manifest {
    revision: Option<String>,
    roots: Option<Vec<String>>,
    rego_version: Option<i64>,
    #[serde(default)]
    wasm: Vec<serde::de::IgnoredAny>,
}

/// Reads a bundle: a gzipped tar with `.manifest`, `data.json` files and modules. Tests (`*_test.rego`) and files of other
/// kinds are passed over. Signatures are not looked at.
///
/// # Errors
/// [`OpaBundleError`].
pub fn read(bytes: &[u8]) -> Result<OpaBundle, OpaBundleError> {
    let files = unpack(bytes)?;
    let manifest = manifest(&files)?;
    let roots = Roots::of(manifest.roots)?;
    let mut documents = Vec::new();
    let mut packages = Vec::new();
    let mut data = Data::default();
    for (path, content) in &files {
        let name = path.rsplit('/').next().unwrap_or(path);
        match (name, name.rsplit_once('.').map_or("", |(_, extension)| extension)) {
            ("data.json", _) => data.add(path, content)?,
            ("data.yaml" | "data.yml", _) => return Err(not_offered(path, "data in YAML is")),
            (_, "wasm") => return Err(not_offered(path, "WebAssembly is")),
            ("patch.json", _) => return Err(not_offered(path, "delta bundles are")),
            (test, "rego") if test.ends_with("_test.rego") => {}
            (_, "rego") => {
                let (package, content) = module(path, content)?;
                check_depth(&package)?;
                roots.check(&package)?;
                packages.push(package);
                documents.push(OpaDocument {
                    name: path.clone(),
                    content,
                });
            }
            _ => {}
        }
    }
    documents.extend(data.documents(&packages, &roots)?);
    Ok(OpaBundle {
        revision: manifest.revision.filter(|revision| !revision.is_empty()),
        documents,
    })
}

fn manifest(files: &Files) -> Result<Manifest, OpaBundleError> {
    let Some(bytes) = files.get(MANIFEST) else {
        return Ok(Manifest::default());
    };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(OpaBundleError::Manifest)?;
    if !manifest.wasm.is_empty() {
        return Err(not_offered(MANIFEST, "WebAssembly is"));
    }
    if manifest.rego_version.is_some_and(|version| version != 1) {
        return Err(not_offered(MANIFEST, "Rego before v1 is"));
    }
    let revision = manifest.revision.as_deref().unwrap_or_default();
    if revision.chars().nth(REVISION_CHARACTERS_MAX).is_some() {
        return Err(OpaBundleError::LongManifest);
    }
    Ok(manifest)
}

fn not_offered(path: &str, what: &'static str) -> OpaBundleError {
    OpaBundleError::NotOffered {
        path: path.to_owned(),
        what,
    }
}

/// The package of a module, as a path, and its text. A module that does not say what it is here is a data document if it
/// can be one, and else of the decision policy; it is said at its end, so that every line keeps its number.
fn module(path: &str, content: &[u8]) -> Result<(String, String), OpaBundleError> {
    let refused = || OpaBundleError::Module(path.to_owned());
    let text = std::str::from_utf8(content).ok().ok_or_else(refused)?;
    let package = document::preview(text)
        .ok_or_else(refused)?
        .package
        .replace('.', "/");
    if document::is_marked(text, MARKER) || document::is_marked(text, DECISION_MARKER) {
        return Ok((package, text.to_owned()));
    }
    let marked = |marker: &str| format!("{}\n\n# {marker}\n", text.trim_end());
    let as_data = marked(MARKER);
    let content = if document::validate(&as_data).is_ok() {
        as_data
    } else {
        marked(DECISION_MARKER)
    };
    Ok((package, content))
}

/// What a bundle may define, as paths below `data`.
struct Roots(Vec<String>);

impl Roots {
    fn of(roots: Option<Vec<String>>) -> Result<Self, OpaBundleError> {
        let mut roots = roots.unwrap_or_else(|| vec![String::new()]);
        if roots.len() > ROOTS_MAX {
            return Err(OpaBundleError::LongManifest);
        }
        for root in &mut roots {
            *root = root.trim_matches('/').to_owned();
            check_depth(root)?;
        }
        for (number, root) in roots.iter().enumerate() {
            let mut others = roots.iter().enumerate();
            if others.any(|(other, above)| other != number && is_within(root, above)) {
                return Err(OpaBundleError::Roots(root.chars().take(64).collect()));
            }
        }
        Ok(Self(roots))
    }

    fn check(&self, path: &str) -> Result<(), OpaBundleError> {
        if self.0.iter().any(|root| is_within(path, root)) {
            Ok(())
        } else {
            Err(OpaBundleError::OutsideRoots(shown(path)))
        }
    }

    /// Whether a root is somewhere below `path`.
    fn is_above_one(&self, path: &str) -> bool {
        self.0.iter().any(|root| root != path && is_within(root, path))
    }
}

/// Whether `path` is `above` or below it.
fn is_within(path: &str, above: &str) -> bool {
    above.is_empty()
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_depth(path: &str) -> Result<(), OpaBundleError> {
    if path.split('/').nth(SEGMENTS_MAX).is_some() {
        return Err(OpaBundleError::TooDeep(shown(path)));
    }
    Ok(())
}

fn shown(path: &str) -> String {
    path.replace('/', ".").chars().take(128).collect()
}
