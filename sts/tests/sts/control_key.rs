//! Control keys: an application whose traits grant it the remote control endpoint, and nothing else.

use std::fmt::Write as _;

use caracal_testing::{ClientCertificate, ProofKey, wait_until};
use caracal_token::Use;
use caracal_wire::form;
use serde_json::json;

use crate::seed::{SECRET, STORED_SECRET};
use crate::stack::{Answer, GRANT, ISSUER, SOON, Stack, with};

const TRAITS: &str = "control:invoke,control:scope:control:app:read,control:scope:control:app:write";

const ASKED: [(&str, &str); 5] = [
    GRANT,
    ("application_id", "key"),
    ("client_secret", SECRET),
    ("resource", "caracal-control"),
    ("scope", "control:app:read"),
];

/// A service with the control resource, one control key `key` and variants of it.
async fn start() -> Stack {
    start_with(&[]).await
}

async fn start_with(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_with(settings).await;
    let mut statements =
        "UPDATE resources SET scopes = '{control:app:read,control:app:write,control:app:delete}'
        WHERE identifier = 'caracal-control';"
            .to_owned();
    for (id, traits) in [
        ("key", TRAITS.to_owned()),
        (
            "key-past",
            format!("{TRAITS},control:expires:2020-01-01T00:00:00Z"),
        ),
        ("key-unreadable", format!("{TRAITS},control:expires:never")),
        (
            "key-future",
            format!("{TRAITS},control:expires:2099-01-01T00:00:00Z"),
        ),
        ("key-short", format!("{TRAITS},control:max-ttl:60")),
        ("key-mute", "control:scope:control:app:read".to_owned()),
    ] {
        let traits = traits.replace(',', "\",\"");
        write!(
            statements,
            "INSERT INTO applications (id, zone_id, name, registration_method, client_secret_hash, traits)
             VALUES ('{id}', 'z1', '{id}', 'managed', '{STORED_SECRET}', '{{\"{traits}\"}}');"
        )
        .unwrap();
    }
    stack.sql(statements).await;
    stack
}

async fn ask(stack: &Stack, fields: &[(&str, &str)]) -> Answer {
    stack.post(&with(&ASKED, fields)).await
}

