//! Reads the topics and applies their records to the tables that are being built.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use rdkafka::consumer::Consumer as _;
use riverlock_ledger::{
    DeadReason, Error, Projection, Record, batch,
    error::Disposition,
    postgres::{TRANSACTION_LIMIT, bounded},
    reading::ranges::{OffsetRange, RangeError, RangeReader, ask_patiently, partition_counts},
};
use riverlock_runtime::{Backoff, Clock, ConsumerGuard, kafka::REQUEST_TIMEOUT};
use sqlx::PgConnection;
use tokio::sync::mpsc;

use crate::rebuild::store::offsets;

use super::{Offsets, Rebuild, RebuildError, shadow};

/// Partitions that are read concurrently, each with its own database connection.
const LANES: usize = 2;
/// Most records in one transaction.
const BATCH_RECORDS_MAX: usize = 5_000;
/// Approximate limit of the bytes in one transaction.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most attempts at a transaction that fails for a temporary reason.
const ATTEMPTS_MAX: u32 = 20;
/// Shortest and longest wait before a transaction is retried.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(5);
/// Group name of the readers, which appears in Kafka's logs.
const GROUP: &str = "rebuild";

impl Rebuild {
    /// Returns the live consumers' offsets. If there are none because the database is new: the ends of the topics.
    ///
    /// # Errors
    /// When PostgreSQL or Kafka does not answer.
    pub async fn target(&self) -> Result<Offsets, RebuildError> {
        let mut live = shadow::connect(&self.live).await?;
        self.target_of(&mut live).await
    }

    pub(super) async fn target_of(&self, live: &mut PgConnection) -> Result<Offsets, RebuildError> {
        let mut target = offsets(live).await?;
        target.retain(|(name, ..), _| self.consumers.iter().any(|(consumer, _)| consumer == name));
        if !target.is_empty() {
            return Ok(target);
        }
        let names = Self::topic_names(live).await?;
        for (consumer, topics) in &self.consumers {
            let ids: Vec<i16> = names.iter().filter(|(_, name)| topics.contains(name)).map(|(id, _)| *id).collect();
            for (topic_id, partition, high) in self.ends(&names, ids).await? {
                target.insert(((*consumer).to_owned(), topic_id, partition), high);
            }
        }
        Ok(target)
    }

    /// Returns the end offsets of topics.
    async fn ends(&self, names: &BTreeMap<i16, String>, ids: Vec<i16>) -> Result<Vec<(i16, i32, i64)>, RebuildError> {
        let (kafka, names) = (self.kafka.clone(), names.clone());
        blocking(move || {
            let consumer = ConsumerGuard::create(&kafka.client())?;
            let topics: Vec<String> = ids.iter().map(|id| names[id].clone()).collect();
            let counts = partition_counts(&consumer, &topics)?;
            let mut ends = Vec::new();
            for id in ids {
                for partition in 0..counts[&names[&id]] {
                    let ask = || consumer.fetch_watermarks(&names[&id], partition, REQUEST_TIMEOUT);
                    let (_, high) = ask_patiently(ask)?;
                    ends.push((id, partition, high));
                }
            }
            Ok(ends)
        })
        .await
    }

    /// Number of records between the offsets of the tables being built and the target.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn left(&self, target: &Offsets) -> Result<u64, RebuildError> {
        let mut shadow = shadow::connect(&self.shadow).await?;
        let reached = offsets(&mut shadow).await?;
        let left = |(key, end): (&_, &i64)| end - reached.get(key).copied().unwrap_or_default();
        Ok(target.iter().map(left).map(|records| u64::try_from(records).unwrap_or_default()).sum())
    }

    /// Reads exactly up to the target and applies every record that is not stored yet. `progress` is called with the
    /// number of records after each batch.
    ///
    /// # Errors
    /// When Kafka does not have the records, or PostgreSQL fails. What was stored stays.
    pub async fn catch_up<P: Projection>(
        &self,
        projection: &P,
        target: &Offsets,
        clock: &dyn Clock,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RebuildError> {
        let mut connection = shadow::connect(&self.shadow).await?;
        let names = Self::topic_names(&mut connection).await?;
        let reached = offsets(&mut connection).await?;
        let mut ranges = Vec::new();
        for ((_, topic_id, partition), end) in target.iter().filter(|((name, ..), _)| name == projection.name()) {
            let key = (projection.name().to_owned(), *topic_id, *partition);
            let topic = names.get(topic_id).cloned().ok_or_else(|| Error::Inconsistent {
                table: "topics",
                id: topic_id.to_string(),
                reason: "consumer offsets refer to a missing topic".to_owned(),
            })?;
            let start = reached.get(&key).copied().unwrap_or_default();
            ranges.push(OffsetRange { topic, partition: *partition, start, end: *end });
        }
        ranges.retain(|range| range.start < range.end);
        if ranges.is_empty() {
            return Ok(());
        }
        let kafka = self.kafka.clone();
        let ranges = blocking(move || check(&kafka, ranges)).await?;
        let topics: Arc<BTreeMap<String, i16>> = Arc::new(names.into_iter().map(|(id, name)| (name, id)).collect());
        let mut lanes = vec![Vec::new(); LANES];
        for range in ranges {
            // All records of an order have the same partition number, so lanes never contend for its row.
            lanes[usize::try_from(range.partition).unwrap_or_default() % LANES].push(range);
        }
        let lanes = lanes.into_iter().map(|ranges| self.lane(projection, ranges, &topics, clock, progress));
        try_join_all(lanes).await?;
        Ok(())
    }

    async fn lane<P: Projection>(
        &self,
        projection: &P,
        mut ranges: Vec<OffsetRange>,
        topics: &Arc<BTreeMap<String, i16>>,
        clock: &dyn Clock,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RebuildError> {
        ranges.sort_by(|a, b| (a.partition, &a.topic).cmp(&(b.partition, &b.topic)));
        let (sender, mut batches) = mpsc::channel(1);
        let (kafka, topics) = (self.kafka.clone(), Arc::clone(topics));
        let reader = tokio::task::spawn_blocking(move || read(&kafka, ranges, &topics, &sender));
        let mut writer = Writer { rebuild: self, projection, clock, connection: None };
        while let Some(records) = batches.recv().await {
            writer.store(&records).await?;
            progress(records.len() as u64);
        }
        reader.await.unwrap_or(Err(RebuildError::Panicked))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RebuildError> + Send + 'static,
) -> Result<T, RebuildError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(RebuildError::Panicked))
}

