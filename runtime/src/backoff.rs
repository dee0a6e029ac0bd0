//! Exponential backoff with jitter.

use std::{ops::Range, time::Duration};

/// The waits between failed attempts: each is about twice the one before, up to a limit, with a jitter of ±50 %, so that
/// processes that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: Range<Duration>,
    failures: u32,
}

impl Backoff {
    /// Waits from `limits.start` to `limits.end`, before jitter.
    #[must_use]
    pub const fn new(limits: Range<Duration>) -> Self {
        Self { limits, failures: 0 }
    }

    /// Returns the wait before the next attempt, and doubles the one after it.
    pub fn next_wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        jittered(wait_after(self.failures, &self.limits))
    }

    /// Whether the latest wait was the longest one.
    #[must_use]
    pub fn is_longest(&self) -> bool {
        self.failures > 0 && wait_after(self.failures, &self.limits) == self.limits.end
    }

    /// Resets to the shortest wait, after a successful attempt.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The wait after a number of failed attempts, without jitter: `limits.start`, doubled with every further one, at most
/// `limits.end`.
#[must_use]
pub fn wait_after(failures: u32, limits: &Range<Duration>) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    limits.start.saturating_mul(factor).min(limits.end)
}

/// A random duration from 0.5 to 1.5 times `wait`.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_restart_after_a_success() {
        let (shortest, longest) = (Duration::from_millis(20), Duration::from_millis(100));
        let mut backoff = Backoff::new(shortest..longest);
        for expected in [20_u64, 40, 80, 100, 100] {
            let (wait, expected) = (backoff.next_wait(), Duration::from_millis(expected));
            assert!(wait >= expected / 2 && wait <= expected * 3 / 2, "{wait:?} for {expected:?}");
            assert_eq!(backoff.is_longest(), expected == longest);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= shortest * 3 / 2 && !backoff.is_longest());
    }

    #[test]
    fn any_number_of_failures_has_a_wait_within_the_limits() {
        let limits = Duration::from_secs(5)..Duration::from_secs(6 * 3600);
        for (failures, seconds) in
            [(0, 5), (1, 5), (2, 10), (13, 5 << 12), (14, 6 * 3600), (33, 6 * 3600), (u32::MAX, 6 * 3600)]
        {
            assert_eq!(wait_after(failures, &limits), Duration::from_secs(seconds), "{failures}");
        }
        assert_eq!(
            wait_after(u32::MAX, &(Duration::from_secs(1)..Duration::MAX)),
            Duration::from_secs(u32::MAX.into())
        );
    }
}
