//! Waits between attempts that grow, and are never the same for two processes.

use std::{ops::Range, time::Duration};

/// The waits between failed attempts: each is about twice the one before, up to a limit, and jittered by half, so that
/// processes that failed together do not try again together.
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

    /// How long to wait now; the next wait is longer.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.limits.end);
        jittered(wait)
    }

    /// An attempt succeeded: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.limits.start;
    }
}

/// From half to one and a half times `wait`.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_begin_anew_after_a_success() {
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
