//! What does a governed request cost? The counts are a contract (`docs/contract/token-exchange.md`, section "Cost").

use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_chassis::shutdown::Shutdown;
use caracal_testing::wait_until;
use futures_util::future::join_all;
use http::StatusCode;

use crate::rig::{Counts, Rig, seed};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_governed_request_costs_no_statement_and_no_round_trip() {
    let rig = Rig::new().await;
    let warm = rig.one_shot().await;
    rig.at_gateway(&warm).await;
    let before = rig.counts();
    let one_shot = rig.one_shot().await;
    rig.at_gateway(&one_shot).await;
    let expected = Counts {
        policy_decisions: before.policy_decisions + 2,
        events: before.events + 2,
        ..before
    };
    assert_eq!(
        rig.counts(),
        expected,
        "two decisions and two appends, nothing else"
    );
}

#[tokio::test]
async fn a_question_of_a_known_application_costs_one_append() {
    let rig = Rig::new().await;
    let path = "/v1/data/caracal/authz/grants";
    assert_eq!(rig.question(path).await, StatusCode::OK);
    let before = rig.counts();
    assert_eq!(rig.question(path).await, StatusCode::OK);
    let expected = Counts {
        events: before.events + 1,
        ..before
    };
    assert_eq!(rig.counts(), expected);
}

#[tokio::test]
async fn a_stranger_who_is_locked_out_costs_no_statement() {
    // The minute of the lock-out is not to end while secrets are derived.
    let rig = Rig::at(Clock::manual(Clock::system().unix_seconds())).await;
    let path = "/v1/data/shop/allow";
    let mut refused = Vec::new();
    while refused.last() != Some(&StatusCode::TOO_MANY_REQUESTS) && refused.len() < 100 {
        refused.push(rig.question_as("app-1", "wrong", path).await);
    }
    assert_eq!(refused.len(), 61, "{refused:?}");
    let before = rig.counts();
    let again = rig.question_as("app-1", "wrong", path).await;
    assert_eq!(again, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rig.counts(), before);
}

#[tokio::test]
async fn decisions_go_on_while_every_place_for_questions_is_held() {
    let rig = Rig::new().await;
    let reads_input = "# caracal:decision-policy
package caracal.authz
result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if input.principal.id == \"app-1\"
";
    let pool = rig.database().pool().await;
    seed::policies(&pool, "psv-2", &[seed::POLICY, reads_input]).await;
    let zone = caracal_model::ZoneId::try_from("z1").unwrap();
    rig.sts.zones.reload(&zone).await.unwrap();
    let path = "/v1/data/caracal/authz/owners";
    assert_eq!(rig.question(path).await, StatusCode::OK);
    let held = rig.sts.questions.hold_all().await;
    assert_eq!(rig.question(path).await, StatusCode::SERVICE_UNAVAILABLE);
    rig.one_shot().await;
    drop(held);
    assert_eq!(rig.question(path).await, StatusCode::OK);
}

#[tokio::test]
async fn a_mandate_of_another_replica_costs_one_signature_check() {
    let rig = Rig::new().await;
    let one_shot = rig.one_shot().await;
    rig.sts.minted.forget_all();
    let before = rig.counts();
    rig.at_gateway(&one_shot).await;
    let after = rig.counts();
    assert_eq!(after.signature_checks, before.signature_checks + 1);
    assert_eq!(
        (after.statements, after.round_trips),
        (before.statements, before.round_trips)
    );
}

#[tokio::test]
async fn a_reusable_mandate_costs_one_insert_and_nothing_when_it_is_used() {
    let rig = Rig::new().await;
    let mandate = rig.direct(&[("scope", "crm:read")]).await.access_token;
    rig.at_gateway(&mandate).await;
    let before = rig.counts();
    rig.at_gateway(&mandate).await;
    assert_eq!(rig.counts().statements, before.statements);
    rig.direct(&[("scope", "crm:read")]).await;
    assert_eq!(
        rig.counts().statements,
        before.statements + 3,
        "BEGIN, INSERT, COMMIT"
    );
}

#[tokio::test]
async fn a_session_is_read_with_one_statement_for_all_who_wait() {
    let rig = Rig::new().await;
    rig.direct(&[("scope", "crm:read")]).await;
    let before = rig.counts();
    let mints = (0..8).map(|_| rig.one_shot());
    join_all(mints).await;
    assert_eq!(
        rig.counts().statements,
        before.statements + 2,
        "BEGIN and one SELECT"
    );
}

#[tokio::test]
async fn a_decision_costs_one_read_for_all_who_wait_for_it() {
    const WAITING: usize = 50;
    let rig = Rig::new().await;
    let pool = rig.database().pool().await;
    let id = "11111111-1111-4111-8111-111111111111";
    let path = format!("/approvals/{id}?wait=25");
    seed::run(
        &pool,
        format!(
            "INSERT INTO step_up_challenges (id, zone_id, challenge_type, expires_at)
             VALUES ('{id}', 'z1', 'human_approval', now() + interval '1 hour')"
        ),
    )
    .await;
    let started = rig.counts().statements;
    assert_eq!(rig.get(&format!("/approvals/{id}")).await.0, StatusCode::OK);
    let before = rig.counts().statements;
    let one_look = before - started;
    let shutdown = Shutdown::new();
    let listening = tokio::spawn(crate::approval::listen(Arc::clone(&rig.sts), shutdown.clone()));
    let waiting = join_all((0..WAITING).map(|_| rig.get(&path)));
    let deciding = async {
        // All have looked twice, and wait.
        wait_until(SOON, async || rig.sts.waiters.len() == WAITING).await;
        let looks = before + 2 * one_look * u64::try_from(WAITING).unwrap();
        wait_until(SOON, async || rig.counts().statements >= looks).await;
        let quiet = rig.counts().statements;
        let decision = format!(
            "UPDATE step_up_challenges SET satisfied_at = now(), approver_subject_id = 'x' WHERE id = '{id}';
             SELECT pg_notify('caracal_approval_decided', '{id}')"
        );
        seed::run(&pool, decision).await;
        quiet
    };
    let (answers, quiet) = tokio::join!(waiting, deciding);
    for (status, body) in &answers {
        assert_eq!(*status, StatusCode::OK);
        assert!(String::from_utf8_lossy(body).contains("\"approved\""));
    }
    let spent = rig.counts().statements - quiet;
    // What looks after all who wait every few seconds may have come in between.
    assert!(
        spent < one_look * u64::try_from(WAITING).unwrap() / 2,
        "{spent} statements for one decision"
    );
    shutdown.trigger();
    listening.await.unwrap();
}
