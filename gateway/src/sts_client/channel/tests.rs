//! The gateway's end of a channel, against an STS that does what a test says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_wire::answer_mac::AnswerMacKey;
use caracal_wire::channel::{Answer, Call, ChannelKey, FrameReader, FrameWriter, WELCOME};
use caracal_wire::gateway_signature;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Channel, Ended, UNANSWERED_MAX};
use crate::sts_client::{StsClient, StsError};

const AT: i64 = 1_700_000_000;
const LEFT: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(20);

/// The other end.
struct Sts {
    connection: TcpStream,
    writer: FrameWriter,
    reader: FrameReader,
    come: BytesMut,
}

async fn channel() -> (Arc<Channel>, Sts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (connection, _peer) = listener.accept().await.unwrap();
    let agree = || ChannelKey::derive(&[7; 32]).agree("aa", &[9; 32]);
    let (writer, reader) = agree().of_token_service();
    let stream = pingora_core::protocols::l4::stream::Stream::from(stream);
    let channel = Channel::start(Box::new(stream), agree().of_gateway(), BytesMut::new());
    let sts = Sts {
        connection,
        writer,
        reader,
        come: BytesMut::new(),
    };
    (channel, sts)
}

impl Sts {
    async fn take(&mut self) -> Call {
        loop {
            if let Some(call) = self.reader.next(&mut self.come).unwrap() {
                return call;
            }
            assert_ne!(self.connection.read_buf(&mut self.come).await.unwrap(), 0);
        }
    }

    async fn give(&mut self, call: &Call) {
        let answer = Answer {
            id: call.id,
            status: 200,
            retry_after_s: None,
            body: call.form.clone(),
        };
        let mut going = BytesMut::new();
        self.writer.write(&answer, &mut going).unwrap();
        self.connection.write_all(&going).await.unwrap();
    }
}

fn ask(channel: &Arc<Channel>, form: &'static str) -> tokio::task::JoinHandle<Result<Answer, Ended>> {
    let channel = Arc::clone(channel);
    tokio::spawn(async move { channel.call(form, "req-1", AT, LEFT).await })
}

async fn result(asked: tokio::task::JoinHandle<Result<Answer, Ended>>) -> Result<Bytes, Ended> {
    let answer = tokio::time::timeout(SOON, asked).await.unwrap().unwrap();
    answer.map(|answer| answer.body)
}

