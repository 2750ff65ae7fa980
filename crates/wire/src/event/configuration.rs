//! The configuration of a zone changed: streams `caracal.policy.invalidate`, `caracal.keys.invalidate` and
//! `caracal.zones.invalidate`.

use caracal_model::id::{PolicySetId, PolicySetVersionId, ZoneId};

use super::fields::{EventError, Writer, optional_id, required_id, required_number};
use crate::stream::Fields;

/// Another policy set version became active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyInvalidate {
    /// The zone concerned.
    pub zone_id: ZoneId,
    /// The policy set.
    pub policy_set_id: Option<PolicySetId>,
    /// Its version that is active now; absent when none is.
    pub policy_set_version_id: Option<PolicySetVersionId>,
}

impl PolicyInvalidate {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new()
            .put("zone_id", &self.zone_id)
            .put_if("policy_set_id", self.policy_set_id.as_ref())
            .put_if("policy_set_version_id", self.policy_set_version_id.as_ref())
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when the zone is missing or an id is not one.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            zone_id: required_id(fields, "zone_id")?,
            policy_set_id: optional_id(fields, "policy_set_id")?,
            policy_set_version_id: optional_id(fields, "policy_set_version_id")?,
        })
    }
}

/// The signing keys of a zone changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysInvalidate {
    /// The zone concerned.
    pub zone_id: ZoneId,
}

impl KeysInvalidate {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new().put("zone_id", &self.zone_id).finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when the zone is missing or not an id.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            zone_id: required_id(fields, "zone_id")?,
        })
    }
}

/// The configuration of a zone has a new version. A reader with that version or a later one has nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonesInvalidate {
    /// The zone concerned.
    pub zone_id: ZoneId,
    /// The version now.
    pub version: i64,
}

impl ZonesInvalidate {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new()
            .put("zone_id", &self.zone_id)
            .put("version", &self.version)
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when zone or version are missing or not what they should be.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            zone_id: required_id(fields, "zone_id")?,
            version: required_number(fields, "version")?,
        })
    }
}
