//! Bounds how often credentials may be guessed at the token endpoint: pure, the time is an argument.
//!
//! Only failures count: for each address, for each /48 of IPv6, and for each client id, whether there is such a client or not.
//! A client that has proven itself from an address is not limited there any more. Otherwise anyone who shares its address (all
//! senders do, behind a proxy that is not configured as trusted) or knows its id could keep Digital River from its tokens.
//! Guesses with that id from that address are then bounded by the length of the secret alone.
//!
//! Memory is fixed. Where there is no room for another key, the one with the fewest failures is forgotten, so a newcomer is
//! never limited by what others did.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use crate::http::address::network;

/// Failures per minute from one address (from one /64 of IPv6), and how many at once.
pub(crate) const ADDRESS_FAILURES_PER_MINUTE: u32 = 20;

/// Failures per minute from one /48 of IPv6, which one owner has as a rule.
pub(crate) const SITE_FAILURES_PER_MINUTE: u32 = 80;

/// Failures per minute with one client id, from all addresses from which it never proved itself.
pub(crate) const CLIENT_FAILURES_PER_MINUTE: u32 = 60;

/// Keys of each kind that are remembered.
const KEYS: usize = 4_096;

/// Places where a key may be. Among these, the one with the fewest failures is forgotten for a new key.
const WAYS: usize = 4;

/// Failures that have not been forgotten yet.
#[derive(Clone, Copy, Default)]
struct FailureEntry {
    /// Whose failures they are; 0 for nobody's.
    key: u64,
    failures: f64,
    since: Option<Instant>,
}

impl FailureEntry {
    /// Forgets what is old.
    fn forget(&mut self, per_minute: u32, now: Instant) {
        let seconds = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        self.failures = (self.failures - seconds * f64::from(per_minute) / 60.0).max(0.0);
        self.since = Some(now);
    }
}

/// Failures by key.
struct Table {
    per_minute: u32,
    places: Box<[FailureEntry]>,
}

impl Table {
    fn new(per_minute: u32) -> Self {
        Self { per_minute, places: vec![FailureEntry::default(); KEYS].into_boxed_slice() }
    }

    fn ways(&mut self, key: u64) -> &mut [FailureEntry] {
        let set = usize::try_from(key >> 32).unwrap_or_default() % (KEYS / WAYS);
        &mut self.places[set * WAYS..(set + 1) * WAYS]
    }

    /// Counts a failure, unless there are as many as may be.
    fn charge(&mut self, key: u64, now: Instant) -> bool {
        let per_minute = self.per_minute;
        let ways = self.ways(key);
        for place in ways.iter_mut() {
            place.forget(per_minute, now);
        }
        let known = ways.iter().position(|place| place.key == key);
        let fewest = || (0..WAYS).min_by(|a, b| ways[*a].failures.total_cmp(&ways[*b].failures)).unwrap_or_default();
        let at = known.unwrap_or_else(fewest);
        let place = &mut ways[at];
        if place.key != key {
            *place = FailureEntry { key, failures: 0.0, since: Some(now) };
        }
        let allowed = place.failures + 1.0 <= f64::from(per_minute);
        if allowed {
            place.failures += 1.0;
        }
        allowed
    }

    fn refund(&mut self, key: u64) {
        if let Some(place) = self.ways(key).iter_mut().find(|place| place.key == key) {
            place.failures = (place.failures - 1.0).max(0.0);
        }
    }
}

struct GuessTable {
    addresses: Table,
    sites: Table,
    clients: Table,
    /// Pairs of client and address that have proven themselves.
    proven: Box<[u64]>,
}

pub(crate) struct Guesses {
    /// Keyed at random, so that nobody can choose whose place to share.
    hasher: RandomState,
    state: Mutex<GuessTable>,
}

/// A try that has been counted as a failure until it proves to be none.
pub(crate) struct CountedAttempt {
    address: Option<u64>,
    site: Option<u64>,
    client: Option<u64>,
    pair: u64,
}

