//! Records, sessions and delegations must hold at the moment of the exchange, and refusals say which did not.

use crate::stack::{Stack, with};

const CRM: [(&str, &str); 2] = [("resource", "resource://crm"), ("scope", "crm:read")];

#[tokio::test]
async fn what_does_not_hold_is_named() {
    let stack = Stack::start().await;
    stack.sql(FIXTURES).await;
    let cases: [(&[(&str, &str)], &str); 26] = [
        (
            &[("session_id", "ar-none")],
            "authority record inactive or expired",
        ),
        (
            &[("session_id", "no id!")],
            "authority record inactive or expired",
        ),
        (
            &[("session_id", "ar-revoked")],
            "authority record inactive or expired",
        ),
        (
            &[("session_id", "ar-expired")],
            "authority record inactive or expired",
        ),
        (&[("session_id", "ar-2")], "authority record not owned by caller"),
        (
            &[("session_id", "ar-user")],
            "authority record not owned by caller",
        ),
        (&[("agent_session_id", "s-none")], "session inactive or expired"),
        (
            &[("agent_session_id", "s-suspended")],
            "session inactive or expired",
        ),
        (&[("agent_session_id", "s-over")], "session inactive or expired"),
        (&[("agent_session_id", "s-silent")], "session inactive or expired"),
        (
            &[("agent_session_id", "s-user-gone")],
            "session inactive or expired",
        ),
        (
            &[("agent_session_id", "s-revoked-record")],
            "session inactive or expired",
        ),
        (
            &[("agent_session_id", "s-foreign")],
            "session not owned by caller",
        ),
        (
            &[("delegation_edge_id", "e-1")],
            "delegation requires a target Session",
        ),
        (
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-none")],
            "delegation edge inactive or expired",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-revoked"),
            ],
            "delegation edge inactive or expired",
        ),
        (
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-past")],
            "delegation edge inactive or expired",
        ),
        (
            &[("agent_session_id", "s-source"), ("delegation_edge_id", "e-1")],
            "delegation edge target mismatch",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-dead-source"),
            ],
            "delegation source inactive or expired",
        ),
        (
            &[
                ("agent_session_id", "s-suspended"),
                ("delegation_edge_id", "e-dead-target"),
            ],
            "delegation target inactive or unauthorized",
        ),
        (
            &[
                ("agent_session_id", "s-foreign"),
                ("delegation_edge_id", "e-to-foreign"),
            ],
            "delegation target inactive or unauthorized",
        ),
        (
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-odd")],
            "delegation constraints invalid",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-short"),
                ("ttl_seconds", "61"),
            ],
            "requested ttl exceeds delegation ttl",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-narrow"),
            ],
            "requested scopes exceed delegation scopes",
        ),
        (
            &[
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-orphan"),
            ],
            "delegation path invalid",
        ),
        (
            &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-deep")],
            "delegation hop limit exceeds platform maximum",
        ),
    ];
    for (fields, description) in cases {
        let answer = stack.mint(&with(&CRM, fields)).await;
        assert_eq!(
            answer.refusal(),
            (403, "access_denied", description),
            "{fields:?}"
        );
        let events = stack.events_of(&answer).await;
        assert_eq!(events[0]["evaluation_status"], "reference_refused", "{fields:?}");
        assert_eq!(events[0]["diagnostics_json"][0]["reason"], description);
    }
}

#[tokio::test]
async fn an_application_may_bind_its_own_record_and_session() {
    let stack = Stack::start().await;
    let answer = stack
        .mint(&[
            ("resource", "resource://crm"),
            ("scope", "crm:read"),
            ("session_id", "ar-1"),
        ])
        .await;
    answer.token();
    assert_eq!(
        stack.events_of(&answer).await[0]["metadata_json"]["session_id"],
        "ar-1"
    );
}

#[tokio::test]
async fn a_session_that_started_or_came_back_a_moment_ago_is_not_refused_from_memory() {
    let stack = Stack::start().await;
    let fields = with(
        &CRM,
        &[("agent_session_id", "s-target"), ("delegation_edge_id", "e-1")],
    );
    stack.mint(&fields).await.token();
    stack
        .sql("UPDATE sessions SET status = 'suspended' WHERE id = 's-target'")
        .await;
    stack.mint(&fields).await.token();
    let suspended = [
        ("event", "suspend"),
        ("zone_id", "z1"),
        ("agent_session_id", "s-target"),
    ];
    let message = suspended
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    stack.announce("caracal.agents.lifecycle", message).await;
    caracal_testing::wait_until(crate::stack::SOON, async || {
        stack.mint(&fields).await.status == 403
    })
    .await;
    stack
        .sql("UPDATE sessions SET status = 'active' WHERE id = 's-target'")
        .await;
    stack.mint(&fields).await.token();
}

