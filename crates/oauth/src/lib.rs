//! How do we act as the OAuth client of somebody else's authorization server?
//!
//! An [`OAuthClient`] is a provider's configuration, understood once; a [`TokenCaller`] asks its token endpoint for the
//! credentials of one [`Grant`]. No store and no cache is known here: the security token service keeps what it obtains
//! in memory, control seals it (docs/contract/upstream-credentials.md).

mod assertion;
mod call;
mod client;
mod grant;
mod pkce;
mod tokens;

pub use assertion::{AssertionError, AssertionKey, KeyError};
pub use call::{TokenCaller, TokenError};
pub use client::{
    AUTHORIZATION_PARAMS_RESERVED, Authentication, ConfigError, OAuthClient, OAuthSecrets,
    TOKEN_PARAMS_RESERVED,
};
pub use grant::{ClientGrant, Grant};
pub use pkce::{authorization_url, random_text, s256};
pub use tokens::TokenSet;
