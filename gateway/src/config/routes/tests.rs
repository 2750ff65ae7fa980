//! Routes that are read, and routes that are refused.

use std::time::Duration;

use url::Url;

use super::*;
use crate::config::tests::read;
use crate::rate::Rate;
use crate::snapshot::routes::{Asked, Found, Redirect, RedirectTo, Routes};
use crate::upstream::CheckRule;

#[test]
fn routes_are_read_from_tables_and_from_the_short_form() {
    let tables = r#"[{"host":"Files.Example","resource":"resource://files","zone":"z1"},
        {"path":"/login","public":true,"upstream":"http://login:80"}]"#;
    let rules = read(&[
        ("ROUTE", tables),
        ("CARACAL_GATEWAY_ROUTES", "/crm=resource://crm,/hr=resource://hr"),
    ])
    .unwrap()
    .routes;
    let routes = Routes::new(rules, None);
    let found = |host: &str, path: &str| {
        let asked = Asked {
            host: Some(host),
            path,
            method: &Method::GET,
            is_https: false,
        };
        match routes.find(asked) {
            Found::Line(line) => Some(line.rule().destination.clone()),
            _ => None,
        }
    };
    let crm = Destination::Resource {
        resource: "resource://crm".into(),
        zone: None,
    };
    assert_eq!(found("a", "/crm/x"), Some(crm));
    assert!(matches!(
        found("files.example", "/x"),
        Some(Destination::Resource { zone: Some(_), .. })
    ));
    assert!(matches!(found("a", "/login"), Some(Destination::Public { .. })));
    assert_eq!(found("a", "/other"), None);
}

#[test]
fn everything_a_route_may_say_is_read() {
    let table = r#"[{"host":"*.Example.com","path_prefix":"/s3","methods":["GET","PUT"],"strip_prefix":true,"public":true,
        "upstream":"http://minio:9000","preserve_host":true,"max_body":"5GiB","timeout":"2m","idle_timeout":"10m",
        "rate":"100/s","rate_burst":500,"source_rate":"30/m","concurrency":64,"source_concurrency":16,
        "response_header":[{"name":"Strict-Transport-Security","value":"max-age=1, x"}]}]"#;
    let rule = read(&[("ROUTE", table)]).unwrap().routes.remove(0);
    assert_eq!(rule.host, Some(HostRule::LabelBefore("example.com".into())));
    assert_eq!(rule.methods, [Method::GET, Method::PUT]);
    assert_eq!(rule.stripped(), Some("/s3"));
    assert_eq!(rule.host_sent, HostSent::Preserved);
    let limits = Limits {
        body_bytes_max: Some(5 << 30),
        timeout: Some(Duration::from_mins(2)),
        idle_timeout: Some(Duration::from_mins(10)),
        rate: Some(Rate {
            burst: 500.0,
            per_s: 100.0,
        }),
        source_rate: Some(Rate {
            burst: 1.0,
            per_s: 0.5,
        }),
        concurrency: Some(64),
        source_concurrency: Some(16),
    };
    assert_eq!(rule.limits, limits);
    assert_eq!(rule.response_headers[0].0, "strict-transport-security");
    assert_eq!(rule.response_headers[0].1, "max-age=1, x");
}

