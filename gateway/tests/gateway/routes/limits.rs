//! What a route may use, and how it is told when that is spent.

use std::time::Duration;

use caracal_testing::{Behaviour, wait_until};

use super::plain;
use crate::client::{Answer, exchange_raw, open};
use crate::rig::{Rig, SOON};

async fn ask(rig: &Rig, target: &str) -> Answer {
    rig.send(plain(target, "a.test", Some(&rig.sts.mandate()))).await
}

async fn counted(rig: &Rig, label: &str) -> u64 {
    let request = http::Request::get("/metrics.json").header("host", "x");
    let request = request.header("authorization", "Bearer scrape");
    let metrics = crate::client::send(
        rig.gateway.addresses.admin,
        request.body(http_body_util::Full::default()).unwrap(),
    );
    let metrics = metrics.await.json();
    let denials = metrics["denials"].as_array().unwrap();
    let of_label = denials.iter().find(|denial| denial["labels"]["reason"] == label);
    of_label.unwrap_or_else(|| panic!("no {label} in {metrics}"))["value"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn a_route_has_its_own_limit_of_bodies() {
    let routes = r#"[
        {"path_prefix":"/small","resource":"resource://crm","max_body":"10"},
        {"path_prefix":"/large","resource":"resource://crm","max_body":"1MiB"},
        {"path_prefix":"/usual","resource":"resource://crm"}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes), ("MAX_REQUEST_BYTES", "1KiB")]).await;
    for (target, bytes, status) in [
        ("/small", 10, 200),
        ("/small", 11, 413),
        ("/usual", 1_024, 200),
        ("/usual", 1_025, 413),
        ("/large", 100_000, 200),
    ] {
        let request = plain(target, "a.test", Some(&rig.sts.mandate())).method("POST");
        let answer = rig.send_with(request, vec![b'x'; bytes]).await;
        assert_eq!(answer.status, status, "{target} {bytes}: {:?}", answer.body);
    }
    let chunked = format!(
        "POST /small HTTP/1.1\r\nhost: a.test\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         c\r\ntwelve bytes\r\n0\r\n\r\n",
        rig.sts.mandate()
    );
    let chunked = exchange_raw(rig.gateway.addresses.main, &chunked).await;
    assert!(chunked.starts_with("HTTP/1.1 413 "), "{chunked}");
}

#[tokio::test]
async fn a_route_has_its_own_patience() {
    let routes = r#"[
        {"path_prefix":"/impatient","resource":"resource://crm","timeout":"100ms"},
        {"path_prefix":"/patient","resource":"resource://crm","timeout":"20s"},
        {"path_prefix":"/quiet","resource":"resource://crm","idle_timeout":"100ms"}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes)]).await;
    rig.upstream.set(Behaviour::Held);
    let answer = ask(&rig, "/impatient").await;
    assert_eq!(answer.refusal().2, "upstream timeout");

    rig.upstream.set(Behaviour::Sse(Duration::from_hours(1)));
    let request = plain("/quiet", "a.test", Some(&rig.sts.mandate()));
    let answer = open(
        rig.gateway.addresses.main,
        request.body(http_body_util::Full::default()).unwrap(),
    )
    .await;
    let body = http_body_util::BodyExt::collect(answer.into_body());
    let ended = tokio::time::timeout(SOON, body).await.expect("it is cut");
    assert!(ended.is_err(), "and not as if it had ended");

    let rig = Rig::with(&[("ROUTE", routes), ("UPSTREAM_TIMEOUT", "100ms")]).await;
    rig.upstream.set(Behaviour::Slow(Duration::from_millis(500)));
    assert_eq!(ask(&rig, "/quiet").await.status, 504, "the gateway's own");
    assert_eq!(ask(&rig, "/patient").await.status, 200, "the route's");
}

