//! Authority that ends while an upload stands still because its upstream takes nothing: nobody waits for the client then, and it
//! is cut by signal all the same.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::Bus;
use caracal_bus::spool::{Fsync, Spool, SpoolLimits};
use caracal_chassis::Clock;
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{Behaviour, LiveUpstream, Pipe, Speaks, wait_until};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::client::{Raw, wait_for_status};
use crate::http2::call;
use crate::rig::{Gateway, METRICS, RESOURCE, Rig, SOON, mandate_upstream, now};
use crate::sts::{Grant, one_shot};

const ROOM: (&str, &str) = ("MAX_REQUEST_BYTES", "1GiB");

/// An upstream that reads a request's head, perhaps begins to answer, and reads no more until it is told to.
struct Deaf {
    url: String,
    reads_on: Arc<Notify>,
    /// Everything that came after the head, once the gateway has hung up.
    rest: JoinHandle<Vec<u8>>,
}

impl Deaf {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let reads_on = Arc::new(Notify::new());
        let told = Arc::clone(&reads_on);
        let rest = tokio::spawn(async move {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            while !received.windows(4).any(|end| end == b"\r\n\r\n") {
                received.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            told.notified().await;
            received.clear();
            // A reset is an end too.
            let _ended = stream.read_to_end(&mut received).await;
            received
        });
        Self { url, reads_on, rest }
    }

    /// That the gateway has hung up, and that what came does not look whole.
    async fn was_let_go(self) {
        self.reads_on.notify_one();
        let rest = tokio::time::timeout(SOON, self.rest).await;
        let rest = rest.expect("the gateway hangs up").unwrap();
        assert!(
            !rest.ends_with(b"0\r\n\r\n"),
            "an upload that was cut never looks whole"
        );
    }
}

/// An upload that has come to a stand.
struct Upload {
    begun: Vec<u8>,
    reading: OwnedReadHalf,
    sending: JoinHandle<OwnedWriteHalf>,
}

impl Upload {
    /// Uploads without end under `mandate`, and returns when nothing more goes in.
    async fn stalled(gateway: std::net::SocketAddr, mandate: &str) -> Self {
        Self::after("", gateway, mandate).await
    }

    /// The same once the client has `answer`.
    async fn after(answer: &str, gateway: std::net::SocketAddr, mandate: &str) -> Self {
        let mut raw = Raw::connect(gateway).await;
        raw.write(format!(
            "POST /upload HTTP/1.1\r\nhost: x\r\nx-request-id: req-stalled\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))
        .await;
        let begun = raw.until(answer).await.into_bytes();
        let (reading, mut writing) = raw.stream.into_split();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let sending = tokio::spawn(async move {
            let piece = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
            // Ends when the gateway hangs up.
            while writing.write_all(&piece).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            writing
        });
        at_a_stand(&sent).await;
        Self {
            begun,
            reading,
            sending,
        }
    }

    /// Everything that the client is told until its connection ends.
    async fn told(mut self) -> String {
        let mut told = self.begun;
        // After the last words the connection may end in any way.
        let _ended = tokio::time::timeout(SOON, self.reading.read_to_end(&mut told))
            .await
            .expect("the client sees its end");
        let sending = tokio::time::timeout(SOON, self.sending).await;
        let _writing = sending.expect("the client is let go").unwrap();
        String::from_utf8(told).unwrap()
    }
}

/// Waits until `sent` does not grow any more.
async fn at_a_stand(sent: &AtomicUsize) {
    let mut before = (0, 0);
    wait_until(SOON, async || {
        let now = sent.load(Ordering::SeqCst);
        before = if now == before.0 {
            (now, before.1 + 1)
        } else {
            (now, 0)
        };
        now > 0 && before.1 >= 20
    })
    .await;
}

fn mandate(rig: &Rig) -> String {
    rig.sts.sign(one_shot().bound_to("session-1", "edge-1"))
}

async fn revoke(rig: &Rig) {
    rig.revoke(Anchor::from_parts(AnchorKind::Session, "session-1").unwrap())
        .await;
}

#[tokio::test]
async fn a_revocation_cuts_an_upload_whose_upstream_takes_nothing() {
    let rig = Rig::with(&[ROOM, METRICS]).await;
    let upstream = Deaf::start("").await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(upstream.url.clone())));
    let upload = Upload::stalled(rig.gateway.addresses.main, &mandate(&rig)).await;
    revoke(&rig).await;
    let told = upload.told().await;
    assert!(
        told.starts_with("HTTP/1.1 401 Unauthorized\r\n") && told.contains("session revoked"),
        "{told}"
    );
    let head = told.to_ascii_lowercase();
    for expected in [
        "connection: close\r\n",
        "x-request-id: req-stalled\r\n",
        "www-authenticate: bearer",
        "cache-control: no-store\r\n",
        "date: ",
    ] {
        assert!(head.contains(expected), "{expected} in {told}");
    }
    upstream.was_let_go().await;
    let outcome = rig
        .event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
    let metadata = &outcome["metadata_json"];
    assert_eq!(metadata["revocation_interrupted"], true);
    assert_eq!(metadata["error_kind"], "authority_ended");
    assert!(metadata["request_bytes"].as_u64().unwrap() > 0, "{metadata}");
    let of_request = rig.events().await;
    let of_request = of_request
        .iter()
        .filter(|event| event["request_id"] == "req-stalled");
    assert_eq!(of_request.count(), 2, "an intent and one outcome");
    assert_eq!(rig.metric("requests_allowed").await, 1);
    assert_eq!(rig.metric("denials_revoked").await, 1);
}

