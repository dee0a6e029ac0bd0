//! Rate limit of a key, shared by all users of the key in the process.
//!
//! Digital River counts requests per key and second. A token bucket with a capacity of 100 ms spaces requests evenly.
//! Background jobs also pass a second bucket with their share of the rate, so that they never use the whole limit and delay
//! foreground requests. A `429` pauses all users of the key. Processes do not coordinate: each has its configured share.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use riverlock_schemas::hash::Sha256Hash;
use url::Url;

/// Default share of the rate limit that background jobs may use, in percent.
pub const BACKGROUND_PERCENT: u32 = 20;

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
    /// Takes the next slot, which is at `earliest` or later. If it is after the deadline, it is returned as an error and not
    /// taken.
    fn take(&mut self, now: Instant, earliest: Instant, deadline: Instant) -> Result<Instant, Instant> {
        let mut slot = self.next.max(now.checked_sub(BURST).unwrap_or(now));
        if earliest > now {
            // Time of a pause is not made up for in a burst.
            slot = slot.max(earliest);
        }
        if slot > deadline {
            return Err(slot);
        }
        self.next = slot + self.interval;
        Ok(slot.max(now))
    }
}

/// The state of one key's limit.
#[derive(Debug)]
struct BucketState {
    requests_per_second: u32,
    background_percent: u32,
    all: Bucket,
    background: Bucket,
    /// Until when Digital River requested a pause.
    paused_until: Option<Instant>,
}

/// The rate limit of one key. Clones share it.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Mutex<BucketState>>);

/// The rate limits of the process, by hash of address and key.
static LIMITERS: LazyLock<Mutex<HashMap<Sha256Hash, Weak<Mutex<BucketState>>>>> = LazyLock::new(Mutex::default);

impl Limiter {
    /// Creates a separate limit of requests per second (at least 1).
    #[must_use]
    pub fn new(requests_per_second: u32, now: Instant) -> Self {
        let bucket = || Bucket { interval: Duration::ZERO, next: now };
        let mut state = BucketState {
            requests_per_second,
            background_percent: BACKGROUND_PERCENT,
            all: bucket(),
            background: bucket(),
            paused_until: None,
        };
        state.set_intervals();
        Self(Arc::new(Mutex::new(state)))
    }

    /// The limit of a key at a base URL, shared by all its users in this process. If they configure different rates, the lowest
    /// applies.
    #[must_use]
    pub fn shared(base: &Url, key: &str, requests_per_second: u32, now: Instant) -> Self {
        let mut limiters = lock(&LIMITERS);
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        let hash = Sha256Hash::of(format!("{base}\n{key}").as_bytes());
        if let Some(known) = limiters.get(&hash).and_then(Weak::upgrade).map(Self) {
            known.change(|state| state.requests_per_second = state.requests_per_second.min(requests_per_second));
            return known;
        }
        let limiter = Self::new(requests_per_second, now);
        limiters.insert(hash, Arc::downgrade(&limiter.0));
        limiter
    }

    /// Changes the rate for all users of the key, after their configuration has changed.
    pub fn set_rate(&self, requests_per_second: u32) {
        self.change(|state| state.requests_per_second = requests_per_second);
    }

    /// Changes the percentage of the rate that background jobs may use.
    pub fn set_background_percent(&self, percent: u32) {
        self.change(|state| state.background_percent = percent);
    }

    /// Takes the next slot of the rate limit, and returns when it is.
    ///
    /// # Errors
    /// The time of the slot if it is after `deadline`. It is not taken then.
    pub fn take(&self, now: Instant, deadline: Instant) -> Result<Instant, Instant> {
        let mut state = lock(&self.0);
        let paused = state.paused_until.unwrap_or(now);
        state.all.take(now, paused, deadline)
    }

