//! Is this the secret of that client? Argon2id once, a digest afterwards, and never more work at a time than allowed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caracal_chassis::Secret;
use caracal_token::client_secret;
use tokio::sync::Semaphore;

const VERIFIED_MAX: u64 = 8_192;
/// A secret that nobody uses is forgotten; one in use is derived anew once a day.
const VERIFIED_TTI: Duration = Duration::from_hours(1);
const VERIFIED_TTL: Duration = Duration::from_hours(24);

/// How many callers may wait for a slot. Each derivation takes 64 MiB and tens of milliseconds, so a longer queue would
/// only answer callers that have already given up.
const WAITING_MAX: usize = 64;

/// How many of them may come from one source, so that a stranger who guesses does not keep everybody else out.
const WAITING_OF_SOURCE_MAX: usize = 32;

/// The same once half of the queue is taken: the rest is for sources that ask little.
const WAITING_OF_LATE_SOURCE_MAX: usize = 2;

/// Verifies client secrets.
///
/// A secret that matched is remembered by its SHA-256 under the *stored* hash, so a rotation, which changes the stored
/// hash, makes the memory unreachable. Everything else, unknown clients included, costs one derivation.
#[derive(Debug)]
pub(crate) struct SecretVerifier {
    verified: moka::sync::Cache<Arc<str>, [u8; 32]>,
    slots: Arc<Semaphore>,
    queue: Queue,
}

impl SecretVerifier {
    /// `concurrency` derivations run at once.
    pub(crate) fn new(concurrency: usize) -> Self {
        Self {
            verified: moka::sync::Cache::builder()
                .max_capacity(VERIFIED_MAX)
                .time_to_idle(VERIFIED_TTI)
                .time_to_live(VERIFIED_TTL)
                .build(),
            slots: Arc::new(Semaphore::new(concurrency)),
            queue: Queue::default(),
        }
    }

    /// Takes a place among those whose secret is derived, for a caller from `source`. `None`: too many are waiting.
    pub(crate) fn enter(&self, source: IpAddr) -> Option<Place<'_>> {
        self.queue.enter(source)
    }

    /// Whether `presented` was found to be the secret `stored` is made of. Cost: one SHA-256.
    pub(crate) fn knows(&self, presented: &Secret, stored: &Arc<str>) -> bool {
        let digest = caracal_token::digest(presented.expose().as_bytes());
        self.verified
            .get(stored)
            .is_some_and(|known| aws_lc_rs::constant_time::verify_slices_are_equal(&known, &digest).is_ok())
    }

    /// Compares `presented` with `stored`; `None` for a client that does not exist or has no secret, which costs the
    /// same and never matches. Cost: one Argon2id derivation on the blocking pool.
    pub(crate) async fn derive(
        &self,
        _place: &Place<'_>,
        presented: &Secret,
        stored: Option<&Arc<str>>,
    ) -> bool {
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
            return false;
        };
        let (secret, hash) = (presented.clone(), stored.map(Arc::clone));
        let derived = tokio::task::spawn_blocking(move || {
            let hash = hash.as_deref().unwrap_or(client_secret::DUMMY);
            let matches = client_secret::verify(secret.expose(), hash);
            drop(slot);
            matches
        });
        let matches = derived.await.unwrap_or(false);
        match stored {
            Some(stored) if matches => {
                let digest = caracal_token::digest(presented.expose().as_bytes());
                self.verified.insert(Arc::clone(stored), digest);
                true
            }
            _ => false,
        }
    }
}

/// Who is waiting, in all and from each source.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place in the queue, given back on drop, also when the caller goes away.
#[derive(Debug)]
pub(crate) struct Place<'q> {
    queue: &'q Queue,
    source: IpAddr,
}

impl Queue {
    fn enter(&self, source: IpAddr) -> Option<Place<'_>> {
        let source = network(source);
        let mut waiting = self.waiting();
        let of_source = waiting.by_source.get(&source).copied().unwrap_or(0);
        let share = if waiting.all < WAITING_MAX / 2 {
            WAITING_OF_SOURCE_MAX
        } else {
            WAITING_OF_LATE_SOURCE_MAX
        };
        if waiting.all >= WAITING_MAX || of_source >= share {
            return None;
        }
        waiting.all += 1;
        waiting.by_source.insert(source, of_source + 1);
        Some(Place { queue: self, source })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting();
        waiting.all = waiting.all.saturating_sub(1);
        if let Entry::Occupied(mut of_source) = waiting.by_source.entry(self.source) {
            *of_source.get_mut() -= 1;
            if *of_source.get() == 0 {
                of_source.remove();
            }
        }
    }
}

/// The address itself, or the /64 of an IPv6 address: who has one address of it has all (RFC 4291 section 2.5.1).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn stored(secret: &str) -> Arc<str> {
        Arc::from(client_secret::hash(secret, &[7; 16]))
    }

    async fn matches(verifier: &SecretVerifier, secret: &str, stored: Option<&Arc<str>>) -> bool {
        let place = verifier.enter(source(1)).unwrap();
        verifier
            .derive(&place, &Secret::from(secret.to_owned()), stored)
            .await
    }

    #[tokio::test]
    async fn the_secret_matches_its_hash_and_nothing_else_does() {
        let verifier = SecretVerifier::new(2);
        let hash = stored("cs_right");
        let (right, wrong) = (
            Secret::from("cs_right".to_owned()),
            Secret::from("cs_wrong".to_owned()),
        );
        assert!(!verifier.knows(&right, &hash), "it was never derived");
        assert!(matches(&verifier, "cs_right", Some(&hash)).await);
        assert!(!matches(&verifier, "cs_wrong", Some(&hash)).await);
        assert!(!matches(&verifier, "cs_right", None).await);
        assert!(verifier.knows(&right, &hash));
        assert!(!verifier.knows(&wrong, &hash));
    }

    #[tokio::test]
    async fn a_known_secret_is_no_longer_known_after_a_rotation() {
        let verifier = SecretVerifier::new(1);
        assert!(matches(&verifier, "cs_old", Some(&stored("cs_old"))).await);
        assert!(!verifier.knows(&Secret::from("cs_old".to_owned()), &stored("cs_new")));
        assert!(!matches(&verifier, "cs_old", Some(&stored("cs_new"))).await);
    }

    #[test]
    fn one_source_takes_its_share_of_the_queue_and_gives_it_back() {
        let verifier = SecretVerifier::new(1);
        let places: Vec<_> = (0..WAITING_OF_SOURCE_MAX)
            .map(|_| verifier.enter(source(1)).unwrap())
            .collect();
        assert!(verifier.enter(source(1)).is_none());
        assert!(verifier.enter(source(2)).is_some(), "others are not concerned");
        drop(places);
        assert!(verifier.enter(source(1)).is_some());
        assert!(verifier.queue.waiting().by_source.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_the_queue_is_bounded() {
        let verifier = SecretVerifier::new(1);
        let of_network = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let places: Vec<_> = (0..50).filter_map(|n| verifier.enter(of_network(n))).collect();
        assert_eq!(places.len(), WAITING_OF_SOURCE_MAX);
        let more: Vec<_> = (0..=255)
            .filter_map(|last| verifier.enter(source(last)))
            .collect();
        assert_eq!(places.len() + more.len(), WAITING_MAX);
    }
}