#[tokio::test]
async fn a_revocation_cuts_an_upload_whose_http2_upstream_takes_nothing() {
    let rig = Rig::with(&[ROOM, ("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    let (gone, hung_up) = oneshot::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(Some(gone)));
    let upstream = LiveUpstream::start(Speaks::H2c, move |request: Request<Incoming>| {
        let held = held.lock().unwrap().take();
        async move {
            let (_request, _dropped_when_the_stream_ends) = (request, held);
            let (_pipe, body) = Pipe::new();
            std::future::pending::<()>().await;
            Response::new(body)
        }
    })
    .await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
    let upload = Upload::stalled(rig.gateway.addresses.main, &mandate(&rig)).await;
    revoke(&rig).await;
    let told = upload.told().await;
    assert!(
        told.starts_with("HTTP/1.1 401 ") && told.contains("session revoked"),
        "{told}"
    );
    let hung_up = tokio::time::timeout(SOON, hung_up).await;
    assert!(hung_up.expect("the stream is reset").is_err());
    rig.event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
}

#[tokio::test]
async fn the_mandates_expiry_cuts_an_upload_whose_upstream_takes_nothing() {
    let rig = Rig::start().await;
    let clock = Clock::manual(now());
    let bus: Arc<dyn Bus> = Arc::clone(&rig.bus) as _;
    // The clock runs ahead of what the relay says.
    let settings = [ROOM, ("REVOCATION_FRESHNESS", "600s")];
    let gateway = Gateway::start_at(clock.clone(), bus, &rig.sts.url(), &settings).await;
    wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    let upstream = Deaf::start("").await;
    let release = Arc::new(Notify::new());
    rig.sts.grant(Grant::Held(
        Arc::clone(&release),
        mandate_upstream(upstream.url.clone()),
    ));
    let mandate = rig.sts.sign(one_shot().issued(clock.unix_seconds(), 40));
    let aged = async {
        wait_until(SOON, async || rig.sts.exchanges().len() == 1).await;
        // While the STS thinks, all but the last seconds of the mandate pass.
        clock.advance(Duration::from_secs(36));
        release.notify_one();
    };
    let (upload, ()) = tokio::join!(Upload::stalled(gateway.addresses.main, &mandate), aged);
    let told = upload.told().await;
    assert!(
        told.starts_with("HTTP/1.1 401 ") && told.contains("credential expired"),
        "{told}"
    );
    upstream.was_let_go().await;
    let outcome = rig
        .event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "authority_ended");
}

#[tokio::test]
async fn an_answer_that_began_ends_with_its_trailer_although_its_request_stands_still() {
    let rig = Rig::with(&[ROOM]).await;
    let upstream = Deaf::start("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(upstream.url.clone())));
    let upload = Upload::after("one\r\n", rig.gateway.addresses.main, &mandate(&rig)).await;
    revoke(&rig).await;
    let told = upload.told().await;
    assert!(
        told.starts_with("HTTP/1.1 200 ")
            && told.ends_with("3\r\none\r\n0\r\nX-Caracal-Revoked: true\r\n\r\n"),
        "{told}"
    );
    upstream.was_let_go().await;
    let outcome = rig
        .event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["upstream_status"], 200);
}

#[tokio::test]
async fn a_stalled_upload_over_http2_is_cut_and_no_other_stream_of_its_connection() {
    let rig = Rig::with(&[ROOM]).await;
    let stream = TcpStream::connect(rig.gateway.addresses.main).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(10)));
    client = client.ready().await.unwrap();
    let lasting = call(&rig, "/events", one_shot().bound_to("session-2", "edge-2"));
    let (lasting, _sent) = client.send_request(lasting.body(()).unwrap(), true).unwrap();
    let mut lasting = lasting.await.unwrap().into_body();

    let upstream = Deaf::start("").await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(upstream.url.clone())));
    client = client.ready().await.unwrap();
    let upload = call(&rig, "/upload", one_shot().bound_to("session-1", "edge-1"))
        .method("POST")
        .header("x-request-id", "req-stalled");
    let (answer, mut body) = client.send_request(upload.body(()).unwrap(), false).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        loop {
            body.reserve_capacity(0x4000);
            match poll_fn(|context| body.poll_capacity(context)).await {
                Some(Ok(room)) => {
                    body.send_data(Bytes::from(vec![b'x'; room]), false)?;
                    count.fetch_add(room, Ordering::SeqCst);
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    });
    at_a_stand(&sent).await;
    revoke(&rig).await;
    let answer = tokio::time::timeout(SOON, answer).await.expect("an end").unwrap();
    assert_eq!(answer.status(), 401);
    let text = answer.into_body().data().await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&text).contains("session revoked"),
        "{text:?}"
    );
    let sending = tokio::time::timeout(SOON, sending).await;
    let sending = sending.expect("the client is let go").unwrap();
    // Whichever it hears first: the whole answer, or that the rest of its body is not wanted (RFC 9113 section 8.1).
    if let Err(error) = sending {
        assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
    }
    upstream.was_let_go().await;
    rig.event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
    let mut events = 0;
    while events < 5 {
        let event = tokio::time::timeout(SOON, lasting.data()).await;
        let event = event.expect("the other stream lives on").unwrap().unwrap();
        lasting.flow_control().release_capacity(event.len()).unwrap();
        events += 1;
    }
}

#[tokio::test]
async fn what_a_stop_cuts_of_a_stalled_upload_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let spool = ("AUDIT_REPLAY_DIR", folder.path().to_str().unwrap());
    let rig = Rig::with(&[ROOM, spool]).await;
    let upstream = Deaf::start("").await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(upstream.url.clone())));
    let upload = Upload::stalled(rig.gateway.addresses.main, &mandate(&rig)).await;
    rig.gateway.stop();
    let told = upload.told().await;
    assert!(
        told.starts_with("HTTP/1.1 503 ") && told.contains("gateway is stopping"),
        "{told}"
    );
    upstream.was_let_go().await;
    // The next process publishes what this one had no time to.
    let is_free = async || Spool::open(folder.path(), SpoolLimits::default(), Fsync::Never).is_ok();
    wait_until(SOON, is_free).await;
    let _next = Gateway::start(Arc::clone(&rig.bus) as Arc<dyn Bus>, &rig.sts.url(), &[spool]).await;
    let outcome = rig
        .event("req-stalled", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "gateway_stopped");
}
