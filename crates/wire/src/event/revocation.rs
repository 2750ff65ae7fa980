//! Something was revoked: stream `caracal.sessions.revoke`.

use caracal_model::id::{AuthorityRecordId, DelegationId, SessionId, ZoneId};
use caracal_model::revocation::Anchor;

use super::fields::{EventError, Writer, optional, optional_id, required_id};
use crate::stream::{Fields, printable};

/// One revocation. It names one to three anchors; every token that stands on any of them ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsRevoke {
    /// The zone of the anchors.
    pub zone_id: ZoneId,
    /// An authority record, despite the name of the field.
    pub session_id: Option<AuthorityRecordId>,
    /// A governed session.
    pub agent_session_id: Option<SessionId>,
    /// A delegation.
    pub delegation_edge_id: Option<DelegationId>,
    /// Why. Control characters are written as spaces: a revocation goes out whatever a person typed.
    pub reason: String,
    /// The grant whose end caused this.
    pub grant_id: Option<String>,
}

impl SessionsRevoke {
    /// The anchors named, at least one in a message that was read.
    pub fn anchors(&self) -> Vec<Anchor> {
        let record = self.session_id.clone().map(Anchor::AuthorityRecord);
        let session = self.agent_session_id.clone().map(Anchor::Session);
        let delegation = self.delegation_edge_id.clone().map(Anchor::Delegation);
        record.into_iter().chain(session).chain(delegation).collect()
    }

    /// The message that revokes one anchor.
    pub fn of(zone_id: ZoneId, anchor: Anchor, reason: impl Into<String>) -> Self {
        let mut message = Self {
            zone_id,
            session_id: None,
            agent_session_id: None,
            delegation_edge_id: None,
            reason: reason.into(),
            grant_id: None,
        };
        match anchor {
            Anchor::AuthorityRecord(id) => message.session_id = Some(id),
            Anchor::Session(id) => message.agent_session_id = Some(id),
            Anchor::Delegation(id) => message.delegation_edge_id = Some(id),
        }
        message
    }

    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new()
            .put("zone_id", &self.zone_id)
            .put_if("session_id", self.session_id.as_ref())
            .put_if("agent_session_id", self.agent_session_id.as_ref())
            .put_if("delegation_edge_id", self.delegation_edge_id.as_ref())
            .put("reason", &printable(&self.reason))
            .put_if("grant_id", self.grant_id.as_deref().map(printable).as_ref())
            .finish()
    }

    /// Reads a message. The authority record may also stand in `sid` or `root_sid`, the delegation in `edge_id`.
    ///
    /// # Errors
    /// [`EventError`] when the zone is missing, when no anchor is named, or when an id is not one.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        let message = Self {
            zone_id: required_id(fields, "zone_id")?,
            session_id: first_id(fields, &["session_id", "sid", "root_sid"])?,
            agent_session_id: optional_id(fields, "agent_session_id")?,
            delegation_edge_id: first_id(fields, &["delegation_edge_id", "edge_id"])?,
            reason: optional(fields, "reason").unwrap_or_default().to_owned(),
            grant_id: optional(fields, "grant_id").map(str::to_owned),
        };
        if message.anchors().is_empty() {
            Err(EventError::Missing("session_id"))
        } else {
            Ok(message)
        }
    }
}

fn first_id<T>(fields: &Fields, names: &[&'static str]) -> Result<Option<T>, EventError>
where
    T: std::str::FromStr<Err = caracal_model::id::IdError>,
{
    for name in names {
        if let Some(id) = optional_id(fields, name)? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_text_null_is_not_an_id() {
        let read = SessionsRevoke::from_fields(&fields(&[
            ("zone_id", "z1"),
            ("session_id", "null"),
            ("agent_session_id", "s1"),
            ("delegation_edge_id", ""),
            ("reason", "requested"),
            ("outbox_id", "o1"),
        ]))
        .unwrap();
        assert_eq!(read.anchors(), [Anchor::Session("s1".parse().unwrap())]);
    }

    #[test]
    fn a_message_without_zone_or_anchor_is_refused() {
        assert_eq!(
            SessionsRevoke::from_fields(&fields(&[("session_id", "a1"), ("reason", "x")])),
            Err(EventError::Missing("zone_id"))
        );
        assert_eq!(
            SessionsRevoke::from_fields(&fields(&[("zone_id", "z1"), ("reason", "x")])),
            Err(EventError::Missing("session_id"))
        );
        assert!(matches!(
            SessionsRevoke::from_fields(&fields(&[("zone_id", "z1"), ("session_id", "a 1")])),
            Err(EventError::Id {
                field: "session_id",
                ..
            })
        ));
    }

    #[test]
    fn a_delegation_alone_can_be_revoked_under_either_name() {
        for name in ["delegation_edge_id", "edge_id"] {
            let read = SessionsRevoke::from_fields(&fields(&[("zone_id", "z1"), (name, "e1")])).unwrap();
            assert_eq!(read.anchors(), [Anchor::Delegation("e1".parse().unwrap())]);
        }
    }

    #[test]
    fn what_a_person_typed_never_keeps_a_revocation_from_going_out() {
        let anchor = Anchor::Session("s1".parse().unwrap());
        let message = SessionsRevoke::of("z1".parse().unwrap(), anchor, "lost\nlaptop");
        let written = message.to_fields();
        assert!(crate::stream::sign(b"k", crate::stream::SESSIONS_REVOKE, &written).is_ok());
        assert_eq!(written["reason"], "lost laptop");
    }
}
