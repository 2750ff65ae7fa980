//! Decision policies at the token endpoint: what they may decide in which zone, and what stays out of their reach.

use caracal_testing::wait_for;
use caracal_token::Use;
use http::StatusCode;
use serde_json::json;

use crate::policy;
use crate::seed;
use crate::stack::{Answer, ISSUER, SOON, Stack};

const READ: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:read"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

/// A decision policy that allows under a condition.
fn allows_if(condition: &str) -> String {
    format!(
        "# caracal:decision-policy\npackage caracal.authz\nresult := {{\"decision\": \"allow\", \"evaluation_status\": \"complete\", \"determining_policies\": [{{\"policy\": \"ours\"}}]}} if {{ {condition} }}\n"
    )
}

/// Puts texts in force under a mode and waits until the service decides by them.
pub(crate) async fn in_force(stack: &Stack, mode: &str, version: &str, texts: &[&str]) {
    stack
        .sql(format!("UPDATE zones SET policy_mode = '{mode}' WHERE id = 'z1'"))
        .await;
    seed::policies(&stack.pool, version, texts).await;
    wait_for(SOON, async || {
        (policy::in_force(stack).await == version).then_some(())
    })
    .await;
}

fn refusal(answer: &Answer) -> (u16, &str, &str) {
    answer.refusal()
}

#[tokio::test]
async fn a_restricting_policy_refuses_what_the_contract_grants_and_grants_nothing() {
    let stack = Stack::start().await;
    let reads = allows_if("not \"crm:write\" in input.context.requested_scopes");
    in_force(&stack, "restrict", "psv-2", &[seed::POLICY, &reads]).await;
    let granted = stack.mint(&READ).await;
    assert_eq!(granted.status, StatusCode::OK, "{}", granted.body);
    let event = &stack.events_of(&granted).await[0];
    assert_eq!(
        event["determining_policies_json"],
        json!([{"policy": "caracal-bot-mint"}, {"policy": "ours"}])
    );
    let refused = stack
        .mint(&[("scope", "crm:write"), READ[0], READ[2], READ[3]])
        .await;
    assert_eq!(
        refusal(&refused),
        (403, "access_denied", "policy denied (decision_policy_undefined)")
    );
    let foreign = stack
        .mint(&[("resource", "resource://foreign"), READ[1], READ[2], READ[3]])
        .await;
    assert_eq!(refusal(&foreign).0, 403, "the contract refuses first");
}

#[tokio::test]
async fn a_sole_policy_decides_alone_and_takes_back_at_once_what_it_gave() {
    let stack = Stack::start().await;
    let by_path = allows_if("object.get(input.action, \"path\", \"/\") != \"/forbidden\"");
    in_force(&stack, "sole", "psv-2", &[&by_path]).await;
    let granted = stack.mint(&READ).await;
    let claims = stack.verify(&granted.token(), ISSUER, Use::Gateway).await;
    assert_eq!(claims.scope.as_deref(), Some("crm:read"));
    let mandate = granted.token();
    let passed = stack.at_gateway(&mandate, "resource://crm", &[]).await;
    assert_eq!(passed.status, StatusCode::OK, "{}", passed.body);
    let path = [("request_path", "/forbidden")];
    let forbidden = stack.at_gateway(&mandate, "resource://crm", &path).await;
    assert_eq!(
        refusal(&forbidden),
        (403, "access_denied", "policy denied (decision_policy_undefined)")
    );
}

#[tokio::test]
async fn what_is_no_policy_holds_whatever_a_sole_policy_says() {
    let stack = Stack::start().await;
    in_force(&stack, "sole", "psv-2", &[&allows_if("true")]).await;
    let more = stack
        .mint(&[("scope", "crm:danger"), READ[0], READ[2], READ[3]])
        .await;
    assert_eq!(refusal(&more).0, 403, "a delegation never widens: {}", more.body);
    let mandate = stack.one_shot("resource://crm", "crm:read").await;
    let other = stack.at_gateway(&mandate, "resource://mandate", &[]).await;
    assert_ne!(
        other.status,
        StatusCode::OK,
        "a mandate is for its target: {}",
        other.body
    );
    let stolen = [("application_id", "app-2")];
    let stolen = stack.at_gateway(&mandate, "resource://crm", &stolen).await;
    assert_ne!(
        stolen.status,
        StatusCode::OK,
        "a mandate belongs to its client: {}",
        stolen.body
    );
    let lasting = stack
        .mint(&[("ttl_seconds", "999999"), READ[0], READ[1], READ[2], READ[3]])
        .await;
    if lasting.status == StatusCode::OK {
        let claims = stack.verify(&lasting.token(), ISSUER, Use::Gateway).await;
        assert!(claims.exp - claims.iat <= 900, "no policy lengthens a mandate");
    }
    stack
        .sql("UPDATE delegation_edges SET status = 'revoked', revoked_at = now() WHERE id = 'e-1'; UPDATE delegation_graph_epochs SET epoch = epoch + 1 WHERE zone_id = 'z1'")
        .await;
    let mut fields = std::collections::BTreeMap::new();
    for (name, value) in [
        ("event", "revoked"),
        ("zone_id", "z1"),
        ("edge_id", "e-1"),
        ("epoch", "8"),
    ] {
        fields.insert(name.to_owned(), value.to_owned());
    }
    stack
        .announce(caracal_wire::stream::DELEGATIONS_INVALIDATE, fields)
        .await;
    let revoked = wait_for(SOON, async || {
        let answer = stack.mint(&READ).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert!(revoked.status.is_client_error(), "{}", revoked.body);
}

#[tokio::test]
async fn a_sole_policy_that_errs_or_does_not_end_denies_and_other_zones_never_notice() {
    let stack = Stack::start().await;
    let digits = "xs := [1, 2, 3, 4, 5, 6, 7, 8, 9]\n";
    let loops =
        "some a in xs; some b in xs; some c in xs; some d in xs; some e in xs; some f in xs; some g in xs";
    let marked = |body: &str| format!("# caracal:decision-policy\npackage caracal.authz\n{body}\n");
    for (version, body) in [
        ("psv-2", "result := true".to_owned()),
        (
            "psv-3",
            format!("{digits}result := count([1 | {loops}; a + b + c + d + e + f + g < 0])"),
        ),
        (
            "psv-4",
            format!("{digits}result := count([[a, b, c, d, e, f, g] | {loops}])"),
        ),
    ] {
        in_force(&stack, "sole", version, &[&marked(&body)]).await;
        let answer = stack.mint(&READ).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["error"].as_str()),
            (503, Some("policy_eval_failed")),
            "{version}"
        );
        let event = &stack.events_of(&answer).await[0];
        assert_eq!(
            (&event["decision"], &event["evaluation_status"]),
            (&json!("deny"), &json!("policy_eval_failed"))
        );
    }
    in_force(&stack, "restrict", "psv-5", &[seed::POLICY]).await;
    assert_eq!(
        stack.mint(&READ).await.status,
        StatusCode::OK,
        "tables never wait for it"
    );
    in_force(&stack, "sole", "psv-6", &[seed::POLICY]).await;
    assert_eq!(
        refusal(&stack.mint(&READ).await),
        (403, "access_denied", "policy denied (no_decision_policy)")
    );
}
