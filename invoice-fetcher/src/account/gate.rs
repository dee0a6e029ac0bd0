//! When requests may be made: one gate per API key, passed by every request of every worker.
//!
//! Pure: the time is an argument. The gate spaces requests evenly (Digital River counts per second) and closes for all when
//! Digital River refuses the key, asks to wait, or is down. After a refusal or an outage it stays closed until a probe, a
//! request that has nothing to do with any queued document, has found that it is over.
//!
//! Not here: what proves a refusal or an outage (`evidence.rs`, `check.rs`), what becomes of a document (the planner's), and
//! any agreement with other processes (each has its share of the rate by configuration).

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::account::evidence::Endpoint;

/// How much unused time may be caught up on in a burst. Small, because Digital River counts per second.
const BURST: Duration = Duration::from_millis(100);

/// How long nothing is asked after an outage was seen: first, and at most.
const DOWN_WAIT: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(60);

/// How long nothing is asked after the key was refused: first, and at most.
const KEY_REFUSED_WAIT: Range<Duration> = Duration::from_secs(15)..Duration::from_secs(600);

/// How long a probe may take before another may begin.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// How long a document waits at least that meets a closed gate.
const CLOSED_WAIT: Duration = Duration::from_secs(1);

/// Why nothing may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// Digital River refuses the key.
    KeyRefused,
    /// Digital River asked to wait.
    Throttled,
    /// Digital River does not answer, or answers that it is in trouble.
    Down,
}

impl PauseReason {
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

/// The gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GateClosure {
    /// Why.
    pub(crate) why: PauseReason,
    /// Until when at least.
    pub(crate) until: Instant,
}

#[derive(Debug)]
struct Closure {
    why: PauseReason,
    /// What has to work before the gate opens.
    endpoint: Endpoint,
    /// Since when this trouble is known: requests that were sent earlier and worked prove nothing.
    since: Instant,
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
}

impl Gate {
    /// An open gate for so many requests per second (at least 1).
    pub(crate) fn new(requests_per_second: u32, now: Instant) -> Self {
        Self { interval: interval(requests_per_second), next: now, closure: None }
    }

    /// Allows another number of requests per second (at least 1) from now on.
    pub(crate) fn set_rate(&mut self, requests_per_second: u32) {
        self.interval = interval(requests_per_second);
    }

    /// Takes a place for one request, and says when it may be made if the gate is still open then.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Instant, GateClosure> {
        if let Some(closed) = self.closed(now) {
            return Err(closed);
        }
        self.closure = None;
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = self.next.max(earliest);
        self.next = slot + self.interval;
        Ok(slot.max(now))
    }

    /// Why nothing may be asked now, if so.
    pub(crate) fn closed(&self, now: Instant) -> Option<GateClosure> {
        let closure = self.closure.as_ref()?;
        let is_over = closure.why == PauseReason::Throttled && now >= closure.until;
        (!is_over).then(|| GateClosure { why: closure.why, until: closure.until.max(now + CLOSED_WAIT) })
    }

    /// Takes the turn to look whether the trouble is over, if somebody should look now. Says at what to look.
    pub(crate) fn begin_probe(&mut self, now: Instant) -> Option<Endpoint> {
        let closure =
            self.closure.as_mut().filter(|closure| closure.why != PauseReason::Throttled && now >= closure.until)?;
        closure.until = now + PROBE_TIME;
        closure.probing = true;
        Some(closure.endpoint)
    }

    /// What is wrong at the moment, whether or not somebody is looking if it is over.
    pub(crate) fn trouble(&self, now: Instant) -> Option<PauseReason> {
        self.closed(now).map(|closed| closed.why)
    }

    /// A request that was sent at a time worked.
    pub(crate) fn works(&mut self, endpoint: Endpoint, sent: Instant) {
        // It does not shorten what Digital River asked for.
        self.closure.take_if(|closure| {
            closure.why != PauseReason::Throttled && endpoint >= closure.endpoint && sent >= closure.since
        });
    }

    /// Digital River refuses the key.
    pub(crate) fn refuse_key(&mut self, endpoint: Endpoint, now: Instant) {
        self.close(PauseReason::KeyRefused, endpoint, &KEY_REFUSED_WAIT, now);
    }

    /// Digital River is down.
    pub(crate) fn down(&mut self, endpoint: Endpoint, now: Instant) {
        self.close(PauseReason::Down, endpoint, &DOWN_WAIT, now);
    }

    /// Digital River wants nothing until this time.
    pub(crate) fn throttle(&mut self, until: Instant, now: Instant) {
        match &mut self.closure {
            Some(closure) => {
                closure.until = closure.until.max(until);
                closure.probing = false;
            }
            None => {
                let (why, endpoint) = (PauseReason::Throttled, Endpoint::Metadata);
                self.closure = Some(Closure { why, endpoint, since: now, until, times: 0, probing: false });
            }
        }
        // What was not asked meanwhile is not made up for in a burst.
        self.next = self.next.max(until);
    }

    /// The key is another one: a pause that the old one was to blame for is over.
    pub(crate) fn forgive_key(&mut self) {
        self.closure.take_if(|closure| closure.why == PauseReason::KeyRefused);
    }

    fn close(&mut self, why: PauseReason, endpoint: Endpoint, wait: &Range<Duration>, now: Instant) {
        let times = match &mut self.closure {
            // Others that were under way say the same.
            Some(closure) if closure.why == why && !closure.probing => return,
            Some(closure) if closure.why == why => closure.times.saturating_add(1),
            // A wrong key stays wrong while the server is down.
            Some(closure) if closure.why == PauseReason::KeyRefused => {
                closure.until = closure.until.max(now + wait.start);
                closure.probing = false;
                return;
            }
            _ => 0,
        };
        let wait = wait.start.saturating_mul(1 << times.min(16)).min(wait.end);
        self.closure = Some(Closure { why, endpoint, since: now, until: now + wait, times, probing: false });
        self.next = self.next.max(now);
    }
}

