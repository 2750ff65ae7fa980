//! A user decides what an application asks in the user's name, once, and not about a request of his own authority.

use caracal_storage::approval::Verdict;
use caracal_testing::{ClientCertificate, ProofKey, wait_until};
use caracal_wire::form;
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::approvals::{GATED, tiers};
use crate::idp::{ID_TOKEN, Idp, federated, federated_with, settings, sign_in};
use crate::stack::{Answer, DIRECT, ISSUER, SOON, Stack, header_map, with};

const APPROVED: &str = Verdict::Approved.as_str();

/// A service that believes a provider, under a policy with this tier.
async fn asking(tier: &str) -> (Stack, Idp) {
    let (stack, idp) = federated().await;
    tiers(&stack, "psv-2", tier).await;
    (stack, idp)
}

/// A mint of `app-1` that waits for a user's yes: id and binding.
async fn hold(stack: &Stack) -> (String, String) {
    wait_until(SOON, async || {
        stack.mint(&GATED).await.body["approval_id"].is_string()
    })
    .await;
    let body = stack.mint(&GATED).await.body;
    let text = |member: &str| body[member].as_str().unwrap().to_owned();
    (text("approval_id"), text("binding"))
}

fn headers(token: &str) -> HeaderMap {
    let authorization = format!("Bearer {token}");
    header_map(&[
        ("authorization", &authorization),
        ("content-type", "application/json"),
    ])
}

async fn decide(stack: &Stack, id: &str, token: &str, body: &Value) -> Answer {
    let path = format!("/approvals/{id}/decision");
    stack
        .send(Method::POST, &path, headers(token), &body.to_string())
        .await
}

async fn decided_events(stack: &Stack) -> Vec<Value> {
    stack
        .events(|event| event["event_type"] == "step_up_decided")
        .await
}

