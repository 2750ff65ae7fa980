//! Which thing is meant? One type per kind of id, so that a session id can never stand where a zone id belongs.
//!
//! Every id matches `[A-Za-z0-9._:-]{1,128}` (`docs/contract/wire-formats.md`, "Identifiers"). The pattern excludes every
//! character with a meaning in a URL, a form, a Redis key or a log line, so an id never needs escaping. Ids are shared
//! text: a clone is one reference count, not a copy.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id accepted, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{kind} is empty")]
    Empty {
        /// What the id would have named.
        kind: &'static str,
    },
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("{kind} is longer than {MAX_ID_BYTES} bytes")]
    TooLong {
        /// What the id would have named.
        kind: &'static str,
    },
    /// The text has a character outside `A-Z a-z 0-9 . _ : -`.
    #[error("{kind} has a character outside A-Z a-z 0-9 . _ : -")]
    Character {
        /// What the id would have named.
        kind: &'static str,
    },
}

/// Which bytes an id may have: every mandate brings a dozen ids, so each byte costs one look.
const PERMITTED: [bool; 256] = {
    let mut permitted = [false; 256];
    let mut byte: u8 = 0;
    while byte < u8::MAX {
        #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
        {
            permitted[byte as usize] =
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
        }
        byte += 1;
    }
    permitted
};

fn check(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { kind });
    }
    let permitted = |byte: u8| PERMITTED.get(usize::from(byte)).copied().unwrap_or(false);
    if text.bytes().all(permitted) {
        Ok(())
    } else {
        Err(IdError::Character { kind })
    }
}

/// Writes one id type: the struct, its checked constructors and its views as text.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text. Costs nothing.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                check($kind, text)?;
                Ok(Self(Arc::from(text)))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;

            fn try_from(text: &str) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
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

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", $kind))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

id!(
    /// A tenant boundary. A zone owns its keys, policy, applications and resources.
    ZoneId, "zone id"
);
id!(
    /// An OAuth client (RFC 6749 section 2) registered in a zone; the `client_id` of a mandate.
    ApplicationId, "application id"
);
id!(
    /// The row id of a protected resource, as opposed to its [`crate::ResourceIdentifier`].
    ResourceId, "resource id"
);
id!(
    /// A source of upstream credentials.
    ProviderId, "provider id"
);
id!(
    /// The revocation anchor of issued tokens: claims `sid` and `root_sid`, form and stream field `session_id`.
    AuthorityRecordId, "authority record id"
);
id!(
    /// A governed agent session: claim and form field `agent_session_id`.
    SessionId, "session id"
);
id!(
    /// A delegation of authority from one session to another: `delegation_edge_id`.
    DelegationId, "delegation id"
);
id!(
    /// A policy, independent of its versions.
    PolicyId, "policy id"
);
id!(
    /// One immutable version of a policy.
    PolicyVersionId, "policy version id"
);
id!(
    /// A named set of policies.
    PolicySetId, "policy set id"
);
id!(
    /// One immutable version of a policy set.
    PolicySetVersionId, "policy set version id"
);
id!(
    /// The `kid` of a signing key (RFC 7517 section 4.5).
    KeyId, "key id"
);
id!(
    /// The `jti` of a token (RFC 7519 section 4.1.7).
    TokenId, "token id"
);
id!(
    /// One request as it travels through the services: header `X-Request-Id`.
    RequestId, "request id"
);
id!(
    /// One audit event. Ingest drops a second event with the same id.
    EventId, "event id"
);
id!(
    /// Something a human is asked to agree to.
    ApprovalId, "approval id"
);
id!(
    /// An issuer of users that a zone believes.
    SubjectIssuerId, "subject issuer id"
);
id!(
    /// A record that a user has allowed an application something.
    GrantId, "grant id"
);
id!(
    /// An administrator's token, not the token itself.
    AdminTokenId, "admin token id"
);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_1_to_128_characters_of_the_pattern() {
        assert_eq!(ZoneId::try_from("Az09._:-").unwrap().as_str(), "Az09._:-");
        assert!(ZoneId::try_from("a".repeat(128)).is_ok());
        assert_eq!(ZoneId::try_from(""), Err(IdError::Empty { kind: "zone id" }));
        assert_eq!(
            ZoneId::try_from("a".repeat(129)),
            Err(IdError::TooLong { kind: "zone id" })
        );
        for text in ["a b", "a/b", "a\n", "é", "a%20", "a\0"] {
            assert_eq!(
                text.parse::<TokenId>(),
                Err(IdError::Character { kind: "token id" }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_bad_id_does_not_deserialise() {
        assert_eq!(serde_json::from_str::<SessionId>("\"s-1\"").unwrap(), "s-1");
        assert!(serde_json::from_str::<SessionId>("\"s 1\"").is_err());
        assert!(serde_json::from_str::<SessionId>("7").is_err());
    }

    #[test]
    fn an_id_is_found_by_its_text() {
        let set: HashSet<KeyId> = ["k1".parse().unwrap()].into();
        assert!(set.contains("k1"));
    }
}
