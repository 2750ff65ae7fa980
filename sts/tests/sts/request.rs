//! A request that is not a token exchange is refused, in the order of the contract.

use http::{HeaderMap, Method, StatusCode};

use crate::stack::{DIRECT, GRANT, Stack, header_map, with};

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn what_is_not_a_token_exchange_is_refused() {
    let stack = Stack::start().await;
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";
    let cases: [(&str, String, u16, &str, &str); 17] = [
        (
            "text/plain",
            String::new(),
            415,
            "invalid_token",
            "application/x-www-form-urlencoded content type is required",
        ),
        (
            "",
            String::new(),
            415,
            "invalid_token",
            "application/x-www-form-urlencoded content type is required",
        ),
        (
            FORM,
            "a".repeat(65_537),
            413,
            "payload_too_large",
            "request body too large",
        ),
        (
            FORM,
            "a=%zz".to_owned(),
            400,
            "invalid_token",
            "malformed request body",
        ),
        (
            FORM,
            "scope=a&scope=b".to_owned(),
            400,
            "invalid_token",
            "duplicate form field: scope",
        ),
        (
            FORM,
            "actor_token=".to_owned(),
            400,
            "invalid_token",
            "actor_token is not supported",
        ),
        (
            FORM,
            "client_assertion=".to_owned(),
            400,
            "invalid_token",
            "client_assertion must be a JWT and the only client authentication",
        ),
        (
            FORM,
            "client_assertion_type=".to_owned(),
            400,
            "invalid_token",
            "client_assertion must be a JWT and the only client authentication",
        ),
        (
            FORM,
            "client_assertion=a&client_assertion_type=x".to_owned(),
            400,
            "invalid_token",
            "unsupported client_assertion_type",
        ),
        (
            FORM,
            "ttl_seconds=soon".to_owned(),
            400,
            "invalid_token",
            "invalid ttl_seconds",
        ),
        (
            FORM,
            "resource=".to_owned(),
            400,
            "invalid_token",
            "resource must not be empty",
        ),
        (
            FORM,
            "grant_type=client_credentials".to_owned(),
            400,
            "invalid_token",
            "unsupported grant_type",
        ),
        (
            FORM,
            format!("{grant}&subject_token_type=x"),
            400,
            "invalid_token",
            "unsupported subject_token_type",
        ),
        (
            FORM,
            format!("{grant}&subject_token=t"),
            400,
            "invalid_token",
            "subject_token_type is required with subject_token",
        ),
        (
            FORM,
            format!("{grant}&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token"),
            400,
            "invalid_token",
            "subject_token is required with subject_token_type",
        ),
        (
            FORM,
            grant.to_owned(),
            401,
            "access_denied",
            "invalid client credentials",
        ),
        (
            "application/x-www-form-urlencoded; charset=utf-8",
            grant.to_owned(),
            401,
            "access_denied",
            "invalid client credentials",
        ),
    ];
    for (content_type, body, status, code, description) in cases {
        let answer = stack
            .send(
                Method::POST,
                "/oauth/2/token",
                header_map(&[("content-type", content_type)]),
                &body,
            )
            .await;
        assert_eq!(
            answer.refusal(),
            (status, code, description),
            "{content_type} {}",
            &body[..body.len().min(80)]
        );
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(
            answer.body["requestId"],
            answer.headers["x-request-id"].to_str().unwrap()
        );
    }
}

#[tokio::test]
async fn a_query_and_another_method_are_refused() {
    let stack = Stack::start().await;
    let headers = header_map(&[("content-type", FORM)]);
    let answer = stack
        .send(Method::POST, "/oauth/2/token?zone_id=z1", headers, "")
        .await;
    assert_eq!(
        answer.refusal(),
        (400, "invalid_token", "query parameters are not allowed")
    );
    let answer = stack
        .send(Method::GET, "/oauth/2/token", HeaderMap::new(), "")
        .await;
    assert_eq!(answer.refusal(), (405, "invalid_token", "POST is required"));
    assert_eq!(answer.headers["allow"], "POST");
    assert_eq!(stack.get("/oauth/2/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_caller_keeps_its_request_id_only_if_it_is_one() {
    let stack = Stack::start().await;
    let body = caracal_wire::form::encode(&with(
        &DIRECT,
        &[("resource", "resource://crm"), ("scope", "agent:lifecycle")],
    ));
    let answer = stack.post_body(&body, &[("x-request-id", "my-request.1")]).await;
    assert_eq!(answer.headers["x-request-id"], "my-request.1");
    let answer = stack.post_body(&body, &[("x-request-id", "a b")]).await;
    assert_ne!(answer.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn what_is_not_served_is_refused_as_the_contract_says() {
    let stack = Stack::start().await;
    let id_token = [
        ("subject_token", "x.y.z"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"),
    ];
    let answer = stack.mint(&id_token).await;
    assert_eq!(
        answer.refusal(),
        (401, "invalid_token", "invalid subject_token: malformed token")
    );
    assert_eq!(
        stack.events_of(&answer).await[0]["evaluation_status"],
        "subject_federation_rejected"
    );
    let answer = stack.mint(&with(&id_token, &[("scope", "a")])).await;
    assert_eq!(answer.refusal().0, 400);
    assert_eq!(
        stack.events_of(&answer).await[0]["evaluation_status"],
        "subject_federation_invalid"
    );
    let approval = [
        ("approval_id", "11111111-1111-4111-8111-111111111111"),
        ("resource", "resource://crm"),
    ];
    let answer = stack.mint(&approval).await;
    assert_eq!(
        answer.refusal(),
        (
            401,
            "access_denied",
            "approval not found or bindings do not match"
        )
    );
    assert_eq!(
        stack.events_of(&answer).await[0]["evaluation_status"],
        "approval_invalid"
    );
    let answer = stack.mint(&[]).await;
    assert_eq!(
        answer.refusal(),
        (400, "invalid_token", "at least one resource is required")
    );
    let control = [
        GRANT,
        ("application_id", "app-1"),
        ("client_secret", crate::seed::SECRET),
        ("resource", "caracal-control"),
    ];
    assert_eq!(
        stack.post(&control).await.refusal(),
        (401, "access_denied", "invalid client credentials")
    );
}
