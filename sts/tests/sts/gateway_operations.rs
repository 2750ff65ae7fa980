//! What gateways are told about operations, and that it is what exchanges are decided by.

use caracal_chassis::Clock;
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_model::operation::Operations;
use caracal_testing::{FaultProxy, Role, TestDatabase};
use caracal_wire::gateway_operations::{EnforcedResource, ZoneOperations, target};
use http::Method;
use serde_json::json;

use crate::stack::{Answer, SOON, Stack, header_map, nonce, signature};

async fn ask_at(stack: &Stack, path: &str) -> Answer {
    let signed = signature(Clock::system().unix_seconds(), &nonce(), "GET", path, "");
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    stack.send(Method::GET, path, header_map(&headers), "").await
}

async fn ask(stack: &Stack, known: Option<i64>) -> ZoneOperations {
    let answer = ask_at(stack, &target(&"z1".parse().unwrap(), known)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    serde_json::from_value(answer.body).unwrap()
}

fn of<'a>(told: &'a [EnforcedResource], identifier: &str) -> Option<&'a EnforcedResource> {
    told.iter()
        .find(|resource| resource.identifier.as_str() == identifier)
}

/// Declares these operations for the enforced resource.
async fn declare(stack: &Stack, operations: &[(&str, &str, &str)]) {
    let operations: Vec<_> = operations
        .iter()
        .map(|(method, path, scope)| json!({"method": method, "path": path, "scope": scope}))
        .collect();
    let operations = json!(operations).to_string();
    stack
        .sql(format!(
            "UPDATE resources SET operations = '{operations}' WHERE id = 'r-enforced'"
        ))
        .await;
}

#[tokio::test]
async fn a_gateway_is_told_what_is_enforced_and_by_which_names_and_what_it_knows_is_not_repeated() {
    let stack = Stack::start().await;
    stack
        .sql(
            "INSERT INTO gateway_resource_bindings (zone_id, resource_identifier, application_id)
             VALUES ('z1', 'resource://enforced', 'app-1')",
        )
        .await;
    let answer = ask(&stack, None).await;
    let told = answer.resources.unwrap();
    let resource = of(&told, "resource://enforced").unwrap();
    assert_eq!(resource.names, ["resource://enforced", "r-enforced"]);
    assert_eq!(resource.reusable_by.as_ref().unwrap().as_str(), "app-1");
    assert_eq!(resource.operations.len(), 2);
    assert_eq!(told.len(), 1, "only where operations are enforced: {told:?}");
    let again = ask(&stack, Some(answer.version)).await;
    assert_eq!((again.version, again.resources), (answer.version, None));
    let other = ask(&stack, Some(answer.version - 1)).await;
    assert_eq!(other.resources, Some(told));
}

#[tokio::test]
async fn a_name_that_means_another_resource_is_not_told() {
    let stack = Stack::start().await;
    stack
        .sql(
            "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, scopes, operation_enforcement)
             VALUES ('urn:a', 'z1', 'a', 'resource://a', 'https://a.example', 'p-none', '{crm:read}', 'enforced'),
                    ('r-b', 'z1', 'b', 'urn:a', 'https://b.example', 'p-none', '{crm:read}', 'transport_uniform')",
        )
        .await;
    let told = ask(&stack, None).await.resources.unwrap();
    assert_eq!(of(&told, "resource://a").unwrap().names, ["resource://a"]);
}

#[tokio::test]
async fn where_reusable_mandates_do_not_pass_no_application_is_named() {
    let stack = Stack::start_with(&[("AMBIENT_AT_GATEWAY", "false")]).await;
    stack
        .sql("UPDATE resources SET operation_enforcement = 'enforced' WHERE id = 'r-crm'")
        .await;
    let told = ask(&stack, None).await.resources.unwrap();
    assert_eq!(of(&told, "resource://crm").unwrap().reusable_by, None);
}

#[tokio::test]
async fn what_is_told_is_never_older_than_the_question() {
    let stack = Stack::start().await;
    for number in 0..5 {
        let path = format!("/v{number}");
        declare(&stack, &[("GET", &path, "crm:read")]).await;
        let told = ask(&stack, None).await.resources.unwrap();
        assert_eq!(of(&told, "resource://enforced").unwrap().operations[0].path, path);
    }
}

