//! The first two segments of a mandate with another signature pass the gateway's MAC check. They do not use up the mandate,
//! however their request ends; the mandate itself stays used up, however its request ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use caracal_bus::{Bus, MemoryBus, RedisBus};
use caracal_model::Anchor;
use caracal_testing::{Mandate, TestKeys, TestRedis, wait_until};
use caracal_wire::sts::{AuthMode, Upstream};
use http::StatusCode;
use http_body_util::Full;
use tokio::sync::Notify;

use crate::client::{Answer, send, wait_for_status};
use crate::rig::{Gateway, METRICS, Rig, SOON, mandate_upstream};
use crate::sts::{Grant, one_shot};

const KEY: [u8; 32] = [0x3a; 32];
const REPLAYED: &str = "token replay detected";
/// What the token service says about a mandate it does not know.
const NO_MANDATE: &str = r#"{"error":"invalid_token","error_description":"invalid subject_token"}"#;

/// A mandate, and what is left of it without its signature.
struct Pair {
    whole: String,
    cut: String,
}

fn pair(rig: &Rig, mandate: &Mandate) -> Pair {
    let sign = |mandate: &Mandate| rig.sts.keys().sign_with_mac(mandate.claims(), &KEY);
    let (whole, other) = (sign(mandate), sign(&one_shot()));
    let (content, signature) = (
        whole.rsplit_once('.').unwrap().0,
        other.rsplit_once('.').unwrap().1,
    );
    let cut = format!("{content}.{signature}");
    assert_ne!(cut, whole);
    Pair { whole, cut }
}

/// One way for a request to end after its mandate was burned.
struct Way {
    name: &'static str,
    spoil: fn(&Rig),
    mend: fn(&Rig),
    /// Bytes of the body.
    body: usize,
    status: u16,
}

fn usual(rig: &Rig) {
    rig.bus.claims_fail.store(false, Ordering::SeqCst);
    rig.bus.claims_get_lost.store(false, Ordering::SeqCst);
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(rig.upstream.url())));
}

fn raw(rig: &Rig, status: u16, body: &str) {
    rig.sts
        .grant(Grant::Raw(status, "application/json", body.to_owned()));
}

/// Every way on which the token service has not vouched for the mandate, and those between its word and the upstream.
fn ways() -> Vec<Way> {
    let way = |name, status, spoil| Way {
        name,
        spoil,
        mend: usual,
        body: 0,
        status,
    };
    vec![
        Way {
            body: 4_096,
            ..way("a body that is too long", 413, |_rig| {})
        },
        way("refused by the STS as no mandate", 401, |rig| {
            raw(rig, 401, NO_MANDATE);
        }),
        way("refused by the STS for another reason", 403, |rig| {
            raw(rig, 403, r#"{"error":"access_denied"}"#);
        }),
        way("an STS whose knowledge is stale", 503, |rig| {
            raw(
                rig,
                503,
                r#"{"error":"sts_unavailable","error_description":"revocation state unavailable"}"#,
            );
        }),
        way("an STS that answers nonsense", 502, |rig| raw(rig, 200, "[]")),
        way("an STS that answers too much", 502, |rig| {
            raw(rig, 200, &" ".repeat(100_000));
        }),
        way("an STS that is silent", 504, |rig| rig.sts.grant(Grant::Silence)),
        way("an answer that is not proven", 502, |rig| {
            let token = TestKeys::new().sign(one_shot().claims());
            rig.sts
                .grant(Grant::Token(token, mandate_upstream(rig.upstream.url())));
        }),
        way("a claim that failed", 503, |rig| {
            rig.bus.claims_fail.store(true, Ordering::SeqCst);
        }),
        way("a claim that was made and whose answer was lost", 503, |rig| {
            rig.bus.claims_get_lost.store(true, Ordering::SeqCst);
        }),
        way("no upstream", 403, |rig| {
            rig.sts.grant(Grant::Upstream(mandate_upstream("")));
        }),
        way("an upstream that is not dialled", 502, |rig| {
            rig.sts
                .grant(Grant::Upstream(mandate_upstream("http://169.254.169.254/")));
        }),
        way("a credential that may not be sent there", 502, |rig| {
            rig.sts.grant(Grant::Upstream(Upstream {
                auth_mode: AuthMode::ProviderOauth,
                provider_token: Some("t-1".to_owned()),
                allowed_token_hosts: vec!["elsewhere.test".to_owned()],
                ..mandate_upstream(rig.upstream.url())
            }));
        }),
    ]
}

async fn rig() -> Rig {
    on(Arc::new(MemoryBus::new())).await
}

async fn on(bus: Arc<dyn Bus>) -> Rig {
    let key = hex::encode(KEY);
    let settings = [
        ("MANDATE_MAC_KEY", key.as_str()),
        ("MAX_REQUEST_BYTES", "1KiB"),
        ("STS_TIMEOUT", "2s"),
        METRICS,
    ];
    Rig::on(bus, &settings).await
}

async fn present(rig: &Rig, mandate: &str) -> Answer {
    rig.send(rig.request("GET", "/v1/contacts", mandate)).await
}

/// Sends one request the given way, which must fail as it says.
async fn fail(rig: &Rig, way: &Way, mandate: &str) {
    (way.spoil)(rig);
    let request = rig.request("POST", "/v1/contacts", mandate);
    let answer = rig.send_with(request, Bytes::from(vec![b'x'; way.body])).await;
    assert_eq!(answer.status, way.status, "{}: {}", way.name, answer.json());
    (way.mend)(rig);
}

#[tokio::test]
async fn whatever_ends_the_request_the_mandate_is_used_up_by_itself_alone() {
    for way in ways() {
        // Each with an STS that has not failed before, so that no breaker is open.
        let rig = rig().await;
        let mandate = pair(&rig, &one_shot());
        fail(&rig, &way, &mandate.cut).await;
        let answer = present(&rig, &mandate.whole).await;
        assert_eq!(answer.status, 200, "cut, {}: {}", way.name, answer.json());
        let again = present(&rig, &mandate.whole).await;
        assert_eq!(again.refusal().2, REPLAYED, "cut, {}", way.name);
        assert_eq!(rig.metric("replay_given_back").await, 1, "{}", way.name);

        let mandate = pair(&rig, &one_shot());
        fail(&rig, &way, &mandate.whole).await;
        let again = present(&rig, &mandate.whole).await;
        assert_eq!(again.refusal().2, REPLAYED, "whole, {}", way.name);
        assert_eq!(rig.metric("replay_given_back").await, 1, "{}", way.name);
    }
}

#[tokio::test]
async fn a_cut_mandate_of_a_revoked_session_does_not_burn_it() {
    let rig = rig().await;
    let revoked = |jti: &str| {
        let sid = "record-revoked".parse().unwrap();
        one_shot().with(|claims| {
            claims.sid = sid;
            claims.jti = jti.parse().unwrap();
        })
    };
    rig.revoke(Anchor::AuthorityRecord("record-revoked".parse().unwrap()))
        .await;
    let known = revoked("jti-known");
    let key = rig.sts.keys();
    wait_until(SOON, async || {
        let probe = key.sign_with_mac(known.claims(), &KEY);
        present(&rig, &probe).await.status == 401
    })
    .await;
    let mandate = pair(&rig, &revoked("jti-cut"));
    for description in ["session revoked", "bearer signature invalid"] {
        assert_eq!(present(&rig, &mandate.cut).await.refusal().2, description);
    }
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, "session revoked");
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
}

