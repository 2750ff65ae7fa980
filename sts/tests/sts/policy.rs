//! Policies between services: simulations, what a replica decides by, and documents that cost too much.

use caracal_chassis::Clock;
use caracal_testing::{wait_for, wait_until};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::seed;
use crate::stack::{Answer, SOON, Stack, header_map, nonce, signature};

const SIMULATE: &str = "/internal/policy/simulate";
const STATUS: &str = "/internal/policy/status/z1";
/// Decisions that took at most a third of what counts as running out of time.
const QUICK: &str = "caracal_sts_policy_seconds_bucket{le=\"0.1\"} ";

async fn signed(stack: &Stack, method: Method, path: &str, body: &str) -> Answer {
    let signed = signature(
        Clock::system().unix_seconds(),
        &nonce(),
        method.as_str(),
        path,
        body,
    );
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    stack.send(method, path, header_map(&headers), body).await
}

async fn simulate(stack: &Stack, content: &str, input: Option<Value>) -> Answer {
    let mut body = json!({
        "policy_set_id": "ps-9", "version_id": "psv-9", "manifest_sha256": "ab",
        "policies": [{"id": "pv-9", "content": content}],
    });
    if let Some(input) = input {
        body["input"] = input;
    }
    signed(stack, Method::POST, SIMULATE, &body.to_string()).await
}

/// The version of the policy set that the service decides by.
pub(crate) async fn in_force(stack: &Stack) -> Value {
    let status = signed(stack, Method::GET, STATUS, "").await;
    status.body["policy_set_version_id"].clone()
}

