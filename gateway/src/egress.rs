//! Where may a request for this upstream URL be dialled? Resolves once, checks every address, and pins the result.
//!
//! Whoever dials takes the address out of a [`Target`] and never resolves again, so that an answer that changes
//! between the check and the connection changes nothing (docs/contract/gateway.md, "Egress").

mod address;
mod dns;

use std::collections::HashSet;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use url::{Host, Url};

/// Names remembered at most.
const NAMES_MAX: u64 = 4_096;
/// Addresses of one name used at most; more would only prolong a failing connection.
const ADDRESSES_MAX: usize = 16;
/// Longest a lookup may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Where a request goes: what the upstream is called, and the checked addresses it may be dialled at.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    is_tls: bool,
    host: Box<str>,
    authority: Box<str>,
    addresses: Arc<[SocketAddr]>,
}

impl Target {
    /// Whether to speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The name, or the address without brackets: what a certificate is checked against and what is logged.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The checked addresses, never empty.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Why an upstream is not addressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EgressError {
    /// Not an absolute http or https URL without credentials.
    #[error("not an absolute http or https URL without credentials")]
    Url,
    /// The host is not in `UPSTREAM_HOST_ALLOWLIST`.
    #[error("the host is not on the list of allowed upstream hosts")]
    Host,
    /// The name could not be resolved.
    #[error("the host cannot be resolved")]
    Unresolved(#[source] io::Error),
    /// The name has an address that must not be dialled.
    #[error("the host has a blocked address")]
    Address(#[source] address::Blocked),
}

/// The guard of everything the gateway dials on behalf of an agent.
#[derive(Debug)]
pub(crate) struct Egress {
    resolver: Arc<dyn Resolve>,
    hosts: HashSet<String>,
    /// Checked addresses by name, for a few seconds: a lookup is the slowest step of a request otherwise.
    checked: Option<Cache<Box<str>, Arc<[IpAddr]>>>,
}

impl Egress {
    /// A guard that asks `resolver`, allows only `hosts` (any when empty), and reuses an answer for `cache_for`.
    pub(crate) fn new(resolver: Arc<dyn Resolve>, hosts: &[String], cache_for: Duration) -> Self {
        let checked = (!cache_for.is_zero()).then(|| {
            Cache::builder()
                .max_capacity(NAMES_MAX)
                .time_to_live(cache_for)
                .build()
        });
        Self {
            resolver,
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            checked,
        }
    }

    /// Resolves and checks the upstream at `url`. Memory only for an address or a name asked for recently, else one
    /// DNS lookup.
    ///
    /// # Errors
    /// [`EgressError`]. One blocked address among several refuses the name as a whole.
    pub(crate) async fn resolve(&self, url: &Url) -> Result<Target, EgressError> {
        let is_tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(EgressError::Url),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::Url);
        }
        let (host, port) = url
            .host()
            .zip(url.port_or_known_default())
            .ok_or(EgressError::Url)?;
        let name: Box<str> = match &host {
            Host::Domain(name) => name.trim_end_matches('.').into(),
            Host::Ipv4(address) => address.to_string().into(),
            Host::Ipv6(address) => address.to_string().into(),
        };
        if !self.hosts.is_empty() && !self.hosts.contains(name.as_ref()) {
            return Err(EgressError::Host);
        }
        let addresses = match host {
            Host::Ipv4(address) => check(vec![IpAddr::V4(address)])?,
            Host::Ipv6(address) => check(vec![IpAddr::V6(address)])?,
            Host::Domain(_) => self.addresses(&name).await?,
        };
        let authority = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}").into(),
            (Some(host), None) => host.into(),
            (None, _) => return Err(EgressError::Url),
        };
        let addresses = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        Ok(Target {
            is_tls,
            host: name,
            authority,
            addresses,
        })
    }

    async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, EgressError> {
        if let Some(addresses) = self.checked.as_ref().and_then(|checked| checked.get(name)) {
            return Ok(addresses);
        }
        let answer = tokio::time::timeout(RESOLVE_TIMEOUT, self.resolver.resolve(name)).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let addresses = check(answer.map_err(EgressError::Unresolved)?)?;
        if let Some(checked) = &self.checked {
            checked.insert(name.into(), Arc::clone(&addresses));
        }
        Ok(addresses)
    }
}

