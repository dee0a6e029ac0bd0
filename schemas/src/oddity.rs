//! Oddities: unusual things in an event that do not prevent it from being read.
//!
//! An authenticated event is never lost because it is unusual. Unusual values are read if their meaning is unambiguous, and
//! count as absent otherwise. Each kind of oddity is counted, so that changes on Digital River's side become visible.

use std::fmt;

/// A kind of oddity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Oddity {
    /// A value has another JSON type than documented, for example a number instead of a string.
    Kind,
    /// A key is repeated with the same value.
    RepeatedKey,
    /// A key is repeated with different values; the last one was read.
    ContradictingKey,
    /// A line is repeated in an order without contradiction.
    RepeatedLine,
    /// Invalid bytes or escapes, or control characters, were replaced.
    Encoding,
    /// A time is in another format than RFC 3339.
    TimeForm,
    /// A time is in an unknown format and counts as absent.
    TimeUnreadable,
    /// A time is too far in the future and counts as absent.
    TimeInFuture,
    /// An order's snapshot has no valid time; the time of the event or of its receipt was used.
    TimeReplaced,
    /// The event and its object have different `liveMode` values; the event's was used.
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

    /// The name in metric labels and output.
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

/// The set of oddities of one event.
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
    fn every_kind_has_its_own_bit() {
        let mut all = Oddities::default();
        for oddity in Oddity::ALL {
            assert!(!all.contains(oddity), "{oddity}");
            all.insert(oddity);
            assert!(all.contains(oddity), "{oddity}");
        }
        assert!(all.iter().eq(Oddity::ALL));
    }
}
