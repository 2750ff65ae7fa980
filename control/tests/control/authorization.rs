//! Who may call what: every route, with every kind of credential.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Clock;
use caracal_control::{Effect, Place, RouteFacts, route_list};
use serde_json::json;

use crate::harness::{BOOTSTRAP, Harness};

/// The path of a route in `zone`, with ids that name nothing.
fn path(route: &RouteFacts, zone: &str) -> String {
    route
        .path
        .replace("{zone}", zone)
        .replace("{id}", "nothing")
        .replace("{version}", "nothing")
        .replace("{request}", "nothing")
}

/// Routes that end the zone come last, so that the others still find it.
fn in_order() -> Vec<RouteFacts> {
    let (last, mut routes): (Vec<_>, Vec<_>) = route_list()
        .into_iter()
        .partition(|route| route.method == http::Method::DELETE && route.path == "/v1/zones/{zone}");
    routes.extend(last);
    routes
}

#[tokio::test]
async fn every_route_answers_every_credential_as_its_facts_say() {
    let api = Harness::start().await;
    let own = api.zone("own").await;
    let other = api.zone("other").await;
    let credentials = [
        ("read", api.token("read", None).await, "read", None),
        ("approve", api.token("approve", None).await, "approve", None),
        (
            "foreign zone",
            api.token("write", Some(&other)).await,
            "write",
            Some(other.clone()),
        ),
        (
            "own zone, read",
            api.token("read", Some(&own)).await,
            "read",
            Some(own.clone()),
        ),
        (
            "own zone",
            api.token("write", Some(&own)).await,
            "write",
            Some(own.clone()),
        ),
        ("global", api.token("write", None).await, "write", None),
        ("bootstrap", BOOTSTRAP.to_owned(), "bootstrap", None),
    ];
    let routes = in_order();
    assert!(routes.len() >= 75, "routes are missing from the list");
    for route in &routes {
        let path = path(route, &own);
        let call = format!("{} {path}", route.method);
        let nobody = api.send(route.method.as_str(), &path, &[], b"{}").await;
        nobody.refused(401, "invalid_admin_token");
        assert_eq!(nobody.headers["www-authenticate"], "Bearer", "{call}");
        api.with_token("cat_wrong", route.method.as_str(), &path, Some(&json!({})))
            .await
            .refused(401, "invalid_admin_token");
        for (name, token, capability, zone) in &credentials {
            let answer = api
                .with_token(token, route.method.as_str(), &path, Some(&json!({})))
                .await;
            let expected = refusal(route, capability, zone.as_deref(), &own);
            match expected {
                Some(code) => {
                    assert_eq!(
                        (answer.status, answer.body["error"].as_str()),
                        (403, Some(code)),
                        "{name}: {call}"
                    );
                }
                None => assert!(
                    !matches!(answer.status, 401 | 403) && answer.status < 500,
                    "{name}: {call}: {} {}",
                    answer.status,
                    answer.body
                ),
            }
        }
    }
}

fn refusal(route: &RouteFacts, capability: &str, zone: Option<&str>, own: &str) -> Option<&'static str> {
    match (capability, route.effect) {
        ("read", Effect::Write | Effect::Decide) => return Some("admin_token_read_only"),
        ("approve", Effect::Write) => return Some("admin_token_approve_only"),
        ("write", Effect::Decide) => return Some("approve_capability_required"),
        _ => {}
    }
    match (zone, route.place) {
        (None, _) | (Some(_), Place::Shared) => None,
        (Some(zone), Place::Zone) if zone == own => None,
        (Some(_), Place::Zone | Place::Platform) => Some("admin_token_zone_mismatch"),
    }
}

#[tokio::test]
async fn a_path_that_is_no_route_is_refused_before_it_is_not_found() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    let read = api.token("read", None).await;
    let zone_token = api.token("write", Some(&zone)).await;
    api.send("GET", "/v1/nothing", &[], b"")
        .await
        .refused(401, "invalid_admin_token");
    api.with_token(&read, "POST", "/v1/nothing", None)
        .await
        .refused(403, "admin_token_read_only");
    api.with_token(&zone_token, "GET", "/v1/nothing", None)
        .await
        .refused(403, "admin_token_zone_mismatch");
    api.get("/v1/nothing").await.refused(404, "not_found");
    api.with_token(BOOTSTRAP, "PUT", "/v1/zones", None)
        .await
        .refused(404, "not_found");
    api.send("GET", "/nothing", &[], b"")
        .await
        .refused(404, "not_found");
}

