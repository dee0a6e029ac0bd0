//! Circuit breaker: while Kafka does not acknowledge events, requests are rejected at once instead of each waiting for its
//! deadline.
//!
//! No I/O; the time is an argument. The breaker is open if:
//! - the oldest unacknowledged event has waited longer than [`STUCK_AFTER`], and in that time Kafka acknowledged
//!   no event before its deadline; or
//! - the last [`MISSES_MAX`] events all missed their deadline or were rejected by Kafka.
//!
//! While it is open, one event per [`PROBE_INTERVAL`] is let through; the first that is acknowledged in time closes it. An
//! acknowledged probe record, see [`Breaker::probed`], closes it on probation: the next failure opens it again. Probe
//! records go to another topic, so they prove less than an event.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// How long Kafka may acknowledge no event while events are in flight.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(1);

/// How many consecutive events may fail.
pub(crate) const MISSES_MAX: u32 = 8;

/// Interval at which an event is let through to test whether Kafka is available again.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How long no event may fail after a probe before the breaker counts as fully closed.
pub(crate) const PROBATION: Duration = Duration::from_secs(10);

/// An event that was sent to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// State of the breaker at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerSnapshot {
    pub(crate) is_open: bool,
    /// Whether `is_open` has changed since the last snapshot.
    pub(crate) has_changed: bool,
    /// How long Kafka has been unhealthy: since the breaker first opened, including the time on probation.
    pub(crate) unhealthy_for: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Breaker {
    state: Mutex<BreakerState>,
}

/// An event that is not acknowledged yet.
struct PendingEvent {
    since: Instant,
    /// When the answer to its request is due.
    deadline: Instant,
}

#[derive(Default)]
struct BreakerState {
    /// Events in flight, oldest first.
    waiting: BTreeMap<Ticket, PendingEvent>,
    next: u64,
    /// Waiting events before this one do not open the breaker: a later probe showed that Kafka answers again.
    exempt_before: u64,
    last_in_time: Option<Instant>,
    /// Failures since the last acknowledgement in time.
    misses: u32,
    last_sent: Option<Instant>,
    was_open: bool,
    /// When it opened; reset once it is fully closed.
    unhealthy_since: Option<Instant>,
    /// When a probe closed it.
    probed_at: Option<Instant>,
}

impl BreakerState {
    fn is_open(&self, now: Instant) -> bool {
        let long_ago = |time: Instant| now.saturating_duration_since(time) > STUCK_AFTER;
        let oldest = self.waiting.range(Ticket(self.exempt_before)..).next();
        let waits = oldest.is_some_and(|(_, waiting)| long_ago(waiting.since));
        (waits && self.last_in_time.is_none_or(long_ago)) || self.misses >= MISSES_MAX
    }

