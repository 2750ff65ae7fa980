//! Where do clients come in, and how much may one of them open?

use std::net::SocketAddr;
use std::path::PathBuf;

use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::config::Reader;

/// The listeners beside `PORT`, and what holds for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    /// A port in clear beside one that speaks TLS.
    pub(crate) plain: Option<SocketAddr>,
    /// Whether what comes in there in clear is sent to `https`.
    pub(crate) plain_redirects: bool,
    /// A Unix socket for processes of this machine.
    pub(crate) unix: Option<PathBuf>,
    /// Load balancers whose connections begin with a PROXY header.
    pub(crate) proxy_protocol_from: AddressRanges,
    /// Whether HTTP/2 is spoken.
    pub(crate) http2: bool,
    /// Streams that one HTTP/2 connection may have open.
    pub(crate) http2_streams_max: u32,
    /// Connections that one source may have open.
    pub(crate) connections_of_source_max: usize,
    /// Requests that one source may have in progress.
    pub(crate) requests_of_source_max: usize,
}

impl Doors {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let plain = reader.integer("HTTP_PORT", -1, -1..=i64::from(u16::MAX));
        let host = reader.listen_address("PORT", 8081).ip();
        let plain = u16::try_from(plain).ok().map(|port| SocketAddr::new(host, port));
        let streams = reader.integer("HTTP2_STREAMS", 100, 1..=10_000);
        Self {
            plain,
            plain_redirects: reader.boolean("HTTP_PORT_REDIRECTS", true),
            unix: reader.optional_path("UNIX_SOCKET"),
            proxy_protocol_from: reader.believed_ranges("PROXY_PROTOCOL_FROM"),
            http2: reader.boolean("HTTP2", true),
            http2_streams_max: u32::try_from(streams).unwrap_or(u32::MAX),
            connections_of_source_max: super::read_count(reader, "MAX_CONNECTIONS_PER_SOURCE", 4_096),
            requests_of_source_max: super::read_count(reader, "MAX_REQUESTS_PER_SOURCE", 4_096),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::read;

    #[test]
    fn further_doors_are_opened_by_name() {
        let doors = read(&[]).unwrap().doors;
        assert!(doors.plain.is_none() && doors.unix.is_none() && doors.http2);
        let doors = read(&[
            ("HTTP_PORT", "0"),
            ("UNIX_SOCKET", "/run/g.sock"),
            ("HTTP2", "false"),
        ]);
        let doors = doors.unwrap().doors;
        assert_eq!(doors.plain.unwrap().port(), 0);
        assert!(doors.unix.is_some() && !doors.http2);
        for (key, value) in [
            ("HTTP_PORT", "70000"),
            ("HTTP2_STREAMS", "0"),
            ("PROXY_PROTOCOL_FROM", "0.0.0.0/0"),
            ("MAX_CONNECTIONS_PER_SOURCE", "0"),
        ] {
            let errors = read(&[(key, value)]).unwrap_err();
            assert!(errors.contains(key), "{errors}");
        }
    }
}
