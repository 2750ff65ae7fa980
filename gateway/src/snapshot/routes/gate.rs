//! May one more request take this route now? Its rate, the rate of each source, and how many are under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::rule::Limits;
use crate::denial::Denial;
use crate::rate::{Bucket, Rate};
use crate::source::{self, Places, network, site};

/// Sources told apart by one route. Further ones share one budget.
const SOURCES_MAX: usize = 8_192;
/// How many times what one source may send the sources of one IPv6 site may send together.
const SITE_SHARES: f64 = 16.0;
/// How often, at most, a full table is searched for sources that have been quiet.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// What a route has let through lately. It outlives a reload that leaves the route as it is.
#[derive(Debug)]
pub(crate) struct Gate {
    of_all: Option<(Rate, Mutex<Bucket>)>,
    of_source: Option<Mutex<Sources>>,
    places: Option<Arc<Semaphore>>,
    places_of_source: Option<Arc<Places>>,
}

#[derive(Debug)]
struct Sources {
    rate: Rate,
    buckets: HashMap<Option<Counted>, Bucket>,
    searched: Instant,
}

/// What has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Source(IpAddr),
    Site(IpAddr),
}

/// A place among the requests under way, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    _share: Option<source::Place>,
}

impl Gate {
    /// Nothing was let through yet.
    pub(super) fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let sources = |rate| Sources {
            rate,
            buckets: HashMap::new(),
            searched: now,
        };
        Self {
            of_all: limits
                .rate
                .map(|rate| (rate, Mutex::new(Bucket::full(rate, now)))),
            of_source: limits.source_rate.map(|rate| Mutex::new(sources(rate))),
            places: limits.concurrency.map(|count| Arc::new(Semaphore::new(count))),
            places_of_source: limits.source_concurrency().map(Places::new),
        }
    }

    /// Lets one request of `source` through, or says why not; `speaks_for_many` is a source that has no share of its own, because
    /// it carries the requests of others. Memory only: at most four locks, for a few instructions each.
    ///
    /// # Errors
    /// [`Denial::TooManyRequests`], [`Denial::RouteBusy`], [`Denial::RouteRate`].
    pub(crate) fn enter(&self, source: IpAddr, speaks_for_many: bool) -> Result<Place, Denial> {
        // The places first: a request that finds none has used up no rate.
        let permit = match &self.places {
            None => None,
            Some(places) => Some(
                Arc::clone(places)
                    .try_acquire_owned()
                    .map_err(|_full| Denial::RouteBusy)?,
            ),
        };
        let places = self.places_of_source.as_ref().filter(|_places| !speaks_for_many);
        let share = places
            .map(|places| places.take(site(source)).ok_or(Denial::TooManyRequests))
            .transpose()?;
        let now = Instant::now();
        if let Some(sources) = &self.of_source {
            let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.spend(source, now)?;
        }
        if let Some((rate, bucket)) = &self.of_all {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            spend(&mut bucket, *rate, now)?;
        }
        Ok(Place {
            _permit: permit,
            _share: share,
        })
    }
}

impl Sources {
    /// Takes one from the budget of `source`, and from that of its site where it can have many sources. The site is asked first:
    /// one that has spent everything gets no further entries here.
    fn spend(&mut self, source: IpAddr, now: Instant) -> Result<(), Denial> {
        let has_sources = source.to_canonical().is_ipv6();
        if has_sources {
            let key = Counted::Site(site(source));
            let rate = self.rate_of(key);
            spend(self.bucket(key, now), rate, now)?;
        }
        let key = Counted::Source(network(source));
        let rate = self.rate_of(key);
        spend(self.bucket(key, now), rate, now)
    }

    fn rate_of(&self, key: Counted) -> Rate {
        match key {
            Counted::Source(_) => self.rate,
            Counted::Site(_) => self.rate.times(SITE_SHARES),
        }
    }

    fn bucket(&mut self, key: Counted, now: Instant) -> &mut Bucket {
        let is_full = self.buckets.len() >= SOURCES_MAX;
        if is_full && now.duration_since(self.searched) >= FORGET_EVERY {
            self.searched = now;
            let (usual, of_site) = (self.rate, self.rate.times(SITE_SHARES));
            self.buckets.retain(|key, bucket| {
                let is_site = matches!(key, Some(Counted::Site(_)));
                !bucket.is_full(if is_site { of_site } else { usual }, now)
            });
        }
        let is_known = self.buckets.contains_key(&Some(key)) || self.buckets.len() < SOURCES_MAX;
        let rate = self.rate_of(key);
        self.buckets
            .entry(is_known.then_some(key))
            .or_insert_with(|| Bucket::full(rate, now))
    }
}

