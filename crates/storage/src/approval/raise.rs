//! How does a request come to wait? Everybody who asks for the same thing meets at one row.

use caracal_model::{ApplicationId, AuthorityRecordId, SessionId, ZoneId};
use serde_json::Value;

use super::{Approval, columns};
use crate::error::StorageError;
use crate::pool::Database;
use crate::tx::{WriteTx, ZoneScope};

/// How often the row may vanish between the conflict and the look before we give up.
const ATTEMPTS: usize = 3;

/// An approval to be raised.
#[derive(Debug, Clone)]
pub struct NewApproval<'a> {
    /// Its id, if it is new.
    pub id: &'a str,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// The authority record the request is bound to.
    pub session_id: Option<&'a AuthorityRecordId>,
    /// Whom the request is made for.
    pub principal_id: &'a str,
    /// The application that asks.
    pub application_id: Option<&'a ApplicationId>,
    /// The governed session, whose user may become the anchor.
    pub agent_session_id: Option<&'a SessionId>,
    /// Hash of what is asked for, 32 bytes.
    pub binding: &'a [u8],
    /// SHA-256 of the secret for whoever raises it.
    pub secret_hash: &'a [u8],
    /// The tiers that ask for it.
    pub tier: &'a str,
    /// `operator`, `subject` or `any`.
    pub approver_class: &'a str,
    /// `identified`, `pseudonymous` or `anonymous`.
    pub privacy_mode: &'a str,
    /// How long it can be decided and used, in seconds.
    pub window_seconds: i32,
    /// What is asked for, for whoever decides.
    pub metadata: &'a Value,
}

/// An approval that exists now.
#[derive(Debug, Clone)]
pub struct Raised {
    /// The approval.
    pub approval: Approval,
    /// Whether this call made it; else somebody asked for the same thing before.
    pub is_new: bool,
}

/// Raises an approval, or finds the one that waits for the same request already. Three statements.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach, [`StorageError::Contention`] when others kept taking
/// the row away.
pub async fn raise(database: &Database, new: &NewApproval<'_>) -> Result<Raised, StorageError> {
    for attempt in 1.. {
        let mut tx = database.write(ZoneScope::Zone(new.zone_id)).await?;
        forget_expired(&mut tx, new).await?;
        let (found, is_new) = match insert(&mut tx, new).await? {
            Some(approval) => (Some(approval), true),
            None => (find_open(&mut tx, new).await?, false),
        };
        tx.commit().await?;
        match found {
            Some(approval) => return Ok(Raised { approval, is_new }),
            None if attempt < ATTEMPTS => {}
            None => break,
        }
    }
    Err(StorageError::Contention(sqlx::Error::RowNotFound))
}

async fn forget_expired(tx: &mut WriteTx, new: &NewApproval<'_>) -> Result<(), StorageError> {
    sqlx::query(
        "DELETE FROM step_up_challenges
         WHERE zone_id = $1 AND principal_id = $2 AND session_id IS NOT DISTINCT FROM $3 AND resource_set_hash = $4
           AND consumed_at IS NULL AND expires_at <= now()",
    )
    .bind(new.zone_id.as_str())
    .bind(new.principal_id)
    .bind(new.session_id.map(AuthorityRecordId::as_str))
    .bind(new.binding)
    .execute(tx)
    .await?;
    Ok(())
}

/// `None` when one that was not used exists. The user behind the governed session is read here, where it costs nothing.
async fn insert(tx: &mut WriteTx, new: &NewApproval<'_>) -> Result<Option<Approval>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "INSERT INTO step_up_challenges (id, zone_id, session_id, principal_id, application_id, resource_set_hash,
             challenge_secret_hash, tier, approver_class, privacy_mode, subject_anchor, metadata_json, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), $9, $10,
             (SELECT r.subject_id FROM sessions s
              JOIN authority_records r ON r.zone_id = s.zone_id AND r.id = s.subject_authority_record_id
              WHERE s.zone_id = $2 AND s.id = $11 AND r.session_type = 'user'),
             $12, now() + make_interval(secs => $13))
         ON CONFLICT DO NOTHING RETURNING ",
        columns!()
    ))
    .bind(new.id)
    .bind(new.zone_id.as_str())
    .bind(new.session_id.map(AuthorityRecordId::as_str))
    .bind(new.principal_id)
    .bind(new.application_id.map(ApplicationId::as_str))
    .bind(new.binding)
    .bind(new.secret_hash)
    .bind(new.tier)
    .bind(new.approver_class)
    .bind(new.privacy_mode)
    .bind(new.agent_session_id.map(SessionId::as_str))
    .bind(new.metadata)
    .bind(f64::from(new.window_seconds))
    .fetch_optional(tx)
    .await?)
}

async fn find_open(tx: &mut WriteTx, new: &NewApproval<'_>) -> Result<Option<Approval>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM step_up_challenges
          WHERE zone_id = $1 AND principal_id = $2 AND session_id IS NOT DISTINCT FROM $3 AND resource_set_hash = $4
            AND consumed_at IS NULL"
    ))
    .bind(new.zone_id.as_str())
    .bind(new.principal_id)
    .bind(new.session_id.map(AuthorityRecordId::as_str))
    .bind(new.binding)
    .fetch_optional(tx)
    .await?)
}