#[tokio::test]
async fn a_control_key_gets_a_mandate_for_the_control_endpoint_and_nothing_else() {
    let stack = start().await;
    for zone in ["", "z1"] {
        let answer = ask(&stack, &[("zone_id", zone)]).await;
        let claims = stack
            .verify(&answer.token(), "caracal-control", Use::Resource)
            .await;
        assert_eq!(claims.aud, ["caracal-control"]);
        assert_eq!(
            (
                claims.zone_id.as_str(),
                claims.client_id.as_str(),
                claims.scope.as_deref()
            ),
            ("z1", "key", Some("control:app:read"))
        );
        assert_eq!(claims.exp - claims.iat, 900);
        assert!(answer.body.get("upstreams").is_none());
        let event = &stack.events_of(&answer).await[0];
        assert_eq!(
            (
                &event["decision"],
                &event["evaluation_status"],
                &event["determining_policies_json"]
            ),
            (
                &json!("allow"),
                &json!("complete"),
                &json!([{"policy": "control-key"}])
            )
        );
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM authority_records WHERE subject_id = 'key'")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(rows, 0, "such a mandate is good once and has no record");
}

#[tokio::test]
async fn the_life_of_its_mandates_is_capped() {
    let stack = start().await;
    for (application, ttl, lives) in [
        ("key", "3600", 3_600),
        ("key-future", "120", 120),
        ("key-short", "", 60),
        ("key-short", "3600", 60),
        ("key-short", "30", 30),
    ] {
        let fields = [
            ("application_id", application),
            ("ttl_seconds", ttl),
            ("zone_id", "z1"),
        ];
        let answer = ask(&stack, &fields).await;
        assert_eq!(
            answer.body["expires_in"], lives,
            "{application} {ttl}: {}",
            answer.body
        );
    }
}

/// What is tried, with which fields, and the refusal.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], (u16, &'a str, &'a str));

#[tokio::test]
async fn its_mandates_are_bound_to_nobody_whatever_the_application_is_set_to() {
    let stack = start_with(&[("CLIENT_CERT_PROXIES", "127.0.0.1")]).await;
    stack
        .sql("UPDATE applications SET dpop_bound = true, certificate_bound = true WHERE id = 'key'")
        .await;
    let zone = ("zone_id", "z1");
    let crm = [zone, ("resource", "resource://crm"), ("scope", "crm:read")];
    wait_until(SOON, async || {
        ask(&stack, &crm).await.refusal().2 == "a client certificate is required"
    })
    .await;
    let certificate = ClientCertificate::new().header();
    let body = form::encode(&ASKED);
    for headers in [&[][..], &[("client-cert", &*certificate)]] {
        let answer = stack.post_body(&body, headers).await;
        assert_eq!(answer.body["token_type"], "Bearer", "{}", answer.body);
        let claims = stack
            .verify(&answer.token(), "caracal-control", Use::Resource)
            .await;
        assert_eq!(claims.cnf, None);
    }
    let proof = ProofKey::new()
        .proof("POST", &format!("{ISSUER}/oauth/2/token"))
        .sign();
    let answer = stack.post_body(&body, &[("dpop", &proof)]).await;
    assert_eq!(
        answer.refusal(),
        (
            400,
            "invalid_dpop_proof",
            "a mandate for the control endpoint cannot be bound"
        ),
        "who sends a proof expects a bound one"
    );
    let beyond = ask(&stack, &[zone, ("scope", "control:app:delete")]).await;
    assert_eq!(
        beyond.refusal().2,
        "a client certificate is required",
        "what its traits do not grant is a request as any"
    );
}

#[tokio::test]
async fn every_condition_of_a_control_key_is_checked_in_its_order() {
    let stack = start().await;
    let client = (401, "access_denied", "invalid client credentials");
    let control = (403, "access_denied", "control resource requires a control key");
    let denied = (403, "access_denied", "policy denied");
    let rows: [Row<'_>; 19] = [
        // Without a zone, anything but a pure request of a control key is no client at all.
        ("no zone, wrong secret", &[("client_secret", "wrong")], client),
        ("no zone, unknown", &[("application_id", "nobody")], client),
        ("no zone, no control key", &[("application_id", "app-1")], client),
        (
            "no zone, no invoke trait",
            &[("application_id", "key-mute")],
            client,
        ),
        (
            "no zone, other resource",
            &[("resource", "resource://crm")],
            client,
        ),
        (
            "no zone, no resource",
            &[("resource", " ")],
            (400, "invalid_token", "resource must not be empty"),
        ),
        ("no zone, no scope", &[("scope", "")], client),
        (
            "no zone, other scope",
            &[("scope", "control:app:read crm:read")],
            client,
        ),
        ("no zone, a session", &[("agent_session_id", "s-target")], client),
        ("no zone, a record", &[("session_id", "ar-1")], client),
        // In its zone, the reason is told.
        (
            "no invoke trait",
            &[("zone_id", "z1"), ("application_id", "key-mute")],
            control,
        ),
        (
            "an ordinary application",
            &[("zone_id", "z1"), ("application_id", "app-1")],
            control,
        ),
        (
            "a scope its traits lack",
            &[("zone_id", "z1"), ("scope", "control:app:delete")],
            control,
        ),
        (
            "a scope of nobody",
            &[("zone_id", "z1"), ("scope", "control:app:fly")],
            denied,
        ),
        ("no scope", &[("zone_id", "z1"), ("scope", "")], control),
        (
            "expired",
            &[("zone_id", "z1"), ("application_id", "key-past")],
            control,
        ),
        (
            "expiry that cannot be read",
            &[("zone_id", "z1"), ("application_id", "key-unreadable")],
            control,
        ),
        ("expired, no zone", &[("application_id", "key-past")], control),
        (
            "a life beyond the cap",
            &[("zone_id", "z1"), ("ttl_seconds", "3601")],
            (400, "invalid_token", "ttl_seconds exceeds token TTL cap"),
        ),
    ];
    for (what, fields, expected) in rows {
        let answer = ask(&stack, fields).await;
        assert_eq!(answer.refusal(), expected, "{what}");
    }
    let mut both = with(&ASKED, &[("zone_id", "z1")]);
    both.push(("resource", "resource://crm"));
    assert_eq!(
        stack.post(&both).await.refusal(),
        control,
        "a control key asks for the control endpoint alone"
    );
    let denied = ask(&stack, &[("zone_id", "z1"), ("application_id", "key-past")]).await;
    let event = &stack.events_of(&denied).await[0];
    assert_eq!(
        (&event["decision"], &event["evaluation_status"]),
        (&json!("deny"), &json!("control_resource_requires_control_key"))
    );
}
