//! Reads given ranges of offsets, and nothing else.
//!
//! Used by everything that reads topics again: it joins no group, commits no offsets and causes no rebalances. The
//! ranges are determined before reading starts, so that reading ends beside live traffic.

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
use riverlock_schemas::kafka::topics::is_of_earlier_cluster;
use serde::{Deserialize, Serialize};

/// How long Kafka may send nothing although it has records.
pub const STALL_MAX: Duration = Duration::from_secs(30);
/// Longest wait of one poll.
const POLL_WAIT: Duration = Duration::from_millis(500);
/// How long [`ask_patiently`] retries.
const ASK_PATIENCE: Duration = Duration::from_secs(15);
/// Wait between two attempts of [`ask_patiently`].
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Ranges of at most this many records are fetched in small pieces.
const SMALL_RECORDS: u64 = 10;
/// Size of a small piece, in bytes: a few records and the rest of their batch.
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
    /// The first offset after the range.
    pub end: i64,
}

impl OffsetRange {
    /// Number of offsets in the range.
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

/// The ranges could not be read completely.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Kafka rejected a request or is unavailable.
    #[error("Kafka could not be read")]
    Kafka(#[from] KafkaError),
    /// Kafka has deleted the records, or never had them.
    #[error("Kafka does not have {range}: {reason}")]
    Gone {
        /// The range.
        range: OffsetRange,
        /// Kafka's error.
        reason: String,
    },
    /// Kafka does not have a topic.
    #[error("Kafka has no topic {0}")]
    NoTopic(String),
    /// A partition that a consumer has read no longer exists, so its records cannot be read.
    #[error(
        "{topic} has {partitions} partitions in Kafka, but records of partition {partition} were read before: the topic was \
         replaced by one with fewer partitions"
    )]
    NoPartition {
        /// The topic.
        topic: String,
        /// The missing partition.
        partition: i32,
        /// Number of partitions in Kafka.
        partitions: i32,
    },
    /// A partition has no leader.
    #[error("{topic}[{partition}] is unavailable in Kafka")]
    Unavailable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Kafka's error.
        #[source]
        source: KafkaError,
    },
    /// Kafka has records and does not send them.
    #[error("Kafka sent no records of {0} for {seconds} s although it has more", seconds = STALL_MAX.as_secs())]
    Stalled(OffsetRange),
}

impl RangeError {
    /// The affected partition, if others may be readable.
    #[must_use]
    pub fn partition(&self) -> Option<(&str, i32)> {
        match self {
            Self::Kafka(_) | Self::NoTopic(_) | Self::NoPartition { .. } => None,
            Self::Gone { range, .. } | Self::Stalled(range) => Some((&range.topic, range.partition)),
            Self::Unavailable { topic, partition, .. } => Some((topic, *partition)),
        }
    }
}

/// Reads ranges one after the other, each from start to end, in the given order; the result depends on nothing else.
/// Blocks, so it needs its own thread.
pub struct RangeReader {
    consumer: ConsumerGuard,
    /// The remaining ranges; the first is being read, and its start is the next offset.
    left: VecDeque<OffsetRange>,
}

impl RangeReader {
    /// Opens a reader of these ranges; empty ones are skipped. `group` appears in Kafka's logs: no group is joined.
    ///
    /// # Errors
    /// When the client cannot be created.
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
            // Kafka sends whole batches, but no more of them than requested.
            config.set("fetch.message.max.bytes", SMALL_BYTES.to_string());
        }
        let consumer = ConsumerGuard::create(&config)?;
        begin(&consumer, &left)?;
        Ok(Self { consumer, left })
    }

    /// Adds ranges after all others.
    ///
    /// # Errors
    /// When the client has failed.
    pub fn extend(&mut self, ranges: impl IntoIterator<Item = OffsetRange>) -> Result<(), RangeError> {
        let was_at_end = self.left.is_empty();
        self.left.extend(ranges.into_iter().filter(|range| range.start < range.end));
        if was_at_end {
            begin(&self.consumer, &self.left)?;
        }
        Ok(())
    }

    /// Returns the next record, or `None` when all ranges are read.
    ///
    /// # Errors
    /// When Kafka does not have the records, or does not send them. Transport errors are waited out.
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
                    // Beyond the end if the range's last offsets have no record.
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
                Some(Err(error)) => handle_error(&self.consumer, error, range)?,
                None if since.elapsed() >= STALL_MAX => return Err(RangeError::Stalled(range.clone())),
                None => {}
            }
        }
        Ok(None)
    }
}

/// Starts fetching the first of the ranges before the first poll, so that several readers fetch concurrently.
fn begin(consumer: &BaseConsumer, left: &VecDeque<OffsetRange>) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    if let Some(range) = left.front() {
        assignment.add_partition_offset(&range.topic, range.partition, Offset::Offset(range.start))?;
    }
    consumer.assign(&assignment)
}

/// Class of a consumer's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The client recovers by itself: a broker restarts, a leader moves, a connection is lost.
    Passing,
    /// Kafka has deleted the records, or never had them.
    Gone,
    /// The client can no longer be used.
    Fatal,
}

impl ReadFailure {
    /// Classifies an error of a consumer.
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

/// Handles an error while reading a range.
fn handle_error(consumer: &BaseConsumer, error: KafkaError, range: &OffsetRange) -> Result<(), RangeError> {
    let failure = match ReadFailure::of(consumer, &error) {
        // librdkafka temporarily reports a partition without a leader as unknown although it exists.
        ReadFailure::Gone if is_unknown(&error) && has_partition(consumer, &range.topic, range.partition)? => {
            ReadFailure::Passing
        }
        failure => failure,
    };
    match failure {
        ReadFailure::Gone => Err(RangeError::Gone { range: range.clone(), reason: error.to_string() }),
        ReadFailure::Fatal => Err(error.into()),
        ReadFailure::Passing => {
            tracing::warn!(%error, "reading {range}: {error}");
            Ok(())
        }
    }
}

/// Returns the first offset of a partition and the one after its last; `(0, 0)` if Kafka does not have the topic or
/// partition, such as one of an earlier cluster. Blocks.
///
/// # Errors
/// When Kafka does not answer; [`RangeError::Unavailable`] if only the partition is unavailable.
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

/// Returns the number of partitions of each topic in Kafka. The configured number may differ, and records in other
/// partitions would be left out. Blocks.
///
/// # Errors
/// When Kafka does not answer, or does not have one of the topics.
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

/// Whether librdkafka reports a topic or partition as unknown; it does so for a partition without a leader, too.
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

/// Sends a request to Kafka, and repeats it for up to [`ASK_PATIENCE`] while the answer is a transient error, as in the
/// seconds after a broker's restart. Blocks.
pub fn ask_patiently<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if passes(&error) && started.elapsed() < ASK_PATIENCE => {
                tracing::debug!(%error, "repeating a request to Kafka: {error}");
                std::thread::sleep(ASK_AGAIN);
            }
            answer => return answer,
        }
    }
}

/// Whether an error is transient.
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
    fn requests_are_repeated_after_errors_of_a_restarting_broker_only() {
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
