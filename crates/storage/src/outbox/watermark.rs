//! Before which moment is nothing waiting any more, and how much waits?

use sqlx::Row;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::ReadTx;

/// A time before which nothing committed is still waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Every row whose transaction committed before this has been published and marked. Database clock.
    pub as_of: OffsetDateTime,
}

/// Establishes the watermark: the start of the oldest transaction whose message is not out, else the start of this
/// snapshot.
///
/// Why it holds. Let a row have become visible at `c`, before the answer `W`. `W` is at most `now()`, the start of this
/// transaction, which precedes its snapshot; so the snapshot sees the row. Were the row not yet out, `W` would be at most
/// its `created_at`, which is the start of its transaction and so at most `c`: a contradiction. A transaction still open
/// when this runs may have an earlier `created_at`, but it commits after `W`, and `W` promises nothing about it. Dead
/// rows count as waiting. One statement; uses the partial indexes on `created_at`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn watermark(tx: &mut ReadTx) -> Result<Watermark, StorageError> {
    let as_of = sqlx::query_scalar(
        "SELECT least(now(),
             (SELECT min(created_at) FROM event_outbox WHERE dispatched_at IS NULL),
             (SELECT min(created_at) FROM caracal_outbox WHERE status <> 'published'))",
    )
    .fetch_one(tx)
    .await?;
    Ok(Watermark { as_of })
}

/// How much is waiting, for readiness and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Rows not out yet, dead ones excluded.
    pub pending: i64,
    /// Rows set aside after too many attempts.
    pub dead: i64,
    /// Age of the oldest row that is not out, in seconds; 0 when there is none.
    pub oldest_seconds: f64,
}

/// Counts what is waiting. Reads only the partial indexes over rows that are not out.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn backlog(tx: &mut ReadTx) -> Result<Backlog, StorageError> {
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE NOT dead) AS pending, count(*) FILTER (WHERE dead) AS dead,
             coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
         FROM (SELECT dead, created_at FROM event_outbox WHERE dispatched_at IS NULL
               UNION ALL
               SELECT status = 'dead', created_at FROM caracal_outbox WHERE status <> 'published') waiting",
    )
    .fetch_one(tx)
    .await?;
    Ok(Backlog {
        pending: row.try_get("pending")?,
        dead: row.try_get("dead")?,
        oldest_seconds: row.try_get("oldest_seconds")?,
    })
}
