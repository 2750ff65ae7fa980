//! The Data API of OPA: what an application of a zone may ask about the zone's policy.

use caracal_testing::wait_until;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::decision_policy::in_force;
use crate::policy::metrics;
use crate::seed;
use crate::stack::{Answer, SOON, Stack, header_map};
use crate::standard::basic;

const SHOP: &str = "# caracal:decision-policy
package shop

default allow := false

allow if input.user == \"ada\"

reason := \"too much\" if input.amount > 1000

spin := count([1 | input.items[_]; input.items[_]; input.items[_]; input.items[_]])
";

const RESULT: &str = "# caracal:decision-policy
package caracal.authz
result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"}
";

fn headers(authorization: &str) -> HeaderMap {
    header_map(&[
        ("content-type", "application/json"),
        ("authorization", authorization),
    ])
}

async fn ask_as(stack: &Stack, authorization: &str, path: &str, body: &str) -> Answer {
    stack.send(Method::POST, path, headers(authorization), body).await
}

/// As `app-1` of `z1`.
async fn ask(stack: &Stack, path: &str, input: Value) -> Answer {
    let body = json!({ "input": input }).to_string();
    ask_as(stack, &basic("app-1", seed::SECRET), path, &body).await
}

async fn shop() -> Stack {
    let stack = Stack::start().await;
    in_force(&stack, "restrict", "psv-2", &[seed::POLICY, RESULT, SHOP]).await;
    stack
}

fn problem(answer: &Answer) -> (u16, &str) {
    let members = answer.body.as_object().map(serde_json::Map::len);
    assert_eq!(members, Some(2), "code and message: {}", answer.body);
    assert!(answer.body["message"].is_string(), "{}", answer.body);
    (
        answer.status.as_u16(),
        answer.body["code"].as_str().unwrap_or_default(),
    )
}

