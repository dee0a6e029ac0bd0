//! Rate limit of a key, shared by all users of the key in the process.
//!
//! Digital River counts requests per key and second. A token bucket with a capacity of 100 ms spaces requests evenly.
//! Background jobs also pass a second bucket with their share of the rate, so that they never use the whole limit and delay
//! foreground requests. A `429` pauses all users of the key.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use riverlock_schemas::hash::Sha256Hash;

/// Unused time that may be made up for in a burst. It is small, because Digital River counts per second.
const BURST: Duration = Duration::from_millis(100);

/// One evenly spaced stream of requests.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    /// The earliest time of the next request.
    next: Instant,
}

impl Bucket {
    fn new(requests_per_second: f64, now: Instant) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / requests_per_second), next: now }
    }

    /// Takes the next slot, which is at `earliest` or later.
    fn take(&mut self, now: Instant, earliest: Instant, deadline: Instant) -> Option<Instant> {
        let mut slot = self.next.max(now.checked_sub(BURST).unwrap_or(now));
        if earliest > now {
            // Time of a pause is not made up for in a burst.
            slot = slot.max(earliest);
        }
        if slot > deadline {
            return None;
        }
        self.next = slot + self.interval;
        Some(slot.max(now))
    }
}

/// The state of one key's limit.
#[derive(Debug)]
struct BucketState {
    all: Bucket,
    background: Bucket,
    /// Until when Digital River requested a pause.
    paused_until: Option<Instant>,
}

/// The rate limit of one key. Clones share it.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Mutex<BucketState>>);

/// The rate limits of the process, by hash of the key.
static LIMITERS: LazyLock<Mutex<HashMap<Sha256Hash, Weak<Mutex<BucketState>>>>> = LazyLock::new(Mutex::default);

impl Limiter {
    /// Creates a separate limit: requests per second (at least 1) and the percentage of it that background jobs may use.
    #[must_use]
    pub fn new(requests_per_second: u32, background_percent: u32, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(BucketState::new(requests_per_second, background_percent, now))))
    }

    /// The limit of a key, shared by all users of the key in this process. The rate of the first caller applies as long as
    /// anyone uses it.
    #[must_use]
    pub fn shared(key: &str, requests_per_second: u32, background_percent: u32, now: Instant) -> Self {
        let mut limiters = lock(&LIMITERS);
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        let hash = Sha256Hash::of(key.as_bytes());
        if let Some(known) = limiters.get(&hash).and_then(Weak::upgrade) {
            return Self(known);
        }
        let limiter = Self::new(requests_per_second, background_percent, now);
        limiters.insert(hash, Arc::downgrade(&limiter.0));
        limiter
    }

    /// Takes the next slot of the rate limit and returns when it is, or `None` (and takes nothing) if that is after `deadline`.
    #[must_use]
    pub fn take(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let mut state = lock(&self.0);
        let paused = state.paused_until.unwrap_or(now);
        state.all.take(now, paused, deadline)
    }

    /// Takes the next slot of the background jobs' share in the same way. A background request waits for it before it takes
    /// a slot of the whole limit, so it never reserves a slot that others could use in the meantime.
    #[must_use]
    pub fn take_share(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        lock(&self.0).background.take(now, now, deadline)
    }

    /// Blocks all requests until `wait` after `now`.
    pub fn pause(&self, wait: Duration, now: Instant) {
        let mut state = lock(&self.0);
        let until = now + wait;
        state.paused_until = Some(state.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// The end of the pause that Digital River requested, if it is after `now`.
    #[must_use]
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        lock(&self.0).paused_until.filter(|until| *until > now)
    }
}

impl BucketState {
    fn new(requests_per_second: u32, background_percent: u32, now: Instant) -> Self {
        let rate = f64::from(requests_per_second.max(1));
        let share = f64::from(background_percent.clamp(1, 100)) / 100.0;
        Self { all: Bucket::new(rate, now), background: Bucket::new(rate * share, now), paused_until: None }
    }
}

/// Locks and ignores poisoning: no holder leaves inconsistent data behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn far(now: Instant) -> Instant {
        now + 3600 * SECOND
    }

    #[test]
    fn the_rate_is_not_exceeded_in_any_second() {
        let start = Instant::now() + SECOND;
        let limiter = Limiter::new(25, 20, start);
        let times: Vec<Instant> = (0..200).filter_map(|_| limiter.take(start, far(start))).collect();
        assert_eq!(times.len(), 200);
        for (index, time) in times.iter().enumerate() {
            let within = times[..=index].iter().filter(|earlier| **earlier > *time - SECOND).count();
            // The requests of one second, plus a burst.
            assert!(within <= 28, "{within}");
        }
    }

    #[test]
    fn background_jobs_get_only_their_share() {
        let start = Instant::now() + SECOND;
        let limiter = Limiter::new(100, 10, start);
        let share = (0..100).map_while(|_| limiter.take_share(start, start + SECOND)).count();
        assert!((10..=12).contains(&share), "{share}");
        assert_eq!(limiter.take(start, far(start)), Some(start));
    }

    #[test]
    fn a_pause_applies_to_all_users_of_the_key() {
        let now = Instant::now();
        let (one, two) = (Limiter::shared("key of a test", 10, 20, now), Limiter::shared("key of a test", 99, 20, now));
        let other = Limiter::shared("another key of a test", 10, 20, now);
        one.pause(5 * SECOND, now);
        one.pause(SECOND, now);
        assert_eq!(two.take(now, now + 4 * SECOND), None);
        assert_eq!(two.take(now, far(now)), Some(now + 5 * SECOND));
        assert!(other.take(now, now).is_some());
    }
}
