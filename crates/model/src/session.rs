//! Is this session alive, and may it change into that state?

use std::fmt;
use std::str::FromStr;

use crate::id::{ApplicationId, AuthorityRecordId, SessionId, ZoneId};
use crate::time::UnixSeconds;

/// How a session ends on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    /// Ends when its time to live has passed.
    Task,
    /// Lives as long as its lease is renewed by heartbeats.
    Service,
}

/// A text names no lifecycle or no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown {0}")]
pub struct UnknownName(pub(crate) &'static str);

impl Lifecycle {
    /// The lifecycle as it is written in tables and bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Service => "service",
        }
    }
}

impl FromStr for Lifecycle {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "task" => Ok(Self::Task),
            "service" => Ok(Self::Service),
            _ => Err(UnknownName("session lifecycle")),
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a session is in its life. `Terminated` and `Expired` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionStatus {
    /// May act, as long as its time or lease lasts.
    Active,
    /// May not act until resumed. Its time to live keeps running.
    Suspended,
    /// Ended on purpose.
    Terminated,
    /// Ended because its time to live passed.
    Expired,
}

impl SessionStatus {
    /// The status as it is written in tables and bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
        }
    }

    /// Whether no transition leads out of this status.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Terminated | Self::Expired)
    }
}

impl FromStr for SessionStatus {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "active" => Ok(Self::Active),
            "suspended" => Ok(Self::Suspended),
            "terminated" => Ok(Self::Terminated),
            "expired" => Ok(Self::Expired),
            _ => Err(UnknownName("session status")),
        }
    }
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session does not change state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The session has ended; nothing brings it back.
    #[error("session has ended ({0})")]
    Ended(SessionStatus),
    /// Only an active session can do this.
    #[error("session is not active")]
    NotActive,
    /// Only a suspended session can be resumed.
    #[error("session is not suspended")]
    NotSuspended,
    /// Only a task session has a time to live.
    #[error("session is not a task")]
    NotTask,
    /// Only a service session has a lease.
    #[error("session is not a service")]
    NotService,
    /// The time to live or the lease has already passed.
    #[error("session time or lease has passed")]
    Lapsed,
    /// The time to live or the lease has not passed yet.
    #[error("session time or lease has not passed")]
    NotDue,
}

/// The part of a session that decides whether it may act.
///
/// Every transition returns the new state and leaves the old one untouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// Where the session is in its life.
    pub status: SessionStatus,
    /// How it ends on its own.
    pub lifecycle: Lifecycle,
    /// When it started, rounded down to the second.
    pub started_at: UnixSeconds,
    /// Time to live in seconds from the start; a task has one, a service has none.
    pub ttl_seconds: Option<i64>,
    /// When the lease ends unless renewed; a service has one, a task has none.
    pub heartbeat_deadline_at: Option<UnixSeconds>,
}

impl SessionState {
    /// A task that starts now and lives `ttl_seconds` (1 to 86400).
    pub fn start_task(now: UnixSeconds, ttl_seconds: i64) -> Self {
        Self {
            status: SessionStatus::Active,
            lifecycle: Lifecycle::Task,
            started_at: now,
            ttl_seconds: Some(ttl_seconds),
            heartbeat_deadline_at: None,
        }
    }

    /// A service that starts now with a lease of `lease_seconds`.
    pub fn start_service(now: UnixSeconds, lease_seconds: i64) -> Self {
        Self {
            status: SessionStatus::Active,
            lifecycle: Lifecycle::Service,
            started_at: now,
            ttl_seconds: None,
            heartbeat_deadline_at: Some(now + lease_seconds),
        }
    }

    /// The moment from which the session is dead on its own: end of time to live, or of the lease.
    ///
    /// A row without the value its lifecycle needs, or with a time to live of zero or less, is dead from the start.
    pub fn deadline(&self) -> UnixSeconds {
        match self.lifecycle {
            Lifecycle::Task => match self.ttl_seconds {
                Some(ttl) if ttl > 0 => self.started_at + ttl,
                _ => self.started_at,
            },
            Lifecycle::Service => self.heartbeat_deadline_at.unwrap_or(self.started_at),
        }
    }

    /// Whether time or lease has passed, whatever the status says.
    pub fn has_lapsed(&self, now: UnixSeconds) -> bool {
        self.deadline() <= now
    }

    /// Whether the session may act now: active, and neither its time nor its lease has passed.
    pub fn is_live(&self, now: UnixSeconds) -> bool {
        self.status == SessionStatus::Active && !self.has_lapsed(now)
    }

