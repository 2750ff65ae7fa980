//! Which keys do the issuers of users publish? Fetched when asked for, once for everybody who asks at the same time.
//!
//! Keys are never used beyond their time, and a failure never takes away keys that are still good: a token that names a key
//! nobody has must not be able to lock others out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use caracal_chassis::Clock;
use caracal_egress::{Client, ClientError, Request};
use caracal_model::SubjectIssuerId;
use caracal_storage::zone_model::SubjectIssuerRow;
use caracal_token::id_token::{IssuerKeys, IssuerKeysError};
use http::StatusCode;
use tokio::sync::{Mutex, Semaphore};
use url::Url;

/// How long keys are used; after that they are fetched again, or nothing is believed.
const FRESH_FOR: Duration = Duration::from_mins(10);
/// A token with a key nobody knows causes a fetch only so long after the last one: an issuer's new key is found within
/// this time.
const REFETCH_AFTER: Duration = Duration::from_mins(1);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Issuers remembered at most, of all zones. A set has at most 32 keys of 1 KiB.
const ISSUERS_MAX: u64 = 1_024;
/// Fetches at the same time at most, of all zones.
const FETCHES_AT_ONCE: usize = 32;
/// How long a fetch may wait for its place behind those of other issuers.
const PLACE_WITHIN: Duration = Duration::from_secs(1);

