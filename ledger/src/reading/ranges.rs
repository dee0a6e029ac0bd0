//! Reads given ranges of offsets, and nothing else.
//!
//! For everything that reads topics again: no group is joined, no offset is committed, nothing is rebalanced. The ranges are
//! captured before reading starts, so that reading ends beside live traffic too.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT, topics},
};
use riverlock_schemas::topics::is_of_earlier_cluster;
use serde::{Deserialize, Serialize};

/// How long Kafka may send nothing while records are known to be there.
pub const STALL_MAX: Duration = Duration::from_secs(30);
/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(500);
/// How long [`ask_patiently`] goes on.
const ASK_PATIENCE: Duration = Duration::from_secs(15);
/// How long it waits between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Ranges that are at most this long, in records, are read in small pieces.
const SMALL_RECORDS: u64 = 10;
/// A small piece, in bytes: a few records and the rest of their batch.
const SMALL_BYTES: usize = 64 * 1024;

/// Offsets `[start, end)` of one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The topic's name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// The first offset that is read.
    pub start: i64,
    /// The first offset that is not read any more.
    pub end: i64,
}

impl OffsetRange {
    /// How many offsets are in it.
    #[must_use]
    pub fn records(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or_default()
    }
}

impl std::fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]@{}..{}", self.topic, self.partition, self.start, self.end)
    }
}

/// The ranges could not be read to their end.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Kafka refused.
    #[error("Kafka could not be read")]
    Kafka(#[from] KafkaError),
    /// The records are not there: Kafka has deleted them, or never had them.
    #[error("Kafka does not have {range}: {reason}")]
    Gone {
        /// What was to be read.
        range: OffsetRange,
        /// What Kafka says.
        reason: String,
    },
    /// Kafka does not have a topic.
    #[error("Kafka has no topic {0}")]
    NoTopic(String),
    /// A partition that a consumer has read is not there any more, so what it held cannot be read.
    #[error(
        "Kafka has {partitions} partitions of {topic}, but records of partition {partition} were read before: the topic was \
         replaced by one with fewer partitions"
    )]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition that is missing.
        partition: i32,
        /// How many Kafka has.
        partitions: i32,
    },
    /// A partition has no leader that could be asked.
    #[error("Kafka cannot be asked for {topic}[{partition}]")]
    Unavailable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What Kafka says.
        #[source]
        source: KafkaError,
    },
    /// Kafka has records and does not send them.
    #[error("Kafka sent nothing of {0} for {seconds} s although records are there", seconds = STALL_MAX.as_secs())]
    Stalled(OffsetRange),
}

impl RangeError {
    /// The partition that cannot be read, where the others may be readable.
    #[must_use]
    pub fn partition(&self) -> Option<(&str, i32)> {
        match self {
            Self::Kafka(_) | Self::NoTopic(_) | Self::NoPartition { .. } => None,
            Self::Gone { range, .. } | Self::Stalled(range) => Some((&range.topic, range.partition)),
            Self::Unavailable { topic, partition, .. } => Some((topic, *partition)),
        }
    }
}

/// Reads ranges one after the other, each from its start to its end, in the order in which they were given: what is read,
/// and in which order, depends on nothing else. Blocks, so it belongs on a thread of its own.
pub struct RangeReader {
    consumer: ConsumerGuard,
    /// What is still to be read; the first is being read, and its start is the next offset.
    left: VecDeque<OffsetRange>,
}

impl RangeReader {
    /// A reader of these ranges; empty ones are passed over. `group` is a name for Kafka's logs: no group is joined.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn open(
        kafka: &KafkaConfig,
        group: &str,
        ranges: impl IntoIterator<Item = OffsetRange>,
    ) -> Result<Self, RangeError> {
        let mut config = kafka.consumer(group);
        // Ranges are often shorter than what Kafka could send, and several readers may be open.
        config.set("fetch.wait.max.ms", "10").set("queued.max.messages.kbytes", "4096");
        let left: VecDeque<OffsetRange> = ranges.into_iter().filter(|range| range.start < range.end).collect();
        if !left.is_empty() && left.iter().all(|range| range.records() <= SMALL_RECORDS) {
            // Kafka sends whole batches, but no more of them than are asked for.
            config.set("fetch.message.max.bytes", SMALL_BYTES.to_string());
        }
        let consumer = ConsumerGuard::create(&config)?;
        begin(&consumer, &left)?;
        Ok(Self { consumer, left })
    }

    /// Reads these ranges too, after all others.
    ///
    /// # Errors
    /// When the client is broken.
    pub fn extend(&mut self, ranges: impl IntoIterator<Item = OffsetRange>) -> Result<(), RangeError> {
        let was_at_end = self.left.is_empty();
        self.left.extend(ranges.into_iter().filter(|range| range.start < range.end));
        if was_at_end {
            begin(&self.consumer, &self.left)?;
        }
        Ok(())
    }

    /// The next record, or `None` when all ranges are read.
    ///
    /// # Errors
    /// When Kafka does not have the records, or does not send them. What transport errors say is waited out.
    pub fn read(&mut self) -> Result<Option<BorrowedMessage<'_>>, RangeError> {
        let mut since = Instant::now();
        while let Some(range) = self.left.front_mut() {
            match self.consumer.poll(POLL_WAIT) {
                Some(Ok(message)) => {
                    let is_wanted = message.topic() == range.topic
                        && message.partition() == range.partition
                        && message.offset() >= range.start;
                    if !is_wanted {
                        continue;
                    }
                    // Past the end when the range's last offsets hold no record.
                    let is_in_range = message.offset() < range.end;
                    range.start = message.offset() + 1;
                    if range.start >= range.end {
                        self.left.pop_front();
                        begin(&self.consumer, &self.left)?;
                        since = Instant::now();
                    }
                    if is_in_range {
                        return Ok(Some(message));
                    }
                }
                Some(Err(error)) => judge(&self.consumer, error, range)?,
                None if since.elapsed() >= STALL_MAX => return Err(RangeError::Stalled(range.clone())),
                None => {}
            }
        }
        Ok(None)
    }
}

