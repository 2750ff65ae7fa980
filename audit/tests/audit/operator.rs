//! What the operator can ask.

use serde_json::{Value, json};

use crate::world::{ADMIN_TOKEN, World, event, events};

#[tokio::test]
async fn events_are_found_by_zone_and_request_and_page_by_page() {
    let world = World::start().await;
    world.publish(&events("z1", 5)).await;
    world.publish(&events("z2", 2)).await;
    world.stored(7).await;
    let operator = world.api(Some(ADMIN_TOKEN));
    let by_request = operator
        .get("/api/audit/search?zone_id=z1&request_id=req-2")
        .await
        .expect(200);
    assert_eq!(
        by_request["events"].as_array().map(Vec::len),
        Some(1),
        "however old it is: {by_request}"
    );
    let found = &by_request["events"][0];
    let mut expected = event("z1", 2);
    for member in ["policy_set_id", "policy_set_version_id", "manifest_sha"] {
        expected[member] = Value::Null;
    }
    expected["occurred_at"] = json!("2026-01-02T03:04:05.123456Z");
    assert_eq!(found["Event"], expected);
    assert_eq!(found["ChainSeq"], 2);
    for member in ["ContentSHA256", "PrevContentSHA256", "ChainHMAC", "IngestedAt"] {
        assert!(found[member].is_string(), "{member}");
    }
    let search = "/api/audit/search?zone_id=z1&since=2026-01-01T00:00:00Z&limit=3";
    let first = operator.get(search).await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = operator
        .get(&format!("{search}&cursor={cursor}"))
        .await
        .expect(200);
    let places = |answer: &Value| -> Vec<i64> {
        answer["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["ChainSeq"].as_i64().unwrap())
            .collect()
    };
    assert_eq!((places(&first), places(&rest)), (vec![1, 2, 3], vec![4, 5]));
    assert_eq!(rest["next_cursor"], "");
    let denied = operator
        .get("/api/audit/search?zone_id=z1&since=2026-01-01T00:00:00Z&decision=deny")
        .await;
    assert_eq!(places(&denied.expect(200)), [1, 3, 5]);
    let yesterday = operator.get("/api/audit/search?zone_id=z1").await.expect(200);
    assert_eq!(
        places(&yesterday),
        Vec::<i64>::new(),
        "without a request, the last day is looked at"
    );
    let report = operator.get("/api/audit/verify?zone_id=z1").await.expect(200);
    assert_eq!(
        (&report["ok"], &report["checked"], &report["head_seq"]),
        (&json!(true), &json!(5), &json!(5))
    );
    let empty = operator.get("/api/audit/verify?zone_id=none").await.expect(200);
    assert_eq!((&empty["ok"], &empty["checked"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn only_the_operator_may_ask_and_only_sensible_things() {
    let world = World::start().await;
    for path in ["/api/audit/search?zone_id=z1", "/api/audit/verify?zone_id=z1"] {
        for bearer in [None, Some("wrong"), Some("")] {
            let answer = world.api(bearer).get(path).await;
            assert_eq!(answer.status, 401, "{bearer:?} at {path}");
            assert!(answer.headers.contains_key("www-authenticate"));
        }
    }
    let operator = world.api(Some(ADMIN_TOKEN));
    for query in [
        "",
        "?zone_id=",
        "?zone_id=z1&since=yesterday",
        "?zone_id=z1&cursor=x",
        "?zone_id=z1&limit=many",
    ] {
        let answer = operator.get(&format!("/api/audit/search{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    assert_eq!(
        operator.get("/api/audit/none").await.text_of("error"),
        "not_found"
    );
    assert_eq!(world.api(None).get("/health").await.status, 200);
}
