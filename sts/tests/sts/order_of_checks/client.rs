//! Who asks.

use caracal_testing::wait_until;

use super::Stack;
use crate::seed::{SECRET, STORED_SECRET};
use crate::stack::{Answer, SOON};

const WRONG: super::Refused<'static> = (
    401,
    "access_denied",
    "invalid client credentials",
    "client_auth_failed",
);

async fn ask(stack: &Stack, zone: &str, application: &str, secret: &str) -> Answer {
    stack
        .delegated(&[
            ("zone_id", zone),
            ("application_id", application),
            ("client_secret", secret),
        ])
        .await
}

#[tokio::test]
async fn the_owner_of_an_application_learns_both_zones_and_the_ledger_too() {
    let stack = Stack::start().await;
    stack
        .sql(format!(
            "INSERT INTO applications (id, zone_id, name, registration_method, client_secret_hash, expires_at, archived_at) VALUES
                ('app-z2-mute', 'z2', 'Mute', 'managed', NULL, NULL, NULL),
                ('app-z2-past', 'z2', 'Past', 'dcr', '{STORED_SECRET}', now() - interval '1 second', NULL),
                ('app-z2-gone', 'z2', 'Gone', 'managed', '{STORED_SECRET}', NULL, now())"
        ))
        .await;
    let told = ask(&stack, "z1", "app-z2", SECRET).await;
    let sentence = "application belongs to zone z2, not to zone z1";
    let expected = (403, "zone_invalid", sentence, "client_auth_failed");
    stack.expect_refusal(&told, expected, "the wrong zone").await;
    assert_eq!(
        stack.events_of(&told).await[0]["diagnostics_json"][0]["reason"],
        sentence
    );
    let told = ask(&stack, "z-unknown", "app-1", SECRET).await;
    let sentence = "application belongs to zone z1, not to zone z-unknown";
    assert_eq!(told.refusal(), (403, "zone_invalid", sentence));
    for application in ["app-z2-mute", "app-z2-past", "app-z2-gone"] {
        let answer = ask(&stack, "z1", application, SECRET).await;
        stack.expect_refusal(&answer, WRONG, application).await;
    }
}

#[tokio::test]
async fn an_archived_application_is_refused_as_any_stranger_is() {
    let stack = Stack::start().await;
    stack.delegated(&[]).await.token();
    stack
        .sql("UPDATE applications SET archived_at = now() WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || stack.delegated(&[]).await.status == 401).await;
    let answer = stack.delegated(&[]).await;
    stack.expect_refusal(&answer, WRONG, "archived").await;
}

#[tokio::test]
async fn a_gateway_learns_of_no_application_of_another_zone() {
    let stack = Stack::start().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    for (zone, application) in [
        ("z1", "app-z2"),
        ("", "app-1"),
        ("z2", "app-1"),
        ("z1", "app-past"),
    ] {
        let fields = [("zone_id", zone), ("application_id", application)];
        let answer = stack.at_gateway(&one_shot, "resource://crm", &fields).await;
        let (status, code, description) = answer.refusal();
        assert_eq!(
            (status, code, description),
            (401, "access_denied", "invalid client credentials"),
            "{zone} {application}"
        );
    }
}
