//! What has this process seen used? A bounded table by halves of digests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use caracal_chassis::server::RequestId;

/// Power of two; requests of different mandates rarely meet.
const SHARDS: usize = 16;
/// Entries of one shard. Together about a million uses remembered; beyond that the shared table decides alone.
const SHARD_ENTRIES_MAX: usize = 65_536;

/// The number of no use: what was burned was given back, or may be by the gateway that claimed it.
const NOBODY: u64 = 0;

/// What is remembered about one name.
#[derive(Clone, Copy, Debug)]
struct Entry {
    until_unix_s: i64,
    /// Which use burned it, or [`NOBODY`].
    number: u64,
}

/// By half a digest of the name.
type Uses = HashMap<[u8; 16], Entry>;

/// Mandates burned by this process: a replay that comes back here is refused without asking anybody.
#[derive(Debug)]
pub(crate) struct BurnedTable {
    shards: Vec<Mutex<Uses>>,
    numbers: AtomicU64,
    /// The name of this process in what it claims. Names of requests may be chosen by clients.
    process: RequestId,
}

/// What came of an attempt to burn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burn {
    /// It is burned now.
    First,
    /// It was burned before.
    Repeated,
    /// It was burned before and given back, and this one is not beyond doubt: nothing is burned.
    Doubtful,
}

impl Default for BurnedTable {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_shard| Mutex::default()).collect(),
            numbers: AtomicU64::new(NOBODY + 1),
            process: RequestId::generate(),
        }
    }
}

impl BurnedTable {
    /// A number for one use. One atomic addition.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The value under which that use is claimed in the shared table: of no other use, whatever its request is called.
    pub(super) fn claim_value(&self, request_id: &str, number: u64) -> String {
        format!("{request_id} {} {number}", self.process.as_str())
    }

    /// Whether `name` is burned. As [`BurnedTable::burn`], without burning.
    pub(super) fn holds(&self, name: &str, now_unix_s: i64) -> bool {
        let shard = self.shard(name);
        shard.is_none_or(|(key, shard)| {
            shard
                .get(&key)
                .is_some_and(|entry| entry.number != NOBODY && entry.until_unix_s > now_unix_s)
        })
    }

    /// Burns `name` until `until_unix_s`. One hash and one map operation.
    pub(super) fn burn(
        &self,
        name: &str,
        until_unix_s: i64,
        number: u64,
        is_doubted: bool,
        now_unix_s: i64,
    ) -> Burn {
        let Some((key, mut shard)) = self.shard(name) else {
            return Burn::Repeated;
        };
        match shard.get(&key) {
            Some(known) if known.until_unix_s <= now_unix_s => {}
            Some(known) if known.number != NOBODY => return Burn::Repeated,
            Some(_given_back) if is_doubted => return Burn::Doubtful,
            // Nor will it be remembered that it was given back, if it is.
            None if shard.len() >= SHARD_ENTRIES_MAX => return Burn::First,
            Some(_) | None => {}
        }
        shard.insert(key, Entry { until_unix_s, number });
        Burn::First
    }

    /// Takes back what the use of this number has burned, and remembers that it did.
    pub(super) fn give_back(&self, name: &str, number: u64) {
        if let Some((key, mut shard)) = self.shard(name)
            && let Some(entry) = shard.get_mut(&key)
            && entry.number == number
        {
            entry.number = NOBODY;
        }
    }

    /// Where a name is remembered, and by what.
    fn shard(&self, name: &str) -> Option<([u8; 16], MutexGuard<'_, Uses>)> {
        let digest = caracal_token::digest(name.as_bytes());
        let [.., shard] = digest;
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        let shard = self.shards.get(usize::from(shard) % SHARDS)?;
        Some((key, shard.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Forgets what has expired.
    pub(crate) fn prune(&self, now_unix_s: i64) {
        for shard in &self.shards {
            shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_key, entry| entry.until_unix_s > now_unix_s);
        }
    }

    /// Number of uses remembered.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(table: &BurnedTable, name: &str, now_unix_s: i64) -> Burn {
        table.burn(name, 160, table.next_number(), false, now_unix_s)
    }

    #[test]
    fn a_mandate_burns_once_until_it_has_expired() {
        let table = BurnedTable::default();
        assert_eq!(burn(&table, "jti-1", 100), Burn::First);
        assert_eq!(burn(&table, "jti-1", 159), Burn::Repeated);
        assert_eq!(
            burn(&table, "jti-2", 100),
            Burn::First,
            "another mandate is another mandate"
        );
        assert_eq!(burn(&table, "jti-1", 160), Burn::First);
        table.prune(160);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_use_gives_back_its_own_burn_and_what_comes_next_must_be_beyond_doubt() {
        let table = BurnedTable::default();
        let (first, second, third) = (table.next_number(), table.next_number(), table.next_number());
        let burn = |number, is_doubted| table.burn("jti-1", 160, number, is_doubted, 100);
        assert_eq!(burn(first, true), Burn::First);
        table.give_back("jti-1", second);
        assert!(table.holds("jti-1", 100), "it is not the second's");
        table.give_back("jti-1", first);
        assert!(!table.holds("jti-1", 100));
        assert_eq!(burn(second, true), Burn::Doubtful);
        assert!(!table.holds("jti-1", 100));
        assert_eq!(burn(second, false), Burn::First);
        table.give_back("jti-1", first);
        assert_eq!(burn(third, false), Burn::Repeated, "the first gave back once");
    }

    #[test]
    fn claims_of_one_request_name_differ() {
        let (table, other) = (BurnedTable::default(), BurnedTable::default());
        let values = [
            table.claim_value("r", 1),
            table.claim_value("r", 2),
            other.claim_value("r", 1),
        ];
        assert_ne!(values[0], values[1]);
        assert_ne!(values[0], values[2]);
    }

    #[test]
    fn of_many_concurrent_uses_one_is_first() {
        let table = BurnedTable::default();
        let first = std::thread::scope(|scope| {
            let uses: Vec<_> = (0..8)
                .map(|_thread| scope.spawn(|| burn(&table, "jti-1", 100)))
                .collect();
            uses.into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|burn| *burn == Burn::First)
                .count()
        });
        assert_eq!(first, 1);
    }
}
