//! Who counts as one source, and how much may one have open at the same time?

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The part of an IPv6 address that names a network: who has one address of it has all (RFC 4291 section 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

/// What counts as one source: the address itself, or the /64 of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
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

    /// Takes a place for `source`; `None` when it holds all it may. One map operation.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = network(source);
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
        let _second = places.take("::ffff:10.0.0.1".parse().unwrap());
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
    fn an_ipv6_network_is_one_source() {
        let places = Places::new(1);
        let _held = places.take("2001:db8::1".parse().unwrap());
        assert!(places.take("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
