//! Is this the secret of that client? Argon2id once, a digest afterwards, and never more work at a time than allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use caracal_chassis::Secret;
use caracal_token::client_secret;
use tokio::sync::Semaphore;

const VERIFIED_MAX: u64 = 8_192;
const VERIFIED_TTL: Duration = Duration::from_hours(1);

/// How many callers may wait for a slot. Each derivation takes 64 MiB and tens of milliseconds, so a longer queue would
/// only answer callers that have already given up.
const WAITING_MAX: usize = 64;

/// Verifies client secrets.
///
/// A secret that matched is remembered by its SHA-256 under the *stored* hash, so a rotation, which changes the stored
/// hash, makes the memory unreachable. Everything else, unknown clients included, costs one derivation.
#[derive(Debug)]
pub(crate) struct SecretVerifier {
    verified: moka::sync::Cache<Arc<str>, [u8; 32]>,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The outcome of one verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// The secret is the client's.
    Match,
    /// It is not, or the client has none.
    Mismatch,
    /// Too many verifications are under way; nothing was decided.
    Busy,
}

impl SecretVerifier {
    /// `concurrency` derivations run at once.
    pub(crate) fn new(concurrency: usize) -> Self {
        Self {
            verified: moka::sync::Cache::builder()
                .max_capacity(VERIFIED_MAX)
                .time_to_live(VERIFIED_TTL)
                .build(),
            slots: Arc::new(Semaphore::new(concurrency)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Compares `presented` with `stored`; `None` for a client that does not exist or has no secret, which costs the
    /// same and never matches. Cost when known: one SHA-256; else one Argon2id derivation on the blocking pool.
    pub(crate) async fn verify(&self, presented: &Secret, stored: Option<&Arc<str>>) -> Verification {
        let digest = caracal_token::digest(presented.expose().as_bytes());
        if let Some(known) = stored.and_then(|stored| self.verified.get(stored))
            && aws_lc_rs::constant_time::verify_slices_are_equal(&known, &digest).is_ok()
        {
            return Verification::Match;
        }
        let Some(matches) = self.derive(presented, stored).await else {
            return Verification::Busy;
        };
        match stored {
            Some(stored) if matches => {
                self.verified.insert(Arc::clone(stored), digest);
                Verification::Match
            }
            _ => Verification::Mismatch,
        }
    }

    async fn derive(&self, presented: &Secret, stored: Option<&Arc<str>>) -> Option<bool> {
        let _place = Place::take(&self.waiting)?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let presented = presented.clone();
        let stored = stored.map(Arc::clone);
        tokio::task::spawn_blocking(move || {
            let matches = client_secret::verify(
                presented.expose(),
                stored.as_deref().unwrap_or(client_secret::DUMMY),
            );
            drop(slot);
            matches
        })
        .await
        .ok()
    }
}

/// A place in the queue, given back on drop, also when the caller goes away.
#[derive(Debug)]
struct Place<'q>(&'q AtomicUsize);

impl<'q> Place<'q> {
    fn take(waiting: &'q AtomicUsize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(secret: &str) -> Arc<str> {
        Arc::from(client_secret::hash(secret, &[7; 16]))
    }

    #[tokio::test]
    async fn the_secret_matches_its_hash_and_nothing_else_does() {
        let verifier = SecretVerifier::new(2);
        let hash = stored("cs_right");
        for _ in 0..2 {
            assert_eq!(
                verifier
                    .verify(&Secret::from("cs_right".to_owned()), Some(&hash))
                    .await,
                Verification::Match
            );
            assert_eq!(
                verifier
                    .verify(&Secret::from("cs_wrong".to_owned()), Some(&hash))
                    .await,
                Verification::Mismatch
            );
        }
        assert_eq!(
            verifier.verify(&Secret::from("cs_right".to_owned()), None).await,
            Verification::Mismatch
        );
    }

    #[tokio::test]
    async fn a_known_secret_is_no_longer_known_after_a_rotation() {
        let verifier = SecretVerifier::new(1);
        let secret = Secret::from("cs_old".to_owned());
        assert_eq!(
            verifier.verify(&secret, Some(&stored("cs_old"))).await,
            Verification::Match
        );
        assert_eq!(
            verifier.verify(&secret, Some(&stored("cs_new"))).await,
            Verification::Mismatch
        );
    }

    #[tokio::test]
    async fn a_full_queue_decides_nothing() {
        let verifier = SecretVerifier::new(1);
        verifier.waiting.store(WAITING_MAX, Ordering::Relaxed);
        assert_eq!(
            verifier.verify(&Secret::from("x".to_owned()), None).await,
            Verification::Busy
        );
        assert_eq!(
            verifier.waiting.load(Ordering::Relaxed),
            WAITING_MAX,
            "the place was given back"
        );
    }
}
