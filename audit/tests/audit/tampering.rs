//! What somebody with the owner's rights did to the ledger is found; the service's own role can do nothing.

use caracal_audit::verify::ProblemKind;
use caracal_testing::Role;

use crate::world::{World, events};

const ZONE: &str = "z1";

async fn ledger() -> World {
    let world = World::start().await;
    world.publish(&events(ZONE, 6)).await;
    world.stored(6).await;
    assert!(world.verify(ZONE).await.ok);
    world
}

/// Runs `statements` on a fresh ledger and gives what verification finds, as (position, kind).
async fn found_after(statements: &'static str) -> Vec<(i64, ProblemKind)> {
    let world = ledger().await;
    sqlx::raw_sql(statements).execute(&world.pool).await.unwrap();
    let report = world.verify(ZONE).await;
    assert_eq!(report.ok, report.problems.is_empty());
    report
        .problems
        .iter()
        .map(|problem| (problem.chain_seq, problem.kind))
        .collect()
}

#[tokio::test]
async fn an_edited_event_is_found() {
    use ProblemKind::ContentMismatch;
    for edit in [
        "UPDATE audit_events SET decision = 'allow' WHERE chain_seq = 3",
        "UPDATE audit_events SET metadata_json = metadata_json || '{\"n\": 4}' WHERE chain_seq = 3",
        "UPDATE audit_events SET diagnostics_json = NULL WHERE chain_seq = 3",
        "UPDATE audit_events SET occurred_at = occurred_at + interval '1 microsecond' WHERE chain_seq = 3",
        "UPDATE audit_events SET id = 'other' WHERE chain_seq = 3",
    ] {
        assert_eq!(found_after(edit).await, [(3, ContentMismatch)], "{edit}");
    }
}

#[tokio::test]
async fn an_edit_with_a_new_hash_breaks_the_link_and_the_seal() {
    use ProblemKind::{ChainBreak, ContentMismatch, HmacMismatch};
    let rehashed =
        "UPDATE audit_events SET decision = 'allow', content_sha256 = repeat('0', 64) WHERE chain_seq = 3";
    assert_eq!(
        found_after(rehashed).await,
        [(3, ContentMismatch), (3, HmacMismatch), (4, ChainBreak)]
    );
    let resealed = "UPDATE audit_events SET chain_hmac = repeat('0', 64) WHERE chain_seq = 3";
    assert_eq!(found_after(resealed).await, [(3, HmacMismatch)]);
}

#[tokio::test]
async fn a_removed_event_is_found_in_the_middle_at_the_front_and_at_the_end() {
    use ProblemKind::{ChainBreak, Gap, TailMissing};
    assert_eq!(
        found_after("DELETE FROM audit_events WHERE chain_seq = 3").await,
        [(4, Gap), (4, ChainBreak)]
    );
    assert_eq!(
        found_after("DELETE FROM audit_events WHERE chain_seq = 1").await,
        [(2, Gap), (2, ChainBreak)]
    );
    assert_eq!(
        found_after("DELETE FROM audit_events WHERE chain_seq > 4").await,
        [(6, TailMissing)]
    );
    assert_eq!(found_after("DELETE FROM audit_events").await, [(6, TailMissing)]);
    assert_eq!(
        found_after("DELETE FROM audit_chain_heads").await,
        [(0, TailMissing)]
    );
    let closed = "DELETE FROM audit_events WHERE chain_seq = 3; UPDATE audit_events SET chain_seq = chain_seq - 1 WHERE chain_seq > 3";
    assert_eq!(found_after(closed).await, [(3, ChainBreak), (6, TailMissing)]);
}

#[tokio::test]
async fn reordered_and_added_events_are_found() {
    use ProblemKind::{ChainBreak, TailMissing, Unchained};
    let swapped = "UPDATE audit_events SET chain_seq = 9 - chain_seq WHERE chain_seq IN (4, 5)";
    assert_eq!(
        found_after(swapped).await,
        [(4, ChainBreak), (5, ChainBreak), (6, ChainBreak)]
    );
    let outside =
        "INSERT INTO audit_events (id, zone_id, event_type, occurred_at) VALUES ('forged', 'z1', 'x', now())";
    assert_eq!(found_after(outside).await, [(1, Unchained)]);
    let appended = "INSERT INTO audit_events (id, zone_id, event_type, occurred_at, content_sha256, prev_content_sha256, chain_hmac, chain_seq, decision)
        SELECT id, zone_id, event_type, occurred_at + interval '1 day', content_sha256, prev_content_sha256, chain_hmac, 7, decision
        FROM audit_events WHERE chain_seq = 6";
    let problems = found_after(appended).await;
    assert!(
        problems.contains(&(7, ChainBreak)) && problems.contains(&(6, TailMissing)),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_ledger_of_another_key_is_not_ours() {
    let world = ledger().await;
    let url = world.database.url_as(Role::Audit);
    let database =
        caracal_storage::Database::connect(&url, "caracal-test", &caracal_storage::PoolLimits::default())
            .await
            .unwrap();
    let other = caracal_bus::HmacKey::new(vec![7; 32]);
    let keys = caracal_audit::verify::AuditKeys::new(Some(other), None);
    let report = caracal_audit::verify::zone(&database, ZONE, &keys).await.unwrap();
    assert_eq!((report.ok, report.problems_total), (false, 6));
}

#[tokio::test]
async fn the_services_own_role_can_neither_change_nor_remove_an_event() {
    let world = ledger().await;
    let own = world.database.pool_as(Role::Audit).await;
    for statement in [
        "UPDATE audit_events SET decision = 'allow'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "DELETE FROM audit_chain_heads",
        "UPDATE audit_ingest_alerts SET kind = ''",
        "ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&own).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    assert!(world.verify(ZONE).await.ok);
}
