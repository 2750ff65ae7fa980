//! Only an application that proves who it is gets anything, and nobody learns more than that.

use crate::seed::SECRET;
use crate::stack::{GRANT, Stack};

async fn refusal(stack: &Stack, zone: &str, application: &str, secret: &str) -> (u16, String, String) {
    let answer = stack
        .post(&[
            GRANT,
            ("zone_id", zone),
            ("application_id", application),
            ("client_secret", secret),
            ("resource", "resource://crm"),
        ])
        .await;
    let (status, code, description) = answer.refusal();
    (status, code.to_owned(), description.to_owned())
}

#[tokio::test]
async fn every_failure_looks_the_same() {
    let stack = Stack::start().await;
    let refused = (
        401,
        "access_denied".to_owned(),
        "invalid client credentials".to_owned(),
    );
    for (zone, application, secret) in [
        ("z1", "app-1", "wrong"),
        ("z1", "app-1", ""),
        ("z1", "app-unknown", SECRET),
        ("z1", "app-mute", SECRET),
        ("z1", "app-past", SECRET),
        ("z1", "", SECRET),
        ("z1", "no id!", SECRET),
        ("z-unknown", "app-1", "wrong"),
        ("", "app-1", SECRET),
        ("z1", "app-z2", "wrong"),
    ] {
        assert_eq!(
            refusal(&stack, zone, application, secret).await,
            refused,
            "{zone} {application} {secret}"
        );
    }
}

#[tokio::test]
async fn only_the_owner_of_an_application_learns_that_it_asked_in_the_wrong_zone() {
    let stack = Stack::start().await;
    let told = refusal(&stack, "z1", "app-z2", SECRET).await;
    assert_eq!((told.0, told.1.as_str()), (403, "zone_invalid"));
    assert!(told.2.contains("z1") && told.2.contains("z2"), "{}", told.2);
    assert_eq!(refusal(&stack, "z1", "app-z2", "wrong").await.0, 401);
}

#[tokio::test]
async fn failures_are_in_the_ledger_of_the_zone_within_a_budget() {
    let stack = Stack::start_with(&[("STS_DENIAL_EVENTS_PER_MIN", "3")]).await;
    let mut answers = Vec::new();
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        answers.push(
            stack
                .post(&[
                    GRANT,
                    ("zone_id", "z1"),
                    ("application_id", "app-unknown"),
                    ("client_secret", "x"),
                ])
                .await,
        );
    }
    let event = &stack.events_of(&answers[0]).await[0];
    assert_eq!(event["event_type"], "client_authentication");
    assert_eq!(event["decision"], "deny");
    assert_eq!(event["evaluation_status"], "client_auth_failed");
    assert_eq!(event["metadata_json"]["application_id"], "app-unknown");
    // One more for each third of a minute the machine has taken.
    let earned = usize::try_from(began.elapsed().as_secs() / 20).unwrap();
    // A later event of another kind shows that nothing more of these is on its way.
    let later = stack.mint(&[("resource", "resource://unknown")]).await;
    assert!(!stack.events_of(&later).await.is_empty());
    let written = stack
        .events(|event| event["event_type"] == "client_authentication")
        .await;
    assert!(
        (3..=(3 + earned).min(5)).contains(&written.len()),
        "the rest is counted, not written: {}",
        written.len()
    );
}
