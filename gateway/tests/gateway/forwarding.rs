//! What passes the gateway, byte for byte, and what does not: requests and answers of admitted calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_testing::{Behaviour, RecordedRequest, wait_until};
use http::{HeaderName, Response};

use crate::client::{Raw, exchange_raw};
use crate::rig::{APPLICATION, RESOURCE, Rig, SOON, ZONE, mandate_upstream};
use crate::sts::Grant;

fn only(requests: Vec<RecordedRequest>) -> RecordedRequest {
    let [request] = <[RecordedRequest; 1]>::try_from(requests).expect("one request reached the upstream");
    request
}

#[tokio::test]
async fn a_governed_call_is_exchanged_forwarded_and_recorded() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    let request = rig
        .request("GET", "/v1/contacts?limit=5", &mandate)
        .header("x-request-id", "req-1");
    let answer = rig.send(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-request-id"), Some("req-1"));
    let left: i64 = answer
        .header("x-caracal-token-expires-in")
        .unwrap()
        .parse()
        .unwrap();
    assert!((800..=900).contains(&left), "{left} s");

    let [exchange] = <[_; 1]>::try_from(rig.sts.exchanges()).expect("one exchange");
    assert_eq!(exchange.request_id, "req-1");
    for (name, value) in [
        ("application_id", APPLICATION),
        ("gateway_request_id", "req-1"),
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("request_method", "GET"),
        ("request_path", "/v1/contacts"),
        ("resource", RESOURCE),
        ("subject_token", mandate.as_str()),
        (
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("zone_id", ZONE),
    ] {
        assert_eq!(exchange.form[name], value, "{name}");
    }

    let forwarded = only(rig.upstream.requests());
    assert_eq!(forwarded.target, "/v1/contacts?limit=5");
    let credential = forwarded.header("authorization").unwrap();
    assert!(credential.starts_with("Bearer ") && !credential.contains(&mandate));

    let intent = rig.event("req-1", "gateway_resource_request", "forwarding").await;
    let outcome = rig.event("req-1", "gateway_resource_request", "executed").await;
    for event in [&intent, &outcome] {
        assert_eq!(
            (event["decision"].as_str(), event["zone_id"].as_str()),
            (Some("allow"), Some(ZONE))
        );
        let metadata = &event["metadata_json"];
        assert_eq!(metadata["application_id"], APPLICATION);
        assert_eq!(metadata["resource"], RESOURCE);
        assert_eq!(metadata["method"], "GET");
        assert_eq!(metadata["upstream_host"], "127.0.0.1");
        assert_eq!(metadata["auth_mode"], "caracal_jwt");
        assert_eq!(metadata["subject_kind"], "application");
        assert_eq!(metadata["agent_session_id"], "session-target");
        assert_eq!(metadata["delegation_edge_id"], "delegation-1");
        assert_eq!(
            metadata["subject_fingerprint"],
            caracal_token::fingerprint(&mandate)
        );
        assert_eq!(metadata["trace_id"].as_str().unwrap().len(), 32);
    }
    let metadata = &outcome["metadata_json"];
    assert_eq!(metadata["upstream_status"], 200);
    assert_eq!(metadata["gateway_status"], 200);
    assert_eq!(metadata["result_class"], "success");
    assert_eq!(metadata["revocation_interrupted"], false);
    assert_eq!(metadata["response_bytes"], answer.body.len());
    let ledger = rig
        .events()
        .await
        .into_iter()
        .map(|event| event.to_string())
        .collect::<String>();
    assert!(!ledger.contains("limit=5") && !ledger.contains("/v1/contacts") && !ledger.contains(&mandate));
}

#[tokio::test]
async fn the_intent_is_on_record_before_the_upstream_hears_anything() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Held);
    let request = rig.get("/").header("x-request-id", "req-held");
    let mut call = Box::pin(rig.send(request));
    let reached = wait_until(SOON, async || !rig.upstream.requests().is_empty());
    tokio::select! {
        _ = &mut call => panic!("the upstream holds the request"),
        () = reached => {}
    }
    rig.event("req-held", "gateway_resource_request", "forwarding")
        .await;
    rig.upstream.release();
    assert_eq!(call.await.status, 200);
}

