//! Was an answer with exactly these bytes read lately? Then it need not be read again.
//!
//! Where no upstream sees a mandate, the STS's answers to the calls of one application to one resource differ in nothing for a second
//! or longer. Only reading is saved: that an answer belongs to its call is proven each time, by its MAC.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_wire::sts::Upstream;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use url::Url;

/// Bytes of answers kept at most. Most have half a KiB.
const BYTES_MAX: u64 = 1024 * 1024;
/// How long an answer is kept after it was last given: it differs after a second, by the time its mandate has left.
const KEPT_FOR: Duration = Duration::from_secs(3);

/// What an answer says about the upstream of a resource.
pub(crate) struct Granted {
    /// Whose upstream it is.
    pub(super) resource: Box<str>,
    /// How it is called, and with which credential.
    pub(super) upstream: Upstream,
    /// Where it is.
    pub(super) url: Url,
}

impl fmt::Debug for Granted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Granted")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

/// Answers read lately, by their bytes.
pub(crate) struct KnownAnswers(Cache<Bytes, Arc<Granted>>);

impl Default for KnownAnswers {
    fn default() -> Self {
        let weight = |body: &Bytes, _granted: &Arc<Granted>| u32::try_from(body.len()).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .weigher(weight)
            .max_capacity(BYTES_MAX)
            .time_to_idle(KEPT_FOR)
            // What was asked for often is no better than what is new: it never comes again.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(cache)
    }
}

impl KnownAnswers {
    /// What an answer of these bytes says about `resource`, if it was read lately. One hash of the body.
    pub(super) fn get(&self, body: &Bytes, resource: &str) -> Option<Arc<Granted>> {
        self.0.get(body).filter(|granted| *granted.resource == *resource)
    }

    /// Drops what was not given lately, with the credentials in it. To be called every few seconds: nothing else does while no call comes.
    pub(crate) fn prune(&self) {
        self.0.run_pending_tasks();
    }

    /// Remembers what an answer of these bytes says.
    pub(super) fn remember(&self, body: &Bytes, granted: &Arc<Granted>) {
        // A copy: the answer may be a part of what was read with it.
        self.0.insert(Bytes::copy_from_slice(body), Arc::clone(granted));
    }
}

impl fmt::Debug for KnownAnswers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KnownAnswers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_wire::sts::AuthMode;

    fn granted(resource: &str) -> Arc<Granted> {
        let upstream = Upstream {
            url: "http://a".into(),
            auth_mode: AuthMode::None,
            ..serde_json::from_str(r#"{"url":"http://a","auth_mode":"none"}"#).unwrap()
        };
        Arc::new(Granted {
            resource: resource.into(),
            upstream,
            url: Url::parse("http://a").unwrap(),
        })
    }

    #[test]
    fn only_the_same_bytes_for_the_same_resource_are_known() {
        let known = KnownAnswers::default();
        let body = Bytes::from_static(b"{\"a\":1}");
        assert!(known.get(&body, "resource://r").is_none());
        known.remember(&body, &granted("resource://r"));
        assert!(known.get(&body, "resource://r").is_some());
        assert!(known.get(&body, "resource://other").is_none());
        assert!(
            known
                .get(&Bytes::from_static(b"{\"a\":2}"), "resource://r")
                .is_none()
        );
    }
}
