//! What comes on a channel of exchanges.

use bytes::{Bytes, BytesMut};
use caracal_wire::channel::{Answer, CONTENT_BYTES_MAX, Call, ChannelKey, Content, FrameError};

/// The first byte says how much is read at a time, the rest is what comes. Nothing that was not written with the key is taken, and
/// no room is made for a length that somebody claims. As content, what can be read is written the same; in frames it
/// comes out whole, however it is cut.
pub(crate) fn channel_frame(bytes: &[u8]) {
    let Some((step, rest)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);
    let key = ChannelKey::derive(&[7; 32]);
    let (_, mut reader) = key.agree("aa", &[9; 32]).of_token_service();
    let mut come = BytesMut::new();
    for piece in rest.chunks(step) {
        come.extend_from_slice(piece);
        match reader.next::<Call>(&mut come) {
            Ok(Some(call)) => panic!("{call:?} was never written"),
            Ok(None) => assert!(
                come.len() < CONTENT_BYTES_MAX + 64,
                "it waits for what is never good"
            ),
            Err(_refused) => break,
        }
    }
    let content = Bytes::copy_from_slice(rest);
    if let Some(call) = Call::take(content.clone()) {
        let mut written = BytesMut::new();
        call.put(&mut written);
        assert_eq!(written, content, "a call has one form");
        passes(&key, &call, step);
    }
    if let Some(answer) = Answer::take(content) {
        passes(&key, &answer, step);
    }
}

/// Two of them, written by one side, are read by the other in pieces of `step` bytes.
fn passes<T: Content + PartialEq>(key: &ChannelKey, content: &T, step: usize) {
    let (mut writer, _) = key.agree("aa", &[9; 32]).of_gateway();
    let mut sent = BytesMut::new();
    for _ in 0..2 {
        match writer.write(content, &mut sent) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, FrameError::TooLong);
                assert!(sent.is_empty(), "what is too long leaves nothing");
                return;
            }
        }
    }
    let (_, mut reader) = key.agree("aa", &[9; 32]).of_token_service();
    let (mut come, mut read) = (BytesMut::new(), 0);
    for piece in sent.chunks(step) {
        come.extend_from_slice(piece);
        while let Some(again) = reader.next::<T>(&mut come).expect("it was written so") {
            assert!(again == *content, "it came out as something else");
            read += 1;
        }
    }
    assert_eq!((read, come.len()), (2, 0));
}
