//! Which keys were claimed and are not forgotten yet?

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::BusError;

/// A bounded set of keys, each with the value of its claim until its expiry.
#[derive(Debug)]
pub(super) struct Claims {
    keys: HashMap<Arc<str>, Claimed>,
    by_expiry: BTreeSet<(i64, Arc<str>)>,
    max: usize,
}

#[derive(Debug)]
struct Claimed {
    value: Box<str>,
    expires_ms: i64,
}

impl Claims {
    pub(super) fn new(max: usize) -> Self {
        Self {
            keys: HashMap::new(),
            by_expiry: BTreeSet::new(),
            max,
        }
    }

    /// Times are Unix milliseconds. `true` for the first caller with `key` until its expiry.
    pub(super) fn claim(
        &mut self,
        key: &str,
        value: &str,
        expires_ms: i64,
        now_ms: i64,
    ) -> Result<bool, BusError> {
        self.forget_expired(now_ms);
        if self.keys.contains_key(key) {
            return Ok(false);
        }
        if expires_ms <= now_ms {
            return Err(BusError::NotRemembered);
        }
        if self.keys.len() >= self.max {
            return Err(BusError::Full);
        }
        let key: Arc<str> = Arc::from(key);
        let value = value.into();
        self.keys.insert(Arc::clone(&key), Claimed { value, expires_ms });
        self.by_expiry.insert((expires_ms, key));
        Ok(true)
    }

    /// The next caller with `key` is the first again, if it was claimed with `value`. By key, however many there are.
    pub(super) fn give_back(&mut self, key: &str, value: &str) {
        if self.keys.get(key).is_none_or(|claimed| *claimed.value != *value) {
            return;
        }
        if let Some((key, claimed)) = self.keys.remove_entry(key) {
            self.by_expiry.remove(&(claimed.expires_ms, key));
        }
    }

    fn forget_expired(&mut self, now_ms: i64) {
        while let Some((expires_ms, _key)) = self.by_expiry.first()
            && *expires_ms <= now_ms
        {
            if let Some((_expires_ms, key)) = self.by_expiry.pop_first() {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_refuses_rather_than_forget_a_live_claim() {
        let mut claims = Claims::new(2);
        assert!(claims.claim("a", "", 100, 0).unwrap());
        assert!(claims.claim("b", "", 200, 0).unwrap());
        assert!(matches!(claims.claim("c", "", 300, 0), Err(BusError::Full)));
        assert!(!claims.claim("a", "", 300, 99).unwrap());
        assert!(
            claims.claim("c", "", 300, 100).unwrap(),
            "the place of the expired claim is free"
        );
        assert!(!claims.claim("b", "", 300, 100).unwrap());
    }

    #[test]
    fn what_was_given_back_leaves_its_place_and_no_trace_of_its_expiry() {
        let mut claims = Claims::new(1);
        assert!(claims.claim("a", "first", 100, 0).unwrap());
        claims.give_back("a", "second");
        assert!(
            !claims.claim("a", "third", 200, 0).unwrap(),
            "not the second's to give"
        );
        claims.give_back("a", "first");
        assert!(claims.claim("b", "", 300, 0).unwrap(), "its place is free");
        claims.give_back("b", "");
        assert!(claims.claim("a", "third", 200, 0).unwrap());
        assert!(
            !claims.claim("a", "fourth", 300, 150).unwrap(),
            "the first's end is not the third's"
        );
    }
}
