//! How do many exchanges share one connection? After an HTTP/1.1 upgrade, as frames that both sides prove.
//!
//! A frame is its length, its content and a MAC over its number on this connection and its content, under a key that the two
//! sides derive anew for each connection and direction (`docs/contract/wire-formats.md`, "Exchange channel"). So nothing can be
//! put in, left out, repeated, moved or sent back, and an answer is proven without a MAC of its own.

use std::fmt;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, sign};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use subtle::ConstantTimeEq as _;

/// Where a gateway asks for a channel, with a signed `GET` without content.
pub const CHANNEL_PATH: &str = "/internal/gateway/channel";
/// What the connection is upgraded to (RFC 9110 section 7.8).
pub const PROTOCOL: &str = "caracal-exchange/1";
/// Header of the answer that agrees: 64 hex digits of randomness, a space, and the proof of the key, 64 hex digits.
pub const WELCOME: &str = "x-caracal-channel";
/// Longest content of a frame, in bytes: a form, or an answer, of 64 KiB and what stands before it.
pub const CONTENT_BYTES_MAX: usize = 65 * 1024;

/// What the derived key is for.
const INFO: &[u8] = b"caracal/exchange-channel/v1\x01";
const LENGTH_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

/// The key that channels' keys are made of, for token services and gateways only.
#[derive(Clone)]
pub struct ChannelKey(Key);

impl ChannelKey {
    /// Derives the key from the shared secret, which serves other purposes too (HKDF-Expand, RFC 5869, one block).
    pub fn derive(shared: &[u8]) -> Self {
        let derived = sign(&Key::new(HMAC_SHA256, shared), INFO);
        Self(Key::new(HMAC_SHA256, derived.as_ref()))
    }

    /// The keys of one connection: asked for with this signature, agreed to with this randomness.
    pub fn agree(&self, signature: &str, randomness: &[u8; 32]) -> Agreement {
        let key = |purpose: &[u8]| {
            let mut context = Context::with_key(&self.0);
            for part in [purpose, b"\n", signature.as_bytes(), b"\n", randomness] {
                context.update(part);
            }
            Key::new(HMAC_SHA256, context.sign().as_ref())
        };
        let proof = sign(&key(b"proof"), PROTOCOL.as_bytes());
        Agreement {
            welcome: format!("{} {}", hex::encode(randomness), hex::encode(proof)),
            calls: key(b"calls"),
            answers: key(b"answers"),
        }
    }

    /// The same from the value of [`WELCOME`], when the other side has this key too.
    pub fn accept(&self, signature: &str, welcome: &[u8]) -> Option<Agreement> {
        let mut randomness = [0; 32];
        hex::decode_to_slice(welcome.get(..64)?, &mut randomness).ok()?;
        let agreement = self.agree(signature, &randomness);
        let is_proven: bool = agreement.welcome.as_bytes().ct_eq(welcome).into();
        is_proven.then_some(agreement)
    }
}

/// Does not show the key.
impl fmt::Debug for ChannelKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ChannelKey([redacted])")
    }
}

/// What two sides have agreed on for one connection.
pub struct Agreement {
    /// The value of [`WELCOME`].
    pub welcome: String,
    calls: Key,
    answers: Key,
}

impl Agreement {
    /// What the gateway writes with and reads with.
    pub fn of_gateway(self) -> (FrameWriter, FrameReader) {
        (FrameWriter::new(self.calls), FrameReader::new(self.answers))
    }

    /// What the token service writes with and reads with.
    pub fn of_token_service(self) -> (FrameWriter, FrameReader) {
        (FrameWriter::new(self.answers), FrameReader::new(self.calls))
    }
}

/// Does not show the keys.
impl fmt::Debug for Agreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Agreement").finish_non_exhaustive()
    }
}

fn tag(key: &Key, number: u64, content: &[u8]) -> [u8; TAG_BYTES] {
    let mut context = Context::with_key(key);
    context.update(&number.to_be_bytes());
    context.update(content);
    let mut tag = [0; TAG_BYTES];
    for (to, from) in tag.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    tag
}

/// A frame that must not be sent or believed; the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is longer than [`CONTENT_BYTES_MAX`].
    #[error("a frame is too long")]
    TooLong,
    /// Its MAC is wrong: changed, repeated, left out, or by somebody else.
    #[error("a frame is not proven")]
    Unproven,
    /// Its content is none.
    #[error("a frame cannot be read")]
    Malformed,
}

/// Writes the frames of one direction. One HMAC for each.
#[derive(Debug)]
pub struct FrameWriter {
    key: Secret,
    number: u64,
}

impl FrameWriter {
    fn new(key: Key) -> Self {
        Self {
            key: Secret(key),
            number: 0,
        }
    }

    /// Appends the frame of `content` to what is about to be sent.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; then nothing was appended.
    pub fn write(&mut self, content: &impl Content, to: &mut BytesMut) -> Result<(), FrameError> {
        let begin = to.len();
        to.put_u32(0);
        content.put(to);
        let from = begin + LENGTH_BYTES;
        let length = to.len() - from;
        let Some(length) = u32::try_from(length).ok().filter(|_| length <= CONTENT_BYTES_MAX) else {
            to.truncate(begin);
            return Err(FrameError::TooLong);
        };
        if let Some(place) = to.get_mut(begin..from) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        let tag = tag(&self.key.0, self.number, to.get(from..).unwrap_or_default());
        to.put_slice(&tag);
        self.number += 1;
        Ok(())
    }
}

