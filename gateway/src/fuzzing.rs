//! What the fuzz targets of the workspace may call: the parsers of bytes that strangers write. Not for anybody else.

use std::borrow::Cow;
use std::sync::Arc;

use caracal_wire::path::PathRule;
use http::Method;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::Config;
use crate::snapshot::routes::{Asked, Found, Routes};

/// Headers by name.
pub type Headers = Vec<(String, Vec<u8>)>;

/// Takes a request head in as HTTP/1.1: its headers after cleaning, or `None` when it is refused or is no head.
pub fn request_head(target: &[u8], headers: &[(&str, &[u8])], mandate: &str) -> Option<Headers> {
    // The library reads no line without a target as a request, and this here would make it the root.
    if target.is_empty() {
        return None;
    }
    let mut head = RequestHeader::build("GET", target, Some(headers.len())).ok()?;
    for (name, value) in headers {
        head.append_header((*name).to_owned(), *value).ok()?;
    }
    crate::one_reading::check(&head).ok()?;
    crate::header::clean_request(&mut head, Some(mandate)).ok()?;
    Some(listed(&head.headers))
}

/// Takes an answer's head in: its headers after cleaning, or `None` when it is no head.
pub fn response_head(status: u16, headers: &[(&str, &[u8])]) -> Option<Headers> {
    let mut head = ResponseHeader::build(status, Some(headers.len())).ok()?;
    for (name, value) in headers {
        head.append_header((*name).to_owned(), *value).ok()?;
    }
    crate::header::clean_response(&mut head, false);
    Some(listed(&head.headers))
}

/// The path operations are declared with, of the path as it was sent.
pub fn declared_path(raw: &str) -> Cow<'_, str> {
    crate::snapshot::operations::declared_path(raw)
}

fn listed(headers: &http::HeaderMap) -> Headers {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// The routes of a configuration.
#[derive(Debug)]
pub struct RouteTable {
    table: Routes,
    paths: Vec<String>,
}

/// A route for any host, as it is written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Its place in memory.
    pub route: usize,
    /// What it is for.
    pub path: PathRule,
    /// Whether it names `GET` among its methods.
    pub names_get: bool,
    /// Whether it names no method.
    pub is_for_all_methods: bool,
    /// Whether it asks for a mandate.
    pub is_protected: bool,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub struct Lead {
    /// Which route takes it, by its place in memory.
    pub route: usize,
    /// Whether that asks for a mandate.
    pub is_protected: bool,
}

impl RouteTable {
    /// The table of `config`.
    pub fn of(config: Config) -> Self {
        let paths = config.routes.iter().map(|rule| rule.path.text().to_owned());
        Self {
            paths: paths.collect(),
            table: Routes::new(config.routes, None),
        }
    }

    /// The paths its routes are written for.
    pub fn paths(&self) -> Vec<String> {
        self.paths.clone()
    }

    /// The routes that a request by https may take at no host in particular, in the order of the configuration.
    pub fn written(&self) -> Vec<Written> {
        let lines = self.table.lines().iter();
        let lines = lines.filter(|line| line.rule().host.is_none() && !line.rule().leads_to_https());
        let written = lines.map(|line| Written {
            route: Arc::as_ptr(line).addr(),
            path: line.rule().path.clone(),
            names_get: line.rule().methods.contains(&Method::GET),
            is_for_all_methods: line.rule().methods.is_empty(),
            is_protected: line.is_protected(),
        });
        written.collect()
    }

    /// The route that a `GET` for `path` takes, at no host in particular; `None` when it takes none.
    pub fn find(&self, path: &str) -> Option<Lead> {
        let found = self.table.find(Asked {
            host: None,
            path,
            method: &Method::GET,
            is_https: true,
        });
        match found {
            Found::Line(line) => Some(Lead {
                route: Arc::as_ptr(line).addr(),
                is_protected: line.is_protected(),
            }),
            Found::Nothing | Found::OtherMethods(_) | Found::Ambiguous => None,
        }
    }
}
