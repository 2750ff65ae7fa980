//! Routes that send the client elsewhere.

use super::plain;
use crate::rig::Rig;

#[tokio::test]
async fn a_redirect_tells_the_new_address_and_asks_for_nothing() {
    let routes = r#"[
        {"path_prefix":"/","resource":"resource://any"},
        {"path_prefix":"/old","redirect":"https://new.test/base","keep_path":true,"keep_query":true,"strip_prefix":true},
        {"path_prefix":"/whole","redirect":"https://new.test","keep_path":true,"redirect_status":307},
        {"path":"/gone","redirect":"/here?a=1","redirect_status":301},
        {"host":"www.test","redirect":"/","keep_path":true,"redirect_status":302}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes)]).await;
    for (method, host, target, status, location) in [
        (
            "GET",
            "a.test",
            "/old/a%2Fb?q=%20",
            308,
            "https://new.test/base/a%2Fb?q=%20",
        ),
        ("POST", "a.test", "/old", 308, "https://new.test/base/"),
        ("HEAD", "a.test", "/whole/x?q", 307, "https://new.test/whole/x"),
        ("GET", "a.test", "/gone?q", 301, "/here?a=1"),
        ("GET", "www.test", "//evil.test/x", 302, "/evil.test/x"),
    ] {
        let answer = rig
            .send_with(plain(target, host, None).method(method), "a body nobody wants")
            .await;
        assert_eq!(
            answer.status, status,
            "{method} {host}{target}: {:?}",
            answer.body
        );
        assert_eq!(answer.header("location"), Some(location));
        assert!(answer.header("x-request-id").is_some() && answer.body.is_empty());
    }
    let climbing = rig.send(plain("/old/%2e%2e/x", "a.test", None)).await;
    assert_eq!(climbing.status, 401, "a path that climbs takes no redirect");
    assert!(rig.upstream.requests().is_empty() && rig.sts.exchanges().is_empty());
}

#[tokio::test]
async fn requests_in_clear_are_sent_to_https_before_anything_else() {
    let routes = r#"[
        {"path_prefix":"/crm","resource":"resource://crm"},
        {"path_prefix":"/","redirect":"https"}
    ]"#;
    let rig = Rig::with(&[("ROUTE", routes), ("TRUST_PROXY", "true")]).await;
    let answer = rig.send(plain("/crm/a%2Fb?q", "A.test:8081", None)).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://a.test/crm/a%2Fb?q"));

    let secure = plain("/crm/x", "a.test", Some(&rig.sts.mandate())).header("x-forwarded-proto", "https");
    let answer = rig.send(secure).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}
