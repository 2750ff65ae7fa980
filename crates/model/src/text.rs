//! What may a subject or a resource be called? Names that come from outside and are wider than an id.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest subject or resource identifier accepted, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text is empty.
    #[error("{kind} is empty")]
    Empty {
        /// What the text would have named.
        kind: &'static str,
    },
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("{kind} is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong {
        /// What the text would have named.
        kind: &'static str,
    },
    /// The text has a control character, or white space where none is permitted.
    #[error("{kind} has a control character or white space")]
    Character {
        /// What the text would have named.
        kind: &'static str,
    },
    /// The text is neither an absolute URI without fragment nor the plain name of a service.
    #[error("{kind} is not an absolute URI")]
    NotAbsolute {
        /// What the text would have named.
        kind: &'static str,
    },
}

fn check_length(kind: &'static str, text: &str) -> Result<(), TextError> {
    if text.is_empty() {
        Err(TextError::Empty { kind })
    } else if text.len() > MAX_TEXT_BYTES {
        Err(TextError::TooLong { kind })
    } else {
        Ok(())
    }
}

/// Writes the conversions of a checked text; the check is the type's own `check`.
macro_rules! text_conversions {
    ($name:ident) => {
        impl $name {
            /// The name as text. Costs nothing.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::check(text)?;
                Ok(Self(Arc::from(text)))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = TextError;

            fn try_from(text: &str) -> Result<Self, TextError> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = TextError;

            fn try_from(text: String) -> Result<Self, TextError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }
    };
}

/// Who a mandate speaks for: the `sub` claim (RFC 7519 section 4.1.2).
///
/// An application's own id, or a federated user's subject. 1 to 512 bytes, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubjectId(Arc<str>);

text_conversions!(SubjectId);

impl SubjectId {
    const KIND: &'static str = "subject";

    fn check(text: &str) -> Result<(), TextError> {
        check_length(Self::KIND, text)?;
        if text.chars().any(char::is_control) {
            Err(TextError::Character { kind: Self::KIND })
        } else {
            Ok(())
        }
    }
}

impl From<&crate::ApplicationId> for SubjectId {
    /// An application that speaks for itself; every application id is a subject.
    fn from(application: &crate::ApplicationId) -> Self {
        Self(Arc::from(application.as_str()))
    }
}

/// The public name of a protected resource (RFC 8707 section 2), by convention `resource://slug`.
///
/// An absolute URI without fragment, or the plain name of one of Caracal's own services, such as
/// `caracal-control`. 1 to 512 bytes, no control characters, no white space. Compared byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceIdentifier(Arc<str>);

text_conversions!(ResourceIdentifier);

impl ResourceIdentifier {
    const KIND: &'static str = "resource identifier";

    fn check(text: &str) -> Result<(), TextError> {
        check_length(Self::KIND, text)?;
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(TextError::Character { kind: Self::KIND });
        }
        if is_absolute_uri(text) || is_service_name(text) {
            Ok(())
        } else {
            Err(TextError::NotAbsolute { kind: Self::KIND })
        }
    }

    /// Whether this is an absolute URI. False for the plain name of a Caracal service.
    pub fn is_absolute_uri(&self) -> bool {
        is_absolute_uri(&self.0)
    }
}

/// RFC 3986 section 4.3: a scheme, a colon, something after it, no fragment.
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let mut letters = scheme.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && !rest.is_empty()
        && !rest.contains('#')
}

fn is_service_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_any_printable_text_up_to_512_bytes() {
        assert_eq!(SubjectId::try_from("user 1 <Zoë>").unwrap(), "user 1 <Zoë>");
        assert!(SubjectId::try_from("x".repeat(512)).is_ok());
        assert!(SubjectId::try_from("x".repeat(513)).is_err());
        assert!(SubjectId::try_from("").is_err());
        for text in ["a\nb", "a\0", "a\u{7f}", "a\u{85}"] {
            assert!(SubjectId::try_from(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_resource_identifier_is_absolute_or_a_service_name() {
        for text in [
            "resource://crm",
            "https://api.example/v1?x=1",
            "urn:example:a",
            "caracal-control",
        ] {
            assert!(ResourceIdentifier::try_from(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "/relative",
            "://x",
            "1x://y",
            "resource://a b",
            "resource://a#frag",
            "resource:",
            "a\n",
            "//h/p",
        ] {
            assert!(ResourceIdentifier::try_from(text).is_err(), "{text:?}");
        }
        assert!(
            ResourceIdentifier::try_from("resource://crm")
                .unwrap()
                .is_absolute_uri()
        );
        assert!(
            !ResourceIdentifier::try_from("caracal-control")
                .unwrap()
                .is_absolute_uri()
        );
    }

    #[test]
    fn a_bad_identifier_does_not_deserialise() {
        assert!(serde_json::from_str::<ResourceIdentifier>("\"/x\"").is_err());
        let crm: ResourceIdentifier = serde_json::from_str("\"resource://crm\"").unwrap();
        assert_eq!(serde_json::to_string(&crm).unwrap(), "\"resource://crm\"");
    }
}
