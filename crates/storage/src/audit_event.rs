//! The ledger: `audit_events` (insert-only, partitioned by month) and the head of each zone's hash chain.
//!
//! Written by the audit role only. Nothing here computes a hash: the caller takes the documents' normalised text from
//! [`normalise`], because that text, and not what a producer sent, is what the database can give back to a verifier.

use caracal_model::ZoneId;
use sqlx::FromRow;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::{ReadTx, WriteTx};

/// The end of a zone's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// `chain_seq` of the newest row; 0 before the first.
    pub seq: i64,
    /// Content hash of the newest row in hex; none before the first.
    pub content_sha256: Option<String>,
}

/// The text of one event's three documents as the database will give them back; none where the document is absent or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// `determining_policies_json`.
    pub determining_policies: Option<String>,
    /// `diagnostics_json`.
    pub diagnostics: Option<String>,
    /// `metadata_json`.
    pub metadata: Option<String>,
}

/// One link of the chain, ready to be stored.
#[derive(Clone, Debug)]
pub struct NewLink {
    /// Event id.
    pub id: String,
    /// Kind of event.
    pub event_type: String,
    /// The request it belongs to.
    pub request_id: Option<String>,
    /// `allow`, `deny`, ...
    pub decision: Option<String>,
    /// Policy set in force.
    pub policy_set_id: Option<String>,
    /// Version in force.
    pub policy_set_version_id: Option<String>,
    /// Its manifest.
    pub manifest_sha: Option<String>,
    /// How the evaluation ended.
    pub evaluation_status: Option<String>,
    /// The three documents.
    pub documents: Documents,
    /// When it happened; whole microseconds.
    pub occurred_at: OffsetDateTime,
    /// Content hash, hex.
    pub content_sha256: String,
    /// Content hash of the link before, hex.
    pub prev_content_sha256: Option<String>,
    /// HMAC over both, hex.
    pub chain_hmac: String,
    /// Position in the zone's chain, from 1.
    pub chain_seq: i64,
    /// The producer's signature, hex.
    pub ingest_signature: Option<String>,
    /// The text the producer signed: without it its signature could never be checked again, because the documents are rewritten.
    pub signed_data: String,
}

/// A stored link.
#[derive(Clone, Debug, FromRow)]
pub struct Link {
    /// Event id.
    pub id: String,
    /// The zone.
    pub zone_id: String,
    /// Kind of event.
    pub event_type: String,
    /// The request it belongs to.
    pub request_id: Option<String>,
    /// `allow`, `deny`, ...
    pub decision: Option<String>,
    /// Policy set in force.
    pub policy_set_id: Option<String>,
    /// Version in force.
    pub policy_set_version_id: Option<String>,
    /// Its manifest.
    pub manifest_sha: Option<String>,
    /// How the evaluation ended.
    pub evaluation_status: Option<String>,
    /// `determining_policies_json` as text.
    pub determining_policies: Option<String>,
    /// `diagnostics_json` as text.
    pub diagnostics: Option<String>,
    /// `metadata_json` as text.
    pub metadata: Option<String>,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// When it was stored.
    pub ingested_at: OffsetDateTime,
    /// Content hash, hex.
    pub content_sha256: Option<String>,
    /// Content hash of the link before, hex.
    pub prev_content_sha256: Option<String>,
    /// HMAC over both, hex.
    pub chain_hmac: Option<String>,
    /// Position in the zone's chain.
    pub chain_seq: Option<i64>,
}

const LINK_COLUMNS: &str = "id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha, \
     evaluation_status, determining_policies_json::text AS determining_policies, diagnostics_json::text AS diagnostics, \
     metadata_json::text AS metadata, occurred_at, ingested_at, content_sha256, prev_content_sha256, chain_hmac, chain_seq";

/// Takes the zone's chain for this transaction and gives its end. Other writers of the zone wait until it ends. Two statements.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_head(tx: &mut WriteTx, zone: &ZoneId) -> Result<ChainHead, StorageError> {
    sqlx::query(
        "INSERT INTO audit_chain_heads (zone_id, seq) VALUES ($1, 0) ON CONFLICT (zone_id) DO NOTHING",
    )
    .bind(zone.as_str())
    .execute(&mut *tx)
    .await?;
    let (seq, content_sha256) =
        sqlx::query_as("SELECT seq, content_sha256 FROM audit_chain_heads WHERE zone_id = $1 FOR UPDATE")
            .bind(zone.as_str())
            .fetch_one(&mut *tx)
            .await?;
    Ok(ChainHead { seq, content_sha256 })
}

