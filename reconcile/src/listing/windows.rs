//! Time windows that are compared, and their order. Pure.

use chrono::{DateTime, TimeDelta, Utc};

/// A range of time: `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Start.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
}

/// A window of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The range to list: the window and the overlap before it.
    pub listed: Range,
    /// Start of the window without the overlap; everything from here on is compared once the window is done.
    pub done_from: DateTime<Utc>,
}

/// Returns the windows of a range, newest first.
pub fn windows(range: Range, length: TimeDelta, overlap: TimeDelta) -> impl Iterator<Item = Window> {
    let mut end = range.to;
    std::iter::from_fn(move || {
        if end <= range.from {
            return None;
        }
        let start = (end - length.max(TimeDelta::seconds(1))).max(range.from);
        let listed = Range { from: (start - overlap).max(range.from), to: end };
        end = start;
        Some(Window { listed, done_from: start })
    })
}

/// Returns the ranges of `wanted` that remain if `done` is compared already: the newer one, with an overlap, and the
/// older one.
#[must_use]
pub fn remaining(wanted: Range, done: Range, overlap: TimeDelta) -> Vec<Range> {
    if done.to <= done.from || done.to <= wanted.from || wanted.to <= done.from {
        return vec![wanted];
    }
    let newer = Range { from: (done.to - overlap).max(wanted.from), to: wanted.to };
    let older = Range { from: wanted.from, to: done.from.min(wanted.to) };
    let mut ranges = Vec::new();
    if done.to < wanted.to {
        ranges.push(newer);
    }
    if older.from < older.to {
        ranges.push(older);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn range(from: i64, to: i64) -> Range {
        Range { from: at(from), to: at(to) }
    }

    #[test]
    fn windows_cover_the_range_without_a_gap_and_overlap() {
        let found: Vec<Window> = windows(range(0, 150), TimeDelta::minutes(60), TimeDelta::minutes(5)).collect();
        let expected = [(85, 150, 90), (25, 90, 30), (0, 30, 0)];
        let expected = expected.map(|(from, to, done)| Window { listed: range(from, to), done_from: at(done) });
        assert_eq!(found, expected);
        assert_eq!(windows(range(7, 7), TimeDelta::minutes(60), TimeDelta::zero()).count(), 0);
        for length in [1, 7, 60, 1000] {
            let mut end = at(150);
            for window in windows(range(0, 150), TimeDelta::minutes(length), TimeDelta::minutes(3)) {
                assert_eq!(window.listed.to, end);
                assert!(window.listed.from <= window.done_from && window.done_from < end);
                end = window.done_from;
            }
            assert_eq!(end, at(0));
        }
    }

    #[test]
    fn a_resumed_run_compares_the_newer_and_the_older_range() {
        let overlap = TimeDelta::minutes(5);
        assert_eq!(remaining(range(0, 200), range(50, 100), overlap), [range(95, 200), range(0, 50)]);
        assert_eq!(remaining(range(0, 100), range(50, 100), overlap), [range(0, 50)]);
        assert_eq!(remaining(range(60, 200), range(50, 100), overlap), [range(95, 200)]);
        assert_eq!(remaining(range(0, 200), range(100, 100), overlap), [range(0, 200)]);
        assert_eq!(remaining(range(0, 40), range(50, 100), overlap), [range(0, 40)]);
        assert_eq!(remaining(range(60, 90), range(50, 100), overlap), []);
    }
}
