//! Which authority record, governed session and delegation does the request stand on, and do they still hold?
//!
//! The rules of delegation are the model's; this file finds what they are applied to. What is remembered may be older than
//! the change that would lift a refusal (a new session, a heartbeat, a resumption), so a refusal is checked against
//! the database before it stands.

use std::sync::Arc;

use caracal_model::delegation::{Chain, LineageError, ReferenceError, Request};
use caracal_model::{
    Anchors, AuthorityRecordId, DelegationEdge, DelegationId, ScopeSet, SessionId, UnixSeconds,
};
use caracal_storage::session_graph::GraphKey;
use caracal_token::Use;

use super::client::Caller;
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use super::subject_token::Presented;
use crate::session_graph::{EdgeDetails, KnownSession, Origin, View};
use crate::state::Sts;

/// Longest path of delegations the platform accepts.
const HOPS_MAX: u32 = 10;

/// What a request stands on, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    /// The authority record bound to the request.
    pub(crate) record: Option<AuthorityRecordId>,
    session: Option<(Arc<View>, SessionId)>,
    chain: Option<Chain>,
    /// The zone's graph epoch; 0 without a delegation.
    pub(crate) epoch: u64,
}

impl References {
    /// The governed session the request is bound to.
    pub(crate) fn session(&self) -> Option<&KnownSession> {
        let (view, id) = self.session.as_ref()?;
        view.session(id)
    }

    /// The path of delegations the request is made under.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// The presented delegation, with its constraint document and version.
    pub(crate) fn edge(&self) -> Option<(&DelegationEdge, &EdgeDetails)> {
        self.chain.as_ref()?;
        let (view, _) = self.session.as_ref()?;
        Some((view.lineage.presented()?, view.edge.as_ref()?))
    }
}

/// The ids a request names.
#[derive(Debug)]
struct Named {
    record: Option<AuthorityRecordId>,
    session: Option<SessionId>,
    delegation: Option<DelegationId>,
    /// The root record of a presented reusable mandate, which the session must have been started under.
    bound_record: Option<AuthorityRecordId>,
    /// Whether the record must be looked up: a presented mandate has proved its own.
    looks_up_record: bool,
}

/// Finds and checks everything the request stands on. Cost: a few map reads when known, else one SQL statement.
///
/// # Errors
/// [`Refusal::Reference`] and [`Refusal::Lineage`], in the order of the contract; [`Refusal::SessionStateUnavailable`] when
/// something is not known and cannot be read now.
pub(crate) async fn resolve(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    presented: Option<&Presented>,
    now: UnixSeconds,
) -> Result<References, Refusal> {
    let named = name(request, presented)?;
    if !named.looks_up_record && named.session.is_none() && named.delegation.is_none() {
        return Ok(References {
            record: named.record,
            ..References::default()
        });
    }
    let key = GraphKey {
        zone_id: caller.zone().id.clone(),
        authority_record_id: named.record.clone().filter(|_| named.looks_up_record),
        session_id: named.session.clone(),
        delegation_id: named.delegation.clone(),
    };
    let scopes = presented.map_or_else(|| request.scopes.clone(), |presented| presented.claims().scopes());
    let check = Check {
        sts,
        request,
        caller,
        named: &named,
        scopes: &scopes,
        now,
    };
    let (view, origin) = sts.graph.view(&key).await.map_err(|error| unavailable(&error))?;
    match check.run(&view) {
        Err(_) if origin == Origin::Memory => match Box::pin(sts.graph.reread(&key)).await {
            Ok(view) => check.run(&view),
            Err(error) => Err(unavailable(&error)),
        },
        outcome => outcome,
    }
}

fn unavailable(error: &Arc<caracal_storage::StorageError>) -> Refusal {
    tracing::warn!(
        error = &**error as &dyn std::error::Error,
        "sessions and delegations cannot be read"
    );
    Refusal::SessionStateUnavailable
}

/// The ids of the form, completed by those the presented mandate is bound to. Text that is no id names nothing that
/// exists.
fn name(request: &ExchangeRequest, presented: Option<&Presented>) -> Result<Named, Refusal> {
    let claims = presented.map(Presented::claims);
    let record = match (claims, request.session_id.as_deref()) {
        (Some(claims), _) => Some(claims.sid.clone()),
        (None, Some(text)) => Some(parse(text, Refusal::Reference(ReferenceError::RecordInactive))?),
        (None, None) => None,
    };
    let delegation = match request.delegation_edge_id.as_deref() {
        Some(text) => Some(parse(text, Refusal::Lineage(LineageError::EdgeInactive))?),
        None => claims.and_then(|claims| claims.delegation_edge_id.clone()),
    };
    let session = match request.agent_session_id.as_deref() {
        Some(text) => Some(parse(text, Refusal::Reference(ReferenceError::SessionInactive))?),
        None => claims.and_then(|claims| claims.agent_session_id.clone()),
    };
    let bound_record = claims
        .filter(|claims| claims.r#use == Use::Session)
        .map(|claims| claims.root_sid.clone());
    let looks_up_record = presented.is_none() && record.is_some();
    Ok(Named {
        record,
        session,
        delegation,
        bound_record,
        looks_up_record,
    })
}

fn parse<'t, T: TryFrom<&'t str>>(text: &'t str, refusal: Refusal) -> Result<T, Refusal> {
    T::try_from(text).ok().ok_or(refusal)
}

/// One check of one request against one view.
struct Check<'a> {
    sts: &'a Sts,
    request: &'a ExchangeRequest,
    caller: &'a Caller,
    named: &'a Named,
    scopes: &'a ScopeSet,
    now: UnixSeconds,
}

