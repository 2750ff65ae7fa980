//! Which keys of a zone sign, which verify, and which are published?

mod create;
mod minted;
mod ring;

pub(crate) use create::{CreateKeyError, create_first, rotate};
pub(crate) use minted::MintedTokens;
pub(crate) use ring::{KeyRing, KeySetUnavailable};
