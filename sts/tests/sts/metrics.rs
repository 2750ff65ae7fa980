//! Is everything counted under the name the contract gives it (`docs/contract/token-exchange.md`, "Metrics")?

use caracal_testing::{FaultProxy, Role, TestDatabase, TestRedis, wait_until};
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use crate::seed;
use crate::stack::{SOON, Stack, header_map};
use crate::upstream_credentials::{call, configure, connect, refusing_server, start, token, token_server};

/// Every name, with its kind.
const NAMES: [(&str, &str); 53] = [
    ("approval_waiters", "gauge"),
    ("audit_dropped_total", "counter"),
    ("audit_replay_bytes", "gauge"),
    ("audit_replay_files", "gauge"),
    ("audit_replay_oldest_age_seconds", "gauge"),
    ("audit_replay_pending", "gauge"),
    ("audit_replay_replayed_total", "counter"),
    ("audit_sink_errors_total", "counter"),
    ("bus_round_trips", "gauge"),
    ("database_statements", "gauge"),
    ("denial_events_suppressed_total", "counter"),
    ("exchange_seconds", "histogram"),
    ("exchanges_total", "counter"),
    ("gateway_channels", "gauge"),
    ("graph_read_seconds", "histogram"),
    ("graph_traversal_errors_total", "counter"),
    ("graph_traversals_total", "gauge"),
    ("introspections_total", "counter"),
    ("jwks_invalid_keys_total", "counter"),
    ("mac_questions_unproven_total", "counter"),
    ("mandates_total", "counter"),
    ("minted_tokens", "gauge"),
    ("opa_compile_duration_seconds_total", "gauge"),
    ("opa_compile_errors_total", "counter"),
    ("opa_compile_total", "gauge"),
    ("opa_eval_duration_seconds_total", "gauge"),
    ("opa_eval_errors_total", "counter"),
    ("opa_eval_total", "gauge"),
    ("opa_max_policy_age_seconds", "gauge"),
    ("opa_poll_interval_seconds", "gauge"),
    ("policy_compile_seconds", "histogram"),
    ("policy_question_seconds", "histogram"),
    ("policy_questions_total", "counter"),
    ("policy_seconds", "histogram"),
    ("policy_shadow_total", "counter"),
    ("provider_circuit_open_total", "counter"),
    ("provider_refresh_errors_total", "counter"),
    ("provider_refresh_leased_total", "counter"),
    ("provider_refresh_shared_total", "counter"),
    ("provider_refresh_waited_total", "counter"),
    ("revocation_age_milliseconds", "gauge"),
    ("revocations_active", "gauge"),
    ("secret_backend_errors_total", "counter"),
    ("secret_backend_reads_total", "counter"),
    ("session_views", "gauge"),
    ("stage_seconds", "histogram"),
    ("stream_entries_total", "counter"),
    ("subject_tokens_known_total", "counter"),
    ("subject_tokens_verified_total", "counter"),
    ("upstream_credentials_total", "counter"),
    ("zone_load_seconds", "histogram"),
    ("zone_reloads", "gauge"),
    ("zones_loaded", "gauge"),
];

#[tokio::test]
async fn every_name_of_the_contract_is_there_and_no_other() {
    let stack = Stack::start().await;
    let client = [("application_id", "app-1"), ("client_secret", seed::SECRET)];
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let fields = [client[0], client[1], ("token", one_shot.as_str())];
    let form = header_map(&[("content-type", "application/x-www-form-urlencoded")]);
    let body = caracal_wire::form::encode(&fields);
    stack
        .send(Method::POST, "/zones/z1/oauth2/introspect", form, &body)
        .await;
    // A metric with labels is there from its first value on; policies on trial and questions have had none.
    let unused = ["policy_questions_total", "policy_shadow_total"];
    wait_until(SOON, async || {
        stack.metrics().await.contains("stream_entries_total")
    })
    .await;
    let text = stack.metrics().await;
    let found: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE caracal_sts_")?.split_once(' '))
        .collect();
    let expected: Vec<(&str, &str)> = NAMES
        .into_iter()
        .filter(|(name, _)| !unused.contains(name))
        .collect();
    assert_eq!(found, expected);
    let contract = include_str!("../../../docs/contract/token-exchange.md");
    for (name, _) in NAMES {
        assert!(
            contract.contains(&format!("`{name}")),
            "{name} is not in the contract"
        );
    }
}

#[tokio::test]
async fn exchanges_are_counted_and_timed_by_what_became_of_them() {
    let stack = Stack::start().await;
    let json = async || {
        let bearer = header_map(&[("authorization", "Bearer metrics")]);
        stack.send(Method::GET, "/metrics.json", bearer, "").await.body
    };
    assert_eq!(
        stack
            .send(Method::GET, "/metrics", HeaderMap::new(), "")
            .await
            .status,
        StatusCode::UNAUTHORIZED
    );
    stack.one_shot("resource://crm", "crm:read").await;
    stack.mint(&[("resource", "resource://unknown")]).await;
    for (name, value) in [
        ("mandates_total{use=\"gateway\"}", 1),
        ("exchanges_total{outcome=\"issued\"}", 1),
        ("exchanges_total{outcome=\"policy\"}", 1),
        ("exchange_seconds_count{class=\"one_shot\"}", 1),
        ("exchange_seconds_count{class=\"session\"}", 1),
        ("exchange_seconds_count{class=\"gateway\"}", 0),
        ("stage_seconds_count{stage=\"client\"}", 2),
        ("stage_seconds_count{stage=\"policy\"}", 2),
        ("stage_seconds_count{stage=\"mint\"}", 1),
        ("policy_seconds_count", 1),
        ("opa_eval_total", 1),
        ("opa_compile_total", 1),
        ("opa_compile_errors_total", 0),
        ("policy_compile_seconds_count", 1),
        ("opa_poll_interval_seconds", 60),
        ("zones_loaded", 1),
        ("secret_backend_errors_total", 0),
        ("jwks_invalid_keys_total", 0),
        ("graph_traversal_errors_total", 0),
        ("audit_replay_replayed_total", 0),
        ("audit_dropped_total", 0),
    ] {
        assert_eq!(stack.metric(name).await, value, "{name}");
    }
    let reads = stack.metric("secret_backend_reads_total").await;
    assert!(
        reads > 0 && reads % 4 == 0,
        "four at each load of the zone: {reads}"
    );
    let json = json().await;
    assert_eq!(
        (
            &json["opa"]["eval_total"],
            &json["opa"]["compile_total"],
            &json["opa"]["compile_errors"],
            &json["opa"]["poll_interval_seconds"],
            &json["audit_dropped"],
        ),
        (&json!(1), &json!(1), &json!(0), &json!(60), &json!(0))
    );
    assert!(json["sts"]["audit_replay_bytes"].is_number());
}

