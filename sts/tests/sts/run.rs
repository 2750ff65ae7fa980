//! Does a workload get what its bindings name, and nothing else?

use std::collections::BTreeSet;

use caracal_storage::ZoneScope;
use caracal_storage::approval::{self, DecidedBy, Verdict};
use caracal_testing::{Role, wait_until};
use caracal_wire::form;
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::seed;
use crate::stack::{Answer, SOON, Stack, header_map, spend, with};

const BINDINGS: &str = r#"[
    {"env": "CRM", "resource": "resource://crm", "scopes": ["crm:read"]},
    {"env": "BEARER", "resource": "resource://bearer", "scopes": ["crm:read"], "optional": true, "on_failure": "warn"},
    {"env": "BASIC", "resource": "resource://basic", "scopes": ["crm:read"]},
    {"env": "MANDATE", "resource": "resource://mandate", "scopes": ["crm:read"]},
    {"env": "NONE", "resource": "resource://plain", "scopes": ["crm:read"]},
    {"env": "OAUTH", "resource": "resource://oauth", "scopes": ["crm:read"]},
    {"env": "FETCHED", "resource": "resource://fetched", "scopes": ["crm:read"]},
    {"env": "QUERY", "resource": "resource://query", "scopes": ["crm:danger"]},
    {"env": "GONE", "resource": "resource://gone", "scopes": ["crm:read"]}
]"#;

/// A service with workloads of zone `z1`, which may have the credentials of some providers.
async fn start() -> Stack {
    start_with(&[]).await
}

async fn start_with(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_with(settings).await;
    let stored = seed::STORED_SECRET;
    seed::provider_secret(&stack.pool, "p-fetched", r#"{"client_secret": "s"}"#).await;
    stack
        .sql(format!(
            r#"INSERT INTO workloads (id, zone_id, name, secret_hash, bindings) VALUES
                   ('w-1', 'z1', 'ci', '{stored}', '{BINDINGS}'), ('w-none', 'z1', 'none', '{stored}', '[]'),
                   ('w-broken', 'z1', 'broken', '{stored}', '[{{"env": 1}}]');
               INSERT INTO providers (id, zone_id, name, identifier, provider_kind, config_json) VALUES
                   ('p-fetched', 'z1', 'fetched', 'fetched', 'oauth2_client_credentials',
                    '{{"token_endpoint": "https://idp.invalid/token", "client_id": "c", "allowed_token_hosts": ["idp.invalid"]}}');
               INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, scopes, operations, operation_enforcement) VALUES
                   ('r-fetched', 'z1', 'fetched', 'resource://fetched', 'https://f.example', 'p-fetched', '{{crm:read}}', '[]', 'transport_uniform');
               UPDATE providers SET config_json = config_json || '{{"allow_runtime_injection": true}}' WHERE id <> 'p-bearer'"#
        ))
        .await;
    stack
}

async fn post(stack: &Stack, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let mut all = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    all.extend(header_map(headers));
    stack.send(Method::POST, path, all, &form::encode(fields)).await
}

const WORKLOAD: [(&str, &str); 2] = [("workload_id", "w-1"), ("secret", seed::SECRET)];

async fn credential(stack: &Stack, fields: &[(&str, &str)]) -> Answer {
    let fields = with(&WORKLOAD, fields);
    post(stack, "/v1/run/credential", &fields, &[]).await
}

async fn manifest(stack: &Stack, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let fields = with(&WORKLOAD, fields);
    post(stack, "/v1/run/manifest", &fields, headers).await
}

