//! Which keys sign the mandates of a zone? Fetched from the STS once, shared by all requests, refreshed in the
//! background.
//!
//! Anybody can name a zone and a key in a bearer that proves nothing, so nothing here lets a stranger cause more than
//! a bounded number of calls: one flight per zone, a pause between refetches, a memory of zones that do not exist, and
//! a limit on zones remembered and fetched at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_token::KeySet;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::sts_client::{JwksError, StsClient};

/// Keys this young are used without a question, in seconds.
const FRESH_S: i64 = 300;
/// Keys this old are not used any more, in seconds: a key withdrawn for cause is refused by then.
const USABLE_S: i64 = 900;
/// Pause between fetches for one zone because of an unknown key, in seconds.
const REFETCH_PAUSE_S: i64 = 30;
/// When the keys of a zone are fetched after they were announced to have changed: at once, and again when every replica of
/// the STS has heard of it too.
const REFETCHES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)];
/// Zones fetched for announcements at the same time; more are noted as outdated and fetched when they are used.
const ANNOUNCED_MAX: usize = 16;
/// How long a zone that does not exist is remembered as such.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// Zones remembered as absent.
const ABSENT_MAX: u64 = 16_384;
/// Zones whose keys are remembered; the one fetched longest ago gives way.
const ZONES_MAX: usize = 4_096;
/// Fetches at the same time for zones known to exist, and as many for zones anybody may have invented.
const FLIGHTS_MAX: usize = 32;

/// Why there are no keys to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeysError {
    /// The STS knows no such zone.
    UnknownZone,
    /// The zone has no such key.
    UnknownKey,
    /// The STS could not be asked.
    Unavailable,
}

/// The keys of one zone.
#[derive(Debug)]
struct Known {
    keys: Arc<KeySet>,
    fetched_unix_s: i64,
}

/// One call to the STS at a time for each zone. Holds when the last one failed, in Unix seconds, so that those who
/// waited behind it fail with it instead of trying one after the other.
type Flight = Arc<tokio::sync::Mutex<Option<i64>>>;

/// The keys of the zones in use.
#[derive(Debug)]
pub(crate) struct ZoneKeys {
    known: ArcSwap<HashMap<ZoneId, Arc<Known>>>,
    /// Zones the STS does not know.
    absent: Cache<ZoneId, ()>,
    /// Zones the STS has known, whether or not their keys are remembered now.
    existing: Cache<ZoneId, ()>,
    flights: Mutex<HashMap<ZoneId, Flight>>,
    slots: Semaphore,
    slots_for_strangers: Semaphore,
    announced: Arc<Semaphore>,
    sts: Arc<StsClient>,
    clock: Clock,
}

impl ZoneKeys {
    /// No zone known.
    pub(crate) fn new(sts: Arc<StsClient>, clock: Clock) -> Self {
        Self {
            known: ArcSwap::default(),
            absent: Cache::builder()
                .max_capacity(ABSENT_MAX)
                .time_to_live(ABSENT_FOR)
                .build(),
            existing: Cache::new(ABSENT_MAX),
            flights: Mutex::default(),
            slots: Semaphore::new(FLIGHTS_MAX),
            slots_for_strangers: Semaphore::new(FLIGHTS_MAX),
            announced: Arc::new(Semaphore::new(ANNOUNCED_MAX)),
            sts,
            clock,
        }
    }

    /// Keys of `zone` that include `kid`. Memory only while the keys are young; old ones are still used while a
    /// background task fetches them anew, up to their limit.
    ///
    /// # Errors
    /// [`KeysError`].
    pub(crate) async fn of(self: &Arc<Self>, zone: &ZoneId, kid: &str) -> Result<Arc<KeySet>, KeysError> {
        let now = self.clock.unix_seconds();
        if let Some(known) = self.known.load().get(zone) {
            let age = now.saturating_sub(known.fetched_unix_s);
            if age < USABLE_S && known.keys.contains(kid) {
                if age >= FRESH_S {
                    self.refresh_behind(zone);
                }
                return Ok(Arc::clone(&known.keys));
            }
            if age < REFETCH_PAUSE_S {
                return Err(KeysError::UnknownKey);
            }
        } else if self.absent.contains_key(zone) {
            return Err(KeysError::UnknownZone);
        }
        // Rare, and large.
        let keys = Box::pin(self.fetch(zone, now)).await?;
        if keys.contains(kid) {
            Ok(keys)
        } else {
            Err(KeysError::UnknownKey)
        }
    }