/// Checks that Kafka has every record of the ranges.
fn check(
    kafka: &riverlock_runtime::kafka::KafkaConfig,
    ranges: Vec<OffsetRange>,
) -> Result<Vec<OffsetRange>, RebuildError> {
    let consumer = ConsumerGuard::create(&kafka.client())?;
    let topics: BTreeSet<String> = ranges.iter().map(|range| range.topic.clone()).collect();
    let counts = partition_counts(&consumer, &topics.into_iter().collect::<Vec<_>>())?;
    for OffsetRange { topic, partition, start, end } in &ranges {
        let (partition, partitions) = (*partition, counts[topic]);
        if partition >= partitions {
            return Err(RangeError::NoPartition { topic: topic.clone(), partition, partitions }.into());
        }
        let (low, high) = ask_patiently(|| consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT))?;
        if low > *start {
            return Err(RebuildError::Expired { topic: topic.clone(), partition, low });
        }
        if high < *end {
            return Err(RebuildError::Lost { topic: topic.clone(), partition, high, end: *end });
        }
    }
    Ok(ranges)
}

/// Reads on a blocking thread and sends batches until the receiver is dropped.
fn read(
    kafka: &riverlock_runtime::kafka::KafkaConfig,
    ranges: Vec<OffsetRange>,
    topics: &BTreeMap<String, i16>,
    sender: &mpsc::Sender<Vec<Record>>,
) -> Result<(), RebuildError> {
    let names: BTreeMap<&str, Arc<str>> = topics.keys().map(|name| (name.as_str(), Arc::from(name.as_str()))).collect();
    let mut reader = RangeReader::open(kafka, GROUP, ranges)?;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(message) = reader.read()? {
        let topic = rdkafka::Message::topic(&message);
        let record = Record::copy(&message, topics[topic], Arc::clone(&names[topic]));
        bytes += record.bytes();
        batch.push(record);
        if batch.len() >= BATCH_RECORDS_MAX || bytes >= BATCH_BYTES_MAX {
            bytes = 0;
            if sender.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        // Sending fails only if the writer failed, which reports its own error.
        let _ = sender.blocking_send(batch);
    }
    Ok(())
}

/// Applies batches on its own connection.
struct Writer<'a, P> {
    rebuild: &'a Rebuild,
    projection: &'a P,
    clock: &'a dyn Clock,
    connection: Option<PgConnection>,
}

impl<P: Projection> Writer<'_, P> {
    /// Stores a batch. A record that the database rejects becomes a dead letter, as in a consumer.
    async fn store(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut parts: Vec<Range<usize>> = Vec::with_capacity(16);
        parts.push(0..records.len());
        while let Some(part) = parts.pop() {
            let Err(error) = self.attempt(&records[part.clone()], None).await else { continue };
            if error.disposition() != Disposition::Isolate {
                return Err(error);
            }
            if part.len() > 1 {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                continue;
            }
            self.attempt(&records[part], Some(&error.dead())).await?;
        }
        Ok(())
    }

    /// Runs one transaction, and retries it after a temporary error.
    async fn attempt(&mut self, records: &[Record], rejected: Option<&DeadReason>) -> Result<(), Error> {
        let mut backoff = Backoff::new(RETRY_WAIT);
        for attempt in 1.. {
            let Err(error) = self.apply(records, rejected).await else { break };
            if error.disposition() == Disposition::Isolate || attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            if !error.leaves_connection_usable() {
                self.connection = None;
            }
            tracing::debug!(%error, "retrying a batch of the rebuild: {error}");
            tokio::time::sleep(backoff.next_wait()).await;
        }
        Ok(())
    }

    async fn apply(&mut self, records: &[Record], rejected: Option<&DeadReason>) -> Result<(), Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(shadow::connect_to_build(&self.rebuild.shadow).await?),
        };
        let applied = batch::apply(connection, self.projection, records, rejected, self.clock.now());
        bounded(TRANSACTION_LIMIT, applied).await.map(drop)
    }
}
