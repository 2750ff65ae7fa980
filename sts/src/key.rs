//! Which keys of a zone sign, which verify, and which are published?

mod create;
#[cfg(test)]
mod life;
mod minted;
mod ring;
mod rotation;

pub(crate) use create::{CreateKeyError, create_first};
pub(crate) use minted::MintedTokens;
pub(crate) use ring::{KeyRing, KeySetUnavailable};
pub(crate) use rotation::{Rotation, Urgency, rotate};