fn check(mut addresses: Vec<IpAddr>) -> Result<Arc<[IpAddr]>, EgressError> {
    if let Some(blocked) = addresses.iter().find_map(|address| address::blocked(*address)) {
        return Err(EgressError::Address(blocked));
    }
    if addresses.is_empty() {
        return Err(EgressError::Unresolved(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Gives each answer once, in order, then repeats the last one.
    #[derive(Debug)]
    struct Scripted {
        answers: Vec<Vec<IpAddr>>,
        asked: AtomicUsize,
    }

    impl Scripted {
        fn new(answers: &[&[&str]]) -> Arc<Self> {
            let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
            Arc::new(Self {
                answers: answers.iter().map(parse).collect(),
                asked: AtomicUsize::new(0),
            })
        }
    }

    #[async_trait]
    impl Resolve for Scripted {
        async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
            let asked = self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(self.answers[asked.min(self.answers.len() - 1)].clone())
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn every_form_of_a_blocked_upstream_is_refused() {
        let egress = Egress::new(Scripted::new(&[&["10.0.0.1"]]), &[], Duration::ZERO);
        for text in [
            "http://169.254.169.254/latest",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://0.0.0.0:8080/",
            "http://user:secret@api.example/",
            "http://user@api.example/",
            "ftp://api.example/",
            "unix:/run/socket",
            "data:text/plain,x",
        ] {
            assert!(egress.resolve(&url(text)).await.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn one_blocked_address_refuses_the_name() {
        let resolver = Scripted::new(&[&["10.0.0.1", "169.254.169.254"]]);
        let egress = Egress::new(resolver, &[], Duration::from_secs(5));
        let refused = egress.resolve(&url("http://api.example/")).await;
        assert!(matches!(refused, Err(EgressError::Address(_))));
    }

    #[tokio::test]
    async fn the_addresses_dialled_are_the_ones_checked() {
        let resolver = Scripted::new(&[&["10.0.0.1"], &["169.254.169.254"]]);
        let egress = Egress::new(Arc::clone(&resolver) as Arc<dyn Resolve>, &[], Duration::ZERO);
        let target = egress.resolve(&url("https://api.example:8443/v1")).await.unwrap();
        assert_eq!(target.addresses(), ["10.0.0.1:8443".parse().unwrap()]);
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1, "asked once");
        assert_eq!(
            (target.host(), target.authority(), target.is_tls()),
            ("api.example", "api.example:8443", true)
        );
        assert!(
            egress.resolve(&url("https://api.example:8443/v1")).await.is_err(),
            "the next request is judged anew"
        );
    }

    #[tokio::test]
    async fn an_answer_is_reused_while_it_is_young() {
        let resolver = Scripted::new(&[&["10.0.0.1"]]);
        let egress = Egress::new(
            Arc::clone(&resolver) as Arc<dyn Resolve>,
            &[],
            Duration::from_mins(1),
        );
        for _request in 0..3 {
            egress.resolve(&url("http://api.example/")).await.unwrap();
        }
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn only_listed_hosts_are_allowed_when_there_is_a_list() {
        let egress = Egress::new(
            Scripted::new(&[&["10.0.0.1"]]),
            &["API.example".to_owned()],
            Duration::ZERO,
        );
        assert!(egress.resolve(&url("http://api.EXAMPLE:81/")).await.is_ok());
        assert!(
            egress.resolve(&url("http://api.example./")).await.is_ok(),
            "a final dot names the same host"
        );
        for text in [
            "http://other.example/",
            "http://api.example.evil/",
            "http://10.0.0.1/",
        ] {
            assert!(
                matches!(egress.resolve(&url(text)).await, Err(EgressError::Host)),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_unresolved() {
        let egress = Egress::new(Scripted::new(&[&[]]), &[], Duration::ZERO);
        assert!(matches!(
            egress.resolve(&url("http://api.example/")).await,
            Err(EgressError::Unresolved(_))
        ));
    }
}
