//! A gated mint waits for a human; the yes is used once, by the request it was given for, whatever races for it.

use std::collections::BTreeSet;

use caracal_model::Anchor;
use caracal_storage::ZoneScope;
use caracal_storage::approval::{self, DecidedBy, Verdict};
use caracal_testing::{Role, wait_until};
use caracal_token::{UnverifiedToken, Use};
use caracal_wire::event::SessionsRevoke;
use caracal_wire::form;
use caracal_wire::stream::SESSIONS_REVOKE;
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::stack::{Answer, DIRECT, ISSUER, SOON, Stack, header_map, with};

/// What waits: a one-shot mandate for a scope of tier `sensitive`.
pub(crate) const GATED: [(&str, &str); 4] = [
    ("resource", "resource://gated"),
    ("scope", "crm:danger"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

pub(crate) async fn gated() -> Stack {
    let stack = Stack::start().await;
    tiers(&stack, "psv-2", r#"[{"tier": "sensitive"}]"#).await;
    stack
}

/// Activates a policy under which the scopes of `resource://gated` need approvals of these tiers.
pub(crate) async fn tiers(stack: &Stack, version: &str, tiers: &str) {
    let policy = crate::seed::POLICY
        .replace(
            "{\"editor\": [\"crm:write\"]}",
            "{\"editor\": [\"crm:write\", \"crm:danger\"]}",
        )
        .replace(
            "risk := [{\"scope\": \"crm:danger\", \"tier\": \"sensitive\"}]",
            "risk := [{\"scope\": \"crm:danger\", \"tier\": \"sensitive\"}, {\"scope\": \"crm:write\", \"tier\": \"writes\"}]",
        )
        .replace("[{\"tier\": \"sensitive\"}]", tiers);
    crate::seed::policy(&stack.pool, version, &policy).await;
}

/// The id of the approval a request waits for.
#[track_caller]
pub(crate) fn held(answer: &Answer) -> String {
    assert_eq!(answer.refusal().0, 401, "{}", answer.body);
    assert_eq!(answer.body["error"], "interaction_required", "{}", answer.body);
    answer.body["approval_id"].as_str().unwrap().to_owned()
}

pub(crate) async fn decide(stack: &Stack, id: &str, verdict: Verdict) {
    let database = stack.database_as(Role::Api).await;
    let zone = "z1".parse().unwrap();
    let mut tx = database.write(ZoneScope::Zone(&zone)).await.unwrap();
    let by = DecidedBy {
        name: "console:test",
        session_id: None,
        class: "operator",
        reason: None,
    };
    let decided = approval::decide(&mut tx, &zone, id, verdict, &by).await.unwrap();
    assert!(decided.is_some());
    tx.commit().await.unwrap();
}

pub(crate) async fn retry(stack: &Stack, id: &str) -> Answer {
    stack.mint(&with(&GATED, &[("approval_id", id)])).await
}

fn jti(answer: &Answer) -> String {
    let token = answer.token();
    let claims = UnverifiedToken::parse(&token).unwrap();
    claims.unverified_claims().jti.to_string()
}

pub(crate) async fn count(stack: &Stack, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement)
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_answer_says_what_is_waited_for_and_everybody_waits_for_the_same() {
    let stack = gated().await;
    let first = stack.mint(&GATED).await;
    let id = held(&first);
    assert_eq!(
        first.headers["www-authenticate"],
        "Bearer error=\"interaction_required\""
    );
    assert_eq!(first.headers["cache-control"], "no-store");
    assert_eq!(
        first.body["requestId"],
        first.headers["x-request-id"].to_str().unwrap()
    );
    for (member, value) in [
        (
            "error_description",
            json!("Human approval required for this request"),
        ),
        ("approval_type", json!("human_approval")),
        ("state", json!("pending")),
        ("tier", json!("sensitive")),
        ("challenge_id", json!(id)),
        ("challenge_type", json!("human_approval")),
    ] {
        assert_eq!(first.body[member], value, "{member}");
    }
    assert_eq!(first.body["binding"].as_str().unwrap().len(), 64);
    let expires_at = first.body["approval_expires_at"].as_str().unwrap();
    assert!(
        expires_at.ends_with('Z') && expires_at.len() == 20,
        "{expires_at}"
    );
    assert_eq!(
        uuid::Uuid::parse_str(&id).unwrap().get_version_num(),
        4,
        "not guessable"
    );

    let again = stack.mint(&GATED).await;
    assert_eq!(held(&again), id);
    assert_eq!(
        again.body.get("challenge_secret"),
        None,
        "the secret is said once"
    );
    assert_eq!(
        held(&retry(&stack, &id).await),
        id,
        "presenting it changes nothing yet"
    );
    let others = join_all((0..10).map(|_| stack.mint(&GATED))).await;
    assert!(others.iter().all(|answer| held(answer) == id));
    assert_eq!(count(&stack, "SELECT count(*) FROM step_up_challenges").await, 1);
    let read = |event: &Value| event["event_type"] == "step_up_issued";
    let events = stack.events(read).await;
    assert_eq!(events.len(), 1, "raised once");
    assert_eq!(
        (&events[0]["decision"], &events[0]["evaluation_status"]),
        (&json!("pending"), &json!("complete"))
    );
    let metadata = &events[0]["metadata_json"];
    assert_eq!(
        (&metadata["challenge_id"], &metadata["tier"]),
        (&json!(id), &json!("sensitive"))
    );
    assert_eq!(metadata["binding"], first.body["binding"]);
}

#[tokio::test]
async fn a_yes_gives_one_token_that_is_on_record() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    let answer = retry(&stack, &id).await;
    let claims = stack.verify(&answer.token(), ISSUER, Use::Gateway).await;
    assert_eq!(claims.scope.as_deref(), Some("crm:danger"));
    let (consumed, record): (bool, String) = sqlx::query_as(
        "SELECT c.consumed_at IS NOT NULL, r.id FROM step_up_challenges c
         JOIN authority_records r ON r.id = c.consumed_authority_record_id",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert!(consumed);
    assert_eq!(
        record,
        claims.sid.as_str(),
        "what a human agreed to can be revoked by itself"
    );
    let events = stack.all_events_of(&answer, 2).await;
    let consumed = events
        .iter()
        .find(|event| event["event_type"] == "step_up_consumed")
        .unwrap();
    assert_eq!(
        (&consumed["decision"], &consumed["metadata_json"]["challenge_id"]),
        (&json!("consumed"), &json!(id))
    );
    assert!(
        events
            .iter()
            .any(|event| event["event_type"] == "token_exchange" && event["decision"] == "allow")
    );

    // The approved request also finds its approval without naming it, once.
    let second = held(&stack.mint(&GATED).await);
    assert_ne!(second, id);
    decide(&stack, &second, Verdict::Approved).await;
    assert_eq!(stack.mint(&GATED).await.status, 200);
    assert_ne!(held(&stack.mint(&GATED).await), second);
}

#[tokio::test]
async fn fifty_racing_exchanges_over_two_replicas_get_one_token() {
    let stack = gated().await;
    let replica = stack.replica(&[]).await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    let body = form::encode(&with(&with(&DIRECT, &GATED), &[("approval_id", &id)]));
    let headers = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    let requests = (0..50).map(|turn| {
        let base = if turn % 2 == 0 { &stack.base } else { &replica.base };
        stack.send_to(base, Method::POST, "/oauth/2/token", headers.clone(), &body)
    });
    let answers = join_all(requests).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    // A request that was served late is a client that asks again: it gets the same token.
    let released: BTreeSet<String> = won.into_iter().map(jti).collect();
    assert_eq!(released.len(), 1, "exactly one token is released");
    // Fifty at once may take a busy machine longer than a request may take; that is no token either.
    let late = (503, "sts_unavailable", "the request took too long");
    for answer in lost.into_iter().filter(|answer| answer.refusal() != late) {
        let said = |event: &Value| event["evaluation_status"] == "approval_already_consumed";
        assert!(stack.events_of(answer).await.iter().any(said));
        assert_eq!(
            answer.refusal(),
            (
                409,
                "approval_consumed",
                "approval already used; another request consumed it"
            )
        );
    }
    let records = "SELECT count(*) FROM authority_records WHERE claims_json ->> 'approval_id' IS NOT NULL";
    assert_eq!(count(&stack, records).await, 1);
    let first_uses = |event: &Value| {
        event["event_type"] == "step_up_consumed" && event["metadata_json"].get("given_again").is_none()
    };
    assert_eq!(stack.events(first_uses).await.len(), 1);
}

#[tokio::test]
async fn a_client_whose_answer_was_lost_gets_the_same_token_again_for_two_minutes() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    let first = retry(&stack, &id).await;
    let consumed = (
        409,
        "approval_consumed",
        "approval already used; another request consumed it",
    );
    let ago = async |age: &str| {
        stack
            .sql(format!(
                "UPDATE step_up_challenges SET consumed_at = now() - interval '{age}'"
            ))
            .await;
    };
    // Used after the next request arrives, however long that takes.
    ago("-1 minute").await;
    assert_eq!(
        retry(&stack, &id).await.refusal(),
        consumed,
        "at once it is a rival"
    );
    ago("10 seconds").await;
    let again = retry(&stack, &id).await;
    assert_eq!(jti(&again), jti(&first), "one approval, one token");
    let (first, again) = (
        stack.verify(&first.token(), ISSUER, Use::Gateway).await,
        stack.verify(&again.token(), ISSUER, Use::Gateway).await,
    );
    assert_eq!(first, again);
    let evidence = |event: &Value| {
        event["event_type"] == "step_up_consumed" && event["metadata_json"]["given_again"] == json!(true)
    };
    assert_eq!(stack.events(evidence).await.len(), 1, "each release is recorded");
    ago("121 seconds").await;
    assert_eq!(retry(&stack, &id).await.refusal(), consumed);
    ago("10 seconds").await;
    stack
        .sql(format!(
            "UPDATE authority_records SET status = 'revoked' WHERE id = '{}'",
            first.sid
        ))
        .await;
    assert_eq!(
        retry(&stack, &id).await.refusal(),
        consumed,
        "what was revoked does not come back"
    );
}

#[tokio::test]
async fn every_row_of_the_order_of_checks_of_a_presented_approval() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    let unknown = (
        401,
        "access_denied",
        "approval not found or bindings do not match",
    );
    let mismatches: [(&str, &[(&str, &str)]); 7] = [
        ("not an id", &[("approval_id", "nonsense")]),
        (
            "another id",
            &[("approval_id", "11111111-1111-4111-8111-111111111111")],
        ),
        ("another scope", &[("scope", "crm:write")]),
        ("another resource", &[("resource", "resource://crm")]),
        ("another record", &[("session_id", "ar-1")]),
        ("without the delegation", &[("delegation_edge_id", "")]),
        ("another application", &[("application_id", "app-2")]),
    ];
    for (what, fields) in mismatches {
        let answer = stack
            .mint(&with(&with(&GATED, &[("approval_id", &id)]), fields))
            .await;
        assert_eq!(answer.refusal(), unknown, "{what}");
        assert_eq!(
            stack.events_of(&answer).await[0]["evaluation_status"],
            "approval_invalid",
            "{what}"
        );
    }
    let cases: [(&str, (u16, &str, &str), &str); 3] = [
        (
            "rejected_at = now()",
            (403, "access_denied", "approval was rejected"),
            "approval_rejected",
        ),
        (
            "rejected_at = NULL, expires_at = now() - interval '1 second'",
            (401, "access_denied", "approval expired"),
            "approval_expired",
        ),
        (
            "expires_at = now() + interval '1 hour', consumed_at = now()",
            (
                409,
                "approval_consumed",
                "approval already used; another request consumed it",
            ),
            "approval_already_consumed",
        ),
    ];
    for (change, refusal, status) in cases {
        stack.sql(format!("UPDATE step_up_challenges SET {change}")).await;
        let answer = retry(&stack, &id).await;
        assert_eq!(answer.refusal(), refusal, "{change}");
        assert_eq!(
            stack.events_of(&answer).await[0]["evaluation_status"],
            status,
            "{change}"
        );
    }
}

#[tokio::test]
async fn an_approval_is_checked_before_the_session_and_again_by_policy_after() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    let gone = [("agent_session_id", "s-nowhere"), ("approval_id", &*id)];
    assert_eq!(
        stack.mint(&with(&GATED, &gone)).await.refusal().2,
        "approval not found or bindings do not match"
    );
    decide(&stack, &id, Verdict::Approved).await;
    stack
        .sql("UPDATE sessions SET status = 'terminated', terminated_at = now() WHERE id = 's-target'")
        .await;
    let ended = Anchor::Session("s-target".parse().unwrap());
    let message = SessionsRevoke::of("z1".parse().unwrap(), ended, "test");
    stack.announce(SESSIONS_REVOKE, message.to_fields()).await;
    // Known by a mint that needs no yes: one that came before would use it up.
    let ungated = with(&GATED, &[("resource", "resource://crm"), ("scope", "crm:read")]);
    wait_until(SOON, async || stack.mint(&ungated).await.status == 403).await;
    let answer = retry(&stack, &id).await;
    assert_eq!(
        answer.status, 403,
        "the session ended after the yes: {}",
        answer.body
    );
    assert_eq!(
        count(
            &stack,
            "SELECT count(*) FROM step_up_challenges WHERE consumed_at IS NOT NULL"
        )
        .await,
        0,
        "and the yes is not used up"
    );
}

