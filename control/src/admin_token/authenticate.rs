//! Whose token is this?
//!
//! The token's SHA-256 is looked up. A token made here has 256 random bits, so its digest can neither be guessed nor
//! inverted, and a slow hash on top would only cost processor time (see the decision record on admin tokens). A success
//! is remembered for five seconds; so a revocation takes at most that long. A failure is never remembered.

use std::sync::Arc;
use std::time::Duration;

use caracal_storage::{Database, StorageError, ZoneScope, admin_token};
use moka::future::Cache;

use super::actor::{Actor, Capability, Origin, Reach};

/// How long a token that was found counts as found.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many tokens are remembered.
const REMEMBERED_MAX: u64 = 512;
/// Longest token that is looked up, in characters.
const TOKEN_CHARACTERS_MAX: usize = 4096;

/// Why a token is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// Missing, malformed, unknown, revoked or expired: not told apart.
    #[error("not a token in force")]
    Unknown,
    /// The database could not be asked.
    #[error("the token could not be looked up")]
    Storage(#[source] Arc<StorageError>),
}

/// Looks tokens up and remembers the good ones for a moment.
#[derive(Debug)]
pub(crate) struct Authenticator {
    database: Database,
    known: Cache<[u8; 32], Arc<Actor>>,
    last_used_debounce_seconds: i64,
}

impl Authenticator {
    /// `last_used_debounce_seconds` is how often the use of one token is written down.
    pub(crate) fn new(database: Database, last_used_debounce_seconds: i64) -> Self {
        let known = Cache::builder()
            .max_capacity(REMEMBERED_MAX)
            .time_to_live(REMEMBERED_FOR)
            .build();
        Self {
            database,
            known,
            last_used_debounce_seconds,
        }
    }

    /// The actor behind the value of an `Authorization` header.
    ///
    /// Costs nothing but a digest while the token is remembered; concurrent look-ups of one token share one.
    ///
    /// # Errors
    /// See [`AuthenticationError`].
    pub(crate) async fn authenticate(&self, header: Option<&str>) -> Result<Arc<Actor>, AuthenticationError> {
        let token = header.and_then(bearer).ok_or(AuthenticationError::Unknown)?;
        let digest = caracal_token::digest(token.as_bytes());
        let found = self.known.try_get_with(digest, self.look_up(digest)).await;
        found.map_err(|error| (*error).clone())
    }

    async fn look_up(&self, digest: [u8; 32]) -> Result<Arc<Actor>, AuthenticationError> {
        let storage = |error| AuthenticationError::Storage(Arc::new(error));
        let mut tx = self.database.read().await.map_err(storage)?;
        let row = admin_token::find_active(&mut tx, &digest)
            .await
            .map_err(storage)?;
        drop(tx);
        let actor = row.and_then(actor).ok_or(AuthenticationError::Unknown)?;
        if let Err(error) = self.note_use(&actor).await {
            tracing::debug!(admin_token.id = %actor.id, error = %error, "the use of a token was not noted");
        }
        Ok(Arc::new(actor))
    }

    async fn note_use(&self, actor: &Actor) -> Result<(), StorageError> {
        let mut tx = self.database.write(ZoneScope::All).await?;
        admin_token::touch(&mut tx, &actor.id, self.last_used_debounce_seconds).await?;
        tx.commit().await
    }
}

fn bearer(header: &str) -> Option<&str> {
    let token = header.strip_prefix("Bearer ")?.trim();
    (1..=TOKEN_CHARACTERS_MAX)
        .contains(&token.chars().count())
        .then_some(token)
}

/// A row that does not say clearly what it allows, allows nothing.
fn actor(row: admin_token::AdminToken) -> Option<Actor> {
    let reach = match (row.scope.as_str(), row.zone_id) {
        ("global", None) => Reach::Global,
        ("zone", Some(zone)) => Reach::Zone(zone.parse().ok()?),
        _ => return None,
    };
    Some(Actor {
        id: row.id,
        name: row.name,
        reach,
        capability: Capability::parse(&row.capability)?,
        origin: Origin::parse(&row.created_by),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_of_reasonable_length_is_looked_up() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("Bearer  abc "), Some("abc"));
        for header in ["", "abc", "bearer abc", "Basic abc", "Bearer ", "Bearer    "] {
            assert_eq!(bearer(header), None, "{header:?}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(4097))), None);
    }

    #[test]
    fn a_contradictory_row_allows_nothing() {
        let row = |scope: &str, zone: Option<&str>, capability: &str| admin_token::AdminToken {
            id: "t".parse().unwrap(),
            name: "t".to_owned(),
            scope: scope.to_owned(),
            capability: capability.to_owned(),
            zone_id: zone.map(str::to_owned),
            created_by: "env-bootstrap".to_owned(),
        };
        assert!(actor(row("global", None, "write")).is_some());
        assert!(actor(row("zone", Some("z"), "read")).is_some());
        assert!(actor(row("zone", None, "write")).is_none());
        assert!(actor(row("global", Some("z"), "write")).is_none());
        assert!(actor(row("global", None, "admin")).is_none());
    }
}
