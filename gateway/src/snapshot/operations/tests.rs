use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use caracal_chassis::Clock;
use caracal_chassis::server::{self, Limits};
use caracal_chassis::shutdown::Shutdown;
use caracal_testing::{Mandate, wait_until};
use caracal_wire::gateway_operations::OPERATIONS_PATH;
use futures_util::future::join_all;
use serde_json::json;

use super::*;

#[test]
fn operations_are_matched_against_the_decoded_path() {
    for (raw, sent) in [
        ("/v1/contacts", "/v1/contacts"),
        ("/caf%C3%A9", "/caf\u{e9}"),
        ("/a%20b", "/a b"),
        ("/%7Euser/x", "/~user/x"),
        ("/%76%31", "/v1"),
    ] {
        assert_eq!(declared_path(raw), sent);
    }
}

#[test]
fn a_path_whose_structure_hides_in_its_encoding_stays_encoded() {
    for raw in [
        "/a%2Fb", "/a%2fb/c", "/a%3Bb", "/a%3Fb", "/a%23b", "/a%252Fb", "/%FF", "/a%", "/a%2",
    ] {
        assert_eq!(declared_path(raw), raw, "it must not pass for a declared path");
    }
}

/// The operations endpoint of an STS, with one zone.
#[derive(Default)]
struct Endpoint {
    asked: AtomicUsize,
    is_down: AtomicBool,
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, uri: Uri) -> Response {
    endpoint.asked.fetch_add(1, Ordering::SeqCst);
    if endpoint.is_down.load(Ordering::SeqCst) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let resources = json!([{
        "identifier": RESOURCE, "names": [RESOURCE],
        "operations": [{"method": "GET", "path": "/v1/{id}", "scope": "crm:read"}],
    }]);
    let is_known = uri.query().is_some_and(|query| query.ends_with("&version=7"));
    let answer = if is_known {
        json!({"version": 7})
    } else {
        json!({"version": 7, "resources": resources})
    };
    axum::Json(answer).into_response()
}

const SOON: Duration = Duration::from_secs(20);
const RESOURCE: &str = "resource://crm";

struct Rig {
    endpoint: Arc<Endpoint>,
    operations: Arc<ZoneOperations>,
    claims: Claims,
    stop: Shutdown,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Rig {
    async fn start() -> Self {
        let endpoint = Arc::new(Endpoint::default());
        let router = Router::new()
            .route(OPERATIONS_PATH, get(answer))
            .with_state(Arc::clone(&endpoint));
        let listener = server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = Shutdown::new();
        tokio::spawn(server::serve(listener, router, Limits::default(), stop.clone()));
        let sts = StsClient::new(&[url], None, SOON, None, Clock::system()).unwrap();
        sts.locate().await;
        let mandate = Mandate::gateway("zone-1", "app-1", 1_700_000_000);
        Self {
            endpoint,
            operations: Arc::new(ZoneOperations::new(Arc::new(sts))),
            claims: mandate.target(RESOURCE).scope("crm:read").claims().clone(),
            stop,
        }
    }

    fn call<'a>(&'a self, method: &'a str) -> Call<'a> {
        Call {
            resource: RESOURCE,
            method,
            raw_path: "/v1/7",
            claims: &self.claims,
        }
    }

    fn asked(&self) -> usize {
        self.endpoint.asked.load(Ordering::SeqCst)
    }

    async fn until_known(&self) {
        wait_until(SOON, async || self.operations.doubts(self.call("PUT"))).await;
    }
}

#[tokio::test]
async fn a_zone_that_is_not_known_is_asked_about_once_and_nobody_waits() {
    let rig = Rig::start().await;
    for _request in 0..50 {
        assert!(!rig.operations.doubts(rig.call("PUT")), "nothing is known");
    }
    rig.until_known().await;
    assert_eq!(rig.asked(), 1);
    assert!(!rig.operations.doubts(rig.call("GET")));
    assert_eq!(rig.asked(), 1, "what is known is not asked for again");
}

#[tokio::test]
async fn all_who_are_about_to_be_refused_share_two_questions() {
    let rig = Rig::start().await;
    rig.until_known().await;
    let before = rig.asked();
    let refusals = join_all((0..50).map(|_request| rig.operations.refuses(rig.call("PUT")))).await;
    assert!(refusals.iter().all(|is_refused| *is_refused));
    assert_eq!(
        rig.asked(),
        before + 2,
        "one that began before the others came, and one for all others"
    );
    assert!(rig.operations.refuses(rig.call("PUT")).await);
    assert_eq!(rig.asked(), before + 3, "no refusal stands on an earlier answer");
    assert!(!rig.operations.refuses(rig.call("GET")).await);
}

#[tokio::test]
async fn those_who_wait_behind_a_question_that_fails_are_left_to_the_sts_with_it() {
    let rig = Rig::start().await;
    rig.until_known().await;
    rig.endpoint.is_down.store(true, Ordering::SeqCst);
    let before = rig.asked();
    let refusals = join_all((0..50).map(|_request| rig.operations.refuses(rig.call("PUT")))).await;
    assert!(refusals.iter().all(|is_refused| !is_refused));
    assert_eq!(rig.asked(), before + 1);
    rig.endpoint.is_down.store(false, Ordering::SeqCst);
    assert!(rig.operations.refuses(rig.call("PUT")).await);
}

#[test]
fn what_does_not_fit_is_not_known_and_so_left_to_the_sts() {
    let resource = |name: &str, path: &str, count: usize| {
        let operation = json!({"method": "GET", "path": path, "scope": "s"});
        let resource = json!({"identifier": name, "names": [name], "operations": vec![operation; count]});
        serde_json::from_value(resource).unwrap()
    };
    let deep = "/a".repeat(256);
    let known = Known::new(
        1,
        vec![
            resource("resource://small", "/a", 1),
            resource("resource://large", &deep, 256),
            resource("resource://other", "/a", 1),
        ],
    );
    let names = |name: &str| known.resources.contains_key(name);
    assert!(names("resource://small") && names("resource://other"));
    assert!(!names("resource://large"));
    assert!(known.bytes < ZONE_BYTES_MAX);
}
