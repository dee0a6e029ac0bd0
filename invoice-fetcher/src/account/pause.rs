//! Pause of an account, for all requests of all workers with its API key.
//!
//! Pure: the time is an argument. Requests are paused when Digital River rejects the key, asks to wait, or is down. After a
//! rejected key or an outage the pause lasts until a probe, a request that is independent of queued documents, succeeds. A
//! request that is not paused waits for the key's rate limit (`riverlock_digital_river::http::limiter`).
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
const PAUSED_WAIT: Duration = Duration::from_secs(1);

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
pub(crate) struct Pause {
    /// The reason.
    pub(crate) why: PauseReason,
    /// The earliest end of the pause.
    pub(crate) until: Instant,
}

#[derive(Debug)]
struct ActivePause {
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

/// Whether the requests of an account are paused; by default they are not.
#[derive(Debug, Default)]
pub(crate) struct PauseState {
    pause: Option<ActivePause>,
}

impl PauseState {
    /// The current pause, if there is one.
    pub(crate) fn current(&self, now: Instant) -> Option<Pause> {
        let pause = self.pause.as_ref()?;
        let is_over = pause.why == PauseReason::Throttled && now >= pause.until;
        (!is_over).then(|| Pause { why: pause.why, until: pause.until.max(now + PAUSED_WAIT) })
    }

    /// Starts a probe if one is due, and returns the resource to request.
    pub(crate) fn begin_probe(&mut self, now: Instant) -> Option<Endpoint> {
        let pause = self.pause.as_mut().filter(|pause| pause.why != PauseReason::Throttled && now >= pause.until)?;
        pause.until = now + PROBE_TIME;
        pause.probing = true;
        Some(pause.endpoint)
    }

    /// The current reason for a pause, whether or not a probe is running.
    pub(crate) fn pause_reason(&self, now: Instant) -> Option<PauseReason> {
        self.current(now).map(|pause| pause.why)
    }

    /// Records a successful request that was sent at `sent`.
    pub(crate) fn record_success(&mut self, endpoint: Endpoint, sent: Instant) {
        // A success does not shorten a wait that Digital River asked for.
        self.pause
            .take_if(|pause| pause.why != PauseReason::Throttled && endpoint >= pause.endpoint && sent >= pause.since);
    }

    /// Digital River rejects the key.
    pub(crate) fn key_rejected(&mut self, endpoint: Endpoint, now: Instant) {
        self.begin(PauseReason::KeyRefused, endpoint, &KEY_REFUSED_WAIT, now);
    }

    /// Digital River is down.
    pub(crate) fn down(&mut self, endpoint: Endpoint, now: Instant) {
        self.begin(PauseReason::Down, endpoint, &DOWN_WAIT, now);
    }

    /// Digital River asks to wait until `until`.
    pub(crate) fn throttle(&mut self, until: Instant, now: Instant) {
        match &mut self.pause {
            Some(pause) => {
                pause.until = pause.until.max(until);
                pause.probing = false;
            }
            None => {
                let (why, endpoint) = (PauseReason::Throttled, Endpoint::Metadata);
                self.pause = Some(ActivePause { why, endpoint, since: now, until, times: 0, probing: false });
            }
        }
    }

    /// The key was replaced: ends a pause that the old key caused.
    pub(crate) fn key_replaced(&mut self) {
        self.pause.take_if(|pause| pause.why == PauseReason::KeyRefused);
    }

