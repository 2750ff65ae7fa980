//! Policy sets: versions, activation, simulation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Request};
use axum::response::IntoResponse as _;
use axum::routing::get;
use caracal_bus::Bus;
use caracal_testing::wait_for;
use caracal_wire::event::PolicyInvalidate;
use caracal_wire::{gateway_signature, stream};
use serde_json::{Value, json};

use crate::harness::{Harness, id};
use crate::policies::document;

/// Makes a policy and answers the id of its version.
async fn policy(api: &Harness, zone: &str, name: &str, content: &str) -> String {
    let body = json!({ "name": name, "content": content });
    let made = api
        .post(&format!("/v1/zones/{zone}/policies"), &body)
        .await
        .expect(201);
    made["version_id"].as_str().unwrap().to_owned()
}

async fn set(api: &Harness, zone: &str, name: &str) -> String {
    let body = json!({ "name": name });
    id(&api
        .post(&format!("/v1/zones/{zone}/policy-sets"), &body)
        .await
        .expect(201))
}

fn manifest(versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions
        .iter()
        .map(|id| json!({ "policy_version_id": id }))
        .collect();
    json!({ "manifest": entries })
}

/// A set with one version of one policy; answers the path of the set and the id of the version.
async fn ready_set(api: &Harness, zone: &str) -> (String, String) {
    let policy = policy(api, zone, "grants", &document("app-1")).await;
    let path = format!("/v1/zones/{zone}/policy-sets/{}", set(api, zone, "main").await);
    let added = api
        .post(&format!("{path}/versions"), &manifest(&[&policy]))
        .await
        .expect(201);
    (path, added["version_id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_decision_policy_is_stored_compiled_and_tried_as_the_zone_has_it_decide() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let zone_path = format!("/v1/zones/{zone}");
    assert_eq!(api.get(&zone_path).await.expect(200)["policy_mode"], "restrict");
    let text = "# caracal:decision-policy\npackage caracal.authz\nresult := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if input.principal.id == \"app-9\"\n";
    let valid = api
        .post("/v1/policies/validate", &json!({ "content": text }))
        .await
        .expect(200);
    assert_eq!(
        (&valid["valid"], &valid["diagnostics"]),
        (&json!(true), &json!([]))
    );
    let path = format!("{zone_path}/policy-sets/{}", set(&api, &zone, "main").await);
    let broken = policy(&api, &zone, "broken", &text.replace("result", "outcome")).await;
    let refused = api.post(&format!("{path}/versions"), &manifest(&[&broken])).await;
    refused.refused(422, "invalid_policy_bundle");
    let version = policy(&api, &zone, "ours", text).await;
    let added = api
        .post(&format!("{path}/versions"), &manifest(&[&version]))
        .await
        .expect(201);
    let simulate = json!({ "version_id": added["version_id"], "input": {
        "principal": { "type": "Application", "id": "app-9", "zone_id": zone }, "resource": { "identifier": "resource://crm" },
        "action": { "id": "TokenExchange" }, "context": { "requested_scopes": ["read"] } } });
    for (mode, decision, shown) in [
        ("restrict", "deny", "has_a_shape"),
        ("sole", "allow", "decision_policy_allows"),
    ] {
        let changed = api
            .patch(&zone_path, &json!({ "policy_mode": mode }))
            .await
            .expect(200);
        assert_eq!(changed["policy_mode"], mode);
        let tried = api.post(&format!("{path}/simulate"), &simulate).await.expect(200);
        assert_eq!(
            (&tried["policy_mode"], &tried["result"]["decision"]),
            (&json!(mode), &json!(decision)),
            "{tried}"
        );
        let gates = tried["explanation"]["gates"].as_array().unwrap();
        assert_eq!(gates.last().unwrap()["gate"], shown);
    }
    api.patch(&zone_path, &json!({ "policy_mode": "anything" }))
        .await
        .refused(400, "invalid_zone");
    let recorded =
        "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND payload_text LIKE '%policy_mode%'";
    assert_eq!(api.count(recorded, &zone).await, 2);
    let on_trial = json!({ "version_id": added["version_id"] });
    api.post(&format!("{path}/shadow"), &on_trial)
        .await
        .refused(422, "invalid_policy_bundle");
    let long = json!({ "version_id": added["version_id"], "input": { "x": "x".repeat(70_000) } });
    api.post(&format!("{path}/simulate"), &long)
        .await
        .refused(413, "payload_too_large");
}

#[tokio::test]
async fn a_version_is_made_read_and_put_in_force() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let policy = policy(&api, &zone, "grants", &document("app-1")).await;
    let path = format!("/v1/zones/{zone}/policy-sets/{}", set(&api, &zone, "main").await);
    assert_eq!(api.get(&path).await.expect(200)["active_version_id"], json!(null));
    let added = api
        .post(&format!("{path}/versions"), &manifest(&[&policy]))
        .await
        .expect(201);
    let text = format!(r#"[{{"policy_version_id":"{policy}"}}]"#);
    assert_eq!(
        added["manifest_sha256"],
        json!(hex::encode(caracal_token::digest(text.as_bytes())))
    );
    let version = added["version_id"].as_str().unwrap();
    let read = api.get(&format!("{path}/versions/{version}")).await.expect(200);
    assert_eq!(
        (&read["policies"], &read["version"]),
        (&json!([policy]), &json!(1))
    );
    assert_eq!(read["manifest_json"], json!([{ "policy_version_id": policy }]));
    assert_eq!(
        api.get(&format!("{path}/versions")).await.expect(200)["items"][0]["id"],
        json!(version)
    );

    let before = api
        .get(&format!("{path}/activation-status?version_id={version}"))
        .await
        .expect(200);
    assert_eq!(
        (&before["active"], &before["propagation_status"]),
        (&json!(false), &json!("waiting_for_activation"))
    );
    let activated = api
        .post(&format!("{path}/activate"), &json!({ "version_id": version }))
        .await
        .expect(202);
    assert_eq!(
        (&activated["activated"], &activated["version_id"]),
        (&json!(true), &json!(version))
    );
    assert_eq!(
        api.get(&path).await.expect(200)["active_version_id"],
        json!(version)
    );
    let status_url = activated["status_url"].as_str().unwrap();
    let status = wait_for(Duration::from_secs(20), async || {
        let status = api.get(status_url).await.expect(200);
        (status["outbox"]["state"] == "dispatched").then_some(status)
    })
    .await;
    assert_eq!(
        (&status["active"], &status["propagation_status"]),
        (&json!(true), &json!("waiting_for_sts"))
    );

    let first = api.bus.first_id(stream::POLICY_INVALIDATE).await.unwrap();
    assert!(first.is_some(), "the activation was announced");
    let from = [(stream::POLICY_INVALIDATE, caracal_bus::EntryId::ZERO)];
    let read = api.bus.read(&from, 10, Duration::ZERO).await.unwrap();
    let message = PolicyInvalidate::from_fields(&read[0].1[0].fields).unwrap();
    assert_eq!(message.policy_set_version_id.unwrap().as_str(), version);
}

#[tokio::test]
async fn one_set_is_in_force_and_archiving_it_denies_everything() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (first, first_version) = ready_set(&api, &zone).await;
    let policy = policy(&api, &zone, "other", &document("app-2")).await;
    let second = format!(
        "/v1/zones/{zone}/policy-sets/{}",
        set(&api, &zone, "second").await
    );
    let added = api
        .post(&format!("{second}/versions"), &manifest(&[&policy]))
        .await
        .expect(201);
    api.post(
        &format!("{first}/activate"),
        &json!({ "version_id": first_version }),
    )
    .await
    .expect(202);
    api.post(
        &format!("{second}/activate"),
        &json!({ "version_id": added["version_id"] }),
    )
    .await
    .expect(202);
    assert_eq!(
        api.get(&first).await.expect(200)["active_version_id"],
        json!(null)
    );
    assert_eq!(
        api.get(&second).await.expect(200)["active_version_id"],
        added["version_id"]
    );
    api.delete(&second).await.expect(204);
    api.delete(&second).await.refused(404, "policy_set_not_found");
    let active =
        "SELECT count(*) FROM policy_set_bindings WHERE zone_id = $1 AND active_version_id IS NOT NULL";
    assert_eq!(api.count(active, &zone).await, 0);
    let announced = "SELECT count(*) FROM event_outbox WHERE stream_name = 'caracal.policy.invalidate'
                         AND payload_json ->> 'zone_id' = $1 AND NOT payload_json ? 'policy_set_version_id'";
    assert_eq!(
        api.count(announced, &zone).await,
        1,
        "that nothing decides any more is announced"
    );
}

#[tokio::test]
async fn sets_that_cannot_decide_are_refused() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let other = api.zone("other").await;
    let own = policy(&api, &zone, "a", &document("app-1")).await;
    let conflicting = policy(&api, &zone, "b", &document("app-2")).await;
    let foreign = policy(&api, &other, "c", &document("app-1")).await;
    let list = format!("/v1/zones/{zone}/policy-sets");
    let path = format!("{list}/{}", set(&api, &zone, "main").await);
    let versions = format!("{path}/versions");
    for body in [
        json!({}),
        json!({ "manifest": [] }),
        json!({ "manifest": [{}] }),
        manifest(&["not an id"]),
        manifest(&[&own, &own]),
        manifest(&["nothing"]),
        manifest(&[&foreign]),
        manifest(&vec!["x"; 257]),
    ] {
        api.post(&versions, &body)
            .await
            .refused(422, "invalid_policy_contract");
    }
    // Two documents that give `app_ids` different values contradict each other.
    api.post(&versions, &manifest(&[&own, &conflicting]))
        .await
        .refused(422, "invalid_policy_bundle");
    let nowhere = format!("{list}/nothing");
    for answer in [
        api.get(&nowhere).await,
        api.delete(&nowhere).await,
        api.get(&format!("{nowhere}/versions")).await,
        api.post(&format!("{nowhere}/versions"), &manifest(&[&own])).await,
        api.post(&format!("{nowhere}/activate"), &json!({ "version_id": "x" }))
            .await,
    ] {
        answer.refused(404, "policy_set_not_found");
    }
    api.get(&format!("{versions}/nothing"))
        .await
        .refused(404, "policy_set_version_not_found");
    api.post(&format!("{path}/activate"), &json!({ "version_id": "x" }))
        .await
        .refused(404, "version_not_found");
    api.post(&format!("{path}/activate"), &json!({}))
        .await
        .refused(400, "invalid_body");
    api.get(&format!("{nowhere}/activation-status"))
        .await
        .refused(404, "policy_set_binding_not_found");
    let status = api.get(&format!("{path}/activation-status")).await;
    status.refused(404, "active_policy_set_version_not_found");
    api.post(&list, &json!({ "name": "main" }))
        .await
        .refused(409, "policy_set_name_conflict");
    api.post(&list, &json!({})).await.refused(400, "invalid_body");
}

