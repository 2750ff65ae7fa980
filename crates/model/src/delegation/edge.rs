//! One delegation as it is stored: from whom to whom, what it gives, whether it holds.

use std::fmt;
use std::str::FromStr;

use super::authority::Authority;
use super::constraints::{ConstraintError, Constraints};
use crate::id::{ApplicationId, DelegationId, ResourceId, SessionId, ZoneId};
use crate::scope::ScopeSet;
use crate::session::UnknownName;
use crate::text::ResourceIdentifier;
use crate::time::UnixSeconds;

/// Where a delegation is in its life. `Revoked` and `Expired` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeStatus {
    /// Holds as long as its expiry has not passed.
    Active,
    /// Taken back.
    Revoked,
    /// Its expiry has passed and somebody wrote it down.
    Expired,
}

impl EdgeStatus {
    /// The status as it is written in tables and bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl FromStr for EdgeStatus {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "active" => Ok(Self::Active),
            "revoked" => Ok(Self::Revoked),
            "expired" => Ok(Self::Expired),
            _ => Err(UnknownName("delegation status")),
        }
    }
}

impl fmt::Display for EdgeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One delegation edge with every column the token exchange needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationEdge {
    /// Its id.
    pub id: DelegationId,
    /// The zone it lives in.
    pub zone_id: ZoneId,
    /// The session that passes authority on.
    pub source_session_id: SessionId,
    /// The session that receives it.
    pub target_session_id: SessionId,
    /// The application that owns the source.
    pub issuer_application_id: ApplicationId,
    /// The application that owns the target.
    pub receiver_application_id: ApplicationId,
    /// The edge it was derived from; `None` for a root.
    pub parent_edge_id: Option<DelegationId>,
    /// The one resource it names, if it names one.
    pub resource_id: Option<ResourceId>,
    /// The scopes it carries.
    pub scopes: ScopeSet,
    /// Its constraint document, or why it could not be read; such an edge gives nothing.
    pub constraints: Result<Constraints, ConstraintError>,
    /// Where it is in its life.
    pub status: EdgeStatus,
    /// When it ends, rounded down to the second.
    pub expires_at: UnixSeconds,
    /// When it was taken back.
    pub revoked_at: Option<UnixSeconds>,
}

impl DelegationEdge {
    /// Whether the edge holds in `zone` now: right zone, active, not taken back, unexpired.
    pub fn is_live(&self, zone: &ZoneId, now: UnixSeconds) -> bool {
        self.zone_id == *zone
            && self.status == EdgeStatus::Active
            && self.revoked_at.is_none()
            && self.expires_at > now
    }

    /// What the edge gives. `resource_identifier` is the identifier of `resource_id`, when known.
    ///
    /// # Errors
    /// The edge's own [`ConstraintError`] when its constraint document could not be read.
    pub fn authority(
        &self,
        resource_identifier: Option<ResourceIdentifier>,
    ) -> Result<Authority, ConstraintError> {
        let constraints = self.constraints.as_ref().map_err(Clone::clone)?;
        let resource = self.resource_id.clone().map(|id| (id, resource_identifier));
        Ok(Authority::new(
            resource,
            self.scopes.clone(),
            self.expires_at,
            constraints,
        ))
    }
}
