//! One row per refusal, and what a whole path leaves.

use serde_json::json;

use super::super::edge::EdgeStatus;
use super::*;
use crate::session::{SessionState, SessionStatus, SubjectAuthority};

const NOW: UnixSeconds = UnixSeconds(1_000);

/// A path `s1 -e1-> s2 -e2-> s3` over two applications, and a request by the last session.
struct Case {
    edges: Vec<DelegationEdge>,
    source: Option<GovernedSession>,
    target: Option<GovernedSession>,
    zone: ZoneId,
    caller: ApplicationId,
    presented: DelegationId,
    session: SessionId,
    scopes: ScopeSet,
    ttl_seconds: Option<i64>,
    bound_record: Option<AuthorityRecordId>,
    max_hops: u32,
}

fn edge(number: u32, issuer: &str, receiver: &str) -> DelegationEdge {
    DelegationEdge {
        id: format!("e{number}").parse().unwrap(),
        zone_id: "z1".parse().unwrap(),
        source_session_id: format!("s{number}").parse().unwrap(),
        target_session_id: format!("s{}", number + 1).parse().unwrap(),
        issuer_application_id: issuer.parse().unwrap(),
        receiver_application_id: receiver.parse().unwrap(),
        parent_edge_id: (number > 1).then(|| format!("e{}", number - 1).parse().unwrap()),
        resource_id: None,
        scopes: ScopeSet::parse("crm:read crm:write"),
        constraints: Constraints::parse(&json!({"max_hops": 3 - number, "ttl_seconds": 600})),
        status: EdgeStatus::Active,
        expires_at: NOW + 100,
        revoked_at: None,
    }
}

fn session(id: &str, application: &str) -> GovernedSession {
    GovernedSession {
        id: id.parse().unwrap(),
        zone_id: "z1".parse().unwrap(),
        application_id: application.parse().unwrap(),
        subject_authority_record_id: "a1".parse().unwrap(),
        subject: SubjectAuthority::Application,
        state: SessionState::start_task(NOW, 3_600),
    }
}

fn case() -> Case {
    Case {
        edges: vec![edge(1, "app-1", "app-1"), edge(2, "app-1", "app-2")],
        source: Some(session("s2", "app-1")),
        target: Some(session("s3", "app-2")),
        zone: "z1".parse().unwrap(),
        caller: "app-2".parse().unwrap(),
        presented: "e2".parse().unwrap(),
        session: "s3".parse().unwrap(),
        scopes: ScopeSet::parse("crm:read"),
        ttl_seconds: None,
        bound_record: None,
        max_hops: 10,
    }
}

impl Case {
    fn check(&self) -> Result<Chain, LineageError> {
        let request = Request {
            zone_id: &self.zone,
            caller: &self.caller,
            delegation_id: &self.presented,
            session_id: &self.session,
            scopes: &self.scopes,
            ttl_seconds: self.ttl_seconds,
            bound_record: self.bound_record.as_ref(),
        };
        let (source, target) = (self.source.as_ref(), self.target.as_ref());
        Lineage::new(self.edges.clone()).check(source, target, &request, NOW, self.max_hops)
    }

    fn constrain(&mut self, edge: usize, document: &serde_json::Value) {
        self.edges[edge].constraints = Constraints::parse(document);
    }
}

#[test]
fn a_whole_path_gives_its_hops_root_first() {
    let chain = case().check().unwrap();
    assert_eq!(chain.path, ["e1", "e2"]);
    assert_eq!(chain.hop_count(), 2);
    let hops: Vec<_> = chain
        .hops
        .iter()
        .map(|hop| {
            (
                hop.application_id.as_str(),
                hop.session_id.as_str(),
                hop.delegation_id.as_ref().map(DelegationId::as_str),
            )
        })
        .collect();
    assert_eq!(
        hops,
        [
            ("app-1", "s1", Some("e1")),
            ("app-1", "s2", Some("e2")),
            ("app-2", "s3", None)
        ]
    );
    assert_eq!(
        (chain.source_session_id.as_str(), chain.target_session_id.as_str()),
        ("s2", "s3")
    );
}

