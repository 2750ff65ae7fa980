//! Which operations of a resource may be called with which scopes?
//!
//! The gateway asks before it asks for authority, the token service when it is asked; both by this table, so that they
//! agree (`docs/contract/token-exchange.md`, "Operations").

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Segments of the longest path an operation can be declared with: as many as 512 characters can have. One with more is not
/// declared.
const SEGMENTS_MAX: usize = 512;

/// A declared operation: a method and a path that need a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Compared without case.
    pub method: String,
    /// Begins with a slash. A segment `{name}` stands for any one segment, all else for itself.
    pub path: String,
    /// What a mandate must carry.
    pub scope: String,
}

/// The operations of one resource, compiled.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    root: Node,
}

/// What is declared below one segment.
#[derive(Debug, Clone, Default)]
struct Node {
    literals: HashMap<Box<str>, Self>,
    placeholder: Option<Box<Self>>,
    /// The operations whose path ends here: method and scope.
    ends: Vec<(Box<str>, Box<str>)>,
}

impl Operations {
    /// Compiles declared operations.
    pub fn compile<'o>(declared: impl IntoIterator<Item = &'o Operation>) -> Self {
        let mut operations = Self::default();
        for operation in declared {
            if operation.path.split('/').count() > SEGMENTS_MAX {
                continue;
            }
            let mut node = &mut operations.root;
            for segment in operation.path.split('/') {
                node = if is_placeholder(segment) {
                    node.placeholder.get_or_insert_default()
                } else {
                    node.literals.entry(segment.into()).or_default()
                };
            }
            node.ends
                .push((operation.method.as_str().into(), operation.scope.as_str().into()));
        }
        operations
    }

    /// Whether `method` on `path` is declared for a scope that the mandate carries. Of several declarations of the method that fit,
    /// the one with the earlier literal segment decides (`OpenAPI` 3.1.0, "Path Templating Matching"): `/users/me` before
    /// `/users/{id}`. Two that differ only in the names of their placeholders are one, with either scope.
    ///
    /// Cost: one map read for each segment, as long as no placeholder has to be tried; each declared segment is visited at most
    /// once. No allocation.
    pub fn permits(&self, method: &str, path: &str, carries: impl Fn(&str) -> bool) -> bool {
        self.root
            .find(Some(path), method)
            .is_some_and(|node| node.scopes_of(method).any(carries))
    }
}

impl Node {
    /// The most literal end for a method and what is left of a path. Not deeper than the longest declared path.
    fn find(&self, rest: Option<&str>, method: &str) -> Option<&Self> {
        let Some(rest) = rest else {
            return self.scopes_of(method).next().map(|_scope| self);
        };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        let literal = self.literals.get(segment);
        let placeholder = self.placeholder.as_deref().filter(|_any| may_stand(segment));
        literal
            .and_then(|node| node.find(rest, method))
            .or_else(|| placeholder.and_then(|node| node.find(rest, method)))
    }

    fn scopes_of(&self, method: &str) -> impl Iterator<Item = &str> {
        let of_method =
            move |(declared, _scope): &&(Box<str>, Box<str>)| declared.eq_ignore_ascii_case(method);
        self.ends
            .iter()
            .filter(of_method)
            .map(|(_method, scope)| &**scope)
    }
}

/// Whether a declared segment stands for any one: a name of letters, digits, `_` and `-` in braces, and nothing beside it.
pub fn is_placeholder(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_part))
}

/// Whether a segment of a request may be what a placeholder stands for. What an upstream could split or cut is no one segment; a
/// percent sign is left only where decoding would change the structure of the path.
pub fn may_stand(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains(|held: char| "%;?#\\".contains(held) || held.is_control())
}

#[cfg(test)]
mod tests;
