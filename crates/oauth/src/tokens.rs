//! What did the token endpoint grant (RFC 6749 section 5.1)?

use caracal_chassis::Secret;
use serde::{Deserialize, Deserializer};

/// A successful answer. `Debug` shows no token.
#[derive(Debug, Clone)]
pub struct TokenSet {
    /// The access token, never empty.
    pub access_token: Secret,
    /// The refresh token, if there is one.
    pub refresh_token: Option<Secret>,
    /// The lifetime in seconds, when the server said.
    pub expires_in: Option<i64>,
}

#[derive(Deserialize)]
pub(crate) struct Members {
    #[serde(default, deserialize_with = "secret")]
    pub(crate) access_token: Option<Secret>,
    #[serde(default, deserialize_with = "secret")]
    pub(crate) refresh_token: Option<Secret>,
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) expires_in: Option<i64>,
    #[serde(default)]
    pub(crate) token_type: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.map(Secret::new);
    Ok(text.filter(|text| !text.expose().is_empty()))
}

/// A number, or the text of one: some servers send text.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Whole(i64),
        Fraction(f64),
        Text(String),
    }
    let seconds = match Option::<Seconds>::deserialize(deserializer)? {
        Some(Seconds::Whole(seconds)) => Some(seconds),
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is capped later")]
        Some(Seconds::Fraction(seconds)) => Some(seconds as i64),
        Some(Seconds::Text(text)) => text.trim().parse().ok(),
        None => None,
    };
    Ok(seconds.filter(|seconds| *seconds > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_come_in_several_forms() {
        for (text, expected) in [
            ("{}", None),
            (r#"{"expires_in": 60}"#, Some(60)),
            (r#"{"expires_in": "60"}"#, Some(60)),
            (r#"{"expires_in": 59.9}"#, Some(59)),
            (r#"{"expires_in": null}"#, None),
            (r#"{"expires_in": 0}"#, None),
            (r#"{"expires_in": "soon"}"#, None),
        ] {
            let members: Members = serde_json::from_str(text).unwrap();
            assert_eq!(members.expires_in, expected, "{text}");
        }
    }
}
