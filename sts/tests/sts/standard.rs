//! The standard OAuth surface of a zone: metadata (RFC 8414), introspection (RFC 7662), revocation (RFC 7009).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use caracal_bus::EntryId;
use caracal_testing::{FaultProxy, Role, TestDatabase, wait_until};
use caracal_wire::{form, stream};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::seed;
use crate::stack::{ACCESS_TOKEN, Answer, GRANT, ISSUER, SOON, Stack, header_map, spend};

const TOKEN: &str = "/zones/z1/oauth2/token";
const INTROSPECT: &str = "/zones/z1/oauth2/introspect";
const REVOKE: &str = "/zones/z1/oauth2/revoke";
/// Fields of a form.
type Fields<'f> = &'f [(&'f str, &'f str)];

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub(crate) fn basic(id: &str, secret: &str) -> String {
    let pair = form::encode(&[("", id)]).trim_start_matches('=').to_owned();
    let secret = form::encode(&[("", secret)]).trim_start_matches('=').to_owned();
    format!("Basic {}", STANDARD.encode(format!("{pair}:{secret}")))
}

async fn post(stack: &Stack, path: &str, authorization: Option<&str>, fields: &[(&str, &str)]) -> Answer {
    let mut headers = header_map(&[FORM]);
    headers.extend(header_map(
        &authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect::<Vec<_>>(),
    ));
    stack
        .send(Method::POST, path, headers, &form::encode(fields))
        .await
}

/// As `app-1`.
async fn own(stack: &Stack, path: &str, fields: &[(&str, &str)]) -> Answer {
    post(stack, path, Some(&basic("app-1", seed::SECRET)), fields).await
}

