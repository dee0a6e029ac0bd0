//! Log lines about what anyone may send: so many per second of each kind, and the rest counted.
//!
//! Each kind has a bound of its own, so that a flood of one hides no line of another.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::metrics::{Outcome, PROCESS};

/// Most lines of one kind per second.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 5;

/// How long lines may be counted as not written before that is told without a further line of their kind.
const UNTOLD_MAX: Duration = Duration::from_secs(10);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A webhook that was not answered 202.
    Request(Outcome),
    /// An authentic request that is odd, and was stored.
    Odd,
    /// An event that is stored, but of the mode that its endpoint does not expect.
    Mode,
    /// A request for a token that was refused.
    Token,
    /// A connection that was closed or could not be accepted.
    Connection,
}

/// The kinds besides [`Kind::Request`], with what their lines are called.
const OTHERS: [&str; 4] = ["odd requests", "events of the other mode", "requests for tokens", "connections"];

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

/// What the lines at an index are about.
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
    /// Whether a line may be written, and how many were not since the last one.
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

/// One for the whole service.
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

    /// Writes a line, unless there were enough of its kind within this second.
    pub(crate) fn warn(&self, kind: Kind, write: impl FnOnce()) {
        let admitted = self.states()[kind.index()].admit(Instant::now());
        match admitted {
            Some(suppressed) => {
                tell(kind.index(), suppressed);
                write();
            }
            None => PROCESS.log_lines_suppressed.increment(1),
        }
    }

    /// Tells how many lines were not written, where no line has told it for a while. To be called now and then.
    pub(crate) fn tell_suppressed(&self) {
        for (index, suppressed) in self.untold(Instant::now()) {
            tell(index, suppressed);
        }
    }

    fn untold(&self, now: Instant) -> Vec<(usize, u64)> {
        let mut states = self.states();
        let due = |state: &FloodState| {
            let waited = |second| now.saturating_duration_since(second) >= UNTOLD_MAX;
            state.suppressed > 0 && state.second.is_some_and(waited)
        };
        let due = states.iter_mut().enumerate().filter(|(_, state)| due(state));
        due.map(|(index, state)| (index, std::mem::take(&mut state.suppressed))).collect()
    }
}

fn tell(index: usize, suppressed: u64) {
    if suppressed > 0 {
        let kind = subject(index);
        tracing::warn!(kind, suppressed, "{suppressed} further lines ({kind}) were not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_so_many_lines_a_second_and_then_says_how_many_it_did_not() {
        let (mut state, t0) = (FloodState::default(), Instant::now());
        let mut written = |now| (0..1_000).filter(|_| state.admit(now).is_some()).count();
        assert_eq!(written(t0), LINES_PER_SECOND_MAX as usize);
        assert_eq!(written(t0 + Duration::from_millis(999)), 0);
        assert_eq!(state.admit(t0 + Duration::from_secs(1)), Some(2_000 - u64::from(LINES_PER_SECOND_MAX)));
        assert_eq!(state.admit(t0 + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_flood_of_one_kind_hides_no_line_of_another() {
        let floods = Floods::default();
        let kinds = Outcome::ALL.iter().map(|outcome| Kind::Request(*outcome));
        for kind in kinds.chain([Kind::Odd, Kind::Mode, Kind::Token, Kind::Connection]) {
            let mut written = 0;
            for _ in 0..100 {
                floods.warn(kind, || written += 1);
            }
            // A second may end in between.
            assert!((LINES_PER_SECOND_MAX..100).contains(&written), "{kind:?}: {written}");
        }
    }

    #[test]
    fn what_was_not_written_is_told_even_if_nothing_follows() {
        let floods = Floods::default();
        for _ in 0..20 {
            floods.warn(Kind::Token, || {});
        }
        assert_eq!(floods.untold(Instant::now()), []);
        let later = Instant::now() + UNTOLD_MAX;
        assert_eq!(floods.untold(later), [(Kind::Token.index(), 20 - u64::from(LINES_PER_SECOND_MAX))]);
        assert_eq!(floods.untold(later), []);
        assert_eq!(subject(Kind::Token.index()), "requests for tokens");
    }
}
