//! Which requests are sent to an upstream twice: those that nobody can have begun to answer, and that may be.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::exchange_raw;
use crate::rig::{METRICS, RESOURCE, Rig, mandate_upstream};
use crate::sts::Grant;

const KEPT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkept";
const FRESH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfresh";

/// An upstream whose first connection answers one request, and to the second one says `last` and hangs up. Later connections
/// answer every request. Every request after the first is noted, each with its connection.
async fn fickle(last: &'static str) -> (String, Arc<Mutex<Vec<(usize, String)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _peer) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, connection, last, Arc::clone(&noted)));
        }
    });
    (url, seen)
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    last: &'static str,
    noted: Arc<Mutex<Vec<(usize, String)>>>,
) {
    for request in 0.. {
        let Some(text) = read_request(&mut stream).await else {
            return;
        };
        if (connection, request) == (0, 0) {
            stream.write_all(KEPT.as_bytes()).await.unwrap();
            continue;
        }
        noted.lock().unwrap().push((connection, text));
        if connection == 0 {
            stream.write_all(last.as_bytes()).await.unwrap();
            return;
        }
        stream.write_all(FRESH.as_bytes()).await.unwrap();
    }
}

/// Reads a request with its body, which must have a length if there is one.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4_096];
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .split_once("content-length: ")
                .map_or(0, |(_before, after)| {
                    after.lines().next().unwrap().trim().parse().unwrap()
                });
            if body.len() >= length {
                return Some(text);
            }
        }
    }
}

fn request(rig: &Rig, method: &str, body: &str) -> String {
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    format!(
        "{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n{length}\r\n{body}",
        rig.sts.mandate()
    )
}

#[tokio::test]
async fn only_what_may_be_repeated_and_was_not_begun_to_be_answered_is_sent_again() {
    for (method, body, last, is_repeated) in [
        ("GET", "", "", true),
        ("DELETE", "", "", true),
        ("PUT", "hello", "", true),
        ("POST", "hello", "", false),
        ("POST", "", "", false),
        ("PATCH", "hello", "", false),
        ("GET", "", "HTTP/1.1 2", false),
        ("GET", "", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", false),
        (
            "GET",
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart",
            false,
        ),
    ] {
        let rig = Rig::with(&[METRICS]).await;
        let (url, seen) = fickle(last).await;
        rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
        let main = rig.gateway.addresses.main;
        let first = exchange_raw(main, &request(&rig, "GET", "")).await;
        assert!(first.ends_with("kept"), "{first}");
        let answer = exchange_raw(main, &request(&rig, method, body)).await;
        let what = format!("{method} {body:?} {last:?}: {answer}");
        assert_eq!(answer.ends_with("fresh"), is_repeated, "{what}");
        let seen = seen.lock().unwrap().clone();
        let connections: Vec<usize> = seen.iter().map(|(connection, _text)| *connection).collect();
        assert_eq!(
            connections,
            if is_repeated { vec![0, 1] } else { vec![0] },
            "{what}"
        );
        assert!(
            seen.iter().all(|(_connection, text)| text.ends_with(body)),
            "{what}"
        );
        assert_eq!(
            rig.metric("upstream_retries").await,
            u64::from(is_repeated),
            "{what}"
        );
        assert_eq!(
            rig.sts.exchanges().len(),
            2,
            "{what}: authority is asked for once"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_sent_again_counts_once() {
    let rig = Rig::with(&[("MAX_REQUEST_BYTES", "6000")]).await;
    let (url, seen) = fickle("").await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let main = rig.gateway.addresses.main;
    exchange_raw(main, &request(&rig, "GET", "")).await;
    let answer = exchange_raw(main, &request(&rig, "PUT", &"x".repeat(5_000))).await;
    assert!(answer.ends_with("fresh"), "{answer}");
    assert_eq!(seen.lock().unwrap().len(), 2);
}
