//! Would a new delegation close a circle?

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Whether the edge `source -> target` would close a circle: whether `target` already leads back to `source` over at most
/// `max_hops` of the given edges.
///
/// `edges` are the live edges of the zone as (source, target). A session that delegates to itself always closes one.
/// Cost: each edge is visited at most once.
pub fn would_cycle<N: Eq + Hash>(
    edges: impl IntoIterator<Item = (N, N)>,
    source: &N,
    target: &N,
    max_hops: u32,
) -> bool {
    if source == target {
        return true;
    }
    let mut next: HashMap<N, Vec<N>> = HashMap::new();
    for (from, to) in edges {
        next.entry(from).or_default().push(to);
    }
    let mut seen: HashSet<&N> = HashSet::from([target]);
    let mut frontier: Vec<&N> = vec![target];
    for _hop in 0..max_hops {
        let mut reached: Vec<&N> = Vec::new();
        for successor in frontier.iter().filter_map(|node| next.get(*node)).flatten() {
            if successor == source {
                return true;
            }
            if seen.insert(successor) {
                reached.push(successor);
            }
        }
        if reached.is_empty() {
            return false;
        }
        frontier = reached;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_closes_a_circle() {
        let edges = [("a", "b"), ("b", "c")];
        assert!(would_cycle(edges, &"c", &"a", 10));
        assert!(would_cycle(edges, &"b", &"a", 10));
        assert!(
            !would_cycle(edges, &"a", &"c", 10),
            "a shortcut forward is no circle"
        );
        assert!(!would_cycle(edges, &"c", &"d", 10));
        assert!(would_cycle([], &"a", &"a", 0), "self-delegation");
    }

    #[test]
    fn only_ways_of_at_most_max_hops_count() {
        let edges: Vec<(u32, u32)> = (0..10).map(|node| (node, node + 1)).collect();
        assert!(would_cycle(edges.clone(), &10, &0, 10));
        assert!(!would_cycle(edges, &10, &0, 9));
    }

    #[test]
    fn an_existing_circle_elsewhere_does_not_hang_the_search() {
        assert!(!would_cycle(
            [("a", "b"), ("b", "a"), ("b", "c")],
            &"x",
            &"a",
            u32::MAX
        ));
    }
}
