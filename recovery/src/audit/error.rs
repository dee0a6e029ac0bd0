//! Errors of the audit.

use rdkafka::error::KafkaError;
use riverlock_ledger::{Error, postgres::cluster::ClusterError, reading::ranges::STALL_MAX};

/// The audit could not be completed. This says nothing about the records.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka did not answer.
    #[error("Kafka could not be read")]
    Kafka(#[from] KafkaError),
    /// PostgreSQL did not answer.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka does not know a topic that a consumer reads.
    #[error("Kafka has no topic {0} (`riverlock setup` creates it)")]
    NoTopic(String),
    /// Kafka has records and does not send them.
    #[error("Kafka sent no records for {} s although the partitions have more", STALL_MAX.as_secs())]
    Stalled,
    /// Kafka is not the cluster that the positions in the database belong to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The process is shutting down.
    #[error("the audit was stopped")]
    Stopped,
}

impl From<sqlx::Error> for AuditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}
