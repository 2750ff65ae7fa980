//! Do the tokens of the environment exist in the database?

use caracal_chassis::Secret;
use caracal_model::AdminTokenId;
use caracal_storage::admin_token::{self, SeededToken};
use caracal_storage::{Database, StorageError, ZoneScope};
use uuid::Uuid;

use super::derive::seeded_tokens;

/// Makes the bootstrap token and its derived ones exist and revokes those of an earlier environment value.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub(crate) async fn seed(database: &Database, bootstrap: &Secret) -> Result<(), StorageError> {
    let tokens = seeded_tokens(bootstrap);
    let digests = tokens
        .each_ref()
        .map(|token| caracal_token::digest(token.value.expose().as_bytes()));
    let ids = [new_id()?, new_id()?, new_id()?, new_id()?];
    let rows: Vec<SeededToken<'_>> = tokens
        .iter()
        .zip(&digests)
        .zip(&ids)
        .map(|((token, sha256), id)| SeededToken {
            id,
            name: token.name,
            sha256,
            capability: token.capability.as_str(),
            created_by: token.origin.as_str(),
        })
        .collect();
    let mut tx = database.write(ZoneScope::All).await?;
    admin_token::seed(&mut tx, &rows).await?;
    tx.commit().await
}

/// Never fails: a UUID is made of characters every id allows.
fn new_id() -> Result<AdminTokenId, StorageError> {
    let id = Uuid::now_v7().to_string().parse().ok();
    id.ok_or_else(|| StorageError::inconsistent("admin_tokens", "id", "new"))
}
