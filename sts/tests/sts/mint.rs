//! A direct exchange gives a reusable or a one-shot mandate, with exactly the authority asked for.

use caracal_token::Use;
use http::StatusCode;
use serde_json::json;

use crate::stack::{ISSUER, Stack};

const DELEGATED: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:read"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

#[tokio::test]
async fn an_application_gets_a_reusable_mandate_that_is_on_record() {
    let stack = Stack::start().await;
    let answer = stack
        .mint(&[("resource", "resource://crm"), ("scope", "agent:lifecycle")])
        .await;
    let token = answer.token();
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "application/json");
    let mut body = answer.body.clone();
    body.as_object_mut().unwrap().remove("access_token");
    assert_eq!(
        body,
        json!({"token_type": "Bearer", "expires_in": 900, "scope": "agent:lifecycle",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "target_resources": ["resource://crm"]})
    );
    let claims = stack.verify(&token, ISSUER, Use::Session).await;
    assert_eq!(claims.sub.as_str(), "app-1");
    assert_eq!(claims.client_id.as_str(), "app-1");
    assert_eq!(claims.aud, [ISSUER]);
    assert_eq!(claims.exp - claims.iat, 900);
    assert_eq!(claims.root_sid, claims.sid);
    assert_eq!(claims.target, ["resource://crm"]);
    assert_eq!(claims.agent_session_id, None);
    let (subject, kind, status): (String, String, String) =
        sqlx::query_as("SELECT subject_id, session_type, status FROM authority_records WHERE id = $1")
            .bind(claims.sid.as_str())
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!(
        (subject.as_str(), kind.as_str(), status.as_str()),
        ("app-1", "application", "active")
    );
}

#[tokio::test]
async fn a_session_under_a_delegation_gets_a_one_shot_mandate_that_hangs_from_its_record() {
    let stack = Stack::start().await;
    let before = record_count(&stack).await;
    let answer = stack.mint(&DELEGATED).await;
    let claims = stack.verify(&answer.token(), ISSUER, Use::Gateway).await;
    assert_eq!(
        claims.root_sid.as_str(),
        "ar-1",
        "revoking the record stops everything below it"
    );
    assert_ne!(claims.sid, claims.root_sid);
    let claims = serde_json::to_value(&claims).unwrap();
    for (claim, value) in [
        ("scope", json!("crm:read")),
        ("agent_session_id", json!("s-target")),
        ("delegation_edge_id", json!("e-1")),
        ("source_session_id", json!("s-source")),
        ("target_session_id", json!("s-target")),
        ("delegation_path", json!(["e-1"])),
        (
            "delegation_chain",
            json!([
                {"application_id": "app-1", "agent_session_id": "s-source", "delegation_edge_id": "e-1"},
                {"application_id": "app-1", "agent_session_id": "s-target"},
            ]),
        ),
        ("hop_count", json!(1)),
        ("delegation_graph_epoch", json!(7)),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    assert_eq!(
        record_count(&stack).await,
        before,
        "a one-shot mandate has no row"
    );
}

#[tokio::test]
async fn every_token_is_in_the_ledger_before_it_is_released() {
    let stack = Stack::start().await;
    let answer = stack.mint(&DELEGATED).await;
    let claims = stack.verify(&answer.token(), ISSUER, Use::Gateway).await;
    let events = stack.events_of(&answer).await;
    let [event] = events.as_slice() else {
        panic!("one resource, one event: {events:?}")
    };
    assert_eq!(event["event_type"], "token_exchange");
    assert_eq!(event["decision"], "allow");
    assert_eq!(event["evaluation_status"], "complete");
    assert_eq!(event["policy_set_id"], "ps-1");
    assert_eq!(event["policy_set_version_id"], "psv-1");
    assert_eq!(
        event["determining_policies_json"],
        json!([{"policy": "caracal-bot-mint"}])
    );
    let metadata = &event["metadata_json"];
    for (member, value) in [
        ("application_id", json!("app-1")),
        ("application_name", json!("Bot")),
        ("application_registration_method", json!("managed")),
        ("resource", json!("resource://crm")),
        ("requested_scopes", json!(["crm:read"])),
        ("subject_kind", json!("application")),
        ("agent_session_id", json!("s-target")),
        ("agent_lifecycle", json!("task")),
        ("agent_labels", json!(["editor"])),
        ("agent_depth", json!(1)),
        ("delegation_edge_id", json!("e-1")),
        ("delegation_hop_count", json!(1)),
        ("delegation_graph_epoch", json!(7)),
        ("token_id", json!(claims.jti)),
        ("token_sid", json!(claims.sid)),
        ("token_use", json!("gateway")),
    ] {
        assert_eq!(metadata[member], value, "{member}");
    }
    assert!(
        !event.to_string().contains(&answer.token()),
        "the token itself is never recorded"
    );
}

#[tokio::test]
async fn a_lifetime_is_granted_within_its_caps() {
    let stack = Stack::start().await;
    let cases = [
        ("0", Ok(900)),
        ("1", Ok(1)),
        ("3600", Ok(3_600)),
        (
            "3601",
            Err((400, "invalid_token", "ttl_seconds exceeds token TTL cap")),
        ),
        ("-1", Err((400, "invalid_token", "invalid ttl_seconds"))),
    ];
    for (ttl, expected) in cases {
        let answer = stack
            .mint(&[
                ("resource", "resource://crm"),
                ("scope", "agent:lifecycle"),
                ("ttl_seconds", ttl),
            ])
            .await;
        match expected {
            Ok(seconds) => assert_eq!(answer.body["expires_in"], seconds, "{ttl}"),
            Err(refusal) => assert_eq!(answer.refusal(), refusal, "{ttl}"),
        }
    }
}

#[tokio::test]
async fn a_mandate_never_outlives_its_delegation() {
    let stack = Stack::start().await;
    stack
        .sql("UPDATE delegation_edges SET expires_at = now() + interval '5 minutes' WHERE id = 'e-1'")
        .await;
    let lifetime = stack.mint(&DELEGATED).await.body["expires_in"].as_i64().unwrap();
    assert!((290..=300).contains(&lifetime), "{lifetime}");
    stack
        .sql("INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                  receiver_application_id, scopes, constraints_json, expires_at)
              VALUES ('e-short', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{\"ttl_seconds\": 60}',
                  now() + interval '1 hour')")
        .await;
    let short = [("delegation_edge_id", "e-short")];
    let answer = stack.mint(&crate::stack::with(&DELEGATED, &short)).await;
    assert_eq!(answer.body["expires_in"], 60);
}

#[tokio::test]
async fn a_reusable_mandate_cannot_be_exchanged_without_the_gateway() {
    let stack = Stack::start().await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("subject_token", &mandate),
            ("subject_token_type", crate::stack::ACCESS_TOKEN),
        ])
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("subject_token", &one_shot),
            ("subject_token_type", crate::stack::ACCESS_TOKEN),
        ])
        .await;
    assert_eq!(
        answer.refusal(),
        (401, "invalid_token", "invalid subject_token"),
        "one-shot mandates are the gateway's"
    );
}

async fn record_count(stack: &Stack) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM authority_records")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}