#[tokio::test]
async fn a_child_of_a_revoked_delegation_is_refused() {
    let stack = Stack::start().await;
    stack.sql(FIXTURES).await;
    let fields = with(
        &CRM,
        &[("agent_session_id", "s-leaf"), ("delegation_edge_id", "e-child")],
    );
    let claims = stack.mint(&fields).await.token();
    let claims = stack
        .verify(&claims, crate::stack::ISSUER, caracal_token::Use::Gateway)
        .await;
    assert_eq!(
        claims
            .delegation_path
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["e-parent", "e-child"]
    );
    assert_eq!(claims.hop_count, 2);
    let revoked = [
        ("zone_id", "z1"),
        ("delegation_edge_id", "e-parent"),
        ("reason", "test"),
    ];
    let message = revoked
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    stack.announce("caracal.sessions.revoke", message).await;
    caracal_testing::wait_until(crate::stack::SOON, async || {
        stack.mint(&fields).await.status == 403
    })
    .await;
}

const FIXTURES: &str = r#"
    INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at) VALUES
        ('ar-user-gone', 'z1', 'user', 'user-2', 'revoked', now() + interval '1 hour', now());
    INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, status, started_at) VALUES
        ('s-suspended', 'z1', 'app-1', 'ar-1', '{editor}', 3600, 'suspended', now()),
        ('s-over', 'z1', 'app-1', 'ar-1', '{editor}', 60, 'active', now() - interval '61 seconds'),
        ('s-user-gone', 'z1', 'app-1', 'ar-user-gone', '{editor}', 3600, 'active', now()),
        ('s-revoked-record', 'z1', 'app-1', 'ar-revoked', '{editor}', 3600, 'active', now()),
        ('s-leaf', 'z1', 'app-1', 'ar-1', '{editor}', 3600, 'active', now());
    INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, lifecycle,
            last_heartbeat_at, heartbeat_deadline_at) VALUES
        ('s-silent', 'z1', 'app-1', 'ar-1', '{editor}', NULL, 'service', now() - interval '1 hour', now() - interval '1 second');
    INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
            receiver_application_id, scopes, constraints_json, expires_at, status, revoked_at) VALUES
        ('e-revoked', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{}', now() + interval '1 hour', 'revoked', now()),
        ('e-past', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{}', now() - interval '1 second', 'active', NULL),
        ('e-dead-source', 'z1', 's-suspended', 's-target', 'app-1', 'app-1', '{crm:read}', '{}', now() + interval '1 hour', 'active', NULL),
        ('e-dead-target', 'z1', 's-source', 's-suspended', 'app-1', 'app-1', '{crm:read}', '{}', now() + interval '1 hour', 'active', NULL),
        ('e-to-foreign', 'z1', 's-source', 's-foreign', 'app-1', 'app-2', '{crm:read}', '{}', now() + interval '1 hour', 'active', NULL),
        ('e-odd', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"unheard_of": 1}', now() + interval '1 hour', 'active', NULL),
        ('e-short', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"ttl_seconds": 60}', now() + interval '1 hour', 'active', NULL),
        ('e-narrow', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:write}', '{}', now() + interval '1 hour', 'active', NULL),
        ('e-deep', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": 11}', now() + interval '1 hour', 'active', NULL),
        ('e-parent', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{"max_hops": 2}', now() + interval '1 hour', 'active', NULL),
        ('e-root', 'z1', 's-source', 's-target', 'app-1', 'app-1', '{crm:read}', '{}', now() - interval '1 hour', 'active', NULL);
    INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
            receiver_application_id, parent_edge_id, scopes, constraints_json, expires_at) VALUES
        ('e-orphan', 'z1', 's-leaf', 's-target', 'app-1', 'app-1', 'e-root', '{crm:read}', '{}', now() + interval '1 hour'),
        ('e-child', 'z1', 's-target', 's-leaf', 'app-1', 'app-1', 'e-parent', '{crm:read}', '{}', now() + interval '1 hour');
"#;
