//! Rate limits for log lines that unauthenticated clients can cause: a limited number per second of each kind is written,
//! the others are counted.
//!
//! Each kind has its own limit, so that a flood of one kind does not suppress lines of another.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::metrics::{Outcome, PROCESS};

/// Most lines of one kind per second.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 5;

/// After this time, the number of suppressed lines is logged even without another line of the same kind.
const UNREPORTED_MAX: Duration = Duration::from_secs(10);

/// The subject of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A delivery that was not answered with 202.
    Request(Outcome),
    /// An authenticated request with an oddity, which was stored.
    Odd,
    /// A stored event of a mode that its endpoint does not expect.
    Mode,
    /// A rejected token request.
    Token,
    /// A connection that was closed or could not be accepted.
    Connection,
}

/// Descriptions of the kinds other than [`Kind::Request`].
const OTHERS: [&str; 4] = ["odd requests", "events of an unexpected mode", "token requests", "connections"];

impl Kind {
    fn index(self) -> usize {
        let others = Outcome::ALL.len();
        match self {
            Self::Request(outcome) => outcome as usize,
            Self::Odd => others,
            Self::Mode => others + 1,
            Self::Token => others + 2,
            Self::Connection => others + 3,
        }
    }
}

/// The description of the kind with this index.
fn subject(index: usize) -> &'static str {
    let outcome = Outcome::ALL.get(index).map(|outcome| outcome.as_str());
    outcome.unwrap_or_else(|| OTHERS[index - Outcome::ALL.len()])
}

#[derive(Clone, Copy, Default)]
struct FloodState {
    second: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl FloodState {
    /// `None` if the line is suppressed, else the number of lines suppressed since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let same = self.second.is_some_and(|begin| now.saturating_duration_since(begin) < Duration::from_secs(1));
        if !same {
            self.second = Some(now);
            self.written = 0;
        }
        if self.written >= LINES_PER_SECOND_MAX {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Rate limiter for the log lines of the service.
pub(crate) struct Floods(Mutex<Vec<FloodState>>);

impl Default for Floods {
    fn default() -> Self {
        Self(Mutex::new(vec![FloodState::default(); Outcome::ALL.len() + OTHERS.len()]))
    }
}

impl Floods {
    fn states(&self) -> MutexGuard<'_, Vec<FloodState>> {
        self.0.lock().expect("no code panics while it holds the states")
    }

    /// Calls `write`, unless the limit of this kind is reached for this second.
    pub(crate) fn warn(&self, kind: Kind, write: impl FnOnce()) {
        let admitted = self.states()[kind.index()].admit(Instant::now());
        match admitted {
            Some(suppressed) => {
                log_count(kind.index(), suppressed);
                write();
            }
            None => PROCESS.log_lines_suppressed.increment(1),
        }
    }

    /// Logs how many lines were suppressed, for kinds without a line since [`UNREPORTED_MAX`]. Must be called regularly.
    pub(crate) fn log_suppressed(&self) {
        for (index, suppressed) in self.unreported(Instant::now()) {
            log_count(index, suppressed);
        }
    }

    fn unreported(&self, now: Instant) -> Vec<(usize, u64)> {
        let mut states = self.states();
        let due = |state: &FloodState| {
            let waited = |second| now.saturating_duration_since(second) >= UNREPORTED_MAX;
            state.suppressed > 0 && state.second.is_some_and(waited)
        };
        let due = states.iter_mut().enumerate().filter(|(_, state)| due(state));
        due.map(|(index, state)| (index, std::mem::take(&mut state.suppressed))).collect()
    }
}

fn log_count(index: usize, suppressed: u64) {
    if suppressed > 0 {
        let kind = subject(index);
        tracing::warn!(kind, suppressed, "{suppressed} further log lines ({kind}) were suppressed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_per_second_are_limited_and_suppressed_ones_are_counted() {
        let (mut state, t0) = (FloodState::default(), Instant::now());
        let mut written = |now| (0..1_000).filter(|_| state.admit(now).is_some()).count();
        assert_eq!(written(t0), LINES_PER_SECOND_MAX as usize);
        assert_eq!(written(t0 + Duration::from_millis(999)), 0);
        assert_eq!(state.admit(t0 + Duration::from_secs(1)), Some(2_000 - u64::from(LINES_PER_SECOND_MAX)));
        assert_eq!(state.admit(t0 + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_flood_of_one_kind_does_not_suppress_another() {
        let floods = Floods::default();
        let kinds = Outcome::ALL.iter().map(|outcome| Kind::Request(*outcome));
        for kind in kinds.chain([Kind::Odd, Kind::Mode, Kind::Token, Kind::Connection]) {
            let mut written = 0;
            for _ in 0..100 {
                floods.warn(kind, || written += 1);
            }
            // A new second may begin during the loop.
            assert!((LINES_PER_SECOND_MAX..100).contains(&written), "{kind:?}: {written}");
        }
    }

    #[test]
    fn suppressed_lines_are_reported_without_further_lines() {
        let floods = Floods::default();
        for _ in 0..20 {
            floods.warn(Kind::Token, || {});
        }
        assert_eq!(floods.unreported(Instant::now()), []);
        let later = Instant::now() + UNREPORTED_MAX;
        assert_eq!(floods.unreported(later), [(Kind::Token.index(), 20 - u64::from(LINES_PER_SECOND_MAX))]);
        assert_eq!(floods.unreported(later), []);
        assert_eq!(subject(Kind::Token.index()), "token requests");
    }
}
