//! What bounds a caller: budgets and tables kept in the memory of this replica, each with a fixed size.

pub(crate) mod denial_budget;
pub(crate) mod evaluation;
pub(crate) mod lockout;
pub(crate) mod mint_rate;
pub(crate) mod nonce;
pub(crate) mod secret_verification;
