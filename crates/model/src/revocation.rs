//! What can be revoked, and what does a token stand on?

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{AuthorityRecordId, DelegationId, IdError, SessionId};

/// The kind of an [`Anchor`], as written in a revocation snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorKind {
    /// An authority record (`sid`, `root_sid`).
    AuthorityRecord,
    /// A governed session (`agent_session_id`).
    Session,
    /// A delegation (`delegation_edge_id`).
    Delegation,
}

impl AnchorKind {
    /// The kind as it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityRecord => "authority_record",
            Self::Session => "session",
            Self::Delegation => "delegation",
        }
    }
}

impl fmt::Display for AnchorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing whose revocation ends every token that stands on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anchor {
    /// The token's own or its root authority record.
    AuthorityRecord(AuthorityRecordId),
    /// The governed session the token is bound to.
    Session(SessionId),
    /// The delegation the token is bound to.
    Delegation(DelegationId),
}

impl Anchor {
    /// Puts an anchor together from its two wire parts.
    ///
    /// # Errors
    /// [`IdError`] when the text is not an id.
    pub fn from_parts(kind: AnchorKind, id: &str) -> Result<Self, IdError> {
        Ok(match kind {
            AnchorKind::AuthorityRecord => Self::AuthorityRecord(id.parse()?),
            AnchorKind::Session => Self::Session(id.parse()?),
            AnchorKind::Delegation => Self::Delegation(id.parse()?),
        })
    }

    /// Which kind of thing this is.
    pub const fn kind(&self) -> AnchorKind {
        match self {
            Self::AuthorityRecord(_) => AnchorKind::AuthorityRecord,
            Self::Session(_) => AnchorKind::Session,
            Self::Delegation(_) => AnchorKind::Delegation,
        }
    }

    /// The id without its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::AuthorityRecord(id) => id.as_str(),
            Self::Session(id) => id.as_str(),
            Self::Delegation(id) => id.as_str(),
        }
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.id())
    }
}

/// The two to four anchors of one token. Revoking any of them ends the token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Anchors {
    /// The authority record of this token (claim `sid`).
    pub sid: AuthorityRecordId,
    /// The oldest authority record above it (claim `root_sid`); may equal `sid`.
    pub root_sid: AuthorityRecordId,
    /// The governed session, when the token is bound to one (claim `agent_session_id`).
    pub session: Option<SessionId>,
    /// The delegation, when the token is bound to one (claim `delegation_edge_id`).
    pub delegation: Option<DelegationId>,
}

impl Anchors {
    /// The distinct anchors, at most four. Each costs one reference count; nothing is copied.
    pub fn iter(&self) -> impl Iterator<Item = Anchor> {
        let root = (self.root_sid != self.sid).then(|| Anchor::AuthorityRecord(self.root_sid.clone()));
        std::iter::once(Anchor::AuthorityRecord(self.sid.clone()))
            .chain(root)
            .chain(self.session.clone().map(Anchor::Session))
            .chain(self.delegation.clone().map(Anchor::Delegation))
    }

    /// Whether the token stands on this anchor. Allocates nothing.
    pub fn contains(&self, anchor: &Anchor) -> bool {
        match anchor {
            Anchor::AuthorityRecord(id) => self.sid == *id || self.root_sid == *id,
            Anchor::Session(id) => self.session.as_ref() == Some(id),
            Anchor::Delegation(id) => self.delegation.as_ref() == Some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchors() -> Anchors {
        Anchors {
            sid: "a2".parse().unwrap(),
            root_sid: "a1".parse().unwrap(),
            session: Some("s1".parse().unwrap()),
            delegation: Some("e1".parse().unwrap()),
        }
    }

    #[test]
    fn a_token_stands_on_all_four_anchors() {
        let all: Vec<String> = anchors().iter().map(|anchor| anchor.to_string()).collect();
        assert_eq!(
            all,
            [
                "authority_record a2",
                "authority_record a1",
                "session s1",
                "delegation e1"
            ]
        );
        assert!(anchors().iter().all(|anchor| anchors().contains(&anchor)));
    }

    #[test]
    fn a_root_token_names_its_record_once() {
        let root = Anchors {
            root_sid: "a2".parse().unwrap(),
            session: None,
            delegation: None,
            ..anchors()
        };
        assert_eq!(root.iter().count(), 1);
    }

    #[test]
    fn the_same_text_of_another_kind_is_another_anchor() {
        let session = Anchor::from_parts(AnchorKind::Session, "e1").unwrap();
        assert!(
            !anchors().contains(&session),
            "a delegation id must not be taken for a session id"
        );
    }

    #[test]
    fn kinds_have_their_wire_names() {
        for kind in [
            AnchorKind::AuthorityRecord,
            AnchorKind::Session,
            AnchorKind::Delegation,
        ] {
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{}\"", kind.as_str())
            );
        }
    }
}
