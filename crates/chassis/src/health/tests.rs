use axum::body::Body;
use axum::response::Response;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::config::Source;

fn access(pairs: &[(&str, &str)]) -> MetricsAccess {
    let source = Source::from_pairs(pairs.iter().copied());
    let mut reader = Reader::new(&source);
    let access = MetricsAccess::read(&mut reader);
    reader.finish().unwrap();
    access
}

fn routes(readiness: Readiness, pairs: &[(&str, &str)]) -> Router {
    let registry = Registry::new();
    registry.counter("caracal_demo_requests_total", "Requests.").inc();
    router(readiness, registry, access(pairs))
}

async fn get(router: &Router, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer: Response = router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status.as_u16(),
        head.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn the_first_condition_that_does_not_hold_is_the_reason() {
    let readiness = Readiness::new()
        .add("postgres_unreachable", || async { true })
        .add("redis_unreachable", || async { false })
        .add("sts_unreachable", || async { false });
    let router = routes(readiness, &[]);
    let (status, _, body) = get(&router, "/ready", &[]).await;
    assert_eq!(status, 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        json!({"ok": false, "ready": false, "reason": "redis_unreachable"})
    );
    assert_eq!(
        get(&router, "/health", &[]).await.0,
        200,
        "liveness depends on nothing"
    );
}

#[tokio::test]
async fn a_service_is_ready_when_every_condition_holds() {
    let router = routes(
        Readiness::new().add("postgres_unreachable", || async { true }),
        &[],
    );
    let (status, _, body) = get(&router, "/ready", &[]).await;
    assert_eq!((status, body.as_str()), (200, r#"{"ok":true,"ready":true}"#));
}

#[tokio::test]
async fn a_stopping_service_is_not_ready() {
    let shutdown = Shutdown::new();
    let readiness = Readiness::new().until(shutdown.clone());
    assert_eq!(readiness.evaluate().await, Ok(()));
    shutdown.trigger();
    assert_eq!(readiness.evaluate().await, Err("draining"));
}

#[tokio::test]
async fn a_condition_that_does_not_answer_does_not_hold() {
    let started = tokio::time::Instant::now();
    let readiness = Readiness::new().add("redis_unreachable", std::future::pending);
    assert_eq!(readiness.evaluate().await, Err("redis_unreachable"));
    assert!(
        started.elapsed() < BUDGET * 2,
        "the probe must answer soon after the budget of two seconds"
    );
}

#[tokio::test]
async fn metrics_need_the_bearer() {
    let router = routes(Readiness::new(), &[("METRICS_BEARER", "let-me-in")]);
    for path in ["/metrics", "/metrics.json"] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer wrong")],
            &[("authorization", "let-me-in")],
        ] {
            let (status, answer, body) = get(&router, path, headers).await;
            assert_eq!(
                (status, body.as_str()),
                (401, r#"{"error":"unauthorized"}"#),
                "{path} {headers:?}"
            );
            assert_eq!(answer["www-authenticate"], "Bearer");
        }
        assert_eq!(
            get(&router, path, &[("authorization", "Bearer let-me-in")])
                .await
                .0,
            200
        );
    }
}

#[tokio::test]
async fn metrics_without_a_bearer_are_open_in_dev_only() {
    assert_eq!(get(&routes(Readiness::new(), &[]), "/metrics", &[]).await.0, 401);
    assert_eq!(
        get(
            &routes(Readiness::new(), &[("CARACAL_MODE", "dev")]),
            "/metrics",
            &[]
        )
        .await
        .0,
        200
    );
}

#[tokio::test]
async fn metrics_come_in_the_format_the_client_asks_for() {
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (format, path, accept, is_json) in [
        ("text", "/metrics", "*/*", false),
        ("text", "/metrics", "application/json", true),
        ("text", "/metrics?format=json", "*/*", true),
        ("text", "/metrics.json", "*/*", true),
        ("json", "/metrics", "*/*", true),
        ("json", "/metrics", prometheus, false),
    ] {
        let router = routes(
            Readiness::new(),
            &[("CARACAL_MODE", "dev"), ("METRICS_FORMAT", format)],
        );
        let (_, headers, body) = get(&router, path, &[("accept", accept)]).await;
        assert_eq!(
            serde_json::from_str::<Value>(&body).is_ok(),
            is_json,
            "{format} {path} {accept}"
        );
        let content_type = if is_json {
            "application/json"
        } else {
            "text/plain; version=0.0.4"
        };
        assert_eq!(headers["content-type"], content_type);
        assert!(body.contains("caracal_demo_requests_total"), "{body}");
    }
}

#[tokio::test]
async fn a_service_may_have_a_json_document_of_its_own() {
    let registry = Registry::new();
    let looked_up = registry.counter("caracal_demo_looked_up_total", "Looked up.");
    let counted = looked_up.clone();
    let health = Health::new(Readiness::new(), registry, access(&[("CARACAL_MODE", "dev")]))
        .refreshed_by(move || looked_up.inc())
        .with_json(|| json!({"sts": {"graph_traversals": 7}}));
    let (_, _, body) = get(&health.router(), "/metrics.json", &[]).await;
    assert_eq!(body, r#"{"sts":{"graph_traversals":7}}"#);
    assert_eq!(counted.get(), 1, "looked up for this reader");
}
