//! Does any query that runs often read a whole table?
//!
//! Asked of the database itself: `pg_stat_xact_user_tables` counts the sequential scans of the running transaction, so
//! what is measured is the statement that ran, with the role and the row-level security it runs with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::time::Duration;

use caracal_migrations::Role;
use caracal_model::ZoneId;
use caracal_storage::admin_audit::{self, Record};
use caracal_storage::session_graph::{self, GraphKey};
use caracal_storage::{AnyTx, Database, PoolLimits, ZoneScope, audit_event, outbox, revocation, signing_key};
use caracal_testing::TestDatabase;
use time::OffsetDateTime;

/// Enough rows that reading all of them is never the cheaper plan.
const ROWS: &str = "
INSERT INTO zones (id, name, slug) SELECT 'z' || n, 'z', 'z' || n FROM generate_series(1, 2000) AS n;
INSERT INTO applications (id, zone_id, name, registration_method) VALUES ('app', 'z1', 'App', 'managed');
INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
    SELECT 'z1', 'session', 's' || n, 'x', now() + CASE WHEN n > 19900 THEN 1 ELSE -1 END * interval '1 hour'
    FROM generate_series(1, 20000) AS n;
INSERT INTO event_outbox (id, stream_name, payload_json, dispatched_at)
    SELECT 'e' || n, 's', '{}', CASE WHEN n <= 19900 THEN now() - n * interval '1 minute' END
    FROM generate_series(1, 20000) AS n;
INSERT INTO caracal_outbox (id, producer, topic, dedupe_key, payload_json, status, published_at)
    SELECT 'c' || n, 'api', 's', 'c' || n, '{}', CASE WHEN n <= 19900 THEN 'published' ELSE 'pending' END,
        CASE WHEN n <= 19900 THEN now() - n * interval '1 minute' END
    FROM generate_series(1, 20000) AS n;
INSERT INTO audit_chain_heads (zone_id, seq) SELECT 'z' || n, n FROM generate_series(1, 20000) AS n;
INSERT INTO admin_audit_chain_heads (zone_id, seq, content_sha256) SELECT 'z' || n, n, 'x' FROM generate_series(1, 20000) AS n;
INSERT INTO audit_events (id, zone_id, event_type, request_id, occurred_at, chain_seq, metadata_json)
    SELECT 'e' || n, 'z' || n % 50, 't', 'q' || n, now(), n, jsonb_build_object('agent_session_id', 's' || n, 'session_id', 'r' || n, 'application_id', 'a' || n % 1000)
    FROM generate_series(1, 20000) AS n;
INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope)
    SELECT 'k' || n, 'z' || n % 2000 + 1, 'z' || n % 2000 + 1, 'zone_signing_key', 'token', 'x' FROM generate_series(1, 6000) AS n;
INSERT INTO authority_records (id, zone_id, session_type, expires_at, authenticated_at, parent_id)
    SELECT 'r' || n, 'z1', 'application', now() + n * interval '1 second', now(), CASE WHEN n > 1 THEN 'r' || n / 2 END
    FROM generate_series(1, 5000) AS n;
INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, parent_id, depth)
    SELECT 's' || n, 'z1', 'app', 'r' || n, CASE WHEN n > 1 THEN 's' || n / 2 END, 0 FROM generate_series(1, 5000) AS n;
INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
        receiver_application_id, parent_edge_id, expires_at)
    SELECT 'd' || n, 'z1', 's' || n, 's' || n + 1, 'app', 'app', CASE WHEN n > 1 THEN 'd' || n / 2 END, now() + interval '1 hour'
    FROM generate_series(1, 4999) AS n;
ANALYZE;
";

struct Fixture {
    test: TestDatabase,
}

impl Fixture {
    async fn new() -> Self {
        let test = TestDatabase::new().await;
        sqlx::raw_sql(ROWS).execute(&test.pool().await).await.unwrap();
        Self { test }
    }

    async fn connect(&self, role: Role) -> Database {
        Database::connect(&self.test.url_as(role), "caracal-test", &PoolLimits::default())
            .await
            .unwrap()
    }
}

/// Fails when this transaction has read one of the big tables from end to end.
async fn no_table_was_read_whole(tx: impl AnyTx<'_>, what: &str) {
    let scanned: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, seq_scan, seq_tup_read FROM pg_stat_xact_user_tables WHERE seq_tup_read > 1000",
    )
    .fetch_all(tx)
    .await
    .unwrap();
    assert!(scanned.is_empty(), "{what} read {scanned:?}");
}

