//! The delegation graph of a zone changed: stream `caracal.delegations.invalidate`.

use std::fmt;
use std::str::FromStr;

use caracal_model::id::{DelegationId, SessionId, ZoneId};

use super::fields::{EventError, Writer, optional, optional_id, required, required_id, required_number};
use crate::stream::{Fields, printable};

/// What happened to the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeEvent {
    /// An edge was added.
    Create,
    /// An edge was taken back, with everything below it.
    Revoke,
    /// Edges expired.
    Expire,
}

impl EdgeEvent {
    /// The event as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "edge_create",
            Self::Revoke => "edge_revoke",
            Self::Expire => "edge_expire",
        }
    }
}

impl fmt::Display for EdgeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EdgeEvent {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let all = [Self::Create, Self::Revoke, Self::Expire];
        all.into_iter()
            .find(|event| event.as_str() == text)
            .ok_or(EventError::Invalid("event"))
    }
}

/// A change of a zone's delegation graph.
///
/// A revocation may say only how many edges it took along, so a reader that cannot find out which forgets what it knows of
/// the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationsInvalidate {
    /// What happened.
    pub event: EdgeEvent,
    /// The zone of the graph.
    pub zone_id: ZoneId,
    /// The edge it happened to; absent when several expired.
    pub edge_id: Option<DelegationId>,
    /// Where a new edge starts.
    pub source_session_id: Option<SessionId>,
    /// Where a new edge ends.
    pub target_session_id: Option<SessionId>,
    /// How many edges were affected in all.
    pub affected_edges: Option<u64>,
    /// Which edges expired; empty when not said.
    pub edge_ids: Vec<DelegationId>,
    /// Why an edge was taken back. Control characters are written as spaces.
    pub reason: Option<String>,
    /// The epoch of the graph after the change.
    pub epoch: u64,
}

impl DelegationsInvalidate {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        let edge_ids = (!self.edge_ids.is_empty()).then(|| json_list(&self.edge_ids));
        Writer::new()
            .put("event", &self.event)
            .put("zone_id", &self.zone_id)
            .put_if("edge_id", self.edge_id.as_ref())
            .put_if("source_session_id", self.source_session_id.as_ref())
            .put_if("target_session_id", self.target_session_id.as_ref())
            .put_if("affected_edges", self.affected_edges.as_ref())
            .put_if("edge_ids", edge_ids.as_ref())
            .put_if("reason", self.reason.as_deref().map(printable).as_ref())
            .put("epoch", &self.epoch)
            .finish()
    }

    /// Reads a message. `affected_edges` may be a number or a JSON list.
    ///
    /// # Errors
    /// [`EventError`] when event, zone or epoch are missing, or a field is not what it should be.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            event: required(fields, "event")?.parse()?,
            zone_id: required_id(fields, "zone_id")?,
            edge_id: optional_id(fields, "edge_id")?,
            source_session_id: optional_id(fields, "source_session_id")?,
            target_session_id: optional_id(fields, "target_session_id")?,
            affected_edges: optional(fields, "affected_edges").map(read_count).transpose()?,
            edge_ids: optional(fields, "edge_ids")
                .map(read_list)
                .transpose()?
                .unwrap_or_default(),
            reason: optional(fields, "reason").map(str::to_owned),
            epoch: required_number(fields, "epoch")?,
        })
    }
}

fn json_list(ids: &[DelegationId]) -> String {
    // Ids never need escaping; see `caracal_model::id`.
    format!(
        "[{}]",
        ids.iter()
            .map(|id| format!("\"{id}\""))
            .collect::<Vec<_>>()
            .join(",")
    )
}

fn read_list(text: &str) -> Result<Vec<DelegationId>, EventError> {
    serde_json::from_str(text).map_err(|_malformed| EventError::Invalid("edge_ids"))
}

fn read_count(text: &str) -> Result<u64, EventError> {
    let listed = || {
        serde_json::from_str::<Vec<serde_json::Value>>(text)
            .ok()?
            .len()
            .try_into()
            .ok()
    };
    text.parse()
        .ok()
        .or_else(listed)
        .ok_or(EventError::Invalid("affected_edges"))
}
