//! Delegations: `delegation_edges` and the zone's graph epoch. Written by the coordinator; ended by whoever revokes.

use caracal_model::delegation::{Constraints, DelegationEdge, EdgeStatus};
use caracal_model::time::UnixSeconds;
use caracal_model::{DelegationId, ScopeSet, SessionId, ZoneId};
use serde_json::Value;
use sqlx::FromRow;
use time::OffsetDateTime;

use crate::error::{StorageError, checked};
use crate::tx::{AnyTx, ReadTx, WriteTx};

/// A stored edge.
#[derive(Debug, Clone, FromRow)]
pub struct Edge {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone_id: String,
    /// The session that passes authority on.
    pub source_session_id: String,
    /// The session that receives it.
    pub target_session_id: String,
    /// The application of the source.
    pub issuer_application_id: String,
    /// The application of the target.
    pub receiver_application_id: String,
    /// The edge it was derived from.
    pub parent_edge_id: Option<String>,
    /// The one resource it names.
    pub resource_id: Option<String>,
    /// The scopes it carries.
    pub scopes: Vec<String>,
    /// Its constraints.
    pub constraints_json: Value,
    /// `active`, `revoked` or `expired`.
    pub status: String,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// How often it was changed.
    pub edge_version: i32,
    /// When it was taken back.
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

const COLUMNS: &str = "id, zone_id, source_session_id, target_session_id, issuer_application_id, receiver_application_id, parent_edge_id, \
     resource_id, scopes, constraints_json, status, expires_at, edge_version, revoked_at, created_at";

/// An edge to be stored; it is active from the start.
#[derive(Debug, Clone)]
pub struct NewEdge<'a> {
    /// Its id.
    pub id: &'a DelegationId,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// The session that passes authority on.
    pub source_session_id: &'a str,
    /// The session that receives it.
    pub target_session_id: &'a str,
    /// The application of the source.
    pub issuer_application_id: &'a str,
    /// The application of the target.
    pub receiver_application_id: &'a str,
    /// The edge it is derived from.
    pub parent_edge_id: Option<&'a str>,
    /// The one resource it names.
    pub resource_id: Option<&'a str>,
    /// The scopes it carries.
    pub scopes: &'a [String],
    /// Its constraints.
    pub constraints_json: &'a Value,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// Lets only one transaction at a time create a delegation in the zone, because each looks for circles. Take it before
/// `revocation_cascade::hold_off`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_zone(tx: &mut WriteTx, zone: &ZoneId) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('delegation:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Every edge that ever pointed at the session, whatever became of it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn inbound<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    session: &str,
) -> Result<Vec<Edge>, StorageError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM delegation_edges WHERE zone_id = $1 AND target_session_id = $2 ORDER BY created_at, id"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(session)
        .fetch_all(tx)
        .await?)
}

/// Edges that pointed at the session, newest first, whatever became of them: at most `limit`, beginning below `before`. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn inbound_page(
    tx: &mut ReadTx,
    zone: &ZoneId,
    session: &SessionId,
    before: Option<&DelegationId>,
    limit: i64,
) -> Result<Vec<Edge>, StorageError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM delegation_edges WHERE zone_id = $1 AND target_session_id = $2 \
           AND ($3::text IS NULL OR (created_at, id) < (SELECT b.created_at, b.id FROM delegation_edges b \
             WHERE b.zone_id = $1 AND b.target_session_id = $2 AND b.id = $3)) \
         ORDER BY created_at DESC, id DESC LIMIT $4"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(session.as_str())
        .bind(before.map(DelegationId::as_str))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?)
}

/// The edge, if it is live and points at the session.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_live_inbound(
    tx: &mut ReadTx,
    zone: &ZoneId,
    session: &SessionId,
    id: &DelegationId,
) -> Result<Option<Edge>, StorageError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM delegation_edges WHERE zone_id = $1 AND target_session_id = $2 AND id = $3 \
           AND status = 'active' AND expires_at > now()"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(session.as_str())
        .bind(id.as_str())
        .fetch_optional(&mut *tx)
        .await?)
}

/// The live edges of the zone as (source, target), for the search for circles.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn live_pairs(tx: &mut WriteTx, zone: &ZoneId) -> Result<Vec<(String, String)>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT source_session_id, target_session_id FROM delegation_edges WHERE zone_id = $1 AND status = 'active' AND expires_at > now()",
    )
    .bind(zone.as_str())
    .fetch_all(&mut *tx)
    .await?)
}

/// The edge, held against other writers until the transaction ends.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock(tx: &mut WriteTx, zone: &ZoneId, id: &str) -> Result<Option<Edge>, StorageError> {
    let statement =
        format!("SELECT {COLUMNS} FROM delegation_edges WHERE zone_id = $1 AND id = $2 FOR NO KEY UPDATE");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?)
}

