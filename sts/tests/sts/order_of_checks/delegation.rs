//! Which session and delegation the request stands on.

use caracal_testing::wait_until;

use super::Stack;
use crate::stack::{SOON, with};

const FIXTURES: &str = r#"
    INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at) VALUES
        ('ar-z2', 'z2', 'application', 'app-z2', 'active', now() + interval '1 hour', now());
    INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds) VALUES
        ('s-z2', 'z2', 'app-z2', 'ar-z2', '{}', 3600),
        ('s-z2-source', 'z2', 'app-z2', 'ar-z2', '{}', 3600),
        ('s-leaf', 'z1', 'app-1', 'ar-1', '{editor}', 3600);
    INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
            receiver_application_id, scopes, constraints_json, expires_at) VALUES
        ('e-z2', 'z2', 's-z2-source', 's-z2', 'app-z2', 'app-z2', '{crm:read}', '{}', now() + interval '1 hour'),
        ('e-owners', 'z1', 's-source', 's-target', 'app-2', 'app-1', '{crm:read}', '{}', now() + interval '1 hour'),
        ('e-negative', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": -1}', now() + interval '1 hour'),
        ('e-conflict', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": 2, "max_depth": 3}', now() + interval '1 hour'),
        ('e-two-hops', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": 2}', now() + interval '1 hour'),
        ('e-one-hop', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": 1}', now() + interval '1 hour');
    INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
            receiver_application_id, parent_edge_id, scopes, constraints_json, expires_at) VALUES
        ('e-too-far', 'z1', 's-target', 's-leaf', 'app-1', 'app-1', 'e-one-hop', '{crm:read}', '{}', now() + interval '1 hour'),
        ('e-torn', 'z1', 's-source', 's-leaf', 'app-1', 'app-1', 'e-two-hops', '{crm:read}', '{}', now() + interval '1 hour');
"#;

#[tokio::test]
async fn what_a_request_stands_on_is_looked_at_in_its_zone_and_as_a_whole() {
    let stack = Stack::start().await;
    stack.sql(FIXTURES).await;
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[("session_id", "ar-z2")], "authority record inactive or expired"),
        (&[("agent_session_id", "s-z2")], "session inactive or expired"),
        (
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-z2")],
            "delegation edge inactive or expired",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-owners"),
            ],
            "delegation application mismatch",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-negative"),
            ],
            "delegation constraints invalid",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-conflict"),
            ],
            "delegation constraints invalid",
        ),
        (
            &[
                ("agent_session_id", "s-leaf"),
                ("delegation_edge_id", "e-too-far"),
            ],
            "delegation path invalid",
        ),
        (
            &[("agent_session_id", "s-leaf"), ("delegation_edge_id", "e-torn")],
            "delegation chain discontinuous",
        ),
    ];
    for (fields, description) in cases {
        let answer = stack
            .mint(&with(
                &[("resource", "resource://crm"), ("scope", "crm:read")],
                fields,
            ))
            .await;
        let expected = (403, "access_denied", description, "reference_refused");
        stack
            .expect_refusal(&answer, expected, &format!("{fields:?}"))
            .await;
    }
}

#[tokio::test]
async fn a_session_without_a_delegation_passes_and_is_then_decided_by_policy() {
    let stack = Stack::start().await;
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("scope", "crm:read"),
            ("agent_session_id", "s-target"),
        ])
        .await;
    let expected = (
        403,
        "access_denied",
        "policy denied (no_rule_matched)",
        "complete",
    );
    stack.expect_refusal(&answer, expected, "no shape has it").await;
}

#[tokio::test]
async fn a_mandate_is_used_in_no_session_that_stands_on_another_record() {
    let stack = Stack::start().await;
    let mandate = stack
        .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
        .await
        .token();
    let session = ("agent_session_id", "s-target");
    let cases: [&[(&str, &str)]; 2] = [&[session], &[session, ("delegation_edge_id", "e-1")]];
    for fields in cases {
        let answer = stack.at_gateway(&mandate, "resource://crm", fields).await;
        let expected = (403, "access_denied", "session authority record binding mismatch");
        assert_eq!(answer.refusal(), expected, "{fields:?}");
    }
    let events = stack
        .events(|event| event["evaluation_status"] == "reference_refused")
        .await;
    assert!(events.iter().all(|event| event["decision"] == "deny"));
}

#[tokio::test]
async fn an_ancestor_that_ends_is_named() {
    let stack = Stack::start().await;
    stack
        .sql(
            "INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds) VALUES
                ('s-leaf', 'z1', 'app-1', 'ar-1', '{editor}', 3600);
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                    receiver_application_id, scopes, constraints_json, expires_at) VALUES
                ('e-parent', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{\"max_hops\": 2}', now() + interval '1 hour');
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                    receiver_application_id, parent_edge_id, scopes, constraints_json, expires_at) VALUES
                ('e-child', 'z1', 's-target', 's-leaf', 'app-1', 'app-1', 'e-parent', '{crm:read}', '{}', now() + interval '1 hour')",
        )
        .await;
    let fields = [("agent_session_id", "s-leaf"), ("delegation_edge_id", "e-child")];
    stack.delegated(&fields).await.token();
    let revoked = [
        ("zone_id", "z1"),
        ("delegation_edge_id", "e-parent"),
        ("reason", "test"),
    ];
    let message = revoked.map(|(name, value)| (name.to_owned(), value.to_owned()));
    stack.announce("caracal.sessions.revoke", message.into()).await;
    wait_until(SOON, async || stack.delegated(&fields).await.status == 403).await;
    let expected = (
        403,
        "access_denied",
        "delegation path edge inactive or revoked",
        "reference_refused",
    );
    let answer = stack.delegated(&fields).await;
    stack.expect_refusal(&answer, expected, "the parent ended").await;
}