#[tokio::test]
async fn an_opa_client_gets_the_result_and_the_ledger_says_so() {
    let stack = shop().await;
    let allowed = ask(&stack, "/v1/data/shop/allow", json!({"user": "ada"})).await;
    assert_eq!(allowed.status, StatusCode::OK, "{}", allowed.body);
    assert_eq!(allowed.body["result"], true);
    assert_eq!(allowed.headers["content-type"], "application/json");
    assert_eq!(allowed.headers["cache-control"], "no-store");
    let event = &stack.events_of(&allowed).await[0];
    assert_eq!(
        (&event["event_type"], &event["decision"], &event["id"]),
        (
            &json!("policy_question"),
            &json!("allow"),
            &allowed.body["decision_id"]
        )
    );
    assert_eq!(event["policy_set_version_id"], "psv-2");
    assert_eq!(
        event["metadata_json"],
        json!({"application_id": "app-1", "application_name": "Bot", "asked": "data.shop.allow", "defined": true})
    );
    let denied = ask(&stack, "/v1/data/shop/allow", json!({"user": "eve"})).await;
    assert_eq!(denied.body["result"], false);
    let undefined = ask(&stack, "/v1/data/shop/reason", json!({"amount": 1})).await;
    assert_eq!(undefined.status, StatusCode::OK);
    assert!(undefined.body.get("result").is_none(), "{}", undefined.body);
    let package = ask(
        &stack,
        "/v1/data/shop?pretty=true",
        json!({"user": "ada", "items": []}),
    )
    .await;
    assert_eq!(package.body["result"], json!({"allow": true, "spin": 0}));
    assert!(String::from_utf8_lossy(&package.bytes).contains("\n  \"result\": {"));
    let text = metrics(&stack).await;
    for (outcome, count) in [("answered", 3), ("undefined", 1)] {
        let line = format!("caracal_sts_policy_questions_total{{outcome=\"{outcome}\"}} {count}");
        assert!(text.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn the_decision_is_the_one_the_service_itself_would_make() {
    let stack = shop().await;
    let input = |application: &str| {
        json!({
            "principal": {"type": "Application", "id": application, "labels": ["editor"]},
            "resource": {"identifier": "resource://crm"},
            "action": {"id": "TokenExchange"},
            "delegation_edge": {"id": "e-1", "scopes": ["crm:read"]},
            "context": {"agent_session_id": "s-target", "requested_scopes": ["crm:read"]}
        })
    };
    let path = "/v1/data/caracal/authz/result";
    let allowed = ask(&stack, path, input("app-1")).await;
    assert_eq!(allowed.body["result"]["decision"], "allow", "{}", allowed.body);
    let denied = ask(&stack, path, input("app-2")).await;
    assert_eq!(
        denied.body["result"]["diagnostics"][0]["reason"],
        "resource_not_granted"
    );
    let event = &stack.events_of(&denied).await[0];
    assert_eq!(
        (&event["decision"], &event["diagnostics_json"][0]["reason"]),
        (&json!("deny"), &json!("resource_not_granted"))
    );
    assert_eq!(
        problem(&ask(&stack, path, json!("no document")).await),
        (400, "invalid_parameter")
    );
    let documents = ask(&stack, "/v1/data/caracal/authz/grants", json!({})).await;
    assert!(documents.body.get("result").is_none(), "{}", documents.body);
}

#[tokio::test]
async fn a_client_asks_its_own_zone_and_proves_who_it_is() {
    let stack = shop().await;
    let path = "/v1/data/shop/allow";
    let body = r#"{"input": {"user": "ada"}}"#;
    let elsewhere = ask_as(&stack, &basic("app-z2", seed::SECRET), path, body).await;
    assert_eq!(elsewhere.status, StatusCode::OK, "{}", elsewhere.body);
    assert!(
        elsewhere.body.get("result").is_none(),
        "another zone has no such rule"
    );
    for (case, authorization) in [
        ("a wrong secret", basic("app-1", "wrong")),
        ("nobody", basic("app-unknown", seed::SECRET)),
        ("no id", basic("", seed::SECRET)),
        ("no credentials", "Basic".to_owned()),
        (
            "a mandate",
            format!("Bearer {}", stack.one_shot("resource://crm", "crm:read").await),
        ),
    ] {
        let refused = ask_as(&stack, &authorization, path, body).await;
        assert_eq!(problem(&refused), (401, "unauthorized"), "{case}");
        assert_eq!(
            refused.headers["www-authenticate"], "Basic realm=\"caracal-sts\"",
            "{case}"
        );
    }
    let anonymous = stack.send(Method::POST, path, HeaderMap::new(), body).await;
    assert_eq!(problem(&anonymous), (401, "unauthorized"));
    let wrong = ask_as(&stack, &basic("app-1", "wrong"), path, body).await;
    let other = ask_as(&stack, &basic("app-z2", "wrong"), path, body).await;
    for (zone, refused) in [("z1", &wrong), ("z2", &other)] {
        let event = &stack.events_of(refused).await[0];
        assert_eq!(
            (
                &event["zone_id"],
                &event["event_type"],
                &event["metadata_json"]["endpoint"]
            ),
            (&json!(zone), &json!("client_authentication"), &json!("opa:data"))
        );
    }
    let get = stack
        .send(Method::GET, path, headers(&basic("app-1", seed::SECRET)), "")
        .await;
    assert_eq!(problem(&get), (405, "method_not_allowed"));
    assert_eq!(get.headers["allow"], "POST");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_the_words_of_opa() {
    let stack = shop().await;
    let own = basic("app-1", seed::SECRET);
    let path = "/v1/data/shop/allow";
    let none = ask_as(&stack, &own, path, "").await;
    assert_eq!(none.body["result"], false, "no input is no mistake");
    assert!(none.body.get("warning").is_none(), "{}", none.body);
    for body in ["{}", r#"{"input": null}"#, r#"{"other": 1}"#] {
        let warned = ask_as(&stack, &own, path, body).await;
        assert_eq!(warned.body["result"], false, "{body}");
        assert_eq!(warned.body["warning"]["code"], "api_usage_warning", "{body}");
    }
    for body in ["[", "[]", "1", "{\"input\": }"] {
        let refused = ask_as(&stack, &own, path, body).await;
        assert_eq!(problem(&refused), (400, "invalid_parameter"), "{body}");
    }
    for query in ["explain=full", "metrics", "provenance=true"] {
        let refused = ask_as(&stack, &own, &format!("{path}?{query}"), "{}").await;
        assert_eq!(problem(&refused), (400, "invalid_parameter"), "{query}");
    }
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-type", "application/x-yaml"),
    ] {
        let mut all = headers(&own);
        all.extend(header_map(&[(name, value)]));
        let refused = stack.send(Method::POST, path, all, "{}").await;
        assert_eq!(problem(&refused), (400, "invalid_parameter"), "{name}");
    }
    let long = format!(r#"{{"input": "{}"}}"#, "x".repeat(65_536));
    assert_eq!(
        problem(&ask_as(&stack, &own, path, &long).await),
        (413, "invalid_parameter")
    );
}

#[tokio::test]
async fn a_question_that_spends_its_budget_fails_and_keeps_no_exchange_waiting() {
    let stack = shop().await;
    let items: Vec<u32> = (0..200).collect();
    // However fast this machine is, it ends on a budget each time, and then the zone's questions are suspended.
    wait_until(SOON, async || {
        let failed = ask(&stack, "/v1/data/shop/spin", json!({ "items": items })).await;
        assert!(failed.status.is_server_error(), "{}", failed.body);
        problem(&failed) == (503, "unavailable")
    })
    .await;
    stack.one_shot("resource://crm", "crm:read").await;
    let failed = ask(&stack, "/v1/data/shop/spin", json!({ "items": items })).await;
    let event = &stack.events_of(&failed).await[0];
    assert_eq!(
        (&event["decision"], &event["evaluation_status"]),
        (&json!("deny"), &json!("policy_eval_failed"))
    );
}

#[tokio::test]
async fn all_of_it_is_asked_for_with_and_without_a_slash() {
    let stack = shop().await;
    for path in ["/v1/data", "/v1/data/"] {
        let all = ask(&stack, path, json!({"user": "ada", "items": []})).await;
        assert_eq!(all.body["result"]["shop"]["allow"], true, "{path}: {}", all.body);
    }
    let get = stack
        .send(
            Method::GET,
            "/v1/data/",
            headers(&basic("app-1", seed::SECRET)),
            "",
        )
        .await;
    assert_eq!(problem(&get), (405, "method_not_allowed"));
    for path in ["/v1/data/shop.allow", "/v1/data/shop%2Eallow"] {
        let undefined = ask(&stack, path, json!({"user": "ada"})).await;
        assert_eq!(undefined.status, StatusCode::OK, "{path}");
        assert!(
            undefined.body.get("result").is_none(),
            "{path}: {}",
            undefined.body
        );
    }
}

#[tokio::test]
async fn nobody_is_answered_where_questions_are_not_turned_on() {
    let stack = Stack::start_with(&[("STS_POLICY_QUESTIONS_PER_MIN", "0")]).await;
    for authorization in [basic("app-1", seed::SECRET), basic("app-1", "wrong")] {
        for path in ["/v1/data", "/v1/data/", "/v1/data/caracal/authz/result"] {
            let refused = ask_as(&stack, &authorization, path, "{}").await;
            assert_eq!(problem(&refused), (404, "resource_not_found"), "{path}");
        }
    }
}

#[tokio::test]
async fn questions_have_a_budget_of_their_own() {
    let stack = Stack::start_with(&[("STS_POLICY_QUESTIONS_PER_MIN", "2")]).await;
    let path = "/v1/data/shop/allow";
    for status in [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        assert_eq!(ask(&stack, path, json!({})).await.status, status);
    }
    let refused = ask(&stack, path, json!({})).await;
    assert_eq!(problem(&refused), (429, "too_many_requests"));
    assert_eq!(refused.headers["retry-after"], "30", "two in a minute");
    stack.one_shot("resource://crm", "crm:read").await;
    let other = ask_as(&stack, &basic("app-2", seed::SECRET), path, "{}").await;
    assert_eq!(other.status, StatusCode::OK, "others have their own");
}
