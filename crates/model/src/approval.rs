//! Where is an approval in its life?
//!
//! The moments are stored, the state is derived from them, so that time alone ends an approval without anybody writing.

use serde::{Deserialize, Serialize};

use crate::time::UnixMicros;

/// Where an approval is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has decided.
    Pending,
    /// Granted, not yet used.
    Approved,
    /// Refused.
    Rejected,
    /// Nobody decided in time, or nobody used it in time.
    Expired,
    /// Used.
    Consumed,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Approved,
        Self::Rejected,
        Self::Expired,
        Self::Consumed,
    ];

    /// The state as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
        }
    }
}

/// The moments of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovalTimes {
    /// Until when it can be decided and used.
    pub expires_at: UnixMicros,
    /// When somebody said yes.
    pub satisfied_at: Option<UnixMicros>,
    /// When somebody said no.
    pub rejected_at: Option<UnixMicros>,
    /// When it was used.
    pub consumed_at: Option<UnixMicros>,
}

impl ApprovalTimes {
    /// The state at `now`: what was used stays used, what was refused stays refused, and then the time counts.
    pub fn state(&self, now: UnixMicros) -> ApprovalState {
        if self.consumed_at.is_some() {
            ApprovalState::Consumed
        } else if self.rejected_at.is_some() {
            ApprovalState::Rejected
        } else if self.expires_at <= now {
            ApprovalState::Expired
        } else if self.satisfied_at.is_some() {
            ApprovalState::Approved
        } else {
            ApprovalState::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_from_the_moments_in_a_fixed_precedence() {
        let at = |second: i64| UnixMicros(second * 1_000_000);
        let times = |satisfied: bool, rejected: bool, consumed: bool| ApprovalTimes {
            expires_at: at(100),
            satisfied_at: satisfied.then(|| at(10)),
            rejected_at: rejected.then(|| at(20)),
            consumed_at: consumed.then(|| at(30)),
        };
        for (satisfied, rejected, consumed, before, after) in [
            (
                false,
                false,
                false,
                ApprovalState::Pending,
                ApprovalState::Expired,
            ),
            (
                true,
                false,
                false,
                ApprovalState::Approved,
                ApprovalState::Expired,
            ),
            (
                false,
                true,
                false,
                ApprovalState::Rejected,
                ApprovalState::Rejected,
            ),
            (
                true,
                true,
                false,
                ApprovalState::Rejected,
                ApprovalState::Rejected,
            ),
            (
                true,
                false,
                true,
                ApprovalState::Consumed,
                ApprovalState::Consumed,
            ),
        ] {
            let times = times(satisfied, rejected, consumed);
            assert_eq!(times.state(at(99)), before, "{times:?}");
            assert_eq!(
                times.state(at(100)),
                after,
                "{times:?}: the end itself is too late"
            );
        }
        for state in ApprovalState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
