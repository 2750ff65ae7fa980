//! A new process takes over from a running one: nobody is refused, and no open stream is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caracal_bus::Bus;
use caracal_bus::spool::{Fsync, Spool, SpoolLimits};
use caracal_testing::{Behaviour, wait_until};
use http_body_util::BodyExt;
use tokio::net::UnixStream;

use crate::client::{Raw, open};
use crate::rig::{Gateway, RESOURCE, Rig, SOON};
use crate::sts::reusable;

#[tokio::test]
async fn a_new_process_serves_while_the_old_one_finishes_its_streams() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock").to_str().unwrap().to_owned();
    let spool = folder.path().join("spool").to_str().unwrap().to_owned();
    let settings = [("UPGRADE_SOCKET", socket.as_str()), ("AUDIT_REPLAY_DIR", &spool)];
    let rig = Rig::with(&settings).await;
    let main = rig.gateway.addresses.main;
    let mandate = rig.sts.sign(reusable());

    rig.upstream.set(Behaviour::Sse(Duration::from_millis(20)));
    let mut stream = open(
        main,
        rig.request("GET", "/stream", &mandate)
            .body(http_body_util::Full::default())
            .unwrap(),
    )
    .await
    .into_body();
    let _event = stream.frame().await.unwrap().unwrap();
    rig.upstream.set(Behaviour::Echo);

    // Calls on new connections and on kept ones go on all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_caller| {
            let (stop, mandate) = (Arc::clone(&stop), mandate.clone());
            tokio::spawn(async move {
                let mut served = 0;
                while !stop.load(Ordering::SeqCst) {
                    let mut raw = Raw::connect(main).await;
                    raw.write(format!(
                        "GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n"
                    ))
                    .await;
                    let answer = raw.until_closed().await;
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                    served += 1;
                }
                served
            })
        })
        .collect();

    let port = main.port().to_string();
    let admin = rig.gateway.addresses.admin.port().to_string();
    let mut same = settings.to_vec();
    same.extend([("PORT", port.as_str()), ("ADMIN_PORT", &admin)]);
    let next = Gateway::start(Arc::clone(&rig.bus) as Arc<dyn Bus>, &rig.sts.url(), &same).await;
    assert_eq!(next.addresses, rig.gateway.addresses, "the same listeners");

    // The old one's stream goes on.
    for _event in 0..5 {
        assert!(stream.frame().await.unwrap().unwrap().is_data());
    }
    // A third one takes over from the second: it is the second that answers at the socket now.
    let third = Gateway::start(Arc::clone(&rig.bus) as Arc<dyn Bus>, &rig.sts.url(), &same).await;
    for _event in 0..5 {
        assert!(stream.frame().await.unwrap().unwrap().is_data());
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    drop(stream);
    // Done with its last stream, the old one ends by itself and gives its spool back.
    wait_until(SOON, async || {
        Spool::open(
            &folder.path().join("spool/process-0"),
            SpoolLimits::default(),
            Fsync::Never,
        )
        .is_ok()
    })
    .await;
    assert_eq!(rig.send(rig.get("/x")).await.status, 200);
    drop(third);
}

#[tokio::test]
async fn a_process_that_never_gets_ready_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock").to_str().unwrap().to_owned();
    let rig = Rig::with(&[("UPGRADE_SOCKET", &socket)]).await;
    let asked = UnixStream::connect(&socket).await.unwrap();
    drop(asked);
    assert_eq!(rig.send(rig.get("/x")).await.status, 200);
    // The next one that asks gets the listeners.
    let port = rig.gateway.addresses.main.port().to_string();
    let settings = [("UPGRADE_SOCKET", socket.as_str()), ("PORT", &port)];
    let next = Gateway::start(Arc::clone(&rig.bus) as Arc<dyn Bus>, &rig.sts.url(), &settings).await;
    assert_eq!(next.addresses.main, rig.gateway.addresses.main);
}

#[tokio::test]
async fn what_a_process_left_in_its_spool_is_published_by_the_next_and_what_one_still_uses_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock").to_str().unwrap().to_owned();
    let below = folder.path().join("spool");
    let spool = below.to_str().unwrap().to_owned();
    let write = async |name: &str| {
        let (limits, fsync) = (SpoolLimits::default(), Fsync::Never);
        let (spool, _recovery) = Spool::open(&below.join(name), limits, fsync).unwrap();
        let event = serde_json::json!({"id": name, "event_type": "left_behind", "request_id": name});
        spool.append(event.to_string().into()).await.unwrap();
        spool
    };
    std::fs::create_dir(&below).unwrap();
    // The first is free for the gateway; the second is in use; the others were left.
    let in_use = write("process-1").await;
    for name in ["process-2", "process-7"] {
        drop(write(name).await);
    }
    let rig = Rig::with(&[("UPGRADE_SOCKET", socket.as_str()), ("AUDIT_REPLAY_DIR", &spool)]).await;
    let published = async || {
        let events = rig.events().await.into_iter();
        let of_spools = events.filter(|event| event["event_type"] == "left_behind");
        of_spools
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // They are looked at in their order.
    wait_until(SOON, async || published().await == ["process-2", "process-7"]).await;
    assert_eq!(in_use.stats().pending_events, 1);
    assert_eq!(rig.send(rig.get("/x")).await.status, 200);
}
