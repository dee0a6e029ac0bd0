//! Rate limits on failed authentication at the token endpoint. No I/O; the time is an argument.
//!
//! Only failures are counted: per address, per IPv6 /48, and per client id, whether or not a client with that id exists. A
//! client that has authenticated from an address is no longer limited there. Otherwise anyone who shares its address (all
//! senders do, behind a proxy that is not configured as trusted) or knows its id could keep Digital River from getting
//! tokens. Guesses with that id from that address are then bounded by the length of the secret alone.
//!
//! Memory is fixed. When there is no free entry for another key, the one with the fewest failures is overwritten, so a new
//! key is never limited by the failures of others.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use crate::http::address::network;

/// Failures per minute from one address (one IPv6 /64); also the most at once.
pub(crate) const ADDRESS_FAILURES_PER_MINUTE: u32 = 20;

/// Failures per minute from one IPv6 /48, which usually belongs to a single owner.
pub(crate) const SITE_FAILURES_PER_MINUTE: u32 = 80;

/// Failures per minute with one client id, from all addresses from which that client has never authenticated.
pub(crate) const CLIENT_FAILURES_PER_MINUTE: u32 = 60;

/// Keys of each kind that are stored.
const KEYS: usize = 4_096;

/// Entries in which a key can be stored (associativity). Of these, the one with the fewest failures is overwritten by a new
/// key.
const WAYS: usize = 4;

/// Failures of one key that have not expired yet.
#[derive(Clone, Copy, Default)]
struct FailureEntry {
    /// Hash of the key; 0 if the entry is unused.
    key: u64,
    failures: f64,
    since: Option<Instant>,
}

impl FailureEntry {
    /// Expires old failures.
    fn decay(&mut self, per_minute: u32, now: Instant) {
        let seconds = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        self.failures = (self.failures - seconds * f64::from(per_minute) / 60.0).max(0.0);
        self.since = Some(now);
    }
}

/// Failures by key.
struct Table {
    per_minute: u32,
    entries: Box<[FailureEntry]>,
}

impl Table {
    fn new(per_minute: u32) -> Self {
        Self { per_minute, entries: vec![FailureEntry::default(); KEYS].into_boxed_slice() }
    }

    fn ways(&mut self, key: u64) -> &mut [FailureEntry] {
        let set = usize::try_from(key >> 32).unwrap_or_default() % (KEYS / WAYS);
        &mut self.entries[set * WAYS..(set + 1) * WAYS]
    }

    /// Counts a failure; returns `false` without counting if the limit is reached.
    fn charge(&mut self, key: u64, now: Instant) -> bool {
        let per_minute = self.per_minute;
        let ways = self.ways(key);
        for entry in ways.iter_mut() {
            entry.decay(per_minute, now);
        }
        let existing = ways.iter().position(|entry| entry.key == key);
        let fewest = || (0..WAYS).min_by(|a, b| ways[*a].failures.total_cmp(&ways[*b].failures)).unwrap_or_default();
        let at = existing.unwrap_or_else(fewest);
        let entry = &mut ways[at];
        if entry.key != key {
            *entry = FailureEntry { key, failures: 0.0, since: Some(now) };
        }
        let allowed = entry.failures + 1.0 <= f64::from(per_minute);
        if allowed {
            entry.failures += 1.0;
        }
        allowed
    }

    fn refund(&mut self, key: u64) {
        if let Some(entry) = self.ways(key).iter_mut().find(|entry| entry.key == key) {
            entry.failures = (entry.failures - 1.0).max(0.0);
        }
    }
}

struct GuessTable {
    addresses: Table,
    sites: Table,
    clients: Table,
    /// Hashed pairs of client and address that have authenticated.
    authenticated: Box<[u64]>,
}

pub(crate) struct Guesses {
    /// Randomly keyed, so that a sender cannot choose whose entry to share.
    hasher: RandomState,
    state: Mutex<GuessTable>,
}

/// An attempt that counts as a failure until it succeeds.
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
            authenticated: vec![0; KEYS].into_boxed_slice(),
        };
        Self { hasher: RandomState::new(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, GuessTable> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Allows or rejects an attempt. An allowed one counts as a failure until [`Self::succeeded`] is called. From a known
    /// address, such as one of Digital River's, failures of others with the same client id are not considered.
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
        if state.authenticated[entry_index(pair)] == pair {
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

    /// The credentials were correct: the attempt is no longer counted as a failure.
    pub(crate) fn succeeded(&self, attempt: &CountedAttempt) {
        let mut state = self.state();
        state.refund(attempt);
        state.authenticated[entry_index(attempt.pair)] = attempt.pair;
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

fn entry_index(hash: u64) -> usize {
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
    fn guesses_from_one_address_are_limited_per_minute_across_client_ids() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let allowed: u32 = (0..100_000).map(|i| wrong(&guesses, &i.to_string(), address(1), 1, t0)).sum();
        assert_eq!(allowed, ADDRESS_FAILURES_PER_MINUTE);
        assert_eq!(wrong(&guesses, "x", address(1), 100, t0 + Duration::from_secs(6)), 2);
        let ipv6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let allowed: u32 = (0..1_000).map(|last| wrong(&guesses, "y", ipv6(last), 1, t0)).sum();
        assert_eq!(allowed, ADDRESS_FAILURES_PER_MINUTE);
    }

    #[test]
    fn an_ipv6_48_is_limited_as_a_whole_without_limiting_others() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let network = |network: u16| IpAddr::from([0x2001, 0xdb8, 7, network, 0, 0, 0, 1]);
        let allowed: u32 = (0..u16::MAX).map(|i| wrong(&guesses, &i.to_string(), network(i), 1, t0)).sum();
        assert_eq!(allowed, SITE_FAILURES_PER_MINUTE);
        // Far more addresses than there are entries, all at their limits.
        for site in 0..8_192 {
            let from = IpAddr::from([0x2001, 0xdb8, site, 1, 0, 0, 0, 1]);
            wrong(&guesses, &site.to_string(), from, ADDRESS_FAILURES_PER_MINUTE, t0);
        }
        let others = (0..=255).filter(|last| guesses.attempt("dr", address(*last), true, t0).is_some()).count();
        assert_eq!(others, 256);
    }

    #[test]
    fn guesses_with_one_client_id_are_limited_per_minute_across_addresses() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let everywhere = (0..=255).map(address);
        let allowed: u32 = everywhere.map(|from| wrong(&guesses, "dr", from, 400, t0)).sum();
        assert_eq!(allowed, CLIENT_FAILURES_PER_MINUTE);
        assert!(
            guesses.attempt("dr", IpAddr::from([198, 51, 100, 1]), true, t0).is_some(),
            "a known address is not limited"
        );
    }

    #[test]
    fn a_client_that_has_authenticated_is_not_locked_out_by_others() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let first = guesses.attempt("dr", address(1), false, t0).unwrap();
        guesses.succeeded(&first);
        for from in 2..=255 {
            wrong(&guesses, "dr", address(from), 20, t0);
        }
        assert!(guesses.attempt("dr", address(77), false, t0).is_none());
        // Another sender with the same address: behind a proxy that does not name its clients, all share one.
        wrong(&guesses, "x", address(1), 100, t0);
        assert!(guesses.attempt("x", address(1), false, t0).is_none());
        for _ in 0..1_000 {
            let again = guesses.attempt("dr", address(1), false, t0).expect("neither limit applies");
            guesses.succeeded(&again);
        }
    }
}
