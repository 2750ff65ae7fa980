//! Native and Rego contract agree on everything: generated documents, generated requests.
//!
//! The universe is small on purpose, so that names meet each other. `PROPTEST_CASES` changes how many
//! cases one run tries (2,048 unless set).

use caracal_model::ScopeSet;
use caracal_policy::{
    Action, ActionKind, Bundle, CompileError, Decision, Edge, Input, PolicyError, Principal, PrincipalType,
    Resource, SubjectClaims, decide, simulate,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::{Value as Json, json};

use super::reference::{Reference, document, document_that_reads_input};

const APPLICATIONS: [&str; 2] = ["app-1", "app-2"];
const KEYS: [&str; 2] = ["bot", "desk"];
const RESOURCES: [&str; 2] = ["resource://crm", "resource://vault"];
const SCOPES: [&str; 4] = ["agent:lifecycle", "chat:read", "crm:read", "crm:write"];
const LABELS: [&str; 4] = ["editor", "reader", "tenant:", "tenant:acme"];
const TIERS: [&str; 3] = ["calm", "money", "sensitive"];

#[derive(Debug, Clone)]
struct Request {
    workload: bool,
    injection: bool,
    principal: &'static str,
    labels: Vec<String>,
    resource: &'static str,
    session: Option<&'static str>,
    edge: Option<ScopeSet>,
    claims: Option<Claims>,
    requested: ScopeSet,
}

#[derive(Debug, Clone)]
struct Claims {
    r#use: Option<&'static str>,
    edge: Option<&'static str>,
    scope: Option<String>,
    target: Vec<String>,
}

impl Claims {
    fn json(&self) -> Json {
        let mut claims = json!({"sub": "user-1", "jti": "t-1"});
        for (name, value) in [
            ("use", self.r#use),
            ("delegation_edge_id", self.edge),
            ("scope", self.scope.as_deref()),
        ] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        if !self.target.is_empty() {
            claims["target"] = json!(self.target);
        }
        claims
    }
}

/// Hands the request over as the services do, typed and borrowed.
fn with_input<T>(request: &Request, act: impl FnOnce(&Input<'_>) -> T) -> T {
    let complete = request.claims.as_ref().map(Claims::json).unwrap_or_default();
    let declared = ScopeSet::empty();
    let path = ["e1".parse().unwrap()];
    let input = Input {
        principal: Principal {
            kind: if request.workload {
                PrincipalType::Workload
            } else {
                PrincipalType::Application
            },
            id: request.principal,
            zone_id: "z1",
            registration_method: Some("managed"),
            lifecycle: None,
            labels: &request.labels,
        },
        resource: Resource {
            id: "r1",
            identifier: request.resource,
            scopes: &declared,
        },
        action: Action {
            kind: if request.injection {
                ActionKind::CredentialInjection
            } else {
                ActionKind::TokenExchange
            },
            method: None,
            path: None,
        },
        authority_record_id: None,
        agent_session_id: request.session,
        delegation_edge: request.edge.as_ref().map(|scopes| Edge {
            id: "e1",
            source_session_id: "s0",
            target_session_id: "s1",
            issuer_application_id: "app-1",
            receiver_application_id: "app-1",
            resource_id: None,
            scopes,
            version: 0,
            path: &path,
            graph_epoch: 7,
            constraints: None,
        }),
        subject_claims: request.claims.as_ref().map(|claims| SubjectClaims {
            r#use: claims.r#use,
            delegation_edge_id: claims.edge,
            scope: claims.scope.as_deref(),
            target: &claims.target,
            complete: &complete,
        }),
        trace_id: "req-1",
        challenge_resolved: false,
        requested_scopes: &request.requested,
    };
    act(&input)
}

/// The first of two names four times out of five.
fn first_mostly(names: &'static [&'static str; 2]) -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(names[0]), 1 => Just(names[1])]
}

fn some_of(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(names, 0..=names.len())
}

fn scope_set() -> impl Strategy<Value = ScopeSet> {
    // Most requests do not ask for the lifecycle scope, or they would all have one shape.
    prop_oneof![
        4 => some_of(&SCOPES[1..]).prop_map(ScopeSet::from_iter),
        1 => some_of(&SCOPES).prop_map(ScopeSet::from_iter),
        1 => Just(ScopeSet::parse("agent:lifecycle")),
    ]
}

