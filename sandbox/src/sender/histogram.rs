//! Latencies in fixed memory: log-linear buckets, each at most a thirty-second part wide.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets for each doubling, as a power of two: 2⁵ = 32, an error of at most 3 %.
const SUB_BUCKET_BITS: u32 = 5;
const SUB_BUCKETS: u64 = 32;

/// Buckets for every value that 64 bits can hold.
const BUCKETS: usize = (64 - 5 + 1) * 32;

/// Counts durations by microseconds. Any number of threads may record at once.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    /// An empty histogram; it takes 15 kB, however much is recorded.
    pub fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(micros, Ordering::Relaxed);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The longest, exactly; zero if nothing was recorded.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max.load(Ordering::Relaxed))
    }

    /// The duration that `percent` of all recorded ones do not exceed, rounded up to its bucket's end; zero if nothing
    /// was recorded.
    pub fn percentile(&self, percent: u8) -> Duration {
        let rank = (u128::from(self.count()) * u128::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0u128;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += u128::from(bucket.load(Ordering::Relaxed));
            if seen >= rank {
                return Duration::from_micros(last_of(index)).min(self.max());
            }
        }
        self.max()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// Values below 32 have a bucket each; above, every doubling is cut into 32.
fn bucket(value: u64) -> usize {
    let index = match value.checked_ilog2() {
        Some(log) if log >= SUB_BUCKET_BITS => {
            let shift = log - SUB_BUCKET_BITS;
            u64::from(shift) * SUB_BUCKETS + (value >> shift)
        }
        _ => value,
    };
    usize::try_from(index).expect("an index is below 2048")
}

/// The greatest value of a bucket.
fn last_of(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_BUCKETS {
        return index;
    }
    let shift = index / SUB_BUCKETS - 1;
    let above = u128::from(index - shift * SUB_BUCKETS + 1) << shift;
    u64::try_from(above - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bucket_and_buckets_follow_each_other() {
        for value in (0..5_000).chain([u64::MAX, u64::MAX / 2, 1 << 40, (1 << 40) + 12_345]) {
            let index = bucket(value);
            assert!(value <= last_of(index), "{value}");
            assert!(index == 0 || last_of(index - 1) < value, "{value}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_within_three_percent() {
        let histogram = Histogram::new();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        (1..=10_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        let p50 = histogram.percentile(50).as_micros();
        let p99 = histogram.percentile(99).as_micros();
        assert!((5_000..=5_160).contains(&p50), "{p50}");
        assert!((9_900..=10_000).contains(&p99), "{p99}");
        assert_eq!(histogram.max(), Duration::from_millis(10));
        assert_eq!(histogram.count(), 10_000);
    }
}
