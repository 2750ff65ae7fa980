//! Over random delegation graphs: whatever is passed on, however often, nobody ends up with more than its root had.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;

use caracal_model::delegation::{
    Authority, Budget, Constraints, DelegationEdge, EdgeStatus, Inbound, InboundEdge, Lineage, Request,
    Source, attenuate, authority_to_delegate, resolve_parent, would_cycle,
};
use caracal_model::session::{GovernedSession, SessionState, SubjectAuthority};
use caracal_model::{ResourceId, ResourceIdentifier, ScopeSet, SessionId, UnixSeconds, ZoneId};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const SCOPES: [&str; 4] = ["a", "b", "c", "d"];
const RESOURCES: [&str; 3] = ["crm", "erp", "hr"];
const NOW: UnixSeconds = UnixSeconds(1_000);
const PLATFORM_MAX_HOPS: u32 = 10;

fn resource_id(name: &str) -> ResourceId {
    format!("res-{name}").parse().unwrap()
}

fn identifier(name: &str) -> ResourceIdentifier {
    format!("resource://{name}").parse().unwrap()
}

fn scopes() -> impl Strategy<Value = ScopeSet> {
    subsequence(SCOPES.to_vec(), 0..=SCOPES.len()).prop_map(|scopes| scopes.into_iter().collect())
}

fn budget() -> impl Strategy<Value = Option<Budget>> {
    prop_oneof![
        3 => Just(None),
        1 => (0u32..5).prop_map(|count| Some(Budget::Count(count))),
        1 => scopes().prop_map(|scopes| Some(Budget::Scopes(scopes))),
    ]
}

prop_compose! {
    /// An authority anywhere in a small world, so that about as many pairs narrow as do not.
    fn authority()(
        named in proptest::option::weighted(0.3, select(RESOURCES.to_vec())),
        listed in subsequence(RESOURCES.to_vec(), 0..=RESOURCES.len()),
        scopes in scopes(),
        lives_for in 1i64..6,
        max_hops in 1u32..6,
        ttl_seconds in proptest::option::of(1i64..4),
        budget in budget(),
    ) -> Authority {
        Authority {
            resource_id: named.map(resource_id),
            resource_identifier: named.map(identifier),
            resources: listed.into_iter().map(identifier).collect(),
            scopes,
            expires_at: NOW + lives_for,
            max_hops,
            ttl_seconds,
            budget,
        }
    }
}

/// Takes over each part of the parent with a good chance, so that chains of several accepted steps are common.
fn proposal() -> impl Strategy<Value = (Authority, [bool; 6])> {
    (
        authority(),
        proptest::array::uniform6(proptest::bool::weighted(0.6)),
    )
}

fn derive(parent: &Authority, (fresh, keep): (Authority, [bool; 6])) -> Authority {
    let [resources, scopes, expiry, hops, ttl, budget] = keep;
    let from_parent = parent.clone();
    let reach = if resources { &from_parent } else { &fresh };
    Authority {
        resource_id: reach.resource_id.clone(),
        resource_identifier: reach.resource_identifier.clone(),
        resources: reach.resources.clone(),
        scopes: if scopes {
            from_parent.scopes.clone()
        } else {
            fresh.scopes
        },
        expires_at: if expiry {
            from_parent.expires_at
        } else {
            fresh.expires_at
        },
        max_hops: if hops {
            from_parent.max_hops.saturating_sub(1).max(1)
        } else {
            fresh.max_hops
        },
        ttl_seconds: if ttl {
            from_parent.ttl_seconds
        } else {
            fresh.ttl_seconds
        },
        budget: if budget {
            from_parent.budget.clone()
        } else {
            fresh.budget
        },
    }
}

fn every_request() -> Vec<ScopeSet> {
    (0..1u32 << SCOPES.len())
        .map(|bits| {
            SCOPES
                .iter()
                .enumerate()
                .filter(|(at, _)| bits >> at & 1 == 1)
                .map(|(_, scope)| scope)
                .collect()
        })
        .collect()
}

