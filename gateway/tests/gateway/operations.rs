//! An operation that is not declared is refused before authority is asked for, and nothing else is.

use std::sync::atomic::Ordering;

use caracal_model::Anchor;
use caracal_testing::{Mandate, TestKeys, wait_until};
use futures_util::future::join_all;

use crate::client::Answer;
use crate::rig::{METRICS, RESOURCE, Rig, SOON, now};
use crate::sts::{RESOURCE_ID, Telling, one_shot, reusable};

const READ: &str = "crm:read";

/// What the gateway knows once [`enforcing`] is over.
const DECLARED: &[(&str, &str, &str)] = &[
    ("GET", "/v1/users/{id}", READ),
    ("GET", "/v1/users/me", "crm:self"),
    ("PUT", "/v1/users/{id}", READ),
];

/// A gateway that knows what is declared.
async fn enforcing(settings: &[(&str, &str)]) -> Rig {
    let rig = Rig::with(settings).await;
    rig.sts.declare(DECLARED);
    until_known(&rig).await;
    rig
}

/// Calls something undeclared until the STS does not hear of it.
async fn until_known(rig: &Rig) {
    wait_until(SOON, async || {
        let before = rig.sts.exchanges().len();
        let answer = call(rig, "GET", "/undeclared", &reading(rig)).await;
        assert_eq!(answer.status, 403);
        rig.sts.exchanges().len() == before
    })
    .await;
}

/// A mandate for one call with the scope to read.
fn reading(rig: &Rig) -> String {
    rig.sts.sign(one_shot().scope(READ))
}

async fn call(rig: &Rig, method: &str, target: &str, mandate: &str) -> Answer {
    rig.send(rig.request(method, target, mandate)).await
}