#[tokio::test]
async fn where_the_sts_vouched_and_it_was_forwarded_it_stays_used_up() {
    let rig = rig().await;
    let gone = caracal_testing::Upstream::start(caracal_testing::Behaviour::Echo).await;
    let nobody = gone.url();
    drop(gone);
    wait_until(SOON, async || {
        let address = nobody.trim_start_matches("http://").trim_end_matches('/');
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(nobody)));
    let mandate = pair(&rig, &one_shot());
    assert_eq!(present(&rig, &mandate.whole).await.status, 502);
    usual(&rig);
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
    assert_eq!(rig.metric("replay_given_back").await, 0);
}

#[tokio::test]
async fn who_repeats_a_cut_mandate_burns_nothing_and_asks_nobody() {
    let rig = rig().await;
    let mandate = pair(&rig, &one_shot());
    raw(&rig, 401, NO_MANDATE);
    assert_eq!(present(&rig, &mandate.cut).await.status, 401);
    let (asked, claimed) = (rig.sts.exchanges().len(), rig.bus.claims.load(Ordering::SeqCst));
    for _again in 0..3 {
        let answer = present(&rig, &mandate.cut).await;
        assert_eq!(answer.refusal().2, "bearer signature invalid");
    }
    assert_eq!(rig.sts.exchanges().len(), asked);
    assert_eq!(rig.bus.claims.load(Ordering::SeqCst), claimed);
    usual(&rig);
    assert_eq!(present(&rig, &mandate.whole).await.status, 200);
    assert_eq!(present(&rig, &mandate.cut).await.refusal().2, REPLAYED);
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
}

#[tokio::test]
async fn a_give_back_that_the_shared_table_does_not_answer_is_made_later() {
    let rig = rig().await;
    let mandate = pair(&rig, &one_shot());
    raw(&rig, 401, NO_MANDATE);
    rig.bus.give_backs_fail.store(true, Ordering::SeqCst);
    assert_eq!(present(&rig, &mandate.cut).await.status, 401);
    usual(&rig);
    assert_eq!(rig.metric("replay_given_back").await, 0, "not yet");
    assert_eq!(rig.metric("replay_give_backs_waiting").await, 1);
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
    rig.bus.give_backs_fail.store(false, Ordering::SeqCst);
    wait_until(SOON, async || rig.metric("replay_given_back").await == 1).await;
    assert_eq!(rig.metric("replay_give_backs_waiting").await, 0);
    assert_eq!(present(&rig, &mandate.whole).await.status, 200);
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
}