fn percent_encode(text: &str) -> String {
    percent_encoding::percent_encode(text.as_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn an_encoded_zone_id_is_the_same_zone() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    let token = api.token("read", Some(&zone)).await;
    let encoded = percent_encode(&zone);
    api.with_token(&token, "GET", &format!("/v1/zones/{encoded}"), None)
        .await
        .expect(200);
    let other = api.zone("other").await;
    let encoded = percent_encode(&other);
    let answer = api
        .with_token(&token, "GET", &format!("/v1/zones/{encoded}"), None)
        .await;
    answer.refused(403, "admin_token_zone_mismatch");
    api.with_token(&token, "GET", "/v1/zones/%ff", None)
        .await
        .refused(403, "admin_token_zone_mismatch");
}

#[tokio::test]
async fn a_reserved_zone_is_changed_by_the_bootstrap_token_only() {
    let api = Harness::start().await;
    let write = api.token("write", None).await;
    for body in [
        json!({ "name": "caracal.sys/x" }),
        json!({ "name": "x", "slug": "caracal-sys-x" }),
    ] {
        api.with_token(&write, "POST", "/v1/zones", Some(&body))
            .await
            .refused(409, "reserved_namespace");
    }
    let zone = api.zone("Caracal.sys/system").await;
    let path = format!("/v1/zones/{zone}");
    let rename = json!({ "operator_governed": true });
    api.with_token(&write, "PATCH", &path, Some(&rename))
        .await
        .refused(403, "system_zone_read_only");
    api.with_token(&write, "GET", &path, None).await.expect(200);
    api.patch(&path, &rename).await.expect(200);
    let listed = api.with_token(&write, "GET", "/v1/zones", None).await.expect(200);
    assert_eq!(listed["items"], json!([]), "reserved zones are not listed");
}

#[tokio::test]
async fn reserved_names_are_refused_to_all_other_tokens() {
    let api = Harness::start().await;
    let zone = api.zone("own").await;
    let write = api.token("write", None).await;
    let provider = api.provider(&zone, "p").await;
    let attempts = [
        (
            "applications",
            json!({ "name": "caracal.sys/a", "registration_method": "managed" }),
        ),
        (
            "providers",
            json!({ "identifier": "provider://caracal-sys-a", "kind": "none" }),
        ),
        (
            "resources",
            json!({ "identifier": "caracal-sys://a", "scopes": ["s"], "credential_provider_id": provider,
                "upstream_url": "http://a.example" }),
        ),
        ("policies", json!({ "name": " Caracal.Sys/a", "content": "x" })),
    ];
    for (collection, body) in attempts {
        let path = format!("/v1/zones/{zone}/{collection}");
        api.with_token(&write, "POST", &path, Some(&body))
            .await
            .refused(409, "reserved_namespace");
    }
}

fn derived(label: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, BOOTSTRAP.as_bytes());
    format!(
        "cat_{}",
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, label.as_bytes()))
    )
}

fn assertion(account: &str, expires_in: i64) -> String {
    let expiry = Clock::system().unix_seconds() + expires_in;
    let key = hmac::Key::new(hmac::HMAC_SHA256, BOOTSTRAP.as_bytes());
    let tag = hmac::sign(&key, format!("caracal:account:v1:{account}:{expiry}").as_bytes());
    format!(
        "v1.{}.{expiry}.{}",
        URL_SAFE_NO_PAD.encode(account),
        URL_SAFE_NO_PAD.encode(tag)
    )
}