#[tokio::test]
async fn what_cannot_be_opened_or_compiled_when_a_zone_is_loaded_is_counted() {
    let stack = Stack::start().await;
    stack.one_shot("resource://crm", "crm:read").await;
    let errors = [
        (
            "jwks_invalid_keys_total",
            "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope)
             VALUES ('k-damaged', 'z1', 'z1', 'zone_signing_key', 'token', '\\x00')",
        ),
        (
            "secret_backend_errors_total",
            "UPDATE secret_store SET envelope = '\\x00' WHERE ref LIKE '%/p-key/%'",
        ),
    ];
    for (name, damage) in errors {
        assert!(stack.metric(name).await == 0, "{name}");
        stack.sql(damage).await;
        wait_until(SOON, async || stack.metric(name).await > 0).await;
    }
    seed::policy(&stack.pool, "psv-2", "package caracal.authz\n\nallow := true").await;
    wait_until(SOON, async || stack.metric("opa_compile_errors_total").await > 0).await;
    assert!(stack.metric("opa_compile_total").await > 1, "tried, and counted");
}

#[tokio::test]
async fn refreshes_are_counted_by_who_made_them() {
    let stack = start(&[]).await;
    let server = token_server(3_600).await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    let mandates = join_all((0..10).map(|_| stack.one_shot("resource://oauth", "crm:read"))).await;
    // Another replica is at it, and dies once everybody waits for it.
    stack
        .sql("UPDATE provider_connections SET refresh_lease = 'other', refresh_lease_until = now() + interval '1 hour'")
        .await;
    let calls = mandates
        .iter()
        .map(|mandate| stack.at_gateway(mandate, "resource://oauth", &[]));
    let dies = async {
        wait_until(SOON, async || {
            stack.metric("provider_refresh_waited_total").await >= 1
                && stack.metric("provider_refresh_shared_total").await >= 1
        })
        .await;
        stack
            .sql("UPDATE provider_connections SET refresh_lease_until = now()")
            .await;
    };
    let (answers, ()) = tokio::join!(join_all(calls), dies);
    for answer in answers {
        if answer.status == StatusCode::OK {
            assert_eq!(token(&answer), "t-1");
        }
    }
    wait_until(SOON, async || call(&stack).await.status == StatusCode::OK).await;
    for (name, least, most) in [
        ("provider_refresh_waited_total", 1, i64::MAX),
        ("provider_refresh_leased_total", 1, 1),
        ("provider_refresh_shared_total", 1, i64::MAX),
        ("provider_refresh_errors_total", 0, 0),
        ("provider_circuit_open_total", 0, 0),
    ] {
        let value = stack.metric(name).await;
        assert!((least..=most).contains(&value), "{name}: {value}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_counted_until_it_is_left_alone() {
    let stack = start(&[]).await;
    let server = refusing_server(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable").await;
    configure(&stack, "oauth2_authorization_code", &server, &json!({})).await;
    connect(&stack, "app-1", "now() - interval '1 second'", Some("r-0")).await;
    wait_until(SOON, async || {
        call(&stack).await;
        stack.metric("provider_circuit_open_total").await > 0
    })
    .await;
    assert!(stack.metric("provider_circuit_open_total").await == 1);
    let errors = stack.metric("provider_refresh_errors_total").await;
    assert!(errors >= 5, "{errors}");
    let failed = stack
        .metric("upstream_credentials_total{outcome=\"failed\"}")
        .await;
    assert!(failed >= errors, "{failed} {errors}");
}

#[tokio::test]
async fn what_an_earlier_process_left_in_the_spool_is_counted() {
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let proxy = FaultProxy::before(redis.url()).await;
    let (url, through) = (database.url_as(Role::Sts), proxy.url_through(redis.url()));
    let settings = [("REVOCATION_FRESHNESS", "600s")];
    let stack = Stack::start_between(database, &url, redis, &through, &settings).await;
    stack.one_shot("resource://crm", "crm:read").await;
    wait_until(SOON, async || stack.metric("audit_replay_pending").await == 0).await;
    proxy.refuse();
    for _ in 0..3 {
        stack.one_shot("resource://crm", "crm:read").await;
    }
    assert!(stack.metric("audit_replay_pending").await > 2);
    assert!(stack.metric("audit_replay_files").await > 0);
    let stack = stack.restart().await;
    assert!(stack.metric("audit_replay_replayed_total").await > 2);
    wait_until(SOON, async || stack.metric("audit_replay_pending").await == 0).await;
}
