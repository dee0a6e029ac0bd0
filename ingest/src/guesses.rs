//! Bounds how often credentials may be guessed at the token endpoint: pure, the time is an argument.
//!
//! Only failures count, for each address and for each client id, whether there is such a client or not. An address from
//! which a client has proven itself is not held up by other addresses' failures with its id: else anyone could keep Digital
//! River from its tokens. Memory is fixed; where two share a place, they share its bound.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

/// Failures per minute from one address (from one /64 of IPv6), and how many at once.
pub(crate) const ADDRESS_FAILURES_PER_MINUTE: u32 = 20;

/// Failures per minute with one client id, from all addresses from which it never proved itself.
pub(crate) const CLIENT_FAILURES_PER_MINUTE: u32 = 60;

/// Places of each kind.
const PLACES: usize = 4_096;

/// Failures that have not been forgotten yet.
#[derive(Clone, Copy, Default)]
struct Place {
    failures: f64,
    since: Option<Instant>,
}

impl Place {
    /// Counts one, unless there are as many as may be.
    fn charge(&mut self, per_minute: u32, now: Instant) -> bool {
        let forgotten = self
            .since
            .map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64() * f64::from(per_minute) / 60.0);
        self.failures = (self.failures - forgotten).max(0.0);
        self.since = Some(now);
        let allowed = self.failures + 1.0 <= f64::from(per_minute);
        if allowed {
            self.failures += 1.0;
        }
        allowed
    }

    fn refund(&mut self) {
        self.failures = (self.failures - 1.0).max(0.0);
    }
}

struct State {
    addresses: Box<[Place]>,
    clients: Box<[Place]>,
    /// Pairs of client and address that have proven themselves.
    proven: Box<[u64]>,
}

pub(crate) struct Guesses {
    /// Keyed at random, so that nobody can choose whose place to share.
    hasher: RandomState,
    state: Mutex<State>,
}

/// A try that has been counted as a failure until it proves to be none.
pub(crate) struct Try {
    address: usize,
    client: Option<usize>,
    pair: u64,
}

impl Guesses {
    pub(crate) fn new() -> Self {
        let places = || vec![Place::default(); PLACES].into_boxed_slice();
        let state = State { addresses: places(), clients: places(), proven: vec![0; PLACES].into_boxed_slice() };
        Self { hasher: RandomState::new(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Allows a try, or not. One that is allowed counts as a failure until [`Self::succeeded`].
    pub(crate) fn attempt(&self, client_id: &str, address: IpAddr, now: Instant) -> Option<Try> {
        let network = network(address);
        let pair = self.hasher.hash_one((client_id, network)) | 1;
        let (address, client) = (place(self.hasher.hash_one(network)), place(self.hasher.hash_one(client_id)));
        let mut state = self.state();
        if !state.addresses[address].charge(ADDRESS_FAILURES_PER_MINUTE, now) {
            return None;
        }
        let client = (state.proven[place(pair)] != pair).then_some(client);
        if client.is_some_and(|client| !state.clients[client].charge(CLIENT_FAILURES_PER_MINUTE, now)) {
            state.addresses[address].refund();
            return None;
        }
        Some(Try { address, client, pair })
    }

    /// The credentials were right: the try is no failure.
    pub(crate) fn succeeded(&self, attempt: &Try) {
        let mut state = self.state();
        state.addresses[attempt.address].refund();
        if let Some(client) = attempt.client {
            state.clients[client].refund();
        }
        state.proven[place(attempt.pair)] = attempt.pair;
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or_default() % PLACES
}

/// Who has one address of IPv6 has 2^64 of them.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // Never equal to an IPv4 address: no global prefix has 32 leading zeros.
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn wrong(guesses: &Guesses, client: &str, from: IpAddr, times: u32, now: Instant) -> u32 {
        (0..times).map(|_| u32::from(guesses.attempt(client, from, now).is_some())).sum()
    }

    #[test]
    fn one_address_has_so_many_guesses_a_minute_whatever_it_guesses_at() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let allowed: u32 = (0..100_000).map(|i| wrong(&guesses, &i.to_string(), address(1), 1, t0)).sum();
        assert!(allowed <= ADDRESS_FAILURES_PER_MINUTE && allowed > 0, "{allowed}");
        assert_eq!(wrong(&guesses, "x", address(1), 100, t0 + Duration::from_secs(6)), 2);
        let ipv6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let allowed: u32 = (0..1_000).map(|last| wrong(&guesses, "y", ipv6(last), 1, t0)).sum();
        assert!(allowed <= ADDRESS_FAILURES_PER_MINUTE, "{allowed}");
    }

    #[test]
    fn one_client_id_has_so_many_guesses_a_minute_from_everywhere_together() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let everywhere = (0..=255).map(address);
        let allowed: u32 = everywhere.map(|from| wrong(&guesses, "dr", from, 400, t0)).sum();
        assert!(allowed <= CLIENT_FAILURES_PER_MINUTE && allowed > 0, "{allowed}");
    }

    #[test]
    fn who_has_proven_itself_is_not_locked_out_by_others() {
        let (guesses, t0) = (Guesses::new(), Instant::now());
        let first = guesses.attempt("dr", address(1), t0).unwrap();
        guesses.succeeded(&first);
        for from in 2..=255 {
            wrong(&guesses, "dr", address(from), 20, t0);
        }
        for _ in 0..1_000 {
            let again = guesses.attempt("dr", address(1), t0).expect("its own successes do not count");
            guesses.succeeded(&again);
        }
        assert!(guesses.attempt("dr", address(77), t0).is_none());
    }
}
