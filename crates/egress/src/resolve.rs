//! Who is asked for the addresses of a name?

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use crate::dns;

/// Finds the addresses of a name.
#[async_trait]
pub trait Resolve: Debug + Send + Sync {
    /// The addresses of `host`, in the order in which to try them.
    ///
    /// # Errors
    /// When the name has no address or nobody could be asked.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = tokio::net::lookup_host((host, 0)).await?;
        Ok(addresses.map(|address| address.ip()).collect())
    }
}

/// One DNS server, asked over UDP.
#[derive(Clone, Copy, Debug)]
pub struct DnsServer(pub SocketAddr);

#[async_trait]
impl Resolve for DnsServer {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        dns::lookup(self.0, host).await
    }
}
