//! What does the ledger say about an exchange?
//!
//! One event for each requested resource, or one for the whole request when it was refused before resources were looked
//! at. Events of a token are appended before the token is released (`docs/contract/audit-events.md`).

mod resource;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_model::{EventId, UnixMicros};
use caracal_policy::Decision;
use caracal_storage::approval::Approval;
use caracal_storage::zone_model::SubjectIssuerRow;
use caracal_token::SubjectType;
use caracal_wire::audit::{AuditEvent, Details, decision, event_type, status};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::approval::Agreed;
use super::client::{Caller, Via};
use super::mint::Minted;
use super::references::References;
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use super::resources::Verdict;
use super::subject_token::Presented;
use crate::limit::denial_budget::Account;
use crate::state::Sts;
use crate::unique_id::unique_id;
use crate::zone::ZoneModel;

/// What became known in the course of one exchange, proved or not.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) caller: Option<Caller>,
    pub(crate) presented: Option<Presented>,
    pub(crate) references: Arc<References>,
    pub(crate) verdicts: Vec<Verdict>,
    /// The configured issuer that a user's token says it is of.
    pub(crate) user_issuer: Option<Arc<SubjectIssuerRow>>,
    /// What happened to an approval.
    pub(crate) approval: Option<ApprovalFact>,
}

/// An approval was raised or used.
#[derive(Debug, Clone)]
pub(crate) struct ApprovalFact {
    pub(crate) event_type: &'static str,
    pub(crate) decision: &'static str,
    pub(crate) metadata: Map<String, Value>,
}

impl ApprovalFact {
    /// A new one.
    pub(crate) fn raised(approval: &Approval) -> Self {
        Self {
            event_type: event_type::STEP_UP_ISSUED,
            decision: decision::PENDING,
            metadata: about(approval),
        }
    }

    /// One that was used for the token. Every release of the token says so: the event of the first may be what failed.
    pub(crate) fn of_use(agreed: &Agreed) -> Self {
        match agreed {
            Agreed::Usable(approval) => Self::used(approval),
            Agreed::Used(approval, _) => {
                let mut fact = Self::used(approval);
                fact.metadata.insert("given_again".to_owned(), json!(true));
                fact
            }
        }
    }

    /// One that was used.
    pub(crate) fn used(approval: &Approval) -> Self {
        Self {
            event_type: event_type::STEP_UP_CONSUMED,
            decision: decision::CONSUMED,
            metadata: about(approval),
        }
    }
}

/// What every event about an approval says.
pub(crate) fn about(approval: &Approval) -> Map<String, Value> {
    let mut metadata = Map::new();
    let texts = [
        ("challenge_id", Some(approval.id.as_str())),
        ("tier", approval.tier.as_deref()),
        ("approver_class", Some(approval.approver_class.as_str())),
        ("privacy_mode", Some(approval.privacy_mode.as_str())),
        ("session_id", approval.session_id.as_deref()),
        ("application_id", approval.application_id.as_deref()),
        ("subject_anchor", named(approval)),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            metadata.insert(name.to_owned(), json!(text));
        }
    }
    let binding = approval.resource_set_hash.as_deref().map(hex::encode);
    metadata.insert("binding".to_owned(), json!(binding));
    metadata
}

/// The user a request is made for, where the approval lets him be named: he is who decides, so his name says who decided.
fn named(approval: &Approval) -> Option<&str> {
    let is_identified = approval.privacy_mode == "identified";
    approval.subject_anchor.as_deref().filter(|_anchor| is_identified)
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) request_id: String,
    pub(crate) source: IpAddr,
    /// How long it may wait for somebody else's answer.
    pub(crate) wait: Duration,
    /// When it came.
    pub(crate) arrived_at: Instant,
}

/// Evidence cannot be recorded, so its effect must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("evidence cannot be recorded")]
pub(crate) struct NotRecorded;

/// Appends the events of an issued token.
///
/// # Errors
/// [`NotRecorded`]: the token must not be released.
pub(crate) async fn record_issue(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    known: &Known,
    minted: &Minted,
) -> Result<(), NotRecorded> {
    let Some(caller) = &known.caller else {
        return Err(NotRecorded);
    };
    let scribe = Scribe {
        sts,
        origin,
        request,
        known,
        zone: caller.zone(),
    };
    let events = known
        .verdicts
        .iter()
        .map(|verdict| scribe.about_resource(verdict, Some(minted), None))
        .chain(known.approval.iter().map(|fact| scribe.about_approval(fact)))
        .chain(known.user_issuer.iter().map(|_| scribe.about_sign_in(minted)));
    append_lines(sts, events.collect()).await
}