#[tokio::test]
async fn a_version_can_be_tried_without_being_put_in_force() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (path, version) = ready_set(&api, &zone).await;
    let input = json!({
        "schema_version": "2026-05-20",
        "principal": { "type": "Application", "id": "app-1", "zone_id": zone, "registration_method": "managed" },
        "resource": { "type": "Resource", "id": "r", "identifier": "resource://crm", "scopes": ["read"] },
        "action": { "id": "TokenExchange" },
        "context": { "actor_claims": {}, "trace_id": "t", "challenge_resolved": false,
            "requested_scopes": ["agent:lifecycle"] },
    });
    let simulate = format!("{path}/simulate");
    let answer = api
        .post(&simulate, &json!({ "version_id": version, "input": input }))
        .await
        .expect(200);
    assert_eq!(answer["dry_run"], true);
    assert_eq!(answer["would_activate"], true);
    assert_eq!(answer["explanation"]["evaluation"], "executed");
    assert_eq!(
        answer["result"]["decision"], "allow",
        "the owner may bootstrap: {answer}"
    );
    let mut stranger = input;
    stranger["principal"]["id"] = json!("app-9");
    stranger["principal"]["zone_id"] = json!("elsewhere");
    let answer = api
        .post(&simulate, &json!({ "version_id": version, "input": stranger }))
        .await
        .expect(200);
    assert_eq!(answer["result"]["decision"], "deny");
    assert_eq!(answer["warnings"], json!(["principal_zone_mismatch"]));
    let answer = api
        .post(&simulate, &json!({ "version_id": version }))
        .await
        .expect(200);
    assert_eq!(
        (&answer["explanation"]["evaluation"], &answer["result"]),
        (&json!("not_executed"), &json!(null))
    );
    let other = json!({ "version_id": version, "input": { "schema_version": "1999-01-01" } });
    let answer = api.post(&simulate, &other).await.expect(200);
    assert_eq!(answer["explanation"]["evaluation"], "failed");
    api.post(&simulate, &json!({ "version_id": "nothing" }))
        .await
        .refused(404, "version_not_found");
    assert_eq!(api.get(&path).await.expect(200)["active_version_id"], json!(null));
}

