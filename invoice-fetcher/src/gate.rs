//! When requests may be made: one gate per API key, passed by every request of every worker.
//!
//! Pure: the time is an argument. The gate spaces requests evenly (Digital River counts per second) and closes for all when
//! Digital River refuses the key, asks to wait, or is down. After a refusal or an outage one request is let through to see
//! whether it is over.
//!
//! Not here: what becomes of a document (the planner's), and any agreement with other processes (each has its share of the
//! rate by configuration).

use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// How much unused time may be caught up on in a burst. Small, because Digital River counts per second.
const BURST: Duration = Duration::from_millis(100);

/// Failures in a row after which Digital River counts as down.
const FAILURES_MAX: u32 = 10;

/// How long nothing is asked after an outage was seen: first, and at most.
const DOWN_WAIT: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(60);

/// How long nothing is asked after the key was refused: first, and at most.
const KEY_REFUSED_WAIT: Range<Duration> = Duration::from_secs(15)..Duration::from_secs(600);

/// How long the one request that looks whether it is over may take before another may look.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// Why nothing may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Digital River refuses the key.
    KeyRefused,
    /// Digital River asked to wait.
    Throttled,
    /// Digital River does not answer, or answers that it is in trouble.
    Down,
}

impl Why {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::KeyRefused, Self::Throttled, Self::Down];

    /// As in labels and texts.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::KeyRefused => "key_refused",
            Self::Throttled => "throttled",
            Self::Down => "down",
        }
    }
}

/// What an answer says about all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Digital River answers, and takes the key.
    Works,
    /// Digital River refuses the key.
    KeyRefused,
    /// Digital River wants nothing for this long.
    Throttled(Duration),
    /// Digital River did not answer, or is in trouble.
    Failed,
}

/// The gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Why.
    pub(crate) why: Why,
    /// Until when at least.
    pub(crate) until: Instant,
}

/// A request may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// At this time, if the gate is still open then.
    At(Instant),
    /// At once, to see whether the trouble is over.
    Probe,
}

/// How much work makes sense now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// None: the gate is closed.
    None,
    /// One document, to see whether the trouble is over.
    One,
    /// As much as there is.
    Full,
}

#[derive(Debug)]
struct Closure {
    why: Why,
    until: Instant,
    /// How often the trouble was still there when somebody looked.
    times: u32,
    probing: bool,
}

/// Spaces requests, and closes for all.
#[derive(Debug)]
pub(crate) struct Gate {
    interval: Duration,
    /// The earliest time of the next request.
    next: Instant,
    closure: Option<Closure>,
    /// Failures in a row.
    failures: u32,
}

impl Gate {
    /// An open gate for so many requests per second (at least 1).
    pub(crate) fn new(requests_per_second: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / requests_per_second.max(1);
        Self { interval, next: now, closure: None, failures: 0 }
    }

    /// Takes a place for one request.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Pass, Closed> {
        if let Some(closure) = &mut self.closure {
            if now < closure.until {
                return Err(Closed { why: closure.why, until: closure.until });
            }
            if closure.why != Why::Throttled {
                closure.until = now + PROBE_TIME;
                closure.probing = true;
                return Ok(Pass::Probe);
            }
            self.closure = None;
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = self.next.max(earliest);
        self.next = slot + self.interval;
        Ok(Pass::At(slot.max(now)))
    }

    /// Why nothing may be asked now, if so.
    pub(crate) fn closed(&self, now: Instant) -> Option<Closed> {
        let closure = self.closure.as_ref().filter(|closure| now < closure.until)?;
        Some(Closed { why: closure.why, until: closure.until })
    }

    /// How much work makes sense now.
    pub(crate) fn capacity(&self, now: Instant) -> Capacity {
        match &self.closure {
            None => Capacity::Full,
            Some(closure) if now < closure.until => Capacity::None,
            Some(closure) if closure.why == Why::Throttled => Capacity::Full,
            Some(_) => Capacity::One,
        }
    }

    /// What is wrong at the moment, whether or not somebody is looking if it is over.
    pub(crate) fn trouble(&self, now: Instant) -> Option<Why> {
        let closure = self.closure.as_ref()?;
        (closure.why != Why::Throttled || now < closure.until).then_some(closure.why)
    }

