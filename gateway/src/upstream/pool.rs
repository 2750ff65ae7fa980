//! Which upstreams serve a public route? One, or several that serve the same.

use std::sync::Arc;

use url::Url;

use super::CheckRule;

/// The upstreams of a public route. Not empty; they differ in host and port only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    first: Url,
    others: Vec<Url>,
    /// Their authorities: what is known of their addresses is known of all of them together.
    name: Arc<str>,
    check: Option<CheckRule>,
}

impl Pool {
    /// These upstreams, checked by `check` if at all; `None` when there are none, or when they differ in more than their host
    /// and port.
    pub(crate) fn new(urls: Vec<Url>, check: Option<CheckRule>) -> Option<Self> {
        let name: Vec<&str> = urls.iter().map(Url::authority).collect();
        let name = name.join(",").into();
        let mut urls = urls.into_iter();
        let first = urls.next()?;
        let others: Vec<Url> = urls.collect();
        let is_alike = |other: &Url| {
            (other.scheme(), other.path(), other.query()) == (first.scheme(), first.path(), first.query())
        };
        others.iter().all(is_alike).then_some(Self {
            first,
            others,
            name,
            check,
        })
    }

    /// The first upstream; path and query are those of all.
    pub(crate) fn first(&self) -> &Url {
        &self.first
    }

    /// Every upstream.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &Url> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// What they are called together.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How they are checked.
    pub(crate) fn check(&self) -> Option<&CheckRule> {
        self.check.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_that_serve_something_else_make_no_pool() {
        let pool = |urls: &[&str]| Pool::new(urls.iter().map(|url| url.parse().unwrap()).collect(), None);
        assert_eq!(pool(&[]), None);
        for other in ["https://b/app", "http://b/", "http://b/app?x"] {
            assert_eq!(pool(&["http://a/app", other]), None, "{other}");
        }
        let both = pool(&["http://a/app", "http://b:81/app"]).unwrap();
        assert_eq!(both.urls().count(), 2);
        assert_eq!(&**both.name(), "a,b:81");
    }
}