/// Everything `below` can do, `above` can do too; tried out over the whole small world.
fn assert_within(below: &Authority, above: &Authority) -> Result<(), TestCaseError> {
    for request in every_request() {
        prop_assert!(
            !below.permits(&request) || above.permits(&request),
            "{request:?} is permitted below only"
        );
    }
    for name in RESOURCES {
        let (id, identifier) = (resource_id(name), identifier(name));
        prop_assert!(
            !below.reaches(&id, &identifier) || above.reaches(&id, &identifier),
            "{name} is reached below only"
        );
    }
    prop_assert!(below.expires_at <= above.expires_at);
    prop_assert!(below.max_hops < above.max_hops);
    prop_assert!(
        above
            .ttl_seconds
            .is_none_or(|most| below.ttl_seconds.is_some_and(|ttl| ttl <= most))
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_attenuations_escapes(root in authority(), proposals in proptest::collection::vec(proposal(), 1..12)) {
        let mut path = vec![root];
        for proposal in proposals {
            let candidate = derive(path.last().unwrap(), proposal);
            if attenuate(path.last().unwrap(), &candidate).is_ok() {
                for above in &path {
                    assert_within(&candidate, above)?;
                }
                path.push(candidate);
            }
        }
        prop_assert!(path.len() <= path[0].max_hops as usize, "no longer than the root allows");
    }

    #[test]
    fn narrowing_alone_is_always_accepted(root in authority(), held in scopes(), sooner in 0i64..5) {
        prop_assume!(root.max_hops > 1);
        let child = Authority {
            scopes: root.scopes.intersection(&held),
            expires_at: root.expires_at - sooner,
            max_hops: root.max_hops - 1,
            ..root.clone()
        };
        prop_assert_eq!(attenuate(&root, &child), Ok(()));
    }

    #[test]
    fn a_guarded_graph_never_has_a_circle(edges in proptest::collection::vec((0u8..7, 0u8..7), 0..40)) {
        let mut graph: Vec<(u8, u8)> = Vec::new();
        for (source, target) in edges {
            let refused = would_cycle(graph.iter().copied(), &source, &target, u32::MAX);
            prop_assert_eq!(refused, source == target || leads_to(&graph, target, source));
            if !refused {
                graph.push((source, target));
            }
        }
        prop_assert!((0..7).all(|node| graph.iter().filter(|edge| edge.0 == node).all(|edge| !leads_to(&graph, edge.1, node))));
    }
}

/// Slow and obvious: grow the set of reachable nodes until it no longer grows.
fn leads_to(graph: &[(u8, u8)], from: u8, to: u8) -> bool {
    let mut reached = BTreeSet::from([from]);
    while let Some((_, next)) = graph
        .iter()
        .find(|(source, target)| reached.contains(source) && !reached.contains(target))
    {
        reached.insert(*next);
    }
    reached.contains(&to)
}

/// What one participant tries to do to the graph.
#[derive(Debug, Clone)]
enum Attempt {
    Delegate {
        source: usize,
        target: usize,
        proposal: (Authority, [bool; 6]),
        named: Option<usize>,
    },
    Revoke {
        edge: usize,
    },
}

const SESSIONS: usize = 5;

fn attempt() -> impl Strategy<Value = Attempt> {
    let delegate = (
        0..SESSIONS,
        0..SESSIONS,
        proposal(),
        proptest::option::weighted(0.5, 0usize..12),
    )
        .prop_map(|(source, target, proposal, named)| Attempt::Delegate {
            source,
            target,
            proposal,
            named,
        });
    prop_oneof![6 => delegate, 1 => (0usize..12).prop_map(|edge| Attempt::Revoke { edge })]
}

/// The graph as a coordinator keeps it, with the authority that was granted with each edge.
#[derive(Default)]
struct Graph {
    edges: Vec<(DelegationEdge, Authority)>,
}

fn session_id(number: usize) -> SessionId {
    format!("s{number}").parse().unwrap()
}

fn session(id: &SessionId) -> GovernedSession {
    GovernedSession {
        id: id.clone(),
        zone_id: zone(),
        application_id: "app-1".parse().unwrap(),
        subject_authority_record_id: "a1".parse().unwrap(),
        subject: SubjectAuthority::Application,
        state: SessionState::start_task(NOW, 3_600),
    }
}

fn zone() -> ZoneId {
    "z1".parse().unwrap()
}

impl Graph {
    fn apply(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Delegate {
                source,
                target,
                proposal,
                named,
            } => self.delegate(source, target, proposal, named),
            Attempt::Revoke { edge } => {
                if let Some((edge, _)) = self.edges.get_mut(edge) {
                    edge.status = EdgeStatus::Revoked;
                    edge.revoked_at = Some(NOW);
                }
            }
        }
    }

    /// The coordinator's rules: no circle, parent chosen among the inbound edges, child within the parent.
    fn delegate(&mut self, from: usize, to: usize, proposal: (Authority, [bool; 6]), named: Option<usize>) {
        let (source, target) = (session_id(from), session_id(to));
        let live = self
            .edges
            .iter()
            .map(|(edge, _)| edge)
            .filter(|edge| edge.is_live(&zone(), NOW));
        let pairs = live.map(|edge| (edge.source_session_id.clone(), edge.target_session_id.clone()));
        if would_cycle(pairs, &source, &target, PLATFORM_MAX_HOPS) {
            return;
        }
        let inbound: Vec<InboundEdge> = self
            .edges
            .iter()
            .filter(|(edge, _)| edge.target_session_id == source)
            .map(|(edge, authority)| InboundEdge {
                id: edge.id.clone(),
                authority: authority.clone(),
                is_live: edge.is_live(&zone(), NOW),
            })
            .collect();
        let named = named
            .and_then(|at| self.edges.get(at))
            .map(|(edge, _)| edge.id.clone());
        let Ok(parent) = resolve_parent(&inbound, named.as_ref()) else {
            return;
        };
        let received = match parent {
            Some(edge) => Inbound::Live(Box::new(edge.authority.clone())),
            None if inbound.is_empty() => Inbound::None,
            None => Inbound::Lapsed,
        };
        let Ok(basis) = authority_to_delegate(received) else {
            return;
        };
        let child = match &basis {
            Source::Root => proposal.0,
            Source::Under(parent) => derive(parent, proposal),
        };
        if basis.permits(&child).is_ok() {
            let parent_edge_id = parent.map(|edge| edge.id.clone());
            self.edges.push((
                edge(self.edges.len(), source, target, parent_edge_id, &child),
                child,
            ));
        }
    }

    fn lineage(&self, of: &DelegationEdge) -> Vec<&(DelegationEdge, Authority)> {
        let mut path = Vec::new();
        let mut next = Some(of.id.clone());
        while let Some(id) = next.take() {
            let found = self.edges.iter().find(|(edge, _)| edge.id == id).unwrap();
            next.clone_from(&found.0.parent_edge_id);
            path.insert(0, found);
        }
        path
    }
}

