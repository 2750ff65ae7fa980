//! What else ends when something ends?
//!
//! One engine for everybody who takes authority away, with exact scope:
//!
//! * an authority record takes the records derived from it and the sessions that hang from any of them;
//! * a session takes the sessions started below it;
//! * a session takes the delegations it gave or received, and a delegation takes the delegations that narrow it.
//!
//! Nothing goes upwards or sideways: a session or a delegation never takes an authority record, and a delegation does not
//! take the sessions at its ends. Everything that ended is written to `revocation_log` and announced on the streams
//! (`docs/contract/database.md` section 4) in the caller's transaction. Each announcement names only what it is about.

mod announce;
mod seeds;

use caracal_model::{
    Anchor, ApplicationId, AuthorityRecordId, DelegationId, GrantId, ResourceId, SessionId, SubjectId, ZoneId,
};

use self::announce::{announce, check_reason, messages};
use self::seeds::seeds;
use crate::error::{StorageError, checked};
use crate::outbox::Producer;
use crate::revocation;
use crate::tx::WriteTx;

/// A chain of derived things is at most this deep, so a cascade that is not finished after so many passes never will be.
const PASSES_MAX: usize = 64;

/// What ends first.
#[derive(Debug, Clone, Copy)]
pub enum Root<'a> {
    /// Everything in the zone.
    Zone,
    /// An application: its own records, its sessions, and the records of users it signed in.
    Application(&'a ApplicationId),
    /// A subject, user or application: its records, and the sessions that hang from any of them, ended or not.
    Subject(&'a SubjectId),
    /// A grant: the records of its user, and the sessions that hang from any of them, ended or not. Records of applications
    /// stay, also of one with the same name.
    Grant {
        /// The grant, which the announcements of records name.
        id: &'a GrantId,
        /// Whose it is.
        user: &'a SubjectId,
    },
    /// A resource: the delegations that are for nothing else.
    Resource {
        /// Row id.
        id: &'a ResourceId,
        /// Its identifier, as constraints name it.
        identifier: &'a str,
    },
    /// One authority record.
    AuthorityRecord(&'a AuthorityRecordId),
    /// One session.
    Session(&'a SessionId),
    /// One delegation.
    Delegation(&'a DelegationId),
}

/// What ended now; things that had ended before are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Authority records.
    pub authority_records: Vec<AuthorityRecordId>,
    /// Sessions.
    pub sessions: Vec<SessionId>,
    /// Delegations.
    pub delegations: Vec<DelegationId>,
    /// The zone's graph epoch after this, when a delegation ended.
    pub epoch: Option<i64>,
}

impl Revoked {
    /// Whether nothing ended.
    pub const fn is_empty(&self) -> bool {
        self.authority_records.is_empty() && self.sessions.is_empty() && self.delegations.is_empty()
    }
}

/// Keeps cascades of this zone out until the transaction ends. Whoever starts a session or creates a delegation calls
/// this before it looks whether what it builds on is alive; any number may hold it at once.
///
/// # Errors
/// [`StorageError::Contention`] when a cascade does not end in time.
pub async fn hold_off(tx: &mut WriteTx, zone: &ZoneId) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended('authority:' || $1, 0))")
        .bind(zone.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Lets no other cascade of this zone run, and nobody start anything in it, until the transaction ends. [`revoke`] does
/// this itself; call it before locks on rows that sessions or delegations refer to, so that all take locks in one order.
///
/// # Errors
/// [`StorageError::Contention`] when somebody else does not let go in time.
pub async fn lock_out(tx: &mut WriteTx, zone: &ZoneId) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('authority:' || $1, 0))")
        .bind(zone.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends `root` and everything below it.
///
/// Cascades of one zone queue on an advisory lock, and on whoever called [`hold_off`]. A pass costs four statements;
/// passes repeat until one finds nothing, so that what a slower transaction added meanwhile is found as well.
///
/// # Errors
/// [`StorageError::Contention`] when somebody else does not let go in time; [`StorageError::Message`] when `reason` holds
/// a control character.
pub async fn revoke(
    tx: &mut WriteTx,
    producer: Producer,
    zone: &ZoneId,
    root: Root<'_>,
    reason: &str,
) -> Result<Revoked, StorageError> {
    check_reason(reason)?;
    lock_out(tx, zone).await?;
    let mut ended = Ended::default();
    for _ in 0..PASSES_MAX {
        if !pass(tx, zone, root, reason, &mut ended).await? {
            break;
        }
    }
    let epoch = if ended.delegations.is_empty() {
        None
    } else {
        Some(next_epoch(tx, zone).await?)
    };
    release_places(tx, zone, &ended.sessions).await?;
    let messages = messages(zone, root, reason, &ended, epoch);
    announce(tx, producer, messages).await?;
    let revoked = ended.checked(zone, epoch)?;
    revocation::record_all(tx, zone, &anchors(&revoked), reason).await?;
    Ok(revoked)
}

#[derive(Default)]
struct Ended {
    records: Vec<String>,
    sessions: Vec<EndedSession>,
    delegations: Vec<String>,
}

#[derive(sqlx::FromRow)]
struct EndedSession {
    id: String,
    parent_id: Option<String>,
    application_id: String,
}

impl Ended {
    fn checked(&self, zone: &ZoneId, epoch: Option<i64>) -> Result<Revoked, StorageError> {
        let row = zone.as_str();
        let id = |id: &String| id.clone();
        Ok(Revoked {
            authority_records: self
                .records
                .iter()
                .map(|record| checked(id(record), "authority_records", "id", row))
                .collect::<Result<_, _>>()?,
            sessions: self
                .sessions
                .iter()
                .map(|session| checked(id(&session.id), "sessions", "id", row))
                .collect::<Result<_, _>>()?,
            delegations: self
                .delegations
                .iter()
                .map(|delegation| checked(id(delegation), "delegation_edges", "id", row))
                .collect::<Result<_, _>>()?,
            epoch,
        })
    }
}

/// One look for whatever is still alive below `root`; false when there was nothing.
async fn pass(
    tx: &mut WriteTx,
    zone: &ZoneId,
    root: Root<'_>,
    reason: &str,
    ended: &mut Ended,
) -> Result<bool, StorageError> {
    let seeds = seeds(tx, zone, root).await?;
    let records = end_records(tx, zone, &seeds.records, reason).await?;
    let sessions = end_sessions(tx, zone, &seeds.sessions, &records.below, reason).await?;
    let delegations = end_delegations(tx, zone, &seeds.delegations, &sessions.below).await?;
    let found = !(records.ended.is_empty() && sessions.ended.is_empty() && delegations.is_empty());
    ended.records.extend(records.ended);
    ended.sessions.extend(sessions.ended);
    ended.delegations.extend(delegations);
    Ok(found)
}

/// What one step reached, and what of it ended just now.
struct Step<T> {
    below: Vec<String>,
    ended: Vec<T>,
}

async fn end_records(
    tx: &mut WriteTx,
    zone: &ZoneId,
    seeds: &[String],
    reason: &str,
) -> Result<Step<String>, StorageError> {
    if seeds.is_empty() {
        return Ok(Step {
            below: Vec::new(),
            ended: Vec::new(),
        });
    }
    let below: Vec<String> = sqlx::query_scalar(
        "WITH RECURSIVE doomed (id) AS (
             SELECT id FROM authority_records WHERE zone_id = $1 AND id = ANY($2)
             UNION
             SELECT c.id FROM authority_records c JOIN doomed d ON c.parent_id = d.id WHERE c.zone_id = $1
         )
         SELECT id FROM doomed",
    )
    .bind(zone.as_str())
    .bind(seeds)
    .fetch_all(&mut *tx)
    .await?;
    let ended = sqlx::query_scalar(
        "UPDATE authority_records SET status = 'revoked', revoked_at = now(), revoked_reason = $3
         WHERE zone_id = $1 AND id = ANY($2) AND status = 'active' RETURNING id",
    )
    .bind(zone.as_str())
    .bind(&below)
    .bind(reason)
    .fetch_all(tx)
    .await?;
    Ok(Step { below, ended })
}

async fn end_sessions(
    tx: &mut WriteTx,
    zone: &ZoneId,
    seeds: &[String],
    records: &[String],
    reason: &str,
) -> Result<Step<EndedSession>, StorageError> {
    if seeds.is_empty() && records.is_empty() {
        return Ok(Step {
            below: Vec::new(),
            ended: Vec::new(),
        });
    }
    let below: Vec<String> = sqlx::query_scalar(
        "WITH RECURSIVE doomed (id) AS (
             (SELECT id FROM sessions WHERE zone_id = $1 AND id = ANY($2)
              UNION
              SELECT id FROM sessions
              WHERE zone_id = $1 AND subject_authority_record_id = ANY($3) AND status IN ('active', 'suspended'))
             UNION
             SELECT c.id FROM sessions c JOIN doomed d ON c.parent_id = d.id WHERE c.zone_id = $1
         )
         SELECT id FROM doomed",
    )
    .bind(zone.as_str())
    .bind(seeds)
    .bind(records)
    .fetch_all(&mut *tx)
    .await?;
    let ended = sqlx::query_as(
        "UPDATE sessions SET status = 'terminated', terminated_at = now(), termination_reason = $3, updated_at = now()
         WHERE zone_id = $1 AND id = ANY($2) AND status IN ('active', 'suspended')
         RETURNING id, parent_id, application_id",
    )
    .bind(zone.as_str())
    .bind(&below)
    .bind(reason)
    .fetch_all(tx)
    .await?;
    Ok(Step { below, ended })
}

async fn end_delegations(
    tx: &mut WriteTx,
    zone: &ZoneId,
    seeds: &[String],
    sessions: &[String],
) -> Result<Vec<String>, StorageError> {
    if seeds.is_empty() && sessions.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(
        "WITH RECURSIVE doomed (id) AS (
             (SELECT id FROM delegation_edges WHERE zone_id = $1 AND id = ANY($2)
              UNION
              SELECT id FROM delegation_edges
              WHERE zone_id = $1 AND source_session_id = ANY($3) AND status = 'active'
              UNION
              SELECT id FROM delegation_edges
              WHERE zone_id = $1 AND target_session_id = ANY($3) AND status = 'active')
             UNION
             SELECT c.id FROM delegation_edges c JOIN doomed d ON c.parent_edge_id = d.id WHERE c.zone_id = $1
         )
         UPDATE delegation_edges e
         SET status = 'revoked', revoked_at = now(), edge_version = edge_version + 1, updated_at = now()
         FROM doomed d
         WHERE e.zone_id = $1 AND e.id = d.id AND e.status = 'active'
         RETURNING e.id",
    )
    .bind(zone.as_str())
    .bind(seeds)
    .bind(sessions)
    .fetch_all(tx)
    .await?)
}