#[tokio::test]
async fn a_set_is_refused_with_document_line_and_place_of_every_mistake() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let misspelt = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\ngrants := {\n\t\"resource://crm\": {\n\t\t\"application\": \"bot\",\n\t\t\"rolse\": {},\n\t},\n}\n\nrestrict := \"x\"\n";
    let answer = api
        .post("/v1/policies/validate", &json!({ "content": misspelt }))
        .await
        .expect(200);
    assert_eq!(
        (
            &answer["diagnostics"][0]["line"],
            &answer["diagnostics"][1]["line"]
        ),
        (&json!(9), &json!(13)),
        "a text may be stored before it is right: {answer}"
    );
    let version = policy(&api, &zone, "grants", misspelt).await;
    let path = format!("/v1/zones/{zone}/policy-sets/{}", set(&api, &zone, "main").await);
    let refused = api
        .post(&format!("{path}/versions"), &manifest(&[&version]))
        .await;
    refused.refused(422, "invalid_policy_bundle");
    assert_eq!(
        refused.body["details"]["diagnostics"],
        json!([
            {
                "document": version, "line": 9, "path": r#"grants["resource://crm"]["rolse"]"#,
                "problem": "is not a known member; there are application, roles, ambient",
            },
            { "document": version, "line": 13, "path": "restrict", "problem": "must be an array, a set or an object" },
        ])
    );
    let sentence = refused.body["error_description"].as_str().unwrap();
    assert!(
        sentence.starts_with(&format!("document {version}, line 9: grants")),
        "{sentence}"
    );
}

