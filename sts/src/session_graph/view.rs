//! The rows of a lookup in the terms of the delegation rules, converted once when they are read.

use caracal_model::delegation::EdgeStatus;
use caracal_model::session::{GovernedSession, SubjectAuthority};
use caracal_model::{
    Constraints, DelegationEdge, Lineage, ScopeSet, SessionId, SessionState, UnixSeconds, ZoneId,
};
use caracal_storage::session_graph::{DelegationRow, GraphKey, GraphRows, RecordRow, SessionRow};
use serde_json::value::RawValue;

use super::marks::Subject;

/// What is known of an authority record, a session and a delegation.
#[derive(Debug)]
pub(crate) struct View {
    /// The zone's graph epoch when this was read.
    pub(super) epoch: u64,
    pub(crate) record: Option<RecordRow>,
    sessions: Vec<KnownSession>,
    pub(crate) lineage: Lineage,
    /// Of the presented delegation.
    pub(crate) edge: Option<EdgeDetails>,
    /// What the answer depends on: an announcement about any of these makes it old.
    pub(super) subjects: Vec<Subject>,
    /// Announcements processed before the statement was sent.
    pub(super) read_at: u64,
}

/// A session with what the policy and the evidence say about it.
#[derive(Debug)]
pub(crate) struct KnownSession {
    pub(crate) session: GovernedSession,
    pub(crate) parent_id: Option<SessionId>,
    pub(crate) labels: Vec<String>,
    pub(crate) depth: i32,
    /// Whether the record it was started under is known to be revoked, also an application's.
    pub(crate) has_revoked_record: bool,
}

/// What the policy sees of the presented delegation beyond the rules.
#[derive(Debug)]
pub(crate) struct EdgeDetails {
    /// The constraint document as stored.
    pub(crate) constraints: Option<Box<RawValue>>,
    pub(crate) version: u64,
}

impl View {
    pub(super) fn new(key: &GraphKey, rows: GraphRows, read_at: u64) -> Self {
        let subjects = subjects(key, &rows);
        let zone = &key.zone_id;
        let edge = rows.lineage.last().map(|edge| EdgeDetails {
            constraints: serde_json::value::to_raw_value(&edge.constraints).ok(),
            version: u64::try_from(edge.edge_version).unwrap_or_default(),
        });
        Self {
            epoch: u64::try_from(rows.epoch).unwrap_or_default(),
            record: rows.record,
            sessions: rows
                .sessions
                .into_iter()
                .filter_map(|row| known_session(zone, row))
                .collect(),
            lineage: Lineage::new(
                rows.lineage
                    .into_iter()
                    .filter_map(|row| edge_of(zone, row))
                    .collect(),
            ),
            edge,
            subjects,
            read_at,
        }
    }

    /// The session with this id, if it exists.
    pub(crate) fn session(&self, id: &SessionId) -> Option<&KnownSession> {
        self.sessions.iter().find(|known| known.session.id == *id)
    }
}

/// A row whose status or lifecycle nobody knows counts as absent, which refuses whatever needs it.
fn known_session(zone: &ZoneId, row: SessionRow) -> Option<KnownSession> {
    let state = SessionState {
        status: row.status.parse().ok()?,
        lifecycle: row.lifecycle.parse().ok()?,
        started_at: UnixSeconds(row.started_at),
        ttl_seconds: row.ttl_seconds,
        heartbeat_deadline_at: row.heartbeat_deadline_at.map(UnixSeconds),
    };
    let session = GovernedSession {
        id: row.id,
        zone_id: zone.clone(),
        application_id: row.application_id,
        subject_authority_record_id: row.subject_authority_record_id,
        subject: subject_authority(row.subject_record.as_ref()),
        state,
    };
    Some(KnownSession {
        session,
        parent_id: row.parent_id,
        labels: row.labels,
        depth: row.depth,
        has_revoked_record: row
            .subject_record
            .is_some_and(|record| record.status == "revoked"),
    })
}

fn subject_authority(record: Option<&RecordRow>) -> SubjectAuthority {
    match record {
        Some(record) if record.session_type == "application" => SubjectAuthority::Application,
        Some(record) => SubjectAuthority::User {
            live_until: (record.status == "active").then_some(UnixSeconds(record.expires_at)),
        },
        None => SubjectAuthority::User { live_until: None },
    }
}

/// An edge whose status nobody knows leaves a hole in the lineage, which refuses the whole path.
fn edge_of(zone: &ZoneId, row: DelegationRow) -> Option<DelegationEdge> {
    Some(DelegationEdge {
        id: row.id,
        zone_id: zone.clone(),
        source_session_id: row.source_session_id,
        target_session_id: row.target_session_id,
        issuer_application_id: row.issuer_application_id,
        receiver_application_id: row.receiver_application_id,
        parent_edge_id: row.parent_edge_id,
        resource_id: row.resource_id,
        scopes: row.scopes.iter().collect::<ScopeSet>(),
        constraints: Constraints::parse(&row.constraints),
        status: row.status.parse::<EdgeStatus>().ok()?,
        expires_at: UnixSeconds(row.expires_at),
        revoked_at: row.is_revoked.then_some(UnixSeconds(0)),
    })
}

fn subjects(key: &GraphKey, rows: &GraphRows) -> Vec<Subject> {
    let mut subjects = vec![Subject::Zone(key.zone_id.clone())];
    subjects.extend(key.authority_record_id.clone().map(Subject::Record));
    subjects.extend(key.session_id.clone().map(Subject::Session));
    subjects.extend(key.delegation_id.clone().map(Subject::Delegation));
    for session in &rows.sessions {
        subjects.push(Subject::Session(session.id.clone()));
        subjects.push(Subject::Record(session.subject_authority_record_id.clone()));
    }
    subjects.extend(
        rows.lineage
            .iter()
            .map(|edge| Subject::Delegation(edge.id.clone())),
    );
    subjects
}
