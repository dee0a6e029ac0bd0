//! Counters of a play in progress.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::sender::histogram::Histogram;

/// The HTTP statuses that are counted one by one: 100 to 599, and 600 for everything beyond.
const STATUS_FIRST: u16 = 100;
const STATUSES: u16 = 501;

/// Counters that only grow. Fixed memory; any number of tasks may count at once.
#[derive(Debug)]
pub struct Progress {
    pub(crate) lives_planned: AtomicU64,
    pub(crate) lives_done: AtomicU64,
    pub(crate) events_planned: AtomicU64,
    pub(crate) events_acknowledged: AtomicU64,
    pub(crate) duplicates_sent: AtomicU64,
    pub(crate) given_up: AtomicU64,
    requests_sent: AtomicU64,
    acknowledged: AtomicU64,
    timeouts: AtomicU64,
    unreachable: AtomicU64,
    refused: Box<[AtomicU64]>,
    latency: Histogram,
}

/// The counters of a [`Progress`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Orders to be played.
    pub lives_planned: u64,
    /// Orders whose events have all been delivered or have failed, except late copies.
    pub lives_done: u64,
    /// Distinct events of the lives opened so far: it grows until the last life is open.
    pub events_planned: u64,
    /// Distinct events that were acknowledged at least once.
    pub events_acknowledged: u64,
    /// Deliveries of an event beyond its first; retries are not among them.
    pub duplicates_sent: u64,
    /// Deliveries that ended without a 2xx answer.
    pub given_up: u64,
    /// Requests, retries and duplicates included.
    pub requests_sent: u64,
    /// Requests answered 2xx.
    pub acknowledged: u64,
    /// Requests answered otherwise, by status (600: anything above 599).
    pub refused: BTreeMap<u16, u64>,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Requests without a connection, or whose connection broke.
    pub unreachable: u64,
}

impl Counts {
    /// Requests answered, but not with 2xx.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Progress {
    /// All counters at 0.
    pub fn new() -> Self {
        Self {
            lives_planned: AtomicU64::new(0),
            lives_done: AtomicU64::new(0),
            events_planned: AtomicU64::new(0),
            events_acknowledged: AtomicU64::new(0),
            duplicates_sent: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            requests_sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            refused: (0..STATUSES).map(|_| AtomicU64::new(0)).collect(),
            latency: Histogram::new(),
        }
    }

    /// The present counters. They are read one by one, so that sums may be slightly inconsistent.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused = (STATUS_FIRST..).zip(&self.refused).map(|(status, counter)| (status, read(counter)));
        Counts {
            lives_planned: read(&self.lives_planned),
            lives_done: read(&self.lives_done),
            events_planned: read(&self.events_planned),
            events_acknowledged: read(&self.events_acknowledged),
            duplicates_sent: read(&self.duplicates_sent),
            given_up: read(&self.given_up),
            requests_sent: read(&self.requests_sent),
            acknowledged: read(&self.acknowledged),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            timeouts: read(&self.timeouts),
            unreachable: read(&self.unreachable),
        }
    }

    /// Time from sending a request to the head of its 2xx answer.
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }

    pub(crate) fn count_request(&self) {
        add(&self.requests_sent, 1);
    }

    pub(crate) fn count_acknowledged(&self, latency: std::time::Duration) {
        add(&self.acknowledged, 1);
        self.latency.record(latency);
    }

    pub(crate) fn count_refused(&self, status: u16) {
        let index = usize::from(status.saturating_sub(STATUS_FIRST));
        add(&self.refused[index.min(usize::from(STATUSES) - 1)], 1);
    }

    pub(crate) fn count_timeout(&self) {
        add(&self.timeouts, 1);
    }

    pub(crate) fn count_unreachable(&self) {
        add(&self.unreachable, 1);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_counted_by_status() {
        let progress = Progress::new();
        [503, 503, 302, 100, 999].into_iter().for_each(|status| progress.count_refused(status));
        let counts = progress.counts();
        assert_eq!(counts.refused, BTreeMap::from([(100, 1), (302, 1), (503, 2), (600, 1)]));
        assert_eq!(counts.refused_total(), 5);
    }
}