    /// Takes the next slot of the background jobs' share in the same way. A background request waits for it before it takes
    /// a slot of the whole limit, so it never reserves a slot that others could use in the meantime.
    ///
    /// # Errors
    /// The time of the slot if it is after `deadline`. It is not taken then.
    pub fn take_share(&self, now: Instant, deadline: Instant) -> Result<Instant, Instant> {
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

    fn change(&self, change: impl FnOnce(&mut BucketState)) {
        let mut state = lock(&self.0);
        change(&mut state);
        state.set_intervals();
    }
}

impl BucketState {
    fn set_intervals(&mut self) {
        let rate = f64::from(self.requests_per_second.max(1));
        let share = f64::from(self.background_percent.clamp(1, 100)) / 100.0;
        self.all.interval = Duration::from_secs_f64(1.0 / rate);
        self.background.interval = Duration::from_secs_f64(1.0 / (rate * share));
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

    fn at(limiter: &Limiter, now: Instant) -> Instant {
        limiter.take(now, far(now)).unwrap()
    }

    #[test]
    fn requests_are_spaced_and_unused_time_allows_only_a_small_burst() {
        let start = Instant::now() + SECOND;
        let limiter = Limiter::new(25, start);
        let times: Vec<Duration> = (0..26).map(|_| at(&limiter, start) - start).collect();
        assert_eq!((times[0], times[1], times[25]), (Duration::ZERO, SECOND / 25, SECOND));

        let later = start + 60 * SECOND;
        let burst = (0..100).filter(|_| at(&limiter, later) == later).count();
        assert!((2..=4).contains(&burst), "{burst}");
    }

    #[test]
    fn the_rate_is_not_exceeded_in_any_second() {
        let start = Instant::now() + SECOND;
        for (rate, apart) in [(25, Duration::ZERO), (250, Duration::from_micros(500))] {
            let limiter = Limiter::new(rate, start);
            let times: Vec<Instant> = (0..2_000).map(|index| at(&limiter, start + apart * index)).collect();
            for (index, time) in times.iter().enumerate() {
                let within = times[..=index].iter().filter(|earlier| **earlier > *time - SECOND).count();
                // The requests of one second, plus a burst.
                assert!(within <= rate as usize * 11 / 10 + 1, "{within} of {rate}");
            }
        }
    }

    #[test]
    fn background_jobs_get_only_their_share() {
        let start = Instant::now() + SECOND;
        let limiter = Limiter::new(100, start);
        limiter.set_background_percent(10);
        let share = (0..100).map_while(|_| limiter.take_share(start, start + SECOND).ok()).count();
        assert!((10..=12).contains(&share), "{share}");
        assert_eq!(limiter.take(start, far(start)), Ok(start));
    }

    #[test]
    fn a_pause_applies_to_all_users_of_the_key_and_is_not_followed_by_a_burst() {
        let (now, base) = (Instant::now(), Url::parse("https://api.example").unwrap());
        let (one, two) = (Limiter::shared(&base, "key", 10, now), Limiter::shared(&base, "key", 99, now));
        let other_key = Limiter::shared(&base, "another key", 10, now);
        let other_base = Limiter::shared(&Url::parse("https://api2.example").unwrap(), "key", 10, now);
        one.pause(5 * SECOND, now);
        one.pause(SECOND, now);
        let end = now + 5 * SECOND;
        assert_eq!(two.take(now, now + 4 * SECOND), Err(end));
        assert_eq!(two.take(now, far(now)), Ok(end));
        assert!(other_key.take(now, now).is_ok() && other_base.take(now, now).is_ok());
        let at_once = (0..20).filter(|_| at(&one, end + SECOND) == end + SECOND).count();
        assert!(at_once <= 2, "{at_once}");
    }

    #[test]
    fn the_lowest_rate_of_a_keys_users_applies_until_it_is_changed() {
        let (now, base) = (Instant::now(), Url::parse("https://api.example").unwrap());
        let apart = |limiter: &Limiter, now: Instant| {
            let first = at(limiter, now);
            at(limiter, now) - first
        };
        let one = Limiter::shared(&base, "key of two rates", 100, now);
        assert_eq!(apart(&one, now), SECOND / 100);
        let two = Limiter::shared(&base, "key of two rates", 10, now);
        assert_eq!(apart(&one, now), SECOND / 10);
        two.set_rate(20);
        assert_eq!(apart(&one, now), SECOND / 20);
    }
}
