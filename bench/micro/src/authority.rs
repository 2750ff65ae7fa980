//! Who may do this: signing and verifying a mandate, deciding by the contract, asking what is revoked and what was used.

use std::hint::black_box;

use anyhow::ensure;
use caracal_bus::{Bus, MemoryBus, Revocations};
use caracal_model::revocation::Anchor;
use caracal_model::{ScopeSet, UnixSeconds};
use caracal_policy::{
    Action, ActionKind, Bundle, Decision, Input, PolicyError, Principal, PrincipalType, Regime, Resource,
    SubjectClaims, decide,
};
use caracal_token::{Claims, JwkSet, KeySet, Rules, SigningKey, UnverifiedToken, Use, fingerprint, verify};
use serde_json::json;
use tokio::runtime;

use crate::Step;

const ISSUER: &str = "https://sts.example.com";
const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
/// Revoked anchors among which one is looked up.
const REVOKED: usize = 10_000;

const DOCUMENTS: &str = r#"package caracal.authz
import rego.v1
app_ids := {"crm-bot": "app-1"}
grants := {"resource://crm": {"application": "crm-bot", "roles": {"editor": ["crm:read", "crm:write"]}}}
confinement := [{"label_prefix": "tenant:", "scopes": ["crm:read"]}]
risk := [{"scope": "crm:delete", "tier": "sensitive"}]
"#;

/// The claims of a delegated one-shot mandate, every optional claim present.
fn claims() -> anyhow::Result<Claims> {
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

pub(crate) fn token() -> anyhow::Result<Vec<Step>> {
    let claims = claims()?;
    let key = SigningKey::generate("k1".parse()?)?;
    let keys = KeySet::from_jwks(&JwkSet {
        keys: vec![key.jwk()],
    })?;
    let rules = Rules {
        issuer: ISSUER,
        audience: ISSUER,
        leeway_seconds: 60,
        uses: &[Use::Gateway],
    };
    let token = key.sign(&claims)?;
    ensure!(verify(UnverifiedToken::parse(&token)?, &keys, &rules, NOW).is_ok());
    let (to_parse, to_digest) = (token.clone(), token.clone());
    Ok(vec![
        Step::of("token sign", move || key.sign(black_box(&claims))),
        Step::of("token parse", move || {
            UnverifiedToken::parse(black_box(&to_parse)).map(|token| token.unverified_claims().exp)
        }),
        Step::of("token parse and verify", move || {
            UnverifiedToken::parse(black_box(&token)).map(|token| verify(token, &keys, &rules, NOW))
        }),
        Step::of("token fingerprint", move || fingerprint(black_box(&to_digest))),
    ])
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

pub(crate) fn contract() -> anyhow::Result<Vec<Step>> {
    let reading = format!("{DOCUMENTS}\nrestrict contains \"frozen\" if input.action.method == \"DELETE\"\n");
    let kinds = [
        ("contract over tables", DOCUMENTS),
        ("contract over a document that reads input", &reading),
    ];
    let steps = kinds.into_iter().map(|(name, text)| {
        let (claims, labels) = (claims()?, ["editor".to_owned()]);
        let bundle = Bundle::compile(&[("documents", text)])?;
        let decision = decide_use(&bundle, &claims, &labels)?;
        ensure!(decision.allow(), "{name}: the measured decision must be an allow");
        Ok(Step::of(name, move || decide_use(&bundle, &claims, &labels)))
    });
    steps.collect()
}

/// Tables of the request path that are not a map of a library alone.
pub(crate) fn memory() -> anyhow::Result<Vec<Step>> {
    let revocations = Revocations::new();
    for number in 0..REVOKED {
        let anchor = Anchor::Session(format!("s-{number}").parse()?);
        revocations.insert(&anchor, NOW.get() + 900);
    }
    let anchors = claims()?.anchors();
    ensure!(revocations.is_revoked(&anchors).is_none());
    let runtime = runtime::Builder::new_current_thread().build()?;
    let bus = MemoryBus::new();
    let (mut number, far) = (0_u64, 4_000_000_000_000);
    Ok(vec![
        Step::of("revocation lookup", move || {
            revocations.is_revoked(black_box(&anchors))
        }),
        Step::of("replay claim", move || {
            number += 1;
            let key = format!("seen:jti:{number:032}");
            runtime.block_on(bus.claim_once(&key, "request", far))
        }),
    ])
}