/// Reads the frames of one direction. One HMAC for each.
#[derive(Debug)]
pub struct FrameReader {
    key: Secret,
    number: u64,
}

impl FrameReader {
    fn new(key: Key) -> Self {
        Self {
            key: Secret(key),
            number: 0,
        }
    }

    /// Takes the next whole frame from what has come; `None` when there is none yet.
    ///
    /// # Errors
    /// [`FrameError`]: nothing that comes after it can be believed.
    pub fn next<T: Content>(&mut self, come: &mut BytesMut) -> Result<Option<T>, FrameError> {
        let Some(length) = come.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > CONTENT_BYTES_MAX {
            return Err(FrameError::TooLong);
        }
        if come.len() < LENGTH_BYTES + length + TAG_BYTES {
            return Ok(None);
        }
        come.advance(LENGTH_BYTES);
        let content = come.split_to(length).freeze();
        let presented = come.split_to(TAG_BYTES);
        let expected = tag(&self.key.0, self.number, &content);
        if !bool::from(expected.as_slice().ct_eq(&presented)) {
            return Err(FrameError::Unproven);
        }
        self.number += 1;
        T::take(content).map(Some).ok_or(FrameError::Malformed)
    }
}

struct Secret(Key);

/// Does not show the key.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// What a frame can hold.
pub trait Content: Sized {
    /// Appends it.
    fn put(&self, to: &mut BytesMut);
    /// Reads it; `None` when it is none.
    fn take(from: Bytes) -> Option<Self>;
}

/// An exchange that a gateway asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    /// What its answer is called; chosen by the gateway.
    pub id: u64,
    /// When it was written, in Unix seconds: a call that was held back on its way is refused as an old signature is.
    pub at_unix: i64,
    /// How long the gateway waits for the answer, in milliseconds.
    pub left_ms: u32,
    /// The request on whose behalf.
    pub request_id: Bytes,
    /// The form of the exchange, as the token endpoint takes it.
    pub form: Bytes,
}

impl Content for Call {
    fn put(&self, to: &mut BytesMut) {
        to.put_u64(self.id);
        to.put_i64(self.at_unix);
        to.put_u32(self.left_ms);
        // A name that is longer is cut off, which the other side notices: the form holds it as well.
        let length = u8::try_from(self.request_id.len()).unwrap_or(u8::MAX);
        to.put_u8(length);
        to.put_slice(self.request_id.get(..usize::from(length)).unwrap_or_default());
        to.put_slice(&self.form);
    }

    fn take(mut from: Bytes) -> Option<Self> {
        let id = from.try_get_u64().ok()?;
        let at_unix = from.try_get_i64().ok()?;
        let left_ms = from.try_get_u32().ok()?;
        let length = usize::from(from.try_get_u8().ok()?);
        let request_id = (from.len() >= length).then(|| from.split_to(length))?;
        Some(Self {
            id,
            at_unix,
            left_ms,
            request_id,
            form: from,
        })
    }
}

/// Does not show the form, which holds a mandate.
impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Call")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The id of an answer to no call: the token service ends, and takes none that is not sent yet.
pub const GOODBYE: u64 = u64::MAX;

/// What the token service answers to a call.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The call's.
    pub id: u64,
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// JSON.
    pub body: Bytes,
}

impl Content for Answer {
    fn put(&self, to: &mut BytesMut) {
        to.put_u64(self.id);
        to.put_u16(self.status);
        // Zero seconds is no time to wait.
        to.put_u32(self.retry_after_s.unwrap_or(0));
        to.put_slice(&self.body);
    }

    fn take(mut from: Bytes) -> Option<Self> {
        Some(Self {
            id: from.try_get_u64().ok()?,
            status: from.try_get_u16().ok()?,
            retry_after_s: Some(from.try_get_u32().ok()?).filter(|seconds| *seconds != 0),
            body: from,
        })
    }
}

