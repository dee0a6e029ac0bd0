//! Pause of an account: all requests of all workers with one API key pass its gate, and then the key's rate limit
//! (`riverlock_digital_river::http::limiter`).
//!
//! Pure: the time is an argument. The gate pauses all requests when Digital River rejects the key, asks to wait, or is down.
//! After a rejected key or an outage the pause lasts until a probe, a request that is independent of queued documents,
//! succeeds.
//!
//! Other modules detect rejected keys and outages (`evidence.rs`, `check.rs`) and decide about documents (`plan.rs`).

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use riverlock_runtime::backoff::wait_after;

use crate::account::evidence::Endpoint;

/// Pause after an outage: initial and maximum.
const DOWN_WAIT: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(60);

/// Pause after the key was rejected: initial and maximum.
const KEY_REFUSED_WAIT: Range<Duration> = Duration::from_secs(15)..Duration::from_secs(600);

/// Time limit of a probe, after which another can start.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// Minimum wait of a document when the account is paused.
const CLOSED_WAIT: Duration = Duration::from_secs(1);

/// The reason for a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// Digital River rejects the key.
    KeyRefused,
    /// Digital River asked to wait.
    Throttled,
    /// Digital River does not answer, or with server errors.
    Down,
}

impl PauseReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 3] = [Self::KeyRefused, Self::Throttled, Self::Down];

    /// The name in metric labels and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::KeyRefused => "key_refused",
            Self::Throttled => "throttled",
            Self::Down => "down",
        }
    }
}

/// The account is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GateClosure {
    /// The reason.
    pub(crate) why: PauseReason,
    /// The earliest end of the pause.
    pub(crate) until: Instant,
}

#[derive(Debug)]
struct Closure {
    why: PauseReason,
    /// The resource whose request must succeed before the pause ends.
    endpoint: Endpoint,
    /// Start of the pause. Successes of requests that were sent earlier do not end it.
    since: Instant,
    until: Instant,
    /// Number of checks that confirmed the reason.
    times: u32,
    probing: bool,
}

/// Pauses all requests of an account. Open by default.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closure: Option<Closure>,
}

impl Gate {
    /// The current pause, if there is one.
    pub(crate) fn closed(&self, now: Instant) -> Option<GateClosure> {
        let closure = self.closure.as_ref()?;
        let is_over = closure.why == PauseReason::Throttled && now >= closure.until;
        (!is_over).then(|| GateClosure { why: closure.why, until: closure.until.max(now + CLOSED_WAIT) })
    }

    /// Starts a probe if one is due, and returns the resource to request.
    pub(crate) fn begin_probe(&mut self, now: Instant) -> Option<Endpoint> {
        let closure =
            self.closure.as_mut().filter(|closure| closure.why != PauseReason::Throttled && now >= closure.until)?;
        closure.until = now + PROBE_TIME;
        closure.probing = true;
        Some(closure.endpoint)
    }

    /// The current reason for a pause, whether or not a probe is running.
    pub(crate) fn pause_reason(&self, now: Instant) -> Option<PauseReason> {
        self.closed(now).map(|closed| closed.why)
    }

    /// Records a successful request that was sent at `sent`.
    pub(crate) fn record_success(&mut self, endpoint: Endpoint, sent: Instant) {
        // A success does not shorten a wait that Digital River asked for.
        self.closure.take_if(|closure| {
            closure.why != PauseReason::Throttled && endpoint >= closure.endpoint && sent >= closure.since
        });
    }

    /// Digital River rejects the key.
    pub(crate) fn key_rejected(&mut self, endpoint: Endpoint, now: Instant) {
        self.close(PauseReason::KeyRefused, endpoint, &KEY_REFUSED_WAIT, now);
    }

    /// Digital River is down.
    pub(crate) fn down(&mut self, endpoint: Endpoint, now: Instant) {
        self.close(PauseReason::Down, endpoint, &DOWN_WAIT, now);
    }

