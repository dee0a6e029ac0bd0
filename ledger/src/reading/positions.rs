//! Reads single records again by position.
//!
//! Records near each other are read together, so that reading many positions costs about as much as reading them in
//! order.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use rdkafka::{consumer::BaseConsumer, message::Message as _};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::kafka::record::Position;

use crate::reading::ranges::{OffsetRange, RangeError, RangeReader, limits};

/// Largest gap, in records, that is read rather than starting a new range.
const GAP_RECORDS_MAX: i64 = 256;

/// Reads records by position. Blocks, so it needs its own thread.
pub struct PositionReader {
    kafka: KafkaConfig,
    group: &'static str,
    consumer: BaseConsumer,
    reader: RangeReader,
}

impl PositionReader {
    /// Opens a reader; `group` appears in Kafka's logs.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn open(kafka: &KafkaConfig, group: &'static str) -> Result<Self, RangeError> {
        let reader = RangeReader::open(kafka, group, [])?;
        Ok(Self { kafka: kafka.clone(), group, consumer: kafka.client().create()?, reader })
    }

    /// Calls `found` with every body that Kafka has, and returns the other positions, whose records were deleted or
    /// never existed.
    ///
    /// # Errors
    /// When Kafka does not answer, or deletes records while they are read. `found` may have been called for some by
    /// then.
    pub fn read(
        &mut self,
        mut wanted: BTreeSet<Position>,
        mut found: impl FnMut(&Position, &[u8]),
    ) -> Result<BTreeSet<Position>, RangeError> {
        self.reader.extend(coalesce(&self.kept(&wanted)?))?;
        loop {
            let message = match self.reader.read() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(wanted),
                Err(error) => {
                    // Open a new reader, so that the remaining ranges are not read next time.
                    self.reader = RangeReader::open(&self.kafka, self.group, [])?;
                    return Err(error);
                }
            };
            let (partition, offset) = (message.partition(), message.offset());
            let position = Position { topic: message.topic().to_owned(), partition, offset };
            if wanted.remove(&position) {
                found(&position, message.payload().unwrap_or_default());
            }
        }
    }

    /// Returns the positions that are within the topics' retained offsets.
    fn kept(&self, wanted: &BTreeSet<Position>) -> Result<BTreeSet<Position>, RangeError> {
        let mut known: BTreeMap<(&str, i32), (i64, i64)> = BTreeMap::new();
        for position in wanted {
            let key = (position.topic.as_str(), position.partition);
            if let Entry::Vacant(unknown) = known.entry(key) {
                unknown.insert(limits(&self.consumer, key.0, key.1)?);
            }
        }
        let is_kept = |position: &&Position| {
            let (low, high) = known[&(position.topic.as_str(), position.partition)];
            (low..high).contains(&position.offset)
        };
        Ok(wanted.iter().filter(is_kept).cloned().collect())
    }
}

/// Returns ranges that contain all positions and few other records.
fn coalesce(positions: &BTreeSet<Position>) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for Position { topic, partition, offset } in positions {
        match ranges.last_mut() {
            Some(range)
                if range.topic == *topic && range.partition == *partition && offset - range.end <= GAP_RECORDS_MAX =>
            {
                range.end = offset + 1;
            }
            _ => ranges.push(OffsetRange {
                topic: topic.clone(),
                partition: *partition,
                start: *offset,
                end: offset + 1,
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearby_positions_are_read_in_one_range() {
        let position = |topic: &str, partition, offset| Position { topic: topic.to_owned(), partition, offset };
        let positions = BTreeSet::from([
            position("a", 0, 5),
            position("a", 0, 6),
            position("a", 0, 6 + GAP_RECORDS_MAX),
            position("a", 0, 1_000_000),
            position("a", 1, 1_000_001),
            position("b", 1, 1_000_002),
        ]);
        let ranges: Vec<String> = coalesce(&positions).iter().map(ToString::to_string).collect();
        let expected = ["a[0]@5..263", "a[0]@1000000..1000001", "a[1]@1000001..1000002", "b[1]@1000002..1000003"];
        assert_eq!(ranges, expected);
    }
}