fn interval(requests_per_second: u32) -> Duration {
    Duration::from_secs(1) / requests_per_second.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const CONTENT: Endpoint = Endpoint::Content;

    fn at(gate: &mut Gate, now: Instant) -> Instant {
        gate.admit(now).unwrap()
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
        gate.throttle(start + 5 * SECOND, start);
        gate.throttle(start + SECOND, start);
        gate.works(CONTENT, start);
        assert_eq!(
            gate.admit(start + 4 * SECOND),
            Err(GateClosure { why: PauseReason::Throttled, until: start + 5 * SECOND })
        );
        assert_eq!(gate.begin_probe(start + 4 * SECOND), None);
        let open = start + 6 * SECOND;
        assert_eq!((gate.closed(open), gate.trouble(open)), (None, None));
        let at_once = (0..20).filter(|_| at(&mut gate, open) == open).count();
        assert!(at_once <= 2, "{at_once}");
    }

    #[test]
    fn a_refused_key_closes_the_gate_until_a_probe_works_and_the_alarm_stays_meanwhile() {
        let mut now = Instant::now();
        let mut gate = Gate::new(10, now);
        for _ in 0..16 {
            gate.refuse_key(CONTENT, now);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let closed = gate.closed(now).unwrap();
            assert_eq!(closed.why, PauseReason::KeyRefused);
            waits.push((closed.until - now).as_secs());
            now = closed.until;
            assert!(gate.admit(now).is_err(), "no document is asked for before the probe has worked");
            assert_eq!(gate.begin_probe(now), Some(CONTENT));
            assert_eq!(gate.begin_probe(now), None, "only one looks");
            assert_eq!(gate.trouble(now), Some(PauseReason::KeyRefused));
            gate.refuse_key(CONTENT, now);
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
        now = gate.closed(now).unwrap().until;
        assert_eq!(gate.begin_probe(now), Some(CONTENT));
        gate.works(CONTENT, now);
        assert_eq!((gate.closed(now), gate.trouble(now)), (None, None));
    }

    #[test]
    fn only_what_was_sent_after_the_gate_closed_and_asked_for_as_much_opens_it() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.down(CONTENT, now + SECOND);
        gate.works(CONTENT, now);
        gate.works(Endpoint::Metadata, now + 2 * SECOND);
        assert_eq!(gate.trouble(now + 2 * SECOND), Some(PauseReason::Down));
        gate.works(CONTENT, now + 2 * SECOND);
        assert_eq!(gate.trouble(now + 2 * SECOND), None);
    }

    #[test]
    fn a_probe_that_never_comes_back_does_not_close_the_gate_for_ever() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.refuse_key(CONTENT, now);
        let open = gate.closed(now).unwrap().until;
        assert_eq!(gate.begin_probe(open), Some(CONTENT));
        assert_eq!(gate.begin_probe(open + PROBE_TIME), Some(CONTENT));
    }

    #[test]
    fn an_outage_is_looked_at_again_after_pauses_that_double() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.down(CONTENT, now);
        let closed = gate.closed(now).unwrap();
        assert_eq!((closed.why, closed.until), (PauseReason::Down, now + DOWN_WAIT.start));
        assert_eq!(gate.begin_probe(closed.until), Some(CONTENT));
        gate.down(CONTENT, closed.until);
        assert_eq!(gate.closed(closed.until).unwrap().until, closed.until + 2 * DOWN_WAIT.start);
    }

    #[test]
    fn another_key_ends_the_pause_of_a_refused_one_and_no_other_pause() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.refuse_key(CONTENT, now);
        gate.forgive_key();
        assert_eq!((gate.closed(now), gate.trouble(now)), (None, None));
        gate.throttle(now + SECOND, now);
        gate.forgive_key();
        assert_eq!(gate.trouble(now), Some(PauseReason::Throttled));
    }

    #[test]
    fn an_outage_does_not_hide_a_refused_key() {
        let now = Instant::now();
        let mut gate = Gate::new(10, now);
        gate.refuse_key(CONTENT, now);
        gate.down(CONTENT, now);
        assert_eq!(gate.trouble(now), Some(PauseReason::KeyRefused));
    }
}
