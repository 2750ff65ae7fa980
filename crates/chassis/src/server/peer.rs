//! Who sent this request?

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;

/// The other end of the connection: an extension of every request, and an extractor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address of the network.
    Tcp(SocketAddr),
    /// A process of this machine over a Unix socket, or a router called without a server.
    Local,
}

impl Peer {
    /// The address of the peer, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Local => None,
        }
    }

    /// The address of the client. Behind a proxy (`trust_proxy`, off by default) it is what that proxy appended to
    /// `x-forwarded-for`, the last element: the ones before it were written by the client and prove nothing.
    pub fn client_ip(&self, headers: &HeaderMap, trust_proxy: bool) -> Option<IpAddr> {
        if !trust_proxy {
            return self.ip();
        }
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        last.or_else(|| self.ip())
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self::Local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_count_only_behind_a_trusted_proxy_and_only_the_last() {
        let peer = Peer::Tcp("10.0.0.1:5000".parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "1.1.1.1".parse().unwrap());
        headers.append("x-forwarded-for", "2.2.2.2, 3.3.3.3".parse().unwrap());
        let text = |ip: Option<IpAddr>| ip.unwrap().to_string();
        assert_eq!(text(peer.client_ip(&headers, false)), "10.0.0.1");
        assert_eq!(text(peer.client_ip(&headers, true)), "3.3.3.3");
        headers.insert("x-forwarded-for", "nonsense".parse().unwrap());
        assert_eq!(text(peer.client_ip(&headers, true)), "10.0.0.1");
        assert_eq!(Peer::Local.ip(), None);
    }
}