#[test]
fn a_path_leaves_the_narrowest_of_everything() {
    let mut narrow = case();
    narrow.edges[0].scopes = ScopeSet::parse("crm:read");
    narrow.edges[0].expires_at = NOW + 50;
    narrow.edges[0].resource_id = Some("res-crm".parse().unwrap());
    narrow.constrain(0, &json!({"max_hops": 2, "ttl_seconds": 60}));
    narrow.constrain(
        1,
        &json!({"expires_at": (NOW + 40).to_rfc3339(), "resources": ["resource://crm", "resource://erp"]}),
    );
    let chain = narrow.check().unwrap();
    assert_eq!(
        chain.scopes,
        ScopeSet::parse("crm:read"),
        "a child cannot add what its parent lacks"
    );
    assert_eq!(chain.expires_at, NOW + 40);
    assert_eq!(chain.ttl_seconds, Some(60));
    let reaches = |id: &str, name: &str| chain.reaches(&id.parse().unwrap(), &name.parse().unwrap());
    assert!(reaches("res-crm", "resource://crm"));
    assert!(
        !reaches("res-erp", "resource://erp"),
        "the parent names another resource"
    );
    assert!(!reaches("res-crm", "resource://hr"), "the child lists others");
}

type Change = fn(&mut Case);

#[test]
fn each_defect_has_its_own_refusal() {
    let rows: [(&str, Change, LineageError); 34] = [
        ("unknown edge", |c| c.edges.clear(), LineageError::EdgeInactive),
        (
            "another edge",
            |c| c.presented = "e1".parse().unwrap(),
            LineageError::EdgeInactive,
        ),
        (
            "revoked",
            |c| c.edges[1].status = EdgeStatus::Revoked,
            LineageError::EdgeInactive,
        ),
        (
            "marked expired",
            |c| c.edges[1].status = EdgeStatus::Expired,
            LineageError::EdgeInactive,
        ),
        (
            "expires now",
            |c| c.edges[1].expires_at = NOW,
            LineageError::EdgeInactive,
        ),
        (
            "revoked_at without status",
            |c| c.edges[1].revoked_at = Some(NOW),
            LineageError::EdgeInactive,
        ),
        (
            "edge of another zone",
            |c| c.edges[1].zone_id = "z2".parse().unwrap(),
            LineageError::EdgeInactive,
        ),
        (
            "another session",
            |c| c.session = "s2".parse().unwrap(),
            LineageError::TargetMismatch,
        ),
        ("no source", |c| c.source = None, LineageError::SourceInactive),
        (
            "wrong source",
            |c| c.source = Some(session("s9", "app-1")),
            LineageError::SourceInactive,
        ),
        (
            "source suspended",
            |c| source(c).state.status = SessionStatus::Suspended,
            LineageError::SourceInactive,
        ),
        (
            "source over time",
            |c| source(c).state.ttl_seconds = Some(0),
            LineageError::SourceInactive,
        ),
        (
            "source's user gone",
            |c| source(c).subject = SubjectAuthority::User { live_until: None },
            LineageError::SourceInactive,
        ),
        ("no target", |c| c.target = None, LineageError::TargetUnauthorized),
        (
            "target terminated",
            |c| target(c).state.status = SessionStatus::Terminated,
            LineageError::TargetUnauthorized,
        ),
        (
            "foreign target",
            |c| c.caller = "app-9".parse().unwrap(),
            LineageError::TargetUnauthorized,
        ),
        (
            "target in another zone",
            |c| target(c).zone_id = "z2".parse().unwrap(),
            LineageError::TargetUnauthorized,
        ),
        (
            "other record",
            |c| c.bound_record = Some("a2".parse().unwrap()),
            LineageError::SessionBinding,
        ),
        (
            "wrong issuer",
            |c| c.edges[1].issuer_application_id = "app-9".parse().unwrap(),
            LineageError::ApplicationMismatch,
        ),
        (
            "wrong receiver",
            |c| c.edges[1].receiver_application_id = "app-9".parse().unwrap(),
            LineageError::ApplicationMismatch,
        ),
        (
            "unknown constraint",
            |c| c.constrain(1, &json!({"later": 1})),
            LineageError::ConstraintsInvalid,
        ),
        (
            "unknown constraint above",
            |c| c.constrain(0, &json!({"later": 1})),
            LineageError::ConstraintsInvalid,
        ),
        (
            "other scope",
            |c| c.scopes = ScopeSet::parse("crm:read erp:read"),
            LineageError::ScopesExceeded,
        ),
        (
            "scope lost above",
            |c| c.edges[0].scopes = ScopeSet::parse("crm:write"),
            LineageError::ScopesExceeded,
        ),
        (
            "budget",
            |c| c.constrain(1, &json!({"budget": ["crm:write"]})),
            LineageError::ScopesExceeded,
        ),
        (
            "budget above",
            |c| c.constrain(0, &json!({"max_hops": 2, "budget": 0})),
            LineageError::ScopesExceeded,
        ),
        ("ttl", |c| c.ttl_seconds = Some(601), LineageError::TtlExceeded),
        (
            "hops over platform",
            |c| c.constrain(1, &json!({"max_hops": 11})),
            LineageError::HopLimit,
        ),
        (
            "root missing",
            |c| drop(c.edges.remove(0)),
            LineageError::PathInvalid,
        ),
        (
            "ancestor revoked",
            |c| c.edges[0].status = EdgeStatus::Revoked,
            LineageError::PathInvalid,
        ),
        (
            "ancestor expired",
            |c| c.edges[0].expires_at = NOW,
            LineageError::PathInvalid,
        ),
        (
            "one hop only",
            |c| c.constrain(0, &json!({"max_hops": 1})),
            LineageError::PathInvalid,
        ),
        (
            "too long for the platform",
            |c| c.max_hops = 1,
            LineageError::PathInvalid,
        ),
        (
            "broken in the middle",
            |c| c.edges[0].receiver_application_id = "app-9".parse().unwrap(),
            LineageError::ChainDiscontinuous,
        ),
    ];
    for (defect, change, refusal) in rows {
        let mut defective = case();
        change(&mut defective);
        assert_eq!(defective.check(), Err(refusal), "{defect}");
    }
}