/// Does not show the body, which may hold a credential.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Answer")
            .field("id", &self.id)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement() -> Agreement {
        ChannelKey::derive(&[7; 32]).agree("aa", &[9; 32])
    }

    fn call(id: u64) -> Call {
        Call {
            id,
            at_unix: 1_700_000_000,
            left_ms: 5_000,
            request_id: Bytes::from_static(b"req-1"),
            form: Bytes::from_static(b"a=1&b=2"),
        }
    }

    fn written(calls: &[Call]) -> BytesMut {
        let (mut writer, _) = agreement().of_gateway();
        let mut sent = BytesMut::new();
        for call in calls {
            writer.write(call, &mut sent).unwrap();
        }
        sent
    }

    #[test]
    fn what_one_side_writes_the_other_reads_however_it_comes() {
        let (_, mut reader) = agreement().of_token_service();
        let sent = written(&[call(1), call(2)]);
        let mut come = BytesMut::new();
        let mut read = Vec::new();
        for byte in sent {
            come.put_u8(byte);
            read.extend(reader.next::<Call>(&mut come).unwrap());
        }
        assert_eq!(read, [call(1), call(2)]);
        let answer = Answer {
            id: 2,
            status: 429,
            retry_after_s: Some(3),
            body: Bytes::from_static(b"{}"),
        };
        let (mut writer, _) = agreement().of_token_service();
        let (_, mut reader) = agreement().of_gateway();
        let mut sent = BytesMut::new();
        writer.write(&answer, &mut sent).unwrap();
        assert_eq!(reader.next(&mut sent), Ok(Some(answer)));
        assert!(sent.is_empty());
    }

    #[test]
    fn no_changed_byte_is_believed() {
        let sent = written(&[call(1)]);
        for place in LENGTH_BYTES..sent.len() {
            let (_, mut reader) = agreement().of_token_service();
            let mut changed = sent.clone();
            changed[place] ^= 1;
            assert_eq!(
                reader.next::<Call>(&mut changed),
                Err(FrameError::Unproven),
                "{place}"
            );
        }
    }

    #[test]
    fn no_frame_passes_twice_in_another_place_or_back() {
        let first = written(&[call(1)]);
        let both = written(&[call(1), call(2)]);
        let second = BytesMut::from(&both[first.len()..]);
        let twice = BytesMut::from([&first[..], &first[..]].concat().as_slice());
        for (mut sent, good) in [(second, 0), (twice, 1)] {
            let (_, mut reader) = agreement().of_token_service();
            for _ in 0..good {
                assert_eq!(reader.next(&mut sent), Ok(Some(call(1))));
            }
            assert_eq!(reader.next::<Call>(&mut sent), Err(FrameError::Unproven));
        }
        let (_, mut back) = agreement().of_gateway();
        assert_eq!(back.next::<Call>(&mut first.clone()), Err(FrameError::Unproven));
    }

    #[test]
    fn the_keys_are_of_one_connection_and_one_secret() {
        let key = ChannelKey::derive(&[7; 32]);
        let welcome = key.agree("aa", &[9; 32]).welcome;
        assert!(key.accept("aa", welcome.as_bytes()).is_some());
        assert!(key.accept("ab", welcome.as_bytes()).is_none());
        assert!(
            ChannelKey::derive(&[8; 32])
                .accept("aa", welcome.as_bytes())
                .is_none()
        );
        for changed in [
            "",
            &welcome[..128],
            &welcome.replace(' ', "  "),
            &welcome.to_uppercase(),
        ] {
            assert!(key.accept("aa", changed.as_bytes()).is_none(), "{changed}");
        }
        let others = [key.agree("ab", &[9; 32]), key.agree("aa", &[8; 32])];
        for other in others {
            let (_, mut reader) = other.of_token_service();
            assert_eq!(
                reader.next::<Call>(&mut written(&[call(1)])),
                Err(FrameError::Unproven)
            );
        }
    }

    #[test]
    fn the_frame_is_the_documented_one() {
        // By Python's hmac, with key = HMAC(HMAC(0707..07, INFO), "calls\naa\n" + 32 * 09).
        assert_eq!(
            agreement().welcome,
            format!(
                "{} 82fcf9671617ccb062bc22997536a52b938d88ab6d9d53610df95a2381fcb63c",
                "09".repeat(32)
            )
        );
        let sent = written(&[call(1)]);
        assert_eq!(
            hex::encode(sent),
            "000000210000000000000001000000006553f10000001388057265712d31613d3126623d329779a2e05bb10bd1b29d2c767b07893c"
        );
    }

    #[test]
    fn what_is_too_long_is_neither_written_nor_waited_for() {
        let (mut writer, _) = agreement().of_gateway();
        let long = Call {
            form: vec![b'a'; CONTENT_BYTES_MAX].into(),
            ..call(1)
        };
        let mut sent = BytesMut::from(&b"x"[..]);
        assert_eq!(writer.write(&long, &mut sent), Err(FrameError::TooLong));
        assert_eq!(sent, b"x"[..]);
        let (_, mut reader) = agreement().of_token_service();
        let mut come = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert_eq!(reader.next::<Call>(&mut come), Err(FrameError::TooLong));
    }

    #[test]
    fn content_that_breaks_off_is_none() {
        let mut whole = BytesMut::new();
        call(1).put(&mut whole);
        let whole = whole.freeze();
        for length in 0..26 {
            assert!(Call::take(whole.slice(..length)).is_none(), "{length}");
        }
        for length in 0..14 {
            assert!(Answer::take(whole.slice(..length)).is_none(), "{length}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let (writer, reader) = agreement().of_gateway();
        for shown in [
            format!("{:?}", ChannelKey::derive(&[7; 32])),
            format!("{:?}", agreement()),
            format!("{writer:?}"),
            format!("{reader:?}"),
        ] {
            assert!(!shown.contains("7, 7") && shown.len() < 60, "{shown}");
        }
        assert!(!format!("{:?}", call(1)).contains("a=1"));
    }
}
