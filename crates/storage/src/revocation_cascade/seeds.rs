//! Where does a cascade begin?

use caracal_model::{SubjectId, ZoneId};

use super::Root;
use crate::error::StorageError;
use crate::tx::WriteTx;

#[derive(Default)]
pub(super) struct Seeds {
    pub(super) records: Vec<String>,
    pub(super) sessions: Vec<String>,
    pub(super) delegations: Vec<String>,
}

/// Where the cascade starts.
/// What ends first, by id.
pub(super) async fn seeds(tx: &mut WriteTx, zone: &ZoneId, root: Root<'_>) -> Result<Seeds, StorageError> {
    match root {
        Root::AuthorityRecord(id) => Ok(Seeds { records: vec![id.to_string()], ..Seeds::default() }),
        Root::Session(id) => Ok(Seeds { sessions: vec![id.to_string()], ..Seeds::default() }),
        Root::Delegation(id) => Ok(Seeds { delegations: vec![id.to_string()], ..Seeds::default() }),
        Root::Zone => Ok(Seeds {
            records: sqlx::query_scalar(
                "SELECT id FROM authority_records WHERE zone_id = $1 AND status = 'active'",
            )
            .bind(zone.as_str())
            .fetch_all(&mut *tx)
            .await?,
            sessions: sqlx::query_scalar(
                "SELECT id FROM sessions WHERE zone_id = $1 AND status IN ('active', 'suspended')",
            )
            .bind(zone.as_str())
            .fetch_all(&mut *tx)
            .await?,
            delegations: sqlx::query_scalar(
                "SELECT id FROM delegation_edges WHERE zone_id = $1 AND status = 'active'",
            )
            .bind(zone.as_str())
            .fetch_all(tx)
            .await?,
        }),
        Root::Application(application) => Ok(Seeds {
            records: sqlx::query_scalar(
                "SELECT id FROM authority_records
                 WHERE zone_id = $1 AND status = 'active' AND (
                     (session_type = 'application' AND subject_id = $2)
                     OR (session_type = 'user' AND claims_json ->> 'client_id' = $2))",
            )
            .bind(zone.as_str())
            .bind(application.as_str())
            .fetch_all(&mut *tx)
            .await?,
            sessions: sqlx::query_scalar(
                "SELECT id FROM sessions
                 WHERE zone_id = $1 AND application_id = $2 AND status IN ('active', 'suspended')",
            )
            .bind(zone.as_str())
            .bind(application.as_str())
            .fetch_all(tx)
            .await?,
            delegations: Vec::new(),
        }),
        Root::Subject(subject) => seeds_of_subject(tx, zone, subject, &["user", "application"]).await,
        Root::Grant { user, .. } => seeds_of_subject(tx, zone, user, &["user"]).await,
        Root::Resource { id, identifier } => Ok(Seeds {
            delegations: sqlx::query_scalar(
                "SELECT id FROM delegation_edges
                 WHERE zone_id = $1 AND status = 'active' AND (
                     resource_id = $2
                     OR (resource_id IS NULL AND constraints_json -> 'resources' = jsonb_build_array($3::text)))",
            )
            .bind(zone.as_str())
            .bind(id.as_str())
            .bind(identifier)
            .fetch_all(tx)
            .await?,
            ..Seeds::default()
        }),
    }
}

/// The live records of a subject of these kinds, and the live sessions that hang from any of them, ended or not.
async fn seeds_of_subject(
    tx: &mut WriteTx,
    zone: &ZoneId,
    subject: &SubjectId,
    kinds: &[&str],
) -> Result<Seeds, StorageError> {
    Ok(Seeds {
        records: sqlx::query_scalar(
            "SELECT id FROM authority_records
             WHERE zone_id = $1 AND subject_id = $2 AND session_type = ANY($3) AND status = 'active'",
        )
        .bind(zone.as_str())
        .bind(subject.as_str())
        .bind(kinds)
        .fetch_all(&mut *tx)
        .await?,
        sessions: sqlx::query_scalar(
            "SELECT s.id FROM sessions s
             JOIN authority_records r ON r.zone_id = s.zone_id AND r.id = s.subject_authority_record_id
             WHERE s.zone_id = $1 AND r.subject_id = $2 AND r.session_type = ANY($3)
               AND s.status IN ('active', 'suspended')",
        )
        .bind(zone.as_str())
        .bind(subject.as_str())
        .bind(kinds)
        .fetch_all(tx)
        .await?,
        delegations: Vec::new(),
    })
}
