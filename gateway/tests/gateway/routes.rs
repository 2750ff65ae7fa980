//! A plain HTTP client needs no header of ours: host and path say which resource is meant.

use caracal_testing::{Behaviour, Upstream};

use crate::rig::{RESOURCE, Rig};
use crate::sts::one_shot;

fn plain(target: &str, host: &str, mandate: Option<&str>) -> http::request::Builder {
    let request = http::Request::get(target).header("host", host);
    match mandate {
        Some(mandate) => request.header("authorization", format!("Bearer {mandate}")),
        None => request,
    }
}

#[tokio::test]
async fn host_and_path_name_the_resource() {
    let routes = r#"[
        {"path_prefix":"/crm","strip_prefix":true,"resource":"resource://crm"},
        {"path":"/crm/exact","resource":"resource://exact"},
        {"host":"files.test","resource":"resource://files"},
        {"host":"bound.test","resource":"resource://bound","zone":"zone-2"}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes), ("CARACAL_GATEWAY_ROUTES", "/hr=resource://hr")]).await;
    for (host, target, resource, path, forwarded) in [
        ("a.test", "/crm/v1/x?q=1", "resource://crm", "/v1/x", "/v1/x?q=1"),
        ("a.test", "/crm", "resource://crm", "/", "/"),
        (
            "a.test",
            "/crm/exact",
            "resource://exact",
            "/crm/exact",
            "/crm/exact",
        ),
        ("a.test", "/hr/x", "resource://hr", "/hr/x", "/hr/x"),
        (
            "FILES.test:8081",
            "/crm/x",
            "resource://files",
            "/crm/x",
            "/crm/x",
        ),
    ] {
        let mandate = rig.sts.mandate();
        let answer = rig.send(plain(target, host, Some(&mandate))).await;
        assert_eq!(answer.status, 200, "{host}{target}: {:?}", answer.body);
        let exchange = rig.sts.exchanges().pop().unwrap();
        assert_eq!(
            (
                exchange.form["resource"].as_str(),
                exchange.form["request_path"].as_str()
            ),
            (resource, path)
        );
        assert_eq!(rig.upstream.take_requests()[0].target, forwarded);
    }
    let mandate = rig.sts.mandate();
    let header = plain("/crm/v1", "a.test", Some(&mandate)).header("x-caracal-resource", RESOURCE);
    assert_eq!(rig.send(header).await.status, 200);
    assert_eq!(
        rig.upstream.take_requests()[0].target,
        "/crm/v1",
        "the header wins, and strips nothing"
    );

    let unknown = rig
        .send(plain("/unknown", "a.test", Some(&rig.sts.mandate())))
        .await;
    assert_eq!(unknown.refusal().2, "missing routing headers");
    let foreign = rig
        .send(plain("/x", "bound.test", Some(&rig.sts.mandate())))
        .await;
    assert_eq!(
        foreign.refusal(),
        (401, "invalid_token".into(), "invalid subject_token".into())
    );
}

#[tokio::test]
async fn a_public_route_asks_for_no_mandate_and_gets_none() {
    let site = Upstream::start(Behaviour::Echo).await;
    let routes = format!(
        r#"[{{"path_prefix":"/public","public":true,"upstream":"{}/site","strip_prefix":true}}]"#,
        site.url()
    );
    let rig = Rig::with(&[("ROUTE", &routes)]).await;
    let answer = rig
        .send(
            plain("/public/a%2Fb?q", "a.test", None)
                .header("cookie", "a=1")
                .header("x_forwarded_for", "1.2.3.4")
                .header("x_caracal_identity", "forged"),
        )
        .await;
    assert_eq!(answer.status, 200);
    let request = site.take_requests().pop().unwrap();
    assert_eq!(request.target, "/site/a%2Fb?q");
    assert_eq!(request.header("cookie"), Some("a=1"));
    for name in ["x_forwarded_for", "x_caracal_identity"] {
        assert_eq!(request.header(name), None, "{name} must not pass");
    }
    assert!(rig.sts.exchanges().is_empty());

    let mandate = rig.sts.sign(one_shot());
    rig.send(plain("/public/x", "a.test", Some(&mandate))).await;
    let request = site.take_requests().pop().unwrap();
    assert!(
        !format!("{:?}", request.headers).contains(&mandate),
        "a mandate does not pass a public route either"
    );

    let traversal = rig.send(plain("/public/%2e%2e/admin", "a.test", None)).await;
    assert_eq!(traversal.status, 401, "a path that climbs is not public");
    assert!(site.requests().is_empty());
    let governed = plain("/public/x", "a.test", None).header("x-caracal-resource", RESOURCE);
    assert_eq!(
        rig.send(governed).await.status,
        401,
        "naming a resource asks for a mandate"
    );
}