fn zone() -> ZoneId {
    "z1".parse().unwrap()
}

#[tokio::test]
async fn the_queries_of_the_relay_and_of_every_start_use_an_index() {
    let fixture = Fixture::new().await;
    let sts = fixture.connect(Role::Sts).await;

    let mut tx = sts.read().await.unwrap();
    assert_eq!(
        revocation::live_after(&mut tx, 0, 1_000)
            .await
            .unwrap()
            .revoked
            .len(),
        100
    );
    no_table_was_read_whole(&mut tx, "the list of live revocations").await;

    let mut tx = sts.write(ZoneScope::All).await.unwrap();
    let rows = outbox::claim(&mut tx, 64, Duration::from_secs(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rows.len(), 128);
    no_table_was_read_whole(&mut tx, "claiming").await;
    outbox::mark_published(&mut tx, &rows).await.unwrap();
    no_table_was_read_whole(&mut tx, "marking").await;

    let mut tx = sts.read().await.unwrap();
    outbox::watermark(&mut tx).await.unwrap();
    no_table_was_read_whole(&mut tx, "the watermark").await;
    let pending = outbox::backlog(&mut tx).await.unwrap().pending;
    assert_eq!(pending, 200 + 2_000, "and one announcement for each zone");
    no_table_was_read_whole(&mut tx, "the backlog").await;

    signing_key::newest(&mut tx, &zone(), 2).await.unwrap();
    no_table_was_read_whole(&mut tx, "the newest keys").await;

    let control = fixture.connect(Role::Api).await;
    let mut tx = control.write(ZoneScope::All).await.unwrap();
    assert_eq!(
        outbox::prune(&mut tx, Duration::from_hours(325), 10)
            .await
            .unwrap(),
        20
    );
    no_table_was_read_whole(&mut tx, "pruning the outboxes").await;
    revocation::prune(&mut tx, 10).await.unwrap();
    no_table_was_read_whole(&mut tx, "pruning the revocations").await;
}

#[tokio::test]
async fn appending_a_record_never_searches_for_the_end_of_its_chain() {
    let fixture = Fixture::new().await;
    let control = fixture.connect(Role::Api).await;
    let one = zone();
    let mut tx = control.write(ZoneScope::All).await.unwrap();
    let record = Record {
        id: "a",
        request_id: "r",
        actor_id: None,
        actor_name: None,
        actor_scope: None,
        action: "a",
        method: "m",
        path: "p",
        zone_id: Some(&one),
        entity_type: None,
        entity_id: None,
        status_code: 200,
        payload: None,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
    };
    admin_audit::append(&mut tx, None, &record).await.unwrap();
    no_table_was_read_whole(&mut tx, "appending an administrative record").await;

    let audit = fixture.connect(Role::Audit).await;
    let mut tx = audit.write(ZoneScope::All).await.unwrap();
    let seq: i64 = sqlx::query_scalar("SELECT seq FROM audit_chain_heads WHERE zone_id = 'z7' FOR UPDATE")
        .fetch_one(&mut tx)
        .await
        .unwrap();
    assert_eq!(seq, 7);
    no_table_was_read_whole(&mut tx, "the head of an audit chain").await;
}

#[tokio::test]
async fn a_lineage_is_followed_through_indexes() {
    let fixture = Fixture::new().await;
    let sts = fixture.connect(Role::Sts).await;
    let key = GraphKey {
        zone_id: zone(),
        authority_record_id: Some("r7".parse().unwrap()),
        session_id: Some("s4999".parse().unwrap()),
        delegation_id: Some("d4998".parse().unwrap()),
    };
    let mut tx = sts.read().await.unwrap();
    let graph = session_graph::load(&mut tx, &key).await.unwrap();
    assert_eq!(graph.lineage.len(), 13, "4998 halves to 1 in twelve steps");
    no_table_was_read_whole(&mut tx, "a session with its lineage").await;
}

/// What the indexes of the schema are for, in the form the services ask it. Each runs under row-level security, bound to
/// one zone, as the role that runs it.
#[tokio::test]
async fn the_indexes_serve_the_questions_they_are_made_for() {
    let fixture = Fixture::new().await;
    let one = zone();
    for (role, what, statement) in [
        (
            Role::Coordinator,
            "the children of a session",
            "SELECT id FROM sessions WHERE zone_id = 'z1' AND parent_id = 's7'",
        ),
        (
            Role::Coordinator,
            "sessions that are over their time",
            "SELECT id FROM sessions WHERE status IN ('active', 'suspended') AND expires_at < now() ORDER BY expires_at, id LIMIT 500",
        ),
        (
            Role::Coordinator,
            "the delegations into a session",
            "SELECT id FROM delegation_edges WHERE zone_id = 'z1' AND target_session_id = 's7' AND status = 'active'",
        ),
        (
            Role::Coordinator,
            "the delegations below a delegation",
            "SELECT id FROM delegation_edges WHERE zone_id = 'z1' AND parent_edge_id = 'd7'",
        ),
        (
            Role::Api,
            "the records below a record",
            "SELECT id FROM authority_records WHERE parent_id = 'r7'",
        ),
        (
            Role::Api,
            "the sessions below a record",
            "SELECT id FROM sessions WHERE zone_id = 'z1' AND subject_authority_record_id = 'r7'",
        ),
        (
            Role::Api,
            "the events of a session",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' AND agent_session_id = 's51' ORDER BY occurred_at DESC LIMIT 50",
        ),
        (
            Role::Api,
            "the events of an authority record",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' AND authority_record_id = 'r51' ORDER BY occurred_at DESC, id DESC LIMIT 50",
        ),
        (
            Role::Api,
            "the events of an application",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' AND application_id = 'a51' ORDER BY occurred_at DESC, id DESC LIMIT 50",
        ),
        (
            Role::Api,
            "the events of a request",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' AND request_id = 'q51' ORDER BY occurred_at, id LIMIT 50",
        ),
        (
            Role::Audit,
            "the next links of a chain",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' AND chain_seq > 100 ORDER BY chain_seq LIMIT 50",
        ),
        (
            Role::Api,
            "the newest events of a zone",
            "SELECT id FROM audit_events WHERE zone_id = 'z1' ORDER BY occurred_at DESC, id DESC LIMIT 50",
        ),
    ] {
        let database = fixture.connect(role).await;
        for scope in [ZoneScope::All, ZoneScope::Zone(&one)] {
            let mut tx = database.read_in(scope).await.unwrap();
            let _rows = sqlx::query(statement).fetch_all(&mut tx).await.unwrap();
            no_table_was_read_whole(&mut tx, what).await;
        }
    }
}

/// A plan is made and kept while there is nothing to read yet, as on the first day of a month.
#[tokio::test]
async fn known_events_are_found_by_their_ids_however_young_the_ledger_is() {
    let test = TestDatabase::new().await;
    let one_connection = PoolLimits {
        connections_max: 1,
        ..PoolLimits::default()
    };
    let audit = Database::connect(&test.url_as(Role::Audit), "caracal-test", &one_connection)
        .await
        .unwrap();
    let zone = zone();
    // Statistics of it would have the plan made again.
    let pool = test.pool().await;
    let unattended = sqlx::raw_sql("ALTER TABLE audit_events_default SET (autovacuum_enabled = off)");
    unattended.execute(&pool).await.unwrap();
    for _look in 0..10 {
        let mut tx = audit.write(ZoneScope::Zone(&zone)).await.unwrap();
        audit_event::lock_head(&mut tx, &zone).await.unwrap();
        assert_eq!(
            audit_event::stored_hashes(&mut tx, &zone, &["e1"]).await.unwrap(),
            []
        );
        tx.commit().await.unwrap();
    }
    let young = "INSERT INTO audit_events (id, zone_id, event_type, occurred_at, chain_seq, content_sha256) \
        SELECT 'e' || n, 'z' || n % 2, 't', '2001-01-01', n, 'h' || n FROM generate_series(1, 20000) AS n";
    sqlx::raw_sql(young).execute(&pool).await.unwrap();
    let mut tx = audit.write(ZoneScope::Zone(&zone)).await.unwrap();
    audit_event::lock_head(&mut tx, &zone).await.unwrap();
    let found = audit_event::stored_hashes(&mut tx, &zone, &["e1", "e2", "e3", "no"])
        .await
        .unwrap();
    let expected = [
        ("e1".to_owned(), "h1".to_owned()),
        ("e3".to_owned(), "h3".to_owned()),
    ];
    assert_eq!(found, expected, "those of this zone, and no other's");
    let read: i64 = sqlx::query_scalar(
        "SELECT sum(seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables WHERE relname LIKE 'audit_events%'",
    )
    .fetch_one(&mut tx)
    .await
    .unwrap();
    assert!(read <= 4, "{read} rows were read for four ids");
}