async fn next_epoch(tx: &mut WriteTx, zone: &ZoneId) -> Result<i64, StorageError> {
    Ok(sqlx::query_scalar(
        "INSERT INTO delegation_graph_epochs AS e (zone_id, epoch) VALUES ($1, 1)
         ON CONFLICT (zone_id) DO UPDATE SET epoch = e.epoch + 1, updated_at = now()
         RETURNING epoch",
    )
    .bind(zone.as_str())
    .fetch_one(tx)
    .await?)
}

/// Gives the parents that live on the places of their ended children back.
async fn release_places(tx: &mut WriteTx, zone: &ZoneId, ended: &[EndedSession]) -> Result<(), StorageError> {
    let parents: Vec<&str> = ended
        .iter()
        .filter_map(|session| session.parent_id.as_deref())
        .collect();
    if parents.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE sessions p SET child_count = greatest(0, p.child_count - n.children), updated_at = now()
         FROM (SELECT parent_id, count(*)::int AS children FROM unnest($2::text[]) AS ended(parent_id)
               GROUP BY parent_id) n
         WHERE p.zone_id = $1 AND p.id = n.parent_id AND p.status IN ('active', 'suspended')",
    )
    .bind(zone.as_str())
    .bind(parents)
    .execute(tx)
    .await?;
    Ok(())
}

fn anchors(revoked: &Revoked) -> Vec<Anchor> {
    let records = revoked
        .authority_records
        .iter()
        .cloned()
        .map(Anchor::AuthorityRecord);
    let sessions = revoked.sessions.iter().cloned().map(Anchor::Session);
    let delegations = revoked.delegations.iter().cloned().map(Anchor::Delegation);
    records.chain(sessions).chain(delegations).collect()
}
