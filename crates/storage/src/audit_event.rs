//! The ledger: `audit_events` (insert-only, partitioned by month) and the head of each zone's hash chain.
//!
//! Written by the audit role only. Nothing here computes a hash: what the caller hashes is the text of the documents that the database can
//! give back to a verifier, and not what a producer sent; where the caller cannot tell it, [`normalise`] does.

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
pub struct NewLink<'e> {
    /// Event id.
    pub id: &'e str,
    /// Kind of event.
    pub event_type: &'e str,
    /// The request it belongs to.
    pub request_id: Option<&'e str>,
    /// `allow`, `deny`, ...
    pub decision: Option<&'e str>,
    /// Policy set in force.
    pub policy_set_id: Option<&'e str>,
    /// Version in force.
    pub policy_set_version_id: Option<&'e str>,
    /// Its manifest.
    pub manifest_sha: Option<&'e str>,
    /// How the evaluation ended.
    pub evaluation_status: Option<&'e str>,
    /// The three documents.
    pub documents: &'e Documents,
    /// When it happened; whole microseconds.
    pub occurred_at: OffsetDateTime,
    /// Content hash, hex.
    pub content_sha256: &'e str,
    /// Content hash of the link before, hex.
    pub prev_content_sha256: Option<&'e str>,
    /// HMAC over both, hex.
    pub chain_hmac: String,
    /// Position in the zone's chain, from 1.
    pub chain_seq: i64,
    /// The producer's signature, hex.
    pub ingest_signature: Option<&'e str>,
    /// The text the producer signed: without it its signature could never be checked again, because the documents are rewritten.
    pub signed_data: &'e str,
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

/// Takes the zone's chain for this transaction and gives its end. Other writers of the zone wait until it ends. One statement, and two
/// more for the first events of a zone.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_head(tx: &mut WriteTx, zone: &ZoneId) -> Result<ChainHead, StorageError> {
    if let Some(head) = lock_existing_head(tx, zone).await? {
        return Ok(head);
    }
    sqlx::query(
        "INSERT INTO audit_chain_heads (zone_id, seq) VALUES ($1, 0) ON CONFLICT (zone_id) DO NOTHING",
    )
    .bind(zone.as_str())
    .execute(&mut *tx)
    .await?;
    let head = lock_existing_head(tx, zone).await?;
    head.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

/// The setting is for [`stored_hashes`], and stands here because this costs no round trip.
async fn lock_existing_head(tx: &mut WriteTx, zone: &ZoneId) -> Result<Option<ChainHead>, StorageError> {
    let row: Option<(i64, Option<String>)> = sqlx::query_as(
        "SELECT seq, content_sha256 FROM audit_chain_heads, set_config('enable_seqscan', 'off', true) WHERE zone_id = $1 \
         FOR UPDATE OF audit_chain_heads",
    )
    .bind(zone.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row.map(|(seq, content_sha256)| ChainHead { seq, content_sha256 }))
}

/// Gives each triple of documents, as JSON text, the text that the database will store. One statement for all.
///
/// # Errors
/// [`StorageError::Database`] when a document is not JSON that the database accepts.
pub async fn normalise(tx: &mut WriteTx, events: &[&Documents]) -> Result<Vec<Documents>, StorageError> {
    let texts = |pick: fn(&Documents) -> &Option<String>| -> Vec<Option<&str>> {
        events
            .iter()
            .map(|documents| pick(documents).as_deref())
            .collect()
    };
    let rows: Vec<(Option<String>, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT d::jsonb::text, g::jsonb::text, m::jsonb::text FROM unnest($1::text[], $2::text[], $3::text[]) \
           WITH ORDINALITY AS t (d, g, m, n) ORDER BY n",
    )
    .bind(texts(|documents| &documents.determining_policies))
    .bind(texts(|documents| &documents.diagnostics))
    .bind(texts(|documents| &documents.metadata))
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

/// The content hash of each of these events that is stored already, by id. One statement, after [`lock_head`].
///
/// It must cost a look into the index of ids for each, and nothing else would do: a plan is made and kept while this month's partition is
/// empty or its statistics are, and then every way of finding rows looks equally cheap. So the zone, for which there are indexes as
/// well, is compared here, and reading a partition from end to end is off since [`lock_head`].
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn stored_hashes(
    tx: &mut WriteTx,
    zone: &ZoneId,
    ids: &[&str],
) -> Result<Vec<(String, String)>, StorageError> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT zone_id, id, coalesce(content_sha256, '') FROM audit_events WHERE id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    let own = rows.into_iter().filter(|(of, _, _)| of == zone.as_str());
    Ok(own.map(|(_zone, id, content)| (id, content)).collect())
}

/// Stores links and moves the head to the last of them. One statement for all.
///
/// # Errors
/// [`StorageError::Conflict`] when a link is stored already.
pub async fn append(tx: &mut WriteTx, zone: &ZoneId, links: &[NewLink<'_>]) -> Result<(), StorageError> {
    let Some(last) = links.last() else { return Ok(()) };
    sqlx::query(
        "WITH stored AS ( \
           INSERT INTO audit_events (zone_id, id, event_type, request_id, decision, policy_set_id, policy_set_version_id, \
             manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, \
             content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data) \
           SELECT $1, unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]), unnest($6::text[]), \
             unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[])::jsonb, unnest($11::text[])::jsonb, \
             unnest($12::text[])::jsonb, unnest($13::timestamptz[]), unnest($14::text[]), unnest($15::text[]), unnest($16::text[]), \
             unnest($17::bigint[]), unnest($18::text[]), unnest($19::text[])) \
         UPDATE audit_chain_heads SET seq = $20, content_sha256 = $21, updated_at = now() WHERE zone_id = $1",
    )
    .bind(zone.as_str())
    .bind(column(links, |link| link.id))
    .bind(column(links, |link| link.event_type))
    .bind(column(links, |link| link.request_id))
    .bind(column(links, |link| link.decision))
    .bind(column(links, |link| link.policy_set_id))
    .bind(column(links, |link| link.policy_set_version_id))
    .bind(column(links, |link| link.manifest_sha))
    .bind(column(links, |link| link.evaluation_status))
    .bind(column(links, |link| link.documents.determining_policies.as_deref()))
    .bind(column(links, |link| link.documents.diagnostics.as_deref()))
    .bind(column(links, |link| link.documents.metadata.as_deref()))
    .bind(column(links, |link| link.occurred_at))
    .bind(column(links, |link| link.content_sha256))
    .bind(column(links, |link| link.prev_content_sha256))
    .bind(column(links, |link| link.chain_hmac.as_str()))
    .bind(column(links, |link| link.chain_seq))
    .bind(column(links, |link| link.ingest_signature))
    .bind(column(links, |link| link.signed_data))
    .bind(last.chain_seq)
    .bind(last.content_sha256)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// One value of each link, for an array.
fn column<'l, 'e, T>(links: &'l [NewLink<'e>], pick: impl Fn(&'l NewLink<'e>) -> T) -> Vec<T> {
    links.iter().map(pick).collect()
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
