//! Checks that no record of a partition is skipped.

use std::collections::{HashMap, HashSet};

use crate::store::Partition;

/// How often a gap is read again before it is considered permanent: a partition must not stall forever.
const GAP_REREADS_MAX: u32 = 3;
/// The same in a partition with an earlier permanent gap: one that was copied with transactions has many.
const GAP_REREADS_AGAIN: u32 = 1;

/// How a record relates to the records received before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the expected record.
    Next,
    /// It was received before.
    Stale,
    /// Records before this one are missing. Every offset of a raw topic has a record, so they must be read again.
    Gap {
        /// The first missing offset.
        missing: i64,
    },
    /// A gap that remained after reading again: Kafka has no records there. The record is accepted as the next one.
    PermanentGap {
        /// The first missing offset.
        missing: i64,
    },
}

/// Tracks the next expected record of each partition.
#[derive(Default)]
pub(crate) struct Sequence {
    /// The next expected offset, for each partition from which a record was received or whose start is known.
    expected: HashMap<Partition, i64>,
    /// Gaps that are being read again: the first missing offset, and the number of attempts.
    gaps: HashMap<Partition, (i64, u32)>,
    /// Partitions with a permanent gap.
    with_gaps: HashSet<Partition>,
}

impl Sequence {
    /// Starts a partition at `next`, or at its beginning.
    pub(crate) fn start(&mut self, partition: Partition, next: Option<i64>) {
        self.expected.extend(next.map(|next| (partition, next)));
    }

    /// Ends partitions.
    pub(crate) fn stop(&mut self, partitions: &HashSet<Partition>) {
        self.expected.retain(|partition, _| !partitions.contains(partition));
        self.gaps.retain(|partition, _| !partitions.contains(partition));
        self.with_gaps.retain(|partition| !partitions.contains(partition));
    }

    /// Classifies a record by its offset.
    pub(crate) fn arrive(&mut self, partition: Partition, offset: i64) -> Arrival {
        // If the start is unknown, the first record from Kafka is the first.
        let expected = self.expected.get(&partition).copied().unwrap_or(offset);
        let rereads = if self.with_gaps.contains(&partition) { GAP_REREADS_AGAIN } else { GAP_REREADS_MAX };
        let arrival = if offset < expected {
            return Arrival::Stale;
        } else if offset == expected {
            Arrival::Next
        } else if self.gaps.get(&partition).is_some_and(|gap| *gap == (expected, rereads)) {
            self.with_gaps.insert(partition);
            Arrival::PermanentGap { missing: expected }
        } else {
            return Arrival::Gap { missing: expected };
        };
        self.gaps.remove(&partition);
        self.expected.insert(partition, offset + 1);
        arrival
    }

    /// Records that the partition is read again from `missing`.
    pub(crate) fn reread(&mut self, partition: Partition, missing: i64) {
        let gap = self.gaps.entry(partition).or_insert((missing, 0));
        *gap = if gap.0 == missing { (missing, gap.1 + 1) } else { (missing, 1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Partition = (1, 2);

    #[test]
    fn a_record_is_skipped_only_when_reading_again_does_not_find_it() {
        let mut sequence = Sequence::default();
        for offset in [7, 8] {
            assert_eq!(sequence.arrive(PARTITION, offset), Arrival::Next);
        }
        assert_eq!(sequence.arrive(PARTITION, 8), Arrival::Stale);
        for _ in 0..GAP_REREADS_MAX {
            assert_eq!(sequence.arrive(PARTITION, 11), Arrival::Gap { missing: 9 });
            sequence.reread(PARTITION, 9);
        }
        assert_eq!(sequence.arrive(PARTITION, 11), Arrival::PermanentGap { missing: 9 });
        assert_eq!(sequence.arrive(PARTITION, 12), Arrival::Next);
        assert!(sequence.gaps.is_empty());
        assert_eq!(sequence.arrive(PARTITION, 14), Arrival::Gap { missing: 13 });
        sequence.reread(PARTITION, 13);
        assert_eq!(sequence.arrive(PARTITION, 14), Arrival::PermanentGap { missing: 13 }, "it is known to have gaps");
    }

    #[test]
    fn a_gap_caused_by_the_transport_is_closed_by_reading_it_again() {
        let mut sequence = Sequence::default();
        sequence.expected.insert(PARTITION, 0);
        assert_eq!(sequence.arrive(PARTITION, 5), Arrival::Gap { missing: 0 });
        sequence.reread(PARTITION, 0);
        for offset in 0..6 {
            assert_eq!(sequence.arrive(PARTITION, offset), Arrival::Next);
        }
        // The next gap gets all its attempts again.
        assert_eq!(sequence.arrive(PARTITION, 9), Arrival::Gap { missing: 6 });
        sequence.reread(PARTITION, 6);
        assert_eq!(sequence.gaps[&PARTITION], (6, 1));
    }
}