fn spend(bucket: &mut Bucket, rate: Rate, now: Instant) -> Result<(), Denial> {
    if bucket.earn(rate, now) {
        bucket.take();
        return Ok(());
    }
    Err(Denial::RouteRate {
        retry_after_s: bucket.wait_s(rate),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 3.0,
        per_s: 0.5,
    };

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_may_send_its_burst_and_then_its_rate() {
        let gate = Gate::new(&Limits {
            source_rate: Some(RATE),
            ..Limits::default()
        });
        let refused = Denial::RouteRate { retry_after_s: 2 };
        for _request in 0..3 {
            gate.enter(source(1), false).unwrap();
        }
        assert_eq!(gate.enter(source(1), false).unwrap_err(), refused);
        gate.enter(source(2), false).unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        gate.enter(source(1), false).unwrap();
        assert_eq!(gate.enter(source(1), false).unwrap_err(), refused);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_share_the_rate_of_the_route() {
        let gate = Gate::new(&Limits {
            rate: Some(RATE),
            ..Limits::default()
        });
        let passed = (0..10)
            .filter(|number| gate.enter(source(*number), false).is_ok())
            .count();
        assert_eq!(passed, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_forgotten_when_they_have_been_quiet_and_never_without_bound() {
        let gate = Gate::new(&Limits {
            source_rate: Some(RATE),
            ..Limits::default()
        });
        let passed = |from: u32, count: u32| {
            (from..from + count)
                .filter(|number| gate.enter(source(*number), false).is_ok())
                .count()
        };
        assert_eq!(
            passed(0, 10_000),
            SOURCES_MAX + 3,
            "the rest share the budget of one"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(passed(50_000, 100), 100, "there is room again");
    }

    #[test]
    fn a_place_is_given_back_when_the_request_ends() {
        let gate = Gate::new(&Limits {
            concurrency: Some(1),
            ..Limits::default()
        });
        let place = gate.enter(source(1), false).unwrap();
        assert_eq!(gate.enter(source(2), false).unwrap_err(), Denial::RouteBusy);
        drop(place);
        gate.enter(source(2), false).unwrap();
    }

    #[test]
    fn a_source_holds_at_most_half_of_the_places_unless_the_route_says_otherwise() {
        let held = |concurrency, source_concurrency, sources: &[IpAddr]| {
            let gate = Gate::new(&Limits {
                concurrency,
                source_concurrency,
                ..Limits::default()
            });
            let enter = |number: usize| gate.enter(sources[number % sources.len()], false);
            let places: Vec<_> = (0..20).map(enter).collect();
            let refused = |denial: Denial| {
                let is_this = |place: &&Result<Place, Denial>| place.as_ref().err() == Some(&denial);
                places.iter().filter(is_this).count()
            };
            (
                20 - refused(Denial::TooManyRequests) - refused(Denial::RouteBusy),
                refused(Denial::RouteBusy),
            )
        };
        let (one, two) = (source(1), source(2));
        assert_eq!(held(Some(8), None, &[one]), (4, 0));
        assert_eq!(held(Some(7), None, &[one]), (4, 0));
        assert_eq!(held(Some(1), None, &[one]), (1, 19));
        assert_eq!(held(Some(8), None, &[one, two]), (8, 12));
        assert_eq!(held(Some(8), Some(8), &[one]), (8, 12));
        assert_eq!(held(None, Some(3), &[one, two]), (6, 0));
        assert_eq!(held(None, None, &[one]), (20, 0));
        let of_one_site: Vec<IpAddr> = (0..20_u16)
            .map(|subnet| [0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1].into())
            .collect();
        assert_eq!(
            held(Some(8), None, &of_one_site),
            (4, 0),
            "a site is one customer"
        );
    }

    #[test]
    fn a_proxy_that_speaks_for_many_may_hold_every_place() {
        let gate = Gate::new(&Limits {
            concurrency: Some(4),
            ..Limits::default()
        });
        let places: Vec<_> = (0..4)
            .map(|_request| gate.enter(source(1), true).unwrap())
            .collect();
        assert_eq!(gate.enter(source(1), true).unwrap_err(), Denial::RouteBusy);
        assert_eq!(places.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_site_has_the_rate_of_sixteen_sources_however_many_it_has() {
        let gate = Gate::new(&Limits {
            source_rate: Some(RATE),
            ..Limits::default()
        });
        let enter = |site: u16, subnet: u16| {
            let source = IpAddr::from([0x2001, 0xdb8, site, subnet, 0, 0, 0, 1]);
            gate.enter(source, false).is_ok()
        };
        let passed = (0..1_000).filter(|subnet| enter(1, *subnet)).count();
        assert_eq!(passed, 48);
        assert!(enter(2, 0), "another site");
        tokio::time::advance(Duration::from_secs(2)).await;
        let passed = (1_000..2_000).filter(|subnet| enter(1, *subnet)).count();
        assert_eq!(passed, 16);
    }
}