#[tokio::test]
async fn a_route_has_a_rate_for_all_and_one_for_each_source() {
    let site = caracal_testing::Upstream::start(Behaviour::Echo).await;
    let routes = format!(
        r#"[{{"path_prefix":"/all","resource":"resource://crm","rate":"2/h","rate_burst":2}},
            {{"path_prefix":"/each","public":true,"upstream":"{}","source_rate":"1/h"}}]"#,
        site.url()
    );
    let settings = [
        ("ROUTE", routes.as_str()),
        ("TRUST_PROXY", "true"),
        ("METRICS_BEARER", "scrape"),
    ];
    let rig = Rig::with(&settings).await;
    for _request in 0..2 {
        assert_eq!(ask(&rig, "/all/x").await.status, 200);
    }
    let refused = ask(&rig, "/all/x").await;
    let expected = (429, "provider_rate_limited".into(), "too many requests".into());
    assert_eq!(refused.refusal(), expected);
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((2..=1_800).contains(&wait), "{wait}");
    let request_id = refused.header("x-request-id").unwrap();
    rig.event(request_id, "gateway_request_denied", "route_rate")
        .await;
    assert_eq!(rig.upstream.requests().len(), 2);

    let from = |source: &str| plain("/each", "a.test", None).header("x-forwarded-for", source);
    for (source, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.2", 200),
        ("203.0.113.1", 429),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
    ] {
        assert_eq!(rig.send(from(source)).await.status, status, "{source}");
    }
    assert_eq!(counted(&rig, "route_rate").await, 3);
}

#[tokio::test]
async fn a_route_carries_so_many_requests_at_a_time() {
    let routes = r#"[{"path_prefix":"/","resource":"resource://crm","concurrency":1}]"#;
    let rig = Rig::with(&[("ROUTE", routes), ("METRICS_BEARER", "scrape")]).await;
    rig.upstream.set(Behaviour::Held);
    let held = ask(&rig, "/held");
    let busy = async {
        wait_until(SOON, async || rig.upstream.requests().len() == 1).await;
        let busy = ask(&rig, "/x").await;
        rig.upstream.release();
        busy
    };
    let (held, busy) = tokio::join!(held, busy);
    assert_eq!(held.status, 200);
    let expected = (
        503,
        "provider_rate_limited".into(),
        "too many requests under way".into(),
    );
    assert_eq!(busy.refusal(), expected);
    assert_eq!(busy.header("retry-after"), Some("1"));
    let request_id = busy.header("x-request-id").unwrap();
    rig.event(request_id, "gateway_request_denied", "route_busy")
        .await;
    assert_eq!(counted(&rig, "route_busy").await, 1);

    rig.upstream.set(Behaviour::Echo);
    // The place is given back when the first request is over, which its client learns a moment earlier.
    wait_until(SOON, async || ask(&rig, "/x").await.status == 200).await;
}

#[tokio::test]
async fn one_source_holds_no_more_than_its_share_of_a_route() {
    let routes = r#"[{"path_prefix":"/","resource":"resource://crm","concurrency":2}]"#;
    let rig = Rig::with(&[("ROUTE", routes), ("TRUST_PROXY", "true")]).await;
    rig.upstream.set(Behaviour::Held);
    let from = async |source: &str| {
        let request = plain("/x", "a.test", Some(&rig.sts.mandate())).header("x-forwarded-for", source);
        rig.send(request).await
    };
    let held = from("203.0.113.1");
    let others = async {
        wait_until(SOON, async || rig.upstream.requests().len() == 1).await;
        let second = from("203.0.113.1").await;
        let (third, ()) = tokio::join!(from("203.0.113.2"), async {
            wait_until(SOON, async || rig.upstream.requests().len() == 2).await;
            rig.upstream.release();
        });
        (second, third)
    };
    let (held, (second, third)) = tokio::join!(held, others);
    assert_eq!(
        (held.status, third.status),
        (200, 200),
        "there is room for another source"
    );
    let expected = (
        429,
        "provider_rate_limited".into(),
        "too many requests in progress".into(),
    );
    assert_eq!(second.refusal(), expected);
    let request_id = second.header("x-request-id").unwrap();
    rig.event(request_id, "gateway_request_denied", "too_many_requests")
        .await;
}