#[tokio::test]
async fn a_user_decides_and_the_application_gets_its_token() {
    let (stack, idp) =
        asking(r#"[{"tier": "sensitive", "approver": "subject", "privacy": "pseudonymous"}]"#).await;
    let (id, binding) = hold(&stack).await;
    let user = sign_in(&stack, &idp.token("user-1"), &[]).await.token();
    let waiting = async { stack.get(&format!("/approvals/{id}?wait=25")).await };
    let deciding = async {
        wait_until(SOON, async || crate::approvals::waiting(&stack).await == 1).await;
        let body = json!({"decision": APPROVED, "binding": binding, "reason": "mine"});
        decide(&stack, &id, &user, &body).await
    };
    let (waited, answer) = tokio::join!(waiting, deciding);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(
        (&answer.body["id"], &answer.body["state"]),
        (&json!(id), &json!(APPROVED))
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(waited.body, answer.body, "who waits reads the same");
    let metadata = &decided_events(&stack).await[0]["metadata_json"];
    for (member, value) in [
        ("challenge_id", json!(id)),
        ("approver_plane", json!("subject")),
        ("approver_class", json!("subject")),
        ("reason", json!("mine")),
        ("binding", json!(binding)),
        ("application_id", json!("app-1")),
    ] {
        assert_eq!(metadata[member], value, "{member}");
    }
    let retry = stack.mint(&with(&GATED, &[("approval_id", &id)])).await;
    assert_eq!(retry.status, StatusCode::OK, "{}", retry.body);
}

#[tokio::test]
async fn as_much_of_the_user_is_kept_as_the_approval_allows() {
    let (stack, idp) = asking(r#"[{"tier": "sensitive", "approver": "subject"}]"#).await;
    let user = sign_in(&stack, &idp.token("user-1"), &[]).await;
    let sid = stack
        .verify(&user.token(), ISSUER, caracal_token::Use::Session)
        .await
        .sid;
    let pseudonym = caracal_wire::approval::pseudonym("z1", "user-1");
    assert!(pseudonym.starts_with("subject:pseudonym:") && pseudonym.len() == 34);
    for (privacy, name) in [
        ("identified", "subject:user-1"),
        ("pseudonymous", pseudonym.as_str()),
        ("anonymous", "subject:redacted"),
    ] {
        stack.sql("DELETE FROM step_up_challenges").await;
        let (id, binding) = hold(&stack).await;
        stack
            .sql(format!(
                "UPDATE step_up_challenges SET privacy_mode = '{privacy}', subject_anchor = 'user-1'"
            ))
            .await;
        let body = json!({"decision": "rejected", "binding": binding});
        let answer = decide(&stack, &id, &user.token(), &body).await;
        assert_eq!(answer.body["state"], "rejected", "{privacy}: {}", answer.body);
        let (approver, session): (String, Option<String>) = sqlx::query_as(
            "SELECT approver_subject_id, approver_session_id FROM step_up_challenges WHERE id = $1",
        )
        .bind(&id)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
        assert_eq!(
            (approver.as_str(), session.as_deref()),
            (name, Some(sid.as_str())),
            "{privacy}: the record leads to the user for whoever may ask"
        );
        let events = stack
            .events(|event| {
                event["event_type"] == "step_up_decided"
                    && event["metadata_json"]["challenge_id"] == id.as_str()
            })
            .await;
        assert_eq!((events.len(), &events[0]["decision"]), (1, &json!("rejected")));
        assert_eq!(events[0]["metadata_json"]["approver_subject_id"], name);
        assert_eq!(
            events[0].to_string().contains("user-1"),
            privacy == "identified",
            "{privacy}: {}",
            events[0]
        );
    }
}

#[tokio::test]
async fn of_racing_decisions_over_two_replicas_one_stands() {
    let (stack, idp) = asking(r#"[{"tier": "sensitive", "approver": "any"}]"#).await;
    let owned = settings();
    let settings: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let replica = stack.replica(&settings).await;
    let (id, binding) = hold(&stack).await;
    let users = [
        sign_in(&stack, &idp.token("ann"), &[]).await.token(),
        sign_in(&stack, &idp.token("bob"), &[]).await.token(),
    ];
    let path = format!("/approvals/{id}/decision");
    let bodies = [APPROVED, "rejected"].map(|word| json!({"decision": word, "binding": binding}).to_string());
    let requests = (0..20).map(|turn| {
        let base = if turn % 2 == 0 { &stack.base } else { &replica.base };
        let (user, body) = (&users[turn / 2 % 2], &bodies[turn / 4 % 2]);
        stack.send_to(base, Method::POST, &path, headers(user), body)
    });
    let answers = join_all(requests).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!(won.len(), 1);
    for answer in lost {
        assert_eq!(
            answer.refusal(),
            (409, "access_denied", "approval is not pending")
        );
    }
    let state = stack.get(&format!("/approvals/{id}")).await.body["state"].clone();
    assert_eq!(state, won[0].body["state"]);
    assert_eq!(decided_events(&stack).await.len(), 1);
}

#[tokio::test]
async fn the_user_behind_a_session_is_who_decides() {
    let (stack, idp) = asking(r#"[{"tier": "sensitive", "approver": "any"}]"#).await;
    let ann = sign_in(&stack, &idp.token("ann"), &[]).await.token();
    let sid = stack.verify(&ann, ISSUER, caracal_token::Use::Session).await.sid;
    stack
        .sql(format!(
            "INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, depth)
             VALUES ('s-ann', 'z1', 'app-1', '{sid}', '{{editor}}', 3600, 1);
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                 receiver_application_id, scopes, constraints_json, expires_at)
             VALUES ('e-ann', 'z1', 's-source', 's-ann', 'app-1', 'app-1', '{{crm:danger}}', '{{}}', now() + interval '1 hour')"
        ))
        .await;
    let of_ann = with(
        &GATED,
        &[("agent_session_id", "s-ann"), ("delegation_edge_id", "e-ann")],
    );
    wait_until(SOON, async || {
        stack.mint(&of_ann).await.body["approval_id"].is_string()
    })
    .await;
    let held = stack.mint(&of_ann).await.body;
    let id = held["approval_id"].as_str().unwrap();
    let body = json!({"decision": APPROVED, "binding": held["binding"]});
    let bob = sign_in(&stack, &idp.token("bob"), &[]).await.token();
    assert_eq!(
        decide(&stack, id, &bob, &body).await.refusal(),
        (403, "access_denied", "approval belongs to another subject")
    );
    assert_eq!(decide(&stack, id, &ann, &body).await.body["state"], APPROVED);
}

/// A decision with these headers beside the usual ones.
async fn decide_with(stack: &Stack, id: &str, body: &Value, headers: &[(&'static str, &str)]) -> Answer {
    let mut all = header_map(headers);
    all.insert("content-type", "application/json".parse().unwrap());
    let path = format!("/approvals/{id}/decision");
    stack.send(Method::POST, &path, all, &body.to_string()).await
}

/// The mandate of a user who signs in with these headers.
async fn sign_in_with(stack: &Stack, idp: &Idp, headers: &[(&str, &str)]) -> Answer {
    let token = idp.token("user-1");
    let fields = [("subject_token", &*token), ("subject_token_type", ID_TOKEN)];
    stack
        .post_body(&form::encode(&with(&DIRECT, &fields)), headers)
        .await
}

#[tokio::test]
async fn a_user_with_a_bound_mandate_decides_with_a_proof_of_its_key_for_that_decision() {
    let (stack, idp) = asking(r#"[{"tier": "sensitive", "approver": "any"}]"#).await;
    let (id, binding) = hold(&stack).await;
    let body = json!({"decision": APPROVED, "binding": binding});
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let proof = key.proof("POST", &format!("{ISSUER}/oauth/2/token")).sign();
    let user = sign_in_with(&stack, &idp, &[("dpop", &proof)]).await.token();
    let unbound = sign_in(&stack, &idp.token("user-1"), &[]).await.token();
    let here = format!("{ISSUER}/approvals/{id}/decision");
    let usual = |key: &ProofKey, address: &str| key.proof("POST", address).token(&user).sign();
    let good = usual(&key, &here);
    let as_dpop = format!("DPoP {user}");
    let other_approval = format!("{ISSUER}/approvals/11111111-1111-4111-8111-111111111111/decision");
    let of_the_proof = "DPoP error=\"invalid_dpop_proof\", algs=\"ES256\"";
    for (authorization, proof, code, description, challenge) in [
        (
            format!("Bearer {user}"),
            Some(good.clone()),
            "invalid_token",
            "token is bound to a key",
            "DPoP error=\"invalid_token\", algs=\"ES256\"",
        ),
        (
            format!("DPoP {unbound}"),
            Some(key.proof("POST", &here).token(&unbound).sign()),
            "invalid_token",
            "token is not bound to a key",
            "Bearer error=\"invalid_token\"",
        ),
        (
            as_dpop.clone(),
            None,
            "invalid_dpop_proof",
            "a proof of possession is required",
            of_the_proof,
        ),
        (
            as_dpop.clone(),
            Some(usual(&other, &here)),
            "invalid_dpop_proof",
            "the proof is by another key",
            of_the_proof,
        ),
        (
            as_dpop.clone(),
            Some(usual(&key, &other_approval)),
            "invalid_dpop_proof",
            "the proof is for another address",
            of_the_proof,
        ),
        (
            as_dpop.clone(),
            Some(key.proof("POST", &here).sign()),
            "invalid_dpop_proof",
            "the proof is for another token",
            of_the_proof,
        ),
    ] {
        let mut headers = vec![("authorization", &*authorization)];
        headers.extend(proof.as_deref().map(|proof| ("dpop", proof)));
        let answer = decide_with(&stack, &id, &body, &headers).await;
        assert_eq!(answer.refusal(), (401, code, description));
        assert_eq!(answer.headers["www-authenticate"], challenge, "{description}");
    }
    let headers = [("authorization", &*as_dpop), ("dpop", &*good)];
    let elsewhere = json!({"decision": APPROVED, "binding": "00"});
    let answer = decide_with(&stack, &id, &elsewhere, &headers).await;
    assert_eq!(
        answer.refusal(),
        (409, "access_denied", "approval binding does not match"),
        "none of them used the proof up"
    );
    let answer = decide_with(&stack, &id, &body, &headers).await;
    assert_eq!(
        answer.refusal(),
        (401, "invalid_dpop_proof", "the proof was used before")
    );
    let fresh = usual(&key, &here);
    let headers = [("authorization", &*as_dpop), ("dpop", &*fresh)];
    let answer = decide_with(&stack, &id, &body, &headers).await;
    assert_eq!(answer.body["state"], APPROVED, "{}", answer.body);
}

#[tokio::test]
async fn a_user_of_an_application_that_is_bound_to_its_certificate_decides_with_it() {
    let (stack, idp) = federated_with(&[("CLIENT_CERT_PROXIES", "127.0.0.1")]).await;
    tiers(&stack, "psv-2", r#"[{"tier": "sensitive", "approver": "any"}]"#).await;
    let (id, binding) = hold(&stack).await;
    stack
        .sql("UPDATE applications SET certificate_bound = true WHERE id = 'app-1'")
        .await;
    wait_until(SOON, async || {
        stack.mint(&GATED).await.refusal().2 == "a client certificate is required"
    })
    .await;
    let (ours, other) = (
        ClientCertificate::new().header(),
        ClientCertificate::new().header(),
    );
    let user = sign_in_with(&stack, &idp, &[("client-cert", &ours)])
        .await
        .token();
    let body = json!({"decision": APPROVED, "binding": binding});
    let authorization = format!("Bearer {user}");
    let usual = ("authorization", &*authorization);
    for (certificate, description) in [
        (None, "a client certificate is required"),
        (Some(&other), "the token is bound to another client certificate"),
    ] {
        let mut headers = vec![usual];
        headers.extend(certificate.map(|certificate| ("client-cert", &**certificate)));
        let answer = decide_with(&stack, &id, &body, &headers).await;
        assert_eq!(answer.refusal(), (401, "invalid_token", description));
        assert_eq!(
            answer.headers["www-authenticate"],
            "Bearer error=\"invalid_token\""
        );
    }
    let answer = decide_with(&stack, &id, &body, &[usual, ("client-cert", &ours)]).await;
    assert_eq!(answer.body["state"], APPROVED, "{}", answer.body);
}

#[tokio::test]
async fn every_row_of_the_order_of_checks_of_a_users_decision() {
    let (stack, idp) = asking(r#"[{"tier": "sensitive", "approver": "any"}]"#).await;
    let (id, binding) = hold(&stack).await;
    let user = sign_in(&stack, &idp.token("user-1"), &[]).await.token();
    let application = stack
        .mint(&[("resource", "resource://crm"), ("scope", "agent:lifecycle")])
        .await
        .token();
    let body = json!({"decision": APPROVED, "binding": binding});
    let missing = "11111111-1111-4111-8111-111111111111";
    let not_found = (404, "resource_not_found", "approval not found");
    assert_eq!(
        decide(&stack, "nonsense", "", &json!("x")).await.refusal(),
        not_found
    );
    let path = format!("/approvals/{missing}/decision");
    for authorization in ["bearer x", "Basic x", "Bearer ", ""] {
        let headers = header_map(&[("authorization", authorization)]);
        let answer = stack.send(Method::POST, &path, headers, "x").await;
        assert_eq!(
            answer.refusal(),
            (401, "invalid_token", "a session mandate is required")
        );
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"caracal-sts\"");
    }
    let malformed = (400, "invalid_token", "malformed request body");
    let large = json!({"decision": "maybe", "reason": "x".repeat(70_000)});
    for body in [&json!("x"), &json!({"decision": 1}), &large] {
        assert_eq!(decide(&stack, missing, "x", body).await.refusal(), malformed);
    }
    for wrong in [
        json!({"decision": "maybe", "binding": binding}),
        json!({"binding": binding}),
        json!({"decision": APPROVED, "binding": binding, "reason": "x".repeat(501)}),
        json!({"decision": APPROVED, "binding": binding, "reason": "a\nb"}),
    ] {
        assert_eq!(
            decide(&stack, missing, "x", &wrong).await.refusal(),
            (400, "invalid_token", "invalid decision")
        );
    }
    assert_eq!(decide(&stack, missing, "x", &body).await.refusal(), not_found);
    let row = async |change: &str| stack.sql(format!("UPDATE step_up_challenges SET {change}")).await;
    // Everything that comes later is wrong as well, and is not what is answered.
    row("application_id = NULL, approver_class = 'operator', subject_anchor = 'user-2'").await;
    let other = json!({"decision": APPROVED, "binding": "00"});
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    for token in ["x", &one_shot, &idp.token("user-1")] {
        let answer = decide(&stack, &id, token, &other).await;
        assert_eq!(
            answer.refusal(),
            (401, "invalid_token", "invalid session mandate")
        );
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"caracal-sts\"");
    }
    let refused = async |token: &str, description: &str| {
        let answer = decide(&stack, &id, token, &other).await;
        assert_eq!(answer.refusal(), (403, "access_denied", description));
    };
    refused(&application, "only a federated user may decide").await;
    refused(&user, "approval is reserved for operators").await;
    let not_live = "session mandate is not of this application or has ended";
    row("application_id = 'app-2'").await;
    refused(&user, not_live).await;
    row("application_id = 'app-1'").await;
    let users_record = "session_type = 'user' AND claims_json IS NOT NULL";
    for (ended, alive) in [
        ("status = 'revoked'", "status = 'active'"),
        (
            "expires_at = now() - interval '1 second'",
            "expires_at = now() + interval '1 hour'",
        ),
        ("subject_id = 'user-2'", "subject_id = 'user-1'"),
    ] {
        // Not announced to anybody: the row decides.
        stack
            .sql(format!(
                "UPDATE authority_records SET {ended} WHERE {users_record}"
            ))
            .await;
        refused(&user, not_live).await;
        stack
            .sql(format!(
                "UPDATE authority_records SET {alive} WHERE {users_record}"
            ))
            .await;
    }
    refused(&user, "approval requires an operator").await;
    row("approver_class = 'subject'").await;
    refused(&user, "approval belongs to another subject").await;
    row(&format!(
        "subject_anchor = 'user-1', session_id = (SELECT id FROM authority_records WHERE {users_record})"
    ))
    .await;
    let own = "a request cannot be approved by its own authority";
    refused(&user, own).await;
    stack
        .sql(format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, parent_id)
             SELECT 'ar-child', 'z1', 'application', 'app-1', 'active', now() + interval '1 hour', now(), id
             FROM authority_records WHERE {users_record};
             INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, parent_id)
             VALUES ('ar-grandchild', 'z1', 'application', 'app-1', 'active', now() + interval '1 hour', now(), 'ar-child')"
        ))
        .await;
    row("session_id = 'ar-grandchild'").await;
    refused(&user, own).await;
    stack
        .sql(format!(
            "UPDATE authority_records SET parent_id = NULL WHERE id = 'ar-child';
             UPDATE authority_records SET parent_id = 'ar-grandchild' WHERE {users_record}"
        ))
        .await;
    row("session_id = 'ar-child'").await;
    refused(&user, own).await;
    row("session_id = 'ar-1'").await;
    assert_eq!(
        decide(&stack, &id, &user, &other).await.refusal(),
        (409, "access_denied", "approval binding does not match")
    );
    let not_pending = (409, "access_denied", "approval is not pending");
    for (over, open) in [
        ("expires_at = now()", "expires_at = now() + interval '1 hour'"),
        ("satisfied_at = now()", "satisfied_at = NULL"),
        ("rejected_at = now()", "rejected_at = NULL"),
        ("consumed_at = now()", "consumed_at = NULL"),
    ] {
        row(over).await;
        assert_eq!(
            decide(&stack, &id, &user, &body).await.refusal(),
            not_pending,
            "{over}"
        );
        row(open).await;
    }
    assert_eq!(decide(&stack, &id, &user, &body).await.body["state"], APPROVED);
    assert_eq!(
        decided_events(&stack).await.len(),
        1,
        "only what was decided is said"
    );
}