fn claims() -> impl Strategy<Value = Claims> {
    (
        prop_oneof![Just(None), select(&["session", "gateway", "resource"][..]).prop_map(Some)],
        prop_oneof![Just(None), Just(Some("")), Just(Some("e1"))],
        prop_oneof![
            1 => Just(None),
            4 => (some_of(&SCOPES[1..]), select(&[" ", "  "][..])).prop_map(|(held, gap)| Some(held.join(gap) + gap)),
            1 => Just(Some("crm:read\tcrm:write".to_owned())),
        ],
        some_of(&RESOURCES).prop_map(|targets| targets.into_iter().map(str::to_owned).collect()),
    )
        .prop_map(|(r#use, edge, scope, target)| Claims { r#use, edge, scope, target })
}

/// A request of one of the contract's shapes, some of its parts then replaced at random.
fn request() -> impl Strategy<Value = Request> {
    let shape = select(
        &[
            "bootstrap",
            "workload",
            "mint",
            "use",
            "ambient-mint",
            "ambient-use",
        ][..],
    );
    let subject = (
        shape,
        first_mostly(&APPLICATIONS),
        first_mostly(&RESOURCES),
        labels(),
        first_mostly(&RESOURCES),
    );
    let noise = (
        prop::option::weighted(0.05, any::<bool>()),
        prop::option::weighted(0.05, any::<bool>()),
        prop::option::weighted(0.05, prop_oneof![Just(None), Just(Some("")), Just(Some("s1"))]),
        prop::option::weighted(0.05, prop::option::of(scope_set())),
        prop::option::weighted(0.05, prop::option::of(claims())),
        prop::option::weighted(0.05, scope_set()),
    );
    (subject, work(), work(), noise).prop_map(
        |((shape, principal, resource, labels, target), asked, held, noise)| {
            let (workload, injection, session, edge, claims, requested) = noise;
            let is_mint = shape == "mint";
            let presented = match shape {
                "use" => Some(presented("gateway", Some("e1"), &asked, target)),
                "ambient-use" => Some(presented("session", None, &asked, target)),
                _ => None,
            };
            let asked = match shape {
                "bootstrap" => ScopeSet::parse("agent:lifecycle"),
                "use" | "ambient-use" => ScopeSet::empty(),
                _ => asked,
            };
            Request {
                workload: workload.unwrap_or(shape == "workload"),
                injection: injection.unwrap_or(shape == "workload"),
                principal,
                labels,
                resource,
                session: session.unwrap_or(is_mint.then_some("s1")),
                edge: edge.unwrap_or_else(|| {
                    is_mint.then(|| held.iter().chain(asked.iter().take(2 - held.len() % 2)).collect())
                }),
                claims: claims.unwrap_or(presented),
                requested: requested.unwrap_or(asked),
            }
        },
    )
}

fn presented(r#use: &'static str, edge: Option<&'static str>, scopes: &ScopeSet, target: &str) -> Claims {
    Claims {
        r#use: Some(r#use),
        edge,
        scope: Some(scopes.to_text()),
        target: vec![target.to_owned()],
    }
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    some_of(&LABELS).prop_map(|labels| labels.into_iter().map(str::to_owned).collect())
}

/// One or two scopes, as most requests have.
fn work() -> impl Strategy<Value = ScopeSet> {
    subsequence(&SCOPES[1..], 1..=2).prop_map(ScopeSet::from_iter)
}

fn scopes_json() -> impl Strategy<Value = Json> {
    prop_oneof![2 => some_of(&SCOPES[1..]), 1 => Just(SCOPES[1..].to_vec())].prop_map(|scopes| json!(scopes))
}

fn grants() -> impl Strategy<Value = Json> {
    let roles = prop::collection::btree_map(select(&LABELS[..]), scopes_json(), 0..5);
    let grant = (
        select(&KEYS[..]),
        prop::option::weighted(0.9, roles),
        prop::option::of(scopes_json()),
    );
    let grant = grant.prop_map(|(application, roles, ambient)| {
        let mut grant = json!({"application": application});
        if let Some(roles) = roles {
            grant["roles"] = json!(roles);
        }
        if let Some(ambient) = ambient {
            grant["ambient"] = ambient;
        }
        grant
    });
    prop::collection::btree_map(first_mostly(&RESOURCES), grant, 1..=2).prop_map(|grants| json!(grants))
}

fn app_ids() -> impl Strategy<Value = Json> {
    let desk = prop::option::of(first_mostly(&APPLICATIONS));
    (first_mostly(&APPLICATIONS), desk).prop_map(|(bot, desk)| match desk {
        Some(desk) => json!({"bot": bot, "desk": desk}),
        None => json!({"bot": bot}),
    })
}

fn confinement() -> impl Strategy<Value = Json> {
    let cap = (
        select(&["tenant:", "tenant:acme", "reader", ""][..]),
        scopes_json(),
    )
        .prop_map(|(label_prefix, scopes)| json!({"label_prefix": label_prefix, "scopes": scopes}));
    prop::collection::vec(cap, 0..3).prop_map(|caps| json!(caps))
}

fn restrict() -> impl Strategy<Value = Json> {
    prop_oneof![
        6 => select(vec![json!([]), json!({}), json!(false)]),
        1 => select(vec![json!(["freeze"]), json!({"a": 1}), json!("freeze"), json!(""), json!(0), json!(null), json!(true)]),
    ]
}

fn risk() -> impl Strategy<Value = Json> {
    let rule = (select(&SCOPES[..]), select(&TIERS[..]))
        .prop_map(|(scope, tier)| json!({"scope": scope, "tier": tier}));
    let malformed = select(vec![
        json!({}),
        json!("money"),
        json!(null),
        json!([{"scope": "crm:read"}]),
        json!([{"scope": "crm:read", "tier": ""}]),
        json!([{"scope": 1, "tier": "money"}]),
        json!(["crm:read"]),
    ]);
    prop_oneof![9 => prop::collection::vec(rule, 0..3).prop_map(|rules| json!(rules)), 1 => malformed]
}

fn approval_tiers() -> impl Strategy<Value = Json> {
    let member = |name: &'static str, values: Vec<Json>| {
        prop::option::weighted(0.4, select(values)).prop_map(move |value| value.map(|value| (name, value)))
    };
    let tier = (
        select(&TIERS[..]),
        member(
            "approver",
            ["operator", "subject", "any"].map(Json::from).to_vec(),
        ),
        member(
            "privacy",
            ["identified", "pseudonymous", "anonymous"]
                .map(Json::from)
                .to_vec(),
        ),
        member("ttl_seconds", vec![json!(1), json!(900), json!(86_400)]),
        member("note", vec![json!("why"), json!([1, {"deep": true}])]),
    )
        .prop_map(|(tier, approver, privacy, ttl, note)| {
            let mut declaration = json!({"tier": tier});
            for (name, value) in [approver, privacy, ttl, note].into_iter().flatten() {
                declaration[name] = value;
            }
            declaration
        });
    let malformed = select(vec![
        json!({}),
        json!(1),
        json!([{}]),
        json!([{"tier": ""}]),
        json!([{"tier": "money", "approver": "root"}]),
        json!([{"tier": "money", "approver": null}]),
        json!([{"tier": "money", "privacy": 1}]),
        json!([{"tier": "money", "ttl_seconds": 0}]),
        json!([{"tier": "money", "ttl_seconds": -5}]),
        json!([{"tier": "money", "ttl_seconds": 1.5}]),
        json!([{"tier": "money", "ttl_seconds": "60"}]),
    ]);
    prop_oneof![9 => prop::collection::vec(tier, 0..4).prop_map(|tiers| json!(tiers)), 1 => malformed]
}

/// Data documents, any root of which may be absent.
fn data() -> impl Strategy<Value = Json> {
    let root = |name: &'static str, probability: f64, value: BoxedStrategy<Json>| {
        prop::option::weighted(probability, value).prop_map(move |value| value.map(|value| (name, value)))
    };
    (
        root("app_ids", 0.95, app_ids().boxed()),
        root("grants", 0.95, grants().boxed()),
        root("confinement", 0.4, confinement().boxed()),
        root("restrict", 0.3, restrict().boxed()),
        root("risk", 0.6, risk().boxed()),
        root("approval_tiers", 0.6, approval_tiers().boxed()),
    )
        .prop_map(|(a, b, c, d, e, f)| {
            Json::Object(
                [a, b, c, d, e, f]
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect(),
            )
        })
}

