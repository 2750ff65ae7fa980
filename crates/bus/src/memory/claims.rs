//! Which keys were claimed and are not forgotten yet?

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use crate::error::BusError;

/// A bounded set of keys, each with the value of its claim until its expiry.
#[derive(Debug)]
pub(super) struct Claims {
    keys: HashMap<Arc<str>, Box<str>>,
    by_expiry: BinaryHeap<Reverse<(i64, Arc<str>)>>,
    max: usize,
}

impl Claims {
    pub(super) fn new(max: usize) -> Self {
        Self {
            keys: HashMap::new(),
            by_expiry: BinaryHeap::new(),
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
        self.keys.insert(Arc::clone(&key), value.into());
        self.by_expiry.push(Reverse((expires_ms, key)));
        Ok(true)
    }

    /// The next caller with `key` is the first again, if it was claimed with `value`. Rare: it looks through all of them.
    pub(super) fn give_back(&mut self, key: &str, value: &str) {
        if self.keys.get(key).is_none_or(|claimed| **claimed != *value) {
            return;
        }
        self.keys.remove(key);
        self.by_expiry
            .retain(|Reverse((_expires_ms, kept))| &**kept != key);
    }

    fn forget_expired(&mut self, now_ms: i64) {
        while let Some(Reverse((expires_ms, _key))) = self.by_expiry.peek()
            && *expires_ms <= now_ms
        {
            if let Some(Reverse((_expires_ms, key))) = self.by_expiry.pop() {
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
}
