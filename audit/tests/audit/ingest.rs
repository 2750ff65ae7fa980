//! From the stream into the chain.

use caracal_bus::Bus;
use caracal_testing::wait_until;
use caracal_wire::stream::{AUDIT_EVENTS, Fields, GROUP_AUDIT_INGESTOR};
use serde_json::json;

use crate::world::{PATIENCE, World, entry, event, events};

async fn is_idle(bus: &dyn Bus) -> bool {
    bus.pending(AUDIT_EVENTS, GROUP_AUDIT_INGESTOR)
        .await
        .unwrap()
        .count
        == 0
}

/// The vectors of docs/contract/audit-events.md, "Chain", through the real database.
#[tokio::test]
async fn the_published_chain_comes_out_of_the_database() {
    let world = World::start().await;
    let first = r#"{"id":"evt-1","zone_id":"zone-a","event_type":"token_exchange","request_id":"req-1","decision":"allow",
        "policy_set_id":"ps-1","policy_set_version_id":"psv-1","manifest_sha":"ab12","evaluation_status":"complete",
        "determining_policies_json":[{"policy":"grants"}],"diagnostics_json":[],
        "metadata_json":{"resource":"resource://x","scope":"a b"},"occurred_at":"2026-01-02T03:04:05.123456999Z"}"#;
    let second = r#"{"id":"evt-2","zone_id":"zone-a","event_type":"token_exchange","request_id":"req-2","decision":"deny",
        "evaluation_status":"complete","determining_policies_json":[],"diagnostics_json":[],"metadata_json":null,
        "occurred_at":"2026-01-02T04:04:05.124456+01:00","later_member":{}}"#;
    world.publish(&[first.to_owned(), second.to_owned()]).await;
    world.stored(2).await;
    let links = world
        .column("SELECT concat_ws(' ', chain_seq, content_sha256, prev_content_sha256, chain_hmac) FROM audit_events ORDER BY chain_seq")
        .await;
    assert_eq!(
        links,
        [
            "1 60fe80ba0eef70a225e50f7d45635b6ed29e3b4bcd5f6f2c51e03823a4fa9cd4 \
             fda90d0fe03ac4aaee91eb8b814825b67e971db25fc1b8aca96df6c787a8f569",
            "2 79bd9a586e6c23529a70a9f2564e4c9397e12285cfc500140043d93bbae90b24 \
             60fe80ba0eef70a225e50f7d45635b6ed29e3b4bcd5f6f2c51e03823a4fa9cd4 \
             a35d1b7633870bc34cefbd0805013a98cb99f81039cafa710401e7d587a95d21",
        ]
    );
    assert_eq!(
        world
            .column("SELECT signed_data FROM audit_events ORDER BY chain_seq")
            .await,
        [first, second]
    );
    let report = world.verify("zone-a").await;
    assert!(report.ok && report.checked == 2, "{report:?}");
}

