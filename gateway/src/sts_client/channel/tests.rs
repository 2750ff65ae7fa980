//! The gateway's end of a channel, against an STS that does what a test says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caracal_wire::channel::{Answer, Call, ChannelKey, FrameReader, FrameWriter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Channel, Ended, UNANSWERED_MAX};

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
