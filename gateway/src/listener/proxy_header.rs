//! On whose behalf does a load balancer connect? The PROXY header, versions 1 and 2, before anything else.
//!
//! Read from listed peers only, who must send it: a connection without one could be anybody's, and a header of anybody
//! else could name anybody.

use std::io;
use std::net::SocketAddr;

use caracal_wire::proxy_header::{HEADER_BYTES_MAX, Said, parse};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::peek::{Enough, peek_until};

/// Reads the header off `stream`; the client it names, or `peer` when it names none.
///
/// # Errors
/// When there is no header, or one that cannot be read.
pub(super) async fn read(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let said = peek_until(stream, HEADER_BYTES_MAX, |bytes| match parse(bytes) {
        Said::NotYet => Enough::No,
        Said::Header { client, length } => Enough::Yes(Some((client, length))),
        Said::Nothing => Enough::Yes(None),
    })
    .await?;
    let (client, length) =
        said.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no PROXY header"))?;
    let mut header = vec![0; length];
    stream.read_exact(&mut header).await?;
    Ok(client.unwrap_or(peer))
}
