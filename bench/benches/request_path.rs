//! What does each step of a governed request cost in processor time?
//!
//! Budgets to hold these against: ES256 sign 20 us and verify 60 us on one 2-core machine; parsing and
//! deciding should vanish beside them.

use std::hint::black_box;

use caracal_model::{ScopeSet, UnixSeconds};
use caracal_policy::{
    Action, ActionKind, Bundle, Decision, Input, PolicyError, Principal, PrincipalType, Regime, Resource,
    SubjectClaims, decide,
};
use caracal_token::{Claims, JwkSet, KeySet, Rules, SigningKey, UnverifiedToken, Use, fingerprint, verify};
use caracal_wire::stream;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const ISSUER: &str = "https://sts.example.com";
const NOW: UnixSeconds = UnixSeconds(1_790_000_000);

const DOCUMENTS: &str = r#"package caracal.authz
import rego.v1
app_ids := {"crm-bot": "app-1"}
grants := {"resource://crm": {"application": "crm-bot", "roles": {"editor": ["crm:read", "crm:write"]}}}
confinement := [{"label_prefix": "tenant:", "scopes": ["crm:read"]}]
risk := [{"scope": "crm:delete", "tier": "sensitive"}]
"#;

fn measure<T>(criterion: &mut Criterion, name: &str, mut step: impl FnMut() -> T) {
    criterion.bench_function(name, |bencher| {
        bencher.iter(&mut step);
    });
}

/// The claims of a delegated one-shot mandate, every optional claim present.
fn claims() -> Result<Claims, Failure> {
    Ok(serde_json::from_value(json!({
        "iss": ISSUER, "sub": "app-1", "aud": [ISSUER], "exp": 1_790_000_900, "iat": 1_790_000_000,
        "jti": "0199a1b2-0000-7000-8000-000000000002", "zone_id": "z1", "client_id": "app-1", "scope": "crm:read",
        "sid": "0199a1b2-0000-7000-8000-000000000003", "root_sid": "0199a1b2-0000-7000-8000-000000000003",
        "use": "gateway", "sub_type": "application", "target": ["resource://crm"],
        "agent_session_id": "s2", "delegation_edge_id": "e1", "source_session_id": "s1", "target_session_id": "s2",
        "delegation_path": ["e1"],
        "delegation_chain": [
            {"application_id": "app-1", "agent_session_id": "s1", "delegation_edge_id": "e1"},
            {"application_id": "app-1", "agent_session_id": "s2"}
        ],
        "hop_count": 1, "delegation_graph_epoch": 7
    }))?)
}

fn token(criterion: &mut Criterion) -> Result<(), Failure> {
    let claims = claims()?;
    let key = SigningKey::generate("k1".parse()?)?;
    let keys = KeySet::from_jwks(&JwkSet {
        keys: vec![key.jwk()],
    })?;
    let token = key.sign(&claims)?;
    let rules = Rules {
        issuer: ISSUER,
        audience: ISSUER,
        leeway_seconds: 60,
        uses: &[Use::Gateway],
    };
    measure(criterion, "token sign", || key.sign(black_box(&claims)));
    measure(criterion, "token parse", || {
        UnverifiedToken::parse(black_box(&token)).map(|token| token.unverified_claims().exp)
    });
    measure(criterion, "token parse and verify", || {
        UnverifiedToken::parse(black_box(&token)).map(|token| verify(token, &keys, &rules, NOW))
    });
    measure(criterion, "token fingerprint", || fingerprint(black_box(&token)));
    Ok(())
}

/// Decides the gateway's exchange of a delegated mandate.
fn decide_use(bundle: &Bundle, claims: &Claims, labels: &[String]) -> Result<Decision, PolicyError> {
    let none = ScopeSet::empty();
    let input = Input {
        principal: Principal {
            kind: PrincipalType::Application,
            id: claims.client_id.as_str(),
            zone_id: claims.zone_id.as_str(),
            registration_method: Some("managed"),
            lifecycle: None,
            labels,
        },
        resource: Resource {
            id: "r1",
            identifier: "resource://crm",
            scopes: &none,
        },
        action: Action {
            kind: ActionKind::TokenExchange,
            method: Some("GET"),
            path: Some("/v1/customers"),
        },
        authority_record_id: Some(claims.sid.as_str()),
        agent_session_id: Some("s2"),
        delegation_edge: None,
        subject_claims: Some(SubjectClaims {
            r#use: Some(claims.r#use.as_str()),
            delegation_edge_id: Some("e1"),
            scope: claims.scope.as_deref(),
            target: &claims.target,
            complete: claims,
        }),
        trace_id: "req-1",
        challenge_resolved: false,
        requested_scopes: &none,
    };
    decide(bundle, black_box(&input), Regime::Restrict)
}

fn contract(criterion: &mut Criterion) -> Result<(), Failure> {
    let (claims, labels) = (claims()?, ["editor".to_owned()]);
    let reading = format!("{DOCUMENTS}\nrestrict contains \"frozen\" if input.action.method == \"DELETE\"\n");
    for (name, text) in [
        ("contract over tables", DOCUMENTS),
        ("contract over a document that reads input", &reading),
    ] {
        let bundle = Bundle::compile(&[("documents", text)])?;
        if !decide_use(&bundle, &claims, &labels)?.allow() {
            return Err(format!("{name}: the measured decision must be an allow").into());
        }
        measure(criterion, name, || decide_use(&bundle, &claims, &labels));
    }
    Ok(())
}

fn stream_signature(criterion: &mut Criterion) -> Result<(), Failure> {
    let key = [7; 32];
    let names = [
        "zone_id",
        "session_id",
        "agent_session_id",
        "delegation_edge_id",
        "reason",
        "outbox_id",
    ];
    let mut fields: stream::Fields = names.map(|name| (name.to_owned(), format!("{name}-0001"))).into();
    let name = "caracal.sessions.revoke";
    measure(criterion, "stream sign", || {
        stream::sign(&key, name, black_box(&fields))
    });
    fields.insert(stream::SIG.to_owned(), stream::sign(&key, name, &fields)?);
    measure(criterion, "stream verify", || {
        stream::verify(&[&key], name, black_box(&fields))
    });
    Ok(())
}

#[expect(
    clippy::expect_used,
    reason = "a bench that cannot be set up must stop, not measure something else"
)]
fn request_path(criterion: &mut Criterion) {
    token(criterion).expect("token benches");
    contract(criterion).expect("contract benches");
    stream_signature(criterion).expect("stream benches");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = request_path
}
criterion_main!(benches);
