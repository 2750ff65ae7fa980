//! A gateway that shares a key exchanges on a channel what it would exchange at the token endpoint, and nobody else does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use caracal_chassis::Clock;
use caracal_testing::{Behaviour, Upstream, wait_until};
use caracal_token::Use;
use caracal_wire::answer_mac::{self, AnswerMacKey};
use caracal_wire::channel::{
    Answer, CHANNEL_PATH, Call, ChannelKey, FrameReader, FrameWriter, GOODBYE, PROTOCOL, WELCOME,
};
use caracal_wire::form;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stack::{ACCESS_TOKEN, GRANT, SOON, Stack, nonce, signature, with};
use crate::upstream_credentials::{self, configure};

const KEY: [u8; 32] = [0x3a; 32];

async fn with_key() -> Stack {
    Stack::start_with(&[("MANDATE_MAC_KEY", &hex::encode(KEY))]).await
}

/// The gateway's end of a channel.
struct Gateway {
    connection: TcpStream,
    writer: FrameWriter,
    reader: FrameReader,
    come: BytesMut,
}

/// Asks for a channel with these headers; the connection and the head of the answer.
async fn ask(stack: &Stack, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let address = stack.base.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let mut request = format!("GET {CHANNEL_PATH} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    connection
        .write_all(format!("{request}\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    (connection, String::from_utf8(head).unwrap())
}

/// A signature for a channel and the proof of the key.
fn signed() -> [(&'static str, String); 4] {
    proven(signature(now(), &nonce(), "GET", CHANNEL_PATH, ""), &KEY)
}

fn proven(signed: [(&'static str, String); 3], key: &[u8]) -> [(&'static str, String); 4] {
    let proof = AnswerMacKey::derive(key).question(&signed[2].1);
    let [time, nonce, signature] = signed;
    [time, nonce, signature, (answer_mac::HEADER, proof)]
}

fn now() -> i64 {
    Clock::system().unix_seconds()
}

fn upgrade<'s>(signed: &'s [(&'static str, String); 4]) -> Vec<(&'s str, &'s str)> {
    let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", PROTOCOL)];
    headers.extend(signed.iter().map(|(name, value)| (*name, value.as_str())));
    headers
}

fn welcome(head: &str) -> &str {
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix(WELCOME)?.strip_prefix(": "));
    line.unwrap()
}

impl Gateway {
    async fn open(stack: &Stack) -> Self {
        let signed = signed();
        let (connection, head) = ask(stack, &upgrade(&signed)).await;
        let agreement = ChannelKey::derive(&KEY)
            .accept(&signed[2].1, welcome(&head).as_bytes())
            .unwrap();
        let (writer, reader) = agreement.of_gateway();
        Self {
            connection,
            writer,
            reader,
            come: BytesMut::new(),
        }
    }

    async fn send(&mut self, calls: &[Call]) {
        let mut going = BytesMut::new();
        for call in calls {
            self.writer.write(call, &mut going).unwrap();
        }
        self.connection.write_all(&going).await.unwrap();
    }

    /// The next answer; `None` when the service has closed the channel.
    async fn next(&mut self) -> Option<Answer> {
        tokio::time::timeout(SOON, async {
            loop {
                if let Some(answer) = self.reader.next(&mut self.come).unwrap() {
                    return Some(answer);
                }
                if self.connection.read_buf(&mut self.come).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
        .unwrap()
    }

    async fn ask(&mut self, call: Call) -> (u16, Value) {
        let id = call.id;
        self.send(&[call]).await;
        let answer = self.next().await.unwrap();
        assert_eq!(answer.id, id);
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

fn call(id: u64, mandate: &str, fields: &[(&str, &str)]) -> Call {
    let request_id = nonce();
    let usual = [
        GRANT,
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("subject_token", mandate),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", "resource://crm"),
        ("request_method", "GET"),
        ("request_path", "/v1/contacts"),
        ("gateway_request_id", &request_id),
    ];
    Call {
        id,
        at_unix: now(),
        left_ms: 10_000,
        form: form::encode(&with(&usual, fields)).into(),
        request_id: request_id.clone().into(),
    }
}

#[tokio::test]
async fn a_channel_answers_as_the_token_endpoint_does() {
    let stack = with_key().await;
    let mut gateway = Gateway::open(&stack).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let (status, answer) = gateway.ask(call(1, &one_shot, &[])).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["access_token"], &answer["token_type"]),
        (&"".into(), &"N_A".into())
    );
    let by_http = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    assert_eq!(answer["upstreams"], by_http.body["upstreams"]);

    let seen = stack.one_shot("resource://mandate", "crm:read").await;
    let (status, answer) = gateway
        .ask(call(2, &seen, &[("resource", "resource://mandate")]))
        .await;
    assert_eq!(status, 200, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    stack.verify(token, "resource://mandate", Use::Resource).await;
}

#[tokio::test]
async fn what_is_refused_is_refused_in_the_same_words_and_recorded() {
    let stack = with_key().await;
    let mut gateway = Gateway::open(&stack).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    for (id, fields) in [
        (1, vec![("resource", "resource://unknown")]),
        (2, vec![("zone_id", "")]),
        (3, vec![("grant_type", "password")]),
        (4, vec![("application_id", "app-9")]),
        (5, vec![("subject_token", "no.mandate.atall")]),
    ] {
        let (status, body) = gateway.ask(call(id, &one_shot, &fields)).await;
        let by_http = stack.at_gateway(&one_shot, "resource://crm", &fields).await;
        assert_eq!(status, by_http.status, "{fields:?}: {body}");
        for member in ["error", "error_description"] {
            assert_eq!(body[member], by_http.body[member], "{fields:?}");
        }
    }
    let refused = call(6, &one_shot, &[("resource", "resource://unknown")]);
    let name = String::from_utf8(refused.request_id.to_vec()).unwrap();
    assert_ne!(gateway.ask(refused).await.0, 200);
    let events = stack.events(|event| event["request_id"] == name.as_str()).await;
    assert_eq!(events[0]["decision"], "deny");
    for other in [
        Call {
            request_id: Bytes::from_static(b"another"),
            ..call(7, &one_shot, &[])
        },
        Call {
            request_id: Bytes::new(),
            ..call(8, &one_shot, &[("gateway_request_id", "")])
        },
        Call {
            at_unix: now() - 61,
            ..call(9, &one_shot, &[])
        },
        Call {
            at_unix: i64::MIN,
            ..call(10, &one_shot, &[])
        },
    ] {
        let (status, body) = gateway.ask(other).await;
        assert_eq!((status, &body["error"]), (401, &"access_denied".into()), "{body}");
    }
    let long = "a".repeat(65_536);
    let (status, body) = gateway
        .ask(call(11, &one_shot, &[("scope", &long[..64_500])]))
        .await;
    assert_eq!(
        (status, &body["error"]),
        (413, &"payload_too_large".into()),
        "{body}"
    );
    let before = stack.metric("subject_tokens_known_total").await;
    let (status, body) = gateway
        .ask(Call {
            left_ms: 0,
            ..call(12, &one_shot, &[])
        })
        .await;
    assert_eq!(
        (status, &body["error_description"]),
        (503, &"the request took too long".into())
    );
    assert_eq!(
        stack.metric("subject_tokens_known_total").await,
        before,
        "nothing is done for nobody"
    );
}

#[tokio::test]
async fn a_call_is_given_up_when_its_gateway_gives_it_up() {
    let key = hex::encode(KEY);
    let settings = [
        ("MANDATE_MAC_KEY", key.as_str()),
        ("UPSTREAM_CREDENTIAL_WAIT", "9s"),
    ];
    let stack = upstream_credentials::start(&settings).await;
    let provider = Upstream::start_tls(Behaviour::Held).await;
    configure(&stack, "oauth2_client_credentials", &provider, &json!({})).await;
    let mut gateway = Gateway::open(&stack).await;
    let mandate = stack.one_shot(upstream_credentials::RESOURCE, "crm:read").await;
    let of_provider = |id, left_ms| Call {
        left_ms,
        ..call(id, &mandate, &[("resource", upstream_credentials::RESOURCE)])
    };
    let late = "the provider has not answered in time";
    let description = |answer: &Answer| {
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        body["error_description"].as_str().unwrap().to_owned()
    };
    // Until the configuration is known there is another answer.
    let mut id = 0;
    wait_until(SOON, async || {
        id += 1;
        gateway.send(&[of_provider(id, 500)]).await;
        let answer = gateway.next().await.unwrap();
        answer.id == id && description(&answer).ends_with(late) && !provider.requests().is_empty()
    })
    .await;
    let (patient, hasty) = (1_000, 1_001);
    gateway
        .send(&[of_provider(patient, 60_000), of_provider(hasty, 500)])
        .await;
    let first = gateway.next().await.unwrap();
    assert_eq!(first.id, hasty);
    assert!(description(&first).ends_with(late), "{}", description(&first));
    provider.release();
    let second = gateway.next().await.unwrap();
    assert_eq!(second.id, patient);
    assert!(
        !description(&second).ends_with(late),
        "it was still waiting: {}",
        description(&second)
    );
}

/// A call that is refused in few words, and before anything is looked at.
fn cheap(id: u64) -> Call {
    call(id, "", &[("grant_type", "password")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_takes_no_answers_is_not_listened_to_and_nobody_else_suffers() {
    let stack = with_key().await;
    let mut stalled = Gateway::open(&stack).await;
    let (mut from, mut to) = stalled.connection.into_split();
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let writing = tokio::spawn(async move {
        let mut going = BytesMut::new();
        loop {
            let id = count.load(Ordering::SeqCst);
            going.clear();
            stalled.writer.write(&cheap(id), &mut going).unwrap();
            // Ends when the service has closed.
            if to.write_all(&going).await.is_err() {
                return;
            }
            count.store(id + 1, Ordering::SeqCst);
        }
    });
    let mut before = (0, 0);
    wait_until(4 * SOON, async || {
        let now = sent.load(Ordering::SeqCst);
        before = if now == before.0 {
            (now, before.1 + 1)
        } else {
            (now, 0)
        };
        now > 0 && before.1 >= 20
    })
    .await;
    let taken = sent.load(Ordering::SeqCst);
    assert_eq!(stack.metric("gateway_channels").await, 1);

    let mut other = Gateway::open(&stack).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    assert_eq!(other.ask(call(1, &one_shot, &[])).await.0, 200);
    let by_http = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    assert_eq!(by_http.status, 200);
    assert_eq!(stack.metric("gateway_channels").await, 2);

    // It reads on, and misses nothing of what was taken.
    let mut answered = std::collections::HashSet::new();
    while answered.len() < usize::try_from(taken).unwrap() {
        while let Some(answer) = stalled.reader.next::<Answer>(&mut stalled.come).unwrap() {
            assert_eq!(answer.status, 400);
            assert!(answered.insert(answer.id));
        }
        let read = tokio::time::timeout(SOON, from.read_buf(&mut stalled.come)).await;
        assert_ne!(read.unwrap().unwrap(), 0);
    }
    writing.abort();
    let _aborted = writing.await;
    drop((from, other));
    wait_until(SOON, async || stack.metric("gateway_channels").await == 0).await;
}

#[tokio::test]
async fn a_gateway_that_stops_in_the_middle_of_a_frame_holds_up_nobody_and_may_go_on() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let mut gateway = Gateway::open(&stack).await;
    let mut frame = BytesMut::new();
    gateway
        .writer
        .write(&call(1, &one_shot, &[]), &mut frame)
        .unwrap();
    let rest = frame.split_off(frame.len() / 2);
    gateway.connection.write_all(&frame).await.unwrap();
    let mut other = Gateway::open(&stack).await;
    assert_eq!(other.ask(call(1, &one_shot, &[])).await.0, 200);
    gateway.connection.write_all(&rest).await.unwrap();
    assert_eq!(gateway.next().await.unwrap().status, 200);

    gateway.connection.write_all(&frame).await.unwrap();
    gateway.connection.shutdown().await.unwrap();
    assert_eq!(gateway.next().await, None);
    wait_until(SOON, async || stack.metric("gateway_channels").await == 1).await;
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer() {
    let stack = with_key().await;
    let mut gateway = Gateway::open(&stack).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let calls: Vec<Call> = (0..700)
        .map(|id| match id % 3 {
            0 => call(id, &one_shot, &[("resource", "resource://unknown")]),
            _ => call(id, &one_shot, &[]),
        })
        .collect();
    let (mut from, mut to) = gateway.connection.into_split();
    let mut going = BytesMut::new();
    for call in &calls {
        gateway.writer.write(call, &mut going).unwrap();
    }
    // More than is worked on at a time, and more than the sockets hold: who writes must read as well.
    let writing = tokio::spawn(async move {
        to.write_all(&going).await.unwrap();
        to
    });
    let mut statuses = BTreeMap::new();
    while statuses.len() < calls.len() {
        while let Some(answer) = gateway.reader.next::<Answer>(&mut gateway.come).unwrap() {
            assert_eq!(statuses.insert(answer.id, answer.status), None);
        }
        if statuses.len() < calls.len() {
            let read = tokio::time::timeout(SOON, from.read_buf(&mut gateway.come)).await;
            assert_ne!(read.unwrap().unwrap(), 0);
        }
    }
    let _to = writing.await.unwrap();
    for (id, status) in statuses {
        assert_eq!(status == 200, id % 3 != 0, "{id}: {status}");
    }
}

#[tokio::test]
async fn a_frame_that_is_not_the_gateways_ends_the_channel() {
    let stack = with_key().await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    let frame = |gateway: &mut Gateway| {
        let mut frame = BytesMut::new();
        gateway
            .writer
            .write(&call(1, &one_shot, &[]), &mut frame)
            .unwrap();
        frame
    };
    let mut gateway = Gateway::open(&stack).await;
    let mut altered = frame(&mut gateway);
    let last = altered.len() - 1;
    altered[last] ^= 1;
    gateway.connection.write_all(&altered).await.unwrap();
    assert_eq!(gateway.next().await, None);

    let mut gateway = Gateway::open(&stack).await;
    let once = frame(&mut gateway);
    gateway.connection.write_all(&once).await.unwrap();
    assert_eq!(gateway.next().await.unwrap().status, 200);
    gateway.connection.write_all(&once).await.unwrap();
    assert_eq!(gateway.next().await, None, "a frame is good once");

    let (mut first, mut second) = (Gateway::open(&stack).await, Gateway::open(&stack).await);
    let of_another = frame(&mut first);
    second.connection.write_all(&of_another).await.unwrap();
    assert_eq!(second.next().await, None, "and on its own channel");

    let mut gateway = Gateway::open(&stack).await;
    gateway
        .connection
        .write_all(&u32::MAX.to_be_bytes())
        .await
        .unwrap();
    assert_eq!(
        gateway.next().await,
        None,
        "nothing is kept for a length that is too long"
    );
}

#[tokio::test]
async fn a_channel_is_for_gateways_with_the_key_alone() {
    let stack = with_key().await;
    let once = signed();
    let (_connection, head) = ask(&stack, &upgrade(&once)).await;
    let proof = welcome(&head);
    assert!(
        ChannelKey::derive(&[9; 32])
            .accept(&once[2].1, proof.as_bytes())
            .is_none()
    );
    let wrong = |at: i64, path: &str, key: &[u8]| proven(signature(at, &nonce(), "GET", path, ""), key);
    let old = wrong(now() - 61, CHANNEL_PATH, &KEY);
    let elsewhere = wrong(now(), "/internal/gateway/revocations", &KEY);
    let stranger = wrong(now(), CHANNEL_PATH, &[9; 32]);
    let without_proof = signed();
    let fresh = signed();
    for (what, headers, status) in [
        ("again", upgrade(&once), "401"),
        ("too old", upgrade(&old), "401"),
        ("for something else", upgrade(&elsewhere), "401"),
        (
            "unsigned",
            vec![("Connection", "Upgrade"), ("Upgrade", PROTOCOL)],
            "401",
        ),
        ("with another key", upgrade(&stranger), "404"),
        (
            "without a proof of the key",
            upgrade(&without_proof)[..5].to_vec(),
            "404",
        ),
        (
            "another protocol",
            [
                &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
                &upgrade(&fresh)[2..],
            ]
            .concat(),
            "404",
        ),
    ] {
        let (_connection, head) = ask(&stack, &headers).await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{what}: {head}");
    }
    let plain = signed();
    let (_connection, head) = ask(&stack, &upgrade(&plain)[2..]).await;
    assert!(head.starts_with("HTTP/1.1 404"), "without an upgrade: {head}");

    let without = Stack::start().await;
    let signed = signed();
    let (_connection, head) = ask(&without, &upgrade(&signed)).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn a_service_that_ends_answers_what_it_has_taken_and_closes_its_channels() {
    let mut stack = with_key().await;
    let mut gateway = Gateway::open(&stack).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    assert_eq!(gateway.ask(call(1, &one_shot, &[])).await.0, 200);
    let calls: Vec<Call> = (2..40).map(|id| call(id, &one_shot, &[])).collect();
    gateway.send(&calls).await;
    let ending = tokio::spawn(async move { stack.stop().await.unwrap() });
    let mut answered = 0;
    let mut is_told = false;
    while answered < calls.len() || !is_told {
        let answer = gateway
            .next()
            .await
            .expect("everything is answered, and the end is said");
        if answer.id == GOODBYE {
            is_told = true;
        } else {
            assert_eq!(answer.status, 200);
            answered += 1;
        }
    }
    drop(gateway);
    ending.await.unwrap();
}