impl Check<'_> {
    fn run(&self, view: &Arc<View>) -> Result<References, Refusal> {
        self.record(view)?;
        let mut references = References {
            record: self.named.record.clone(),
            ..References::default()
        };
        match (&self.named.session, &self.named.delegation) {
            (None, None) => {}
            (None, Some(_)) => return Err(Refusal::Reference(ReferenceError::DelegationWithoutSession)),
            (Some(session), None) => self.session(view, session).map_err(Refusal::Reference)?,
            (Some(session), Some(delegation)) => {
                references.chain = Some(
                    self.delegation(view, session, delegation)
                        .map_err(Refusal::Lineage)?,
                );
                references.epoch = self.sts.graph.epoch(&self.caller.zone().id, view);
            }
        }
        references.session = self
            .named
            .session
            .clone()
            .map(|session| (Arc::clone(view), session));
        Ok(references)
    }

    /// The record named in the form is the caller's own, active and not revoked.
    fn record(&self, view: &View) -> Result<(), Refusal> {
        if !self.named.looks_up_record {
            return Ok(());
        }
        let inactive = Refusal::Reference(ReferenceError::RecordInactive);
        let record = view.record.as_ref().ok_or(inactive.clone())?;
        if record.status != "active" || record.expires_at <= self.now.0 || self.is_record_revoked(&record.id)
        {
            return Err(inactive);
        }
        let is_own = record.session_type == "application"
            && record.subject_id.as_deref() == Some(self.caller.application().id.as_str());
        if is_own {
            Ok(())
        } else {
            Err(Refusal::Reference(ReferenceError::RecordNotOwned))
        }
    }

    fn session(&self, view: &View, id: &SessionId) -> Result<(), ReferenceError> {
        let zone = &self.caller.zone().id;
        let known = view
            .session(id)
            .filter(|known| known.session.is_live(zone, self.now));
        let known = known.filter(|known| !self.is_session_revoked(known));
        let session = &known.ok_or(ReferenceError::SessionInactive)?.session;
        if session.application_id != self.caller.application().id {
            return Err(ReferenceError::SessionNotOwned);
        }
        let is_bound_elsewhere = self
            .named
            .bound_record
            .as_ref()
            .is_some_and(|record| *record != session.subject_authority_record_id);
        if is_bound_elsewhere {
            Err(ReferenceError::SessionBinding)
        } else {
            Ok(())
        }
    }

    fn delegation(
        &self,
        view: &View,
        session: &SessionId,
        delegation: &DelegationId,
    ) -> Result<Chain, LineageError> {
        let ends = view
            .lineage
            .presented()
            .map(|edge| (&edge.source_session_id, &edge.target_session_id));
        let unrevoked = |id: &SessionId| {
            Some(
                &view
                    .session(id)
                    .filter(|known| !self.is_session_revoked(known))?
                    .session,
            )
        };
        let source = ends.and_then(|(source, _)| unrevoked(source));
        let target = ends.and_then(|(_, target)| unrevoked(target));
        let request = Request {
            zone_id: &self.caller.zone().id,
            caller: &self.caller.application().id,
            delegation_id: delegation,
            session_id: session,
            scopes: self.scopes,
            ttl_seconds: Some(self.request.ttl_seconds),
            bound_record: self.named.bound_record.as_ref(),
        };
        let chain = view.lineage.check(source, target, &request, self.now, HOPS_MAX)?;
        let record = target
            .map(|target| &target.subject_authority_record_id)
            .ok_or(LineageError::TargetUnauthorized)?;
        match view
            .lineage
            .edges()
            .iter()
            .find(|edge| self.is_edge_revoked(edge, record))
        {
            None => Ok(chain),
            Some(edge) if edge.id == *delegation => Err(LineageError::EdgeInactive),
            Some(_) => Err(LineageError::PathEdgeInactive),
        }
    }

    /// Revoked itself, or through the record it was started under.
    fn is_session_revoked(&self, known: &KnownSession) -> bool {
        let record = known.session.subject_authority_record_id.clone();
        known.has_revoked_record || self.is_revoked(record, Some(known.session.id.clone()), None)
    }

    /// Revoked itself; `record` is one that is known not to be revoked.
    fn is_edge_revoked(&self, edge: &DelegationEdge, record: &AuthorityRecordId) -> bool {
        self.is_revoked(record.clone(), None, Some(edge.id.clone()))
    }

    fn is_record_revoked(&self, record: &AuthorityRecordId) -> bool {
        self.is_revoked(record.clone(), None, None)
    }

    fn is_revoked(
        &self,
        record: AuthorityRecordId,
        session: Option<SessionId>,
        delegation: Option<DelegationId>,
    ) -> bool {
        let anchors = Anchors {
            sid: record.clone(),
            root_sid: record,
            session,
            delegation,
        };
        self.sts.revocations.is_revoked(&anchors).is_some()
    }
}