#[tokio::test]
async fn a_yes_covers_what_was_granted_when_it_was_asked_for_and_on_the_terms_of_then() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    let unknown = (
        401,
        "access_denied",
        "approval not found or bindings do not match",
    );
    // As if the policy had granted, or asked for, something else when the approval was raised.
    let then = [
        ("tier = 'other'", unknown),
        ("approver_class = 'subject'", unknown),
        (
            r#"metadata_json = jsonb_set(metadata_json, '{resources}', '["resource://GATED"]')"#,
            unknown,
        ),
        (
            "metadata_json = jsonb_set(metadata_json, '{granted}', '[]')",
            (403, "access_denied", "policy denied"),
        ),
    ];
    for (change, refusal) in then {
        let saved = "CREATE TABLE saved AS SELECT * FROM step_up_challenges";
        stack
            .sql(format!("{saved}; UPDATE step_up_challenges SET {change}"))
            .await;
        assert_eq!(retry(&stack, &id).await.refusal(), refusal, "{change}");
        stack
            .sql(
                "UPDATE step_up_challenges c SET tier = s.tier, approver_class = s.approver_class, metadata_json = s.metadata_json
                 FROM saved s WHERE s.id = c.id;
                 DROP TABLE saved",
            )
            .await;
    }
    assert_eq!(retry(&stack, &id).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_resource_whose_name_would_run_into_another_is_refused() {
    let stack = gated().await;
    let answer = stack
        .mint(&with(&GATED, &[("resource", "resource://b\nresource://gated")]))
        .await;
    assert_eq!(answer.refusal(), (400, "invalid_token", "malformed request body"));
}

#[tokio::test]
async fn a_new_policy_voids_what_was_agreed_under_the_old_one() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    decide(&stack, &id, Verdict::Approved).await;
    tiers(&stack, "psv-3", r#"[{"tier": "sensitive", "ttl_seconds": 600}]"#).await;
    wait_until(SOON, async || {
        retry(&stack, &id).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(
        retry(&stack, &id).await.refusal().2,
        "approval not found or bindings do not match"
    );
    assert_ne!(held(&stack.mint(&GATED).await), id);
}

#[tokio::test]
async fn tiers_that_exclude_each_other_are_refused_and_others_are_merged() {
    let stack = gated().await;
    let both = with(&GATED, &[("scope", "crm:write crm:danger")]);
    tiers(
        &stack,
        "psv-3",
        r#"[{"tier": "sensitive", "approver": "operator"}, {"tier": "writes", "approver": "subject"}]"#,
    )
    .await;
    let conflict = "approval requires separate operator and subject decisions";
    wait_until(SOON, async || stack.mint(&both).await.refusal().2 == conflict).await;
    let answer = stack.mint(&both).await;
    assert_eq!(answer.refusal(), (403, "access_denied", conflict));
    assert_eq!(
        stack.events_of(&answer).await[0]["evaluation_status"],
        "approval_class_conflict"
    );
    tiers(
        &stack,
        "psv-4",
        r#"[{"tier": "sensitive", "approver": "any", "privacy": "anonymous"}, {"tier": "writes", "approver": "subject", "ttl_seconds": 120}]"#,
    )
    .await;
    wait_until(SOON, async || stack.mint(&both).await.status == 401).await;
    assert_eq!(stack.mint(&both).await.body["tier"], "sensitive,writes");
    let (class, privacy, seconds): (String, String, i64) = sqlx::query_as(
        "SELECT approver_class, privacy_mode, extract(epoch FROM expires_at - created_at)::bigint
         FROM step_up_challenges WHERE tier = 'sensitive,writes'",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(
        (class.as_str(), privacy.as_str(), seconds),
        ("subject", "anonymous", 120)
    );
}

#[tokio::test]
async fn a_look_answers_at_once_and_a_wait_with_the_decision() {
    let stack = gated().await;
    let id = held(&stack.mint(&GATED).await);
    let answer = stack.get(&format!("/approvals/{id}")).await;
    assert_eq!(
        (answer.status, &answer.body["state"], &answer.body["id"]),
        (StatusCode::OK, &json!("pending"), &json!(id))
    );
    assert_eq!(
        answer.body.as_object().unwrap().len(),
        3,
        "a state and a time, nothing else"
    );
    for (path, refusal) in [
        (
            "/approvals/nonsense".to_owned(),
            (404, "resource_not_found", "approval not found"),
        ),
        (
            "/approvals/11111111-1111-4111-8111-111111111111?wait=1".to_owned(),
            (404, "resource_not_found", "approval not found"),
        ),
        (
            format!("/approvals/{id}?wait=-1"),
            (400, "invalid_token", "invalid wait"),
        ),
        (
            format!("/approvals/{id}?wait=soon"),
            (400, "invalid_token", "invalid wait"),
        ),
    ] {
        assert_eq!(stack.get(&path).await.refusal(), refusal, "{path}");
    }
    assert_eq!(
        stack.get(&format!("/approvals/{id}?wait=1")).await.body["state"],
        "pending"
    );

    let replica = stack.replica(&[]).await;
    let path = format!("/approvals/{id}?wait=25");
    let waits = join_all((0..20).map(|turn| {
        let base = if turn % 2 == 0 { &stack.base } else { &replica.base };
        stack.get_at(base, &path)
    }));
    let decided = async {
        wait_until(SOON, async || waiting(&stack).await == 10).await;
        decide(&stack, &id, Verdict::Approved).await;
    };
    let (answers, ()) = tokio::join!(waits, decided);
    assert!(answers.iter().all(|answer| answer.body["state"] == "approved"));
    assert_eq!(waiting(&stack).await, 0);
}

/// How many wait at the first replica.
pub(crate) async fn waiting(stack: &Stack) -> i64 {
    stack.metric("approval_waiters").await
}

#[tokio::test]
async fn no_more_may_wait_than_the_setting_says_and_a_shutdown_ends_all_waits() {
    let mut stack = Stack::start_with(&[("STS_APPROVAL_WAITERS_MAX", "1")]).await;
    tiers(&stack, "psv-2", r#"[{"tier": "sensitive"}]"#).await;
    wait_until(SOON, async || stack.mint(&GATED).await.status == 401).await;
    let path = format!("/approvals/{}?wait=25", held(&stack.mint(&GATED).await));
    let (client, url) = (stack.client.clone(), format!("{}{path}", stack.base));
    let waits = tokio::spawn(async move { client.request(Method::GET, &url, HeaderMap::new(), "").await });
    wait_until(SOON, async || waiting(&stack).await == 1).await;
    let refused = stack.get(&path).await;
    assert_eq!(
        refused.refusal(),
        (503, "sts_unavailable", "too many requests wait for approvals")
    );
    assert_eq!(refused.headers["retry-after"], "1");
    stack.stop().await.unwrap();
    let answer = waits.await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains("pending"));
}

#[tokio::test]
async fn the_step_up_routes_speak_of_the_same_approval() {
    let stack = gated().await;
    let first = stack.mint(&GATED).await;
    let id = held(&first);
    let secret = first.body["challenge_secret"].as_str().unwrap().to_owned();
    let answer = stack.get(&format!("/step-up/{id}")).await;
    assert_eq!(
        answer.body,
        json!({"id": id, "challenge_type": "human_approval", "satisfied": false, "consumed": false,
            "expires_at": first.body["challenge_expires_at"]})
    );
    assert_eq!(stack.get("/step-up/nonsense").await.refusal().0, 404);
    let respond = async |secret: &str| {
        stack
            .mint(&with(
                &GATED,
                &[("challenge_id", &id), ("challenge_response", secret)],
            ))
            .await
    };
    assert_eq!(held(&respond(&secret).await), id, "not yet");
    decide(&stack, &id, Verdict::Approved).await;
    let wrong = respond("wrong").await;
    assert_eq!(
        wrong.refusal(),
        (
            401,
            "access_denied",
            "challenge not found or response does not match"
        )
    );
    assert_eq!(
        stack.events_of(&wrong).await[0]["evaluation_status"],
        "challenge_invalid"
    );
    assert_eq!(respond(&secret).await.status, 200);
    assert_eq!(stack.get(&format!("/step-up/{id}")).await.body["consumed"], true);
    assert_eq!(
        stack.get(&format!("/approvals/{id}")).await.body["state"],
        "consumed"
    );
    stack
        .sql("UPDATE step_up_challenges SET consumed_at = now() - interval '10 seconds'")
        .await;
    assert_eq!(respond(&secret).await.refusal().0, 401, "a second retry fails");
    for _ in 0..3 {
        assert_eq!(respond("wrong").await.refusal().0, 401);
    }
    let locked = respond("wrong").await;
    assert_eq!(
        locked.refusal(),
        (429, "access_denied", "too many failed challenge responses")
    );
    assert_eq!(
        stack.events_of(&locked).await[0]["evaluation_status"],
        "challenge_cooldown"
    );
    assert_eq!(respond(&secret).await.refusal().0, 429);
}

#[tokio::test]
async fn what_was_finished_a_day_ago_is_deleted() {
    let stack = gated().await;
    held(&stack.mint(&GATED).await);
    stack
        .sql(
            "INSERT INTO step_up_challenges (id, zone_id, expires_at, consumed_at) VALUES
                  ('old', 'z1', now() - interval '30 hours', now() - interval '25 hours'),
                  ('recent', 'z1', now() - interval '30 hours', now() - interval '23 hours')",
        )
        .await;
    let _sweeps_when_it_starts = stack.replica(&[]).await;
    wait_until(SOON, async || {
        count(&stack, "SELECT count(*) FROM step_up_challenges WHERE id = 'old'").await == 0
    })
    .await;
    assert_eq!(count(&stack, "SELECT count(*) FROM step_up_challenges").await, 2);
}