/// Stores an edge, marks its receiver as constrained for good and moves the zone's graph epoch. Gives what was stored and the new
/// epoch; `None` when the edge would be expired already by the database's clock.
///
/// # Errors
/// [`StorageError::Conflict`] when a rule of the schema is broken.
pub async fn insert(tx: &mut WriteTx, new: &NewEdge<'_>) -> Result<Option<(Edge, i64)>, StorageError> {
    let statement = format!(
        "INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, receiver_application_id, \
           parent_edge_id, resource_id, scopes, constraints_json, expires_at) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 WHERE $11 > now() RETURNING {COLUMNS}"
    );
    let edge: Option<Edge> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(new.id.as_str())
        .bind(new.zone_id.as_str())
        .bind(new.source_session_id)
        .bind(new.target_session_id)
        .bind(new.issuer_application_id)
        .bind(new.receiver_application_id)
        .bind(new.parent_edge_id)
        .bind(new.resource_id)
        .bind(new.scopes)
        .bind(new.constraints_json)
        .bind(new.expires_at)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(edge) = edge else { return Ok(None) };
    sqlx::query("UPDATE sessions SET constrained = true WHERE zone_id = $1 AND id = $2 AND NOT constrained")
        .bind(new.zone_id.as_str())
        .bind(new.target_session_id)
        .execute(&mut *tx)
        .await?;
    let epoch = bump_epoch(tx, new.zone_id).await?;
    Ok(Some((edge, epoch)))
}

/// Moves the zone's graph epoch by one and gives it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn bump_epoch(tx: &mut WriteTx, zone: &ZoneId) -> Result<i64, StorageError> {
    Ok(sqlx::query_scalar(
        "INSERT INTO delegation_graph_epochs (zone_id, epoch) VALUES ($1, 1) \
         ON CONFLICT (zone_id) DO UPDATE SET epoch = delegation_graph_epochs.epoch + 1, updated_at = now() RETURNING epoch",
    )
    .bind(zone.as_str())
    .fetch_one(&mut *tx)
    .await?)
}

/// A resource that a delegation names.
#[derive(Debug, Clone, FromRow)]
pub struct NamedResource {
    /// Row id.
    pub id: String,
    /// Identifier.
    pub identifier: String,
    /// Declared scopes.
    pub scopes: Vec<String>,
}

/// The resources with these row ids or identifiers that are not archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn resources(
    tx: &mut WriteTx,
    zone: &ZoneId,
    names: &[&str],
) -> Result<Vec<NamedResource>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, identifier, scopes FROM resources WHERE zone_id = $1 AND (identifier = ANY($2) OR id = ANY($2)) AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(names)
    .fetch_all(&mut *tx)
    .await?)
}

impl Edge {
    /// The edge in the words of the model.
    ///
    /// # Errors
    /// [`StorageError::Inconsistent`] when a column holds what this version does not know. Constraints that cannot be read are not an
    /// error here: such an edge gives nothing.
    pub fn to_model(&self) -> Result<DelegationEdge, StorageError> {
        let table = "delegation_edges";
        Ok(DelegationEdge {
            id: checked(self.id.clone(), table, "id", &self.id)?,
            zone_id: checked(self.zone_id.clone(), table, "zone_id", &self.id)?,
            source_session_id: checked(
                self.source_session_id.clone(),
                table,
                "source_session_id",
                &self.id,
            )?,
            target_session_id: checked(
                self.target_session_id.clone(),
                table,
                "target_session_id",
                &self.id,
            )?,
            issuer_application_id: checked(
                self.issuer_application_id.clone(),
                table,
                "issuer_application_id",
                &self.id,
            )?,
            receiver_application_id: checked(
                self.receiver_application_id.clone(),
                table,
                "receiver_application_id",
                &self.id,
            )?,
            parent_edge_id: self
                .parent_edge_id
                .clone()
                .map(|id| checked(id, table, "parent_edge_id", &self.id))
                .transpose()?,
            resource_id: self
                .resource_id
                .clone()
                .map(|id| checked(id, table, "resource_id", &self.id))
                .transpose()?,
            scopes: self.scopes.iter().collect::<ScopeSet>(),
            constraints: Constraints::parse(&self.constraints_json),
            status: self
                .status
                .parse::<EdgeStatus>()
                .map_err(|_unknown| StorageError::inconsistent(table, "status", self.id.clone()))?,
            expires_at: UnixSeconds(self.expires_at.unix_timestamp()),
            revoked_at: self.revoked_at.map(|at| UnixSeconds(at.unix_timestamp())),
        })
    }
}
