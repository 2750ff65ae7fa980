//! `/v1/zones/{zone}/subject-issuers`: whom a zone believes about its users.

use serde_json::{Value, json};

use crate::harness::{BOOTSTRAP, Harness, id};

fn issuer(name: &str) -> Value {
    json!({
        "issuer": format!("https://{name}.example"), "jwks_url": format!("https://{name}.example/keys"),
        "audience": "caracal",
    })
}

#[tokio::test]
async fn an_issuer_is_made_changed_and_ended() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/subject-issuers");
    let made = api.post(&list, &issuer("idp")).await.expect(201);
    for (member, value) in [
        ("issuer", json!("https://idp.example")),
        ("jwks_url", json!("https://idp.example/keys")),
        ("audience", json!("caracal")),
        ("zone_id", json!(zone)),
        ("created_via_operator", json!(false)),
        ("updated_by", Value::Null),
    ] {
        assert_eq!(made[member], value, "{member}");
    }
    let path = format!("{list}/{}", id(&made));
    assert_eq!(api.get(&path).await.expect(200), made);
    assert_eq!(api.get(&list).await.expect(200)["items"], json!([made]));
    let changed = api
        .patch(
            &path,
            &json!({ "jwks_url": "https://keys.example/", "audience": "other" }),
        )
        .await
        .expect(200);
    assert_eq!(
        (&changed["issuer"], &changed["jwks_url"], &changed["audience"]),
        (
            &json!("https://idp.example"),
            &json!("https://keys.example/"),
            &json!("other")
        )
    );
    let touched = api.patch(&path, &json!({})).await.expect(200);
    assert_eq!(
        (&touched["jwks_url"], touched["updated_by"].is_string()),
        (&changed["jwks_url"], true),
        "an empty change is a change of who was last at it"
    );
    api.post(&list, &issuer("idp"))
        .await
        .refused(409, "subject_issuer_exists");
    api.delete(&path).await.expect(204);
    for answer in [
        api.get(&path).await,
        api.delete(&path).await,
        api.patch(&path, &json!({})).await,
    ] {
        answer.refused(404, "subject_issuer_not_found");
    }
    assert_eq!(api.get(&list).await.expect(200)["items"], json!([]));
    api.post(&list, &issuer("idp")).await.expect(201);
}

#[tokio::test]
async fn what_is_no_issuer_is_refused_with_its_member() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/subject-issuers");
    let made = id(&api.post(&list, &issuer("idp")).await.expect(201));
    let rows = [
        ("issuer", json!("http://a.example")),
        ("issuer", json!("a.example")),
        ("issuer", json!("https://u@a.example")),
        ("issuer", json!("https://a.example?x")),
        ("issuer", json!("https://a.example/#f")),
        (
            "issuer",
            json!(format!("https://a.example/{}", "x".repeat(2_048))),
        ),
        ("issuer", Value::Null),
        ("jwks_url", json!("http://a.example/keys")),
        ("jwks_url", json!("https://:p@a.example/keys")),
        ("jwks_url", json!("")),
        ("audience", json!("")),
        ("audience", json!(" a")),
        ("audience", json!("a".repeat(513))),
        ("audience", json!("a\u{7}b")),
        ("more", json!(1)),
    ];
    for (member, value) in rows {
        let mut body = issuer("other");
        body[member] = value.clone();
        let answer = api.post(&list, &body).await;
        answer.refused(400, "invalid_subject_issuer");
        let about = json!(if member == "more" { vec![] } else { vec![member] });
        assert_eq!(
            answer.body["details"]["issues"][0]["path"], about,
            "{member}: {value}"
        );
        if member != "issuer" {
            api.patch(&format!("{list}/{made}"), &json!({ member: value }))
                .await
                .refused(400, "invalid_subject_issuer");
        }
    }
    api.patch(
        &format!("{list}/{made}"),
        &json!({ "issuer": "https://b.example" }),
    )
    .await
    .refused(400, "invalid_subject_issuer");
    api.post("/v1/zones/nothing/subject-issuers", &issuer("other"))
        .await
        .refused(404, "zone_not_found");
}

#[tokio::test]
async fn a_zone_believes_twenty_issuers_also_when_many_come_at_once() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let list = format!("/v1/zones/{zone}/subject-issuers");
    let bodies: Vec<Value> = (0..24).map(|n| issuer(&format!("idp-{n}"))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| api.post(&list, body))).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 20);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "subject_issuer_limit_reached");
    }
    let first = answers.iter().find(|answer| answer.status == 201).unwrap();
    api.delete(&format!("{list}/{}", id(&first.body)))
        .await
        .expect(204);
    api.post(&list, &issuer("another")).await.expect(201);
}

#[tokio::test]
async fn an_issuer_of_another_zone_is_not_there() {
    let api = Harness::start().await;
    let (own, other) = (api.zone("own").await, api.zone("other").await);
    let made = id(&api
        .post(&format!("/v1/zones/{own}/subject-issuers"), &issuer("idp"))
        .await
        .expect(201));
    let path = format!("/v1/zones/{other}/subject-issuers/{made}");
    let token = api.token("write", Some(&other)).await;
    for (method, body) in [("GET", None), ("PATCH", Some(json!({}))), ("DELETE", None)] {
        for token in [BOOTSTRAP, &token] {
            api.with_token(token, method, &path, body.as_ref())
                .await
                .refused(404, "subject_issuer_not_found");
        }
    }
    api.get(&format!("/v1/zones/{own}/subject-issuers/{made}"))
        .await
        .expect(200);
    assert_eq!(
        api.get(&format!("/v1/zones/{other}/subject-issuers"))
            .await
            .expect(200)["items"],
        json!([])
    );
}