#[test]
fn upstreams_of_a_public_route_and_their_check_are_read() {
    let pool = |text: &str| {
        let table = format!(r#"[{{"path":"/","public":true,{text}}}]"#);
        match read(&[("ROUTE", &table)]).unwrap().routes.remove(0).destination {
            Destination::Public { pool, .. } => pool,
            other => panic!("{other:?}"),
        }
    };
    let both = pool(
        r#""upstreams":["http://a:80/x","http://b:81/x"],"health_path":"/live?deep=1","health_interval":"1s",
        "health_timeout":"500ms","unhealthy_after":5,"healthy_after":1"#,
    );
    let urls: Vec<&str> = both.urls().map(Url::as_str).collect();
    assert_eq!(urls, ["http://a/x", "http://b:81/x"]);
    let check = CheckRule {
        path: "/live?deep=1".to_owned(),
        every: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        ill_after: 5,
        well_after: 1,
    };
    assert_eq!(both.check(), Some(&check));
    let usual = pool(r#""upstream":"http://a","health_path":"/live""#);
    let check = usual.check().unwrap();
    assert_eq!(
        (check.every, check.timeout),
        (Duration::from_secs(10), Duration::from_secs(2))
    );
    assert_eq!((check.ill_after, check.well_after), (3, 2));
}

#[test]
fn redirects_are_read() {
    let redirect = |text: &str| {
        let table = format!(r#"[{{"path_prefix":"/old",{text}}}]"#);
        match read(&[("ROUTE", &table)]).unwrap().routes.remove(0).destination {
            Destination::Redirect(redirect) => redirect,
            other => panic!("{other:?}"),
        }
    };
    let https = Redirect {
        status: 308,
        to: RedirectTo::Https,
    };
    assert_eq!(redirect(r#""redirect":"https""#), https);
    let elsewhere = Redirect {
        status: 302,
        to: RedirectTo::Address {
            base: "https://new.example".into(),
            keep_path: true,
            keep_query: false,
        },
    };
    let text = r#""redirect":"https://new.example/","redirect_status":302,"keep_path":true"#;
    assert_eq!(redirect(text), elsewhere);
}

#[test]
fn a_route_that_makes_no_sense_is_refused() {
    for table in [
        r#"[{"resource":"resource://x"}]"#,
        r#"[{"path":"/x"}]"#,
        r#"[{"path":"x","resource":"r"}]"#,
        r#"[{"path_prefix":"/x*","resource":"r"}]"#,
        r#"[{"path":"/x","path_prefix":"/y","resource":"r"}]"#,
        r#"[{"path":"/x","public":true,"resource":"r"}]"#,
        r#"[{"path":"/x","resource":"r","upstream":"http://x"}]"#,
        r#"[{"path":"/x","resource":"r","redirect":"/y"}]"#,
        r#"[{"path":"/x","public":true}]"#,
        r#"[{"path":"/x","resource":"r","upstreams":["http://x"]}]"#,
        r#"[{"path":"/x","resource":"r","health_path":"/live"}]"#,
        r#"[{"path":"/x","public":true,"upstream":"http://x","upstreams":["http://y"]}]"#,
        r#"[{"path":"/x","public":true,"upstreams":["http://x","http://x/"]}]"#,
        r#"[{"path":"/x","public":true,"upstreams":["http://x","https://y"]}]"#,
        r#"[{"path":"/x","public":true,"upstreams":["http://x/a","http://y/b"]}]"#,
        r#"[{"path":"/x","public":true,"upstream":"http://x","health_path":"live"}]"#,
        r#"[{"path":"/x","public":true,"upstream":"http://x","health_path":"/a b"}]"#,
        r#"[{"path":"/x","public":true,"upstream":"http://x","health_path":"/a","health_interval":"1ms"}]"#,
        r#"[{"path":"/x","public":true,"upstream":"http://x","health_path":"/a","healthy_after":0}]"#,
        r#"[{"path":"/x","resource":"r","unknown":1}]"#,
        r#"[{"host":"a:80","resource":"r"}]"#,
        r#"[{"host":"*.*.a","resource":"r"}]"#,
        r#"[{"path":"/x","resource":"r","methods":["get"]}]"#,
        r#"[{"path":"/x","resource":"r","preserve_host":true,"host_rewrite":"a"}]"#,
        r#"[{"path":"/x","resource":"r","host_rewrite":"a/b"}]"#,
        r#"[{"path":"/x","resource":"r","forward_authorization":true}]"#,
        r#"[{"path":"/x","resource":"r","rate":"10"}]"#,
        r#"[{"path":"/x","resource":"r","rate":"0/s"}]"#,
        r#"[{"path":"/x","resource":"r","rate_burst":3}]"#,
        r#"[{"path":"/x","resource":"r","concurrency":0}]"#,
        r#"[{"path":"/x","resource":"r","timeout":"10"}]"#,
        r#"[{"path":"/x","redirect":"//evil.example"}]"#,
        r#"[{"path":"/x","redirect":"javascript:alert(1)"}]"#,
        r#"[{"path":"/x","redirect":"/y","redirect_status":303}]"#,
        r#"[{"path":"/x","redirect":"/y?a","keep_query":true}]"#,
        r#"[{"path":"/x","redirect":"/y","timeout":"1s"}]"#,
        r#"[{"path":"/x","resource":"r","response_header":[{"name":"Content-Length","value":"1"}]}]"#,
        r#"[{"path":"/x","resource":"r"},{"path":"/x","resource":"s"}]"#,
        r#"[{"path":"/x","resource":"r","methods":["GET"]},{"path":"/x","resource":"s","methods":["PUT","GET"]}]"#,
    ] {
        assert!(read(&[("ROUTE", table)]).is_err(), "{table}");
    }
    let apart = r#"[{"path":"/x","resource":"r","methods":["GET"]},{"path":"/x","resource":"s","methods":["PUT"]},
        {"path":"/x","resource":"t"},{"path":"/x","host":"a","resource":"u"},{"path_prefix":"/x","redirect":"https"}]"#;
    read(&[("ROUTE", apart)]).unwrap();
}
