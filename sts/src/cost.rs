//! What does a governed request cost? The counts are a contract (`docs/contract/token-exchange.md`, section "Cost").

use crate::rig::{Counts, Rig};

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
    futures_util::future::join_all(mints).await;
    assert_eq!(
        rig.counts().statements,
        before.statements + 2,
        "BEGIN and one SELECT"
    );
}