    fn begin(&mut self, why: PauseReason, endpoint: Endpoint, wait: &Range<Duration>, now: Instant) {
        let times = match &mut self.pause {
            // Other requests that were in flight have the same result.
            Some(pause) if pause.why == why && !pause.probing => return,
            Some(pause) if pause.why == why => pause.times.saturating_add(1),
            // A rejected key stays rejected during an outage.
            Some(pause) if pause.why == PauseReason::KeyRefused => {
                pause.until = pause.until.max(now + wait.start);
                pause.probing = false;
                return;
            }
            _ => 0,
        };
        let wait = wait_after(times + 1, wait);
        self.pause = Some(ActivePause { why, endpoint, since: now, until: now + wait, times, probing: false });
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
        let mut state = PauseState::default();
        state.throttle(start + 5 * SECOND, start);
        state.throttle(start + SECOND, start);
        state.record_success(CONTENT, start);
        assert_eq!(
            state.current(start + 4 * SECOND),
            Some(Pause { why: PauseReason::Throttled, until: start + 5 * SECOND })
        );
        assert_eq!(state.begin_probe(start + 4 * SECOND), None);
        let open = start + 6 * SECOND;
        assert_eq!((state.current(open), state.pause_reason(open)), (None, None));
    }

    #[test]
    fn a_rejected_key_pauses_the_account_until_a_probe_succeeds() {
        let mut now = Instant::now();
        let mut state = PauseState::default();
        for _ in 0..16 {
            state.key_rejected(CONTENT, now);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let pause = state.current(now).unwrap();
            assert_eq!(pause.why, PauseReason::KeyRefused);
            waits.push((pause.until - now).as_secs());
            now = pause.until;
            assert!(state.current(now).is_some(), "no document is requested before the probe succeeds");
            assert_eq!(state.begin_probe(now), Some(CONTENT));
            assert_eq!(state.begin_probe(now), None, "only one probe at a time");
            assert_eq!(state.pause_reason(now), Some(PauseReason::KeyRefused));
            state.key_rejected(CONTENT, now);
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
        now = state.current(now).unwrap().until;
        assert_eq!(state.begin_probe(now), Some(CONTENT));
        state.record_success(CONTENT, now);
        assert_eq!((state.current(now), state.pause_reason(now)), (None, None));
    }

    #[test]
    fn only_a_later_request_for_the_same_resource_ends_the_pause() {
        let now = Instant::now();
        let mut state = PauseState::default();
        state.down(CONTENT, now + SECOND);
        state.record_success(CONTENT, now);
        state.record_success(Endpoint::Metadata, now + 2 * SECOND);
        assert_eq!(state.pause_reason(now + 2 * SECOND), Some(PauseReason::Down));
        state.record_success(CONTENT, now + 2 * SECOND);
        assert_eq!(state.pause_reason(now + 2 * SECOND), None);
    }

    #[test]
    fn a_probe_without_a_result_is_followed_by_another() {
        let now = Instant::now();
        let mut state = PauseState::default();
        state.key_rejected(CONTENT, now);
        let open = state.current(now).unwrap().until;
        assert_eq!(state.begin_probe(open), Some(CONTENT));
        assert_eq!(state.begin_probe(open + PROBE_TIME), Some(CONTENT));
    }

    #[test]
    fn an_outage_is_probed_after_doubling_pauses() {
        let now = Instant::now();
        let mut state = PauseState::default();
        state.down(CONTENT, now);
        let pause = state.current(now).unwrap();
        assert_eq!((pause.why, pause.until), (PauseReason::Down, now + DOWN_WAIT.start));
        assert_eq!(state.begin_probe(pause.until), Some(CONTENT));
        state.down(CONTENT, pause.until);
        assert_eq!(state.current(pause.until).unwrap().until, pause.until + 2 * DOWN_WAIT.start);
    }

    #[test]
    fn a_new_key_ends_only_the_pause_of_a_rejected_key() {
        let now = Instant::now();
        let mut state = PauseState::default();
        state.key_rejected(CONTENT, now);
        state.key_replaced();
        assert_eq!((state.current(now), state.pause_reason(now)), (None, None));
        state.throttle(now + SECOND, now);
        state.key_replaced();
        assert_eq!(state.pause_reason(now), Some(PauseReason::Throttled));
    }

    #[test]
    fn an_outage_does_not_hide_a_rejected_key() {
        let now = Instant::now();
        let mut state = PauseState::default();
        state.key_rejected(CONTENT, now);
        state.down(CONTENT, now);
        assert_eq!(state.pause_reason(now), Some(PauseReason::KeyRefused));
    }
}
