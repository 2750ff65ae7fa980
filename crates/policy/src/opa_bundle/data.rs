//! Which rules say what the data of a bundle says?
//!
//! A member of an object becomes a rule of the package that the object's path names. JSON is Rego, so its text is taken over
//! as it is.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    MEMBERS_MAX, OpaBundleError, OpaDocument, Roots, UNPACKED_BYTES_MAX, check_depth, is_within, shown,
};
use crate::document::{BUNDLE_DATA_MARKER, DECISION_MARKER, MARKER, PACKAGE, is_dotted_name};

/// Bytes that are read again when objects are taken apart, all together: eight levels of the largest bundle.
const READ_AGAIN_BYTES_MAX: usize = 8 * UNPACKED_BYTES_MAX;

type Members = BTreeMap<String, Box<RawValue>>;

/// An object in which every member is there once.
struct Object(Members);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersOnce;
        impl<'de> Visitor<'de> for MembersOnce {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Members::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member is there twice"));
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(MembersOnce)
    }
}

/// The objects of the data files, by the folders they are in.
#[derive(Default)]
pub(super) struct Data(Vec<(String, Members)>);

/// The rules of one package, by name.
type Rules = BTreeMap<String, Box<RawValue>>;

impl Data {
    pub(super) fn add(&mut self, path: &str, content: &[u8]) -> Result<(), OpaBundleError> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let members = members(path, content)?;
        self.0.push((folder.to_owned(), members));
        Ok(())
    }

    /// The documents, one for each package. `packages` are those of the modules, as paths: what is above one of them, or
    /// above a root, is taken apart further.
    pub(super) fn documents(
        self,
        packages: &[String],
        roots: &Roots,
    ) -> Result<Vec<OpaDocument>, OpaBundleError> {
        let mut rules: BTreeMap<String, Rules> = BTreeMap::new();
        let mut open: Vec<(String, Members)> = self.0;
        let above =
            |path: &str| roots.is_above_one(path) || packages.iter().any(|package| is_within(package, path));
        let (mut count, mut read_again) = (0_usize, 0_usize);
        while let Some((folder, members)) = open.pop() {
            count += members.len();
            if count > MEMBERS_MAX {
                return Err(OpaBundleError::TooManyMembers);
            }
            for (name, value) in members {
                let path = if folder.is_empty() {
                    name.clone()
                } else {
                    format!("{folder}/{name}")
                };
                check_depth(&path)?;
                if folder.is_empty() || above(&path) || path == "caracal" || path == "caracal/authz" {
                    read_again += value.get().len();
                    if read_again > READ_AGAIN_BYTES_MAX {
                        return Err(OpaBundleError::TooDeep(shown(&path)));
                    }
                    let below = self::members(&path, value.get().as_bytes());
                    open.push((path.clone(), below.or(Err(OpaBundleError::Place(shown(&path))))?));
                    continue;
                }
                if !is_dotted_name(&folder.replace('/', ".")) || !is_name(&name) || name == "result" {
                    return Err(OpaBundleError::Place(shown(&path)));
                }
                roots.check(&path)?;
                let package = rules.entry(folder.clone()).or_default();
                if package.insert(name, value).is_some() {
                    return Err(OpaBundleError::Twice(shown(&path)));
                }
            }
        }
        Ok(rules
            .into_iter()
            .map(|(folder, rules)| document(&folder, &rules))
            .collect())
    }
}

fn members(path: &str, content: &[u8]) -> Result<Members, OpaBundleError> {
    let read: Result<Object, serde_json::Error> = serde_json::from_slice(content);
    read.map(|object| object.0)
        .map_err(|source| OpaBundleError::Json {
            path: path.to_owned(),
            source,
        })
}

/// Whether a rule may be called so.
fn is_name(name: &str) -> bool {
    is_dotted_name(name) && !name.contains('.')
}

fn document(folder: &str, rules: &Rules) -> OpaDocument {
    let package = folder.replace('/', ".");
    let mut content = if package == PACKAGE {
        format!("# {MARKER}\npackage {package}\n")
    } else {
        format!("# {DECISION_MARKER}\n# {BUNDLE_DATA_MARKER}\npackage {package}\n")
    };
    for (name, value) in rules {
        // Writing to a text does not fail.
        let _written = write!(content, "\n{name} := {}\n", value.get());
    }
    OpaDocument {
        name: format!("data:{folder}"),
        content,
    }
}
