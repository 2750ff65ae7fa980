//! Where may a request for this URL be dialled? Resolves once, checks every address, and pins the result.
//!
//! Whoever dials takes the address out of a [`Target`] and never resolves again, so that an answer that changes
//! between the check and the connection changes nothing (docs/contract/gateway.md, "Egress").

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use url::{Host, Url};

use crate::Resolve;
use crate::address::{self, Blocked, Permitted};

/// Names remembered at most.
const NAMES_MAX: u64 = 4_096;
/// Addresses of one name used at most; more would only prolong a failing connection.
const ADDRESSES_MAX: usize = 16;
/// Longest a lookup may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a request goes: what the upstream is called, and the checked addresses it may be dialled at.
#[derive(Clone, Debug)]
pub struct Target {
    is_tls: bool,
    host: Box<str>,
    authority: Box<str>,
    addresses: Arc<[SocketAddr]>,
}

impl Target {
    /// Whether to speak TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The name, or the address without brackets: what a certificate is checked against and what is logged.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The checked addresses, never empty.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Why a URL is not addressed.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Not an absolute URL of an allowed scheme without credentials.
    #[error("not an absolute URL of an allowed scheme without credentials")]
    Url,
    /// The host is not on the list of allowed ones.
    #[error("the host is not on the list of allowed hosts")]
    Host,
    /// The name could not be resolved.
    #[error("the host cannot be resolved")]
    Unresolved(#[source] io::Error),
    /// The name has an address that must not be dialled.
    #[error("the host has a blocked address")]
    Address(#[source] Blocked),
}

/// What a guard lets through.
#[derive(Debug)]
enum Rules {
    /// http and https, private networks included; only these hosts, any when there are none.
    Upstreams { hosts: HashSet<String> },
    /// https to public addresses, and to private ones of these hosts; to this machine in development only.
    Providers {
        private_hosts: HashSet<String>,
        allow_loopback: bool,
    },
}

/// The guard of everything that is dialled on behalf of somebody.
#[derive(Debug)]
pub struct Guard {
    resolver: Arc<dyn Resolve>,
    rules: Rules,
    /// Checked addresses by name, for a few seconds: a lookup is the slowest step of a request otherwise.
    checked: Option<Cache<Box<str>, Arc<[IpAddr]>>>,
}

impl Guard {
    /// The gateway's: asks `resolver`, allows only `hosts` (any when empty), and reuses an answer for `cache_for`.
    pub fn of_upstreams(resolver: Arc<dyn Resolve>, hosts: &[String], cache_for: Duration) -> Self {
        let rules = Rules::Upstreams { hosts: lower(hosts) };
        Self::new(resolver, rules, cache_for)
    }

    /// That of whoever calls an identity or credential provider: https only, public addresses only, but for
    /// `private_hosts`, which may also have private ones. `allow_loopback` is for development.
    pub fn of_providers(
        resolver: Arc<dyn Resolve>,
        private_hosts: &[String],
        allow_loopback: bool,
        cache_for: Duration,
    ) -> Self {
        let rules = Rules::Providers {
            private_hosts: lower(private_hosts),
            allow_loopback,
        };
        Self::new(resolver, rules, cache_for)
    }

    fn new(resolver: Arc<dyn Resolve>, rules: Rules, cache_for: Duration) -> Self {
        let checked = (!cache_for.is_zero()).then(|| {
            Cache::builder()
                .max_capacity(NAMES_MAX)
                .time_to_live(cache_for)
                .build()
        });
        Self {
            resolver,
            rules,
            checked,
        }
    }

    /// Resolves and checks the host of `url`. Memory only for an address or a name asked for recently, else one
    /// DNS lookup.
    ///
    /// # Errors
    /// [`EgressError`]. One blocked address among several refuses the name as a whole.
    pub async fn resolve(&self, url: &Url) -> Result<Target, EgressError> {
        let is_tls = match url.scheme() {
            "https" => true,
            "http" if matches!(self.rules, Rules::Upstreams { .. }) => false,
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
        let permitted = self.permitted(&name)?;
        let addresses = match host {
            Host::Ipv4(address) => check(vec![IpAddr::V4(address)], permitted)?,
            Host::Ipv6(address) => check(vec![IpAddr::V6(address)], permitted)?,
            Host::Domain(_) => self.addresses(&name, permitted).await?,
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

    /// Which addresses the host may have; an error when it is not allowed at all.
    fn permitted(&self, name: &str) -> Result<Permitted, EgressError> {
        match &self.rules {
            Rules::Upstreams { hosts } if !hosts.is_empty() && !hosts.contains(name) => {
                Err(EgressError::Host)
            }
            Rules::Upstreams { .. } => Ok(Permitted::UPSTREAM),
            Rules::Providers {
                private_hosts,
                allow_loopback,
            } => Ok(Permitted {
                private: private_hosts.contains(name),
                loopback: *allow_loopback,
            }),
        }
    }

    async fn addresses(&self, name: &str, permitted: Permitted) -> Result<Arc<[IpAddr]>, EgressError> {
        if let Some(addresses) = self.checked.as_ref().and_then(|checked| checked.get(name)) {
            return Ok(addresses);
        }
        let answer = tokio::time::timeout(RESOLVE_TIMEOUT, self.resolver.resolve(name)).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let addresses = check(answer.map_err(EgressError::Unresolved)?, permitted)?;
        if let Some(checked) = &self.checked {
            checked.insert(name.into(), Arc::clone(&addresses));
        }
        Ok(addresses)
    }
}

fn lower(hosts: &[String]) -> HashSet<String> {
    hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
}

fn check(mut addresses: Vec<IpAddr>, permitted: Permitted) -> Result<Arc<[IpAddr]>, EgressError> {
    let mut blocked = addresses
        .iter()
        .map(|address| address::blocked(*address, permitted));
    if let Some(blocked) = blocked.find_map(|blocked| blocked) {
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
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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
        let guard = Guard::of_upstreams(Scripted::new(&[&["10.0.0.1"]]), &[], Duration::ZERO);
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
            assert!(guard.resolve(&url(text)).await.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn one_blocked_address_refuses_the_name() {
        let resolver = Scripted::new(&[&["10.0.0.1", "169.254.169.254"]]);
        let guard = Guard::of_upstreams(resolver, &[], Duration::from_secs(5));
        let refused = guard.resolve(&url("http://api.example/")).await;
        assert!(matches!(refused, Err(EgressError::Address(_))));
    }

    #[tokio::test]
    async fn the_addresses_dialled_are_the_ones_checked() {
        let resolver = Scripted::new(&[&["10.0.0.1"], &["169.254.169.254"]]);
        let guard = Guard::of_upstreams(Arc::clone(&resolver) as Arc<dyn Resolve>, &[], Duration::ZERO);
        let target = guard.resolve(&url("https://api.example:8443/v1")).await.unwrap();
        assert_eq!(target.addresses(), ["10.0.0.1:8443".parse().unwrap()]);
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1, "asked once");
        assert_eq!(
            (target.host(), target.authority(), target.is_tls()),
            ("api.example", "api.example:8443", true)
        );
        assert!(
            guard.resolve(&url("https://api.example:8443/v1")).await.is_err(),
            "the next request is judged anew"
        );
    }

    #[tokio::test]
    async fn an_answer_is_reused_while_it_is_young() {
        let resolver = Scripted::new(&[&["10.0.0.1"]]);
        let guard = Guard::of_upstreams(
            Arc::clone(&resolver) as Arc<dyn Resolve>,
            &[],
            Duration::from_mins(1),
        );
        for _request in 0..3 {
            guard.resolve(&url("http://api.example/")).await.unwrap();
        }
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn only_listed_hosts_are_allowed_when_there_is_a_list() {
        let guard = Guard::of_upstreams(
            Scripted::new(&[&["10.0.0.1"]]),
            &["API.example".to_owned()],
            Duration::ZERO,
        );
        assert!(guard.resolve(&url("http://api.EXAMPLE:81/")).await.is_ok());
        assert!(
            guard.resolve(&url("http://api.example./")).await.is_ok(),
            "a final dot names the same host"
        );
        for text in [
            "http://other.example/",
            "http://api.example.evil/",
            "http://10.0.0.1/",
        ] {
            assert!(
                matches!(guard.resolve(&url(text)).await, Err(EgressError::Host)),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_unresolved() {
        let guard = Guard::of_upstreams(Scripted::new(&[&[]]), &[], Duration::ZERO);
        assert!(matches!(
            guard.resolve(&url("http://api.example/")).await,
            Err(EgressError::Unresolved(_))
        ));
    }

    #[tokio::test]
    async fn a_provider_speaks_tls_from_a_public_address() {
        let refused = async |guard: &Guard, text: &str| guard.resolve(&url(text)).await.is_err();
        let answers: &[&[&str]] = &[&["10.0.0.1"]];
        let listed = ["idp.internal".to_owned()];
        let guard = Guard::of_providers(Scripted::new(answers), &listed, false, Duration::ZERO);
        assert!(
            !refused(&guard, "https://IDP.internal/jwks").await,
            "listed as private"
        );
        for text in [
            "http://idp.internal/jwks",
            "https://other.internal/jwks",
            "https://10.0.0.1/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/",
        ] {
            assert!(refused(&guard, text).await, "{text}");
        }
        assert!(!refused(&guard, "https://8.8.8.8/").await);
        let loopback = Guard::of_providers(Scripted::new(&[&["127.0.0.1"]]), &listed, false, Duration::ZERO);
        assert!(
            refused(&loopback, "https://idp.internal/").await,
            "never this machine"
        );
        let development = Guard::of_providers(Scripted::new(&[&["127.0.0.1"]]), &[], true, Duration::ZERO);
        assert!(!refused(&development, "https://idp.internal/").await);
    }
}
