//! A user of another issuer signs in with an ID token, once.

use std::sync::Arc;

use bytes::Bytes;
use caracal_chassis::Clock;
use caracal_model::SubjectId;
use caracal_storage::ZoneScope;
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_testing::{Behaviour, FaultProxy, Role, TestDatabase, TestRedis, Upstream, wait_for, wait_until};
use caracal_token::Use;
use caracal_wire::form;
use futures_util::future::join_all;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::idp::{ID_TOKEN, Idp, believe, claims, federated, settings, sign_in, until_refused};
use crate::stack::{Answer, DIRECT, ISSUER, SOON, Stack, header_map, with};

#[tokio::test]
async fn a_user_gets_a_reusable_mandate_that_is_on_record() {
    let (stack, idp) = federated().await;
    let answer = sign_in(&stack, &idp.token("user-7"), &[]).await;
    let token = answer.token();
    let claims = stack.verify(&token, ISSUER, Use::Session).await;
    let body = answer.body.as_object().unwrap();
    for absent in ["scope", "target_resources", "upstreams"] {
        assert!(!body.contains_key(absent), "{absent}");
    }
    assert_eq!(
        (&body["expires_in"], &body["token_type"]),
        (&json!(900), &json!("Bearer"))
    );
    assert_eq!(
        (claims.sub.as_str(), claims.sub_type.as_str()),
        ("user-7", "user")
    );
    assert_eq!(
        (claims.client_id.as_str(), claims.scope.as_deref()),
        ("app-1", None)
    );
    assert_eq!((&claims.root_sid, claims.target.len()), (&claims.sid, 0));
    let actor = serde_json::to_value(&claims).unwrap()["act"].clone();
    assert_eq!(actor["sub"], "app-1", "the application acts for the user");
    let (subject, kind, parent, document): (String, String, Option<String>, Value) = sqlx::query_as(
        "SELECT subject_id, session_type, parent_id, claims_json FROM authority_records WHERE id = $1",
    )
    .bind(claims.sid.as_str())
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(
        (subject.as_str(), kind.as_str(), parent),
        ("user-7", "user", None)
    );
    assert_eq!(
        document,
        json!({"iss": "https://idp.example", "client_id": "app-1"})
    );
    let events = stack.events_of(&answer).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    for (member, value) in [
        ("event_type", json!("token_exchange")),
        ("decision", json!("allow")),
        ("evaluation_status", json!("complete")),
        (
            "determining_policies_json",
            json!([{"policy": "caracal-subject-federation"}]),
        ),
    ] {
        assert_eq!(event[member], value, "{member}");
    }
    for (member, value) in [
        ("federated_user_issuer", json!("https://idp.example")),
        ("session_id", json!(claims.sid)),
        ("subject_kind", json!("user")),
        ("application_id", json!("app-1")),
    ] {
        assert_eq!(event["metadata_json"][member], value, "{member}");
    }
    assert!(!event.to_string().contains(&token));
}

/// An ID token as the row says, and why it is refused.
fn bad_tokens(idp: &Idp, stranger: &Idp) -> Vec<(String, &'static str)> {
    let now = Clock::system().unix_seconds();
    let changed = |changes: Value| {
        let mut claims = claims("u");
        claims
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        idp.sign("k1", &claims)
    };
    vec![
        ("x.y.z".to_owned(), "malformed token"),
        (changed(json!({"iat": null})), "malformed token"),
        (
            changed(json!({"iss": "https://other.example"})),
            "issuer is not configured",
        ),
        (
            changed(json!({"iss": "https://idp.example/"})),
            "issuer is not configured",
        ),
        (idp.sign("k2", &claims("u")), "unknown signing key"),
        (stranger.token("u"), "invalid signature"),
        (changed(json!({"aud": "other"})), "audience mismatch"),
        (
            changed(json!({"aud": ["caracal", "other"], "azp": "other"})),
            "audience mismatch",
        ),
        (changed(json!({"exp": now - 61})), "token expired"),
        (changed(json!({"exp": now + 31 * 86_400})), "token lives too long"),
        (changed(json!({"iat": now + 600})), "token issued in the future"),
        (changed(json!({"sub": "caracal:shared"})), "unacceptable subject"),
        (changed(json!({"sub": " u"})), "unacceptable subject"),
        (changed(json!({"sub": "u\u{202e}"})), "unacceptable subject"),
        (
            changed(json!({"sub": "app-2"})),
            "subject is the id of an application",
        ),
    ]
}