#[tokio::test]
async fn a_console_token_speaks_for_the_account_it_proves_and_reaches_only_its_zones() {
    let api = Harness::start().await;
    let token = format!("Bearer {}", derived("caracal:console:write:v1"));
    let as_account = async |account: &str, method: &str, path: &str, body: &[u8]| {
        let assertion = assertion(account, 60);
        let headers = [
            ("authorization", token.as_str()),
            ("x-caracal-account", assertion.as_str()),
        ];
        api.send(method, path, &headers, body).await
    };
    let without = api
        .send("GET", "/v1/zones", &[("authorization", &token)], b"")
        .await;
    without.refused(401, "invalid_account_assertion");
    let late = assertion("alice", -1);
    let headers = [
        ("authorization", token.as_str()),
        ("x-caracal-account", late.as_str()),
    ];
    api.send("GET", "/v1/zones", &headers, b"")
        .await
        .refused(401, "invalid_account_assertion");

    let made = as_account("alice", "POST", "/v1/zones", br#"{"name":"hers"}"#)
        .await
        .expect(201);
    assert_eq!(made["created_by"], "alice");
    let own = format!("/v1/zones/{}", made["id"].as_str().unwrap());
    as_account("alice", "GET", &own, b"").await.expect(200);
    as_account("bob", "GET", &own, b"")
        .await
        .refused(403, "zone_forbidden");
    as_account("bob", "GET", "/v1/zones/nothing", b"")
        .await
        .refused(403, "zone_forbidden");
    let nobodys = api.zone("nobody's").await;
    as_account("bob", "GET", &format!("/v1/zones/{nobodys}"), b"")
        .await
        .refused(403, "zone_forbidden");
    let listed = as_account("alice", "GET", "/v1/zones", b"").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "only her own zones");
    as_account("alice", "GET", "/v1/policy-templates", b"")
        .await
        .expect(200);
    as_account("alice", "GET", "/v1/nothing", b"")
        .await
        .refused(403, "account_scope_required");
    let reserved = api.zone("caracal.sys/system").await;
    as_account("alice", "GET", &format!("/v1/zones/{reserved}"), b"")
        .await
        .expect(200);
}

#[tokio::test]
async fn a_derived_token_of_another_capability_stays_within_it() {
    let api = Harness::start().await;
    let assertion = assertion("alice", 60);
    let table = [
        ("caracal:console:read-only:v1", "admin_token_read_only"),
        ("caracal:console:approve:v1", "admin_token_approve_only"),
    ];
    for (label, code) in table {
        let token = format!("Bearer {}", derived(label));
        let headers = [
            ("authorization", token.as_str()),
            ("x-caracal-account", assertion.as_str()),
        ];
        api.send("POST", "/v1/zones", &headers, b"{}")
            .await
            .refused(403, code);
        api.send("GET", "/v1/zones", &headers, b"").await.expect(200);
    }
}

#[tokio::test]
async fn without_the_bootstrap_token_no_assertion_is_believed() {
    // The rows of an earlier start still exist, but there is no key to check an assertion with.
    let api = Harness::start().await;
    let (database, pool) = api.stop().await;
    let api = Harness::on(database, pool, &[("CARACAL_ADMIN_TOKEN", "")]).await;
    let token = format!("Bearer {}", derived("caracal:console:write:v1"));
    let assertion = assertion("alice", 60);
    let headers = [
        ("authorization", token.as_str()),
        ("x-caracal-account", assertion.as_str()),
    ];
    api.send("GET", "/v1/zones", &headers, b"")
        .await
        .refused(401, "invalid_account_assertion");
}

#[tokio::test]
async fn limits_answer_429_and_say_when_to_come_back() {
    let api = Harness::start_with(&[("API_V1_RATE_LIMIT_PER_MIN", "3")]).await;
    // However long the machine takes, the allowance refills more slowly than it is asked for.
    let mut granted = 0;
    let mut answer = api.get("/v1/zones").await;
    while answer.status == 200 {
        granted += 1;
        answer = api.get("/v1/zones").await;
    }
    assert!(granted >= 3, "{granted}");
    answer.refused(429, "rate_limited");
    assert!(answer.headers.contains_key("retry-after"));
    api.send("GET", "/health", &[], b"").await.expect(200);
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let api = Harness::start_with(&[("ADMIN_AUTH_FAIL_LIMIT_PER_MIN", "2")]).await;
    let guess = async || api.with_token("cat_guess", "GET", "/v1/zones", None).await;
    let mut guesses = 0;
    let mut answer = guess().await;
    while answer.status == 401 {
        answer.refused(401, "invalid_admin_token");
        guesses += 1;
        answer = guess().await;
    }
    assert!(guesses >= 2, "{guesses}");
    answer.refused(429, "rate_limited");
    api.get("/v1/zones").await.expect(200);
}