    /// Takes note that the keys of `zone` have changed. What is known is fetched before it is used again, then in the
    /// background until every replica of the STS must have heard of the change as well.
    pub(crate) fn note_change(self: &Arc<Self>, zone: &ZoneId) {
        self.absent.invalidate(zone);
        if !self.known.load().contains_key(zone) {
            return;
        }
        self.forget(zone);
        let Ok(place) = Arc::clone(&self.announced).try_acquire_owned() else {
            return;
        };
        let (keys, zone) = (Arc::clone(self), zone.clone());
        tokio::spawn(async move {
            let _place = place;
            for pause in REFETCHES {
                tokio::time::sleep(pause).await;
                // A failure was logged, and requests try again.
                let _outcome = keys
                    .fetch(&zone, keys.clock.unix_seconds().saturating_add(1))
                    .await;
            }
        });
    }

    /// Takes note that announcements were missed: everything known is fetched before it is used again.
    pub(crate) fn note_loss(&self) {
        self.absent.invalidate_all();
        self.known.store(Arc::default());
    }

    fn forget(&self, zone: &ZoneId) {
        self.known.rcu(|zones| {
            let mut zones = HashMap::clone(zones);
            zones.remove(zone);
            zones
        });
    }

    /// Fetches the keys of `zone`, unless somebody did so, or tried, since `wanted_unix_s`.
    async fn fetch(&self, zone: &ZoneId, wanted_unix_s: i64) -> Result<Arc<KeySet>, KeysError> {
        let flight = self.flight(zone);
        let landed = {
            let mut failed = flight.lock().await;
            let known = self
                .known
                .load()
                .get(zone)
                .filter(|known| known.fetched_unix_s >= wanted_unix_s)
                .cloned();
            match known {
                Some(known) => Ok(Arc::clone(&known.keys)),
                None if failed.is_some_and(|failed| failed >= wanted_unix_s) => Err(KeysError::Unavailable),
                None if self.absent.contains_key(zone) => Err(KeysError::UnknownZone),
                None => {
                    let fetched = self.fetch_now(zone).await;
                    *failed = fetched.is_err().then(|| self.clock.unix_seconds());
                    fetched
                }
            }
        };
        self.land(zone, flight);
        landed
    }

    async fn fetch_now(&self, zone: &ZoneId) -> Result<Arc<KeySet>, KeysError> {
        let slots = if self.existing.contains_key(zone) {
            &self.slots
        } else {
            &self.slots_for_strangers
        };
        let _slot = slots.try_acquire().map_err(|_full| KeysError::Unavailable)?;
        match self.sts.keys(zone).await {
            Ok(keys) => {
                self.existing.insert(zone.clone(), ());
                let keys = Arc::new(keys);
                let known = Known {
                    keys: Arc::clone(&keys),
                    fetched_unix_s: self.clock.unix_seconds(),
                };
                self.remember(zone, &Arc::new(known));
                Ok(keys)
            }
            Err(JwksError::NoSuchZone) => {
                self.absent.insert(zone.clone(), ());
                Err(KeysError::UnknownZone)
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(zone.id = %zone, error, "the zone's keys cannot be fetched");
                Err(KeysError::Unavailable)
            }
        }
    }

    fn refresh_behind(self: &Arc<Self>, zone: &ZoneId) {
        let flight = self.flight(zone);
        if flight.try_lock().is_err() {
            return;
        }
        let (keys, zone, wanted) = (Arc::clone(self), zone.clone(), self.clock.unix_seconds());
        tokio::spawn(async move {
            // A failure was logged, and the next request tries again.
            let _outcome = keys.fetch(&zone, wanted).await;
        });
    }

