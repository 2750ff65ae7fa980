//! How do the replicas of the service share one budget?
//!
//! Each tells the others, a few times a second, what it has counted, and counts what they tell. Nothing waits for this:
//! the replicas together may exceed a budget by what they admit before they hear of each other
//! (`docs/contract/token-exchange.md`, section "Rate limits"). A replica that is alone only says that it exists.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caracal_bus::{BusError, EntryId, Publisher, StreamKeys};
use caracal_chassis::Clock;
use caracal_wire::event::{BUCKETS_MAX, CountedBucket, MintsCounted};
use caracal_wire::stream::MINTS_COUNTED;
use tokio::time::Instant;

use super::{Bucket, Key, MintRate};

/// How often the others are told: with the time of transport, how late one replica hears of another's mints.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often a replica says that it exists.
const GREET_EVERY: Duration = Duration::from_secs(2);
/// After so long without a word, a replica is gone.
const PEER_LIFE: Duration = Duration::from_secs(10);
/// Replicas told apart. Messages are signed, so only the services themselves can fill this.
const PEERS_MAX: usize = 1_000;
/// Longest wait of one read.
const READ_BLOCK: Duration = Duration::from_secs(1);
const READ_COUNT: usize = 256;
/// Pause after the bus has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// One replica's part in the sharing.
#[derive(Debug)]
pub(crate) struct Sharing<'m> {
    rate: &'m MintRate,
    replica: String,
    clock: Clock,
    publisher: Publisher,
    keys: StreamKeys,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    heard: HashMap<String, Instant>,
    /// Somebody new is there, who knows nothing of what was spent.
    has_newcomer: bool,
}

impl<'m> Sharing<'m> {
    /// `replica` names this process among all.
    pub(crate) fn new(
        rate: &'m MintRate,
        replica: String,
        clock: Clock,
        publisher: Publisher,
        keys: StreamKeys,
    ) -> Self {
        Self {
            rate,
            replica,
            clock,
            publisher,
            keys,
            peers: Mutex::default(),
        }
    }

    /// Tells and listens until dropped. Without the bus every replica goes on with what it counts itself.
    pub(crate) async fn run(&self) {
        tokio::join!(self.tell(), self.listen());
    }

