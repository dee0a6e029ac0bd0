//! Log lines about what strangers send: so many per second, and the rest counted.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::metrics::PROCESS;

/// Most lines per second.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 10;

#[derive(Default)]
struct State {
    second: Option<Instant>,
    written: u32,
    suppressed: u64,
}

/// One for the whole service.
#[derive(Default)]
pub(crate) struct Floods(Mutex<State>);

impl Floods {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the state")
    }

    /// Writes a line, unless there were enough within this second.
    pub(crate) fn warn(&self, write: impl FnOnce()) {
        match self.admit(Instant::now()) {
            Some(0) => write(),
            Some(suppressed) => {
                tracing::warn!(suppressed, "{suppressed} lines about refused requests were not written");
                write();
            }
            None => PROCESS.log_lines_suppressed.increment(1),
        }
    }

    /// Whether a line may be written, and how many were not since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        let same = state.second.is_some_and(|begin| now.saturating_duration_since(begin) < Duration::from_secs(1));
        if !same {
            state.second = Some(now);
            state.written = 0;
        }
        if state.written >= LINES_PER_SECOND_MAX {
            state.suppressed += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_so_many_lines_a_second_and_then_says_how_many_it_did_not() {
        let (floods, t0) = (Floods::default(), Instant::now());
        let written = |now| (0..1_000).filter(|_| floods.admit(now).is_some()).count();
        assert_eq!(written(t0), LINES_PER_SECOND_MAX as usize);
        assert_eq!(written(t0 + Duration::from_millis(999)), 0);
        assert_eq!(floods.admit(t0 + Duration::from_secs(1)), Some(2_000 - u64::from(LINES_PER_SECOND_MAX)));
        assert_eq!(floods.admit(t0 + Duration::from_secs(1)), Some(0));
    }
}
