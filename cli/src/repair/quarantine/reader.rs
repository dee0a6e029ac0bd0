//! Reads the topic of the quarantine, partition by partition.

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
use riverlock_schemas::record;

use super::verdict::Kept;
use crate::repair::quarantine::args::Cursor;

/// How long Kafka may send nothing while records are still to come.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// A partition that is not read to its end.
#[derive(Clone, Copy)]
struct Rest {
    partition: i32,
    next: i64,
    /// Where it ended when it was opened.
    end: i64,
}

/// Reads the quarantine from its beginning, or from after a record, to where it ended when it was opened.
pub(super) struct Reader {
    consumer: ConsumerGuard,
    topic: String,
    /// The first is being read.
    left: VecDeque<Rest>,
    assigned: Option<i32>,
}

impl Reader {
    /// Kafka says which partitions there are: the configuration may be another machine's.
    pub(super) fn open(kafka: &KafkaConfig, after: Option<Cursor>) -> anyhow::Result<Self> {
        let topic = kafka.topics().quarantine();
        let consumer = ConsumerGuard::create(&kafka.consumer("quarantine"))?;
        let asked = || format!("Kafka does not tell what topic {topic} holds (`riverlock setup` creates it)");
        let metadata = consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT).with_context(asked)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let mut partitions: Vec<i32> =
            found.into_iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id).collect();
        anyhow::ensure!(!partitions.is_empty(), "topic {topic} does not exist (`riverlock setup` creates it)");
        partitions.sort_unstable();
        let mut left = VecDeque::new();
        for partition in partitions {
            let (low, end) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT).with_context(asked)?;
            let next = match after {
                Some(after) if partition < after.partition => end,
                Some(after) if partition == after.partition => low.max(after.offset + 1),
                _ => low,
            };
            if next < end {
                left.push_back(Rest { partition, next, end });
            }
        }
        Ok(Self { consumer, topic, left, assigned: None })
    }

    pub(super) fn next(&mut self) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
        let Some(rest) = self.left.front().copied() else { return Ok(None) };
        if self.assigned != Some(rest.partition) {
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(&self.topic, rest.partition, Offset::Offset(rest.next))?;
            self.consumer.assign(&assignment)?;
            self.assigned = Some(rest.partition);
        }
        let message = self.consumer.poll(STALL_MAX).context("Kafka sends nothing more of the quarantine")??;
        if message.offset() + 1 >= rest.end {
            self.left.pop_front();
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

pub(super) fn kept<'a>(message: &'a BorrowedMessage<'_>) -> Kept<'a> {
    Kept {
        endpoint: header(message, record::ENDPOINT),
        received_at: header(message, record::RECEIVED_AT),
        signature: header(message, record::SIGNATURE),
        basic: header(message, record::BASIC),
        bearer: header(message, record::BEARER),
        body: message.payload().unwrap_or_default(),
    }
}