    async fn tell(&self) {
        let mut greeted: Option<Instant> = None;
        loop {
            let news = self.news(greeted.is_none_or(|at| at.elapsed() >= GREET_EVERY));
            if !news.is_empty() {
                let messages = news.iter().map(MintsCounted::to_fields).collect();
                match self.publisher.publish_signed(MINTS_COUNTED, messages).await {
                    Ok(_) => greeted = Some(Instant::now()),
                    // What was taken is not told: the budget errs in the caller's favour during an outage.
                    Err(_outage) => tokio::time::sleep(RETRY_PAUSE).await,
                }
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    }

    /// What to say now. To a newcomer what was added comes first and how full the buckets are second: whoever knew the
    /// buckets before adds, and then has at least as much already.
    fn news(&self, must_greet: bool) -> Vec<MintsCounted> {
        let (has_peers, has_newcomer) = self.peers().look();
        let added = self.rate.take_untold(has_peers);
        let mut news = Vec::new();
        if must_greet || !added.is_empty() {
            news.push(self.says(false, added));
        }
        if has_newcomer {
            news.push(self.says(true, self.rate.standing(self.clock.unix_micros())));
        }
        news
    }

    fn says(&self, is_standing: bool, buckets: Vec<CountedBucket>) -> MintsCounted {
        MintsCounted {
            replica: self.replica.clone(),
            is_standing,
            buckets,
        }
    }

    async fn listen(&self) {
        let mut position = None;
        loop {
            let heard = match position {
                None => self.end().await.map(|end| (end, Vec::new())),
                Some(from) => self.read(from).await,
            };
            match heard {
                Ok((reached, messages)) => {
                    position = Some(reached);
                    for message in &messages {
                        self.hear(message);
                    }
                }
                Err(_outage) => {
                    // What is missed meanwhile errs in the caller's favour as well.
                    position = None;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn end(&self) -> Result<EntryId, BusError> {
        self.publisher.bus().last_id(MINTS_COUNTED).await
    }

    async fn read(&self, from: EntryId) -> Result<(EntryId, Vec<MintsCounted>), BusError> {
        let bus = self.publisher.bus();
        let read = bus.read(&[(MINTS_COUNTED, from)], READ_COUNT, READ_BLOCK).await?;
        let entries: Vec<_> = read.into_iter().flat_map(|(_stream, entries)| entries).collect();
        let reached = entries.last().map_or(from, |entry| entry.id);
        let messages = entries
            .iter()
            .filter(|entry| self.keys.verify(MINTS_COUNTED, &entry.fields))
            .filter_map(|entry| MintsCounted::from_fields(&entry.fields).ok())
            .collect();
        Ok((reached, messages))
    }

    fn hear(&self, message: &MintsCounted) {
        if message.replica == self.replica {
            return;
        }
        self.peers().greet(&message.replica);
        self.rate
            .count_elsewhere(&message.buckets, message.is_standing, self.clock.unix_micros());
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    fn greet(&mut self, replica: &str) {
        if self.heard.len() < PEERS_MAX || self.heard.contains_key(replica) {
            self.has_newcomer |= self.heard.insert(replica.to_owned(), Instant::now()).is_none();
        }
    }

    /// Whether anybody else is there, and whether somebody is new.
    fn look(&mut self) -> (bool, bool) {
        self.heard.retain(|_, at| at.elapsed() < PEER_LIFE);
        (!self.heard.is_empty(), std::mem::take(&mut self.has_newcomer))
    }
}

impl MintRate {
    /// What was counted here since the last call, at most [`BUCKETS_MAX`] buckets; what nobody `is_listening` to is
    /// forgotten.
    fn take_untold(&self, is_listening: bool) -> Vec<CountedBucket> {
        let taken: Vec<_> = {
            let mut untold = self.untold();
            let most = if is_listening { BUCKETS_MAX } else { usize::MAX };
            let count = untold.len().min(most);
            untold.drain(..count).collect()
        };
        let counted = taken.into_iter().map(|(key, bucket)| {
            let spent_us = bucket.untold.swap(0, Ordering::AcqRel);
            told(key, &bucket, spent_us)
        });
        let counted: Vec<_> = counted.collect();
        if is_listening { counted } else { Vec::new() }
    }

    /// How full the buckets are, for a replica that knows nothing: at most [`BUCKETS_MAX`] of them.
    fn standing(&self, now_us: i64) -> Vec<CountedBucket> {
        let ahead = |bucket: &Bucket| bucket.arrival.load(Ordering::Relaxed).saturating_sub(now_us);
        self.buckets
            .iter()
            .filter(|(_, bucket)| ahead(bucket) > 0)
            .take(BUCKETS_MAX)
            .map(|(key, bucket)| told((*key).clone(), &bucket, ahead(&bucket)))
            .collect()
    }

    fn count_elsewhere(&self, buckets: &[CountedBucket], is_standing: bool, now_us: i64) {
        for counted in buckets {
            let spent_us = i64::try_from(counted.spent_us).unwrap_or(i64::MAX);
            let window_us = i64::try_from(counted.window_us).unwrap_or(i64::MAX);
            let key = (
                counted.zone_id.clone(),
                counted.resource_id.clone(),
                counted.application_id.clone(),
            );
            let arrives = |seen: i64| {
                if is_standing {
                    seen.max(now_us.saturating_add(spent_us))
                } else {
                    seen.saturating_add(spent_us)
                }
            };
            self.buckets
                .get_with(key, Arc::default)
                .advance(now_us, window_us, arrives);
        }
    }
}

fn told(key: Key, bucket: &Bucket, spent_us: i64) -> CountedBucket {
    let (zone_id, resource_id, application_id) = key;
    CountedBucket {
        zone_id,
        resource_id,
        application_id,
        spent_us: u64::try_from(spent_us).unwrap_or(0),
        window_us: u64::try_from(bucket.window.load(Ordering::Relaxed)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use caracal_bus::{Bus, HmacKey, MemoryBus};
    use caracal_testing::wait_until;

    use super::super::{Rate, Spent};
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn key() -> Key {
        ("z".parse().unwrap(), "r".parse().unwrap(), "a".parse().unwrap())
    }

    /// So slow that nothing is earned back while a test runs.
    fn hour() -> Rate {
        Rate::per_seconds(100, 3_600)
    }

    fn now() -> i64 {
        Clock::system().unix_micros()
    }

    fn sharing<'m>(rate: &'m MintRate, name: &str, bus: &Arc<dyn Bus>) -> Sharing<'m> {
        let keys = StreamKeys::single(HmacKey::new(*b"thirty-two bytes of stream key .."));
        let publisher = Publisher::new(Arc::clone(bus), keys.clone());
        Sharing::new(rate, name.to_owned(), Clock::system(), publisher, keys)
    }

    /// How many of [`hour`]'s mints are spent, rounded.
    fn spent(rate: &MintRate) -> i64 {
        let bucket = rate.buckets.get(&key());
        let arrival = bucket.map_or(0, |bucket| bucket.arrival.load(Ordering::Relaxed));
        ((arrival - now()).max(0) + 18_000_000) / 36_000_000
    }

    fn admit(rate: &MintRate, mints: usize) {
        for _ in 0..mints {
            rate.admit(key(), hour(), now()).unwrap();
        }
    }

    #[test]
    fn replicas_count_each_mint_once_and_a_new_one_is_told_how_much_is_left() {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
        let rates = [MintRate::new(), MintRate::new(), MintRate::new()];
        let [a, b, c] = [
            sharing(&rates[0], "a", &bus),
            sharing(&rates[1], "b", &bus),
            sharing(&rates[2], "c", &bus),
        ];
        let tell = |from: &Sharing<'_>, to: &[&Sharing<'_>]| {
            for message in from.news(true) {
                for peer in to {
                    peer.hear(&message);
                }
            }
        };
        tell(&a, &[&b]);
        tell(&b, &[&a]);
        admit(&rates[0], 40);
        tell(&a, &[&b]);
        assert_eq!((spent(&rates[0]), spent(&rates[1])), (40, 40));
        admit(&rates[1], 20);
        // A third one comes while there is something untold.
        tell(&c, &[&a, &b]);
        admit(&rates[0], 10);
        tell(&a, &[&b, &c]);
        tell(&b, &[&a, &c]);
        tell(&a, &[&b, &c]);
        let all: Vec<i64> = rates.iter().map(spent).collect();
        assert_eq!(all[..2], [70, 70], "each mint counts once");
        assert!(
            (70..=90).contains(&all[2]),
            "the newcomer may count what was just told twice: {all:?}"
        );
    }

    fn running(bus: &Arc<dyn Bus>, name: &str) -> (Arc<MintRate>, tokio::task::JoinHandle<()>) {
        let (rate, bus, name) = (Arc::new(MintRate::new()), Arc::clone(bus), name.to_owned());
        let shared = Arc::clone(&rate);
        let task = tokio::spawn(async move { sharing(&shared, &name, &bus).run().await });
        (rate, task)
    }

    #[tokio::test]
    async fn what_one_replica_counts_the_others_hear() {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
        let (a, _a) = running(&bus, "a");
        admit(&a, 40);
        let (b, _b) = running(&bus, "b");
        wait_until(SOON, async || spent(&b) >= 40).await;
        admit(&b, 20);
        wait_until(SOON, async || spent(&a) >= 60).await;
    }

    #[tokio::test]
    async fn who_is_alone_tells_nothing() {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
        let (rate, _task) = running(&bus, "alone");
        wait_until(SOON, async || {
            bus.last_id(MINTS_COUNTED).await.unwrap() != EntryId::ZERO
        })
        .await;
        rate.admit(key(), hour(), 1).unwrap();
        wait_until(SOON, async || rate.untold().is_empty()).await;
        let read = bus
            .read(&[(MINTS_COUNTED, EntryId::ZERO)], 100, Duration::ZERO)
            .await;
        for entry in read.unwrap().into_iter().flat_map(|(_, entries)| entries) {
            let said = MintsCounted::from_fields(&entry.fields).unwrap();
            assert_eq!(said.buckets, []);
        }
    }

    #[test]
    fn nobody_owes_more_than_one_window() {
        let rate = MintRate::new();
        let counted = CountedBucket {
            zone_id: key().0,
            resource_id: key().1,
            application_id: key().2,
            spent_us: u64::MAX / 2,
            window_us: 3_600_000_000,
        };
        rate.count_elsewhere(&[counted], false, 1_000);
        assert_eq!(
            rate.admit(key(), hour(), 1_000),
            Err(Spent { retry_after_s: 36 }),
            "one step, and not years"
        );
    }
}
