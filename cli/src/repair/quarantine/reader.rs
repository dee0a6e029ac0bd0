//! A reader of the quarantine topic, partition by partition.

use std::{collections::VecDeque, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer,
    message::{BorrowedMessage, Headers},
    metadata::{MetadataPartition, MetadataTopic},
};
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use riverlock_schemas::kafka::record;

use super::args::Cursor;
use super::verdict::StoredDelivery;

/// How long Kafka may send nothing before the last record is read.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// The unread offsets of a partition.
#[derive(Clone, Copy)]
struct UnreadRange {
    partition: i32,
    next: i64,
    /// The end of the partition when the reader was opened.
    end: i64,
}

/// Reads the quarantine from its beginning, or from behind a record, to its end at the time of opening.
pub(super) struct Reader {
    consumer: ConsumerGuard,
    topic: String,
    /// The reader is in the first of these.
    unread: VecDeque<UnreadRange>,
    assigned: Option<i32>,
}

impl Reader {
    /// The partitions come from Kafka, since the configuration may be that of another machine.
    pub(super) fn open(kafka: &KafkaConfig, after: Option<Cursor>) -> anyhow::Result<Self> {
        let topic = kafka.topics().quarantine();
        let consumer = ConsumerGuard::create(&kafka.consumer("quarantine"))?;
        let reading = || format!("reading the partitions of topic {topic} (`riverlock setup` creates it)");
        let metadata = consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT).with_context(reading)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let mut partitions: Vec<i32> =
            found.into_iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id).collect();
        anyhow::ensure!(!partitions.is_empty(), "topic {topic} does not exist (`riverlock setup` creates it)");
        partitions.sort_unstable();
        let mut unread = VecDeque::new();
        for partition in partitions {
            let (low, end) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT).with_context(reading)?;
            let next = match after {
                Some(after) if partition < after.partition => end,
                Some(after) if partition == after.partition => low.max(after.offset + 1),
                _ => low,
            };
            if next < end {
                unread.push_back(UnreadRange { partition, next, end });
            }
        }
        Ok(Self { consumer, topic, unread, assigned: None })
    }

    pub(super) fn next(&mut self) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
        let Some(range) = self.unread.front().copied() else { return Ok(None) };
        if self.assigned != Some(range.partition) {
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(&self.topic, range.partition, Offset::Offset(range.next))?;
            self.consumer.assign(&assignment)?;
            self.assigned = Some(range.partition);
        }
        let message = self.consumer.poll(STALL_MAX).context("Kafka sent no further record of the quarantine")??;
        if message.offset() + 1 >= range.end {
            self.unread.pop_front();
        }
        Ok(Some(message))
    }
}

/// A header as text; empty when there is none.
pub(super) fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> &'a str {
    let headers = message.headers();
    let value = headers.and_then(|headers| headers.iter().find(|header| header.key == name)?.value);
    value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
}

/// When Kafka stored a record, by the broker's clock.
pub(super) fn stored_at(message: &BorrowedMessage<'_>) -> Option<DateTime<Utc>> {
    let rdkafka::Timestamp::LogAppendTime(ms) = message.timestamp() else { return None };
    DateTime::from_timestamp_millis(ms)
}

/// The delivery that a record stores.
pub(super) fn stored_delivery<'a>(message: &'a BorrowedMessage<'_>) -> StoredDelivery<'a> {
    StoredDelivery {
        endpoint: header(message, record::ENDPOINT),
        received_at: header(message, record::RECEIVED_AT),
        signature: header(message, record::SIGNATURE),
        basic: header(message, record::BASIC),
        bearer: header(message, record::BEARER),
        body: message.payload().unwrap_or_default(),
    }
}