fn written(decision: &Decision) -> Json {
    serde_json::to_value(decision).unwrap()
}

fn config() -> ProptestConfig {
    // proptest reads PROPTEST_CASES itself; its own default of 256 is too few here.
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if config.cases == 256 {
        ProptestConfig {
            cases: 2_048,
            ..config
        }
    } else {
        config
    }
}

#[test]
fn native_and_rego_contract_agree() {
    let reference = Reference::new();
    TestRunner::new(config())
        .run(&(data(), request()), |(data, request)| {
            let json = with_input(&request, |input| serde_json::to_value(input).unwrap());
            let expected = reference.decide(&document(&data), &json);
            agrees_interpreted(&data, &request, &expected)?;
            agrees_constant(&data, &request, &json, &expected)
        })
        .unwrap();
}

/// Documents that read the request, evaluated for each decision.
fn agrees_interpreted(
    data: &Json,
    request: &Request,
    expected: &Result<Json, String>,
) -> Result<(), TestCaseError> {
    let bundle = Bundle::compile(&[("d", &document_that_reads_input(data))]).unwrap();
    match (with_input(request, |input| decide(&bundle, input)), expected) {
        (Ok(decision), Ok(expected)) => prop_assert_eq!(&written(&decision), expected),
        (Err(PolicyError::RiskConflict(_)), Err(_)) => {}
        (decision, _) => prop_assert!(false, "interpreted {decision:?}, reference {expected:?}"),
    }
    Ok(())
}

