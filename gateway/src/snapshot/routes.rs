//! Which resource does a host and a path stand for?
//!
//! Read from the configuration once; immutable afterwards. A lookup walks the table in order of precedence:
//! routes of a host before routes of any host, exact paths before prefixes, longer ones first.

use caracal_model::ZoneId;
use url::Url;

/// One line of the route table, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteRule {
    /// Lower-case host without port; any host when absent.
    pub(crate) host: Option<String>,
    /// What the path must be.
    pub(crate) path: PathRule,
    /// Whether the matched prefix is taken off before the request goes upstream.
    pub(crate) strip_prefix: bool,
    /// What the request is for.
    pub(crate) destination: Destination,
}

/// How a path is compared: byte for byte, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathRule {
    /// The whole path.
    Exact(String),
    /// The path up to the end of a segment.
    Prefix(String),
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
    /// A public upstream: no mandate is asked for.
    Public {
        /// Where it is.
        upstream: Url,
    },
}

impl PathRule {
    fn text(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')),
        }
    }
}

impl RouteRule {
    /// The path that goes upstream for the inbound `path`, which must match.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> &'p str {
        let PathRule::Prefix(prefix) = &self.path else {
            return path;
        };
        if !self.strip_prefix {
            return path;
        }
        let prefix = prefix.trim_end_matches('/');
        match path.strip_prefix(prefix) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => "/",
        }
    }
}

/// The route table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(Vec<RouteRule>);

impl Routes {
    /// A table of `rules`, in any order.
    pub(crate) fn new(mut rules: Vec<RouteRule>) -> Self {
        rules.sort_by_key(|rule| {
            let exact = matches!(rule.path, PathRule::Exact(_));
            std::cmp::Reverse((rule.host.is_some(), exact, rule.path.text().len()))
        });
        Self(rules)
    }

    /// Whether there is no rule: every request names its resource by header.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rule for `path` (as sent) at `host` (lower case, without port). One comparison per rule.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<&RouteRule> {
        let host_fits = |rule: &RouteRule| rule.host.is_none() || rule.host.as_deref() == host;
        self.0
            .iter()
            .find(|rule| host_fits(rule) && rule.path.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: Option<&str>, path: PathRule, resource: &str) -> RouteRule {
        let destination = Destination::Resource {
            resource: resource.to_owned(),
            zone: None,
        };
        RouteRule {
            host: host.map(str::to_owned),
            path,
            strip_prefix: false,
            destination,
        }
    }

    fn table() -> Routes {
        Routes::new(vec![
            rule(None, PathRule::Prefix("/".into()), "any"),
            rule(None, PathRule::Prefix("/crm".into()), "crm"),
            rule(None, PathRule::Prefix("/crm/v2".into()), "crm-v2"),
            rule(None, PathRule::Exact("/crm/v2/exact".into()), "exact"),
            rule(Some("files.example"), PathRule::Prefix("/".into()), "files"),
        ])
    }

    fn found<'t>(table: &'t Routes, host: &str, path: &str) -> &'t str {
        match &table.find(Some(host), path).unwrap().destination {
            Destination::Resource { resource, .. } => resource,
            Destination::Public { .. } => "public",
        }
    }

    #[test]
    fn host_wins_over_path_exact_over_prefix_and_long_over_short() {
        let table = table();
        for (host, path, resource) in [
            ("a.example", "/", "any"),
            ("a.example", "/crm", "crm"),
            ("a.example", "/crm/contacts", "crm"),
            ("a.example", "/crmx", "any"),
            ("a.example", "/crm/v2", "crm-v2"),
            ("a.example", "/crm/v2/exact", "exact"),
            ("a.example", "/crm/v2/exact/more", "crm-v2"),
            ("files.example", "/crm/v2/exact", "files"),
        ] {
            assert_eq!(found(&table, host, path), resource, "{host}{path}");
        }
        assert!(Routes::default().find(None, "/").is_none());
    }

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
