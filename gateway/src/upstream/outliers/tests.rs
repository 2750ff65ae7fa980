use std::collections::HashMap;

use super::*;

const UPSTREAM: &str = "api.internal:80";
const RULES: EjectionRules = EjectionRules {
    failures: 3,
    first: Duration::from_secs(10),
    longest: Duration::from_secs(35),
};

fn addresses(count: u8) -> Vec<SocketAddr> {
    (1..=count)
        .map(|last| SocketAddr::from(([10, 0, 0, last], 80)))
        .collect()
}

/// The order where no health check says anything.
fn order(outliers: &Outliers, all: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
    outliers.order(UPSTREAM, all, |_address| false, now)
}

/// How often each address comes first in so many requests.
fn firsts(
    outliers: &Outliers,
    all: &[SocketAddr],
    requests: usize,
    now: Instant,
) -> HashMap<SocketAddr, usize> {
    let mut counts = HashMap::new();
    for _request in 0..requests {
        let order = order(outliers, all, now);
        assert_eq!(order.len(), all.len(), "every address is tried in the end");
        *counts.entry(order[0]).or_default() += 1;
    }
    counts
}

fn eject(outliers: &Outliers, all: &[SocketAddr], address: SocketAddr, now: Instant) -> bool {
    (0..RULES.failures).any(|_failure| outliers.failed(UPSTREAM, all, address, Failure::Request, now))
}

#[tokio::test]
async fn requests_take_turns() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(3), Instant::now());
    assert!(firsts(&outliers, &all, 9, now).values().all(|count| *count == 3));
}

#[tokio::test]
async fn an_address_that_fails_in_a_row_is_left_alone_and_the_others_share_its_turns() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(3), Instant::now());
    for _round in 0..5 {
        // Never three in a row.
        assert!(!outliers.failed(UPSTREAM, &all, all[1], Failure::Request, now));
        assert!(!outliers.failed(UPSTREAM, &all, all[1], Failure::Request, now));
        outliers.answered(UPSTREAM, all[1]);
    }
    assert!(eject(&outliers, &all, all[1], now));
    let counts = firsts(&outliers, &all, 10, now + Duration::from_secs(9));
    assert_eq!(counts, HashMap::from([(all[0], 5), (all[2], 5)]));
    assert_eq!(order(&outliers, &all, now)[2], all[1], "the last resort");
    assert_eq!(outliers.counts(), (1, 1));
}

#[tokio::test]
async fn one_request_tries_it_when_its_time_is_over() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(2), Instant::now());
    assert!(eject(&outliers, &all, all[0], now));
    let over = now + Duration::from_secs(10);
    assert_eq!(order(&outliers, &all, over)[0], all[0]);
    assert_eq!(
        firsts(&outliers, &all, 5, over).get(&all[0]),
        None,
        "one, not all"
    );
    // Nothing came of it: another one tries.
    let much_later = over + PROBE_MAX;
    assert_eq!(order(&outliers, &all, much_later)[0], all[0]);
    outliers.answered(UPSTREAM, all[0]);
    assert_eq!(firsts(&outliers, &all, 4, much_later)[&all[0]], 2);
    assert_eq!(outliers.counts(), (0, 1));
}

#[tokio::test]
async fn the_time_grows_up_to_a_limit_and_starts_anew_after_an_answer() {
    let (outliers, all, mut now) = (Outliers::new(RULES), addresses(2), Instant::now());
    assert!(eject(&outliers, &all, all[0], now));
    for seconds in [10, 20, 35, 35] {
        let still = now + Duration::from_millis(seconds * 1_000 - 1);
        assert_eq!(order(&outliers, &all, still)[0], all[1], "{seconds}");
        // Requests that were under way make it no worse.
        assert!(!outliers.failed(UPSTREAM, &all, all[0], Failure::Request, still));
        now += Duration::from_secs(seconds);
        assert_eq!(order(&outliers, &all, now)[0], all[0], "{seconds}");
        assert!(
            outliers.failed(UPSTREAM, &all, all[0], Failure::Request, now),
            "the probe failed"
        );
    }
    outliers.answered(UPSTREAM, all[0]);
    assert!(eject(&outliers, &all, all[0], now));
    assert_eq!(order(&outliers, &all, now + RULES.first)[0], all[0]);
}

#[tokio::test]
async fn at_most_half_are_left_alone() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let (outliers, all, now) = (Outliers::new(RULES), addresses(count), Instant::now());
        let ejected = all
            .iter()
            .filter(|address| eject(&outliers, &all, **address, now));
        assert_eq!(ejected.count(), most, "of {count}");
    }
}

#[tokio::test]
async fn what_one_upstream_does_is_not_held_against_another() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(2), Instant::now());
    assert!(eject(&outliers, &all, all[0], now));
    let order: Vec<_> = (0..2)
        .map(|_request| outliers.order("other:80", &all, |_address| false, now)[0])
        .collect();
    assert!(order.contains(&all[0]));
}

#[tokio::test]
async fn a_connection_that_ends_is_one_failure_however_many_requests_it_carried() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(2), Instant::now());
    let failed = |connection: i32| {
        let failure = Failure::Connection((connection, Some(SystemTime::UNIX_EPOCH)));
        outliers.failed(UPSTREAM, &all, all[0], failure, now)
    };
    for _round in 0..20 {
        assert!(!failed(1));
        assert!(!failed(2), "two that end at the same time");
    }
    assert!(failed(3), "the third in a row");
}

#[tokio::test]
async fn ill_addresses_are_the_last_resort_and_share_it() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(3), Instant::now());
    let firsts = |is_ill: &dyn Fn(SocketAddr) -> bool| {
        let mut firsts: Vec<_> = (0..6)
            .map(|_request| outliers.order(UPSTREAM, &all, is_ill, now))
            .map(|order| (order[0], order[2]))
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        firsts
    };
    let first_is_ill = |address: SocketAddr| address == all[0];
    assert_eq!(firsts(&first_is_ill), [(all[1], all[0]), (all[2], all[0])]);
    assert_eq!(
        firsts(&|_address| true).len(),
        3,
        "all are tried when all are ill"
    );
    assert!(eject(&outliers, &all, all[1], now));
    assert_eq!(
        firsts(&first_is_ill),
        [(all[2], all[0])],
        "what fails is still better than what is ill"
    );
    let over = now + RULES.first;
    let order = outliers.order(UPSTREAM, &all, |address| address == all[1], over);
    assert_eq!(order[2], all[1], "no request finds out about what is ill");
}

#[tokio::test]
async fn a_try_that_was_not_made_is_left_to_the_next_request() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(2), Instant::now());
    assert!(eject(&outliers, &all, all[0], now));
    let over = now + RULES.first;
    assert_eq!(order(&outliers, &all, over)[0], all[0]);
    assert_eq!(order(&outliers, &all, over)[0], all[1], "one request, not two");
    outliers.untried(UPSTREAM, all[0], over);
    assert_eq!(order(&outliers, &all, over)[0], all[0]);
    outliers.untried(UPSTREAM, all[1], over);
    assert_eq!(
        outliers.counts(),
        (1, 1),
        "one that was not left alone stays as it is"
    );
}
