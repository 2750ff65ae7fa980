//! Where is one entry of `STS_URL`, and which addresses has it now?

use std::path::PathBuf;
use std::time::Duration;

use pingora_core::upstreams::peer::HttpPeer;
use url::Url;

/// Longest wait for a connection to one address, TLS included. Short, so that the time of a call is not spent on an
/// address that is gone while another one would answer.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// One entry of `STS_URL`.
#[derive(Debug)]
pub(super) struct Site {
    place: Place,
    authority: String,
    base_path: String,
}

#[derive(Debug)]
enum Place {
    /// Behind a name or address.
    Network { host: String, port: u16, is_tls: bool },
    /// Behind a Unix socket.
    Socket(PathBuf),
}

impl Site {
    /// Reads `http`, `https`, or `unix:` with the path of a socket.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let parsed = Url::parse(url).ok()?;
        if parsed.scheme() == "unix" {
            return Some(Self {
                place: Place::Socket(parsed.path().into()),
                authority: "sts".to_owned(),
                base_path: String::new(),
            });
        }
        let host = parsed.host_str()?;
        let place = Place::Network {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: parsed.port_or_known_default()?,
            is_tls: parsed.scheme() == "https",
        };
        let authority = parsed
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Some(Self {
            place,
            authority,
            base_path: parsed.path().trim_end_matches('/').to_owned(),
        })
    }

    /// What goes into `Host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Where an endpoint of it is.
    pub(super) fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.base_path)
    }

    /// Whom to connect to, as of now. Empty when the name cannot be looked up. A call has `timeout` for everything.
    pub(super) async fn peers(&self, timeout: Duration) -> Vec<HttpPeer> {
        let mut peers: Vec<HttpPeer> = match &self.place {
            Place::Socket(path) => path
                .to_str()
                .and_then(|path| HttpPeer::new_uds(path, false, String::new()).ok())
                .into_iter()
                .collect(),
            Place::Network { host, port, is_tls } => {
                let name = if *is_tls { host.as_str() } else { "" };
                match tokio::net::lookup_host((host.as_str(), *port)).await {
                    Ok(found) => found
                        .map(|address| HttpPeer::new(address, *is_tls, name.to_owned()))
                        .collect(),
                    Err(error) => {
                        tracing::warn!(%error, sts.host = %host, "the STS cannot be located");
                        Vec::new()
                    }
                }
            }
        };
        let connect = CONNECT_MAX.min(timeout / 2);
        for peer in &mut peers {
            peer.options.connection_timeout = Some(connect);
            peer.options.total_connection_timeout = Some(connect);
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_entry_comes_before_every_endpoint() {
        for (url, authority, path) in [
            ("http://sts:8080", "sts:8080", "/health"),
            ("https://sts.example/base/", "sts.example", "/base/health"),
            ("http://[::1]:80", "[::1]", "/health"),
            ("unix:/run/sts.sock", "sts", "/health"),
        ] {
            let site = Site::parse(url).unwrap();
            assert_eq!(
                (site.authority(), site.path("/health").as_str()),
                (authority, path),
                "{url}"
            );
        }
        assert!(Site::parse("sts").is_none());
    }
}
