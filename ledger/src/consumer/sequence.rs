//! Sees that no record of a partition is skipped.

use std::collections::{HashMap, HashSet};

use crate::store::Partition;

/// How often a gap is read again before it is taken for one that Kafka has: a partition must not stand still for ever.
const GAP_REREADS_MAX: u32 = 3;
/// The same in a partition that has had such a gap, as one that was copied with transactions has many.
const GAP_REREADS_AGAIN: u32 = 1;

/// How a record that Kafka sends fits to those that it sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the next one.
    Next,
    /// It came before.
    Stale,
    /// Records between the last one and this one did not come. Raw topics have an offset for every record, and nothing else
    /// takes any, so they must be read again.
    Gap {
        /// The first offset that is missing.
        missing: i64,
    },
    /// As a gap, and reading it again did not help: Kafka has nothing there. It is the next one all the same.
    LastingGap {
        /// The first offset that is missing.
        missing: i64,
    },
}

/// Which record of each partition comes next.
#[derive(Default)]
pub(crate) struct Sequence {
    /// The offset that Kafka sends next of each partition of which a record has come, or whose beginning is known.
    expected: HashMap<Partition, i64>,
    /// Gaps that are read again: the offset before which something is missing, and how often it was tried.
    gaps: HashMap<Partition, (i64, u32)>,
    /// Partitions in which a gap was found that Kafka has.
    with_gaps: HashSet<Partition>,
}

impl Sequence {
    /// The partition is read from `next` on, or from its beginning.
    pub(crate) fn start(&mut self, partition: Partition, next: Option<i64>) {
        self.expected.extend(next.map(|next| (partition, next)));
    }

    /// The partitions are not read any more.
    pub(crate) fn stop(&mut self, partitions: &HashSet<Partition>) {
        self.expected.retain(|partition, _| !partitions.contains(partition));
        self.gaps.retain(|partition, _| !partitions.contains(partition));
        self.with_gaps.retain(|partition| !partitions.contains(partition));
    }

    /// Checks that no record of a partition is skipped.
    pub(crate) fn arrive(&mut self, partition: Partition, offset: i64) -> Arrival {
        // Without a known beginning, the first record that Kafka has is the first.
        let expected = self.expected.get(&partition).copied().unwrap_or(offset);
        let rereads = if self.with_gaps.contains(&partition) { GAP_REREADS_AGAIN } else { GAP_REREADS_MAX };
        let arrival = if offset < expected {
            return Arrival::Stale;
        } else if offset == expected {
            Arrival::Next
        } else if self.gaps.get(&partition).is_some_and(|gap| *gap == (expected, rereads)) {
            self.with_gaps.insert(partition);
            Arrival::LastingGap { missing: expected }
        } else {
            return Arrival::Gap { missing: expected };
        };
        self.gaps.remove(&partition);
        self.expected.insert(partition, offset + 1);
        arrival
    }

    /// The partition is read again from `missing` on.
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
        assert_eq!(sequence.arrive(PARTITION, 11), Arrival::LastingGap { missing: 9 });
        assert_eq!(sequence.arrive(PARTITION, 12), Arrival::Next);
        assert!(sequence.gaps.is_empty());
        assert_eq!(sequence.arrive(PARTITION, 14), Arrival::Gap { missing: 13 });
        sequence.reread(PARTITION, 13);
        assert_eq!(sequence.arrive(PARTITION, 14), Arrival::LastingGap { missing: 13 }, "it is known to have gaps");
    }

    #[test]
    fn a_gap_that_was_a_fault_of_the_transport_is_closed_by_reading_it_again() {
        let mut sequence = Sequence::default();
        sequence.expected.insert(PARTITION, 0);
        assert_eq!(sequence.arrive(PARTITION, 5), Arrival::Gap { missing: 0 });
        sequence.reread(PARTITION, 0);
        for offset in 0..6 {
            assert_eq!(sequence.arrive(PARTITION, offset), Arrival::Next);
        }
        // The next gap has all its tries again.
        assert_eq!(sequence.arrive(PARTITION, 9), Arrival::Gap { missing: 6 });
        sequence.reread(PARTITION, 6);
        assert_eq!(sequence.gaps[&PARTITION], (6, 1));
    }
}