    fn lets_through(&self, now: Instant) -> bool {
        let probed = self.last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < PROBE_INTERVAL);
        !self.is_open(now) || !probed
    }

    /// Records since when Kafka has been unhealthy.
    fn note_health(&mut self, is_open: bool, now: Instant) {
        if is_open {
            self.unhealthy_since.get_or_insert(now);
            self.probed_at = None;
            return;
        }
        let on_probation = self.probed_at.is_some_and(|at| now.saturating_duration_since(at) < PROBATION);
        if !on_probation {
            self.unhealthy_since = None;
            self.probed_at = None;
        }
    }
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Whether a request should be read. Does not use up the probe, because the request may turn out to be unauthenticated.
    pub(crate) fn lets_through(&self, now: Instant) -> bool {
        self.state().lets_through(now)
    }

    /// Records an event that is about to be sent and whose answer is due at `deadline`; `None` if the breaker is open and
    /// the next probe is not due.
    pub(crate) fn send(&self, now: Instant, deadline: Instant) -> Option<Ticket> {
        let mut state = self.state();
        if !state.lets_through(now) {
            return None;
        }
        let ticket = Ticket(state.next);
        state.next += 1;
        state.last_sent = Some(now);
        state.waiting.insert(ticket, PendingEvent { since: now, deadline });
        Some(ticket)
    }

    /// Removes an event that was not sent, for a reason other than Kafka.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.state().waiting.remove(&ticket);
    }

    /// Records Kafka's delivery report. Returns the time since the event was sent.
    pub(crate) fn settle(&self, ticket: Ticket, persisted: bool, now: Instant) -> Duration {
        let mut state = self.state();
        let Some(PendingEvent { since, deadline }) = state.waiting.remove(&ticket) else {
            return Duration::ZERO;
        };
        match (persisted, now <= deadline) {
            (true, true) => {
                state.last_in_time = Some(now);
                state.misses = 0;
                state.probed_at = None;
            }
            (false, true) => state.misses += 1,
            // Its deadline has passed, which was already counted as a miss.
            (_, false) => {}
        }
        now.saturating_duration_since(since)
    }

    /// Records that an event's deadline passed.
    pub(crate) fn miss(&self) {
        self.state().misses += 1;
    }

    /// Records that Kafka acknowledged a probe record.
    pub(crate) fn probed(&self, now: Instant) {
        let mut state = self.state();
        if state.is_open(now) {
            state.exempt_before = state.next;
            state.misses = state.misses.min(MISSES_MAX - 1);
            state.probed_at = Some(now);
        }
    }

    /// Takes a snapshot, and updates the recorded health.
    pub(crate) fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let mut state = self.state();
        let is_open = state.is_open(now);
        let has_changed = std::mem::replace(&mut state.was_open, is_open) != is_open;
        state.note_health(is_open, now);
        let unhealthy_for = state.unhealthy_since.map(|since| now.saturating_duration_since(since));
        BreakerSnapshot { is_open, has_changed, unhealthy_for }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(2_500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn send(breaker: &Breaker, now: Instant) -> Option<Ticket> {
        breaker.send(now, now + DEADLINE)
    }

    /// Whether it is open, and whether that has changed.
    fn state(breaker: &Breaker, now: Instant) -> (bool, bool) {
        let snapshot = breaker.snapshot(now);
        (snapshot.is_open, snapshot.has_changed)
    }

    #[test]
    fn it_opens_without_acknowledgements_and_closes_with_the_first_one_in_time() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        let first = send(&breaker, t0).unwrap();
        assert!(breaker.lets_through(t0 + ms(1_000)));
        assert_eq!(state(&breaker, t0 + ms(1_000)), (false, false));
        assert_eq!(state(&breaker, t0 + ms(1_001)), (true, true));
        let probe = send(&breaker, t0 + ms(1_001)).expect("one event is let through as a probe");
        assert!(!breaker.lets_through(t0 + ms(1_100)));
        assert_eq!(send(&breaker, t0 + ms(1_100)), None);
        let second = send(&breaker, t0 + ms(1_101)).expect("another is let through after the interval");
        assert_eq!(breaker.snapshot(t0 + ms(1_101)).unhealthy_for, Some(ms(100)));
        breaker.settle(probe, true, t0 + ms(1_150));
        assert_eq!(state(&breaker, t0 + ms(1_150)), (false, true));
        assert_eq!(breaker.snapshot(t0 + ms(1_150)).unhealthy_for, None, "an acknowledged event closes it fully");
        breaker.settle(first, true, t0 + ms(1_160));
        breaker.settle(second, true, t0 + ms(1_160));
        assert_eq!(state(&breaker, t0 + ms(90_000)), (false, false));
    }

    #[test]
    fn one_stuck_partition_does_not_open_it_while_others_are_acknowledged() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        send(&breaker, t0).unwrap();
        for i in 1..50 {
            let good = send(&breaker, t0 + ms(100 * i)).unwrap();
            breaker.settle(good, true, t0 + ms(100 * i + 5));
            assert!(!breaker.snapshot(t0 + ms(100 * i + 5)).is_open);
        }
    }

    #[test]
    fn acknowledgements_that_are_always_late_keep_it_open() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        let tickets: Vec<Ticket> = (0..MISSES_MAX).map(|_| send(&breaker, t0).unwrap()).collect();
        for ticket in tickets {
            breaker.miss();
            assert_eq!(breaker.settle(ticket, true, t0 + ms(2_600)), ms(2_600));
        }
        assert!(breaker.snapshot(t0 + ms(2_600)).is_open);
        let probe = send(&breaker, t0 + ms(2_600)).unwrap();
        breaker.settle(probe, true, t0 + ms(2_610));
        assert!(!breaker.snapshot(t0 + ms(2_610)).is_open);
    }

    #[test]
    fn an_acknowledgement_after_the_deadline_counts_as_late() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        // The head and the body took two seconds and Kafka one: the answer was 503.
        let tickets: Vec<Ticket> = (0..MISSES_MAX).map(|_| breaker.send(t0, t0 + ms(500)).unwrap()).collect();
        for ticket in tickets {
            breaker.miss();
            breaker.settle(ticket, true, t0 + ms(900));
        }
        assert!(breaker.snapshot(t0 + ms(900)).is_open);
    }

    #[test]
    fn immediate_failures_open_it_but_an_unsent_event_does_not_count() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            breaker.forget(send(&breaker, t0).unwrap());
        }
        assert!(!breaker.snapshot(t0 + ms(5_000)).is_open);
        for _ in 0..MISSES_MAX {
            breaker.settle(send(&breaker, t0).unwrap(), false, t0 + ms(1));
        }
        assert!(breaker.snapshot(t0 + ms(1)).is_open);
    }

    #[test]
    fn a_probe_closes_it_and_the_next_failure_opens_it_again() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        let stuck = send(&breaker, t0).unwrap();
        for _ in 0..MISSES_MAX {
            breaker.miss();
        }
        assert_eq!(state(&breaker, t0 + ms(2_000)), (true, true));
        breaker.probed(t0 + ms(2_100));
        assert_eq!(state(&breaker, t0 + ms(2_100)), (false, true), "although the first event is still in flight");
        assert_eq!(breaker.snapshot(t0 + ms(2_200)).unhealthy_for, Some(ms(200)), "it is on probation");

        breaker.settle(send(&breaker, t0 + ms(2_300)).unwrap(), false, t0 + ms(2_310));
        assert_eq!(state(&breaker, t0 + ms(2_310)), (true, true));
        breaker.probed(t0 + ms(3_000));
        let silent = send(&breaker, t0 + ms(3_000)).unwrap();
        assert!(!breaker.snapshot(t0 + ms(4_000)).is_open);
        assert!(breaker.snapshot(t0 + ms(4_001)).is_open, "the next event has waited too long");
        assert_eq!(breaker.snapshot(t0 + ms(4_001)).unhealthy_for, Some(ms(2_001)));

        breaker.probed(t0 + ms(5_000));
        breaker.settle(silent, true, t0 + ms(5_100));
        assert_eq!(
            breaker.snapshot(t0 + ms(5_100)),
            BreakerSnapshot { is_open: false, has_changed: true, unhealthy_for: None }
        );
        breaker.settle(stuck, true, t0 + ms(5_100));
    }

    #[test]
    fn probation_ends_after_a_probe_without_further_events() {
        let (breaker, t0) = (Breaker::default(), Instant::now());
        for _ in 0..MISSES_MAX {
            breaker.miss();
        }
        assert!(breaker.snapshot(t0).is_open);
        breaker.probed(t0 + ms(100));
        assert!(breaker.snapshot(t0 + ms(100) + PROBATION - ms(1)).unhealthy_for.is_some());
        assert_eq!(breaker.snapshot(t0 + ms(100) + PROBATION).unhealthy_for, None);
    }
}
