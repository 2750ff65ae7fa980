//! A plain HTTP client needs no header of ours: host and path say which resource is meant.

mod hosts;
mod limits;
mod redirects;

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

    for target in ["//crm/exact", "/crm/%65xact", "/crm;x/exact", "/%63rm/exact"] {
        let answer = rig.send(plain(target, "a.test", Some(&rig.sts.mandate()))).await;
        assert_eq!(
            answer.refusal().2,
            "path traversal not permitted",
            "{target} is another route's to a server that reads it differently"
        );
    }
    assert!(rig.upstream.take_requests().is_empty());

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
        r#"[{{"path_prefix":"/public","public":true,"upstream":"{}/site","strip_prefix":true}},
            {{"path_prefix":"/oauth","public":true,"upstream":"{0}","forward_authorization":true}}]"#,
        site.url()
    );
    let rig = Rig::with(&[("ROUTE", &routes)]).await;
    let answer = rig
        .send(
            plain("/public/a%2Fb?q", "a.test", None)
                .header("cookie", "a=1")
                .header("authorization", "Basic YTpi")
                .header("x_forwarded_for", "1.2.3.4")
                .header("x_caracal_identity", "forged"),
        )
        .await;
    assert_eq!(answer.status, 200);
    let request = site.take_requests().pop().unwrap();
    assert_eq!(request.header("authorization"), None);
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

    for (value, passes) in [
        ("Basic YTpi".to_owned(), true),
        ("Bearer of-the-application".to_owned(), true),
        (format!("Bearer {mandate}"), false),
        (format!("DPoP  {mandate}"), false),
    ] {
        let request = plain("/oauth/token", "a.test", None).header("authorization", value.as_str());
        assert_eq!(rig.send(request).await.status, 200);
        let request = site.take_requests().pop().unwrap();
        assert_eq!(
            request.header("authorization"),
            passes.then_some(value.as_str()),
            "the application's own passes where the route says so, and a mandate does not"
        );
    }

    let others = rig.sts.sign(one_shot()).replace("eyJ", "eyJh");
    for (name, value, passes) in [
        ("x-api-key", mandate.clone(), false),
        ("cookie", format!("a=1; session={mandate}; b=2"), false),
        ("x-token", format!("\"{mandate}\", x"), false),
        ("cookie", format!("a=1; session={others}; b=2"), true),
        ("x-api-key", "eyJ.no.token".to_owned(), true),
    ] {
        let request = plain("/public/x", "a.test", None).header(name, value.as_str());
        assert_eq!(rig.send(request).await.status, 200);
        let request = site.take_requests().pop().unwrap();
        assert_eq!(request.header(name), passes.then_some(value.as_str()), "{name}");
    }

    let traversal = rig.send(plain("/public/%2e%2e/admin", "a.test", None)).await;
    assert_eq!(traversal.status, 401, "a path that climbs is not public");
    assert!(site.requests().is_empty());
    let disguised = rig.send(plain("/public%2Fadmin", "a.test", None)).await;
    assert_eq!(
        disguised.status, 401,
        "neither is one that is public by one reading only"
    );
    assert!(site.requests().is_empty());
    let governed = plain("/public/x", "a.test", None).header("x-caracal-resource", RESOURCE);
    assert_eq!(
        rig.send(governed).await.status,
        401,
        "naming a resource asks for a mandate"
    );
}

#[tokio::test]
async fn the_routes_of_a_path_say_which_methods_it_has() {
    let routes = r#"[
        {"path_prefix":"/","resource":"resource://any"},
        {"path_prefix":"/crm","methods":["GET","HEAD"],"resource":"resource://read"},
        {"path_prefix":"/crm","methods":["POST"],"resource":"resource://write"},
        {"host":"*.tenants.test","path_prefix":"/crm","resource":"resource://tenant"}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes)]).await;
    let ask = async |method: &str, host: &str, target: &str| {
        let request = plain(target, host, Some(&rig.sts.mandate())).method(method);
        rig.send(request).await
    };
    for (method, host, target, resource) in [
        ("GET", "a.test", "/crm/x", "resource://read"),
        ("POST", "a.test", "/crm/x", "resource://write"),
        ("DELETE", "a.test", "/other", "resource://any"),
        ("DELETE", "one.tenants.test", "/crm/x", "resource://tenant"),
        ("GET", "a.one.tenants.test", "/crm/x", "resource://read"),
    ] {
        let answer = ask(method, host, target).await;
        assert_eq!(answer.status, 200, "{method} {host}{target}: {:?}", answer.body);
        assert_eq!(rig.sts.exchanges().pop().unwrap().form["resource"], resource);
    }
    let refused = ask("DELETE", "a.test", "/crm/x").await;
    assert_eq!(
        refused.refusal(),
        (405, "operation_not_permitted".into(), "method not allowed".into()),
    );
    assert_eq!(refused.header("allow"), Some("GET, HEAD, POST"));
    let request_id = refused.header("x-request-id").unwrap();
    rig.event(request_id, "gateway_request_denied", "method_not_allowed")
        .await;
}