    fn flight(&self, zone: &ZoneId) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(zone.clone()).or_default())
    }

    /// Forgets the flight when nobody else waits for it.
    fn land(&self, zone: &ZoneId, flight: Flight) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        drop(flight);
        if flights
            .get(zone)
            .is_some_and(|flight| Arc::strong_count(flight) == 1)
        {
            flights.remove(zone);
        }
    }

    fn remember(&self, zone: &ZoneId, known: &Arc<Known>) {
        self.known.rcu(|zones| {
            let mut zones = HashMap::clone(zones);
            if zones.len() >= ZONES_MAX {
                let oldest = zones.iter().min_by_key(|(_zone, known)| known.fetched_unix_s);
                if let Some(oldest) = oldest.map(|(zone, _known)| zone.clone()) {
                    zones.remove(&oldest);
                }
            }
            zones.insert(zone.clone(), Arc::clone(known));
            zones
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap as Map;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::{Query, State};
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use caracal_chassis::server::{self, Limits};
    use caracal_chassis::shutdown::Shutdown;
    use caracal_testing::{TestKeys, wait_until};
    use caracal_token::JwkSet;
    use futures_util::future::join_all;

    const SOON: Duration = Duration::from_secs(10);

    /// The key endpoint of an STS, with one zone.
    struct Endpoint {
        published: Mutex<JwkSet>,
        /// Questions about other zones are not answered.
        is_silent_to_strangers: AtomicBool,
        asked: AtomicUsize,
        is_down: AtomicBool,
    }

    async fn answer(
        State(endpoint): State<Arc<Endpoint>>,
        Query(query): Query<Map<String, String>>,
    ) -> Response {
        endpoint.asked.fetch_add(1, Ordering::SeqCst);
        if endpoint.is_down.load(Ordering::SeqCst) {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        if query.get("zone_id").is_none_or(|zone| zone != "zone-1") {
            if endpoint.is_silent_to_strangers.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            return StatusCode::NOT_FOUND.into_response();
        }
        axum::Json(endpoint.published.lock().unwrap().clone()).into_response()
    }

    struct Rig {
        endpoint: Arc<Endpoint>,
        keys: Arc<ZoneKeys>,
        clock: Clock,
        zone: ZoneId,
        stop: Shutdown,
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.stop.trigger();
        }
    }

    impl Rig {
        async fn with(published: &TestKeys) -> Self {
            let endpoint = Arc::new(Endpoint {
                published: Mutex::new(published.jwks()),
                is_silent_to_strangers: AtomicBool::new(false),
                asked: AtomicUsize::new(0),
                is_down: AtomicBool::new(false),
            });
            let router = Router::new()
                .route("/.well-known/jwks.json", get(answer))
                .with_state(Arc::clone(&endpoint));
            let listener = server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let stop = Shutdown::new();
            tokio::spawn(server::serve(listener, router, Limits::default(), stop.clone()));
            let clock = Clock::manual(1_700_000_000);
            let sts = StsClient::new(&[url], None, SOON, None, clock.clone()).unwrap();
            sts.locate().await;
            let keys = Arc::new(ZoneKeys::new(Arc::new(sts), clock.clone()));
            Self {
                endpoint,
                keys,
                clock,
                zone: "zone-1".parse().unwrap(),
                stop,
            }
        }

        fn asked(&self) -> usize {
            self.endpoint.asked.load(Ordering::SeqCst)
        }

        async fn look(&self, kid: &str) -> Result<(), KeysError> {
            self.keys.of(&self.zone, kid).await.map(drop)
        }
    }

    #[tokio::test]
    async fn many_requests_share_one_fetch() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        let looks = join_all((0..50).map(|_request| rig.look("kid-1"))).await;
        assert!(looks.iter().all(Result::is_ok));
        assert_eq!(rig.asked(), 1);
    }

    #[tokio::test]
    async fn an_unknown_key_is_looked_for_again_after_a_pause() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.look("kid-1").await.unwrap();
        *rig.endpoint.published.lock().unwrap() = TestKeys::named("kid-2").jwks();
        rig.clock.advance(Duration::from_secs(29));
        assert_eq!(rig.look("kid-2").await, Err(KeysError::UnknownKey));
        assert_eq!(rig.asked(), 1, "a stranger who invents key ids causes nothing");
        rig.clock.advance(Duration::from_secs(1));
        rig.look("kid-2").await.unwrap();
        assert_eq!(
            rig.look("kid-1").await,
            Err(KeysError::UnknownKey),
            "a withdrawn key is gone"
        );
    }

    #[tokio::test]
    async fn old_keys_serve_while_new_ones_are_fetched_and_too_old_ones_do_not() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.look("kid-1").await.unwrap();
        rig.clock.advance(Duration::from_secs(301));
        rig.look("kid-1").await.unwrap();
        wait_until(SOON, async || rig.asked() == 2).await;
        rig.endpoint.is_down.store(true, Ordering::SeqCst);
        rig.clock.advance(Duration::from_mins(10));
        rig.look("kid-1").await.unwrap();
        rig.clock.advance(Duration::from_mins(10));
        assert_eq!(rig.look("kid-1").await, Err(KeysError::Unavailable));
        rig.endpoint.is_down.store(false, Ordering::SeqCst);
        rig.clock.advance(Duration::from_secs(1));
        rig.look("kid-1").await.unwrap();
    }

    #[tokio::test]
    async fn a_flood_of_invented_zones_keeps_no_real_zone_from_its_keys() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.look("kid-1").await.unwrap();
        rig.endpoint.is_silent_to_strangers.store(true, Ordering::SeqCst);
        for number in 0..2 * FLIGHTS_MAX {
            let keys = Arc::clone(&rig.keys);
            let zone: ZoneId = format!("invented-{number}").parse().unwrap();
            tokio::spawn(async move { keys.of(&zone, "kid-1").await.map(drop) });
        }
        wait_until(SOON, async || rig.asked() == 1 + FLIGHTS_MAX).await;
        rig.keys.note_loss();
        rig.look("kid-1").await.unwrap();
    }

    #[tokio::test]
    async fn an_announced_key_is_known_without_a_pause_and_a_withdrawn_one_is_gone() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.look("kid-1").await.unwrap();
        *rig.endpoint.published.lock().unwrap() = TestKeys::named("kid-2").jwks();
        rig.keys.note_change(&rig.zone);
        rig.look("kid-2").await.unwrap();
        assert_eq!(rig.look("kid-1").await, Err(KeysError::UnknownKey));
    }

    #[tokio::test]
    async fn an_announcement_is_followed_up_for_replicas_that_had_not_heard_of_it() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.look("kid-1").await.unwrap();
        rig.keys.note_change(&rig.zone);
        rig.look("kid-1").await.unwrap();
        *rig.endpoint.published.lock().unwrap() = TestKeys::named("kid-2").jwks();
        wait_until(SOON, async || rig.look("kid-2").await.is_ok()).await;
    }

    #[tokio::test]
    async fn an_announcement_about_a_zone_nobody_uses_causes_nothing() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.keys.note_change(&rig.zone);
        tokio::task::yield_now().await;
        assert_eq!(rig.asked(), 0);
    }

    #[tokio::test]
    async fn zones_that_do_not_exist_are_remembered() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        let nowhere: ZoneId = "zone-9".parse().unwrap();
        for _request in 0..10 {
            let looked = rig.keys.of(&nowhere, "kid-1").await;
            assert_eq!(looked.unwrap_err(), KeysError::UnknownZone);
        }
        assert_eq!(rig.asked(), 1);
    }

    #[tokio::test]
    async fn those_who_wait_behind_a_failing_fetch_fail_with_it() {
        let rig = Rig::with(&TestKeys::named("kid-1")).await;
        rig.endpoint.is_down.store(true, Ordering::SeqCst);
        let looks = join_all((0..50).map(|_request| rig.look("kid-1"))).await;
        assert!(looks.iter().all(|look| *look == Err(KeysError::Unavailable)));
        assert!(rig.asked() < 5, "{} calls for 50 requests", rig.asked());
    }
}
