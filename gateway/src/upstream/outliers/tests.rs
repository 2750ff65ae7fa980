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

/// How often each address comes first in so many requests.
fn firsts(
    outliers: &Outliers,
    all: &[SocketAddr],
    requests: usize,
    now: Instant,
) -> HashMap<SocketAddr, usize> {
    let mut counts = HashMap::new();
    for _request in 0..requests {
        let order = outliers.order(UPSTREAM, all, now);
        assert_eq!(order.len(), all.len(), "every address is tried in the end");
        *counts.entry(order[0]).or_default() += 1;
    }
    counts
}

fn eject(outliers: &Outliers, all: &[SocketAddr], address: SocketAddr, now: Instant) -> bool {
    (0..RULES.failures).any(|_failure| outliers.failed(UPSTREAM, all, address, now))
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
        assert!(!outliers.failed(UPSTREAM, &all, all[1], now));
        assert!(!outliers.failed(UPSTREAM, &all, all[1], now));
        outliers.answered(UPSTREAM, all[1]);
    }
    assert!(eject(&outliers, &all, all[1], now));
    let counts = firsts(&outliers, &all, 10, now + Duration::from_secs(9));
    assert_eq!(counts, HashMap::from([(all[0], 5), (all[2], 5)]));
    assert_eq!(outliers.order(UPSTREAM, &all, now)[2], all[1], "the last resort");
    assert_eq!(outliers.counts(), (1, 1));
}

#[tokio::test]
async fn one_request_tries_it_when_its_time_is_over() {
    let (outliers, all, now) = (Outliers::new(RULES), addresses(2), Instant::now());
    assert!(eject(&outliers, &all, all[0], now));
    let over = now + Duration::from_secs(10);
    assert_eq!(outliers.order(UPSTREAM, &all, over)[0], all[0]);
    assert_eq!(
        firsts(&outliers, &all, 5, over).get(&all[0]),
        None,
        "one, not all"
    );
    // Nothing came of it: another one tries.
    let much_later = over + PROBE_MAX;
    assert_eq!(outliers.order(UPSTREAM, &all, much_later)[0], all[0]);
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
        assert_eq!(outliers.order(UPSTREAM, &all, still)[0], all[1], "{seconds}");
        // Requests that were under way make it no worse.
        assert!(!outliers.failed(UPSTREAM, &all, all[0], still));
        now += Duration::from_secs(seconds);
        assert_eq!(outliers.order(UPSTREAM, &all, now)[0], all[0], "{seconds}");
        assert!(outliers.failed(UPSTREAM, &all, all[0], now), "the probe failed");
    }
    outliers.answered(UPSTREAM, all[0]);
    assert!(eject(&outliers, &all, all[0], now));
    assert_eq!(outliers.order(UPSTREAM, &all, now + RULES.first)[0], all[0]);
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
        .map(|_request| outliers.order("other:80", &all, now)[0])
        .collect();
    assert!(order.contains(&all[0]));
}
