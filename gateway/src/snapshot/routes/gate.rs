//! May one more request take this route now? Its rate, the rate of each source, and how many are under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::rule::Limits;
use crate::denial::Denial;
use crate::rate::{Bucket, Rate};
use crate::source::network;

/// Sources told apart by one route. Further ones share one budget.
const SOURCES_MAX: usize = 8_192;
/// How often, at most, a full table is searched for sources that have been quiet.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// What a route has let through lately. It outlives a reload that leaves the route as it is.
#[derive(Debug)]
pub(crate) struct Gate {
    of_all: Option<(Rate, Mutex<Bucket>)>,
    of_source: Option<(Rate, Mutex<Sources>)>,
    places: Option<Arc<Semaphore>>,
}

#[derive(Debug)]
struct Sources {
    buckets: HashMap<Option<IpAddr>, Bucket>,
    searched: Instant,
}

/// A place among the requests under way, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// Nothing was let through yet.
    pub(super) fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let sources = || Sources {
            buckets: HashMap::new(),
            searched: now,
        };
        Self {
            of_all: limits
                .rate
                .map(|rate| (rate, Mutex::new(Bucket::full(rate, now)))),
            of_source: limits.source_rate.map(|rate| (rate, Mutex::new(sources()))),
            places: limits.concurrency.map(|count| Arc::new(Semaphore::new(count))),
        }
    }

    /// Lets one request of `source` through, or says why not. Memory only: at most two locks, for a few instructions each.
    ///
    /// # Errors
    /// [`Denial::RouteBusy`], [`Denial::RouteRate`].
    pub(crate) fn enter(&self, source: IpAddr) -> Result<Place, Denial> {
        // The place first: a request that finds none has used up no rate.
        let permit = match &self.places {
            None => None,
            Some(places) => Some(
                Arc::clone(places)
                    .try_acquire_owned()
                    .map_err(|_full| Denial::RouteBusy)?,
            ),
        };
        let now = Instant::now();
        if let Some((rate, sources)) = &self.of_source {
            let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
            spend(sources.bucket(network(source), *rate, now), *rate, now)?;
        }
        if let Some((rate, bucket)) = &self.of_all {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            spend(&mut bucket, *rate, now)?;
        }
        Ok(Place { _permit: permit })
    }
}

impl Sources {
    fn bucket(&mut self, source: IpAddr, rate: Rate, now: Instant) -> &mut Bucket {
        let is_full = self.buckets.len() >= SOURCES_MAX;
        if is_full && now.duration_since(self.searched) >= FORGET_EVERY {
            self.searched = now;
            self.buckets.retain(|_source, bucket| !bucket.is_full(rate, now));
        }
        let is_known = self.buckets.contains_key(&Some(source)) || self.buckets.len() < SOURCES_MAX;
        self.buckets
            .entry(is_known.then_some(source))
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
            gate.enter(source(1)).unwrap();
        }
        assert_eq!(gate.enter(source(1)).unwrap_err(), refused);
        gate.enter(source(2)).unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        gate.enter(source(1)).unwrap();
        assert_eq!(gate.enter(source(1)).unwrap_err(), refused);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_share_the_rate_of_the_route() {
        let gate = Gate::new(&Limits {
            rate: Some(RATE),
            ..Limits::default()
        });
        let passed = (0..10)
            .filter(|number| gate.enter(source(*number)).is_ok())
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
                .filter(|number| gate.enter(source(*number)).is_ok())
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
        let place = gate.enter(source(1)).unwrap();
        assert_eq!(gate.enter(source(2)).unwrap_err(), Denial::RouteBusy);
        drop(place);
        gate.enter(source(2)).unwrap();
    }
}