    /// Learns from an answer.
    pub(crate) fn report(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Works => {
                self.failures = 0;
                // An answer to an earlier request does not shorten what Digital River asked for.
                self.closure.take_if(|closure| closure.why != Why::Throttled);
            }
            Signal::KeyRefused => self.close(Why::KeyRefused, &KEY_REFUSED_WAIT, now),
            Signal::Throttled(wait) => self.throttle(now + wait),
            Signal::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES_MAX || self.closure.is_some() {
                    self.close(Why::Down, &DOWN_WAIT, now);
                }
            }
        }
    }

    /// The key is another one: a pause that the old one was to blame for is over.
    pub(crate) fn forgive_key(&mut self) {
        self.closure.take_if(|closure| closure.why == Why::KeyRefused);
    }

    fn throttle(&mut self, until: Instant) {
        match &mut self.closure {
            Some(closure) => {
                closure.until = closure.until.max(until);
                closure.probing = false;
            }
            None => self.closure = Some(Closure { why: Why::Throttled, until, times: 0, probing: false }),
        }
        // What was not asked meanwhile is not made up for in a burst.
        self.next = self.next.max(until);
    }

    fn close(&mut self, why: Why, wait: &Range<Duration>, now: Instant) {
        let times = match &mut self.closure {
            // Others that were under way say the same.
            Some(closure) if closure.why == why && !closure.probing => return,
            Some(closure) if closure.why == why => closure.times.saturating_add(1),
            // A wrong key stays wrong while the server is down.
            Some(closure) if closure.why == Why::KeyRefused => {
                closure.until = closure.until.max(now + wait.start);
                closure.probing = false;
                return;
            }
            _ => 0,
        };
        let wait = wait.start.saturating_mul(1 << times.min(16)).min(wait.end);
        self.closure = Some(Closure { why, until: now + wait, times, probing: false });
        self.next = self.next.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(gate: &mut Gate, now: Instant) -> Instant {
        match gate.admit(now).unwrap() {
            Pass::At(at) => at,
            Pass::Probe => panic!("the gate was open"),
        }
    }

    #[test]
    fn requests_are_spaced_and_a_pause_is_caught_up_on_only_a_little() {
        let start = Instant::now() + SECOND;
        let mut gate = Gate::new(25, start);
        let times: Vec<Duration> = (0..26).map(|_| at(&mut gate, start) - start).collect();
        assert_eq!((times[0], times[1], times[25]), (Duration::ZERO, SECOND / 25, SECOND));

        let later = start + 60 * SECOND;
        let burst = (0..100).filter(|_| at(&mut gate, later) == later).count();
        assert!((2..=4).contains(&burst), "{burst}");
    }

    #[test]
    fn never_more_than_the_rate_in_any_second_after_the_first_burst() {
        let start = Instant::now() + SECOND;
        let mut gate = Gate::new(250, start);
        let times: Vec<Instant> = (0..2_000).map(|i| at(&mut gate, start + Duration::from_micros(500) * i)).collect();
        for (i, time) in times.iter().enumerate().skip(1_000) {
            let within = times[..=i].iter().filter(|earlier| **earlier > *time - SECOND).count();
            assert!(within <= 251, "{within}");
        }
    }

    #[test]
    fn a_throttled_gate_is_closed_for_all_and_opens_without_a_burst() {
        let start = Instant::now() + SECOND;
        let mut gate = Gate::new(10, start);
        gate.report(Signal::Throttled(5 * SECOND), start);
        gate.report(Signal::Throttled(SECOND), start);
        gate.report(Signal::Works, start);
        assert_eq!(gate.admit(start + 4 * SECOND), Err(Closed { why: Why::Throttled, until: start + 5 * SECOND }));
        assert_eq!(gate.capacity(start + 4 * SECOND), Capacity::None);
        let open = start + 6 * SECOND;
        assert_eq!((gate.capacity(open), gate.trouble(open)), (Capacity::Full, None));
        let at_once = (0..20).filter(|_| at(&mut gate, open) == open).count();
        assert!(at_once <= 2, "{at_once}");
    }

    #[test]
    fn after_a_refused_key_one_request_at_a_time_looks_whether_it_is_over() {
        let mut now = Instant::now();
        let mut gate = Gate::new(10, now);
        for _ in 0..16 {
            gate.report(Signal::KeyRefused, now);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let closed = gate.admit(now).unwrap_err();
            assert_eq!(closed.why, Why::KeyRefused);
            waits.push((closed.until - now).as_secs());
            now = closed.until;
            assert_eq!(gate.capacity(now), Capacity::One);
            assert_eq!(gate.admit(now), Ok(Pass::Probe));
            assert!(gate.admit(now).is_err(), "only one looks");
            assert_eq!(gate.trouble(now), Some(Why::KeyRefused), "the alarm stays");
            gate.report(Signal::KeyRefused, now);
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
        now = gate.admit(now).unwrap_err().until;
        assert_eq!(gate.admit(now), Ok(Pass::Probe));
        gate.report(Signal::Works, now);
        assert_eq!((gate.capacity(now), gate.trouble(now)), (Capacity::Full, None));
    }

    #[test]
    fn a_probe_that_never_comes_back_does_not_close_the_gate_for_ever() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.report(Signal::KeyRefused, now);
        let open = gate.admit(now).unwrap_err().until;
        assert_eq!(gate.admit(open), Ok(Pass::Probe));
        assert_eq!(gate.admit(open + PROBE_TIME), Ok(Pass::Probe));
    }

    #[test]
    fn failures_in_a_row_close_the_gate_and_one_success_in_between_does_not() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        for _ in 0..FAILURES_MAX - 1 {
            gate.report(Signal::Failed, now);
        }
        gate.report(Signal::Works, now);
        gate.report(Signal::Failed, now);
        assert_eq!(gate.closed(now), None);
        for _ in 0..FAILURES_MAX {
            gate.report(Signal::Failed, now);
        }
        let closed = gate.closed(now).unwrap();
        assert_eq!((closed.why, closed.until), (Why::Down, now + DOWN_WAIT.start));
        assert_eq!(gate.admit(closed.until), Ok(Pass::Probe));
        gate.report(Signal::Failed, closed.until);
        assert_eq!(gate.closed(closed.until).unwrap().until, closed.until + 2 * DOWN_WAIT.start);
    }

    #[test]
    fn another_key_ends_the_pause_of_a_refused_one_and_no_other_pause() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.report(Signal::KeyRefused, now);
        gate.forgive_key();
        assert_eq!((gate.capacity(now), gate.trouble(now)), (Capacity::Full, None));
        gate.report(Signal::Throttled(SECOND), now);
        gate.forgive_key();
        assert_eq!(gate.trouble(now), Some(Why::Throttled));
    }

    #[test]
    fn an_outage_does_not_hide_a_refused_key() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.report(Signal::KeyRefused, now);
        for _ in 0..2 * FAILURES_MAX {
            gate.report(Signal::Failed, now);
        }
        assert_eq!(gate.trouble(now), Some(Why::KeyRefused));
    }
}