impl Guesses {
    pub(crate) fn new() -> Self {
        let state = GuessTable {
            addresses: Table::new(ADDRESS_FAILURES_PER_MINUTE),
            sites: Table::new(SITE_FAILURES_PER_MINUTE),
            clients: Table::new(CLIENT_FAILURES_PER_MINUTE),
            proven: vec![0; KEYS].into_boxed_slice(),
        };
        Self { hasher: RandomState::new(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, GuessTable> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Allows a try, or not. One that is allowed counts as a failure until [`Self::succeeded`]. From a known address, such as
    /// one of Digital River's, what others did with the client's id does not matter.
    pub(crate) fn attempt(
        &self,
        client_id: &str,
        address: IpAddr,
        is_known: bool,
        now: Instant,
    ) -> Option<CountedAttempt> {
        let network = network(address);
        let pair = self.hasher.hash_one((client_id, network)) | 1;
        let mut state = self.state();
        if state.proven[place(pair)] == pair {
            return Some(CountedAttempt { address: None, site: None, client: None, pair });
        }
        let key = self.hasher.hash_one(network) | 1;
        if !state.addresses.charge(key, now) {
            return None;
        }
        let mut attempt = CountedAttempt { address: Some(key), site: None, client: None, pair };
        if let IpAddr::V6(address) = address.to_canonical() {
            let site = self.hasher.hash_one(address.to_bits() >> 80) | 1;
            if !state.sites.charge(site, now) {
                state.refund(&attempt);
                return None;
            }
            attempt.site = Some(site);
        }
        if !is_known {
            let client = self.hasher.hash_one(client_id) | 1;
            if !state.clients.charge(client, now) {
                state.refund(&attempt);
                return None;
            }
            attempt.client = Some(client);
        }
        Some(attempt)
    }

    /// The credentials were right: the try is no failure.
    pub(crate) fn succeeded(&self, attempt: &CountedAttempt) {
        let mut state = self.state();
        state.refund(attempt);
        state.proven[place(attempt.pair)] = attempt.pair;
    }
}

impl GuessTable {
    fn refund(&mut self, attempt: &CountedAttempt) {
        let CountedAttempt { address, site, client, .. } = *attempt;
        for (table, key) in [(&mut self.addresses, address), (&mut self.sites, site), (&mut self.clients, client)] {
            if let Some(key) = key {
                table.refund(key);
            }
        }
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or_default() % KEYS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn wrong(guesses: &Guesses, client: &str, from: IpAddr, times: u32, now: Instant) -> u32 {
        (0..times).map(|_| u32::from(guesses.attempt(client, from, false, now).is_some())).sum()
    }

    #[test]
    fn one_address_has_so_many_guesses_a_minute_whatever_it_guesses_at() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let allowed: u32 = (0..100_000).map(|i| wrong(&guesses, &i.to_string(), address(1), 1, t0)).sum();
        assert_eq!(allowed, ADDRESS_FAILURES_PER_MINUTE);
        assert_eq!(wrong(&guesses, "x", address(1), 100, t0 + Duration::from_secs(6)), 2);
        let ipv6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let allowed: u32 = (0..1_000).map(|last| wrong(&guesses, "y", ipv6(last), 1, t0)).sum();
        assert_eq!(allowed, ADDRESS_FAILURES_PER_MINUTE);
    }

    #[test]
    fn the_owner_of_a_network_of_ipv6_is_limited_as_one_and_limits_nobody_else() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let network = |network: u16| IpAddr::from([0x2001, 0xdb8, 7, network, 0, 0, 0, 1]);
        let allowed: u32 = (0..u16::MAX).map(|i| wrong(&guesses, &i.to_string(), network(i), 1, t0)).sum();
        assert_eq!(allowed, SITE_FAILURES_PER_MINUTE);
        // Far more addresses than there is room for, all at their limits.
        for site in 0..8_192 {
            let from = IpAddr::from([0x2001, 0xdb8, site, 1, 0, 0, 0, 1]);
            wrong(&guesses, &site.to_string(), from, ADDRESS_FAILURES_PER_MINUTE, t0);
        }
        let others = (0..=255).filter(|last| guesses.attempt("dr", address(*last), true, t0).is_some()).count();
        assert_eq!(others, 256);
    }

    #[test]
    fn one_client_id_has_so_many_guesses_a_minute_from_everywhere_together() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let everywhere = (0..=255).map(address);
        let allowed: u32 = everywhere.map(|from| wrong(&guesses, "dr", from, 400, t0)).sum();
        assert_eq!(allowed, CLIENT_FAILURES_PER_MINUTE);
        assert!(guesses.attempt("dr", IpAddr::from([198, 51, 100, 1]), true, t0).is_some(), "a known address goes on");
    }

    #[test]
    fn who_has_proven_itself_is_not_locked_out_by_others() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let first = guesses.attempt("dr", address(1), false, t0).unwrap();
        guesses.succeeded(&first);
        for from in 2..=255 {
            wrong(&guesses, "dr", address(from), 20, t0);
        }
        assert!(guesses.attempt("dr", address(77), false, t0).is_none());
        // Somebody with the same address: behind a proxy that names nobody all have one.
        wrong(&guesses, "x", address(1), 100, t0);
        assert!(guesses.attempt("x", address(1), false, t0).is_none());
        for _ in 0..1_000 {
            let again = guesses.attempt("dr", address(1), false, t0).expect("neither counts");
            guesses.succeeded(&again);
        }
    }
}