pub(crate) async fn metrics(stack: &Stack) -> String {
    let bearer = [("authorization", "Bearer metrics"), ("accept", "text/plain")];
    let answer = stack.send(Method::GET, "/metrics", header_map(&bearer), "").await;
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

/// How many decisions were quick so far.
async fn quick(stack: &Stack) -> u64 {
    let text = metrics(stack).await;
    let count = text.lines().find_map(|line| line.strip_prefix(QUICK));
    count.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

fn mint(scope: &str) -> Value {
    json!({
        "principal": {"type": "Application", "id": "app-1", "zone_id": "z1", "labels": ["reader"]},
        "resource": {"type": "Resource", "identifier": "resource://crm"},
        "action": {"id": "TokenExchange"},
        "delegation_edge": {"id": "e-1", "scopes": ["crm:read", "crm:write"]},
        "context": {"agent_session_id": "s-1", "requested_scopes": [scope]},
    })
}

#[tokio::test]
async fn a_simulation_decides_and_says_why_without_touching_what_is_in_force() {
    let stack = Stack::start().await;
    let allowed = simulate(&stack, seed::POLICY, Some(mint("crm:read"))).await;
    assert_eq!(allowed.status, StatusCode::OK, "{}", allowed.body);
    for (member, value) in [
        ("policy_set_id", "ps-9"),
        ("version_id", "psv-9"),
        ("manifest_sha256", "ab"),
    ] {
        assert_eq!(allowed.body[member], value);
    }
    assert_eq!(allowed.body["result"]["decision"], "allow");
    assert_eq!(allowed.body["explanation"]["shape"], "mint");
    let denied = simulate(&stack, seed::POLICY, Some(mint("crm:write"))).await;
    assert_eq!(
        denied.body["result"]["diagnostics"],
        json!([{"reason": "role_scope_mismatch"}])
    );
    let gates = denied.body["explanation"]["gates"].as_array().unwrap();
    let last = gates.last().unwrap();
    assert_eq!(
        (&last["gate"], &last["passed"], &last["because"]),
        (
            &json!("one_role_covers_scopes"),
            &json!(false),
            &json!("crm:write is wanted; label \"reader\" may have crm:read")
        )
    );
    let compiled = simulate(&stack, seed::POLICY, None).await;
    assert_eq!(
        (&compiled.body["result"], &compiled.body["explanation"]),
        (&Value::Null, &Value::Null)
    );
    let status = signed(&stack, Method::GET, STATUS, "").await;
    assert_eq!(status.body["policy_set_version_id"], "psv-1");
}

#[tokio::test]
async fn a_simulation_that_cannot_be_is_refused_in_order() {
    let stack = Stack::start().await;
    let unsigned = stack.send(Method::POST, SIMULATE, header_map(&[]), "{}").await;
    assert_eq!(
        unsigned.refusal(),
        (401, "access_denied", "invalid gateway signature")
    );
    let too_large = format!("{{\"policies\": [], \"x\": \"{}\"}}", "x".repeat(70_000));
    let answer = signed(&stack, Method::POST, SIMULATE, &too_large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    for body in ["{", "[]", "{\"policies\": 1}", "{\"policies\": []}"] {
        let answer = signed(&stack, Method::POST, SIMULATE, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["error"].as_str()),
            (400, Some("invalid_token")),
            "{body}"
        );
    }
    let misspelt = seed::POLICY.replace("\"ambient\"", "\"ambiant\"");
    let answer = simulate(&stack, &misspelt, None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body["error"].as_str()),
        (422, Some("policy_eval_failed"))
    );
    assert_eq!(
        answer.body["diagnostics"][0]["path"],
        r#"grants["resource://crm"]["ambiant"]"#
    );
    assert_eq!(
        (
            &answer.body["diagnostics"][0]["document"],
            &answer.body["diagnostics"][0]["line"]
        ),
        (&json!("pv-9"), &json!(9))
    );
    let mut other = mint("crm:read");
    other["schema_version"] = json!("2020-01-01");
    let answer = simulate(&stack, seed::POLICY, Some(other)).await;
    assert_eq!(
        answer.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "another schema version"
    );
}

#[tokio::test]
async fn a_replica_says_what_it_decides_by() {
    let stack = Stack::start().await;
    let unsigned = stack.get(STATUS).await;
    assert_eq!(unsigned.refusal().0, 401);
    let first = signed(&stack, Method::GET, STATUS, "").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert_eq!(
        (
            &first.body["zone_id"],
            &first.body["loaded"],
            &first.body["policy_set_version_id"]
        ),
        (&json!("z1"), &json!(true), &json!("psv-1"))
    );
    assert!(first.body["loaded_at"].as_str().unwrap().ends_with('Z'));
    assert!(first.body["age_seconds"].is_number() && first.body["replica"].is_string());
    seed::policy(&stack.pool, "psv-2", seed::POLICY).await;
    wait_for(SOON, async || {
        let status = signed(&stack, Method::GET, STATUS, "").await;
        (status.body["policy_set_version_id"] == "psv-2").then_some(())
    })
    .await;
    stack
        .sql("UPDATE policy_set_bindings SET active_version_id = NULL")
        .await;
    let fallback = wait_for(SOON, async || {
        let status = signed(&stack, Method::GET, STATUS, "").await;
        (status.body["manifest_sha256"] == "no_active_policy_set").then_some(status)
    })
    .await;
    assert_eq!(
        fallback.body["loaded"], true,
        "it denies everything, and knows it"
    );
    let unknown = signed(&stack, Method::GET, "/internal/policy/status/z-unknown", "").await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.body["loaded"]),
        (200, &json!(false))
    );
}

/// A policy that no machine evaluates within its budgets.
fn endless() -> String {
    format!(
        "{}\nrestrict contains \"x\" if {{\n\tinput.action.id\n\txs := [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\
         \tcount([1 | some a in xs; some b in xs; some c in xs; some d in xs; some e in xs; some f in xs; some g in xs; some h in xs; a + b + c + d + e + f + g + h < 0]) > 0\n}}\n",
        seed::POLICY
    )
}

