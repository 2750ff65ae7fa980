use caracal_chassis::http_client::{Client, ClientLimits};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::wait::wait_until;

const SOON: Duration = Duration::from_secs(10);

async fn post(url: &str, body: &'static str) -> caracal_chassis::http_client::Response {
    let mut headers = HeaderMap::new();
    headers.insert("x-test", "yes".parse().unwrap());
    Client::new(ClientLimits::default())
        .request(Method::POST, url, headers, body)
        .await
        .unwrap()
}

#[tokio::test]
async fn requests_are_remembered_byte_for_byte() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let answer = post(&format!("{}/a%2Fb/%C3%A9?q=1&q=%20", upstream.url()), "hello").await;
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(document["target"], "/a%2Fb/%C3%A9?q=1&q=%20");
    let requests = upstream.take_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].body, "hello");
    assert_eq!(requests[0].header("x-test"), Some("yes"));
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn the_answer_is_what_the_test_set() {
    let upstream = Upstream::start(Behaviour::Status(StatusCode::IM_A_TEAPOT, "short".into())).await;
    let answer = post(&upstream.url(), "").await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::IM_A_TEAPOT, &b"short"[..])
    );
    upstream.set(Behaviour::Custom(Arc::new(|request| {
        Response::builder()
            .header("set-cookie", "a=1")
            .body(request.body.clone())
            .unwrap()
    })));
    let answer = post(&upstream.url(), "back").await;
    assert_eq!(answer.headers["set-cookie"], "a=1");
    assert_eq!(answer.body, "back");
}

#[tokio::test]
async fn a_held_request_goes_on_when_released() {
    let upstream = Arc::new(Upstream::start(Behaviour::Held).await);
    let url = upstream.url();
    let call = tokio::spawn(async move { post(&url, "waiting").await });
    wait_until(SOON, async || upstream.requests().len() == 1).await;
    assert!(!call.is_finished());
    upstream.release();
    assert_eq!(call.await.unwrap().status, StatusCode::OK);
}

async fn raw(upstream: &Upstream, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1_024];
    while !text.contains(end) {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the upstream closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn an_event_stream_is_open_until_its_client_goes_away() {
    let upstream = Upstream::start(Behaviour::Sse(Duration::from_millis(5))).await;
    let mut stream = raw(&upstream, "GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = read_until(&mut stream, "id: 3\n").await;
    assert!(head.contains("text/event-stream"), "{head}");
    assert_eq!(upstream.open_streams(), 1);
    drop(stream);
    wait_until(SOON, async || upstream.open_streams() == 0).await;
}

#[tokio::test]
async fn an_upgraded_connection_sends_back_what_it_gets() {
    let upstream = Upstream::start(Behaviour::Upgrade).await;
    let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut stream = raw(&upstream, request).await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"),
        "{head}"
    );
    stream.write_all(b"ping-1").await.unwrap();
    assert_eq!(read_until(&mut stream, "ping-1").await, "ping-1");
    drop(stream);
    wait_until(SOON, async || upstream.open_streams() == 0).await;
}