    /// Digital River asks to wait until `until`.
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
    }

    /// The key was replaced: ends a pause that the old key caused.
    pub(crate) fn key_replaced(&mut self) {
        self.closure.take_if(|closure| closure.why == PauseReason::KeyRefused);
    }

    fn close(&mut self, why: PauseReason, endpoint: Endpoint, wait: &Range<Duration>, now: Instant) {
        let times = match &mut self.closure {
            // Other requests that were in flight have the same result.
            Some(closure) if closure.why == why && !closure.probing => return,
            Some(closure) if closure.why == why => closure.times.saturating_add(1),
            // A rejected key stays rejected during an outage.
            Some(closure) if closure.why == PauseReason::KeyRefused => {
                closure.until = closure.until.max(now + wait.start);
                closure.probing = false;
                return;
            }
            _ => 0,
        };
        let wait = wait_after(times + 1, wait);
        self.closure = Some(Closure { why, endpoint, since: now, until: now + wait, times, probing: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const CONTENT: Endpoint = Endpoint::Content;

    #[test]
    fn a_throttled_account_is_paused_for_the_requested_time() {
        let start = Instant::now() + SECOND;
        let mut gate = Gate::default();
        gate.throttle(start + 5 * SECOND, start);
        gate.throttle(start + SECOND, start);
        gate.record_success(CONTENT, start);
        assert_eq!(
            gate.closed(start + 4 * SECOND),
            Some(GateClosure { why: PauseReason::Throttled, until: start + 5 * SECOND })
        );
        assert_eq!(gate.begin_probe(start + 4 * SECOND), None);
        let open = start + 6 * SECOND;
        assert_eq!((gate.closed(open), gate.pause_reason(open)), (None, None));
    }

    #[test]
    fn a_rejected_key_pauses_the_account_until_a_probe_succeeds() {
        let mut now = Instant::now();
        let mut gate = Gate::default();
        for _ in 0..16 {
            gate.key_rejected(CONTENT, now);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let closed = gate.closed(now).unwrap();
            assert_eq!(closed.why, PauseReason::KeyRefused);
            waits.push((closed.until - now).as_secs());
            now = closed.until;
            assert!(gate.closed(now).is_some(), "no document is requested before the probe succeeds");
            assert_eq!(gate.begin_probe(now), Some(CONTENT));
            assert_eq!(gate.begin_probe(now), None, "only one probe at a time");
            assert_eq!(gate.pause_reason(now), Some(PauseReason::KeyRefused));
            gate.key_rejected(CONTENT, now);
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
        now = gate.closed(now).unwrap().until;
        assert_eq!(gate.begin_probe(now), Some(CONTENT));
        gate.record_success(CONTENT, now);
        assert_eq!((gate.closed(now), gate.pause_reason(now)), (None, None));
    }

    #[test]
    fn only_a_later_request_for_the_same_resource_ends_the_pause() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.down(CONTENT, now + SECOND);
        gate.record_success(CONTENT, now);
        gate.record_success(Endpoint::Metadata, now + 2 * SECOND);
        assert_eq!(gate.pause_reason(now + 2 * SECOND), Some(PauseReason::Down));
        gate.record_success(CONTENT, now + 2 * SECOND);
        assert_eq!(gate.pause_reason(now + 2 * SECOND), None);
    }

    #[test]
    fn a_probe_without_a_result_is_followed_by_another() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.key_rejected(CONTENT, now);
        let open = gate.closed(now).unwrap().until;
        assert_eq!(gate.begin_probe(open), Some(CONTENT));
        assert_eq!(gate.begin_probe(open + PROBE_TIME), Some(CONTENT));
    }

    #[test]
    fn an_outage_is_probed_after_doubling_pauses() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.down(CONTENT, now);
        let closed = gate.closed(now).unwrap();
        assert_eq!((closed.why, closed.until), (PauseReason::Down, now + DOWN_WAIT.start));
        assert_eq!(gate.begin_probe(closed.until), Some(CONTENT));
        gate.down(CONTENT, closed.until);
        assert_eq!(gate.closed(closed.until).unwrap().until, closed.until + 2 * DOWN_WAIT.start);
    }

    #[test]
    fn a_new_key_ends_only_the_pause_of_a_rejected_key() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.key_rejected(CONTENT, now);
        gate.key_replaced();
        assert_eq!((gate.closed(now), gate.pause_reason(now)), (None, None));
        gate.throttle(now + SECOND, now);
        gate.key_replaced();
        assert_eq!(gate.pause_reason(now), Some(PauseReason::Throttled));
    }

    #[test]
    fn an_outage_does_not_hide_a_rejected_key() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.key_rejected(CONTENT, now);
        gate.down(CONTENT, now);
        assert_eq!(gate.pause_reason(now), Some(PauseReason::KeyRefused));
    }
}