/// Gives each triple of documents, as JSON text, the text that the database will store. One statement for all.
///
/// # Errors
/// [`StorageError::Database`] when a document is not JSON that the database accepts.
pub async fn normalise(tx: &mut WriteTx, events: &[Documents]) -> Result<Vec<Documents>, StorageError> {
    let column = |pick: fn(&Documents) -> &Option<String>| -> Vec<Option<&str>> {
        events
            .iter()
            .map(|documents| pick(documents).as_deref())
            .collect()
    };
    let rows: Vec<(Option<String>, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT d::jsonb::text, g::jsonb::text, m::jsonb::text FROM unnest($1::text[], $2::text[], $3::text[]) \
           WITH ORDINALITY AS t (d, g, m, n) ORDER BY n",
    )
    .bind(column(|documents| &documents.determining_policies))
    .bind(column(|documents| &documents.diagnostics))
    .bind(column(|documents| &documents.metadata))
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(determining_policies, diagnostics, metadata)| Documents {
            determining_policies,
            diagnostics,
            metadata,
        })
        .collect())
}

/// The content hash of each of these events that is stored already, by id. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn stored_hashes(
    tx: &mut WriteTx,
    zone: &ZoneId,
    ids: &[String],
) -> Result<Vec<(String, String)>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, coalesce(content_sha256, '') FROM audit_events WHERE zone_id = $1 AND id = ANY($2)",
    )
    .bind(zone.as_str())
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?)
}

/// Stores links and moves the head to the last of them. Two statements for all.
///
/// # Errors
/// [`StorageError::Conflict`] when a link is stored already.
pub async fn append(tx: &mut WriteTx, zone: &ZoneId, links: &[NewLink]) -> Result<(), StorageError> {
    let Some(last) = links.last() else { return Ok(()) };
    let texts =
        |pick: fn(&NewLink) -> Option<&String>| -> Vec<Option<&String>> { links.iter().map(pick).collect() };
    sqlx::query(
        "INSERT INTO audit_events (zone_id, id, event_type, request_id, decision, policy_set_id, policy_set_version_id, \
           manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, \
           content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data) \
         SELECT $1, t.id, t.event_type, t.request_id, t.decision, t.policy_set_id, t.policy_set_version_id, t.manifest_sha, \
           t.evaluation_status, t.determining::jsonb, t.diagnostics::jsonb, t.metadata::jsonb, t.occurred_at, t.content, \
           t.prev, t.hmac, t.seq, t.signature, t.signed_data \
         FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], \
           $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::text[], $15::text[], $16::text[], $17::bigint[], \
           $18::text[], $19::text[]) AS t (id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha, \
           evaluation_status, determining, diagnostics, metadata, occurred_at, content, prev, hmac, seq, signature, signed_data) ORDER BY t.seq",
    )
    .bind(zone.as_str())
    .bind(links.iter().map(|link| link.id.as_str()).collect::<Vec<_>>())
    .bind(links.iter().map(|link| link.event_type.as_str()).collect::<Vec<_>>())
    .bind(texts(|link| link.request_id.as_ref()))
    .bind(texts(|link| link.decision.as_ref()))
    .bind(texts(|link| link.policy_set_id.as_ref()))
    .bind(texts(|link| link.policy_set_version_id.as_ref()))
    .bind(texts(|link| link.manifest_sha.as_ref()))
    .bind(texts(|link| link.evaluation_status.as_ref()))
    .bind(texts(|link| link.documents.determining_policies.as_ref()))
    .bind(texts(|link| link.documents.diagnostics.as_ref()))
    .bind(texts(|link| link.documents.metadata.as_ref()))
    .bind(links.iter().map(|link| link.occurred_at).collect::<Vec<_>>())
    .bind(links.iter().map(|link| link.content_sha256.as_str()).collect::<Vec<_>>())
    .bind(texts(|link| link.prev_content_sha256.as_ref()))
    .bind(links.iter().map(|link| link.chain_hmac.as_str()).collect::<Vec<_>>())
    .bind(links.iter().map(|link| link.chain_seq).collect::<Vec<_>>())
    .bind(texts(|link| link.ingest_signature.as_ref()))
    .bind(links.iter().map(|link| link.signed_data.as_str()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE audit_chain_heads SET seq = $2, content_sha256 = $3, updated_at = now() WHERE zone_id = $1",
    )
    .bind(zone.as_str())
    .bind(last.chain_seq)
    .bind(last.content_sha256.as_str())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Records that a replayed event differs from the stored one.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn alert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    event: &str,
    kind: &str,
    detail: &str,
) -> Result<(), StorageError> {
    sqlx::query("INSERT INTO audit_ingest_alerts (event_id, zone_id, kind, detail) VALUES ($1, $2, $3, $4)")
        .bind(event)
        .bind(zone.as_str())
        .bind(kind)
        .bind(detail)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// The zone's links after `seq` in the order of the chain. One statement on `(zone_id, chain_seq)`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn links_after(
    tx: &mut ReadTx,
    zone: &str,
    seq: i64,
    limit: i64,
) -> Result<Vec<Link>, StorageError> {
    let statement = format!(
        "SELECT {LINK_COLUMNS} FROM audit_events WHERE zone_id = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT $3"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone)
        .bind(seq)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?)
}

