//! Which host the upstream is asked for, and what it learns about the way a request came.

use std::sync::Arc;

use bytes::Bytes;
use caracal_testing::{Behaviour, Presigned, Upstream};

use super::plain;
use crate::rig::Rig;
use crate::sts::Grant;

/// A storage service that answers 403 to everything that is not signed.
async fn storage() -> Upstream {
    Upstream::start(Behaviour::Custom(Arc::new(|request| {
        let status = if Presigned::verifies(request) { 200 } else { 403 };
        let mut answer = http::Response::new(Bytes::from_static(b"object"));
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
        answer
    })))
    .await
}

#[tokio::test]
async fn a_presigned_url_verifies_behind_a_stripped_prefix_with_the_public_host() {
    let storage = storage().await;
    let routes = format!(
        r#"[{{"path_prefix":"/s3","strip_prefix":true,"public":true,"upstream":"{}","preserve_host":true}},
            {{"path_prefix":"/renamed","strip_prefix":true,"public":true,"upstream":"{0}"}}]"#,
        storage.url()
    );
    let rig = Rig::with(&[("ROUTE", &routes)]).await;
    let host = "examplebucket.s3.amazonaws.com";
    let odd = "&marker=%2B%20a%2Fb&x-id=GetObject";
    for (method, host, path, parameters) in [
        ("GET", host, "/test.txt", ""),
        ("HEAD", host, "/test.txt", ""),
        (
            "PUT",
            "files.example.com:8443",
            "/bucket/a%20b/c%2B%C3%A9//d.txt",
            "",
        ),
        ("GET", host, "/bucket/~x/%E2%82%AC%3D", odd),
    ] {
        let url = Presigned::new(method, host, path, parameters);
        let request = plain(&format!("/s3{}", url.target), host, None).method(method);
        let answer = rig.send(request.header("range", "bytes=0-3")).await;
        let seen = storage.take_requests().pop().unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {seen:?}");
        assert_eq!(seen.target, url.target, "not a byte is changed");
        assert_eq!(seen.header("x-forwarded-prefix"), Some("/s3"));
        assert_eq!(seen.header("range"), Some("bytes=0-3"));

        let request = plain(&format!("/renamed{}", url.target), host, None).method(method);
        assert_eq!(rig.send(request).await.status, 403, "without the public host");
    }
}

#[tokio::test]
async fn a_route_says_which_host_its_upstream_is_asked_for() {
    let routes = r#"[
        {"path_prefix":"/kept","resource":"resource://crm","preserve_host":true},
        {"path_prefix":"/renamed","resource":"resource://crm","host_rewrite":"inner.example:9000","strip_prefix":true},
        {"path_prefix":"/","resource":"resource://crm","strip_prefix":true,
         "response_header":[{"name":"Strict-Transport-Security","value":"max-age=63072000"}]}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes)]).await;
    let own = rig.upstream.address().to_string();
    for (target, host, prefix, hsts) in [
        ("/kept/x", "Public.test:8081", None, None),
        ("/renamed/x", "inner.example:9000", Some("/renamed"), None),
        ("/x", own.as_str(), None, Some("max-age=63072000")),
    ] {
        let request = plain(target, "Public.test:8081", Some(&rig.sts.mandate()))
            .header("x-forwarded-prefix", "/forged")
            .header("x-real-ip", "203.0.113.9")
            .header("server", "none of yours");
        let answer = rig.send(request).await;
        assert_eq!(answer.status, 200, "{target}: {:?}", answer.body);
        assert_eq!(answer.header("strict-transport-security"), hsts, "{target}");
        let seen = rig.upstream.take_requests().pop().unwrap();
        assert_eq!(seen.header("host"), Some(host), "{target}");
        assert_eq!(seen.header("x-forwarded-prefix"), prefix, "{target}");
        assert_eq!(seen.header("x-forwarded-host"), Some("Public.test:8081"));
        assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(seen.header("server"), None);
    }
}

#[tokio::test]
async fn a_named_resource_takes_no_route() {
    let routes = r#"[{"path_prefix":"/","resource":"resource://other","host_rewrite":"inner","max_body":"1","methods":["PUT"]}]"#;
    let rig = Rig::with(&[("ROUTE", routes)]).await;
    rig.sts
        .grant(Grant::Upstream(crate::rig::mandate_upstream(rig.upstream.url())));
    let answer = rig.send_with(rig.get("/x"), "more than a byte").await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let seen = rig.upstream.take_requests().pop().unwrap();
    assert_eq!(
        seen.header("host"),
        Some(rig.upstream.address().to_string().as_str())
    );
}
