//! With a key that only the STS shares, MACs prove mandates and answers; without one, or when a MAC is wrong, signatures do.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_testing::Mandate;
use caracal_wire::answer_mac::AnswerMacKey;
use caracal_wire::sts::{AuthMode, Upstream};

use crate::rig::{METRICS, RESOURCE, Rig, mandate_upstream};
use crate::sts::{Exchange, Grant, one_shot};

const KEY: [u8; 32] = [0x3a; 32];
const OTHER: [u8; 32] = [0x3b; 32];

async fn with_key() -> Rig {
    Rig::with(&[("MANDATE_MAC_KEY", &hex::encode(KEY)), METRICS]).await
}

fn sealed(rig: &Rig, mandate: &Mandate, key: [u8; 32]) -> String {
    rig.sts.keys().sign_with_mac(mandate.claims(), &key)
}

/// An upstream that does not see the mandate.
fn behind_a_key(rig: &Rig) -> Upstream {
    Upstream {
        url: rig.upstream.url(),
        auth_mode: AuthMode::ProviderApikey,
        auth_header: Some("X-Upstream-Key".to_owned()),
        provider_token: Some("k-1".to_owned()),
        ..Upstream::default()
    }
}

async fn status(rig: &Rig, mandate: &str) -> u16 {
    rig.send(rig.request("GET", "/v1/contacts", mandate)).await.status
}

#[tokio::test]
async fn a_mandate_is_proven_by_its_mac_else_by_its_signature() {
    let rig = with_key().await;
    assert_eq!(status(&rig, &sealed(&rig, &one_shot(), KEY)).await, 200);
    assert_eq!(rig.metric("mandates_by_mac").await, 1);
    assert_eq!(status(&rig, &sealed(&rig, &one_shot(), OTHER)).await, 200);
    assert_eq!(status(&rig, &rig.sts.mandate()).await, 200);
    assert_eq!(
        (
            rig.metric("mandates_by_mac").await,
            rig.metric("mandates_by_signature").await
        ),
        (1, 2)
    );
}

#[tokio::test]
async fn forged_and_altered_mandates_do_not_reach_the_sts() {
    let rig = with_key().await;
    let mandate = sealed(&rig, &one_shot(), KEY);
    let segments: Vec<&str> = mandate.split('.').collect();
    let altered = |index: usize, from: &str, to: &str| {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(segments[index]).unwrap()).unwrap();
        assert!(text.contains(from), "{text}");
        let mut segments: Vec<String> = segments.iter().map(|part| (*part).to_owned()).collect();
        segments[index] = URL_SAFE_NO_PAD.encode(text.replace(from, to));
        segments.join(".")
    };
    let stranger = caracal_testing::TestKeys::new();
    for (what, mandate) in [
        ("another claim", altered(1, RESOURCE, "resource://other")),
        ("another type", altered(0, r#""JWT""#, r#""at+jwt""#)),
        (
            "another key's, with a MAC of another key",
            stranger.sign_with_mac(one_shot().claims(), &OTHER),
        ),
        (
            "another key's, with our MAC",
            stranger.sign_with_mac(one_shot().claims(), &KEY),
        ),
    ] {
        let answer = rig.send(rig.request("GET", "/v1/contacts", &mandate)).await;
        assert_eq!(
            answer.refusal(),
            (
                401,
                "invalid_token".to_owned(),
                "bearer signature invalid".to_owned()
            ),
            "{what}"
        );
    }
    assert!(rig.sts.exchanges().is_empty());
    assert_eq!(
        status(&rig, &mandate).await,
        200,
        "and the true one is not burned"
    );
}

#[tokio::test]
async fn an_answer_with_a_mac_needs_no_signed_mandate_where_no_upstream_sees_it() {
    let rig = with_key().await;
    rig.sts.grant(Grant::Sealed(
        String::new(),
        behind_a_key(&rig),
        KEY,
        String::new(),
    ));
    let answer = rig.send(rig.get("/v1/contacts")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(
        rig.upstream.requests().last().unwrap().headers["x-upstream-key"],
        "k-1"
    );
    assert_eq!(rig.metric("sts_answers_by_mac").await, 1);
    let asked = AnswerMacKey::derive(&KEY);
    let exchanges = rig.sts.exchanges();
    let asks = |exchange: &Exchange| asked.is_question(&exchange.signature, &exchange.mac_question);
    assert!(exchanges.iter().all(asks), "and it says that it has the key");
}

#[tokio::test]
async fn an_answer_without_a_signed_mandate_is_refused_unless_its_mac_is_right() {
    let rig = with_key().await;
    let upstream = || behind_a_key(&rig);
    let first = rig.send(rig.get("/v1/contacts")).await;
    assert_eq!(first.status, 200);
    let earlier = rig.sts.exchanges()[0].signature.clone();
    let empty = String::new;
    for (what, grant) in [
        ("no MAC", Grant::Token(empty(), upstream())),
        ("another key", Grant::Sealed(empty(), upstream(), OTHER, empty())),
        (
            "the MAC of another call",
            Grant::Sealed(empty(), upstream(), KEY, earlier),
        ),
        (
            "an upstream that sees it",
            Grant::Sealed(empty(), mandate_upstream(rig.upstream.url()), KEY, empty()),
        ),
        (
            "a stranger's token",
            Grant::Sealed(
                caracal_testing::TestKeys::new().sign(one_shot().claims()),
                upstream(),
                OTHER,
                empty(),
            ),
        ),
    ] {
        rig.sts.grant(grant);
        let answer = rig.send(rig.get("/v1/contacts")).await;
        assert_eq!(answer.refusal().0, 502, "{what}");
    }
    assert_eq!(rig.upstream.requests().len(), 1, "nothing was forwarded");
}

#[tokio::test]
async fn with_another_key_than_the_sts_signatures_prove_everything() {
    let rig = with_key().await;
    for (sts, by_mac) in [(OTHER, 0), (KEY, 1)] {
        rig.sts.grant(Grant::ByKey(behind_a_key(&rig), sts));
        let answer = rig
            .send(rig.request("GET", "/v1/contacts", &sealed(&rig, &one_shot(), sts)))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!(rig.metric("mandates_by_mac").await, by_mac);
        assert_eq!(rig.metric("sts_answers_by_mac").await, by_mac);
    }
}

#[tokio::test]
async fn without_the_key_nothing_rests_on_a_mac() {
    let rig = Rig::with(&[METRICS]).await;
    assert_eq!(status(&rig, &sealed(&rig, &one_shot(), KEY)).await, 200);
    assert_eq!(rig.metric("mandates_by_signature").await, 1);
    assert_eq!(rig.sts.exchanges()[0].mac_question, "");
    rig.sts.grant(Grant::Sealed(
        String::new(),
        behind_a_key(&rig),
        KEY,
        String::new(),
    ));
    let answer = rig.send(rig.get("/v1/contacts")).await;
    assert_eq!(answer.refusal().0, 502);
}
