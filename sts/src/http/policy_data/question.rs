//! What is asked: the path of the address, and the input in the body.

use axum::body::Body;
use caracal_chassis::server::{BodyError, read_body};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::Problem;

const BODY_BYTES_MAX: usize = 65_536;
/// Most segments of a path.
const SEGMENTS_MAX: usize = 64;
const ROUTE: &str = "/v1/data";

/// A question that can be read.
#[derive(Debug)]
pub(super) struct Asked {
    /// The segments below `data`.
    pub(super) path: Vec<String>,
    /// The input in JSON, if there is one.
    pub(super) input: Option<String>,
    /// Whether there is a body, and no input in it.
    pub(super) lacks_input: bool,
    pub(super) is_pretty: bool,
}

#[derive(Deserialize)]
struct Document {
    input: Option<Box<RawValue>>,
}

impl Asked {
    /// Reads the question.
    ///
    /// # Errors
    /// [`Problem`].
    pub(super) async fn read(parts: &Parts, body: Body) -> Result<Self, Problem> {
        let is_pretty = options(parts.uri.query().unwrap_or_default())?;
        let path = segments(parts.uri.path()).ok_or(Problem::invalid("malformed path"))?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        if header(CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(Problem::invalid("compressed bodies are not taken"));
        }
        if header(CONTENT_TYPE).is_some_and(|kind| kind.contains("yaml")) {
            return Err(Problem::invalid("the body must be JSON"));
        }
        let body = read_body(body, BODY_BYTES_MAX)
            .await
            .map_err(|error| match error {
                BodyError::TooLarge(_) => Problem::too_large(),
                BodyError::Broken(_) => Problem::invalid("malformed request body"),
            })?;
        let input = if body.trim_ascii().is_empty() {
            None
        } else {
            let document: Document = serde_json::from_slice(&body)
                .or(Err(Problem::invalid("body contains malformed input document")))?;
            document.input.map(|input| input.get().to_owned())
        };
        Ok(Self {
            path,
            lacks_input: input.is_none() && !body.is_empty(),
            input,
            is_pretty,
        })
    }
}

/// Whether the answer is to be indented. What would add to the answer and is not offered is refused, so that nobody waits for
/// it; what this service does not know is passed over, as OPA does.
fn options(query: &str) -> Result<bool, Problem> {
    let mut is_pretty = false;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let is_on = matches!(&*value, "" | "true" | "1");
        match &*name {
            "pretty" => is_pretty = is_on,
            "explain" if !matches!(&*value, "" | "off") => {
                return Err(Problem::invalid("explain is not offered"));
            }
            "metrics" | "instrument" | "provenance" if is_on => {
                return Err(Problem::invalid(
                    "metrics, instrument and provenance are not offered",
                ));
            }
            _ => {}
        }
    }
    Ok(is_pretty)
}

/// The segments after `/v1/data`, each decoded by itself; a slash at the end adds none.
fn segments(path: &str) -> Option<Vec<String>> {
    let below = path.strip_prefix(ROUTE)?;
    let below = below.strip_prefix('/').unwrap_or(below);
    let below = below.strip_suffix('/').unwrap_or(below);
    if below.is_empty() {
        return Some(Vec::new());
    }
    let segments: Option<Vec<String>> = below
        .split('/')
        .take(SEGMENTS_MAX + 1)
        .map(|segment| Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned()))
        .collect();
    segments.filter(|segments| segments.len() <= SEGMENTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_segment_by_segment() {
        let read = |path: &str| segments(path);
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read("/v1/data"), texts(&[]));
        assert_eq!(read("/v1/data/"), texts(&[]));
        assert_eq!(read("/v1/data/a/b"), texts(&["a", "b"]));
        assert_eq!(read("/v1/data/a/b/"), texts(&["a", "b"]));
        assert_eq!(read("/v1/data/a%2Fb/c%20d"), texts(&["a/b", "c d"]));
        assert_eq!(read("/v1/data/%ff"), None, "not UTF-8");
        assert_eq!(read(&format!("/v1/data{}", "/a".repeat(65))), None);
    }

    #[test]
    fn what_would_add_to_the_answer_is_refused_and_the_unknown_passed_over() {
        for query in ["", "pretty=false", "explain=off", "metrics=false", "unknown=1"] {
            assert!(matches!(options(query), Ok(false)), "{query}");
        }
        for query in ["pretty", "pretty=true", "pretty=true&strict-builtin-errors=true"] {
            assert!(matches!(options(query), Ok(true)), "{query}");
        }
        for query in [
            "explain=full",
            "explain=notes",
            "metrics",
            "metrics=true",
            "instrument=true",
            "provenance=true",
        ] {
            assert!(options(query).is_err(), "{query}");
        }
    }
}
