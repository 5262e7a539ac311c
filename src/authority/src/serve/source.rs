//! Where a connection comes from, as far as that says who shares it, and how many one such place holds open.
//!
//! An address is no identity: nothing is granted by it. It only keeps one place from taking what all share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// Bits of an IPv6 address that name a network; the rest is its owner's to choose (RFC 4291 §2.5.4).
const NETWORK_BITS: u32 = 64;

/// An IPv4 address or an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source of a connection from this address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(address) => {
                let network =
                    u128::from(address) >> (u128::BITS - NETWORK_BITS) << (u128::BITS - NETWORK_BITS);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// Open connections by source. As many entries as there are connections at most.
#[derive(Clone, Default)]
pub struct Sources {
    open: Arc<Mutex<HashMap<Source, usize>>>,
}

/// A connection's place; given back when dropped.
pub struct Place {
    sources: Sources,
    source: Source,
}

impl Sources {
    /// A place for one more connection of this source, if it holds fewer than `most`.
    #[must_use]
    pub fn enter(&self, source: Source, most: usize) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = open.entry(source).or_insert(0);
        if *held >= most {
            return None;
        }
        *held += 1;
        Some(Place { sources: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.sources.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = open.get_mut(&self.source) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_network_is_one_source_and_a_mapped_address_is_its_own() {
        assert_eq!(source("[2001:db8:1:2::1]:1"), source("[2001:db8:1:2:ffff::9]:2"));
        assert_ne!(source("[2001:db8:1:2::1]:1"), source("[2001:db8:1:3::1]:1"));
        assert_eq!(source("[::ffff:192.0.2.7]:1"), source("192.0.2.7:9"));
        assert_ne!(source("192.0.2.7:1"), source("192.0.2.8:1"));
    }

    #[test]
    fn a_place_comes_back_and_nothing_is_remembered_of_who_left() {
        let sources = Sources::default();
        let (one, other) = (source("192.0.2.7:1"), source("192.0.2.8:1"));
        let first = sources.enter(one, 2).unwrap();
        let second = sources.enter(one, 2).unwrap();
        assert!(sources.enter(one, 2).is_none());
        assert!(sources.enter(other, 2).is_some(), "another source has places of its own");
        drop(first);
        let third = sources.enter(one, 2).unwrap();
        drop((second, third));
        assert!(sources.open.lock().unwrap().is_empty());
    }
}
