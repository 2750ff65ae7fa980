//! What does a PROXY header say, version 1 or 2? The first bytes of a connection that a load balancer makes on behalf of a
//! client (docs/contract/gateway-listeners.md, "PROXY protocol").

use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};

/// Longest header read: an address and the additions of the usual load balancers are far shorter.
pub const HEADER_BYTES_MAX: usize = 1_024;

/// What first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// More bytes may make it a header.
    NotYet,
    /// A header.
    Header {
        /// The client; `None` when the load balancer speaks for itself (health checks).
        client: Option<SocketAddr>,
        /// Length of the header, in bytes; at most that of what was read.
        length: usize,
    },
    /// No header, whatever follows.
    Nothing,
}

/// Reads the beginning of a connection. Untrusted bytes: bounded by [`HEADER_BYTES_MAX`], whatever they declare.
pub fn parse(bytes: &[u8]) -> Said {
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return if bytes.len() < HEADER_BYTES_MAX {
            Said::NotYet
        } else {
            Said::Nothing
        };
    }
    let (client, length) = match result {
        HeaderResult::V1(Ok(header)) => (client_v1(header.addresses), header.header.len()),
        HeaderResult::V2(Ok(header)) => (client_v2(&header), header.len()),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Said::Nothing,
    };
    // The library takes a blank for the first character of the line's end as long as nothing follows.
    if is_line(bytes)
        && !bytes
            .get(..length)
            .is_some_and(|header| header.ends_with(b"\r\n"))
    {
        return Said::Nothing;
    }
    if length > HEADER_BYTES_MAX {
        return Said::Nothing;
    }
    Said::Header { client, length }
}

/// Whether it is a header of version 1.
fn is_line(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PROXY")
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

    fn client(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_versions_name_the_client() {
        let one = b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\nGET / HTTP/1.1\r\n";
        let said = Said::Header {
            client: Some(client("203.0.113.7:5000")),
            length: 42,
        };
        assert_eq!(parse(one), said);
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend([203, 0, 113, 7, 10, 0, 0, 1, 0x13, 0x88, 1, 0xbb]);
        let length = two.len();
        two.extend(b"GET /");
        assert_eq!(
            parse(&two),
            Said::Header {
                client: Some(client("203.0.113.7:5000")),
                length
            }
        );
        // LOCAL: the load balancer's own check.
        two[12] = 0x20;
        assert_eq!(parse(&two), Said::Header { client: None, length });
    }

    #[test]
    fn what_may_become_a_header_is_waited_for_and_anything_else_is_none() {
        for bytes in [
            &b""[..],
            b"PROXY TCP4 203.0.113.7",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01",
        ] {
            assert_eq!(parse(bytes), Said::NotYet, "{bytes:?}");
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 nobody 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2 \n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(parse(bytes), Said::Nothing, "{bytes:?}");
        }
        let declared_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 2_000]].concat();
        assert_eq!(parse(&declared_long), Said::Nothing);
    }
}
