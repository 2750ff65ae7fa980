//! One request of a client is at most one request of the upstream, however the client frames it.
//!
//! The corpus is in `smuggling/`, a file per request: why it is there, what must become of it, and its bytes. Line ends of a file mean
//! nothing; `\r`, `\n`, `\t`, `\0` and `\xNN` are bytes; `{auth}` stands for a mandate that opens the resource. The request hidden in it
//! asks for `/smuggled` without a mandate: whoever sees it at the upstream has been deceived.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::{Grant, reusable};

/// What must become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The upstream hears nothing.
    Refused,
    /// The upstream hears it, once.
    One,
    /// One of the two: both are right.
    Either,
}

struct Case {
    name: String,
    expected: Expected,
    bytes: Vec<u8>,
}

impl Case {
    fn read(path: &Path, auth: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut lines = text.lines();
        assert!(
            lines.next().is_some_and(|why| why.starts_with("# ")),
            "{name} says why"
        );
        let expected = match lines.next() {
            Some("= refused") => Expected::Refused,
            Some("= one") => Expected::One,
            Some("= either") => Expected::Either,
            other => panic!("{name} expects {other:?}"),
        };
        let text = lines.collect::<String>();
        let mut bytes = Vec::new();
        for (index, part) in text.split("{auth}").enumerate() {
            if index > 0 {
                bytes.extend_from_slice(auth.as_bytes());
            }
            bytes.extend(unescaped(part));
        }
        Self {
            name,
            expected,
            bytes,
        }
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (byte, length) = match escape.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'0' => (0, 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            other => (other, 1),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Stands before the upstream and keeps every byte on its way there, per connection.
#[derive(Clone, Default)]
struct Tap(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap {
    async fn before(upstream: std::net::SocketAddr) -> (Self, String) {
        let tap = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let accepting = tap.clone();
        tokio::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                tokio::spawn(accepting.clone().forward(stream, upstream));
            }
        });
        (tap, url)
    }

    async fn forward(self, stream: TcpStream, upstream: std::net::SocketAddr) {
        let index = {
            let mut taken = self.0.lock().unwrap();
            taken.push(Vec::new());
            taken.len() - 1
        };
        let (mut from, mut back) = stream.into_split();
        let (mut answers, mut to) = TcpStream::connect(upstream).await.unwrap().into_split();
        let up = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                if let Some(taken) = self.0.lock().unwrap().get_mut(index) {
                    taken.extend_from_slice(&buffer[..read]);
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            let _closed = to.shutdown().await;
        };
        let down = async {
            let _copied = tokio::io::copy(&mut answers, &mut back).await;
            let _closed = back.shutdown().await;
        };
        tokio::join!(up, down);
    }
}

/// Says what is wrong with the bytes that went upstream on one connection: they must be framed in one way only.
fn fault_of(bytes: &[u8]) -> Option<&'static str> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    if head.contains('\0') || head.replace("\r\n", "").contains(['\r', '\n']) {
        return Some("a control character in the head");
    }
    let framing = |name: &str| head.lines().skip(1).filter(|line| line.starts_with(name)).count();
    let similar = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _value)| name.replace('_', "-"));
    let similar = similar
        .filter(|name| name.trim() == "content-length" || name.trim() == "transfer-encoding")
        .count();
    if similar > 1 || framing("host:") != 1 {
        return Some("framed or addressed twice");
    }
    if framing("transfer-encoding:") == 1 && !head.contains("\r\ntransfer-encoding: chunked") {
        return Some("another transfer encoding than chunks");
    }
    None
}

/// How long a request that is not complete is waited for, before our half of the connection is closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the bytes, and when something came back, or nothing does, closes our half of the connection. Gives what came back.
async fn exchange(gateway: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    // The gateway may close before it has heard all.
    let _sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _first = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await;
    let _closed = stream.shutdown().await;
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    let _reset_is_an_end_too = read.expect("the gateway closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_framing_makes_two_requests_of_one() {
    let rig = Rig::start().await;
    let (tap, url) = Tap::before(rig.upstream.address()).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let auth = format!(
        "Authorization: Bearer {}\r\nX-Caracal-Resource: {RESOURCE}\r\n",
        rig.sts.sign(reusable())
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/smuggling");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 80, "the corpus is there");
    let mut wrong = Vec::new();
    for path in paths {
        let case = Case::read(&path, &auth);
        let answer = exchange(rig.gateway.addresses.main, &case.bytes).await;
        let requests = rig.upstream.take_requests();
        let targets: Vec<&str> = requests.iter().map(|request| request.target.as_str()).collect();
        let count = match case.expected {
            Expected::Refused => targets.is_empty(),
            Expected::One => targets.len() == 1,
            Expected::Either => targets.len() <= 1,
        };
        let taken = std::mem::take(&mut *tap.0.lock().unwrap());
        let fault = taken.iter().find_map(|bytes| fault_of(bytes));
        let first = answer.lines().next().unwrap_or("closed");
        let is_answered = !targets.is_empty() || !first.starts_with("HTTP/1.1 2");
        println!("{:36} {:?} {first} {targets:?}", case.name, case.expected);
        if !count
            || !is_answered
            || fault.is_some()
            || targets.iter().any(|target| target.contains("smuggled"))
        {
            wrong.push(format!("{}: {first}, upstream {targets:?}, {fault:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
