//! Which addresses does a name have, asked of one DNS server the operator chose?
//!
//! `GATEWAY_DNS_SERVER` exists for networks whose resolver the operating system does not know, and for tests in which
//! the server lies. It needs two questions (A, AAAA) and their answers over UDP (RFC 1035), which is less code than a
//! resolver library is configuration; without the setting the operating system resolves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// How long one attempt waits for both answers.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// UDP loses packets; a second attempt is enough for a server in the same network.
const ATTEMPTS: usize = 2;
/// Longest answer read. No EDNS is offered, so a server keeps to 512 bytes (RFC 1035 section 4.2.1).
const ANSWER_BYTES_MAX: usize = 4_096;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// Asks `server` for the addresses of `name`, IPv4 first.
///
/// # Errors
/// When the name cannot be asked for, the server does not answer, or it says there is no such name.
pub(super) async fn lookup(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::TimedOut, "the DNS server did not answer");
    for _attempt in 0..ATTEMPTS {
        match tokio::time::timeout(ATTEMPT, ask(server, name)).await {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => {}
        }
    }
    Err(last)
}

async fn ask(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut open = Vec::with_capacity(2);
    for record in [TYPE_A, TYPE_AAAA] {
        let question = Question::new(name, record)?;
        socket.send(&question.bytes).await?;
        open.push(question);
    }
    let mut addresses = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    while !open.is_empty() {
        let length = socket.recv(&mut buffer).await?;
        let message = buffer.get(..length).unwrap_or_default();
        // A datagram that answers none of our questions is ignored: it may be forged.
        if let Some(position) = open.iter().position(|question| question.is_answered_by(message)) {
            let question = open.swap_remove(position);
            addresses.extend(question.addresses(message)?);
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

/// One question and the bytes that ask it.
struct Question {
    id: [u8; 2],
    bytes: Vec<u8>,
}

impl Question {
    fn new(name: &str, record: u16) -> io::Result<Self> {
        let mut id = [0; 2];
        aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| io::Error::other("no random bytes"))?;
        let mut bytes = Vec::with_capacity(name.len() + 18);
        bytes.extend(id);
        // Recursion desired; one question.
        bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.trim_end_matches('.').split('.') {
            let length = u8::try_from(label.len())
                .ok()
                .filter(|length| (1..=63).contains(length));
            let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not a DNS name"))?;
            bytes.push(length);
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes.extend(record.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        Ok(Self { id, bytes })
    }

    /// Whether `message` is a response with our id that repeats our question.
    fn is_answered_by(&self, message: &[u8]) -> bool {
        let question = self.bytes.get(12..).unwrap_or_default();
        message.get(..2) == Some(&self.id)
            && message.get(2).is_some_and(|flags| flags & 0x80 != 0)
            && message.get(4..6) == Some(&[0, 1])
            && message
                .get(12..12 + question.len())
                .is_some_and(|repeated| repeated.eq_ignore_ascii_case(question))
    }

    /// The addresses in the answer section of `message`, whatever name they stand under: the chain of aliases is the
    /// resolver's work.
    fn addresses(&self, message: &[u8]) -> io::Result<Vec<IpAddr>> {
        match message.get(3).map(|flags| flags & 0x0f) {
            Some(0) => {}
            Some(3) => return Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
            _ => return Err(io::Error::other("the DNS server failed")),
        }
        let mut reader = Reader {
            message,
            position: self.bytes.len(),
        };
        let count = u16_at(message, 6).ok_or_else(malformed)?;
        let mut addresses = Vec::new();
        for _answer in 0..count {
            match reader.record() {
                Some(Record::Address(address)) => addresses.push(address),
                Some(Record::Other) => {}
                // Truncated: what came is what there is.
                None if !addresses.is_empty() => break,
                None => return Err(malformed()),
            }
        }
        Ok(addresses)
    }
}

/// One record of an answer, as far as it matters here.
enum Record {
    Address(IpAddr),
    Other,
}

struct Reader<'a> {
    message: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    /// The next record; `None` at a malformed one.
    fn record(&mut self) -> Option<Record> {
        self.skip_name()?;
        let record = u16_at(self.message, self.position)?;
        let class = u16_at(self.message, self.position + 2)?;
        let length = usize::from(u16_at(self.message, self.position + 8)?);
        let start = self.position + 10;
        let value = self.message.get(start..start + length)?;
        self.position = start + length;
        Some(match (class, record) {
            (CLASS_IN, TYPE_A) => Record::Address(<[u8; 4]>::try_from(value).ok()?.into()),
            (CLASS_IN, TYPE_AAAA) => Record::Address(<[u8; 16]>::try_from(value).ok()?.into()),
            _ => Record::Other,
        })
    }

    /// Steps over a name: labels, ended by a zero or by a pointer (RFC 1035 section 4.1.4).
    fn skip_name(&mut self) -> Option<()> {
        loop {
            let length = *self.message.get(self.position)?;
            match length {
                0 => {
                    self.position += 1;
                    return Some(());
                }
                0xc0..=0xff => {
                    self.position += 2;
                    return Some(());
                }
                1..=63 => self.position += 1 + usize::from(length),
                64..=0xbf => return None,
            }
        }
    }
}

fn u16_at(message: &[u8], position: usize) -> Option<u16> {
    let bytes = message.get(position..position.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the DNS answer is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers `question` with the given records: (type, data).
    fn answer(question: &Question, rcode: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.bytes.clone();
        message[2] = 0x81;
        message[3] = 0x80 | rcode;
        message[7] = u8::try_from(records.len()).unwrap();
        for (record, data) in records {
            message.extend([0xc0, 12]);
            message.extend(record.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn addresses_are_read_past_aliases() {
        let question = Question::new("api.example.com", TYPE_A).unwrap();
        let message = answer(&question, 0, &[(5, b"\x03cdn\xc0\x10"), (TYPE_A, &[10, 0, 0, 7])]);
        assert!(question.is_answered_by(&message));
        assert_eq!(
            question.addresses(&message).unwrap(),
            vec![IpAddr::from([10, 0, 0, 7])]
        );
    }

    #[test]
    fn an_answer_to_another_question_is_not_ours() {
        let question = Question::new("api.example.com", TYPE_A).unwrap();
        let other = Question::new("api.example.org", TYPE_A).unwrap();
        let mut forged = answer(&other, 0, &[(TYPE_A, &[169, 254, 169, 254])]);
        forged[..2].copy_from_slice(&question.id);
        assert!(!question.is_answered_by(&forged));
        assert!(
            !question.is_answered_by(&question.bytes),
            "a question is no answer"
        );
    }

    #[test]
    fn a_missing_name_is_told_apart_from_a_failing_server() {
        let question = Question::new("nope.example", TYPE_A).unwrap();
        let missing = question.addresses(&answer(&question, 3, &[])).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let failing = question.addresses(&answer(&question, 2, &[])).unwrap_err();
        assert_ne!(failing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_that_dns_cannot_carry_is_refused() {
        for name in ["", "a..b", &"x".repeat(64)] {
            assert!(Question::new(name, TYPE_A).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_question_are_survived(tail in proptest::collection::vec(any::<u8>(), 0..200), count in any::<[u8; 2]>()) {
            let question = Question::new("api.example.com", TYPE_A).unwrap();
            let mut message = answer(&question, 0, &[]);
            message[6..8].copy_from_slice(&count);
            message.extend(tail);
            let _outcome = question.addresses(&message);
        }
    }
}
