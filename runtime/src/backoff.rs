//! Exponential backoff with jitter.

use std::{ops::Range, time::Duration};

/// The waits between failed attempts: each is about twice the one before, up to a limit, with a jitter of ±50 %, so that
/// processes that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: Range<Duration>,
    next: Duration,
}

impl Backoff {
    /// Waits from `limits.start` to `limits.end`, before jitter.
    #[must_use]
    pub const fn new(limits: Range<Duration>) -> Self {
        let next = limits.start;
        Self { limits, next }
    }

    /// Returns the wait before the next attempt, and doubles the one after it.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.limits.end);
        jittered(wait)
    }

    /// Resets to the shortest wait, after a successful attempt.
    pub fn reset(&mut self) {
        self.next = self.limits.start;
    }
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
        }
        backoff.reset();
        assert!(backoff.next_wait() <= shortest * 3 / 2);
    }
}
