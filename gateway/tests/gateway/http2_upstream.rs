//! Upstreams that speak HTTP/2, over TLS or in clear, to a client that speaks HTTP/1.1.

use std::collections::HashMap;

use bytes::Bytes;
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{FaultProxy, LiveBody, LiveUpstream, Pipe, Speaks, test_authority, wait_until};
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::client::Raw;
use crate::rig::{RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::Grant;

const H2_FIRST: Speaks = Speaks::Tls(&["h2", "http/1.1"]);

fn whole(body: impl Into<Bytes>) -> Response<LiveBody> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    Response::new(body.boxed())
}

/// Answers with what came: version, target, authority or host, `te`, body.
async fn tell(request: Request<Incoming>) -> Response<LiveBody> {
    let (head, body) = request.into_parts();
    let text = |name: &str| {
        let value = head.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or("-").to_owned()
    };
    let authority = head.uri.authority().map_or("-", |authority| authority.as_str());
    let (host, te, expect) = (text("host"), text("te"), text("expect"));
    let target = head.uri.path_and_query().unwrap();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    whole(format!(
        "{:?} {target} authority={authority} host={host} te={te} expect={expect} {body}",
        head.version
    ))
}

/// A rig whose resource is at `upstream`, an authority that is trusted.
async fn rig(upstream: &LiveUpstream, more: &[(&str, &str)]) -> Rig {
    let authority = test_authority();
    let mut settings = vec![("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap())];
    settings.extend(more);
    let rig = Rig::with(&settings).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
    rig
}

fn post(rig: &Rig, framing: &str) -> String {
    format!(
        "POST /talk HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n{framing}\r\n\r\n",
        rig.sts.mandate()
    )
}

#[tokio::test]
async fn the_protocol_is_what_the_upstream_offers_and_the_settings_allow() {
    for (speaks, settings, version) in [
        (H2_FIRST, &[][..], "HTTP/2.0"),
        (Speaks::Tls(&["http/1.1"]), &[], "HTTP/1.1"),
        (Speaks::Tls(&[]), &[], "HTTP/1.1"),
        (H2_FIRST, &[("UPSTREAM_HTTP2", "false")], "HTTP/1.1"),
        (Speaks::H2c, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")], "HTTP/2.0"),
        (
            Speaks::Http1,
            &[("UPSTREAM_H2C_HOSTS", "127.0.0.1:1")],
            "HTTP/1.1",
        ),
    ] {
        let upstream = LiveUpstream::start(speaks, tell).await;
        let rig = rig(&upstream, settings).await;
        let answer = rig
            .send_with(rig.request("PUT", "/a%2Fb?q=%20", &rig.sts.mandate()), "hello")
            .await;
        let address = upstream.address();
        let (authority, host) = if version == "HTTP/2.0" {
            (address.to_string(), "-".to_owned())
        } else {
            ("-".to_owned(), address.to_string())
        };
        assert_eq!(
            (answer.status, String::from_utf8_lossy(&answer.body)),
            (
                200,
                format!("{version} /a%2Fb?q=%20 authority={authority} host={host} te=- expect=- hello")
                    .into()
            ),
            "{speaks:?} {settings:?}"
        );
    }
}

#[tokio::test]
async fn requests_share_a_connection() {
    let upstream = LiveUpstream::start(H2_FIRST, tell).await;
    let rig = rig(&upstream, &[]).await;
    for _request in 0..5 {
        assert_eq!(rig.send(rig.get("/")).await.status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_that_takes_trailers_is_announced_as_one() {
    let upstream = LiveUpstream::start(Speaks::H2c, tell).await;
    let rig = rig(&upstream, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    for (sent, received) in [
        ("trailers", "te=trailers"),
        ("gzip, Trailers", "te=trailers"),
        ("gzip", "te=-"),
    ] {
        let answer = rig.send(rig.get("/").header("te", sent)).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(received), "{sent}: {text}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_by_the_gateway() {
    let upstream = LiveUpstream::start(Speaks::H2c, tell).await;
    let rig = rig(&upstream, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(post(&rig, "expect: 100-continue\r\ncontent-length: 5"))
        .await;
    raw.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    raw.write("hello").await;
    let text = raw.until("hello").await;
    assert!(
        text.contains("HTTP/1.1 200 ") && text.contains("expect=- "),
        "{text}"
    );
}

/// An upstream that sends back every piece of the body as it comes, then trailers; and what becomes of its answers.
async fn echoing(speaks: Speaks) -> (LiveUpstream, mpsc::UnboundedReceiver<Pipe>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = LiveUpstream::start(speaks, move |request: Request<Incoming>| {
        let (pipe, body) = Pipe::new();
        tell.send(pipe.clone()).unwrap();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(piece) = frame.into_data() {
                    pipe.data(piece);
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            pipe.trailers(trailers);
        });
        async move { Response::new(body) }
    })
    .await;
    (upstream, told)
}

#[tokio::test]
async fn bodies_stream_both_ways_at_the_same_time() {
    let (upstream, _answers) = echoing(H2_FIRST).await;
    let rig = rig(&upstream, &[]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(post(&rig, "transfer-encoding: chunked")).await;
    raw.until("\r\n\r\n").await;
    for piece in ["first", "other", "third"] {
        raw.write(format!("5\r\n{piece}\r\n")).await;
        raw.until(&format!("5\r\n{piece}\r\n")).await;
    }
    raw.write("0\r\n\r\n").await;
    let text = raw.until("0\r\n\r\n").await;
    assert!(text.contains("third\r\n0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_revocation_cuts_both_ends() {
    let (upstream, mut answers) = echoing(H2_FIRST).await;
    let rig = rig(&upstream, &[]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    let mandate = rig.sts.sign(crate::sts::one_shot().anchored_in("ar-1", "ar-0"));
    raw.write(format!(
        "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
    ))
    .await;
    let head = raw.until("one").await;
    assert!(
        head.to_ascii_lowercase().contains("trailer: x-caracal-revoked"),
        "{head}"
    );
    rig.revoke(Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-1").unwrap())
        .await;
    let text = raw.until_closed().await;
    assert!(text.ends_with("0\r\nX-Caracal-Revoked: true\r\n\r\n"), "{text}");
    let answer = answers.recv().await.unwrap();
    tokio::time::timeout(SOON, answer.let_go())
        .await
        .expect("the upstream's stream is let go too");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_stream_with_it_and_no_other() {
    let (upstream, mut answers) = echoing(Speaks::H2c).await;
    let rig = rig(&upstream, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    let mut streams = Vec::new();
    for _stream in 0..2 {
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(post(&rig, "transfer-encoding: chunked")).await;
        raw.write("3\r\none\r\n").await;
        raw.until("one").await;
        streams.push((raw, answers.recv().await.unwrap()));
    }
    assert_eq!(upstream.connections(), 1);
    let (left, its_answer) = streams.remove(0);
    drop(left);
    tokio::time::timeout(SOON, its_answer.let_go())
        .await
        .expect("the upstream hears that the client left");
    let (mut other, _its_answer) = streams.remove(0);
    other.write("3\r\ntwo\r\n").await;
    other.until("two").await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_leaves_the_answer_incomplete() {
    let (upstream, mut answers) = echoing(Speaks::H2c).await;
    let rig = rig(&upstream, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(post(&rig, "transfer-encoding: chunked")).await;
    raw.write("3\r\none\r\n").await;
    raw.until("one").await;
    answers.recv().await.unwrap().break_off();
    let text = raw.until_closed().await;
    assert!(!text.contains("0\r\n\r\n"), "{text}");
}

/// The settings and the window of the connection, as a client announces them (RFC 9113 sections 3.4, 6.5 and 6.9).
async fn announced(stream: &mut TcpStream) -> (HashMap<u16, u32>, u32) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut settings = HashMap::new();
    let mut window = 65_535;
    while settings.is_empty() || window == 65_535 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        let stream_id = u32::from_be_bytes(head[5..].try_into().unwrap());
        match (head[3], stream_id) {
            (4, 0) => settings.extend(payload.chunks(6).map(|setting| {
                let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                (u16::from_be_bytes([setting[0], setting[1]]), value)
            })),
            (8, 0) => window += u32::from_be_bytes(payload[..].try_into().unwrap()),
            _ => {}
        }
    }
    (settings, window)
}

#[tokio::test]
async fn a_connection_has_room_for_all_its_streams_so_that_a_client_that_does_not_read_holds_up_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::with(&[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(post(&rig, "content-length: 0")).await;
    let (mut stream, _peer) = listener.accept().await.unwrap();
    let (settings, connection_window) = announced(&mut stream).await;
    assert_eq!(settings[&2], 0, "nothing may be pushed");
    let stream_window = settings[&4];
    assert!(stream_window <= 256 << 10, "what one answer may take of memory");
    assert!(
        connection_window >= 64 * stream_window,
        "{connection_window} for 64 of {stream_window}"
    );
}

#[tokio::test]
async fn a_websocket_handshake_goes_over_http_1_1() {
    let (tell, mut versions) = mpsc::unbounded_channel();
    let upstream = LiveUpstream::start(H2_FIRST, move |mut request: Request<Incoming>| {
        tell.send(request.version()).unwrap();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let upgraded = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let (mut from, mut to) = tokio::io::split(upgraded);
            let _client_gone = tokio::io::copy(&mut from, &mut to).await;
        });
        async move {
            let answer = Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            answer.body(whole("").into_body()).unwrap()
        }
    })
    .await;
    let rig = rig(&upstream, &[]).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        rig.sts.mandate()
    ))
    .await;
    raw.until("HTTP/1.1 101 ").await;
    raw.until("\r\n\r\n").await;
    raw.write("ping").await;
    raw.until("ping").await;
    assert_eq!(versions.recv().await, Some(Version::HTTP_11));
    wait_until(SOON, async || upstream.connections() == 1).await;
}

#[tokio::test]
async fn a_connection_on_which_nobody_is_there_any_more_is_found_out_by_a_ping() {
    let upstream = LiveUpstream::start(Speaks::H2c, |_request| async {
        let (pipe, body) = Pipe::new();
        assert!(pipe.data("begun"));
        tokio::spawn(async move { pipe.let_go().await });
        Response::new(body)
    })
    .await;
    let between = FaultProxy::before(&upstream.url()).await;
    // Nothing but a ping can end the wait.
    let settings = [
        ("UPSTREAM_H2C_HOSTS", "127.0.0.1"),
        ("UPSTREAM_HTTP2_PING", "1s"),
        ("STREAM_IDLE_TIMEOUT", "1h"),
        ("UPSTREAM_TIMEOUT", "1h"),
        ("READ_TIMEOUT", "2h"),
    ];
    let rig = rig(&upstream, &settings).await;
    let through = between.url_through(&upstream.url());
    rig.sts.grant(Grant::Upstream(mandate_upstream(through)));
    let mut client = Raw::connect(rig.gateway.addresses.main).await;
    client.write(post(&rig, "content-length: 0")).await;
    client.until("begun").await;
    between.pause();
    let rest = client.until_closed().await;
    assert!(
        !rest.ends_with("0\r\n\r\n"),
        "an answer that ended early never looks whole: {rest}"
    );
}
