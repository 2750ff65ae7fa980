//! A whole application stack behind one gateway, which is its only open door: the paths of a workflow product with an API, a
//! tool server with OAuth endpoints of its own, object storage, and a user interface for everything else.

use std::sync::Arc;

use bytes::Bytes;
use caracal_testing::{Behaviour, OpenStream, Presigned, RecordedRequest, Service, StackOptions, Upstream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::world::{CREDENTIAL, RESOURCE, World};

/// What stands behind the gateway besides the protected services.
struct Neighbours {
    storage: Upstream,
    oauth: Upstream,
    interface: Upstream,
}

impl Neighbours {
    async fn start() -> Self {
        let storage = Behaviour::Custom(Arc::new(|request: &RecordedRequest| {
            let is_signed = Presigned::verifies(request);
            let mut answer = Response::new(Bytes::from_static(b"object"));
            *answer.status_mut() = if is_signed {
                StatusCode::OK
            } else {
                StatusCode::FORBIDDEN
            };
            answer
        }));
        Self {
            storage: Upstream::start(storage).await,
            oauth: Upstream::start(Behaviour::Echo).await,
            interface: Upstream::start(Behaviour::Echo).await,
        }
    }

    /// The route table of the stack.
    fn routes(&self) -> Value {
        let (storage, oauth, interface) = (self.storage.url(), self.oauth.url(), self.interface.url());
        let public = |key: &str, path: &str, upstream: &str| json!({(key): path, "public": true, "upstream": upstream, "forward_authorization": true});
        json!([
            {"path_prefix": "/s3", "strip_prefix": true, "public": true, "upstream": storage, "preserve_host": true,
             "max_body": "5GiB"},
            {"path_prefix": "/api", "strip_prefix": true, "resource": RESOURCE},
            {"path_prefix": "/mcp", "resource": RESOURCE},
            public("path", "/.well-known/oauth-authorization-server", &oauth),
            public("path_prefix", "/.well-known/oauth-protected-resource", &oauth),
            public("path_prefix", "/authorize", &oauth),
            public("path", "/token", &oauth),
            public("path", "/register", &oauth),
            public("path_prefix", "/consent", &oauth),
            public("path_prefix", "/auth/callback", &oauth),
            public("path_prefix", "/", &interface),
        ])
    }
}

struct Answered {
    status: u16,
    headers: HeaderMap,
}

async fn ask(world: &World, method: &str, target: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answered {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let value = HeaderValue::try_from(*value).unwrap();
        sent.insert(HeaderName::try_from(*name).unwrap(), value);
    }
    let url = format!("{}{target}", world.stack.gateway_url());
    let method = Method::try_from(method).unwrap();
    let answer = world
        .stack
        .http()
        .request(method, &url, sent, body)
        .await
        .unwrap();
    Answered {
        status: answer.status.as_u16(),
        headers: answer.headers,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_paths_of_a_whole_stack_lead_where_they_should() {
    let neighbours = Neighbours::start().await;
    let options = StackOptions::default()
        .set_for(Service::Gateway, "ROUTE", &neighbours.routes().to_string())
        .set_for(Service::Gateway, "MAX_REQUEST_BYTES", "1KiB")
        .set_for(Service::Gateway, "ADMIN_ON_MAIN_LISTENER", "false");
    let world = World::start(options).await;

    public_paths_need_no_mandate(&world, &neighbours).await;
    protected_paths_need_one(&world).await;
    storage_believes_signatures(&world, &neighbours).await;
}

async fn public_paths_need_no_mandate(world: &World, neighbours: &Neighbours) {
    let (oauth, interface) = (&neighbours.oauth, &neighbours.interface);
    for (method, target, upstream) in [
        ("GET", "/.well-known/oauth-authorization-server", oauth),
        ("GET", "/.well-known/oauth-authorization-server/other", interface),
        ("GET", "/.well-known/oauth-protected-resource", oauth),
        ("GET", "/.well-known/oauth-protected-resource/mcp", oauth),
        (
            "GET",
            "/authorize?redirect_uri=https%3A%2F%2Fx&state=a%20b",
            oauth,
        ),
        ("POST", "/token", oauth),
        ("POST", "/register", oauth),
        ("GET", "/consent/1", oauth),
        ("GET", "/auth/callback?code=1", oauth),
        ("GET", "/auth/oauth/callback?code=1", interface),
        ("POST", "/auth/saml/acs", interface),
        ("GET", "/", interface),
        ("GET", "/_next/static/chunk.js", interface),
        ("GET", "/health", interface),
        ("GET", "/apifoo", interface),
        ("GET", "/token/other", interface),
    ] {
        let headers = [
            ("authorization", "Basic Y2xpZW50OnNlY3JldA=="),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-host", "evil.test"),
        ];
        let answer = ask(world, method, target, &headers, Vec::new()).await;
        assert_eq!(answer.status, 200, "{method} {target}");
        assert!(!answer.headers.contains_key("www-authenticate"));
        let seen = upstream.take_requests();
        assert_eq!(seen.len(), 1, "{method} {target} leads elsewhere");
        assert_eq!(
            (seen[0].method.as_str(), seen[0].target.as_str()),
            (method, target)
        );
        assert_eq!(
            seen[0].header("authorization"),
            Some("Basic Y2xpZW50OnNlY3JldA==")
        );
        assert_eq!(seen[0].header("x-forwarded-for"), Some("127.0.0.1"));
        let host = world.stack.gateway_url().strip_prefix("http://");
        assert_eq!(seen[0].header("x-forwarded-host"), host, "{target}");
    }
    assert!(world.upstream.take_requests().is_empty());
}

async fn protected_paths_need_one(world: &World) {
    let agent = world.agent().await;
    for target in [
        "/api",
        "/api/workflows",
        "/mcp",
        "/mcp/tools",
        "/%61pi/workflows",
        "//api",
    ] {
        let answer = ask(world, "GET", target, &[], Vec::new()).await;
        assert_eq!(answer.status, 401, "{target} without a mandate");
    }
    let bearer = format!("Bearer {}", world.one_shot(&agent).await);
    let headers = [("authorization", bearer.as_str()), ("x-real-ip", "203.0.113.9")];
    let answer = ask(world, "GET", "/api/webhooks/a%2Fb?x=%20", &headers, Vec::new()).await;
    assert_eq!(answer.status, 200);
    let seen = world.upstream.take_requests().pop().unwrap();
    assert_eq!(seen.target, "/webhooks/a%2Fb?x=%20");
    assert_eq!(seen.header("x-upstream-key"), Some(CREDENTIAL));
    for (name, value) in [
        ("x-forwarded-prefix", "/api"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }

    // The next event comes in an hour: this one is not held back for company.
    world
        .upstream
        .set(Behaviour::Sse(std::time::Duration::from_hours(1)));
    let bearer = format!("Bearer {}", world.one_shot(&agent).await);
    let headers = [("authorization", bearer.as_str())];
    let _stream = OpenStream::events(world.stack.gateway_url(), "/mcp/events", &headers).await;
    assert_eq!(
        world.upstream.take_requests().pop().unwrap().target,
        "/mcp/events"
    );
}

async fn storage_believes_signatures(world: &World, neighbours: &Neighbours) {
    let host = world.stack.gateway_url().trim_start_matches("http://");
    for (method, path, body) in [
        ("GET", "/bucket/a%20b/%E2%82%AC.txt", 0),
        ("HEAD", "/bucket/x", 0),
        ("PUT", "/bucket/large", 100_000),
    ] {
        let url = Presigned::new(method, host, path, "&response-content-type=a%2Fb");
        let target = format!("/s3{}", url.target);
        let answer = ask(
            world,
            method,
            &target,
            &[("range", "bytes=0-3")],
            vec![b'x'; body],
        )
        .await;
        let seen = neighbours.storage.take_requests().pop().unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {seen:?}");
        assert_eq!((seen.body.len(), seen.header("range")), (body, Some("bytes=0-3")));
        let forged = ask(world, method, &target.replace("bucket", "other"), &[], Vec::new()).await;
        assert_eq!(forged.status, 403);
    }
}
