//! Latencies in fixed memory, with an error of at most 1 %.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Decimal digits that a recorded duration keeps.
const DIGITS: u8 = 2;

/// The longest duration that is distinguished from longer ones, in microseconds: an hour.
const MICROS_MAX: u64 = 3_600_000_000;

/// Counts durations by microseconds. Any number of threads may record at once.
#[derive(Debug)]
pub struct Histogram(Mutex<hdrhistogram::Histogram<u64>>);

impl Histogram {
    /// An empty histogram; its memory does not grow.
    pub fn new() -> Self {
        let histogram = hdrhistogram::Histogram::new_with_max(MICROS_MAX, DIGITS);
        Self(Mutex::new(histogram.expect("the bounds are constants")))
    }

    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.lock().saturating_record(micros);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.lock().len()
    }

    /// The longest, within the error; zero if nothing was recorded.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.lock().max())
    }

    /// The duration that `percent` of all recorded ones do not exceed, within the error; zero if nothing was recorded.
    pub fn percentile(&self, percent: u8) -> Duration {
        let histogram = self.lock();
        let micros = histogram.value_at_percentile(f64::from(percent));
        Duration::from_micros(micros.min(histogram.max()))
    }

    fn lock(&self) -> MutexGuard<'_, hdrhistogram::Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_and_long_durations_are_counted() {
        let histogram = Histogram::new();
        assert_eq!((histogram.percentile(50), histogram.max()), (Duration::ZERO, Duration::ZERO));
        (1..=10_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        let p50 = histogram.percentile(50).as_micros();
        let p99 = histogram.percentile(99).as_micros();
        assert!((5_000..=5_050).contains(&p50), "{p50}");
        assert!((9_900..=10_000).contains(&p99), "{p99}");
        assert!(histogram.percentile(100) >= Duration::from_micros(9_900));
        histogram.record(Duration::MAX);
        assert_eq!(histogram.count(), 10_001);
        assert!(histogram.max() >= Duration::from_secs(3_500));
    }
}