/// Has Kafka send the first of the ranges, ahead of the first poll: several readers then wait for it side by side.
fn begin(consumer: &BaseConsumer, left: &VecDeque<OffsetRange>) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    if let Some(range) = left.front() {
        assignment.add_partition_offset(&range.topic, range.partition, Offset::Offset(range.start))?;
    }
    consumer.assign(&assignment)
}

/// What an error of a consumer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The client recovers by itself: a broker restarts, a leader moves, a connection is lost.
    Passing,
    /// Kafka does not have the records: it has deleted them, or never had them.
    Gone,
    /// The client cannot be used any more.
    Fatal,
}

impl ReadFailure {
    /// What the error of a consumer means for the range that it reads.
    pub fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>, error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic,
            ) => Self::Gone,
            Some(RDKafkaErrorCode::Fatal) => Self::Fatal,
            _ if consumer.client().fatal_error().is_some() => Self::Fatal,
            _ => Self::Passing,
        }
    }
}

/// What an error means for a range.
fn judge(consumer: &BaseConsumer, error: KafkaError, range: &OffsetRange) -> Result<(), RangeError> {
    let trouble = match ReadFailure::of(consumer, &error) {
        // A partition without a leader is not known to librdkafka for a while, and is there all the same.
        ReadFailure::Gone if is_unknown(&error) && has_partition(consumer, &range.topic, range.partition)? => {
            ReadFailure::Passing
        }
        trouble => trouble,
    };
    match trouble {
        ReadFailure::Gone => Err(RangeError::Gone { range: range.clone(), reason: error.to_string() }),
        ReadFailure::Fatal => Err(error.into()),
        ReadFailure::Passing => {
            tracing::warn!(%error, "reading {range}: {error}");
            Ok(())
        }
    }
}

/// The first offset that a partition has, and the one after its last; `(0, 0)` where Kafka has no such topic or partition, such
/// as one of an earlier cluster. Blocks.
///
/// # Errors
/// When Kafka cannot be asked; [`RangeError::Unavailable`] where only the partition cannot.
pub fn limits<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), RangeError> {
    if is_of_earlier_cluster(topic) {
        return Ok((0, 0));
    }
    match ask_patiently(|| consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)) {
        Ok(limits) => Ok(limits),
        Err(error) if is_unknown(&error) || passes(&error) => {
            if has_partition(consumer, topic, partition)? {
                Err(RangeError::Unavailable { topic: topic.to_owned(), partition, source: error })
            } else {
                Ok((0, 0))
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// How many partitions each topic has, asked of Kafka: the configuration may say otherwise, and records in partitions that it does
/// not name would be left out. Blocks.
///
/// # Errors
/// When Kafka cannot be asked, or does not have one of the topics.
pub fn partition_counts<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[String],
) -> Result<BTreeMap<String, i32>, RangeError> {
    let counts = ask_patiently(|| topics::partition_counts(consumer.client(), topics))?;
    match topics.iter().find(|topic| !counts.contains_key(*topic)) {
        Some(topic) => Err(RangeError::NoTopic(topic.clone())),
        None => Ok(counts),
    }
}

/// Whether librdkafka does not know a topic or a partition. It says so of a partition without a leader, too.
fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
        )
    )
}

/// Whether Kafka has a partition, readable or not.
fn has_partition<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Result<bool, KafkaError> {
    let metadata = ask_patiently(|| consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    Ok(found.is_some_and(|found| found.partitions().iter().any(|found| found.id() == partition)))
}

/// Asks Kafka, and asks again for up to [`ASK_PATIENCE`] while the answer is an error that passes by itself, such as those in
/// the seconds after a broker's restart. Blocks.
pub fn ask_patiently<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if passes(&error) && started.elapsed() < ASK_PATIENCE => {
                tracing::debug!(%error, "Kafka is asked again: {error}");
                std::thread::sleep(ASK_AGAIN);
            }
            answer => return answer,
        }
    }
}

/// Whether an answer may be another one in a moment.
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::BrokerNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::NetworkException
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::KafkaStorageError
                | RDKafkaErrorCode::WaitingForCoordinator
        )
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_a_restarting_broker_answers_is_asked_again_and_other_errors_are_not() {
        let asked = Cell::new(0);
        let answer = ask_patiently(|| {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NotLeaderForPartition)) } else { Ok(7) }
        });
        assert_eq!((answer, asked.get()), (Ok(7), 3));
        asked.set(0);
        let answer = ask_patiently::<()>(|| {
            asked.set(asked.get() + 1);
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed))
        });
        assert!(answer.is_err() && asked.get() == 1);
    }
}
