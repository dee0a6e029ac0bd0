//! Progress of a replay on standard error: a bar on a terminal, otherwise lines.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use riverlock_recovery::replay::Observer;

use crate::terminal::{out, progress};

/// How often a line is written if standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A bar, or lines.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    line_at: Duration,
    done: u64,
}

impl Progress {
    pub(super) fn new() -> anyhow::Result<Self> {
        let bar = progress::counting("records")?.with_message("(0 selected)");
        Ok(Self { bar, started: Instant::now(), line_at: LINE_INTERVAL, done: 0 })
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn begin(&mut self, total: u64, done: u64) {
        (self.started, self.done) = (Instant::now(), done);
        self.bar.set_length(total);
        self.bar.set_position(done);
        // Records of an earlier run are not part of the rate.
        self.bar.reset_eta();
    }

    fn progress(&mut self, read: u64, selected: u64) {
        self.bar.set_position(read);
        self.bar.set_message(format!("({selected} selected)"));
        let elapsed = self.started.elapsed();
        if self.bar.is_hidden() && elapsed >= self.line_at {
            self.line_at = elapsed + LINE_INTERVAL;
            let total = self.bar.length().unwrap_or_default();
            let rate = read.saturating_sub(self.done) as f64 / elapsed.as_secs_f64();
            let left = total.saturating_sub(read) as f64 / rate.max(1.0);
            out::note(&format!("  {read}/{total} records, {selected} selected, {rate:.0}/s, {left:.0} s left"));
        }
    }

    fn say(&mut self, text: &str) {
        self.bar.suspend(|| out::note(&format!("  {text}")));
    }
}
