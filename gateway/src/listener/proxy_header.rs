//! On whose behalf does a load balancer connect? The PROXY header, versions 1 and 2, before anything else.
//!
//! Read from listed peers only, who must send it: a connection without one could be anybody's, and a header of anybody
//! else could name anybody.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::peek::{Enough, peek_until};

/// Longest header read: an address and the additions of the usual load balancers are far shorter.
const HEADER_BYTES_MAX: usize = 1_024;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// The client; `None` when the load balancer speaks for itself (health checks).
    client: Option<SocketAddr>,
    /// Length of the header.
    length: usize,
}

/// Reads the header off `stream`; the client it names, or `peer` when it names none.
///
/// # Errors
/// When there is no header, or one that cannot be read.
pub(super) async fn read(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let said = peek_until(stream, HEADER_BYTES_MAX, |bytes| match parse(bytes) {
        None => Enough::No,
        Some(said) => Enough::Yes(said),
    })
    .await?;
    let said = said.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no PROXY header"))?;
    let mut header = vec![0; said.length];
    stream.read_exact(&mut header).await?;
    Ok(said.client.unwrap_or(peer))
}

/// Reads the beginning of a connection: `None` while more bytes may make it a header, `Some(None)` when none can.
#[expect(clippy::option_option, reason = "not yet, and never, are two answers")]
fn parse(bytes: &[u8]) -> Option<Option<Said>> {
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return None;
    }
    Some(match result {
        HeaderResult::V1(Ok(header)) => Some(Said {
            client: client_v1(header.addresses),
            length: header.header.len(),
        }),
        HeaderResult::V2(Ok(header)) => Some(Said {
            client: client_v2(&header),
            length: header.len(),
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => None,
    })
}

fn client_v1(addresses: v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn client_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::IPv6(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_name_the_client() {
        let one = b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\nGET / HTTP/1.1\r\n";
        let said = parse(one).unwrap().unwrap();
        assert_eq!(
            (said.client, said.length),
            (Some("203.0.113.7:5000".parse().unwrap()), 42)
        );
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend([203, 0, 113, 7, 10, 0, 0, 1, 0x13, 0x88, 1, 0xbb]);
        let whole = two.len();
        two.extend(b"GET /");
        let said = parse(&two).unwrap().unwrap();
        assert_eq!(
            (said.client, said.length),
            (Some("203.0.113.7:5000".parse().unwrap()), whole)
        );
        // LOCAL: the load balancer's own check.
        two[12] = 0x20;
        assert_eq!(parse(&two).unwrap().unwrap().client, None);
    }

    #[test]
    fn what_may_become_a_header_is_waited_for_and_anything_else_is_none() {
        for bytes in [
            &b""[..],
            b"PROXY TCP4 203.0.113.7",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 nobody 10.0.0.1 1 2\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(parse(bytes), Some(None), "{bytes:?}");
        }
    }
}