#[tokio::test]
async fn a_simulation_names_the_gate_that_refuses() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (path, version) = ready_set(&api, &zone).await;
    let input = json!({
        "principal": { "type": "Application", "id": "app-9", "zone_id": zone },
        "resource": { "identifier": "resource://crm" }, "action": {},
        "delegation_edge": { "id": "e1", "scopes": ["read"] },
        "context": { "agent_session_id": "s1", "requested_scopes": ["read"] },
    });
    let body = json!({ "version_id": version, "input": input });
    let answer = api.post(&format!("{path}/simulate"), &body).await.expect(200);
    let explanation = &answer["explanation"];
    assert_eq!(
        (&explanation["decision"], &explanation["shape"]),
        (&json!("deny"), &json!("mint")),
        "{answer}"
    );
    let last = explanation["gates"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["gate"], &last["passed"], &last["refuses_with"]),
        (
            &json!("principal_owns_resource"),
            &json!(false),
            &json!("resource_not_granted")
        )
    );
}

/// A token service that decides by whatever version it was told last, and answers only signed questions.
struct TokenService {
    address: std::net::SocketAddr,
    version: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TokenService {
    async fn start() -> Self {
        let version = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&version);
        let status = move |Path(zone): Path<String>, request: Request| {
            let answer = status(&shared, &zone, &request);
            async move { answer }
        };
        let router = axum::Router::new().route("/internal/policy/status/{zone}", get(status));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            version,
            task,
        }
    }

    fn load(&self, version: &str) {
        *self.version.lock().unwrap() = Some(version.to_owned());
    }
}

fn status(version: &Mutex<Option<String>>, zone: &str, request: &Request) -> axum::response::Response {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    let (timestamp, nonce, signature) = (
        header(gateway_signature::TIMESTAMP),
        header(gateway_signature::NONCE),
        header(gateway_signature::SIGNATURE),
    );
    let presented = gateway_signature::Presented {
        timestamp: &timestamp,
        nonce: &nonce,
        signature: &signature,
    };
    let key = gateway_signature::derive_key(&hex::decode(crate::harness::AUDIT_KEY).unwrap());
    let now = caracal_chassis::Clock::system().unix_seconds();
    let path = request.uri().path();
    if gateway_signature::verify(&key, &presented, "GET", path, b"", now).is_err() {
        return http::StatusCode::UNAUTHORIZED.into_response();
    }
    let version = version.lock().unwrap().clone();
    axum::Json(json!({ "zone_id": zone, "loaded": true, "policy_set_version_id": version, "replica": "r" }))
        .into_response()
}

