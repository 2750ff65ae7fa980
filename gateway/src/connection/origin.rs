//! Where does a request come from, and what may end its response? Known before anything it says is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Leash;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The peer, or whom a listed load balancer named in its PROXY header.
    pub(crate) peer: SocketAddr,
    /// Whether it came in through TLS that this gateway terminated.
    pub(crate) is_tls: bool,
    /// Whether it came in clear where only TLS is served, so that it is sent there.
    pub(crate) belongs_to_tls: bool,
    /// The certificate that the client has shown to this gateway (DER).
    pub(crate) certificate: Option<Arc<[u8]>>,
}

/// What carries one exchange: a whole HTTP/1.1 connection for its time, or one HTTP/2 stream.
#[derive(Clone, Debug)]
pub(crate) struct Downstream {
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// What ends it.
    pub(crate) leash: Leash,
}