/// Whether a call causes an exchange; with its answer.
async fn exchanged(rig: &Rig, request: http::request::Builder) -> (bool, Answer) {
    let before = rig.sts.exchanges().len();
    let answer = rig.send(request).await;
    (rig.sts.exchanges().len() > before, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undeclared_operation_is_refused_before_the_exchange_and_burns_no_mandate() {
    let rig = enforcing(&[METRICS]).await;
    let (exchanges, claims) = (rig.sts.exchanges().len(), rig.bus.claims.load(Ordering::SeqCst));
    let mandate = reading(&rig);
    let request = rig.request("DELETE", "/v1/users/7?q=secret", &mandate);
    let answer = rig.send(request.header("x-request-id", "undeclared-1")).await;
    let said = answer.json();
    assert_eq!(answer.status, 403);
    assert_eq!(
        (&said["error"], &said["error_description"]),
        (
            &"operation_not_permitted".into(),
            &"the operation is not declared for the scopes of the presented mandate".into()
        )
    );
    assert_eq!(
        rig.sts.exchanges().len(),
        exchanges,
        "the STS was asked for authority"
    );
    assert_eq!(
        rig.bus.claims.load(Ordering::SeqCst),
        claims,
        "the mandate was burned"
    );
    assert!(rig.upstream.take_requests().is_empty());

    let event = rig
        .event(
            "undeclared-1",
            "gateway_request_denied",
            "operation_not_permitted",
        )
        .await;
    let metadata = &event["metadata_json"];
    assert_eq!(event["zone_id"], crate::rig::ZONE);
    assert_eq!(
        (&metadata["method"], &metadata["path"]),
        (&"DELETE".into(), &"/v1/users/7".into())
    );
    assert_eq!(metadata["gateway_status"], 403);

    assert_eq!(call(&rig, "GET", "/v1/users/7", &mandate).await.status, 200);
    assert_eq!(
        rig.sts.exchanges().len(),
        exchanges + 1,
        "one exchange for what is declared"
    );
}

#[tokio::test]
async fn of_a_long_path_that_is_refused_the_beginning_is_recorded() {
    let rig = enforcing(&[]).await;
    let path = format!("/v1/{}", "a".repeat(4_000));
    let request = rig.request("DELETE", &path, &reading(&rig));
    let answer = rig.send(request.header("x-request-id", "long-1")).await;
    assert_eq!(answer.status, 403);
    let event = rig
        .event("long-1", "gateway_request_denied", "operation_not_permitted")
        .await;
    assert_eq!(event["metadata_json"]["path"], path[..1_024]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_permitted_asks_nothing_more_of_the_sts() {
    let rig = enforcing(&[]).await;
    let questions = rig.sts.operation_questions();
    for _call in 0..10 {
        assert_eq!(
            call(&rig, "PUT", "/v1/users/me", &reading(&rig)).await.status,
            200
        );
    }
    assert_eq!(rig.sts.operation_questions(), questions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declared_since_is_honoured_at_once() {
    let rig = enforcing(&[]).await;
    for number in 0..10 {
        let path = format!("/v2/number-{number}");
        assert_eq!(call(&rig, "GET", &path, &reading(&rig)).await.status, 403);
        rig.sts.declare(&[("GET", &path, READ)]);
        assert_eq!(call(&rig, "GET", &path, &reading(&rig)).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_declared_is_refused_by_the_sts_and_then_here() {
    let rig = enforcing(&[]).await;
    rig.sts.declare(&[]);
    let request = rig.request("GET", "/v1/users/7", &reading(&rig));
    let (exchanged, answer) = exchanged(&rig, request).await;
    assert_eq!((exchanged, answer.status), (true, 403));
    until_known(&rig).await;
    wait_until(SOON, async || {
        let before = rig.sts.exchanges().len();
        assert_eq!(call(&rig, "GET", "/v1/users/7", &reading(&rig)).await.status, 403);
        rig.sts.exchanges().len() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_or_revoked_mandate_is_told_so_first() {
    let rig = enforcing(&[]).await;
    let used = reading(&rig);
    assert_eq!(call(&rig, "GET", "/v1/users/7", &used).await.status, 200);
    let answer = call(&rig, "DELETE", "/v1/users/7", &used).await;
    assert_eq!(answer.json()["error_description"], "token replay detected");

    let below = rig
        .sts
        .sign(one_shot().scope(READ).bound_to("session-7", "edge-7"));
    rig.revoke(Anchor::Session("session-7".parse().unwrap())).await;
    wait_until(SOON, async || {
        let answer = call(&rig, "DELETE", "/v1/users/7", &below).await;
        answer.json()["error_description"] == "session revoked"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_proven_and_was_granted_the_resource_is_told_what_it_allows() {
    let rig = enforcing(&[]).await;
    let questions = rig.sts.operation_questions();
    let stranger = one_shot().scope(READ).sign(&TestKeys::new());
    let answer = call(&rig, "DELETE", "/v1/users/7", &stranger).await;
    assert_eq!(answer.json()["error_description"], "bearer signature invalid");
    let elsewhere = Mandate::gateway(crate::rig::ZONE, crate::rig::APPLICATION, now())
        .issuer(crate::rig::ISSUER)
        .scope(READ)
        .target("resource://other");
    let request = rig.request("DELETE", "/v1/users/7", &rig.sts.sign(elsewhere));
    assert!(exchanged(&rig, request).await.0, "the STS decides");
    let another = reusable()
        .scope(READ)
        .with(|claims| claims.client_id = "app-2".parse().unwrap());
    let request = rig.request("DELETE", "/v1/users/7", &rig.sts.sign(another));
    assert!(exchanged(&rig, request).await.0, "the STS decides who is bound");
    assert_eq!(rig.sts.operation_questions(), questions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reusable_mandates_and_other_names_of_the_resource_are_refused_as_early() {
    let rig = enforcing(&[]).await;
    let bound = rig.sts.sign(reusable().scope(READ));
    let request = rig.request("DELETE", "/v1/users/7", &bound);
    let (was_exchanged, answer) = exchanged(&rig, request).await;
    assert_eq!((was_exchanged, answer.status), (false, 403));
    let request = http::Request::delete("/v1/users/7")
        .header("host", "gateway.test")
        .header("authorization", format!("Bearer {bound}"))
        .header("x-caracal-resource", RESOURCE_ID);
    let (was_exchanged, answer) = exchanged(&rig, request).await;
    assert_eq!(
        (was_exchanged, answer.status),
        (false, 403),
        "{RESOURCE} by its row id"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sts_does_not_tell_is_left_to_it() {
    let rig = enforcing(&[("STS_TIMEOUT", "500ms")]).await;
    for telling in [Telling::Silence, Telling::NotFound] {
        rig.sts.tell(telling);
        let request = rig.request("DELETE", "/v1/users/7", &reading(&rig));
        let (was_exchanged, answer) = exchanged(&rig, request).await;
        assert_eq!((was_exchanged, answer.status), (true, 403), "{telling:?}");
    }
    rig.sts.tell(Telling::Truth);
    let request = rig.request("DELETE", "/v1/users/7", &reading(&rig));
    assert!(!exchanged(&rig, request).await.0, "it tells again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mac_without_the_signature_is_not_enough_to_be_told() {
    let key = [0x3a; 32];
    let rig = enforcing(&[("MANDATE_MAC_KEY", &hex::encode(key))]).await;
    let whole = rig
        .sts
        .keys()
        .sign_with_mac(one_shot().scope(READ).claims(), &key);
    let (rest, _signature) = whole.rsplit_once('.').unwrap();
    let cut = format!("{rest}.{}", "A".repeat(86));
    let (was_exchanged, _answer) = exchanged(&rig, rig.request("DELETE", "/v1/users/7", &cut)).await;
    assert!(was_exchanged, "the STS says that it is no mandate");
    let whole = rig
        .sts
        .keys()
        .sign_with_mac(one_shot().scope(READ).claims(), &key);
    let (was_exchanged, answer) = exchanged(&rig, rig.request("DELETE", "/v1/users/7", &whole)).await;
    assert_eq!((was_exchanged, answer.status), (false, 403));
}

/// Of an STS that never tells, every decision is the STS's own, by the form; of one that does, many are the gateway's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_decides_every_path_as_the_sts_does() {
    let declared = [
        ("GET", "/v1/users/{id}", READ),
        ("get", "/v1/users/me", "crm:self"),
        ("PUT", "/v1/users/{id}", READ),
        ("GET", "/{a}/{b}", READ),
        ("GET", "/v1/caf\u{e9}/{x}", READ),
        ("GET", "/v1//{x}", READ),
        ("GET", "/v1/a%2Fb", READ),
        ("GET", "/v1/users/{id}/", "crm:other"),
    ];
    let told = Rig::start().await;
    told.sts.declare(&declared);
    let untold = Rig::start().await;
    untold.sts.declare(&declared);
    untold.sts.tell(Telling::NotFound);
    wait_until(SOON, async || {
        let before = told.sts.exchanges().len();
        call(&told, "DELETE", "/", &reading(&told)).await;
        told.sts.exchanges().len() == before
    })
    .await;
    let segments = [
        "v1",
        "users",
        "%75sers",
        "Users",
        "me",
        "m%65",
        "7",
        "",
        "a%2Fb",
        "a%2fb",
        "a;b",
        "a%3Bb",
        "%7Bid%7D",
        "caf%C3%A9",
        "%FF",
        "%25",
        "a%5Cb",
        "..",
        "%2e%2e",
        ".",
    ];
    let mut targets: Vec<String> = Vec::new();
    for first in segments {
        targets.push(format!("/{first}"));
        targets.push(format!("/v1/{first}"));
        targets.push(format!("/{first}/users"));
        targets.push(format!("/v1/users/{first}"));
        targets.push(format!("/v1/{first}/7"));
        targets.push(format!("/v1/users/{first}/"));
    }
    let (mut early, mut passed) = (0, 0);
    for target in &targets {
        for method in ["GET", "PUT"] {
            let exchanges = told.sts.exchanges().len();
            let (here, there) = (reading(&told), reading(&untold));
            let both = [
                call(&told, method, target, &here),
                call(&untold, method, target, &there),
            ];
            let [here, there] = <[Answer; 2]>::try_from(join_all(both).await).unwrap();
            assert_eq!(here.status, there.status, "{method} {target}");
            early += usize::from(here.status == 403 && told.sts.exchanges().len() == exchanges);
            passed += usize::from(here.status == 200);
        }
    }
    assert!(early > 50, "the gateway decided {early}");
    assert!(passed > 20, "{passed} passed");
}