#[tokio::test]
async fn one_call_costs_one_exchange_and_one_claim() {
    let rig = Rig::start().await;
    let claims = || rig.bus.claims.load(std::sync::atomic::Ordering::SeqCst);
    rig.send(rig.get("/warm")).await;
    let (exchanges, claimed, keys) = (rig.sts.exchanges().len(), claims(), rig.sts.key_requests());
    for _call in 0..10 {
        assert_eq!(rig.send(rig.get("/v1/contacts")).await.status, 200);
    }
    assert_eq!(rig.sts.exchanges().len() - exchanges, 10);
    assert_eq!(claims() - claimed, 10);
    assert_eq!(rig.sts.key_requests(), keys, "keys are known");
}

#[tokio::test]
async fn paths_and_queries_pass_byte_for_byte() {
    let rig = Rig::start().await;
    for (upstream, target, forwarded) in [
        ("", "/", "/"),
        (
            "",
            "/a%2Fb/%C3%A9//c/?q=%20&q=+&;x&=&&y",
            "/a%2Fb/%C3%A9//c/?q=%20&q=+&;x&=&&y",
        ),
        ("", "/a?", "/a?"),
        ("/", "/a//", "/a//"),
        ("/api", "/v1/", "/api/v1/"),
        ("/api/", "/v1", "/api/v1"),
        ("/api", "/", "/api"),
        ("/api?version=2", "/v1?version=1&a=%2f", "/api/v1?version=2&a=%2f"),
    ] {
        rig.sts
            .grant(Grant::Upstream(mandate_upstream(rig.upstream.url() + upstream)));
        assert_eq!(rig.send(rig.get(target)).await.status, 200, "{target}");
        assert_eq!(
            only(rig.upstream.take_requests()).target,
            forwarded,
            "{upstream} {target}"
        );
    }
}

