//! A session or an invocation changed state: streams `caracal.agents.lifecycle` and `caracal.invocations.lifecycle`.

use std::fmt;
use std::str::FromStr;

use caracal_model::id::{ApplicationId, SessionId, ZoneId};

use super::fields::{EventError, Writer, optional, optional_id, required, required_id};
use crate::stream::{Fields, printable};

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LifecycleEvent {
    /// It started.
    Spawn,
    /// It may not act until resumed.
    Suspend,
    /// It may act again.
    Resume,
    /// It ended.
    Terminate,
}

impl LifecycleEvent {
    /// The event as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Terminate => "terminate",
        }
    }
}

impl fmt::Display for LifecycleEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LifecycleEvent {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let all = [Self::Spawn, Self::Suspend, Self::Resume, Self::Terminate];
        all.into_iter()
            .find(|event| event.as_str() == text)
            .ok_or(EventError::Invalid("event"))
    }
}

/// A change in the life of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentsLifecycle {
    /// What happened.
    pub event: LifecycleEvent,
    /// The zone of the session.
    pub zone_id: ZoneId,
    /// The session.
    pub agent_session_id: SessionId,
    /// The session it was started by.
    pub parent_id: Option<SessionId>,
    /// Its owner; said when it starts.
    pub application_id: Option<ApplicationId>,
    /// Why; said when it is suspended or ends. Control characters are written as spaces.
    pub reason: Option<String>,
}

impl AgentsLifecycle {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new()
            .put("event", &self.event)
            .put("zone_id", &self.zone_id)
            .put("agent_session_id", &self.agent_session_id)
            .put_if("parent_id", self.parent_id.as_ref())
            .put_if("application_id", self.application_id.as_ref())
            .put_if("reason", self.reason.as_deref().map(printable).as_ref())
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when event, zone or session are missing or not what they should be.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            event: required(fields, "event")?.parse()?,
            zone_id: required_id(fields, "zone_id")?,
            agent_session_id: required_id(fields, "agent_session_id")?,
            parent_id: optional_id(fields, "parent_id")?,
            application_id: optional_id(fields, "application_id")?,
            reason: optional(fields, "reason").map(str::to_owned),
        })
    }
}

/// What happened to an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InvocationEvent {
    /// It was recorded.
    Created,
    /// It was taken up.
    Started,
    /// Somebody asked for it to stop.
    CancelRequested,
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed,
    /// It took too long.
    TimedOut,
}

impl InvocationEvent {
    /// The event as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "invocation.created",
            Self::Started => "invocation.started",
            Self::CancelRequested => "invocation.cancel_requested",
            Self::Succeeded => "invocation.succeeded",
            Self::Failed => "invocation.failed",
            Self::TimedOut => "invocation.timed_out",
        }
    }
}

impl fmt::Display for InvocationEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InvocationEvent {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let all = [
            Self::Created,
            Self::Started,
            Self::CancelRequested,
            Self::Succeeded,
            Self::Failed,
            Self::TimedOut,
        ];
        all.into_iter()
            .find(|event| event.as_str() == text)
            .ok_or(EventError::Invalid("event"))
    }
}

/// A change in the life of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationsLifecycle {
    /// What happened.
    pub event: InvocationEvent,
    /// The zone of the invocation.
    pub zone_id: ZoneId,
    /// The agent service it is for.
    pub service_id: String,
    /// The invocation.
    pub invocation_id: String,
}

impl InvocationsLifecycle {
    /// The message as fields.
    pub fn to_fields(&self) -> Fields {
        Writer::new()
            .put("event", &self.event)
            .put("zone_id", &self.zone_id)
            .put("service_id", &self.service_id)
            .put("invocation_id", &self.invocation_id)
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when a field is missing or not what it should be.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        Ok(Self {
            event: required(fields, "event")?.parse()?,
            zone_id: required_id(fields, "zone_id")?,
            service_id: required(fields, "service_id")?.to_owned(),
            invocation_id: required(fields, "invocation_id")?.to_owned(),
        })
    }
}