#[tokio::test]
async fn every_caller_gets_its_own_answer_whatever_the_order() {
    let (channel, mut sts) = channel().await;
    let first = ask(&channel, "a=1");
    let first_call = sts.take().await;
    assert_eq!(
        (
            first_call.request_id.as_ref(),
            first_call.at_unix,
            first_call.left_ms
        ),
        (&b"req-1"[..], AT, 5_000)
    );
    let second = ask(&channel, "a=2");
    let second_call = sts.take().await;
    sts.give(&second_call).await;
    assert_eq!(result(second).await.unwrap(), "a=2");
    sts.give(&first_call).await;
    assert_eq!(result(first).await.unwrap(), "a=1");
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_nobody_elses() {
    let (channel, mut sts) = channel().await;
    let given_up = ask(&channel, "a=1");
    let call = sts.take().await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let next = ask(&channel, "a=2");
    let next_call = sts.take().await;
    sts.give(&call).await;
    sts.give(&next_call).await;
    assert_eq!(result(next).await.unwrap(), "a=2");
    assert!(channel.takes_calls(), "it was not silent");
}

#[tokio::test]
async fn callers_learn_that_the_channel_has_ended() {
    let (channel, mut sts) = channel().await;
    let asked = ask(&channel, "a=1");
    let _call = sts.take().await;
    drop(sts);
    assert_eq!(result(asked).await, Err(Ended::Unknown));
    assert!(!channel.takes_calls());
    assert_eq!(result(ask(&channel, "a=2")).await, Err(Ended::Untold));
}

#[tokio::test]
async fn an_answer_that_is_not_proven_ends_the_channel() {
    let (channel, mut sts) = channel().await;
    let asked = ask(&channel, "a=1");
    let call = sts.take().await;
    let (mut stranger, _) = ChannelKey::derive(&[8; 32])
        .agree("aa", &[9; 32])
        .of_token_service();
    std::mem::swap(&mut sts.writer, &mut stranger);
    sts.give(&call).await;
    assert_eq!(result(asked).await, Err(Ended::Unknown));
    assert!(!channel.takes_calls());
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_stays_silent_is_given_up_with_its_caller() {
    let (channel, mut sts) = channel().await;
    let asked = tokio::time::timeout(LEFT, channel.call("a=1", "req-1", AT, LEFT)).await;
    assert!(asked.is_err());
    assert!(!channel.takes_calls());
    assert_eq!(result(ask(&channel, "a=2")).await, Err(Ended::Untold));
    assert_eq!(sts.take().await.form, "a=1", "it was sent");
}

#[tokio::test]
async fn a_call_that_is_too_long_for_a_frame_is_not_taken_and_ends_nothing() {
    let (channel, mut sts) = channel().await;
    let long: &'static str = "a".repeat(70_000).leak();
    assert_eq!(result(ask(&channel, long)).await, Err(Ended::Untold));
    let asked = ask(&channel, "a=1");
    let call = sts.take().await;
    sts.give(&call).await;
    assert_eq!(result(asked).await.unwrap(), "a=1");
}

#[tokio::test]
async fn whoever_says_goodbye_gets_no_more_calls_and_is_heard_out() {
    let (channel, mut sts) = channel().await;
    let asked = ask(&channel, "a=1");
    let call = sts.take().await;
    let goodbye = Call {
        id: caracal_wire::channel::GOODBYE,
        ..call.clone()
    };
    sts.give(&goodbye).await;
    tokio::time::timeout(SOON, async {
        while channel.takes_calls() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(result(ask(&channel, "a=2")).await, Err(Ended::Untold));
    sts.give(&call).await;
    assert_eq!(result(asked).await.unwrap(), "a=1");
    assert_eq!(
        sts.connection.read_buf(&mut sts.come).await.unwrap(),
        0,
        "then it is closed"
    );
}

#[tokio::test]
async fn only_so_many_calls_wait_on_one_channel_those_of_callers_that_are_gone_included() {
    let (channel, mut sts) = channel().await;
    let mut asked: Vec<_> = (0..UNANSWERED_MAX).map(|_| ask(&channel, "a=1")).collect();
    let mut calls = Vec::new();
    for _ in 0..UNANSWERED_MAX {
        calls.push(sts.take().await);
    }
    assert_eq!(result(ask(&channel, "a=2")).await, Err(Ended::Untold));
    let gone = asked.pop().unwrap();
    gone.abort();
    let _aborted = gone.await;
    assert_eq!(result(ask(&channel, "a=2")).await, Err(Ended::Untold));
    for call in &calls {
        sts.give(call).await;
    }
    for asked in asked {
        assert_eq!(result(asked).await.unwrap(), "a=1");
    }
    let next = ask(&channel, "a=2");
    let call = sts.take().await;
    sts.give(&call).await;
    assert_eq!(result(next).await.unwrap(), "a=2");
}

#[tokio::test(start_paused = true)]
async fn a_channel_without_calls_is_closed() {
    let (channel, mut sts) = channel().await;
    assert_eq!(sts.connection.read_buf(&mut sts.come).await.unwrap(), 0);
    assert!(!channel.takes_calls());
}

#[tokio::test]
async fn channels_that_nobody_holds_any_more_are_closed() {
    let (channel, mut sts) = channel().await;
    let channels = super::Channels::new();
    channels.places[0].open.store(Some(channel));
    drop(channels);
    assert_eq!(sts.connection.read_buf(&mut sts.come).await.unwrap(), 0);
}

/// An STS that agrees to every channel and answers nothing on it, and answers by HTTP at once. What comes on channels is told.
async fn silent_on_channels(key: [u8; 32], told: mpsc::UnboundedSender<Call>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _peer)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut head = BytesMut::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if head.starts_with("POST ") {
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                    return connection.write_all(answer.as_bytes()).await.unwrap();
                }
                let name = format!("{}: ", gateway_signature::SIGNATURE);
                let mut signature = head.lines().filter_map(|line| line.strip_prefix(&name));
                let agreement = ChannelKey::derive(&key).agree(signature.next().unwrap(), &[9; 32]);
                let welcome = format!(
                    "HTTP/1.1 101 Switching Protocols\r\n{WELCOME}: {}\r\n\r\n",
                    agreement.welcome
                );
                connection.write_all(welcome.as_bytes()).await.unwrap();
                let (writer, reader) = agreement.of_token_service();
                let mut sts = Sts {
                    connection,
                    writer,
                    reader,
                    come: BytesMut::new(),
                };
                loop {
                    told.send(sts.take().await).unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_deadline_below_a_second_is_told_and_kept() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let key = [0x3a; 32];
    let (told, mut calls) = mpsc::unbounded_channel();
    let url = silent_on_channels(key, told).await;
    let clock = Clock::manual(AT);
    let shared = Some(HmacKey::new(vec![7; 32]));
    let client = StsClient::new(&[url], shared, TIMEOUT, None, clock)
        .unwrap()
        .with_answer_mac(Some(AnswerMacKey::derive(&key)))
        .with_channels(Some(ChannelKey::derive(&key)));
    client.locate().await;
    let kept = async {
        // By HTTP, until there is a channel.
        loop {
            match client.exchange("a=1", "req-1").await {
                Ok(answer) => assert!(!answer.is_by_channel),
                Err(error) => break error,
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(SOON, kept)
        .await
        .expect("no more time than that");
    assert!(matches!(error, StsError::Timeout), "{error:?}");
    let call = calls.recv().await.unwrap();
    assert_eq!((call.form.as_ref(), call.at_unix), (&b"a=1"[..], AT));
    assert!(
        (1..=300).contains(&call.left_ms),
        "what is left of it: {}",
        call.left_ms
    );
}
