//! Knows when Kafka does not answer, so that requests are refused at once instead of each waiting for its deadline.
//!
//! Pure: the time is an argument. Open means:
//! - the oldest event that Kafka has not acknowledged waits longer than [`STUCK_AFTER`], and in that time Kafka acknowledged
//!   no event before its deadline; or
//! - the last [`MISSES_MAX`] events all missed their deadline or were not taken.
//!
//! While it is open one event per [`PROBE_INTERVAL`] is let through; the first that is acknowledged in time closes it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// How long Kafka may acknowledge nothing while events wait.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(1);

/// How many events may fail one after the other.
pub(crate) const MISSES_MAX: u32 = 8;

/// How often an event is let through to see whether Kafka is back.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// An event that was sent to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

pub(crate) struct Breaker {
    /// How long Kafka's acknowledgement may take to be in time.
    deadline: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sent and not acknowledged, oldest first.
    waiting: BTreeMap<Ticket, Instant>,
    next: u64,
    last_in_time: Option<Instant>,
    /// Failures since the last acknowledgement in time.
    misses: u32,
    last_sent: Option<Instant>,
    was_open: bool,
}

impl State {
    fn is_open(&self, now: Instant) -> bool {
        let long_ago = |time: Instant| now.saturating_duration_since(time) > STUCK_AFTER;
        let waits = self.waiting.first_key_value().is_some_and(|(_, since)| long_ago(*since));
        (waits && self.last_in_time.is_none_or(long_ago)) || self.misses >= MISSES_MAX
    }

    fn lets_through(&self, now: Instant) -> bool {
        let probed = self.last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < PROBE_INTERVAL);
        !self.is_open(now) || !probed
    }
}

impl Breaker {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { deadline, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Whether a request is worth reading. Takes no turn: one that turns out to be unsigned must not use up the probe.
    pub(crate) fn lets_through(&self, now: Instant) -> bool {
        self.state().lets_through(now)
    }

    /// Notes that an event is sent, unless the breaker is open and a probe is under way.
    pub(crate) fn send(&self, now: Instant) -> Option<Ticket> {
        let mut state = self.state();
        if !state.lets_through(now) {
            return None;
        }
        let ticket = Ticket(state.next);
        state.next += 1;
        state.last_sent = Some(now);
        state.waiting.insert(ticket, now);
        Some(ticket)
    }

    /// Notes that the event was not sent after all, for no fault of Kafka's.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.state().waiting.remove(&ticket);
    }

    /// Notes Kafka's delivery report. Returns how long it took.
    pub(crate) fn settle(&self, ticket: Ticket, persisted: bool, now: Instant) -> Duration {
        let mut state = self.state();
        let Some(sent) = state.waiting.remove(&ticket) else {
            return Duration::ZERO;
        };
        let took = now.saturating_duration_since(sent);
        match (persisted, took <= self.deadline) {
            (true, true) => {
                state.last_in_time = Some(now);
                state.misses = 0;
            }
            (false, true) => state.misses += 1,
            // Counted when its deadline passed.
            (_, false) => {}
        }
        took
    }

    /// Notes that an event's deadline passed.
    pub(crate) fn miss(&self) {
        self.state().misses += 1;
    }

    /// Whether it is open now, and whether that is news since the last look.
    pub(crate) fn look(&self, now: Instant) -> (bool, bool) {
        let mut state = self.state();
        let open = state.is_open(now);
        let changed = std::mem::replace(&mut state.was_open, open) != open;
        (open, changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(2_500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_opens_when_kafka_is_silent_and_closes_with_the_first_acknowledgement_in_time() {
        let (breaker, t0) = (Breaker::new(DEADLINE), Instant::now());
        let first = breaker.send(t0).unwrap();
        assert!(breaker.lets_through(t0 + ms(1_000)));
        assert_eq!(breaker.look(t0 + ms(1_000)), (false, false));
        assert_eq!(breaker.look(t0 + ms(1_001)), (true, true));
        let probe = breaker.send(t0 + ms(1_001)).expect("one is let through to probe");
        assert!(!breaker.lets_through(t0 + ms(1_100)));
        assert_eq!(breaker.send(t0 + ms(1_100)), None);
        let second = breaker.send(t0 + ms(1_101)).expect("and another after the interval");
        breaker.settle(probe, true, t0 + ms(1_150));
        assert_eq!(breaker.look(t0 + ms(1_150)), (false, true));
        breaker.settle(first, true, t0 + ms(1_160));
        breaker.settle(second, true, t0 + ms(1_160));
        assert_eq!(breaker.look(t0 + ms(90_000)), (false, false));
    }

    #[test]
    fn one_stuck_partition_does_not_open_it_while_others_are_acknowledged() {
        let (breaker, t0) = (Breaker::new(DEADLINE), Instant::now());
        breaker.send(t0).unwrap();
        for i in 1..50 {
            let good = breaker.send(t0 + ms(100 * i)).unwrap();
            breaker.settle(good, true, t0 + ms(100 * i + 5));
            assert!(!breaker.look(t0 + ms(100 * i + 5)).0);
        }
    }

    #[test]
    fn acknowledgements_that_are_always_late_keep_it_open() {
        let (breaker, t0) = (Breaker::new(DEADLINE), Instant::now());
        let tickets: Vec<Ticket> = (0..MISSES_MAX).map(|_| breaker.send(t0).unwrap()).collect();
        for ticket in tickets {
            breaker.miss();
            assert_eq!(breaker.settle(ticket, true, t0 + ms(2_600)), ms(2_600));
        }
        assert!(breaker.look(t0 + ms(2_600)).0);
        let probe = breaker.send(t0 + ms(2_600)).unwrap();
        breaker.settle(probe, true, t0 + ms(2_610));
        assert!(!breaker.look(t0 + ms(2_610)).0);
    }

    #[test]
    fn quick_failures_open_it_and_an_event_that_was_never_sent_does_not_count() {
        let (breaker, t0) = (Breaker::new(DEADLINE), Instant::now());
        for _ in 0..100 {
            breaker.forget(breaker.send(t0).unwrap());
        }
        assert!(!breaker.look(t0 + ms(5_000)).0);
        for _ in 0..MISSES_MAX {
            breaker.settle(breaker.send(t0).unwrap(), false, t0 + ms(1));
        }
        assert!(breaker.look(t0 + ms(1)).0);
    }
}
