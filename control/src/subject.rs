//! Whom has a zone given authority to, and taking all of it back (`docs/contract/federation.md`, "Subjects").

use std::time::Duration;

use caracal_model::{SubjectId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::audit_read::{self, Session, SessionFilter};
use caracal_storage::outbox::Producer;
use caracal_storage::page::Page;
use caracal_storage::provider_connection::{self, Connection, SealedTokens};
use caracal_storage::revocation_cascade::{self, Revoked, Root};
use caracal_storage::subject::{self, Activity, Filter, Subject};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::connection;
use crate::control::Control;
use crate::refusal::{Code, Refusal};

/// Why a subject's authority ends when nobody says.
pub(crate) const REASON_DEFAULT: &str = "subject_revoked";
/// How many of the subject's sessions and connections an overview shows.
const RECENT_MAX: i64 = 5;
const CONNECTIONS_MAX: i64 = 10;
/// How many providers are told at a time that a connection has ended, and for how long the answer waits for them.
const PROVIDERS_AT_A_TIME: usize = 8;
const PROVIDERS_WAIT: Duration = Duration::from_secs(10);

/// One subject and what it has under way.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) subject: Subject,
    pub(crate) activity: Activity,
    pub(crate) sessions: Vec<Session>,
    pub(crate) connections: Vec<Connection>,
}

/// What a revocation ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) authority: Revoked,
    pub(crate) connections: usize,
}

/// Subjects of a zone.
pub(crate) async fn list(
    control: &Control,
    zone: &ZoneId,
    filter: Filter<'_>,
    page: &Page,
) -> Result<Vec<Subject>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(subject::list(&mut tx, zone, filter, page).await?)
}

/// One subject, all of it as of one moment.
pub(crate) async fn overview(
    control: &Control,
    zone: &ZoneId,
    subject: &SubjectId,
) -> Result<Overview, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = subject::find(&mut tx, zone, subject)
        .await?
        .ok_or(Code::SubjectNotFound)?;
    let sessions = SessionFilter {
        subject_id: Some(subject.to_string()),
        ..SessionFilter::default()
    };
    let connections = provider_connection::Filter {
        subject_id: Some(subject.as_str()),
        ..provider_connection::Filter::default()
    };
    Ok(Overview {
        subject: found,
        activity: subject::activity(&mut tx, zone, subject).await?,
        sessions: audit_read::sessions(&mut tx, zone, &sessions, &first(RECENT_MAX)).await?,
        connections: provider_connection::list(&mut tx, zone, connections, &first(CONNECTIONS_MAX)).await?,
    })
}

const fn first(limit: i64) -> Page {
    Page { limit, after: None }
}

/// Ends everything a subject holds: its records with everything below them, its sessions, its connections. Revoking again
/// finds nothing left and is no error.
pub(crate) async fn revoke(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    subject: &SubjectId,
    reason: &str,
    members: &Map<String, Value>,
) -> Result<Ended, Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let authority =
        revocation_cascade::revoke(change.tx(), Producer::Api, zone, Root::Subject(subject), reason).await?;
    let connections = provider_connection::revoke_all(change.tx(), zone, subject).await?;
    let is_known = !connections.is_empty() || subject::exists(change.tx(), zone, subject).await?;
    if !is_known {
        return Err(Code::SubjectNotFound.into());
    }
    let done = Done {
        status: 200,
        kind: Kind::Action,
        entity: ("subjects", subject.as_str()),
        zone,
        members: Some(members),
    };
    change.commit(done).await?;
    tell_providers(control, zone, &connections).await;
    Ok(Ended {
        authority,
        connections: connections.len(),
    })
}

/// It has ended here whatever the providers say, so nobody waits for a slow one.
async fn tell_providers(
    control: &Control,
    zone: &ZoneId,
    ended: &[(caracal_model::ProviderId, SealedTokens)],
) {
    let telling = futures_util::stream::iter(ended).for_each_concurrent(
        PROVIDERS_AT_A_TIME,
        async |(provider, tokens)| {
            connection::revoke_upstream(control, zone, provider, tokens).await;
        },
    );
    if tokio::time::timeout(PROVIDERS_WAIT, telling).await.is_err() {
        tracing::warn!(zone.id = %zone, "not every provider was told in time that a connection has ended");
    }
}
