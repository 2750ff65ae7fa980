//! Native and Rego contract agree on everything: generated documents, generated requests.
//!
//! The universe is small on purpose, so that names meet each other. One run tries 100,000 inputs; `PROPTEST_CASES` sets how
//! many sets of documents each of the two runners makes instead, with 40 inputs for each.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use caracal_model::ScopeSet;
use caracal_policy::{
    Action, ActionKind, Bundle, CompileError, Decision, Edge, Explanation, Input, PolicyError, Principal,
    PrincipalType, Reason, Regime, Resource, SubjectClaims, decide, explain, simulate,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
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
    principal: String,
    labels: Vec<String>,
    resource: String,
    session: Option<String>,
    edge: Option<ScopeSet>,
    claims: Option<Claims>,
    requested: ScopeSet,
}

#[derive(Debug, Clone)]
struct Claims {
    r#use: Option<String>,
    edge: Option<String>,
    scope: Option<String>,
    target: Vec<String>,
}

impl Claims {
    fn json(&self) -> Json {
        let mut claims = json!({"sub": "user-1", "jti": "t-1"});
        for (name, value) in [
            ("use", self.r#use.as_deref()),
            ("delegation_edge_id", self.edge.as_deref()),
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

impl Request {
    fn to_json(&self) -> Json {
        let texts = |scopes: &ScopeSet| json!(scopes.iter().collect::<Vec<_>>());
        json!({
            "workload": self.workload, "injection": self.injection, "principal": self.principal,
            "labels": self.labels, "resource": self.resource, "session": self.session,
            "edge": self.edge.as_ref().map(texts), "requested": texts(&self.requested),
            "claims": self.claims.as_ref().map(|claims| json!({
                "use": claims.r#use, "edge": claims.edge, "scope": claims.scope, "target": claims.target,
            })),
        })
    }

    fn from_json(kept: &Json) -> Self {
        let text = |value: &Json| value.as_str().map(str::to_owned);
        let texts = |value: &Json| -> Option<Vec<String>> {
            Some(value.as_array()?.iter().filter_map(text).collect())
        };
        Self {
            workload: kept["workload"] == true,
            injection: kept["injection"] == true,
            principal: text(&kept["principal"]).unwrap(),
            labels: texts(&kept["labels"]).unwrap(),
            resource: text(&kept["resource"]).unwrap(),
            session: text(&kept["session"]),
            edge: texts(&kept["edge"]).map(|scopes| scopes.iter().collect()),
            claims: kept["claims"].as_object().map(|claims| Claims {
                r#use: text(&claims["use"]),
                edge: text(&claims["edge"]),
                scope: text(&claims["scope"]),
                target: texts(&claims["target"]).unwrap(),
            }),
            requested: texts(&kept["requested"]).unwrap().iter().collect(),
        }
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
            id: &request.principal,
            zone_id: "z1",
            registration_method: Some("managed"),
            lifecycle: None,
            labels: &request.labels,
        },
        resource: Resource {
            id: "r1",
            identifier: &request.resource,
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
        agent_session_id: request.session.as_deref(),
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
            r#use: claims.r#use.as_deref(),
            delegation_edge_id: claims.edge.as_deref(),
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
        .prop_map(|(r#use, edge, scope, target)| Claims {
            r#use: r#use.map(str::to_owned),
            edge: edge.map(str::to_owned),
            scope,
            target,
        })
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
                principal: principal.to_owned(),
                labels,
                resource: resource.to_owned(),
                session: session.unwrap_or(is_mint.then_some("s1")).map(str::to_owned),
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
        r#use: Some(r#use.to_owned()),
        edge: edge.map(str::to_owned),
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

/// Inputs of one run, and how many of them are asked about one set of documents.
const INPUTS: u32 = 100_000;
const INPUTS_PER_DOCUMENT: u32 = 40;
/// Runners at work at once, each with seeds of its own.
const RUNNERS: u32 = 2;
/// Of the inputs about one set of documents, how many are also asked of documents that read the request.
const INTERPRETED: usize = 4;

/// Counterexamples of earlier runs, reduced to the least that disagreed: one JSON object in a line, tried before anything new.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/corpus.jsonl");

fn config() -> ProptestConfig {
    // proptest reads PROPTEST_CASES itself; its own default of 256 is too few here.
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    if config.cases == 256 {
        let cases = INPUTS.div_ceil(INPUTS_PER_DOCUMENT * RUNNERS);
        ProptestConfig { cases, ..config }
    } else {
        config
    }
}

#[test]
fn native_and_rego_contract_agree_on_a_hundred_thousand_inputs() {
    let tried = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let runners: Vec<_> = (0..RUNNERS).map(|_| scope.spawn(|| run(&tried))).collect();
        for runner in runners {
            if let Err(payload) = runner.join() {
                std::panic::resume_unwind(payload);
            }
        }
    });
    let tried = tried.into_inner();
    assert!(
        tried >= config().cases * RUNNERS * INPUTS_PER_DOCUMENT,
        "only {tried} inputs were tried"
    );
}

fn run(tried: &AtomicU32) {
    let reference = Reference::new();
    let per_document = INPUTS_PER_DOCUMENT as usize;
    let requests = prop::collection::vec(request(), per_document..=per_document);
    let outcome = TestRunner::new(config()).run(&(data(), requests), |(data, requests)| {
        tried.fetch_add(INPUTS_PER_DOCUMENT, Ordering::Relaxed);
        agree(&reference, &data, &requests)
    });
    if let Err(TestError::Fail(reason, (data, requests))) = &outcome {
        // One of the requests is enough; the others only came along.
        let culprit = requests
            .iter()
            .find(|request| agree(&reference, data, std::slice::from_ref(*request)).is_err());
        let line = json!({"data": data, "request": culprit.map(Request::to_json)});
        let mut corpus = std::fs::OpenOptions::new().append(true).open(CORPUS).unwrap();
        writeln!(corpus, "{line}").unwrap();
        panic!("{reason}\nkept in {CORPUS}: {line}");
    }
    outcome.unwrap();
}

#[test]
fn every_counterexample_of_earlier_runs_agrees_now() {
    let reference = Reference::new();
    let corpus = std::fs::read_to_string(CORPUS).unwrap();
    for line in corpus.lines() {
        let kept: Json = serde_json::from_str(line).unwrap();
        let request = Request::from_json(&kept["request"]);
        let agreed = agree(&reference, &kept["data"], std::slice::from_ref(&request));
        assert!(agreed.is_ok(), "{line}: {agreed:?}");
    }
    assert!(!corpus.is_empty());
}

/// Whether native contract and reference decide alike on every request.
fn agree(reference: &Reference, data: &Json, requests: &[Request]) -> Result<(), TestCaseError> {
    let mut expected = reference.with(&document(data));
    let constant = Bundle::compile(&[("d", &document(data))]);
    if let Err(error) = &constant {
        is_conflict(error, data)?;
    }
    let reading = Bundle::compile(&[("d", &document_that_reads_input(data))]).unwrap();
    for (number, request) in requests.iter().enumerate() {
        let json = with_input(request, |input| serde_json::to_value(input).unwrap());
        let expected = expected.decide(&json);
        if number < INTERPRETED {
            agrees_interpreted(&reading, request, &expected)?;
        }
        if let Ok(bundle) = &constant {
            let decision = with_input(request, |input| decide(bundle, input, Regime::Restrict)).unwrap();
            prop_assert_eq!(&written(&decision), expected.as_ref().unwrap());
            if number < INTERPRETED {
                let json = json.to_string();
                prop_assert_eq!(&decision, &simulate(bundle, &json, Regime::Restrict).unwrap());
                explains(&decision, &explain(bundle, &json, Regime::Restrict).unwrap())?;
            }
        }
    }
    Ok(())
}

/// Documents that read the request, evaluated for each decision.
fn agrees_interpreted(
    bundle: &Bundle,
    request: &Request,
    expected: &Result<Json, String>,
) -> Result<(), TestCaseError> {
    match (decide_unhurried(bundle, request), expected) {
        (Ok(decision), Ok(expected)) => prop_assert_eq!(&written(&decision), expected),
        (Err(PolicyError::RiskConflict(_)), Err(_)) => {}
        (decision, _) => prop_assert!(false, "interpreted {decision:?}, reference {expected:?}"),
    }
    Ok(())
}

/// Decides anew when the interpreter gave up: on a processor that is busy elsewhere an evaluation can meet its limit of
/// time, which says nothing about the contract. What fails each time is wrong.
fn decide_unhurried(bundle: &Bundle, request: &Request) -> Result<Decision, PolicyError> {
    let once = || with_input(request, |input| decide(bundle, input, Regime::Restrict));
    let mut decided = once();
    for _ in 0..10 {
        if !matches!(decided, Err(PolicyError::Evaluation(_))) {
            break;
        }
        decided = once();
    }
    decided
}

/// Documents that hold for every request, turned into tables, fail to compile only when one scope is in two tiers.
fn is_conflict(error: &CompileError, data: &Json) -> Result<(), TestCaseError> {
    let CompileError::RiskConflict(scope) = error else {
        prop_assert!(false, "{error}");
        return Ok(());
    };
    let tiers = data["risk"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["scope"] == **scope);
    prop_assert!(tiers.count() > 1, "{scope} is in one tier only");
    Ok(())
}

/// The first gate that refuses is the reason, and there is none when nothing is refused.
fn explains(decision: &Decision, explanation: &Explanation) -> Result<(), TestCaseError> {
    let refused = explanation.gates.iter().find(|gate| !gate.passed);
    let reason = decision.first_reason().map(Reason::as_str);
    prop_assert_eq!(refused.map(|gate| gate.refuses_with), reason, "{:?}", explanation);
    prop_assert_eq!(&explanation.decision, decision);
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
        let decision = with_input(&request, |input| decide(&bundle, input, Regime::Restrict)).unwrap();
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