async fn many_events_of_several_zones(world: &World) {
    for zone in ["z1", "z2", "z3"] {
        world.publish(&events(zone, 120)).await;
    }
    world.stored(360).await;
    for zone in ["z1", "z2", "z3"] {
        let report = world.verify(zone).await;
        assert!(
            report.ok && report.checked == 120 && report.head_seq == 120,
            "{report:?}"
        );
    }
    let order = world
        .column("SELECT chain_seq::text FROM audit_events WHERE zone_id = 'z2' ORDER BY (metadata_json ->> 'n')::int")
        .await;
    let expected: Vec<String> = (1..=120).map(|n: u32| n.to_string()).collect();
    assert_eq!(order, expected, "a zone's events keep their order");
    // All of it again, as a producer that is not sure whether it got through sends it.
    world.publish(&events("z1", 120)).await;
    world.publish(&[event("z1", 121).to_string()]).await;
    world.stored(361).await;
    wait_until(PATIENCE, async || is_idle(world.bus.as_ref()).await).await;
    let report = world.verify("z1").await;
    assert!(report.ok && report.head_seq == 121, "{report:?}");
    assert!(
        world
            .column("SELECT kind FROM audit_ingest_alerts")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn each_zone_has_one_chain_and_each_event_one_place_on_the_bus_in_process() {
    many_events_of_several_zones(&World::start().await).await;
}

#[tokio::test]
async fn each_zone_has_one_chain_and_each_event_one_place_on_redis() {
    many_events_of_several_zones(&World::start_on_redis().await).await;
}

#[tokio::test]
async fn an_event_that_comes_again_with_another_content_raises_an_alert_and_changes_nothing() {
    let world = World::start().await;
    world.publish(&events("z1", 2)).await;
    world.stored(2).await;
    let mut forged = event("z1", 1);
    forged["decision"] = json!("allow");
    let mut moved = event("z1", 2);
    moved["occurred_at"] = json!("2026-03-01T00:00:00Z");
    world.publish(&[forged.to_string(), moved.to_string()]).await;
    let letters = world.dead_letters(2).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.fields["reason"] == "tamper_on_replay")
    );
    assert_eq!(letters[0].fields["src_data"], forged.to_string());
    assert!(letters[0].fields.contains_key("src_sig") && letters[0].fields.contains_key("src_id"));
    let alerts = "SELECT concat_ws(' ', zone_id, event_id, kind, detail LIKE 'stored=%incoming=%') FROM audit_ingest_alerts ORDER BY id";
    assert_eq!(
        world.column(alerts).await,
        [
            "z1 z1-1 content_mismatch_on_replay t",
            "z1 z1-2 content_mismatch_on_replay t"
        ]
    );
    assert_eq!(
        world
            .column("SELECT decision FROM audit_events WHERE id = 'z1-1'")
            .await,
        ["deny"]
    );
    assert!(world.verify("z1").await.ok);
}

#[tokio::test]
async fn what_is_not_a_signed_event_is_put_aside_and_stops_nothing() {
    let world = World::start().await;
    let good = event("z1", 1).to_string();
    let mut unsigned = entry(&good);
    unsigned.remove("sig");
    let mut altered = entry(&good);
    altered.insert("data".to_owned(), good.replace("deny", "allow"));
    let mut upper = entry(&event("z1", 9).to_string());
    upper.insert("sig".to_owned(), "zz".to_owned());
    let nothing = Fields::from([("id".to_owned(), "x".to_owned())]);
    // PostgreSQL keeps no half of a surrogate pair, although JSON allows to write one.
    let unstorable =
        r#"{"id":"bad","zone_id":"z1","occurred_at":"2026-01-02T03:04:05Z","metadata_json":{"a":"\ud800"}}"#;
    let batch = [
        unsigned,
        altered,
        upper,
        nothing,
        entry("{"),
        entry(r#"{"id":"a","zone_id":"no zone","occurred_at":"2026-01-02T03:04:05Z"}"#),
        entry(unstorable),
        entry(&good),
    ];
    world.bus.publish(AUDIT_EVENTS, &batch).await.unwrap();
    let reasons: Vec<String> = world
        .dead_letters(7)
        .await
        .into_iter()
        .map(|letter| {
            letter.fields["reason"]
                .split(':')
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    let mut expected = vec![
        "hmac_verify_failed",
        "hmac_verify_failed",
        "hmac_verify_failed",
        "missing_data_field",
        "json_parse_error",
        "json_parse_error",
        "pg_permanent_error",
    ];
    let mut sorted = reasons.clone();
    sorted.sort();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    world.stored(1).await;
    wait_until(PATIENCE, async || is_idle(world.bus.as_ref()).await).await;
    assert_eq!(world.column("SELECT decision FROM audit_events").await, ["deny"]);
}

#[tokio::test]
async fn nul_characters_are_removed_before_anything_is_hashed() {
    let world = World::start().await;
    let data = r#"{"id":"e\u0000vil","zone_id":"z\u00001","event_type":"t\u0000","request_id":"\u0000r","occurred_at":"2026-01-02T03:04:05Z",
        "metadata_json":{"a\u0000b":["x\u0000y",1.50]},"diagnostics_json":[1.50]}"#;
    world.publish(&[data.to_owned()]).await;
    world.stored(1).await;
    let row = world
        .column("SELECT concat_ws('|', id, zone_id, event_type, request_id, metadata_json -> 'ab' ->> 0, diagnostics_json) FROM audit_events")
        .await;
    assert_eq!(row, ["evil|z1|t|r|xy|[1.50]"]);
    assert!(world.verify("z1").await.ok);
}
