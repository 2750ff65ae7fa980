//! Why the bus did not do what it was asked.

use std::error::Error;

/// What went wrong at the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The store cannot be reached or the connection broke; whether a command was carried out is unknown. Retry later.
    #[error("the event bus cannot be reached")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The store did not answer in time; whether a command was carried out is unknown. Retry later.
    #[error("the event bus did not answer in time")]
    Timeout,
    /// The consumer group does not exist (any more).
    #[error("consumer group {group} of stream {stream} does not exist")]
    NoGroup {
        /// Stream that was read.
        stream: String,
        /// Group that is missing.
        group: String,
    },
    /// A claim could not be remembered until its expiry.
    #[error("the event bus holds the expiry of the claim for past already: check the clocks")]
    NotRemembered,
    /// The store was emptied, and the claims with it.
    #[error("the event bus was emptied: earlier claims are forgotten")]
    Forgotten,
    /// A bounded store is full.
    #[error("the event bus is full")]
    Full,
    /// The store answered and refused.
    #[error("the event bus refused the command")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// The store answered something this version does not understand.
    #[error("the event bus answered something unexpected: {0}")]
    Unexpected(&'static str),
    /// The address of the store cannot be used.
    #[error("the address of the event bus is not valid")]
    Address(#[source] Box<dyn Error + Send + Sync>),
    /// The journal of the in-process bus failed.
    #[error("the journal of the in-process event bus failed")]
    Journal(#[from] std::io::Error),
    /// Fields that must be signed hold a control character (docs/contract/streams.md, "Signature").
    #[error("a field to be signed holds a control character")]
    ControlCharacter,
}

impl BusError {
    /// Whether the store is out of reach, so that the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout => true,
            Self::NoGroup { .. }
            | Self::NotRemembered
            | Self::Forgotten
            | Self::Full
            | Self::Refused(_)
            | Self::Unexpected(_)
            | Self::Address(_)
            | Self::Journal(_)
            | Self::ControlCharacter => false,
        }
    }
}