/// Documents that hold for every request, turned into tables.
fn agrees_constant(
    data: &Json,
    request: &Request,
    json: &Json,
    expected: &Result<Json, String>,
) -> Result<(), TestCaseError> {
    match Bundle::compile(&[("d", &document(data))]) {
        Ok(bundle) => {
            let decision = with_input(request, |input| decide(&bundle, input)).unwrap();
            prop_assert_eq!(&written(&decision), expected.as_ref().unwrap());
            prop_assert_eq!(&decision, &simulate(&bundle, &json.to_string()).unwrap());
        }
        Err(CompileError::RiskConflict(scope)) => {
            let tiers = data["risk"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|rule| rule["scope"] == *scope);
            prop_assert!(tiers.count() > 1, "{scope} is in one tier only");
        }
        Err(other) => prop_assert!(false, "{other}"),
    }
    Ok(())
}

#[test]
fn the_generator_reaches_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..2_000 {
        let data = data().new_tree(&mut runner).unwrap().current();
        let request = request().new_tree(&mut runner).unwrap().current();
        let Ok(bundle) = Bundle::compile(&[("d", &document(&data))]) else {
            continue;
        };
        let decision = with_input(&request, |input| decide(&bundle, input)).unwrap();
        let outcome = match decision.first_reason() {
            Some(reason) => reason.as_str().to_owned(),
            None => decision.determining_policies()[0]
                .policy
                .replace("-bot-", "-")
                .replace("-desk-", "-"),
        };
        *seen.entry(outcome).or_default() += 1;
        if !decision.step_up_tiers().is_empty() {
            *seen.entry("step-up".to_owned()).or_default() += 1;
        }
    }
    for outcome in [
        "caracal-bootstrap",
        "caracal-mint",
        "caracal-use",
        "caracal-workload-mint",
        "caracal-ambient-mint",
        "caracal-ambient-use",
        "restriction_active",
        "malformed_risk_data",
        "malformed_approval_data",
        "resource_not_granted",
        "delegation_scope_exceeded",
        "confinement_violation",
        "role_scope_mismatch",
        "mandate_target_mismatch",
        "ambient_scope_mismatch",
        "no_rule_matched",
        "step-up",
    ] {
        assert!(
            seen.get(outcome).is_some_and(|count| *count >= 3),
            "{outcome} is hardly generated: {seen:?}"
        );
    }
}
