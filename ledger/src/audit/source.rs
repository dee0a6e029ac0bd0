//! The raw topics, as Kafka has them.

use std::collections::{BTreeMap, HashMap};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};
use riverlock_runtime::{
    Closing,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use sqlx::PgConnection;

use super::AuditError;
use crate::{context::Partition, store};

/// First offset and end of every partition.
pub(super) type Watermarks = BTreeMap<Partition, (i64, i64)>;

/// The raw topics that consumers read.
pub(super) struct Source {
    pub(super) consumer: Closing,
    /// Numbers by topic.
    pub(super) ids: HashMap<String, i16>,
    /// Partitions of every topic, by Kafka's metadata: some may have been added since the configuration was written.
    partitions: Vec<Partition>,
}

impl Source {
    pub(super) async fn open(
        kafka: &KafkaConfig,
        connection: &mut PgConnection,
        consumers: &[(&str, Vec<String>)],
    ) -> Result<Self, AuditError> {
        let topics: Vec<String> = consumers.iter().flat_map(|(_, topics)| topics).cloned().collect();
        let ids = store::topic_ids(connection, &topics).await?;
        let consumer = Closing::create(&kafka.consumer("audit"))?;
        let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT)?;
        let known: HashMap<&str, _> =
            metadata.topics().iter().map(|topic| (topic.name(), topic.partitions())).collect();
        let mut partitions = Vec::new();
        for topic in topics {
            let id = ids[&topic];
            let Some(found) = known.get(topic.as_str()).filter(|found| !found.is_empty()) else {
                return Err(AuditError::NoTopic(topic));
            };
            partitions.extend(found.iter().map(|partition| (id, partition.id())));
        }
        Ok(Self { consumer, ids, partitions })
    }

    pub(super) fn topic(&self, topic_id: i16) -> &str {
        self.ids.iter().find(|(_, id)| **id == topic_id).map_or("an unknown topic", |(name, _)| name)
    }

    /// A partition, for people.
    pub(super) fn name(&self, (topic_id, partition): Partition) -> String {
        format!("{}[{partition}]", self.topic(topic_id))
    }

    pub(super) fn watermarks(&self) -> Result<Watermarks, KafkaError> {
        let ask = |&(topic_id, partition): &Partition| {
            let watermarks = self.consumer.fetch_watermarks(self.topic(topic_id), partition, REQUEST_TIMEOUT)?;
            Ok(((topic_id, partition), watermarks))
        };
        self.partitions.iter().map(ask).collect()
    }

    /// Adds a partition to what is read.
    pub(super) fn add(
        &self,
        assignment: &mut TopicPartitionList,
        (topic_id, partition): Partition,
        offset: i64,
    ) -> Result<(), KafkaError> {
        assignment.add_partition_offset(self.topic(topic_id), partition, Offset::Offset(offset))
    }
}
