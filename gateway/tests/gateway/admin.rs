//! What operators are told.

use http::Request;
use http_body_util::Full;

use crate::client::{Answer, send};
use crate::rig::Rig;

async fn get(address: std::net::SocketAddr, path: &str, bearer: Option<&str>) -> Answer {
    let mut request = Request::get(path).header("host", "x");
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    send(address, request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn health_and_readiness_are_on_both_ports_and_metrics_on_their_own() {
    let rig = Rig::with(&[("METRICS_BEARER", "scrape")]).await;
    let (main, admin) = (rig.gateway.addresses.main, rig.gateway.addresses.admin);
    for address in [main, admin] {
        assert_eq!(get(address, "/health", None).await.status, 200);
        let ready = get(address, "/ready", None).await;
        assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    }
    assert_eq!(get(admin, "/metrics", None).await.status, 401);
    assert_eq!(
        get(main, "/metrics", Some("scrape")).await.status,
        401,
        "on the main port it is a request"
    );
    rig.send(rig.get("/")).await;
    rig.send(Request::get("/").header("host", "x")).await;
    let scrape = async || {
        let text = get(admin, "/metrics", Some("scrape")).await;
        String::from_utf8(text.body.to_vec()).unwrap()
    };
    // Noted when the exchange is over, which is after its client has the answer.
    let ended = "caracal_gateway_stage_seconds_count{stage=\"stream\"} 1";
    caracal_testing::wait_until(crate::rig::SOON, async || scrape().await.contains(ended)).await;
    let text = scrape().await;
    for line in [
        "caracal_gateway_requests_allowed_total 1",
        "caracal_gateway_denials_missing_auth_total 1",
        "caracal_gateway_stage_seconds_count{stage=\"route\"} 3",
        "caracal_gateway_stage_seconds_count{stage=\"authenticate\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"revocation\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"exchange\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"replay\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"resolve\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"inject\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"record\"} 1",
        "caracal_gateway_stage_seconds_count{stage=\"forward\"} 1",
        // Looked up by this very reading.
        "caracal_gateway_revocation_snapshot_fresh 1",
        "caracal_gateway_replay_table_entries 1",
        "caracal_gateway_audit_replay_files 1",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    let flat = get(admin, "/metrics.json", Some("scrape")).await.json();
    assert_eq!(flat["requests_allowed"], 1);
}

#[tokio::test]
async fn who_asks_on_the_main_port_whether_the_gateway_is_ready_does_not_make_it_ask_others_each_time() {
    let rig = Rig::start().await;
    let (main, admin) = (rig.gateway.addresses.main, rig.gateway.addresses.admin);
    let asked = async |address, times: u32| {
        let (began, before) = (tokio::time::Instant::now(), rig.bus.pings());
        for _time in 0..times {
            assert_eq!(get(address, "/ready", None).await.status, 200);
        }
        // An answer holds for half a second, however long all of this takes.
        let at_most = began.elapsed().as_millis() / 500 + 1;
        (rig.bus.pings() - before, usize::try_from(at_most).unwrap())
    };
    let (on_main, at_most) = asked(main, 100).await;
    assert!(
        (1..=at_most).contains(&on_main),
        "{on_main}, and not more than {at_most}"
    );
    let (on_admin, _) = asked(admin, 10).await;
    assert_eq!(on_admin, 10, "operators are told what is now");
}

#[tokio::test]
async fn the_main_port_can_be_left_to_upstream_paths() {
    let rig = Rig::with(&[("ADMIN_ON_MAIN_LISTENER", "false")]).await;
    assert_eq!(rig.send(rig.get("/health")).await.status, 200);
    assert_eq!(
        rig.upstream.requests()[0].target,
        "/health",
        "the path belongs to the upstream"
    );
}

#[tokio::test]
async fn a_reload_needs_the_admin_token() {
    let rig = Rig::with(&[("CARACAL_ADMIN_TOKEN", "operator")]).await;
    let reload = async |token: Option<&str>| {
        let mut request = Request::post("/internal/revocations/reload").header("host", "x");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        send(
            rig.gateway.addresses.admin,
            request.body(Full::default()).unwrap(),
        )
        .await
    };
    for token in [None, Some("wrong")] {
        let answer = reload(token).await;
        assert_eq!((answer.status, &answer.body[..]), (404, &b"not found"[..]));
    }
    rig.sts
        .revoke_in_snapshot(caracal_model::AnchorKind::Session, "session-1");
    let before = rig.sts.snapshot_requests();
    let answer = reload(Some("operator")).await;
    assert_eq!(
        (answer.status, answer.json()["revocations"].as_u64()),
        (200, Some(1))
    );
    assert_eq!(rig.sts.snapshot_requests(), before + 1);
    rig.sts.stop();
    let answer = caracal_testing::wait_for(crate::rig::SOON, async || {
        let answer = reload(Some("operator")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (503, Some("revocation_reload_failed"))
    );
}

#[tokio::test]
async fn requests_in_progress_end_before_the_gateway_does() {
    let rig = Rig::with(&[("DRAIN_TIMEOUT", "20s")]).await;
    rig.upstream.set(caracal_testing::Behaviour::Held);
    let mut call = Box::pin(rig.send(rig.get("/slow")));
    let reached = caracal_testing::wait_until(crate::rig::SOON, async || !rig.upstream.requests().is_empty());
    tokio::select! {
        _ = &mut call => panic!("the upstream holds the request"),
        () = reached => {}
    }
    rig.gateway.stop();
    rig.upstream.release();
    assert_eq!(call.await.status, 200);
}
