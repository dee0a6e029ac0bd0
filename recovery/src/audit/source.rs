//! The raw topics in Kafka, as the audit reads them.

use std::collections::{BTreeMap, HashMap};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext},
    error::KafkaError,
};
use riverlock_ledger::{
    postgres::{TRANSACTION_LIMIT, bounded, cluster},
    reading::ranges::{ReadFailure, ask_patiently},
    store::{self, Partition},
};
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use sqlx::PgConnection;

use super::AuditError;

/// First offset and end of every partition.
pub(super) type Watermarks = BTreeMap<Partition, (i64, i64)>;

/// The raw topics that the consumers read. All runs of an audit share one client: a client per run would create threads
/// and file descriptors each time and leak those of a client that does not close.
pub(super) struct Source {
    kafka: KafkaConfig,
    consumer: ConsumerGuard,
    /// Topic numbers by name; negative for topics that no consumer has read yet.
    pub(super) ids: HashMap<String, i16>,
    /// Partitions of every topic according to Kafka's metadata: some may have been added later.
    partitions: Vec<Partition>,
}

impl Source {
    pub(super) fn open(kafka: &KafkaConfig) -> Result<Self, AuditError> {
        let consumer = ConsumerGuard::create(&kafka.consumer("audit"))?;
        Ok(Self { kafka: kafka.clone(), consumer, ids: HashMap::new(), partitions: Vec::new() })
    }

    /// Looks up the topics for a run, without writing anything.
    pub(super) async fn prepare(
        &mut self,
        connection: &mut PgConnection,
        consumers: &[(&str, Vec<String>)],
    ) -> Result<(), AuditError> {
        let topics: Vec<String> = consumers.iter().flat_map(|(_, topics)| topics).cloned().collect();
        let metadata = ask_patiently(|| self.consumer.fetch_metadata(None, REQUEST_TIMEOUT))?;
        cluster::ensure_current_with(&self.kafka, self.consumer.client(), connection).await?;
        self.ids = bounded(TRANSACTION_LIMIT, store::topic_ids_to_read(connection, &topics)).await?;
        let known: HashMap<&str, _> =
            metadata.topics().iter().map(|topic| (topic.name(), topic.partitions())).collect();
        self.partitions.clear();
        for topic in topics {
            let id = self.ids[&topic];
            let Some(found) = known.get(topic.as_str()).filter(|found| !found.is_empty()) else {
                return Err(AuditError::NoTopic(topic));
            };
            self.partitions.extend(found.iter().map(|partition| (id, partition.id())));
        }
        Ok(())
    }

    pub(super) fn topic(&self, topic_id: i16) -> &str {
        self.ids.iter().find(|(_, id)| **id == topic_id).map_or("an unknown topic", |(name, _)| name)
    }

    /// Name of a partition for messages.
    pub(super) fn name(&self, (topic_id, partition): Partition) -> String {
        format!("{}[{partition}]", self.topic(topic_id))
    }

    pub(super) fn watermarks(&self) -> Result<Watermarks, KafkaError> {
        self.partitions.iter().map(|partition| Ok((*partition, self.watermarks_of(*partition)?))).collect()
    }

    pub(super) fn watermarks_of(&self, (topic_id, partition): Partition) -> Result<(i64, i64), KafkaError> {
        ask_patiently(|| self.consumer.fetch_watermarks(self.topic(topic_id), partition, REQUEST_TIMEOUT))
    }

    /// Starts fetching these partitions from these offsets, and no others.
    pub(super) fn start(&self, from: impl IntoIterator<Item = (Partition, i64)>) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for ((topic_id, partition), offset) in from {
            assignment.add_partition_offset(self.topic(topic_id), partition, Offset::Offset(offset))?;
        }
        self.consumer.assign(&assignment)
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<DefaultConsumerContext> {
        &self.consumer
    }

    /// Classifies an error of reading.
    pub(super) fn classify(&self, error: &KafkaError) -> ReadFailure {
        ReadFailure::of(self.consumer(), error)
    }
}
