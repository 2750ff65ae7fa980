//! Who counts as one source, and how much may one have open at the same time?

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The part of an IPv6 address that names a network: who has one address of it has all (RFC 4291 section 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

/// The part of an IPv6 address that names a site: what one customer is given at most (RFC 6177 section 2).
const SITE: u128 = !(u128::MAX >> 48);

/// What counts as one source: the address itself, or the /64 of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    masked(address, NETWORK)
}

/// What one customer may have many sources in: the address itself, or the /48 of an IPv6 address.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    masked(address, SITE)
}

fn masked(address: IpAddr, mask: u128) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & mask).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Places that sources hold: each at most so many at a time. Its size is the number of sources that hold one.
#[derive(Debug)]
pub(crate) struct Places {
    of_source_max: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    /// Nobody holds any; a source may hold `of_source_max`.
    pub(crate) fn new(of_source_max: usize) -> Arc<Self> {
        Arc::new(Self {
            of_source_max,
            held: Mutex::default(),
        })
    }

    /// Takes a place for `source`, which is a [`network`] or a [`site`]; `None` when it holds all it may. One map operation.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(source).or_default();
        if *count >= self.of_source_max {
            return None;
        }
        *count += 1;
        Some(Place {
            places: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = held.entry(self.source) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_holds_so_many_and_gives_them_back() {
        let places = Places::new(2);
        let here: IpAddr = "10.0.0.1".parse().unwrap();
        let first = places.take(here);
        let _second = places.take(network("::ffff:10.0.0.1".parse().unwrap()));
        assert!(places.take(here).is_none());
        assert!(
            places.take("10.0.0.2".parse().unwrap()).is_some(),
            "another source"
        );
        drop(first);
        assert!(places.take(here).is_some());
    }

    #[test]
    fn sources_that_hold_nothing_are_forgotten() {
        let places = Places::new(1);
        drop(places.take("2001:db8::1".parse().unwrap()));
        assert!(places.held.lock().unwrap().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_site_has_many() {
        let parsed = |text: &str| text.parse::<IpAddr>().unwrap();
        let here = parsed("2001:db8:1:2::1");
        for (other, is_network, is_site) in [
            ("2001:db8:1:2:ffff::1", true, true),
            ("2001:db8:1:ffff::1", false, true),
            ("2001:db8:2:2::1", false, false),
            ("10.0.0.1", false, false),
        ] {
            let other = parsed(other);
            assert_eq!(network(here) == network(other), is_network, "{other}");
            assert_eq!(site(here) == site(other), is_site, "{other}");
        }
        assert_ne!(site(parsed("10.0.0.1")), site(parsed("10.0.0.2")));
    }
}
