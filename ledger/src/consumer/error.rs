//! Why a consumer cannot go on.

use rdkafka::error::KafkaError;

use crate::postgres::cluster::ClusterError;

/// The consumer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The client could not be made, or is broken for good.
    #[error("{consumer}: Kafka")]
    Kafka {
        /// Which consumer.
        consumer: &'static str,
        /// What Kafka says.
        #[source]
        source: KafkaError,
    },
    /// The records after the consumer's offset are gone, or were never there. Jumping would lose events silently.
    #[error(
        "{consumer}: {reason}: Kafka does not have the records that follow the offset in PostgreSQL; either the topic lost \
         records or the database belongs to another cluster. Nothing was skipped"
    )]
    OffsetGone {
        /// Which consumer.
        consumer: &'static str,
        /// What Kafka says.
        reason: String,
    },
    /// PostgreSQL refused before anything was read, or Kafka is not the cluster that its offsets belong to.
    #[error("{consumer}")]
    Ledger {
        /// Which consumer.
        consumer: &'static str,
        /// What is wrong.
        #[source]
        source: ClusterError,
    },
    /// The polling thread or a worker panicked; the log says where.
    #[error("{0}: a thread panicked")]
    Panicked(&'static str),
}
