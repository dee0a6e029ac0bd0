//! Known client addresses: those from which an authenticated request was received recently, and Digital River's own.
//!
//! Requests from a known address have priority when slots are scarce; they are authenticated like all others. Memory is
//! fixed. Neither a lookup nor an insertion takes a lock, because both happen for every event.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    config::{AddressRanges, DIGITAL_RIVER},
    http::{address::network, slots::Rank},
};

/// Addresses that are stored; if two share an entry, the later one replaces the earlier.
const ENTRIES: usize = 4_096;

/// Low bits of an entry: the time of the last insertion, in minutes since the start, plus one. The other bits are a hash of
/// the address.
const MINUTES_BITS: u32 = 24;

static DIGITAL_RIVER_ADDRESSES: LazyLock<AddressRanges> =
    LazyLock::new(|| AddressRanges::try_from(vec![DIGITAL_RIVER.to_owned()]).unwrap_or_default());

/// Addresses from which authenticated requests were received.
pub(crate) struct KnownAddresses {
    /// Randomly keyed, so that a sender cannot choose whose entry to replace.
    hasher: RandomState,
    start: Instant,
    /// How long an address stays known.
    lifetime: Duration,
    entries: Box<[AtomicU64]>,
}

impl KnownAddresses {
    pub(crate) fn new(lifetime: Duration, start: Instant) -> Self {
        let entries = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), start, lifetime, entries }
    }

    /// The rank of a client with this address.
    pub(crate) fn rank(&self, address: IpAddr, now: Instant) -> Rank {
        if self.contains(address, now) || DIGITAL_RIVER_ADDRESSES.contains(address) {
            Rank::KnownAddress
        } else {
            Rank::Unknown
        }
    }

    /// Notes that an authenticated request was received from an address.
    pub(crate) fn note(&self, address: IpAddr, now: Instant) {
        let (entry, tag) = self.find(address);
        let noted = tag | (self.minutes(now) + 1);
        // Written at most once a minute, so that threads do not contend for the cache line.
        if entry.load(Ordering::Relaxed) != noted {
            entry.store(noted, Ordering::Relaxed);
        }
    }

    fn contains(&self, address: IpAddr, now: Instant) -> bool {
        let (entry, tag) = self.find(address);
        let value = entry.load(Ordering::Relaxed);
        let minutes = value & mask();
        if minutes == 0 || value & !mask() != tag {
            return false;
        }
        self.minutes(now).saturating_sub(minutes - 1) < (self.lifetime.as_secs() / 60).max(1)
    }

    fn find(&self, address: IpAddr) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(network(address));
        let index = usize::try_from(hash & mask()).unwrap_or_default() % ENTRIES;
        (&self.entries[index], hash & !mask())
    }

    /// Whole minutes since the start.
    fn minutes(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.start).as_secs() / 60).min(mask() - 1)
    }
}

fn mask() -> u64 {
    (1 << MINUTES_BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_for_the_configured_time() {
        let start = Instant::now();
        let known = KnownAddresses::new(Duration::from_secs(3_600), start);
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(known.rank(address, start), Rank::Unknown);
        known.note("::ffff:192.0.2.7".parse().unwrap(), start);
        assert_eq!(known.rank(address, minutes(59)), Rank::KnownAddress);
        assert_eq!(known.rank(address, minutes(60)), Rank::Unknown);
        known.note(address, minutes(60));
        assert_eq!(known.rank(address, minutes(61)), Rank::KnownAddress);
        assert_eq!(known.rank("192.0.2.8".parse().unwrap(), minutes(61)), Rank::Unknown);
    }

    #[test]
    fn an_ipv6_address_makes_only_its_own_network_known() {
        let start = Instant::now();
        let known = KnownAddresses::new(Duration::from_secs(3_600), start);
        known.note("2001:db8:0:1::1".parse().unwrap(), start);
        assert_eq!(known.rank("2001:db8:0:1::2".parse().unwrap(), start), Rank::KnownAddress);
        assert_eq!(known.rank("2001:db8:0:2::1".parse().unwrap(), start), Rank::Unknown);
    }

    #[test]
    fn digital_rivers_addresses_are_known_from_the_start() {
        let start = Instant::now();
        let known = KnownAddresses::new(Duration::from_secs(3_600), start);
        assert_eq!(known.rank("209.87.180.3".parse().unwrap(), start), Rank::KnownAddress);
    }
}