/// Another gateway over the same Redis.
async fn second(rig: &Rig, bus: Arc<dyn Bus>) -> Gateway {
    let key = hex::encode(KEY);
    let other = Gateway::start(bus, &rig.sts.url(), &[("MANDATE_MAC_KEY", &key)]).await;
    wait_for_status(other.addresses.admin, "/ready", StatusCode::OK).await;
    other
}

#[tokio::test]
async fn a_mandate_refused_while_a_cut_one_is_under_way_at_another_gateway_is_good_afterwards() {
    let redis = TestRedis::new().await;
    let connect = || -> Arc<dyn Bus> { Arc::new(RedisBus::connect(redis.url()).unwrap()) };
    let rig = on(connect()).await;
    let other = second(&rig, connect()).await;
    let elsewhere = async |mandate: &str| {
        let request = rig.request("GET", "/v1/contacts", mandate);
        send(other.addresses.main, request.body(Full::default()).unwrap()).await
    };
    let mandate = pair(&rig, &one_shot());
    let release = Arc::new(Notify::new());
    // Nowhere to go once the STS has answered: the request fails after the mandate was claimed.
    rig.sts
        .grant(Grant::Held(Arc::clone(&release), mandate_upstream("")));
    let meanwhile = async {
        wait_until(SOON, async || {
            rig.bus.claims_answered.load(Ordering::SeqCst) == 1 && rig.sts.exchanges().len() == 1
        })
        .await;
        usual(&rig);
        for _again in 0..2 {
            assert_eq!(elsewhere(&mandate.whole).await.refusal().2, REPLAYED);
        }
        release.notify_one();
    };
    let (cut, ()) = tokio::join!(present(&rig, &mandate.cut), meanwhile);
    assert_eq!(cut.status, 403);
    assert_eq!(
        elsewhere(&mandate.whole).await.status,
        200,
        "given back meanwhile"
    );
    for _again in 0..3 {
        assert_eq!(elsewhere(&mandate.whole).await.refusal().2, REPLAYED);
        assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
    }
    assert_eq!(rig.upstream.requests().len(), 1, "it passed once");
}

#[tokio::test]
async fn a_used_mandate_buys_one_exchange_at_another_gateway_however_often_it_is_shown() {
    let redis = TestRedis::new().await;
    let connect = || -> Arc<dyn Bus> { Arc::new(RedisBus::connect(redis.url()).unwrap()) };
    let rig = on(connect()).await;
    let other = second(&rig, connect()).await;
    let mandate = pair(&rig, &one_shot());
    assert_eq!(present(&rig, &mandate.whole).await.status, 200);
    for _again in 0..5 {
        let request = rig.request("GET", "/v1/contacts", &mandate.whole);
        let answer = send(other.addresses.main, request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.refusal().2, REPLAYED);
    }
    assert_eq!(
        rig.sts.exchanges().len(),
        2,
        "its use, and one beside the first question to the shared table"
    );
}

#[tokio::test]
async fn a_cut_mandate_at_one_gateway_gives_back_no_burn_of_another() {
    let redis = TestRedis::new().await;
    let connect = || -> Arc<dyn Bus> { Arc::new(RedisBus::connect(redis.url()).unwrap()) };
    let rig = on(connect()).await;
    let other = second(&rig, connect()).await;
    let elsewhere = async |mandate: &str| {
        let request = rig.request("GET", "/v1/contacts", mandate);
        send(other.addresses.main, request.body(Full::default()).unwrap()).await
    };
    // As the holder's: names of requests are the client's to choose.
    let same_name = |mandate: &str| {
        rig.request("GET", "/v1/contacts", mandate)
            .header("x-request-id", "r-1")
    };
    let mandate = pair(&rig, &one_shot());
    let request = same_name(&mandate.whole).body(Full::default()).unwrap();
    assert_eq!(send(other.addresses.main, request).await.status, 200);
    raw(&rig, 401, NO_MANDATE);
    assert_eq!(rig.send(same_name(&mandate.cut)).await.status, 401);
    assert_eq!(rig.metric("replay_given_back").await, 1, "in its own table");
    usual(&rig);
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);

    let mandate = pair(&rig, &one_shot());
    raw(&rig, 401, NO_MANDATE);
    assert_eq!(present(&rig, &mandate.cut).await.status, 401);
    usual(&rig);
    assert_eq!(
        elsewhere(&mandate.whole).await.status,
        200,
        "given back in the shared table too"
    );
    assert_eq!(present(&rig, &mandate.whole).await.refusal().2, REPLAYED);
}