/// Why the keys of an issuer are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoKeys {
    #[error("the address of the keys is not a URL")]
    Url(#[from] url::ParseError),
    #[error("the keys cannot be fetched")]
    Fetch(#[from] ClientError),
    #[error("the server of the keys answered {0}")]
    Status(StatusCode),
    #[error("the keys cannot be used")]
    Document(#[from] IssuerKeysError),
    #[error("too many issuers are being asked at once")]
    Busy,
}

/// Gets a key set from where an issuer publishes it.
pub(crate) trait Fetch {
    /// One attempt.
    ///
    /// # Errors
    /// [`NoKeys`].
    fn fetch(&self, url: &str) -> impl Future<Output = Result<IssuerKeys, NoKeys>> + Send;
}

/// Over HTTPS, to addresses the guard lets through.
#[derive(Debug)]
pub(crate) struct Https(pub(crate) Client);

impl Fetch for Https {
    async fn fetch(&self, url: &str) -> Result<IssuerKeys, NoKeys> {
        let url = Url::parse(url)?;
        let request = Request::get(&url)
            .within(FETCH_TIMEOUT)
            .at_most(DOCUMENT_BYTES_MAX);
        let answer = self.0.send(request).await?;
        if answer.status != StatusCode::OK {
            return Err(NoKeys::Status(answer.status));
        }
        Ok(IssuerKeys::from_jwks_bytes(&answer.body)?)
    }
}

/// The keys of issuers, by issuer row and address: another address is another set.
#[derive(Debug)]
pub(crate) struct IssuerKeyCache<F = Https> {
    fetch: F,
    clock: Clock,
    slots: moka::sync::Cache<(SubjectIssuerId, String), Arc<Slot>>,
    places: Semaphore,
}

/// The keys of one issuer, and when they were fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) keys: IssuerKeys,
    /// In Unix microseconds.
    at_us: i64,
}

#[derive(Debug, Default)]
struct Slot {
    known: ArcSwapOption<Fetched>,
    /// Finished attempts, so that who waited for one knows that it was made.
    attempts: AtomicU64,
    last: Mutex<Last>,
}

/// What became of the last attempt. Whoever holds the lock makes the next one.
#[derive(Debug, Default)]
struct Last {
    /// In Unix microseconds.
    at_us: Option<i64>,
    failure: Option<Arc<NoKeys>>,
}

impl Slot {
    fn fresh(&self, now_us: i64) -> Option<Arc<Fetched>> {
        self.known
            .load_full()
            .filter(|known| is_within(FRESH_FOR, known.at_us, now_us))
    }
}

/// Whether less than `span` has passed; never for a clock that was set back.
fn is_within(span: Duration, since_us: i64, now_us: i64) -> bool {
    u128::try_from(now_us.saturating_sub(since_us)).is_ok_and(|age_us| age_us < span.as_micros())
}

impl<F: Fetch> IssuerKeyCache<F> {
    pub(crate) fn new(fetch: F, clock: Clock) -> Self {
        Self {
            fetch,
            clock,
            slots: moka::sync::Cache::new(ISSUERS_MAX),
            places: Semaphore::new(FETCHES_AT_ONCE),
        }
    }

    /// The keys of an issuer: from memory while they are fresh, else by one request shared by all who ask meanwhile.
    ///
    /// # Errors
    /// [`NoKeys`]; shared by those who waited for the same attempt, and not remembered after it.
    pub(crate) async fn keys(&self, issuer: &SubjectIssuerRow) -> Result<Arc<Fetched>, Arc<NoKeys>> {
        let slot = self.slot(issuer);
        if let Some(known) = slot.fresh(self.clock.unix_micros()) {
            return Ok(known);
        }
        let before = slot.attempts.load(Ordering::Acquire);
        let mut last = slot.last.lock().await;
        if let Some(known) = slot.fresh(self.clock.unix_micros()) {
            return Ok(known);
        }
        match &last.failure {
            Some(failure) if slot.attempts.load(Ordering::Acquire) != before => Err(Arc::clone(failure)),
            _ => self.attempt(&slot, &mut last, issuer).await,
        }
    }

    /// The keys again, when `lacking` does not hold the one that was asked for; `None` when it is too soon to ask.
    ///
    /// # Errors
    /// [`NoKeys`]; the keys that are known stay.
    pub(crate) async fn newer(
        &self,
        issuer: &SubjectIssuerRow,
        lacking: &Arc<Fetched>,
    ) -> Result<Option<Arc<Fetched>>, Arc<NoKeys>> {
        let slot = self.slot(issuer);
        let mut last = slot.last.lock().await;
        if let Some(known) = slot
            .fresh(self.clock.unix_micros())
            .filter(|known| !Arc::ptr_eq(known, lacking))
        {
            return Ok(Some(known));
        }
        if last
            .at_us
            .is_some_and(|at_us| is_within(REFETCH_AFTER, at_us, self.clock.unix_micros()))
        {
            return Ok(None);
        }
        self.attempt(&slot, &mut last, issuer).await.map(Some)
    }

    fn slot(&self, issuer: &SubjectIssuerRow) -> Arc<Slot> {
        let key = (issuer.id.clone(), issuer.jwks_url.clone());
        self.slots.get_with(key, Arc::default)
    }

    async fn attempt(
        &self,
        slot: &Slot,
        last: &mut Last,
        issuer: &SubjectIssuerRow,
    ) -> Result<Arc<Fetched>, Arc<NoKeys>> {
        let _place = match tokio::time::timeout(PLACE_WITHIN, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => return Err(Arc::new(NoKeys::Busy)),
            Err(_elapsed) => return Err(Arc::new(NoKeys::Busy)),
        };
        // Noted before the fetch: who hangs up meanwhile has asked all the same.
        last.at_us = Some(self.clock.unix_micros());
        let fetched = self.fetch.fetch(&issuer.jwks_url).await;
        let now_us = self.clock.unix_micros();
        last.at_us = Some(now_us);
        slot.attempts.fetch_add(1, Ordering::AcqRel);
        match fetched {
            Ok(keys) => {
                let known = Arc::new(Fetched { keys, at_us: now_us });
                slot.known.store(Some(Arc::clone(&known)));
                last.failure = None;
                Ok(known)
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                last.failure = Some(Arc::clone(&failure));
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1",
        "x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

    /// A server of keys that counts, answers when it is let, and may be down.
    #[derive(Debug)]
    struct Server {
        requests: AtomicU64,
        is_down: AtomicBool,
        answers: Semaphore,
    }

    impl Server {
        fn requests(&self) -> u64 {
            self.requests.load(Ordering::Relaxed)
        }

        fn set_down(&self, is_down: bool) {
            self.is_down.store(is_down, Ordering::Relaxed);
        }
    }

    impl Fetch for Arc<Server> {
        async fn fetch(&self, _url: &str) -> Result<IssuerKeys, NoKeys> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.answers.acquire().await.unwrap().forget();
            if self.is_down.load(Ordering::Relaxed) {
                return Err(NoKeys::Status(StatusCode::BAD_GATEWAY));
            }
            Ok(IssuerKeys::from_jwks_bytes(KEYS.as_bytes())?)
        }
    }

    struct Test {
        cache: IssuerKeyCache<Arc<Server>>,
        server: Arc<Server>,
        clock: Clock,
    }

    /// A server that gives `answers` answers at once.
    fn test(answers: usize) -> Test {
        let clock = Clock::manual(1_700_000_000);
        let server = Arc::new(Server {
            requests: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            answers: Semaphore::new(answers),
        });
        Test {
            cache: IssuerKeyCache::new(Arc::clone(&server), clock.clone()),
            server,
            clock,
        }
    }

    fn issuer(id: &str, url: &str) -> SubjectIssuerRow {
        SubjectIssuerRow {
            id: id.parse().unwrap(),
            issuer: "https://idp.example".to_owned(),
            jwks_url: url.to_owned(),
            audience: "caracal".to_owned(),
        }
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_request_whether_it_succeeds_or_not() {
        let Test { cache, server, .. } = test(0);
        let idp = issuer("i", "https://a.example");
        for is_down in [true, false] {
            server.set_down(is_down);
            // All have asked before the server answers.
            let asking = join_all((0..50).map(|_| cache.keys(&idp)));
            let (answered, ()) = tokio::join!(asking, async { server.answers.add_permits(1) });
            assert!(
                answered.iter().all(|answer| answer.is_err() == is_down),
                "a failure is shared, and not remembered"
            );
        }
        assert_eq!(server.requests(), 2);
    }

    #[tokio::test]
    async fn keys_are_good_for_ten_minutes_of_one_row_and_address() {
        let Test { cache, server, clock } = test(9);
        let idp = issuer("i", "https://a.example");
        cache.keys(&idp).await.unwrap();
        clock.advance(Duration::from_secs(599));
        cache.keys(&idp).await.unwrap();
        assert_eq!(server.requests(), 1);
        cache.keys(&issuer("i", "https://b.example")).await.unwrap();
        cache.keys(&issuer("j", "https://a.example")).await.unwrap();
        assert_eq!(server.requests(), 3, "another row or address is another set");
        clock.advance(Duration::from_secs(1));
        server.set_down(true);
        assert!(cache.keys(&idp).await.is_err(), "never beyond their time");
    }

    #[tokio::test]
    async fn a_missing_key_is_looked_for_once_a_minute_and_the_known_ones_stay() {
        let Test { cache, server, clock } = test(9);
        let idp = issuer("i", "https://a.example");
        let first = cache.keys(&idp).await.unwrap();
        assert!(cache.newer(&idp, &first).await.unwrap().is_none(), "too soon");
        clock.advance(REFETCH_AFTER);
        server.set_down(true);
        assert!(cache.newer(&idp, &first).await.is_err());
        assert!(
            cache.newer(&idp, &first).await.unwrap().is_none(),
            "too soon again"
        );
        assert_eq!(server.requests(), 2);
        assert!(cache.keys(&idp).await.is_ok(), "what is good stays good");
        clock.advance(REFETCH_AFTER);
        server.set_down(false);
        let newer = join_all((0..20).map(|_| cache.newer(&idp, &first))).await;
        assert!(newer.iter().all(|newer| matches!(newer, Ok(Some(_)))));
        assert_eq!(server.requests(), 3, "one fetch for all who lack it");
    }

    #[tokio::test]
    async fn who_hangs_up_while_a_missing_key_is_looked_for_has_asked_all_the_same() {
        let Test { cache, server, clock } = test(1);
        let idp = issuer("i", "https://a.example");
        let first = cache.keys(&idp).await.unwrap();
        clock.advance(REFETCH_AFTER);
        for _ in 0..10 {
            let _given_up = cache.newer(&idp, &first).now_or_never();
        }
        assert_eq!(server.requests(), 2, "one more, however many give up");
    }

    #[tokio::test]
    async fn an_issuer_that_finds_no_place_is_told_so_in_time() {
        let Test { cache, server, .. } = test(0);
        let held = cache.places.acquire_many(u32::try_from(FETCHES_AT_ONCE).unwrap());
        let held = held.await.unwrap();
        let idp = issuer("i", "https://a.example");
        assert!(matches!(&*cache.keys(&idp).await.unwrap_err(), NoKeys::Busy));
        drop(held);
        server.answers.add_permits(1);
        assert!(cache.keys(&idp).await.is_ok());
    }

    #[tokio::test]
    async fn whoever_gives_up_lets_the_next_one_fetch() {
        let Test { cache, server, .. } = test(0);
        let idp = issuer("i", "https://a.example");
        assert!(cache.keys(&idp).now_or_never().is_none());
        server.answers.add_permits(1);
        assert!(cache.keys(&idp).await.is_ok());
        assert_eq!(server.requests(), 2);
    }
}
