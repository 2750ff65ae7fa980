//! A new process takes over from a running one: nobody is refused, and no open stream is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caracal_bus::Bus;
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
        caracal_bus::spool::Spool::open(
            &folder.path().join("spool/process-0"),
            caracal_bus::spool::SpoolLimits::default(),
            caracal_bus::spool::Fsync::Never,
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