#[tokio::test]
async fn every_row_of_the_order_of_checks() {
    let (stack, idp) = federated().await;
    let evidence = async |answer: &Answer| {
        let events = stack.events_of(answer).await;
        assert_eq!((events.len(), &events[0]["decision"]), (1, &json!("deny")));
        events[0]["evaluation_status"].as_str().unwrap().to_owned()
    };
    let wrong_secret = sign_in(&stack, &idp.token("u"), &[("client_secret", "x")]).await;
    assert_eq!(
        wrong_secret.refusal(),
        (401, "access_denied", "invalid client credentials")
    );
    for field in [
        "resource",
        "scope",
        "session_id",
        "agent_session_id",
        "delegation_edge_id",
        "approval_id",
        "challenge_id",
    ] {
        // Before anything of the token is looked at.
        let answer = sign_in(&stack, "x.y.z", &[(field, "x")]).await;
        let description = "an id_token exchange takes no resource, scope, session, delegation or approval";
        assert_eq!(answer.refusal(), (400, "invalid_token", description), "{field}");
        assert_eq!(evidence(&answer).await, "subject_federation_invalid", "{field}");
    }
    let stranger = Idp::start().await;
    for (token, reason) in bad_tokens(&idp, &stranger) {
        // Before the lifetime is looked at.
        let answer = sign_in(&stack, &token, &[("ttl_seconds", "3601")]).await;
        let description = format!("invalid subject_token: {reason}");
        assert_eq!(answer.refusal(), (401, "invalid_token", description.as_str()));
        assert_eq!(evidence(&answer).await, "subject_federation_rejected", "{reason}");
    }
    let token = idp.token("u");
    for (ttl, description) in [
        ("-1", "invalid ttl_seconds"),
        ("3601", "ttl_seconds exceeds token TTL cap"),
    ] {
        let answer = sign_in(&stack, &token, &[("ttl_seconds", ttl)]).await;
        assert_eq!(answer.refusal(), (400, "invalid_token", description));
        assert_eq!(evidence(&answer).await, "exchange_denied");
    }
    let answer = sign_in(&stack, &token, &[("ttl_seconds", "3600")]).await;
    assert_eq!(
        (answer.status, &answer.body["expires_in"]),
        (StatusCode::OK, &json!(3_600)),
        "a refused request uses no token up, and the end of the ID token is not the end of the mandate"
    );
}

#[tokio::test]
async fn a_gateway_signs_nobody_in() {
    let (stack, idp) = federated().await;
    let answer = stack
        .at_gateway(
            &idp.token("u"),
            "resource://crm",
            &[("subject_token_type", ID_TOKEN)],
        )
        .await;
    assert_eq!(answer.refusal(), (401, "invalid_token", "invalid subject_token"));
}

#[tokio::test]
async fn an_id_token_signs_in_once_on_whichever_replica() {
    let (stack, idp) = federated().await;
    let owned = settings();
    let settings: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let replica = stack.replica(&settings).await;
    let token = idp.token("user-9");
    let usual = [
        ("subject_token", token.as_str()),
        ("subject_token_type", ID_TOKEN),
    ];
    let body = form::encode(&with(&DIRECT, &usual));
    let headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    let requests = (0..20).map(|turn| {
        let base = if turn % 2 == 0 { &stack.base } else { &replica.base };
        stack.send_to(base, Method::POST, "/oauth/2/token", headers.clone(), &body)
    });
    let answers = join_all(requests).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!(won.len(), 1);
    let used = "invalid subject_token: token was used already";
    for answer in lost {
        assert_eq!(answer.refusal(), (401, "invalid_token", used));
    }
    let records = "SELECT count(*) FROM authority_records WHERE subject_id = 'user-9'";
    let records: i64 = sqlx::query_scalar(records).fetch_one(&stack.pool).await.unwrap();
    assert_eq!(records, 1);
    let rejected = |event: &Value| event["evaluation_status"] == "subject_federation_rejected";
    wait_until(SOON, async || stack.events(rejected).await.len() >= 19).await;
    assert_eq!(
        sign_in(&stack, &idp.token("user-9"), &[]).await.status,
        StatusCode::OK,
        "another token of the user"
    );
}

#[tokio::test]
async fn a_token_older_than_the_memory_of_uses_is_refused() {
    let idp = Idp::start().await;
    let owned = settings();
    let settings: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let stack = Stack::start_with(&settings).await;
    believe(&stack, &idp).await;
    let forgotten = "invalid subject_token: token is older than the memory of used tokens";
    assert_eq!(
        sign_in(&stack, &idp.token("u"), &[]).await.refusal(),
        (401, "invalid_token", forgotten)
    );
}