#[tokio::test]
async fn a_policy_that_never_ends_costs_its_zone_and_nobody_else() {
    let stack = Stack::start().await;
    let endless = endless();
    let tried = simulate(&stack, &endless, Some(mint("crm:read"))).await;
    let (status, code, reason) = tried.refusal();
    assert_eq!((status, code), (422, "policy_eval_failed"));
    // The interpreter's own limit, or on a busy machine the deadline of whoever waits for it.
    let is_late = reason.contains("exceeded time limit") || reason == "the documents take too long";
    assert!(is_late, "{reason}");
    seed::policy(&stack.pool, "psv-2", &endless).await;
    let fields = [
        ("resource", "resource://crm"),
        ("scope", "crm:read"),
        ("agent_session_id", "s-target"),
        ("delegation_edge_id", "e-1"),
    ];
    let stalled = wait_for(SOON, async || {
        let answer = stack.mint(&fields).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(
        (stalled.status.as_u16(), stalled.body["error"].as_str()),
        (503, Some("policy_eval_failed"))
    );
    let event = &stack.events_of(&stalled).await[0];
    assert_eq!(
        (&event["decision"], &event["evaluation_status"]),
        (&json!("deny"), &json!("policy_eval_failed"))
    );
    // Many at once: each is answered although its evaluation would never end, and what needs no interpreter is not held up.
    let many = futures_util::future::join_all((0..8).map(|_| stack.mint(&fields)));
    let (many, health) = tokio::join!(many, stack.get("/health"));
    assert!(many.iter().all(|answer| answer.status.as_u16() == 503));
    assert_eq!(health.status, StatusCode::OK);
    // The zone is suspended: it is refused without being evaluated, which no evaluation of this policy is quick enough for.
    wait_until(SOON, async || {
        let before = quick(&stack).await;
        assert_eq!(stack.mint(&fields).await.status.as_u16(), 503);
        quick(&stack).await > before
    })
    .await;
}

#[tokio::test]
async fn a_version_on_trial_is_recorded_and_never_obeyed() {
    let stack = Stack::start().await;
    let fields = [
        ("resource", "resource://crm"),
        ("scope", "crm:write"),
        ("agent_session_id", "s-target"),
        ("delegation_edge_id", "e-1"),
    ];
    // Made active and then put on trial, with the first one back in force: it takes the right to write away.
    let narrower = seed::POLICY.replace(
        "{\"editor\": [\"crm:read\", \"crm:write\"], \"reader\": [\"crm:read\"]}, \"ambient\"",
        "{\"editor\": [\"crm:read\"]}, \"ambient\"",
    );
    seed::policy(&stack.pool, "psv-2", &narrower).await;
    stack
        .sql("UPDATE policy_set_bindings SET active_version_id = 'psv-1', shadow_version_id = 'psv-2'")
        .await;
    let event = wait_for(SOON, async || {
        let answer = stack.mint(&fields).await;
        if answer.status != StatusCode::OK {
            return None;
        }
        let event = stack.events_of(&answer).await.remove(0);
        event["metadata_json"]["policy_shadow"]
            .is_object()
            .then_some(event)
    })
    .await;
    assert_eq!(
        (&event["decision"], &event["policy_set_version_id"]),
        (&json!("allow"), &json!("psv-1"))
    );
    let trial = &event["metadata_json"]["policy_shadow"];
    assert_eq!(trial["policy_set_version_id"], "psv-2");
    assert_eq!(
        (&trial["result"]["decision"], &trial["result"]["diagnostics"]),
        (&json!("deny"), &json!([{"reason": "role_scope_mismatch"}]))
    );
    let read = stack
        .mint(&[("scope", "crm:read"), fields[0], fields[2], fields[3]])
        .await;
    let agreed = &stack.events_of(&read).await[0];
    assert!(
        agreed["metadata_json"].get("policy_shadow").is_none(),
        "where it agrees there is nothing to record"
    );
    let text = metrics(&stack).await;
    assert!(
        text.contains("caracal_sts_policy_shadow_total{outcome=\"same\"} 1"),
        "{text}"
    );
}
