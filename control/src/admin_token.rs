//! Who may use the admin API, and for what?

mod account;
mod actor;
mod authenticate;
mod authorize;
mod derive;
mod seed;

pub(crate) use account::{ACCOUNT_HEADER, AccountId};
pub(crate) use actor::{Actor, Reach};
#[cfg(test)]
pub(crate) use actor::{Capability, Origin};
pub use authorize::{Effect, Place};

pub(crate) use account::verify as verify_account;
pub(crate) use authenticate::{AuthenticationError, Authenticator};
pub(crate) use authorize::{ZoneStanding, check, check_account, check_reserved};
pub(crate) use seed::seed;
