//! Which anchors are revoked, and until when must that be remembered?

use caracal_model::{Anchor, AnchorKind, ZoneId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::error::{StorageError, checked};
use crate::tx::{AnyTx, WriteTx};

/// A revocation that can still matter to a token somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Zone of the anchor.
    pub zone_id: ZoneId,
    /// What was revoked.
    pub anchor: Anchor,
    /// Why, as a short code such as `delegation_revoked`.
    pub reason: String,
    /// When it was revoked.
    pub revoked_at: OffsetDateTime,
    /// No token that carries the anchor can be valid after this.
    pub expires_at: OffsetDateTime,
}

/// Records that `anchor` is revoked. Answers false when it was already; the first revocation stands.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn record(
    tx: &mut WriteTx,
    zone: &ZoneId,
    anchor: &Anchor,
    reason: &str,
) -> Result<bool, StorageError> {
    record_all(tx, zone, std::slice::from_ref(anchor), reason)
        .await
        .map(|count| count == 1)
}

/// Records a whole cascade in one statement. Answers how many anchors were not revoked before.
///
/// An entry is kept for 24 hours, and for an authority record until 24 hours after the record's own expiry: longer
/// than any mandate lives, and longer than any session below that record can be given a new one.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn record_all(
    tx: &mut WriteTx,
    zone: &ZoneId,
    anchors: &[Anchor],
    reason: &str,
) -> Result<u64, StorageError> {
    let (kinds, ids): (Vec<&str>, Vec<&str>) = anchors
        .iter()
        .map(|anchor| (anchor.kind().as_str(), anchor.id()))
        .unzip();
    let inserted = sqlx::query(
        "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
         SELECT $1, a.kind, a.id, $4, greatest(now(), r.expires_at) + interval '24 hours'
         FROM (SELECT DISTINCT * FROM unnest($2::text[], $3::text[]) AS a(kind, id)) AS a
         LEFT JOIN authority_records r ON a.kind = 'authority_record' AND r.zone_id = $1 AND r.id = a.id
         ORDER BY a.kind, a.id
         ON CONFLICT (zone_id, kind, anchor_id) DO NOTHING",
    )
    .bind(zone.as_str())
    .bind(kinds)
    .bind(ids)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected())
}

/// Some of the live revocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePart {
    /// In the order in which they were recorded.
    pub revoked: Vec<Revoked>,
    /// After which number the next part begins; `None` when this is the last.
    pub next: Option<i64>,
}

/// Up to `count` revocations of every visible zone that can still matter, after the number `after` (0: from the first). There may be
/// a million, so nobody holds all rows at once.
///
/// What is committed between two parts may have a number of an earlier one: whoever reads all parts hears of it by the streams, whose
/// ends have to be noted before the first part is read.
///
/// # Errors
/// [`StorageError::Inconsistent`] when a row names an anchor this version does not know: a revocation is never skipped.
pub async fn live_after<'t>(tx: impl AnyTx<'t>, after: i64, count: i64) -> Result<LivePart, StorageError> {
    let rows = sqlx::query(
        "SELECT seq, zone_id, kind, anchor_id, reason, revoked_at, expires_at FROM revocation_log
         WHERE seq > $1 AND expires_at > now() ORDER BY seq LIMIT $2",
    )
    .bind(after)
    .bind(count)
    .fetch_all(tx)
    .await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|read| read >= count);
    let last = rows.last().filter(|_row| is_full);
    Ok(LivePart {
        next: last.map(|row| row.try_get("seq")).transpose()?,
        revoked: rows.iter().map(revoked).collect::<Result<_, _>>()?,
    })
}

fn revoked(row: &PgRow) -> Result<Revoked, StorageError> {
    let seq: i64 = row.try_get("seq")?;
    let key = seq.to_string();
    let kind = match row.try_get("kind")? {
        "authority_record" => AnchorKind::AuthorityRecord,
        "session" => AnchorKind::Session,
        "delegation" => AnchorKind::Delegation,
        _ => return Err(StorageError::inconsistent("revocation_log", "kind", key)),
    };
    let anchor = Anchor::from_parts(kind, row.try_get("anchor_id")?)
        .ok()
        .ok_or_else(|| StorageError::inconsistent("revocation_log", "anchor_id", key.clone()))?;
    Ok(Revoked {
        zone_id: checked(row.try_get("zone_id")?, "revocation_log", "zone_id", &key)?,
        anchor,
        reason: row.try_get("reason")?,
        revoked_at: row.try_get("revoked_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

/// Deletes up to `batch` entries that no longer matter. Answers how many.
///
/// # Errors
/// [`StorageError::Refused`] for a role that may not delete revocations.
pub async fn prune(tx: &mut WriteTx, batch: i64) -> Result<u64, StorageError> {
    let deleted = sqlx::query(
        "DELETE FROM revocation_log WHERE seq IN (
             SELECT seq FROM revocation_log WHERE expires_at < now() ORDER BY expires_at LIMIT $1)",
    )
    .bind(batch)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}