#[tokio::test]
async fn a_workload_is_told_its_bindings_and_the_launch_is_recorded() {
    let stack = start().await;
    let launch = "0199c0de-0000-7000-8000-000000000001";
    let answer = manifest(&stack, &[], &[("x-caracal-launch-id", launch)]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let bindings: Value = serde_json::from_str(BINDINGS).unwrap();
    assert_eq!(
        answer.body,
        json!({"zone_id": "z1", "workload_id": "w-1", "bindings": bindings})
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    let events = stack
        .events(|event| event["metadata_json"]["launch_id"] == launch)
        .await;
    assert_eq!(
        (
            &events[0]["event_type"],
            &events[0]["decision"],
            &events[0]["metadata_json"]["binding_count"]
        ),
        (&json!("run_launch"), &json!("allow"), &json!(9))
    );
    let none = manifest(&stack, &[("workload_id", "w-none")], &[]).await;
    assert_eq!(
        none.refusal(),
        (404, "resource_not_found", "the workload has no bindings")
    );
    let broken = manifest(&stack, &[("workload_id", "w-broken")], &[]).await;
    assert_eq!(broken.status, 500);
}

#[tokio::test]
async fn a_workload_that_does_not_prove_itself_learns_nothing() {
    let stack = start().await;
    let wrong = (401, "access_denied", "invalid workload credentials");
    for (path, fields) in [
        (
            "/v1/run/manifest",
            [("workload_id", "w-1"), ("secret", "wrong"), ("env", "CRM")],
        ),
        (
            "/v1/run/credential",
            [("workload_id", "w-1"), ("secret", "wrong"), ("env", "CRM")],
        ),
        (
            "/v1/run/credential",
            [
                ("workload_id", "nobody"),
                ("secret", seed::SECRET),
                ("env", "CRM"),
            ],
        ),
        (
            "/v1/run/credential",
            [
                ("workload_id", "no id!"),
                ("secret", seed::SECRET),
                ("env", "CRM"),
            ],
        ),
    ] {
        let answer = post(&stack, path, &fields, &[]).await;
        assert_eq!(answer.refusal(), wrong, "{path} {fields:?}");
        assert!(answer.body.get("requestId").is_none(), "{}", answer.body);
    }
    let events = stack
        .events(|event| event["evaluation_status"] == "workload_auth_failed")
        .await;
    assert!(
        events
            .iter()
            .all(|event| event["event_type"] == "run_launch" && event["zone_id"] == "z1")
    );
    let missing = (400, "invalid_token", "a required field is missing");
    for fields in [
        &[("secret", "x"), ("env", "CRM")][..],
        &[("workload_id", "w-1"), ("env", "CRM")],
        &[("workload_id", "w-1"), ("secret", "x")],
        &[("workload_id", "w-1"), ("secret", "x"), ("env", "")],
    ] {
        assert_eq!(
            post(&stack, "/v1/run/credential", fields, &[]).await.refusal(),
            missing,
            "{fields:?}"
        );
    }
    let twice = [("workload_id", "a"), ("workload_id", "b"), ("secret", "x")];
    assert_eq!(
        post(&stack, "/v1/run/manifest", &twice, &[]).await.refusal(),
        (400, "invalid_token", "duplicate form field: workload_id")
    );
    assert_eq!(
        post(&stack, "/v1/run/manifest?x=1", &WORKLOAD, &[])
            .await
            .refusal(),
        (400, "invalid_token", "query parameters are not allowed")
    );
    let got = stack.get("/v1/run/credential").await;
    assert_eq!(got.refusal(), (405, "invalid_token", "POST is required"));
    assert_eq!(got.headers["allow"], "POST");
    let json = header_map(&[("content-type", "application/json")]);
    let json = stack.send(Method::POST, "/v1/run/manifest", json, "{}").await;
    assert_eq!(json.refusal().0, 415);
    let long = "x".repeat(70_000);
    let long = post(&stack, "/v1/run/manifest", &[("secret", long.as_str())], &[]).await;
    assert_eq!(
        long.refusal(),
        (413, "payload_too_large", "request body too large")
    );
}

#[tokio::test]
async fn only_what_the_operator_and_the_policy_allow_leaves_the_custody() {
    let stack = start().await;
    let given = credential(&stack, &[("env", "CRM")]).await;
    assert_eq!(given.status, 200, "{}", given.body);
    assert_eq!(given.body, json!({"env": "CRM", "credential": "k-123"}));
    assert_eq!(given.headers["cache-control"], "no-store");
    let events = stack
        .events(|event| event["metadata_json"]["env"] == "CRM" && event["decision"] == "allow")
        .await;
    let event = &events[0];
    assert_eq!(event["event_type"], "token_exchange");
    assert_eq!(event["evaluation_status"], "complete");
    assert_eq!(event["policy_set_version_id"], "psv-1");
    assert_eq!(event["metadata_json"]["workload_id"], "w-1");
    assert_eq!(event["metadata_json"]["resource"], "resource://crm");
    assert!(
        !Value::from(events).to_string().contains("k-123"),
        "never the credential"
    );
    let injection = (403, "access_denied", "credential_injection_denied");
    // (binding, answer, what the evidence calls it)
    let rows = [
        (
            "NOPE",
            (404, "resource_not_found", "the workload has no such binding"),
            None,
        ),
        (
            "GONE",
            (
                404,
                "resource_not_found",
                "the resource of the binding does not exist",
            ),
            Some("resource_not_found"),
        ),
        ("BEARER", injection, Some("credential_injection_denied")),
        ("BASIC", injection, Some("credential_injection_denied")),
        ("MANDATE", injection, Some("credential_injection_denied")),
        ("NONE", injection, Some("credential_injection_denied")),
        (
            "OAUTH",
            (403, "access_denied", "provider_unavailable"),
            Some("provider_unavailable"),
        ),
    ];
    for (env, expected, status) in rows {
        assert_eq!(
            credential(&stack, &[("env", env)]).await.refusal(),
            expected,
            "{env}"
        );
        let Some(status) = status else { continue };
        let events = stack.events(|event| event["metadata_json"]["env"] == env).await;
        assert_eq!(
            (&events[0]["decision"], &events[0]["evaluation_status"]),
            (&json!("deny"), &json!(status)),
            "{env}"
        );
    }
    let unfetched = credential(&stack, &[("env", "FETCHED")]).await;
    assert_eq!(
        (unfetched.refusal().0, unfetched.refusal().1),
        (502, "http_request_failed")
    );
    assert!(
        unfetched
            .refusal()
            .2
            .starts_with("the credential is unavailable: ")
    );
}

#[tokio::test]
async fn the_policy_of_the_zone_has_the_last_word() {
    let stack = start().await;
    freeze(&stack, "psv-2").await;
    let events = stack
        .events(|event| event["metadata_json"]["env"] == "CRM" && event["decision"] == "deny")
        .await;
    assert_eq!(events[0]["policy_set_version_id"], "psv-2");
    assert_eq!(events[0]["evaluation_status"], "complete");
}

/// Activates a policy under which nothing is allowed, and waits until it decides.
async fn freeze(stack: &Stack, version: &str) {
    let frozen = seed::POLICY.to_owned() + "\nrestrict := true\n";
    seed::policy(&stack.pool, version, &frozen).await;
    wait_until(SOON, async || {
        let answer = credential(stack, &[("env", "CRM")]).await;
        answer.status == 403 && answer.body["error_description"] == "policy denied (restriction_active)"
    })
    .await;
}

async fn decide(stack: &Stack, id: &str, verdict: Verdict) {
    let database = stack.database_as(Role::Api).await;
    let zone = "z1".parse().unwrap();
    let mut tx = database.write(ZoneScope::Zone(&zone)).await.unwrap();
    let by = DecidedBy {
        name: "console:test",
        session_id: None,
        class: "operator",
        reason: None,
    };
    let decided = approval::decide(&mut tx, &zone, id, verdict, &by).await.unwrap();
    assert!(decided.is_some(), "{id}");
    tx.commit().await.unwrap();
}

#[track_caller]
fn held(answer: &Answer) -> String {
    assert_eq!(answer.refusal().0, 401, "{}", answer.body);
    assert_eq!(answer.body["error"], "interaction_required", "{}", answer.body);
    answer.body["approval_id"].as_str().unwrap().to_owned()
}

const GATED: (&str, &str) = ("env", "QUERY");

#[tokio::test]
async fn a_credential_that_needs_a_yes_waits_for_an_operator_and_is_given_once() {
    let stack = start().await;
    let asked = credential(&stack, &[GATED]).await;
    let id = held(&asked);
    assert_eq!(
        asked.headers["www-authenticate"],
        "Bearer error=\"interaction_required\""
    );
    assert!(asked.body.get("requestId").is_none(), "{}", asked.body);
    assert!(
        asked.body.get("challenge_secret").is_none(),
        "nothing takes it here: {}",
        asked.body
    );
    assert_eq!(asked.body["state"], "pending");
    assert_eq!(asked.body["tier"], "sensitive");
    assert_eq!(
        held(&credential(&stack, &[GATED]).await),
        id,
        "everybody waits for the same"
    );
    let presented = [GATED, ("approval_id", id.as_str())];
    assert_eq!(
        held(&credential(&stack, &presented).await),
        id,
        "presenting it changes nothing yet"
    );
    let unknown = (
        401,
        "access_denied",
        "approval not found or bindings do not match",
    );
    let elsewhere = [("env", "CRM"), ("approval_id", id.as_str())];
    assert_eq!(
        credential(&stack, &elsewhere).await.refusal(),
        unknown,
        "it is for another binding"
    );
    let other = stack
        .mint(&[
            ("resource", "resource://query"),
            ("scope", "crm:read"),
            ("approval_id", &id),
        ])
        .await;
    assert_eq!(other.refusal(), unknown, "an application cannot use it");
    let invented = [GATED, ("approval_id", "00000000-0000-4000-8000-000000000000")];
    assert_eq!(credential(&stack, &invented).await.refusal(), unknown);

    decide(&stack, &id, Verdict::Approved).await;
    let racing = join_all((0..8).map(|_| credential(&stack, &presented))).await;
    let given: Vec<&Answer> = racing.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(given.len(), 1, "{racing:?}");
    assert_eq!(given[0].body, json!({"env": "QUERY", "credential": "k-456"}));
    let consumed = (
        409,
        "approval_consumed",
        "approval already used; another request consumed it",
    );
    for answer in racing.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.refusal(), consumed);
    }
    assert_eq!(
        credential(&stack, &presented).await.refusal(),
        consumed,
        "a lost answer is lost"
    );
    assert_ne!(
        held(&credential(&stack, &[GATED]).await),
        id,
        "the next one waits anew"
    );

    let events = stack
        .events(|event| event["event_type"] == "step_up_consumed")
        .await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["metadata_json"]["challenge_id"], id.as_str());
    assert_eq!(events[0]["metadata_json"]["workload_id"], "w-1");
    let events = stack
        .events(|event| event["metadata_json"]["env"] == "QUERY")
        .await;
    let seen: BTreeSet<(&str, &str, &str)> = events
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap();
            (text("event_type"), text("decision"), text("evaluation_status"))
        })
        .collect();
    for expected in [
        ("step_up_issued", "pending", "complete"),
        ("token_exchange", "pending", "complete"),
        ("token_exchange", "allow", "complete"),
        ("token_exchange", "deny", "approval_already_consumed"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
}

#[tokio::test]
async fn a_no_is_a_no_and_a_new_policy_voids_a_yes() {
    let stack = start().await;
    let id = held(&credential(&stack, &[GATED]).await);
    decide(&stack, &id, Verdict::Rejected).await;
    let rejected = (403, "access_denied", "approval was rejected");
    let presented = [GATED, ("approval_id", id.as_str())];
    assert_eq!(credential(&stack, &presented).await.refusal(), rejected);
    assert_eq!(credential(&stack, &[GATED]).await.refusal(), rejected);
    stack
        .sql("UPDATE step_up_challenges SET created_at = created_at - interval '1 day', expires_at = now() - interval '1 second', rejected_at = NULL")
        .await;
    assert_eq!(
        credential(&stack, &presented).await.refusal(),
        (401, "access_denied", "approval expired")
    );
    let again = held(&credential(&stack, &[GATED]).await);
    decide(&stack, &again, Verdict::Approved).await;
    freeze(&stack, "psv-2").await;
    let voided = [GATED, ("approval_id", again.as_str())];
    assert_eq!(
        credential(&stack, &voided).await.refusal(),
        (
            401,
            "access_denied",
            "approval not found or bindings do not match"
        )
    );
    // A user cannot decide for a workload, so nobody is made to wait for one.
    let subject = seed::POLICY.replace(
        "[{\"tier\": \"sensitive\"}]",
        "[{\"tier\": \"sensitive\", \"approver\": \"subject\"}]",
    );
    seed::policy(&stack.pool, "psv-3", &subject).await;
    wait_until(SOON, async || {
        let answer = credential(&stack, &[GATED]).await;
        answer.status == 403
            && answer.body["error_description"] == "approval requires separate operator and subject decisions"
    })
    .await;
}

#[tokio::test]
async fn a_workload_has_a_budget_of_its_own_for_each_endpoint() {
    let stack = start_with(&[("STS_MINT_RATE_LIMIT_PER_MIN", "3")]).await;
    let spent = spend(3, 3, async || manifest(&stack, &[], &[]).await).await;
    assert_eq!(
        spent.refusal(),
        (429, "provider_rate_limited", "rate limit exceeded")
    );
    assert_eq!(
        credential(&stack, &[("env", "CRM")]).await.status,
        200,
        "the other endpoint"
    );
    assert_eq!(
        manifest(&stack, &[("workload_id", "w-none")], &[]).await.status,
        404,
        "another workload"
    );
    let stranger = manifest(&stack, &[("secret", "wrong")], &[]).await;
    assert_eq!(
        stranger.status, 401,
        "only who proves himself is told of the budget"
    );
}

#[tokio::test]
async fn every_refusal_is_counted() {
    let stack = start().await;
    manifest(&stack, &[("secret", "wrong")], &[]).await;
    credential(&stack, &[("env", "NO_SUCH")]).await;
    credential(&stack, &[]).await;
    stack.get("/v1/run/manifest").await;
    let headers = header_map(&[("authorization", "Bearer metrics")]);
    let metrics = stack.send(Method::GET, "/metrics", headers, "").await;
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    for (refusal, count) in [("workload", 1), ("binding", 1), ("request", 2)] {
        let line = format!("caracal_sts_run_refusals_total{{refusal=\"{refusal}\"}} {count}");
        assert!(metrics.contains(&line), "{line}");
    }
}
