//! What does one line of the route table say?

use std::time::Duration;

use caracal_model::ZoneId;
use caracal_wire::path::PathRule;
use http::{HeaderName, HeaderValue, Method};

use crate::rate::Rate;
use crate::upstream::Pool;

/// One line of the route table, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteRule {
    /// At which hosts; at any when absent.
    pub(crate) host: Option<HostRule>,
    /// What the path must be, byte for byte as it was sent.
    pub(crate) path: PathRule,
    /// For which methods; for all when empty.
    pub(crate) methods: Vec<Method>,
    /// Whether the matched prefix is taken off before the request goes upstream.
    pub(crate) strip_prefix: bool,
    /// What the request is for.
    pub(crate) destination: Destination,
    /// The `Host` the upstream gets.
    pub(crate) host_sent: HostSent,
    /// What the route may use.
    pub(crate) limits: Limits,
    /// Set in every answer of the upstream.
    pub(crate) response_headers: Vec<(HeaderName, HeaderValue)>,
}

/// Hosts, in lower case and without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostRule {
    /// This one.
    Exact(String),
    /// Every host that is one label before this name: `*.example.com`.
    LabelBefore(String),
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A protected resource; the mandate decides.
    Resource {
        /// Its identifier.
        resource: String,
        /// The only zone whose mandates it accepts, when it is bound to one.
        zone: Option<ZoneId>,
    },
    /// Public upstreams: no mandate is asked for.
    Public {
        /// Where it is.
        pool: Pool,
        /// Whether it gets the client's `Authorization`, unless that is a mandate.
        keeps_authorization: bool,
    },
    /// Another address, which the client is told.
    Redirect(Redirect),
}

/// Which address the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// 301, 302, 307 or 308.
    pub(crate) status: u16,
    /// Where to.
    pub(crate) to: RedirectTo,
}

/// How the address is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedirectTo {
    /// The same by https; only for requests that did not come that way.
    Https,
    /// Another one.
    Address {
        /// A URL, or a path at the same host, without a slash at the end when the path is kept.
        base: String,
        /// Whether the request's path (without a stripped prefix) is put after it.
        keep_path: bool,
        /// Whether the request's query is kept.
        keep_query: bool,
    },
}

/// The `Host` of the request to the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum HostSent {
    /// That of the upstream's URL.
    #[default]
    Upstream,
    /// The client's, byte for byte.
    Preserved,
    /// This one.
    Rewritten(HeaderValue),
}

/// What the requests of a route may use; the settings of the gateway where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Bytes of a request body.
    pub(crate) body_bytes_max: Option<u64>,
    /// Until the head of the upstream's answer.
    pub(crate) timeout: Option<Duration>,
    /// Between pieces of the upstream's answer.
    pub(crate) idle_timeout: Option<Duration>,
    /// All requests together.
    pub(crate) rate: Option<Rate>,
    /// The requests of each source.
    pub(crate) source_rate: Option<Rate>,
    /// Requests under way at the same time.
    pub(crate) concurrency: Option<usize>,
    /// The same of one source, if something else than half of them.
    pub(crate) source_concurrency: Option<usize>,
}

impl Limits {
    /// How many requests of one source may be under way: by default half of those of all, so that nobody holds every place.
    pub(super) fn source_concurrency(&self) -> Option<usize> {
        let half = self.concurrency.map(|count| count.div_ceil(2));
        self.source_concurrency.or(half)
    }
}

impl RouteRule {
    /// The prefix that is taken off, if any, without a slash at its end.
    pub(crate) fn stripped(&self) -> Option<&str> {
        match &self.path {
            PathRule::Prefix(prefix) if self.strip_prefix => {
                Some(prefix.trim_end_matches('/')).filter(|prefix| !prefix.is_empty())
            }
            PathRule::Prefix(_) | PathRule::Exact(_) => None,
        }
    }

    /// The path that goes upstream for the inbound `path`, which must match.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> &'p str {
        let Some(prefix) = self.stripped() else {
            return path;
        };
        match path.strip_prefix(prefix) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => "/",
        }
    }

    /// Whether it is only for requests that came without TLS.
    pub(crate) fn leads_to_https(&self) -> bool {
        matches!(
            &self.destination,
            Destination::Redirect(Redirect {
                to: RedirectTo::Https,
                ..
            })
        )
    }

    /// Whether a request could be for both, with nothing that decides between them.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let shares_method = match (self.methods.is_empty(), other.methods.is_empty()) {
            (true, true) => true,
            (false, false) => self.methods.iter().any(|method| other.methods.contains(method)),
            // The one that names the method wins.
            _ => false,
        };
        shares_method
            && self.host == other.host
            && self.path == other.path
            && self.leads_to_https() == other.leads_to_https()
    }

    /// Whether what was counted for `other` goes on to count for this one.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.host == other.host
            && self.path == other.path
            && self.methods == other.methods
            && self.limits == other.limits
            && self.leads_to_https() == other.leads_to_https()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::*;

    #[test]
    fn a_stripped_prefix_leaves_an_absolute_path() {
        for (prefix, path, upstream) in [
            ("/crm", "/crm/contacts", "/contacts"),
            ("/crm/", "/crm/contacts", "/contacts"),
            ("/crm", "/crm", "/"),
            ("/crm", "/crm/", "/"),
            ("/", "/contacts", "/contacts"),
            ("/crm", "/crm//a%2Fb", "//a%2Fb"),
        ] {
            let mut rule = rule(None, PathRule::Prefix(prefix.into()), "crm");
            rule.strip_prefix = true;
            assert!(rule.path.matches(path), "{prefix} {path}");
            assert_eq!(rule.upstream_path(path), upstream, "{prefix} {path}");
        }
    }
}
