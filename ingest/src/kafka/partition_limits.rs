//! Limits of events in flight per partition, so that a partition that does not acknowledge leaves capacity for the others.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use riverlock_schemas::kafka::{partitioner::partition, topics::Topics};

/// Counts of events in flight for the partitions of all raw topics.
pub(crate) struct PartitionLimits {
    /// Index in `in_flight` of each topic's first partition.
    topics: HashMap<String, usize>,
    partitions: i32,
    /// Most events in flight per partition.
    max: usize,
    in_flight: Box<[AtomicUsize]>,
}

impl PartitionLimits {
    pub(crate) fn new(topics: &Topics, partitions: i32, max: usize) -> Arc<Self> {
        let count = usize::try_from(partitions).unwrap_or_default().max(1);
        let names = topics.all_raw();
        let in_flight = (0..names.len() * count).map(|_| AtomicUsize::new(0)).collect();
        let topics = names.into_iter().enumerate().map(|(index, name)| (name, index * count)).collect();
        Arc::new(Self { topics, partitions, max, in_flight })
    }

    /// Takes a slot for an event with this key; `None` if its partition has too many events in flight. Topics other than
    /// raw topics are not limited.
    pub(crate) fn enter(self: &Arc<Self>, topic: &str, key: &str) -> Option<PartitionSlot> {
        let Some(first) = self.topics.get(topic) else {
            return Some(PartitionSlot { partition_limits: Arc::clone(self), index: None });
        };
        // The same as librdkafka's partitioner, if the topic has the configured number of partitions. If not, this still
        // divides the events into as many groups.
        let index = first + usize::try_from(partition(key.as_bytes(), self.partitions)).unwrap_or_default();
        let partition_slot = &self.in_flight[index];
        if partition_slot.fetch_add(1, Ordering::Relaxed) >= self.max {
            partition_slot.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(PartitionSlot { partition_limits: Arc::clone(self), index: Some(index) })
    }
}

/// An event's slot in its partition; dropping it releases the slot.
pub(crate) struct PartitionSlot {
    partition_limits: Arc<PartitionLimits>,
    index: Option<usize>,
}

impl Drop for PartitionSlot {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.partition_limits.in_flight[index].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_partition_does_not_limit_the_others() {
        let topics = Topics::default();
        let partition_limits = PartitionLimits::new(&topics, 3, 2);
        let (orders, other) = (topics.raw_orders(), topics.raw_other());
        let first = partition_limits.enter(&orders, "o1").unwrap();
        let _second = partition_limits.enter(&orders, "o1").unwrap();
        assert!(partition_limits.enter(&orders, "o1").is_none());
        assert!(partition_limits.enter(&other, "o1").is_some(), "the same partition of another topic");
        let elsewhere = (0..10).map(|i| i.to_string());
        let mut elsewhere = elsewhere.filter(|key| partition(key.as_bytes(), 3) != partition(b"o1", 3));
        assert!(partition_limits.enter(&orders, &elsewhere.next().unwrap()).is_some());
        drop(first);
        assert!(partition_limits.enter(&orders, "o1").is_some());
        let probes: Vec<PartitionSlot> =
            (0..9).filter_map(|_| partition_limits.enter(&topics.probe(), "ingest")).collect();
        assert_eq!(probes.len(), 9);
    }
}
