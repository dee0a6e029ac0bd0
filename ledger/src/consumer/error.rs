//! Errors that end a consumer.

use rdkafka::error::KafkaError;

use crate::postgres::cluster::ClusterError;

/// The consumer cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The client could not be created, or has failed permanently.
    #[error("{consumer}: Kafka")]
    Kafka {
        /// The consumer.
        consumer: &'static str,
        /// Kafka's error.
        #[source]
        source: KafkaError,
    },
    /// The records after the consumer's offset were deleted or never existed. Skipping them would lose events silently.
    #[error(
        "{consumer}: {reason}: Kafka does not have the records that follow the offset in PostgreSQL; either the topic lost \
         records or the database belongs to another cluster. Nothing was skipped"
    )]
    OffsetGone {
        /// The consumer.
        consumer: &'static str,
        /// Kafka's error.
        reason: String,
    },
    /// PostgreSQL failed before anything was read, or Kafka is not the cluster that its offsets belong to.
    #[error("{consumer}")]
    Ledger {
        /// The consumer.
        consumer: &'static str,
        /// The error.
        #[source]
        source: ClusterError,
    },
    /// The polling thread or a worker panicked; the log says where.
    #[error("{0}: a thread panicked")]
    Panicked(&'static str),
}
