//! A fixed rate of deliveries, independent of the receiver.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The largest delay that the pacer makes up for; deliveries that are later are dropped from the schedule.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Times of deliveries, one interval apart.
#[derive(Debug)]
pub(crate) struct Pacer {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pacer {
    pub(crate) fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.get(), next: Mutex::new(now) }
    }

    /// The time of the next delivery; it may have passed.
    pub(crate) fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
        let slot = (*next).max(oldest);
        *next = slot + self.interval;
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn times_are_an_interval_apart_and_old_ones_are_dropped() {
        let start = Instant::now();
        let pacer = Pacer::new(NonZeroU32::new(10).unwrap(), start);
        assert_eq!(pacer.take(start), start);
        assert_eq!(pacer.take(start), start + Duration::from_millis(100));
        let later = start + Duration::from_secs(60);
        assert_eq!(pacer.take(later), later - CATCH_UP_MAX);
    }
}
