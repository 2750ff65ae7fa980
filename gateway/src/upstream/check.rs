//! Is an address of an upstream well, as far as its health check can tell? What is asked, and what the answers add up to.
//! (docs/contract/gateway-upstreams.md, "Health checks")

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use url::Url;

/// How an upstream is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CheckRule {
    /// Path and query that are asked for, beginning with a slash.
    pub(crate) path: String,
    /// How often.
    pub(crate) every: Duration,
    /// How long an answer may take, connecting included. The next check waits for it.
    pub(crate) timeout: Duration,
    /// After so many failures in a row an address is ill.
    pub(crate) ill_after: u32,
    /// After so many answers in a row it is well again.
    pub(crate) well_after: u32,
}

/// One health check: what is asked where. Routes that ask the same share it, and so does a table with the one before it.
#[derive(Debug)]
pub(crate) struct Check {
    /// The upstream: scheme, host and port.
    origin: Url,
    rule: CheckRule,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: HashMap<SocketAddr, Vital>,
    /// Whether the name had no usable address when it was looked up last.
    is_lost: bool,
}

/// What is known of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Vital {
    is_ill: bool,
    /// Results in a row that say otherwise.
    contrary: u32,
}

/// What a result changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The address takes no requests from now on, while another can.
    FellIll,
    /// It takes its turn again.
    Recovered,
}

/// What tells checks apart: the origin of an upstream, and how it is asked.
pub(crate) type CheckKey = (Url, CheckRule);

/// The checks of a route table, each once.
pub(crate) type Checks = HashMap<CheckKey, Arc<Check>>;

impl Check {
    /// The check of `upstream` by `rule`, among `checks` or, as it stands there, among those of the table `before`.
    pub(crate) fn shared(
        upstream: &Url,
        rule: &CheckRule,
        checks: &mut Checks,
        before: Option<&Checks>,
    ) -> Arc<Self> {
        let mut origin = upstream.clone();
        origin.set_path("/");
        origin.set_query(None);
        origin.set_fragment(None);
        let key = (origin, rule.clone());
        if let Some(check) = checks.get(&key) {
            return Arc::clone(check);
        }
        let kept = before.and_then(|before| before.get(&key)).map(Arc::clone);
        let check = kept.unwrap_or_else(|| Arc::new(Self::new(&key)));
        checks.insert(key, Arc::clone(&check));
        check
    }

    fn new((origin, rule): &CheckKey) -> Self {
        Self {
            origin: origin.clone(),
            rule: rule.clone(),
            state: Mutex::default(),
        }
    }

    /// Scheme, host and port of the upstream.
    pub(crate) fn origin(&self) -> &Url {
        &self.origin
    }

    /// What is asked, and how often.
    pub(crate) fn rule(&self) -> &CheckRule {
        &self.rule
    }

    /// Whether the address failed its checks. One that was not checked yet did not.
    pub(crate) fn is_ill(&self, address: SocketAddr) -> bool {
        self.lock()
            .addresses
            .get(&address)
            .is_some_and(|vital| vital.is_ill)
    }

    /// How many addresses are ill.
    pub(crate) fn ill_count(&self) -> usize {
        let state = self.lock();
        state.addresses.values().filter(|vital| vital.is_ill).count()
    }

    /// Notes what a check of `address` came to.
    pub(crate) fn note(&self, address: SocketAddr, was_well: bool) -> Option<Change> {
        let mut state = self.lock();
        let vital = state.addresses.entry(address).or_default();
        if vital.is_ill != was_well {
            vital.contrary = 0;
            return None;
        }
        vital.contrary = vital.contrary.saturating_add(1);
        let (enough, change) = if vital.is_ill {
            (self.rule.well_after, Change::Recovered)
        } else {
            (self.rule.ill_after, Change::FellIll)
        };
        if vital.contrary < enough {
            return None;
        }
        vital.contrary = 0;
        vital.is_ill = change == Change::FellIll;
        Some(change)
    }

    /// Notes which addresses the upstream has now; what was known of others is forgotten. Returns whether it has some again
    /// after it had none.
    pub(crate) fn found(&self, addresses: &[SocketAddr]) -> bool {
        let mut state = self.lock();
        state
            .addresses
            .retain(|address, _vital| addresses.contains(address));
        std::mem::take(&mut state.is_lost)
    }

    /// Notes that the upstream has no usable address. Returns whether that is news.
    pub(crate) fn lost(&self) -> bool {
        !std::mem::replace(&mut self.lock().is_lost, true)
    }

    /// A panic while holding the lock leaves its value whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str) -> CheckRule {
        CheckRule {
            path: path.to_owned(),
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            ill_after: 3,
            well_after: 2,
        }
    }

    fn checked(url: &str, path: &str, checks: &mut Checks, before: Option<&Checks>) -> Arc<Check> {
        Check::shared(&url.parse().unwrap(), &rule(path), checks, before)
    }

    #[test]
    fn an_address_changes_after_so_many_results_in_a_row_and_no_sooner() {
        let check = checked("http://a", "/health", &mut Checks::new(), None);
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let note = |was_well: bool| check.note(address, was_well);
        for _round in 0..3 {
            assert_eq!((note(false), note(false), note(true)), (None, None, None));
        }
        assert_eq!((note(false), note(false)), (None, None));
        assert!(!check.is_ill(address));
        assert_eq!(note(false), Some(Change::FellIll));
        assert_eq!((check.is_ill(address), check.ill_count()), (true, 1));
        assert_eq!(
            (note(false), note(true), note(false), note(true)),
            (None, None, None, None)
        );
        assert_eq!(note(true), Some(Change::Recovered));
        assert_eq!((check.is_ill(address), check.ill_count()), (false, 0));
    }

    #[test]
    fn an_address_the_name_has_lost_is_forgotten() {
        let check = checked("http://a", "/health", &mut Checks::new(), None);
        let (kept, gone) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        for address in [kept, gone] {
            let changes = (0..3).filter_map(|_failure| check.note(address, false));
            assert_eq!(changes.count(), 1);
        }
        assert!(check.lost() && !check.lost(), "told once");
        assert!(check.found(&[kept]) && !check.found(&[kept]), "told once");
        assert_eq!((check.is_ill(kept), check.is_ill(gone)), (true, false));
    }

    #[test]
    fn the_same_question_at_the_same_place_is_one_check_also_in_the_next_table() {
        let mut first = Checks::new();
        let here = checked("http://a/app", "/health", &mut first, None);
        assert!(Arc::ptr_eq(
            &here,
            &checked("http://a:80/other?x", "/health", &mut first, None)
        ));
        for (url, path) in [
            ("http://a:81", "/health"),
            ("https://a", "/health"),
            ("http://a", "/live"),
        ] {
            assert!(
                !Arc::ptr_eq(&here, &checked(url, path, &mut first, None)),
                "{url} {path}"
            );
        }
        let mut second = Checks::new();
        let kept = checked("http://a", "/health", &mut second, Some(&first));
        assert!(Arc::ptr_eq(&here, &kept));
        assert_eq!((first.len(), second.len()), (4, 1));
    }
}