/// Appends the events of a refusal, if there is a ledger for them: the zone exists. Refusals that anybody can cause are
/// limited ([`Account`]). A refusal stands whether or not it can be recorded.
pub(crate) async fn record_refusal(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    known: &Known,
    refusal: &Refusal,
) {
    let Some(status) = refusal.evaluation_status() else {
        return;
    };
    let Some(zone) = zone_of(sts, request, known) else {
        return;
    };
    let mut suppressed = 0;
    if let Some(account) = account_of(origin, known, refusal) {
        match sts.denials.take(account, sts.clock.unix_micros()) {
            Some(count) => suppressed = count,
            None => return sts.metrics.denial_events_suppressed.inc(),
        }
    }
    let scribe = Scribe {
        sts,
        origin,
        request,
        known,
        zone: &zone,
    };
    let mut events: Vec<Option<Vec<u8>>> = known
        .verdicts
        .iter()
        .map(|verdict| scribe.about_resource(verdict, None, Some(refusal)))
        .collect();
    if events.is_empty() {
        events.push(scribe.about_request(refusal, status, suppressed));
    }
    events.extend(known.approval.iter().map(|fact| scribe.about_approval(fact)));
    if append_lines(sts, events).await.is_err() {
        tracing::error!(refusal = refusal.label(), "a refusal could not be recorded");
    }
}

/// Whose budget the evidence is written from, if it has one. A gateway may ask for somebody who holds nothing but the first two
/// segments of a mandate.
fn account_of(origin: &Origin, known: &Known, refusal: &Refusal) -> Option<Account> {
    if refusal.precedes_authentication() {
        return Some(Account::Source(origin.source));
    }
    let caller = known.caller.as_ref()?;
    let is_a_strangers = *refusal == Refusal::SubjectToken && caller.via() == Via::Gateway;
    is_a_strangers.then(|| Account::Gateways(caller.zone().id.clone()))
}

fn zone_of(sts: &Sts, request: &ExchangeRequest, known: &Known) -> Option<Arc<ZoneModel>> {
    match &known.caller {
        Some(caller) => Some(Arc::clone(caller.zone())),
        None => sts.zones.known(&request.zone_id.as_str().try_into().ok()?),
    }
}

/// Appends all events or none: the first that cannot be appended decides.
///
/// # Errors
/// [`NotRecorded`].
pub(crate) async fn append(sts: &Sts, events: Vec<Option<AuditEvent>>) -> Result<(), NotRecorded> {
    let lines = events.into_iter().map(|event| event?.to_json().ok());
    append_lines(sts, lines.collect()).await
}

/// The same for events as they stand in the ledger; `None` is one that could not be made.
async fn append_lines(sts: &Sts, lines: Vec<Option<Vec<u8>>>) -> Result<(), NotRecorded> {
    let lines: Option<Vec<Vec<u8>>> = lines.into_iter().collect();
    let mut lines = lines.ok_or(NotRecorded)?.into_iter().map(Bytes::from);
    let outcome = match (lines.next(), lines.len()) {
        (None, _) => return Ok(()),
        (Some(line), 0) => sts.spool.append(line).await,
        (Some(line), _) => {
            let appends = std::iter::once(line)
                .chain(lines)
                .map(|line| sts.spool.append(line));
            let appended = Box::pin(futures_util::future::join_all(appends)).await;
            appended.into_iter().collect()
        }
    };
    outcome.map_err(|error| {
        sts.metrics.audit_sink_errors.inc();
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "evidence cannot be spooled"
        );
        NotRecorded
    })
}

/// Writes events about one request.
struct Scribe<'a> {
    sts: &'a Sts,
    origin: &'a Origin,
    request: &'a ExchangeRequest,
    known: &'a Known,
    zone: &'a ZoneModel,
}