async fn introspect(stack: &Stack, token: &str) -> Value {
    let answer = own(stack, INTROSPECT, &[("token", token)]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.body
}

async fn reusable(stack: &Stack) -> String {
    stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token()
}

fn header_of(token: &str) -> Value {
    let header = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}

#[tokio::test]
async fn rfc8414_the_metadata_alone_leads_to_a_token() {
    let stack = Stack::start().await;
    let metadata = stack
        .get("/.well-known/oauth-authorization-server/zones/z1")
        .await;
    assert_eq!(metadata.status, StatusCode::OK, "{}", metadata.body);
    let issuer = format!("{ISSUER}/zones/z1");
    assert_eq!(
        metadata.body["issuer"],
        issuer.as_str(),
        "section 3.3: the issuer is what the address was made of"
    );
    let path = |member: &str| {
        let url = metadata.body[member].as_str().unwrap();
        url.strip_prefix(ISSUER).unwrap().to_owned()
    };
    let token = own(
        &stack,
        &path("token_endpoint"),
        &[GRANT, ("resource", "resource://crm"), ("scope", "crm:read")],
    )
    .await
    .token();
    let active = own(&stack, &path("introspection_endpoint"), &[("token", &token)]).await;
    assert_eq!(active.body["active"], true);
    let revoked = own(&stack, &path("revocation_endpoint"), &[("token", &token)]).await;
    assert_eq!(revoked.status, StatusCode::OK);
    let keys = stack.get(&path("jwks_uri")).await;
    assert_eq!(keys.body["keys"][0]["kid"], header_of(&token)["kid"]);
    for path in [
        "/.well-known/oauth-authorization-server/zones/z-unknown",
        "/.well-known/oauth-authorization-server/z1",
        "/.well-known/oauth-authorization-server/zones/no%20id",
    ] {
        assert_eq!(stack.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_client_authenticates_in_exactly_one_way() {
    let stack = Stack::start().await;
    let right = basic("app-1", seed::SECRET);
    let wrong = basic("app-1", "wrong");
    let in_form = [("client_id", "app-1"), ("client_secret", seed::SECRET)];
    let rows: [(&str, Option<&str>, Fields<'_>, u16, &str); 10] = [
        ("Basic", Some(&right), &[], 200, ""),
        ("the form", None, &in_form, 200, ""),
        ("nothing", None, &[], 401, "invalid_client"),
        ("a wrong secret", Some(&wrong), &[], 401, "invalid_client"),
        ("both", Some(&right), &in_form, 400, "invalid_request"),
        (
            "another client_id",
            Some(&right),
            &[("client_id", "app-2")],
            400,
            "invalid_request",
        ),
        ("another scheme", Some("Bearer x"), &[], 400, "invalid_request"),
        ("no scheme", Some("x"), &[], 400, "invalid_request"),
        ("not base64", Some("Basic ==="), &[], 400, "invalid_request"),
        (
            "two names",
            None,
            &[("client_id", "app-1"), ("application_id", "app-2")],
            400,
            "invalid_request",
        ),
    ];
    for (what, authorization, fields, status, code) in rows {
        for path in [INTROSPECT, REVOKE] {
            let fields: Vec<(&str, &str)> = fields.iter().copied().chain([("token", "x")]).collect();
            let answer = post(&stack, path, authorization, &fields).await;
            assert_eq!(
                answer.status.as_u16(),
                status,
                "{what} at {path}: {}",
                answer.body
            );
            if status != 200 {
                assert_eq!(answer.body["error"], code, "{what} at {path}");
                assert_eq!(answer.headers["cache-control"], "no-store");
            }
            assert_eq!(
                answer.headers.contains_key("www-authenticate"),
                status == 401,
                "{what}"
            );
        }
        let request = [GRANT, ("resource", "resource://crm"), ("scope", "crm:read")];
        let fields: Vec<(&str, &str)> = fields.iter().copied().chain(request).collect();
        let answer = post(&stack, TOKEN, authorization, &fields).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
    }
}

#[tokio::test]
async fn refusals_of_the_token_endpoint_carry_the_codes_of_rfc_6749_and_rfc_8693() {
    let stack = Stack::start().await;
    let crm = ("resource", "resource://crm");
    let rows: [(Fields<'_>, u16, &str); 7] = [
        (
            &[("grant_type", "client_credentials"), crm],
            400,
            "unsupported_grant_type",
        ),
        (&[GRANT], 400, "invalid_target"),
        (
            &[GRANT, ("resource", "resource://unknown")],
            400,
            "invalid_target",
        ),
        (&[GRANT, ("resource", "")], 400, "invalid_target"),
        (
            &[GRANT, crm, ("requested_token_type", "x")],
            400,
            "invalid_request",
        ),
        (
            &[
                GRANT,
                crm,
                ("subject_token", "x"),
                ("subject_token_type", ACCESS_TOKEN),
            ],
            400,
            "invalid_request",
        ),
        (
            &[GRANT, crm, ("agent_session_id", "s-unknown")],
            400,
            "invalid_grant",
        ),
    ];
    for (fields, status, code) in rows {
        let answer = own(&stack, TOKEN, fields).await;
        assert_eq!(answer.refusal().0, status, "{fields:?}: {}", answer.body);
        assert_eq!(answer.refusal().1, code, "{fields:?}: {}", answer.body);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["pragma"], "no-cache");
    }
}

#[tokio::test]
async fn rfc9068_a_token_by_the_profile_says_so_and_others_do_not() {
    let stack = Stack::start().await;
    let fields = [("resource", "resource://crm"), ("scope", "crm:read")];
    let usual = stack.mint(&fields).await;
    assert_eq!(
        header_of(&usual.token())["typ"],
        "JWT",
        "published verifiers expect it"
    );
    assert_eq!(usual.body["issued_token_type"], ACCESS_TOKEN);
    let jwt = "urn:ietf:params:oauth:token-type:jwt";
    let profile = stack
        .mint(&[fields[0], fields[1], ("requested_token_type", jwt)])
        .await;
    assert_eq!(header_of(&profile.token())["typ"], "at+jwt");
    assert_eq!(profile.body["issued_token_type"], jwt);
    let passed = stack.at_gateway(&profile.token(), "resource://crm", &[]).await;
    assert_eq!(passed.status, StatusCode::OK, "{}", passed.body);
}

#[tokio::test]
async fn rfc8693_a_delegated_token_names_who_acts() {
    let stack = Stack::start().await;
    let delegated = stack.one_shot("resource://crm", "crm:read").await;
    let document = introspect(&stack, &delegated).await;
    let hops = document["delegation_chain"].as_array().unwrap();
    let last = hops.last().unwrap();
    assert_eq!(
        document["act"]["sub"], last["application_id"],
        "the present actor is outermost"
    );
    assert_eq!(document["act"]["act"]["sub"], hops[0]["application_id"]);
    let own = introspect(&stack, &reusable(&stack).await).await;
    assert_eq!(own["act"], Value::Null, "who acts for itself has no actor");
}

#[tokio::test]
async fn rfc7662_a_token_that_holds_is_described_and_any_doubt_is_inactive() {
    let stack = Stack::start().await;
    let token = reusable(&stack).await;
    let document = introspect(&stack, &token).await;
    for (member, value) in [
        ("active", json!(true)),
        ("token_type", json!("Bearer")),
        ("scope", json!("crm:read")),
        ("client_id", json!("app-1")),
        ("sub", json!("app-1")),
        ("iss", json!(ISSUER)),
        ("zone_id", json!("z1")),
        ("use", json!("session")),
        ("target", json!(["resource://crm"])),
    ] {
        assert_eq!(document[member], value, "{member}");
    }
    assert!(document["exp"].as_i64().unwrap() > document["iat"].as_i64().unwrap());
    let inactive = json!({"active": false});
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let long = "x".repeat(20_000);
    for (what, token) in [("garbage", "x"), ("forged", &forged), ("too long", &long)] {
        assert_eq!(introspect(&stack, token).await, inactive, "{what}");
    }
    let elsewhere = basic("app-z2", seed::SECRET);
    let answer = post(
        &stack,
        "/zones/z2/oauth2/introspect",
        Some(&elsewhere),
        &[("token", &token)],
    )
    .await;
    assert_eq!(answer.body, inactive, "another zone is told nothing");
    let answer = post(&stack, INTROSPECT, Some(&elsewhere), &[("token", &token)]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(own(&stack, INTROSPECT, &[]).await.refusal().1, "invalid_request");
}

#[tokio::test]
async fn a_token_of_a_suspended_session_or_a_removed_application_is_inactive() {
    let stack = Stack::start().await;
    let delegated = stack.one_shot("resource://crm", "crm:read").await;
    assert_eq!(introspect(&stack, &delegated).await["active"], true);
    stack
        .sql("UPDATE sessions SET status = 'suspended' WHERE id = 's-target'")
        .await;
    let fields = [
        ("event", "suspend"),
        ("zone_id", "z1"),
        ("agent_session_id", "s-target"),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    stack.announce(stream::AGENTS_LIFECYCLE, fields.into()).await;
    wait_until(SOON, async || {
        introspect(&stack, &delegated).await["active"] == false
    })
    .await;
    let token = reusable(&stack).await;
    let other = basic("app-2", seed::SECRET);
    stack
        .sql("UPDATE applications SET archived_at = now() WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || {
        post(&stack, INTROSPECT, Some(&other), &[("token", &token)])
            .await
            .body["active"]
            == false
    })
    .await;
}

#[tokio::test]
async fn rfc7009_a_revoked_token_ends_everywhere_and_is_on_record() {
    let stack = Stack::start().await;
    for token in [
        reusable(&stack).await,
        stack.one_shot("resource://crm", "crm:read").await,
    ] {
        let before = introspect(&stack, &token).await;
        let answer = own(
            &stack,
            REVOKE,
            &[("token", &token), ("token_type_hint", "access_token")],
        )
        .await;
        assert_eq!((answer.status, answer.bytes.len()), (StatusCode::OK, 0));
        assert_eq!(introspect(&stack, &token).await, json!({"active": false}));
        let refused = stack.at_gateway(&token, "resource://crm", &[]).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.body);
        let again = own(&stack, REVOKE, &[("token", &token)]).await;
        assert_eq!(again.status, StatusCode::OK, "once more is no mistake");
        let sid = before["sid"].as_str().unwrap().to_owned();
        let events = stack
            .events(|event| {
                event["event_type"] == "token_revoked" && event["metadata_json"]["token_sid"] == sid.as_str()
            })
            .await;
        assert_eq!(events.len(), 1, "recorded once: {events:?}");
        wait_until(SOON, async || {
            let read = stack
                .bus
                .read(
                    &[(stream::SESSIONS_REVOKE, EntryId::ZERO)],
                    100,
                    std::time::Duration::ZERO,
                )
                .await
                .unwrap();
            let mut entries = read.iter().flat_map(|(_, entries)| entries);
            entries.any(|entry| entry.fields.get("session_id") == Some(&sid))
        })
        .await;
    }
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM authority_records WHERE status = 'revoked' AND revoked_reason = 'token_revoked'",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(ended, 1, "the reusable mandate is the one on record");
}

#[tokio::test]
async fn a_client_that_cannot_prove_itself_at_a_management_endpoint_is_on_record() {
    let stack = Stack::start().await;
    let wrong = basic("app-1", "cs_wrong");
    for (path, endpoint) in [(INTROSPECT, "oauth:introspection"), (REVOKE, "oauth:revocation")] {
        let answer = post(&stack, path, Some(&wrong), &[("token", "x")]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let events = stack
            .events(|event| {
                event["event_type"] == "client_authentication"
                    && event["metadata_json"]["endpoint"] == endpoint
            })
            .await;
        let [event] = events.as_slice() else {
            panic!("one event: {events:?}")
        };
        assert_eq!(event["decision"], "deny");
        assert_eq!(event["evaluation_status"], "client_auth_failed");
        assert_eq!(event["metadata_json"]["application_id"], "app-1");
    }
}

#[tokio::test]
async fn ending_a_token_again_asks_no_database() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("DB_CONNECT_TIMEOUT", "500ms"), ("REVOCATION_FRESHNESS", "60s")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    let (token, other) = (reusable(&stack).await, reusable(&stack).await);
    assert_eq!(
        own(&stack, REVOKE, &[("token", &token)]).await.status,
        StatusCode::OK
    );
    proxy.refuse();
    assert_eq!(
        own(&stack, REVOKE, &[("token", &token)]).await.status,
        StatusCode::OK
    );
    let unsaved = own(&stack, REVOKE, &[("token", &other)]).await;
    assert_eq!(
        unsaved.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "only what is durable is ended"
    );
}

#[tokio::test]
async fn rfc7009_only_the_client_a_token_was_issued_to_ends_it() {
    let stack = Stack::start().await;
    let token = reusable(&stack).await;
    let other = basic("app-2", seed::SECRET);
    let answer = post(&stack, REVOKE, Some(&other), &[("token", &token)]).await;
    assert_eq!(
        answer.refusal(),
        (400, "invalid_grant", "the token was issued to another client")
    );
    assert_eq!(introspect(&stack, &token).await["active"], true);
    assert_eq!(
        own(&stack, REVOKE, &[("token", "unknown")]).await.status,
        StatusCode::OK,
        "section 2.2: a token nobody knows is as good as revoked"
    );
    assert_eq!(own(&stack, REVOKE, &[]).await.refusal().1, "invalid_request");
}

#[tokio::test]
async fn introspections_and_revocations_have_a_budget_of_their_own() {
    let stack = Stack::start_with(&[("STS_TOKEN_MANAGEMENT_PER_MIN", "2")]).await;
    for endpoint in [INTROSPECT, REVOKE] {
        // Each its own: asking keeps nobody from ending.
        spend(2, 2, async || own(&stack, endpoint, &[("token", "x")]).await).await;
    }
    reusable(&stack).await;
    let other = basic("app-2", seed::SECRET);
    let answer = post(&stack, INTROSPECT, Some(&other), &[("token", "x")]).await;
    assert_eq!(answer.status, StatusCode::OK, "others have their own");
}

#[tokio::test]
async fn a_management_request_is_a_plain_form() {
    let stack = Stack::start().await;
    let headers = |content_type: &str| {
        header_map(&[
            ("content-type", content_type),
            ("authorization", &basic("app-1", seed::SECRET)),
        ])
    };
    let usual = headers(FORM.1);
    let rows: [(&str, &str, HeaderMap, &str, u16); 5] = [
        (
            "a query",
            "/zones/z1/oauth2/introspect?a=b",
            usual.clone(),
            "token=x",
            400,
        ),
        ("JSON", INTROSPECT, headers("application/json"), "{}", 400),
        ("twice", INTROSPECT, usual.clone(), "token=x&token=y", 400),
        ("malformed", INTROSPECT, usual.clone(), "token=%zz", 400),
        ("an empty token", INTROSPECT, usual, "token=", 400),
    ];
    for (what, path, headers, body, status) in rows {
        let answer = stack.send(Method::POST, path, headers, body).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
        assert_eq!(answer.body["error"], "invalid_request", "{what}");
    }
    assert_eq!(stack.get(INTROSPECT).await.status, StatusCode::METHOD_NOT_ALLOWED);
}