#[tokio::test]
async fn an_activation_is_loaded_once_every_replica_decides_by_it() {
    let (one, two) = (TokenService::start().await, TokenService::start().await);
    let urls = format!("http://{}, http://{}", one.address, two.address);
    let api = Harness::start_with(&[("STS_URL", &urls)]).await;
    let zone = api.zone("z").await;
    let (path, version) = ready_set(&api, &zone).await;
    let activated = api
        .post(&format!("{path}/activate"), &json!({ "version_id": version }))
        .await
        .expect(202);
    let url = activated["status_url"].as_str().unwrap();
    wait_for(Duration::from_secs(20), async || {
        let status = api.get(url).await.expect(200);
        (status["outbox"]["state"] == "dispatched").then_some(())
    })
    .await;
    let status = api.get(url).await.expect(200);
    assert_eq!(
        (&status["propagation_status"], &status["sts"]["state"]),
        (&json!("waiting_for_sts"), &json!("not_loaded")),
        "{status}"
    );
    one.load(&version);
    let status = api.get(url).await.expect(200);
    assert_eq!(
        (&status["propagation_status"], &status["sts"]["state"]),
        (&json!("waiting_for_sts"), &json!("not_loaded")),
        "one of two is not all: {status}"
    );
    two.load(&version);
    let status = api.get(url).await.expect(200);
    assert_eq!(
        (&status["propagation_status"], &status["sts"]["state"]),
        (&json!("loaded"), &json!("loaded"))
    );
    let replicas = status["sts"]["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 2);
    assert!(
        replicas
            .iter()
            .all(|replica| replica["state"] == "loaded" && replica["policy_set_version_id"] == json!(version))
    );
    drop(two);
    let status = wait_for(Duration::from_secs(20), async || {
        let status = api.get(url).await.expect(200);
        (status["sts"]["state"] == "unreachable").then_some(status)
    })
    .await;
    assert_eq!(status["propagation_status"], "waiting_for_sts");
}

#[tokio::test]
async fn a_version_is_put_on_trial_beside_the_one_in_force() {
    let api = Harness::start().await;
    let zone = api.zone("z").await;
    let (path, version) = ready_set(&api, &zone).await;
    let shadow = format!("{path}/shadow");
    let put = api
        .post(&shadow, &json!({ "version_id": version }))
        .await
        .expect(200);
    assert_eq!(put["shadow_version_id"], json!(version));
    let read = api.get(&path).await.expect(200);
    assert_eq!(
        (&read["shadow_version_id"], &read["active_version_id"]),
        (&json!(version), &json!(null))
    );
    let reading = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\nrestrict contains \"x\" if input.action.method == \"DELETE\"\n";
    let reading = policy(&api, &zone, "reading", reading).await;
    let added = api
        .post(&format!("{path}/versions"), &manifest(&[&reading]))
        .await
        .expect(201);
    let body = json!({ "version_id": added["version_id"] });
    api.post(&shadow, &body)
        .await
        .refused(422, "invalid_policy_bundle");
    api.post(&shadow, &json!({ "version_id": "nothing" }))
        .await
        .refused(404, "version_not_found");
    api.post(&shadow, &json!({})).await.refused(400, "invalid_body");
    let second = format!(
        "/v1/zones/{zone}/policy-sets/{}",
        set(&api, &zone, "second").await
    );
    let own = policy(&api, &zone, "own", &document("app-2")).await;
    let other = api
        .post(&format!("{second}/versions"), &manifest(&[&own]))
        .await
        .expect(201);
    let body = json!({ "version_id": other["version_id"] });
    api.post(&format!("{second}/shadow"), &body).await.expect(200);
    assert_eq!(
        api.get(&path).await.expect(200)["shadow_version_id"],
        json!(null),
        "one version of a zone is on trial"
    );
    let ended = api
        .post(&format!("{second}/shadow"), &json!({ "version_id": null }))
        .await
        .expect(200);
    assert_eq!(ended["shadow_version_id"], json!(null));
    assert_eq!(
        api.get(&second).await.expect(200)["shadow_version_id"],
        json!(null)
    );
}