fn edge(
    number: usize,
    source_session_id: SessionId,
    target_session_id: SessionId,
    parent_edge_id: Option<caracal_model::DelegationId>,
    authority: &Authority,
) -> DelegationEdge {
    DelegationEdge {
        id: format!("e{number}").parse().unwrap(),
        zone_id: zone(),
        source_session_id,
        target_session_id,
        issuer_application_id: "app-1".parse().unwrap(),
        receiver_application_id: "app-1".parse().unwrap(),
        parent_edge_id,
        resource_id: authority.resource_id.clone(),
        scopes: authority.scopes.clone(),
        constraints: Ok(Constraints {
            resources: authority.resources.iter().cloned().collect(),
            max_hops: Some(authority.max_hops),
            ttl_seconds: authority.ttl_seconds,
            budget: authority.budget.clone(),
            ..Constraints::default()
        }),
        status: EdgeStatus::Active,
        expires_at: authority.expires_at,
        revoked_at: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_delegated_and_revoked_no_request_exceeds_any_edge_above_it(
        attempts in proptest::collection::vec(attempt(), 1..24),
    ) {
        let mut graph = Graph::default();
        for attempt in attempts {
            graph.apply(attempt);
        }
        for (presented, granted) in &graph.edges {
            let path = graph.lineage(presented);
            let whole = path.iter().all(|(edge, _)| edge.is_live(&zone(), NOW));
            let (source, target) = (session(&presented.source_session_id), session(&presented.target_session_id));
            let lineage = Lineage::new(path.iter().map(|(edge, _)| edge.clone()).collect());
            for scopes in every_request() {
                let request = Request {
                    zone_id: &zone(),
                    caller: &source.application_id,
                    delegation_id: &presented.id,
                    session_id: &target.id,
                    scopes: &scopes,
                    ttl_seconds: Some(2),
                    bound_record: None,
                };
                let outcome = lineage.check(Some(&source), Some(&target), &request, NOW, PLATFORM_MAX_HOPS);
                let fits = granted.permits(&scopes) && granted.ttl_seconds.is_none_or(|most| most >= 2);
                prop_assert_eq!(outcome.is_ok(), whole && fits, "{:?}: {:?}", scopes, outcome);
                let Ok(chain) = outcome else { continue };
                prop_assert!(chain.hop_count() <= path[0].1.max_hops);
                for (_, above) in &path {
                    prop_assert!(above.permits(&scopes));
                    prop_assert!(chain.scopes.is_subset(&above.scopes));
                    prop_assert!(chain.expires_at <= above.expires_at);
                    prop_assert!(above.ttl_seconds.is_none_or(|most| chain.ttl_seconds.is_some_and(|ttl| ttl <= most)));
                    for name in RESOURCES {
                        let (id, identifier) = (resource_id(name), identifier(name));
                        prop_assert!(!chain.reaches(&id, &identifier) || above.reaches(&id, &identifier));
                    }
                }
            }
        }
    }

    #[test]
    fn a_session_that_was_ever_delegated_to_never_becomes_a_root(attempts in proptest::collection::vec(attempt(), 1..24)) {
        let mut graph = Graph::default();
        for attempt in attempts {
            let before = graph.edges.len();
            graph.apply(attempt);
            if let Some((new, _)) = graph.edges.get(before) {
                let received = graph.edges[..before].iter().any(|(edge, _)| edge.target_session_id == new.source_session_id);
                prop_assert_eq!(new.parent_edge_id.is_some(), received);
            }
        }
    }
}