/// The end of the zone's chain, if it has one.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn head(tx: &mut ReadTx, zone: &str) -> Result<Option<ChainHead>, StorageError> {
    let row: Option<(i64, Option<String>)> =
        sqlx::query_as("SELECT seq, content_sha256 FROM audit_chain_heads WHERE zone_id = $1")
            .bind(zone)
            .fetch_optional(&mut *tx)
            .await?;
    Ok(row.map(|(seq, content_sha256)| ChainHead { seq, content_sha256 }))
}

/// How many events of the zone are stored, in the chain or not. Reads an index of the whole zone.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn count(tx: &mut ReadTx, zone: &str) -> Result<i64, StorageError> {
    Ok(
        sqlx::query_scalar("SELECT count(*) FROM audit_events WHERE zone_id = $1")
            .bind(zone)
            .fetch_one(&mut *tx)
            .await?,
    )
}

/// Every zone that has a chain, or events. Reads an index of the whole ledger.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn zones(tx: &mut ReadTx) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT zone_id FROM audit_chain_heads UNION SELECT zone_id FROM audit_events ORDER BY zone_id",
    )
    .fetch_all(&mut *tx)
    .await?)
}

/// What [`search`] looks for within one zone.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// The zone.
    pub zone: &'a str,
    /// From this instant on; from the beginning when absent.
    pub since: Option<OffsetDateTime>,
    /// Before this instant.
    pub until: OffsetDateTime,
    /// Only this decision.
    pub decision: Option<&'a str>,
    /// Only this request.
    pub request_id: Option<&'a str>,
    /// After this position of the chain.
    pub after_seq: i64,
    /// At most this many, 1-1000.
    pub limit: i64,
}

/// Links of a zone that match, in the order of the chain. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn search(tx: &mut ReadTx, search: &Search<'_>) -> Result<Vec<Link>, StorageError> {
    let statement = format!(
        "SELECT {LINK_COLUMNS} FROM audit_events WHERE zone_id = $1 AND ($2::timestamptz IS NULL OR occurred_at >= $2) AND occurred_at < $3 \
           AND ($4::text IS NULL OR decision = $4) AND ($5::text IS NULL OR request_id = $5) AND chain_seq > $6 \
         ORDER BY chain_seq LIMIT $7"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(search.zone)
        .bind(search.since)
        .bind(search.until)
        .bind(search.decision)
        .bind(search.request_id)
        .bind(search.after_seq)
        .bind(search.limit)
        .fetch_all(&mut *tx)
        .await?)
}

/// Makes the ledger's monthly partitions, this month's and `months_ahead` more, where they are missing. Answers how many were made.
///
/// # Errors
/// [`StorageError::Refused`] for a role that may not; [`StorageError::Database`] when rows already stand in the default partition's way.
pub async fn ensure_partitions(tx: &mut WriteTx, months_ahead: i32) -> Result<i64, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE audit_partition_ensure(((now() AT TIME ZONE 'UTC')::date + make_interval(months => ahead))::date)) \
         FROM generate_series(0, $1) AS ahead",
    )
    .bind(months_ahead)
    .fetch_one(&mut *tx)
    .await?)
}