#[tokio::test]
async fn request_headers_are_cleaned() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    let host = rig.upstream.address().to_string();
    let dropped = [
        ("connection", "keep-alive, x-named"),
        ("x-named", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("proxy-authenticate", "Basic"),
        ("te", "trailers"),
        ("trailer", "x-t"),
        ("upgrade", "h2c"),
        ("x-caracal-identity", "forged"),
        ("x-caracal-upstream", "http://evil.test"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("x-forwarded-port", "1"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x_caracal_identity", "forged"),
        ("x_real_ip", "1.2.3.4"),
        ("x-api-key", mandate.as_str()),
        ("x-copy", &format!("prefix {mandate} suffix")),
    ];
    let kept = [
        ("cookie", "a=1; b=2"),
        ("origin", "https://app.test"),
        ("tracestate", "vendor=1"),
        ("accept-encoding", "gzip"),
        ("x-custom", "1"),
        ("user-agent", "agent/1"),
    ];
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut request = rig
        .request("GET", "/", &mandate)
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil.test")
        .header("x-request-id", "req-1")
        .header("traceparent", trace)
        .header("baggage", "caracal.agent_session=s2,caracal.hop=0,tenant=acme");
    for (name, value) in dropped.iter().chain(&kept) {
        request = request.header(*name, *value);
    }
    assert_eq!(rig.send(request).await.status, 200);
    let forwarded = only(rig.upstream.requests());
    for (name, value) in dropped {
        assert_ne!(forwarded.header(name), Some(value), "{name} must not pass");
    }
    for name in [
        "x-named",
        "x-caracal-resource",
        "x-caracal-identity",
        "x-caracal-upstream",
        "x-copy",
        "x-api-key",
    ] {
        assert_eq!(forwarded.header(name), None, "{name} must not pass");
    }
    for (name, value) in kept {
        assert_eq!(forwarded.header(name), Some(value), "{name} must pass");
    }
    for (name, value) in [
        ("host", host.as_str()),
        ("x-request-id", "req-1"),
        ("traceparent", trace),
        ("baggage", "tenant=acme"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "gateway.test:8081"),
    ] {
        let values: Vec<_> = forwarded.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    let everything = format!("{:?}", forwarded.headers);
    assert!(!everything.contains(&mandate), "the mandate reached the upstream");
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_client() {
    let proxies = ("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8");
    let rig = Rig::with(&[("TRUST_PROXY", "true"), proxies]).await;
    let request = rig
        .get("/")
        .header("x-forwarded-for", "written by anybody, 203.0.113.7, 10.0.0.1")
        .header("x-forwarded-proto", "https");
    rig.send(request).await;
    let forwarded = only(rig.upstream.requests());
    assert_eq!(forwarded.header("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(forwarded.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn a_request_id_that_is_none_is_replaced() {
    let rig = Rig::start().await;
    for given in ["with blank", "a/b", &"x".repeat(129)] {
        let answer = rig.send(rig.get("/").header("x-request-id", given)).await;
        let used = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(used.len(), 36, "a UUID");
        assert_eq!(
            only(rig.upstream.take_requests()).header("x-request-id"),
            Some(used.as_str())
        );
    }
}

/// An upstream that answers with these headers.
fn answering(headers: &'static [(&'static str, &'static str)]) -> Behaviour {
    Behaviour::Custom(Arc::new(move |_request: &RecordedRequest| {
        let mut response = Response::new(Bytes::from_static(b"body"));
        for (name, value) in headers {
            response
                .headers_mut()
                .append(HeaderName::from_static(name), value.parse().unwrap());
        }
        response
    }))
}

#[tokio::test]
async fn response_headers_are_cleaned() {
    let rig = Rig::start().await;
    rig.upstream.set(answering(&[
        ("server", "nginx"),
        ("x-powered-by", "PHP"),
        ("x-aspnet-version", "4"),
        ("x-aspnetmvc-version", "5"),
        ("refresh", "0;url=https://evil.test"),
        ("x-caracal-identity", "x"),
        ("x-caracal-revoked", "true"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("location", "https://elsewhere.test/"),
        ("content-location", "//elsewhere.test/x"),
        ("x-request-id", "theirs"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-custom", "1"),
        ("etag", "\"1\""),
    ]));
    let answer = rig.send(rig.get("/").header("x-request-id", "ours")).await;
    assert_eq!(&answer.body[..], b"body");
    for name in [
        "server",
        "x-powered-by",
        "x-aspnet-version",
        "x-aspnetmvc-version",
        "refresh",
        "x-caracal-identity",
        "x-caracal-revoked",
        "keep-alive",
        "proxy-authenticate",
        "location",
        "content-location",
    ] {
        assert_eq!(answer.header(name), None, "{name} must not pass");
    }
    assert_eq!(answer.header("x-request-id"), Some("ours"));
    assert_eq!(answer.header("x-custom"), Some("1"));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);

    rig.upstream.set(answering(&[("location", "/next?page=2")]));
    assert_eq!(
        rig.send(rig.get("/")).await.header("location"),
        Some("/next?page=2")
    );
}

#[tokio::test]
async fn statuses_and_bodies_pass_unchanged() {
    let rig = Rig::start().await;
    for status in [
        200_u16, 201, 204, 301, 304, 400, 401, 403, 404, 418, 429, 500, 503,
    ] {
        let body = if matches!(status, 204 | 304) {
            ""
        } else {
            "as it is"
        };
        rig.upstream
            .set(Behaviour::Status(status.try_into().unwrap(), body.into()));
        let answer = rig.send(rig.get("/")).await;
        assert_eq!((answer.status, &answer.body[..]), (status, body.as_bytes()));
    }
}

#[tokio::test]
async fn bodies_keep_their_framing() {
    let rig = Rig::start().await;
    let body = Bytes::from(vec![b'x'; 300_000]);
    let answer = rig
        .send_with(rig.request("POST", "/upload", &rig.sts.mandate()), body.clone())
        .await;
    assert_eq!(answer.status, 200);
    let forwarded = only(rig.upstream.take_requests());
    assert_eq!(forwarded.body, body);
    assert_eq!(
        forwarded.header("content-length"),
        Some("300000"),
        "the length is kept"
    );
    assert_eq!(forwarded.header("transfer-encoding"), None);

    let chunked = format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        rig.sts.mandate()
    );
    let answer = exchange_raw(rig.gateway.addresses.main, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let forwarded = only(rig.upstream.take_requests());
    assert_eq!(forwarded.body, "hello world");
    assert_eq!(forwarded.header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn a_head_request_has_no_body() {
    let rig = Rig::start().await;
    let raw = format!(
        "HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.mandate()
    );
    let answer = exchange_raw(rig.gateway.addresses.main, &raw).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_carries_many_requests_also_after_a_refusal() {
    let rig = Rig::start().await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    for round in 0..3 {
        raw.received.clear();
        let body = "x".repeat(1_000);
        raw.write(format!(
            "POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{body}"
        ))
        .await;
        let refused = raw.until("\"error\"").await;
        assert!(refused.starts_with("HTTP/1.1 401 "), "round {round}: {refused}");
        raw.until("}").await;
        raw.received.clear();
        raw.write(format!(
            "GET /ok HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
            rig.sts.mandate()
        ))
        .await;
        let answered = raw.until("\"target\":\"/ok\"").await;
        assert!(answered.starts_with("HTTP/1.1 200 "), "round {round}: {answered}");
        raw.until("}").await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(5)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "GET / HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.mandate()
    ))
    .await;
    let text = raw.until("id: 2").await;
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_upstream_request_with_it() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(5)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-request-id: req-left\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.mandate()
    ))
    .await;
    raw.until("id: 2").await;
    drop(raw);
    wait_until(SOON, async || rig.upstream.open_streams() == 0).await;
    let outcome = rig
        .event("req-left", "gateway_resource_request", "upstream_error")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "client_cancelled");
}

#[tokio::test]
async fn slow_request_heads_and_idle_connections_are_given_up() {
    let rig = Rig::with(&[("READ_HEADER_TIMEOUT", "200ms"), ("IDLE_TIMEOUT", "300ms")]).await;
    let mut slow = Raw::connect(rig.gateway.addresses.main).await;
    slow.write("GET / HTTP/1.1\r\nhost:").await;
    slow.until_closed().await;
    let mut idle = Raw::connect(rig.gateway.addresses.main).await;
    idle.until_closed().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let rig = Rig::start().await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.mandate()
    ))
    .await;
    raw.until("HTTP/1.1 100 ").await;
    raw.write("hello").await;
    raw.until("HTTP/1.1 200 ").await;
    wait_until(SOON, async || rig.upstream.requests().len() == 1).await;
    assert_eq!(only(rig.upstream.requests()).body, "hello");
}

#[tokio::test]
async fn an_upload_that_takes_longer_than_the_upstream_may_think_goes_through() {
    // Long enough for the upstream's answer on any machine, and less than the upload takes.
    let may_think = Duration::from_secs(2);
    let rig = Rig::with(&[("UPSTREAM_TIMEOUT", "2s")]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.mandate()
    ))
    .await;
    let began = tokio::time::Instant::now();
    for byte in 1..=10 {
        // How long the upload takes is what the test is about.
        tokio::time::sleep_until(began + may_think * byte * 12 / 100).await;
        raw.write("x").await;
    }
    assert!(began.elapsed() > may_think);
    raw.until("HTTP/1.1 200 ").await;
    assert_eq!(only(rig.upstream.requests()).body, "xxxxxxxxxx");
}