impl Scribe<'_> {
    /// The whole request, refused before its resources were looked at.
    fn about_request(&self, refusal: &Refusal, status: &str, suppressed: u64) -> Option<Vec<u8>> {
        let mut event = self.event(refusal.event_type())?;
        decision::DENY.clone_into(&mut event.decision);
        status.clone_into(&mut event.evaluation_status);
        event.diagnostics_json = json!([{ "reason": reason(refusal) }]);
        let mut metadata = self.metadata();
        metadata.put("resources", &self.request.resources);
        metadata.put("source", &self.origin.source);
        if suppressed > 0 {
            metadata.put("suppressed_events", &suppressed);
        }
        event.to_json_with(&metadata).ok()
    }

    /// A user of another issuer was let in.
    fn about_sign_in(&self, minted: &Minted) -> Option<Vec<u8>> {
        let mut event = self.event(event_type::TOKEN_EXCHANGE)?;
        decision::ALLOW.clone_into(&mut event.decision);
        status::COMPLETE.clone_into(&mut event.evaluation_status);
        event.determining_policies_json = json!([{ "policy": "caracal-subject-federation" }]);
        let mut metadata = self.metadata();
        metadata.put("session_id", &minted.claims.sid);
        put_token(&mut metadata, minted);
        event.to_json_with(&metadata).ok()
    }

    fn about_approval(&self, fact: &ApprovalFact) -> Option<Vec<u8>> {
        let mut event = self.event(fact.event_type)?;
        fact.decision.clone_into(&mut event.decision);
        status::COMPLETE.clone_into(&mut event.evaluation_status);
        let mut metadata = self.metadata();
        metadata.put("resources", &self.request.resources);
        for (name, value) in &fact.metadata {
            metadata.put(name.clone(), value);
        }
        event.to_json_with(&metadata).ok()
    }

    fn event(&self, event_type: &str) -> Option<AuditEvent> {
        let id = EventId::try_from(unique_id(self.sts.clock.unix_millis()).ok()?).ok()?;
        let occurred_at = UnixMicros(self.sts.clock.unix_micros());
        let mut event = AuditEvent::new(id, self.zone.id.clone(), event_type, occurred_at);
        event.request_id = Some(self.origin.request_id.clone());
        Some(event)
    }

    /// What every event of the request says. Texts the caller chose are shortened and cleaned.
    fn metadata(&self) -> Details {
        let mut metadata = Details::default();
        match &self.known.caller {
            Some(caller) => {
                let application = caller.application();
                metadata.put("application_id", application.id.as_str());
                metadata.add_text("application_name", &application.name);
                metadata.add_text(
                    "application_registration_method",
                    &application.registration_method,
                );
            }
            None => metadata.put("application_id", &printable(&self.request.application_id)),
        }
        let scopes = self.request.scopes.iter().map(printable);
        metadata.add("requested_scopes", &scopes.collect::<Vec<_>>());
        let claims = self.known.presented.as_ref().map(Presented::claims);
        let kind = match (claims, &self.known.user_issuer) {
            (Some(claims), _) => claims.sub_type,
            (None, Some(_)) => SubjectType::User,
            (None, None) => SubjectType::Application,
        };
        metadata.add_text("subject_kind", kind.as_str());
        if let Some(issuer) = &self.known.user_issuer {
            metadata.add_text("federated_user_issuer", &issuer.issuer);
        }
        if let Some(claims) = claims {
            metadata.add_text("subject_token_id", claims.jti.as_str());
            metadata.add_text("subject_token_use", claims.r#use.as_str());
        }
        let references = &self.known.references;
        if let Some(record) = &references.record {
            metadata.put("session_id", record.as_str());
        }
        if let Some(known) = references.session() {
            metadata.add_text("agent_session_id", known.session.id.as_str());
            metadata.add_text("agent_lifecycle", known.session.state.lifecycle.as_str());
            metadata.add("agent_labels", &known.labels);
            metadata.add("agent_depth", &known.depth);
            if let Some(parent) = &known.parent_id {
                metadata.add_text("agent_parent_id", parent.as_str());
            }
        }
        if let Some(chain) = references.chain() {
            metadata.add("delegation_edge_id", &chain.path.last());
            metadata.add("delegation_chain", &super::mint::hops(chain));
            metadata.add("delegation_hop_count", &chain.hop_count());
            metadata.add("delegation_graph_epoch", &references.epoch);
        }
        metadata
    }
}

/// What the policy of `zone` decided, and which policy that was.
pub(crate) fn put_decision(event: &mut AuditEvent, zone: &ZoneModel, decided: &Decision) {
    put_policy(event, zone);
    event.determining_policies_json = json!(decided.determining_policies());
    event.diagnostics_json = json!(decided.diagnostics());
}

/// Which policy `zone` goes by.
pub(crate) fn put_policy(event: &mut AuditEvent, zone: &ZoneModel) {
    let identity = zone.policy.identity();
    event.policy_set_id = identity.policy_set_id.as_ref().map(ToString::to_string);
    event.policy_set_version_id = identity.version_id.as_ref().map(ToString::to_string);
    event.manifest_sha = Some(identity.manifest_sha256.clone());
}

/// Which token was issued: enough to find it, never the token.
fn put_token(metadata: &mut Details, minted: &Minted) {
    let claims = &minted.claims;
    metadata.add_text("token_id", claims.jti.as_str());
    metadata.add_text("token_use", claims.r#use.as_str());
    metadata.add_text("token_sid", claims.sid.as_str());
    metadata.add_text("token_root_sid", claims.root_sid.as_str());
    metadata.add("token_expires_at", &claims.exp);
    metadata.add_text("token_key_id", minted.kid.as_str());
    if let Some(keys) = &claims.cnf {
        metadata.add("token_confirmation", keys);
    }
}

fn reason(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Hold(_) => "approval_required".to_owned(),
        other => other.answer().description.into(),
    }
}

/// Text of a stranger as it may stand in the ledger: at most 128 characters, none of them a control character.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(128)
        .collect()
}