    /// Active to suspended. A lapsed service may still be suspended: that is what a lost lease does to it.
    ///
    /// # Errors
    /// [`TransitionError::Ended`] or [`TransitionError::NotActive`].
    pub fn suspend(&self) -> Result<Self, TransitionError> {
        self.refuse_ended()?;
        if self.status != SessionStatus::Active {
            return Err(TransitionError::NotActive);
        }
        Ok(self.with_status(SessionStatus::Suspended))
    }

    /// Suspended to active. A service gets a fresh lease of `lease_seconds`; a task whose time has passed stays
    /// where it is.
    ///
    /// # Errors
    /// [`TransitionError::Ended`], [`TransitionError::NotSuspended`] or, for a task, [`TransitionError::Lapsed`].
    pub fn resume(&self, now: UnixSeconds, lease_seconds: i64) -> Result<Self, TransitionError> {
        self.refuse_ended()?;
        if self.status != SessionStatus::Suspended {
            return Err(TransitionError::NotSuspended);
        }
        let mut resumed = self.with_status(SessionStatus::Active);
        match self.lifecycle {
            Lifecycle::Service => resumed.heartbeat_deadline_at = Some(now + lease_seconds),
            Lifecycle::Task if self.has_lapsed(now) => return Err(TransitionError::Lapsed),
            Lifecycle::Task => {}
        }
        Ok(resumed)
    }

    /// Active or suspended to terminated.
    ///
    /// # Errors
    /// [`TransitionError::Ended`] when the session has already ended.
    pub fn terminate(&self) -> Result<Self, TransitionError> {
        self.refuse_ended()?;
        Ok(self.with_status(SessionStatus::Terminated))
    }

    /// A task whose time to live has passed becomes expired.
    ///
    /// # Errors
    /// [`TransitionError::Ended`], [`TransitionError::NotTask`] or [`TransitionError::NotDue`].
    pub fn expire(&self, now: UnixSeconds) -> Result<Self, TransitionError> {
        self.refuse_ended()?;
        if self.lifecycle != Lifecycle::Task {
            return Err(TransitionError::NotTask);
        }
        if !self.has_lapsed(now) {
            return Err(TransitionError::NotDue);
        }
        Ok(self.with_status(SessionStatus::Expired))
    }

    /// Moves the end of a service's lease to `lease_seconds` from now. A suspended service keeps its lease and stays
    /// suspended.
    ///
    /// # Errors
    /// [`TransitionError::Ended`], [`TransitionError::NotService`], or [`TransitionError::Lapsed`] when an active
    /// service comes too late; the caller then suspends it.
    pub fn renew_lease(&self, now: UnixSeconds, lease_seconds: i64) -> Result<Self, TransitionError> {
        self.refuse_ended()?;
        if self.lifecycle != Lifecycle::Service {
            return Err(TransitionError::NotService);
        }
        if self.status == SessionStatus::Active && self.has_lapsed(now) {
            return Err(TransitionError::Lapsed);
        }
        Ok(Self {
            heartbeat_deadline_at: Some(now + lease_seconds),
            ..self.clone()
        })
    }

    fn refuse_ended(&self) -> Result<(), TransitionError> {
        if self.status.is_final() {
            Err(TransitionError::Ended(self.status))
        } else {
            Ok(())
        }
    }

    fn with_status(&self, status: SessionStatus) -> Self {
        Self {
            status,
            ..self.clone()
        }
    }
}

/// The authority record a session speaks for, as far as the session's life depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectAuthority {
    /// The application's own record: the session lives on without it.
    Application,
    /// A user's record: when it is revoked or expires, the session is dead.
    User {
        /// When the record expires; `None` when it is no longer active.
        live_until: Option<UnixSeconds>,
    },
}

impl SubjectAuthority {
    /// Whether the record still carries a session.
    pub fn is_live(self, now: UnixSeconds) -> bool {
        match self {
            Self::Application => true,
            Self::User { live_until } => live_until.is_some_and(|end| end > now),
        }
    }
}

/// A session as the token exchange needs it: who owns it, for whom it speaks, whether it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GovernedSession {
    /// Its id.
    pub id: SessionId,
    /// The zone it runs in.
    pub zone_id: ZoneId,
    /// The application that owns it.
    pub application_id: ApplicationId,
    /// The authority record it was started under.
    pub subject_authority_record_id: AuthorityRecordId,
    /// What that record contributes to its life.
    pub subject: SubjectAuthority,
    /// Its own state.
    pub state: SessionState,
}

impl GovernedSession {
    /// Whether the session may act in `zone` now: right zone, own state live, subject's record live.
    pub fn is_live(&self, zone: &ZoneId, now: UnixSeconds) -> bool {
        self.zone_id == *zone && self.state.is_live(now) && self.subject.is_live(now)
    }
}

#[cfg(test)]
mod tests;
