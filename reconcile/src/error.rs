//! Errors of a comparison.

use std::time::Duration;

use rdkafka::error::KafkaError;
use riverlock_ledger::postgres::cluster::ClusterError;
use riverlock_schemas::Mode;

use crate::listing::walk::WalkError;

/// Why a comparison was not completed. Running it again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Digital River's list could not be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// PostgreSQL failed or is unavailable.
    #[error(transparent)]
    Ledger(#[from] riverlock_ledger::Error),
    /// The positions in the database belong to another Kafka cluster, or the connected cluster is unknown.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Kafka did not answer.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Kafka confirmed a record without reporting its offset.
    #[error("Kafka did not report the offset of event {0}; run it again")]
    Unconfirmed(String),
    /// A listed event cannot be parsed.
    #[error("a listed event cannot be read: {0}")]
    Event(String),
    /// The consumers have unread records, so that missing events cannot be told from pending ones.
    #[error("the consumers still have {records} unread records after {} s; start them, or wait until they have caught up", waited.as_secs())]
    Behind {
        /// Number of unread records.
        records: i64,
        /// How long the run waited.
        waited: Duration,
    },
    /// Another run of the same mode is writing.
    #[error("another run is already comparing {0} data")]
    Running(Mode),
    /// No event types to compare are configured.
    #[error("no event types are configured: set reconcile.types, or configure [[webhooks]]")]
    NoTypes,
    /// The process is shutting down.
    #[error("stopped; run it again to resume")]
    Stopped,
    /// A thread with a request to Kafka panicked.
    #[error("a thread with a request to Kafka panicked")]
    Panicked,
}

impl From<sqlx::Error> for ReconcileError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}