fn source(case: &mut Case) -> &mut GovernedSession {
    case.source.as_mut().unwrap()
}

fn target(case: &mut Case) -> &mut GovernedSession {
    case.target.as_mut().unwrap()
}

#[test]
fn the_limits_themselves_are_within_the_limits() {
    let mut exact = case();
    exact.ttl_seconds = Some(600);
    exact.scopes = ScopeSet::parse("crm:read crm:write");
    exact.bound_record = Some("a1".parse().unwrap());
    exact.max_hops = 2;
    assert!(exact.check().is_ok());
}

#[test]
fn every_refusal_reads_as_its_sentence() {
    for (refusal, sentence) in [
        (LineageError::EdgeInactive, "delegation edge inactive or expired"),
        (LineageError::TargetMismatch, "delegation edge target mismatch"),
        (
            LineageError::SourceInactive,
            "delegation source inactive or expired",
        ),
        (
            LineageError::TargetUnauthorized,
            "delegation target inactive or unauthorized",
        ),
        (
            LineageError::SessionBinding,
            "session authority record binding mismatch",
        ),
        (
            LineageError::ApplicationMismatch,
            "delegation application mismatch",
        ),
        (LineageError::ConstraintsInvalid, "delegation constraints invalid"),
        (
            LineageError::ScopesExceeded,
            "requested scopes exceed delegation scopes",
        ),
        (LineageError::TtlExceeded, "requested ttl exceeds delegation ttl"),
        (
            LineageError::HopLimit,
            "delegation hop limit exceeds platform maximum",
        ),
        (LineageError::PathInvalid, "delegation path invalid"),
        (
            LineageError::EpochUnavailable,
            "delegation graph epoch unavailable",
        ),
        (
            LineageError::PathEdgeUnavailable,
            "delegation path edge unavailable",
        ),
        (
            LineageError::PathEdgeInactive,
            "delegation path edge inactive or revoked",
        ),
        (LineageError::ChainDiscontinuous, "delegation chain discontinuous"),
        (
            LineageError::EndpointsMismatch,
            "delegation chain endpoints mismatch",
        ),
    ] {
        assert_eq!(refusal.to_string(), sentence);
    }
}
