//! What was unusual in an event and was read all the same.
//!
//! An authentic event is never lost for being odd, so odd values are read as far as they have one meaning, and count as
//! absent where they have none. Each kind of oddity is counted, so that a change on Digital River's side is seen.

use std::fmt;

/// A kind of oddity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Oddity {
    /// A value has another JSON kind than documented: a number in place of a text, a text in place of an object.
    Kind,
    /// A key stands twice with the same value.
    RepeatedKey,
    /// A key stands twice with different values, and the last one was read.
    ContradictingKey,
    /// A line stands twice in an order, and nothing that both say differs.
    RepeatedLine,
    /// Bytes, escapes or control characters that are no text were replaced.
    Encoding,
    /// A time is written in another form than RFC 3339.
    TimeForm,
    /// A time is written in a form that is not understood; it counts as absent.
    TimeUnreadable,
    /// A time lies too far in the future; it counts as absent.
    TimeInFuture,
    /// An order's snapshot has no usable time of its own; that of the event, or else of its receipt, stands in.
    TimeReplaced,
    /// The event and its object disagree about `liveMode`; the event's counts.
    ModeContradiction,
}

impl Oddity {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Kind,
        Self::RepeatedKey,
        Self::ContradictingKey,
        Self::RepeatedLine,
        Self::Encoding,
        Self::TimeForm,
        Self::TimeUnreadable,
        Self::TimeInFuture,
        Self::TimeReplaced,
        Self::ModeContradiction,
    ];

    /// As in labels and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::RepeatedKey => "repeated_key",
            Self::ContradictingKey => "contradicting_key",
            Self::RepeatedLine => "repeated_line",
            Self::Encoding => "encoding",
            Self::TimeForm => "time_form",
            Self::TimeUnreadable => "time_unreadable",
            Self::TimeInFuture => "time_in_future",
            Self::TimeReplaced => "time_replaced",
            Self::ModeContradiction => "mode_contradiction",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of oddities that one event has.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Oddities(u16);

impl Oddities {
    /// Adds a kind.
    pub fn insert(&mut self, oddity: Oddity) {
        self.0 |= oddity.bit();
    }

    /// Whether the event has this kind.
    #[must_use]
    pub fn contains(self, oddity: Oddity) -> bool {
        self.0 & oddity.bit() != 0
    }

    /// Whether the event has none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds, in the order of [`Oddity::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.into_iter().filter(move |oddity| self.contains(*oddity))
    }
}

impl fmt::Debug for Oddities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_kept_apart() {
        let mut all = Oddities::default();
        for oddity in Oddity::ALL {
            assert!(!all.contains(oddity), "{oddity}");
            all.insert(oddity);
            assert!(all.contains(oddity), "{oddity}");
        }
        assert!(all.iter().eq(Oddity::ALL));
    }
}