#[tokio::test]
async fn a_token_of_which_nothing_came_is_good_again() {
    let idp = Idp::start().await;
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let proxy = FaultProxy::before(&database.url_as(Role::Sts)).await;
    let through = proxy.url_through(&database.url_as(Role::Sts));
    let redis_url = redis.url().to_owned();
    let owned = settings();
    let mut settings: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
    // Without the database, what is known counts as known for this test.
    settings.push(("REVOCATION_FRESHNESS", "60s"));
    let stack = Stack::start_between(database, &through, redis, &redis_url, &settings).await;
    believe(&stack, &idp).await;
    stack.redis.remember_for_long().await;
    let before = sign_in(&stack, &idp.token("u"), &[]).await;
    assert_eq!(before.status, StatusCode::OK, "all keys are known");
    let token = idp.token("u");
    proxy.refuse();
    let answer = sign_in(&stack, &token, &[]).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "authority record store unavailable")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    proxy.resume();
    wait_until(SOON, async || {
        let answer = sign_in(&stack, &token, &[]).await;
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status),
            "{}",
            answer.body
        );
        answer.status == StatusCode::OK
    })
    .await;
    let again = sign_in(&stack, &token, &[]).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED, "once is once");
}

#[tokio::test]
async fn without_the_memory_of_uses_nobody_signs_in() {
    let idp = Idp::start().await;
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let proxy = FaultProxy::before(redis.url()).await;
    let through = proxy.url_through(redis.url());
    let owned = settings();
    let mut settings: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
    // What was revoked counts as known meanwhile.
    settings.push(("REVOCATION_FRESHNESS", "60s"));
    let url = database.url_as(Role::Sts);
    let stack = Stack::start_between(database, &url, redis, &through, &settings).await;
    believe(&stack, &idp).await;
    stack.redis.remember_for_long().await;
    proxy.refuse();
    let answer = sign_in(&stack, &idp.token("u"), &[]).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "uses of id_tokens cannot be checked now")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    proxy.resume();
    wait_until(SOON, async || {
        sign_in(&stack, &idp.token("u"), &[]).await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_who_wait() {
    let (stack, idp) = federated().await;
    let tokens: Vec<String> = (0..20).map(|_| idp.token("u")).collect();
    let answers = join_all(tokens.iter().map(|token| sign_in(&stack, token, &[]))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(idp.server.requests().len(), 1, "one fetch for all");
}

/// What a user of a new issuer is answered, whose keys are said to be at `url`. Of an issuer nobody asked about before, nothing is
/// remembered.
async fn with_keys_at(stack: &Stack, idp: &Idp, url: &str) -> Answer {
    let name = crate::stack::nonce();
    let issuer = format!("https://{}.example", &name[..12]);
    stack
        .sql(format!(
            "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience)
             VALUES ('si-{name}', 'z1', '{issuer}', '{url}', 'caracal')"
        ))
        .await;
    let unknown = "invalid subject_token: issuer is not configured";
    wait_for(SOON, async || {
        let mut claims = claims("u");
        claims["iss"] = json!(issuer);
        let answer = sign_in(stack, &idp.sign("k1", &claims), &[]).await;
        (answer.refusal().2 != unknown).then_some(answer)
    })
    .await
}

const NO_KEYS: (u16, &str, &str) = (
    401,
    "invalid_token",
    "invalid subject_token: issuer keys unavailable",
);

#[tokio::test]
async fn keys_are_never_fetched_from_where_they_may_not_be() {
    let idp = Idp::start().await;
    let settings = settings();
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .filter(|(key, _)| *key != "INSECURE_LOOPBACK_EGRESS")
        .collect();
    let guarded = Stack::start_with(&settings).await;
    let here = idp.url("/jwks");
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"] {
        let url = here.replace("localhost", host);
        assert_eq!(
            with_keys_at(&guarded, &idp, &url).await.refusal(),
            NO_KEYS,
            "{url}"
        );
    }
    assert!(
        idp.server.requests().is_empty(),
        "nobody knocked: {:?}",
        idp.server.requests()
    );

    let (stack, idp) = federated().await;
    let keys = idp.jwks("k1");
    let plain = Upstream::start(Behaviour::Status(StatusCode::OK, Bytes::from(keys.to_string()))).await;
    let url = format!("http://localhost:{}/jwks", plain.address().port());
    assert_eq!(
        with_keys_at(&stack, &idp, &url).await.refusal(),
        NO_KEYS,
        "without TLS"
    );
    assert!(plain.requests().is_empty(), "nobody asked in clear");
    assert_eq!(
        with_keys_at(&stack, &idp, &idp.url("/other")).await.status,
        StatusCode::OK,
        "the same keys where they may be"
    );
}

#[tokio::test]
async fn no_redirect_is_followed_and_no_document_without_limit_is_read() {
    let (stack, idp) = federated().await;
    let keys = idp.jwks("k1");
    let mut large = keys.clone();
    large["pad"] = json!("x".repeat(300 << 10));
    let (target, documents) = (idp.url("/jwks"), [keys, large, json!([]), json!({"keys": []})]);
    idp.server.set(Behaviour::Custom(Arc::new(move |request| {
        let path = request.target.clone();
        let [keys, large, list, none] = documents
            .each_ref()
            .map(|document| Bytes::from(document.to_string()));
        match path.as_str() {
            "/moved" => Response::builder()
                .status(StatusCode::FOUND)
                .header("location", &target)
                .body(Bytes::new())
                .unwrap(),
            "/large" => Response::new(large),
            "/list" => Response::new(list),
            "/none" => Response::new(none),
            _ => Response::new(keys),
        }
    })));
    for path in ["/moved", "/large", "/list", "/none"] {
        idp.server.take_requests();
        assert_eq!(
            with_keys_at(&stack, &idp, &idp.url(path)).await.refusal(),
            NO_KEYS,
            "{path}"
        );
        let asked: Vec<String> = idp
            .server
            .requests()
            .iter()
            .map(|request| request.target.clone())
            .collect();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked == path),
            "{asked:?}"
        );
    }
    assert_eq!(
        with_keys_at(&stack, &idp, &idp.url("/jwks")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn an_issuer_lets_nobody_in_from_the_commit_that_ends_or_changes_it() {
    let (stack, idp) = federated().await;
    // The first one makes the signing key, and the zone is read again.
    assert_eq!(sign_in(&stack, &idp.token("u"), &[]).await.status, StatusCode::OK);
    // The service does not hear of what follows.
    stack
        .sql("ALTER TABLE subject_issuers DISABLE TRIGGER USER")
        .await;
    let refused = (
        401,
        "invalid_token",
        "invalid subject_token: issuer is not configured",
    );
    for (change, undo) in [
        ("archived_at = now()", "archived_at = NULL"),
        ("audience = 'other'", "audience = 'caracal'"),
    ] {
        stack.sql(format!("UPDATE subject_issuers SET {change}")).await;
        assert_eq!(
            sign_in(&stack, &idp.token("u"), &[]).await.refusal(),
            refused,
            "{change}"
        );
        stack.sql(format!("UPDATE subject_issuers SET {undo}")).await;
        let answer = sign_in(&stack, &idp.token("u"), &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{undo}: {}", answer.body);
    }
    stack.sql("ALTER TABLE subject_issuers ENABLE TRIGGER USER").await;
    stack.sql("UPDATE subject_issuers SET archived_at = now()").await;
    until_refused(&stack, &idp, "issuer is not configured").await;
}

#[tokio::test]
async fn revoking_the_subject_ends_its_mandate_here() {
    let (stack, idp) = federated().await;
    let token = sign_in(&stack, &idp.token("ann"), &[]).await.token();
    let other = sign_in(&stack, &idp.token("bob"), &[]).await.token();
    let is_active = async |token: &str| {
        let fields = [
            ("client_id", "app-1"),
            ("client_secret", crate::seed::SECRET),
            ("token", token),
        ];
        let headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
        let path = "/zones/z1/oauth2/introspect";
        let answer = stack
            .send(Method::POST, path, headers, &form::encode(&fields))
            .await;
        answer.body["active"] == true
    };
    assert!(is_active(&token).await && is_active(&other).await);
    let present = async |token: &str| {
        let presented = [
            ("subject_token", token),
            ("subject_token_type", crate::stack::ACCESS_TOKEN),
            ("resource", "resource://crm"),
            ("scope", "crm:read"),
        ];
        stack.mint(&presented).await.refusal().2.to_owned()
    };
    assert_ne!(present(&token).await, "authority record inactive or expired");
    let database = stack.database_as(Role::Api).await;
    let zone = "z1".parse().unwrap();
    let mut tx = database.write(ZoneScope::Zone(&zone)).await.unwrap();
    let subject = SubjectId::try_from("ann").unwrap();
    let ended =
        revocation_cascade::revoke(&mut tx, Producer::Api, &zone, Root::Subject(&subject), "test").await;
    assert_eq!(ended.unwrap().authority_records.len(), 1);
    tx.commit().await.unwrap();
    wait_until(SOON, async || !is_active(&token).await).await;
    assert_eq!(present(&token).await, "authority record inactive or expired");
    assert!(is_active(&other).await, "nobody else is concerned");
}
