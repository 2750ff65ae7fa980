//! Is this source locked out of this application after too many wrong secrets?
//!
//! The lock is per (application, source address): a stranger who knows an application's id can lock out himself, not
//! the application (`docs/contract/token-exchange.md`, section "Rate limits").

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use caracal_model::ZoneId;

/// How many failures in which time lock out, and for how long.
#[derive(Debug, Clone, Copy)]
struct Rule {
    window_us: i64,
    failures_max: u32,
    blocked_us: i64,
}

/// Wrong client secrets.
const SECRETS: Rule = Rule {
    window_us: 60_000_000,
    failures_max: 60,
    blocked_us: 60_000_000,
};
/// Wrong answers to step-up challenges.
const CHALLENGES: Rule = Rule {
    window_us: 120_000_000,
    failures_max: 5,
    blocked_us: 300_000_000,
};
const KEYS_MAX: u64 = 100_000;

#[derive(Debug, Default)]
struct Window {
    started_us: i64,
    failures: u32,
    blocked_until_us: i64,
}

/// Failures of client authentication, per (application, source address). Ids are the caller's text, so only a digest of
/// fixed size is kept, and the number of keys is bounded.
#[derive(Debug)]
pub(crate) struct Lockout {
    rule: Rule,
    windows: moka::sync::Cache<[u8; 32], Arc<Mutex<Window>>>,
}

/// The caller whose failures are counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect([u8; 32]);

impl Suspect {
    /// `application` is what the caller claims to be; it need not exist.
    pub(crate) fn new(application: &str, source: IpAddr) -> Self {
        let mut bytes = Vec::with_capacity(application.len() + 40);
        bytes.extend_from_slice(source.to_string().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(application.as_bytes());
        Self(caracal_token::digest(&bytes))
    }

    /// The principal of a zone, wherever its requests come from.
    pub(crate) fn principal(zone: &ZoneId, principal: &str) -> Self {
        Self(caracal_token::digest(
            &[zone.as_str().as_bytes(), principal.as_bytes()].join(&0),
        ))
    }
}

impl Lockout {
    /// Of sources that present wrong client secrets: 60 in a minute, for a minute.
    pub(crate) fn of_secrets() -> Self {
        Self::new(SECRETS)
    }

    /// Of principals that answer challenges wrongly: 5 in two minutes, for five.
    pub(crate) fn of_challenges() -> Self {
        Self::new(CHALLENGES)
    }

    fn new(rule: Rule) -> Self {
        let windows = moka::sync::Cache::builder()
            .max_capacity(KEYS_MAX)
            .time_to_idle(std::time::Duration::from_mins(6))
            .build();
        Self { rule, windows }
    }

    /// Whether `suspect` is locked out now. Cost: one map read; nothing is remembered about callers that never failed.
    pub(crate) fn is_blocked(&self, suspect: Suspect, now_us: i64) -> bool {
        self.windows.get(&suspect.0).is_some_and(|window| {
            let window = window.lock().unwrap_or_else(PoisonError::into_inner);
            window.blocked_until_us > now_us
        })
    }

    /// Counts a failure; `true` when it is one too many, from which on the suspect is locked out.
    pub(crate) fn count_failure(&self, suspect: Suspect, now_us: i64) -> bool {
        let window = self.windows.get_with(suspect.0, Arc::default);
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.failures == 0 || now_us.saturating_sub(window.started_us) >= self.rule.window_us {
            window.started_us = now_us;
            window.failures = 0;
        }
        window.failures += 1;
        if window.failures > self.rule.failures_max {
            window.blocked_until_us = now_us.saturating_add(self.rule.blocked_us);
            window.failures = 0;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_sixty_first_failure_in_a_minute_locks_the_source_out_for_a_minute() {
        let lockout = Lockout::of_secrets();
        let suspect = Suspect::new("app-1", source(1));
        for _ in 0..60 {
            assert!(!lockout.count_failure(suspect, 0));
        }
        assert!(!lockout.is_blocked(suspect, 0));
        assert!(lockout.count_failure(suspect, 10));
        assert!(lockout.is_blocked(suspect, 59_000_000));
        assert!(!lockout.is_blocked(suspect, 60_000_010));
    }

    #[test]
    fn a_stranger_locks_out_only_his_own_address() {
        let lockout = Lockout::of_secrets();
        let stranger = Suspect::new("app-1", source(1));
        while !lockout.count_failure(stranger, 0) {}
        assert!(!lockout.is_blocked(Suspect::new("app-1", source(2)), 0));
        assert!(!lockout.is_blocked(Suspect::new("app-2", source(1)), 0));
    }

    #[test]
    fn failures_spread_over_time_never_lock_out() {
        let lockout = Lockout::of_secrets();
        let suspect = Suspect::new("app-1", source(1));
        for second in 0..600 {
            assert!(
                !lockout.count_failure(suspect, second * 1_500_000),
                "40 a minute are below the limit"
            );
        }
    }

    #[test]
    fn the_sixth_wrong_answer_in_two_minutes_locks_the_principal_out_for_five() {
        let lockout = Lockout::of_challenges();
        let suspect = Suspect::principal(&"z1".parse().unwrap(), "app-1");
        for _ in 0..5 {
            assert!(!lockout.count_failure(suspect, 0));
        }
        assert!(lockout.count_failure(suspect, 0));
        assert!(lockout.is_blocked(suspect, 299_999_999));
        assert!(!lockout.is_blocked(suspect, 300_000_000));
        assert!(!lockout.is_blocked(Suspect::principal(&"z2".parse().unwrap(), "app-1"), 0));
    }
}