#[tokio::test]
async fn there_is_no_answer_about_a_zone_that_does_not_exist_or_to_a_question_that_is_none() {
    let stack = Stack::start().await;
    let base = "/internal/gateway/operations";
    for query in ["?zone_id=nowhere", "?zone_id=%20", ""] {
        let answer = ask_at(&stack, &format!("{base}{query}")).await;
        let expected = (404, "resource_not_found", "zone not found");
        assert_eq!(answer.refusal(), expected, "{query}");
    }
    let answer = ask_at(&stack, &format!("{base}?zone_id=z1&version=new")).await;
    assert_eq!(answer.refusal(), (400, "invalid_token", "malformed query"));
}

#[tokio::test]
async fn without_the_database_gateways_are_told_what_is_in_memory() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("DB_CONNECT_TIMEOUT", "500ms"), ("REVOCATION_FRESHNESS", "60s")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    let before = ask(&stack, None).await;
    proxy.refuse();
    assert_eq!(ask(&stack, None).await, before);
    let unknown = ask_at(&stack, &target(&"z2".parse().unwrap(), None)).await;
    let expected = (503, "sts_unavailable", "zone configuration unavailable");
    assert_eq!(unknown.refusal(), expected);
}

#[tokio::test]
async fn more_than_fits_is_left_out() {
    let mut stack = Stack::start().await;
    stack.client = Client::new(ClientLimits {
        timeout: SOON,
        response_bytes: 8 << 20,
        ..ClientLimits::default()
    });
    // Ten resources with half a megabyte of operations each.
    stack
        .sql(
            "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, scopes, operation_enforcement, operations)
             SELECT 'r-' || number, 'z1', number::text, 'resource://' || number, 'https://x.example', 'p-none', '{crm:read}', 'enforced',
                    (SELECT jsonb_agg(jsonb_build_object('method', 'GET', 'path', '/' || repeat('a', 2000) || at, 'scope', 'crm:read'))
                     FROM generate_series(1, 256) at)
             FROM generate_series(1, 10) number",
        )
        .await;
    let told = ask(&stack, None).await.resources.unwrap();
    assert!((6..=9).contains(&told.len()), "{}", told.len());
}

/// The table that gateways make of the answer and the exchange agree, on templates and on paths that almost fit one.
#[tokio::test]
async fn what_a_gateway_makes_of_the_answer_is_what_an_exchange_is_decided_by() {
    let stack = Stack::start().await;
    let declared = [
        ("GET", "/v1/users/{id}", "crm:read"),
        ("GET", "/v1/users/me", "crm:write"),
        ("PUT", "/v1/users/{id}", "crm:read"),
        ("GET", "/v1/{kind}/me/parts", "crm:read"),
        ("GET", "/v1/{}/x", "crm:read"),
    ];
    declare(&stack, &declared).await;
    let told = ask(&stack, None).await.resources.unwrap();
    let table = Operations::compile(&of(&told, "resource://enforced").unwrap().operations);
    let (mut permitted, mut refused) = (0, 0);
    for (method, path) in [
        ("GET", "/v1/users/7"),
        ("get", "/v1/users/7"),
        ("GET", "/v1/users/me"),
        ("PUT", "/v1/users/me"),
        ("GET", "/v1/users/"),
        ("GET", "/v1/users"),
        ("GET", "/v1//7"),
        ("GET", "/v1/users/7/"),
        ("GET", "/V1/users/7"),
        ("GET", "/v1/users/a%2Fb"),
        ("GET", "/v1/users/a;b=c"),
        ("GET", "/v1/users/\u{e9}"),
        ("GET", "/v1/users/me/parts"),
        ("GET", "/v1/{}/x"),
        ("GET", "/v1/any/x"),
        ("DELETE", "/v1/users/7"),
    ] {
        let one_shot = stack.one_shot("resource://enforced", "crm:read").await;
        let operation = [("request_method", method), ("request_path", path)];
        let answer = stack
            .at_gateway(&one_shot, "resource://enforced", &operation)
            .await;
        let is_permitted = table.permits(method, path, |scope| scope == "crm:read");
        let expected = if is_permitted { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        *if is_permitted {
            &mut permitted
        } else {
            &mut refused
        } += 1;
    }
    assert_eq!((permitted, refused), (6, 10));
}
