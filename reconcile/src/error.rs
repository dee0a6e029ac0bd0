//! Why a comparison does not come to its end.

use std::time::Duration;

use rdkafka::error::KafkaError;
use riverlock_ledger::postgres::cluster::ClusterError;
use riverlock_schemas::Mode;

use crate::listing::walk::WalkError;

/// Why a comparison did not come to its end. Running it again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Digital River's list could not be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// PostgreSQL did not answer.
    #[error(transparent)]
    Ledger(#[from] riverlock_ledger::Error),
    /// The positions in the database are of another Kafka cluster, or the cluster cannot be told.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Kafka did not answer.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Kafka confirmed a record without saying where it lies.
    #[error("Kafka did not say where event {0} lies; run it again")]
    Unconfirmed(String),
    /// A listed event is no event.
    #[error("a listed event cannot be read: {0}")]
    Event(String),
    /// The consumers have not read what Kafka has, so that what they lack cannot be told from what never came.
    #[error("the consumers lack {records} records after {} s; start them, or wait until they have caught up", waited.as_secs())]
    Behind {
        /// Records that they have not read.
        records: i64,
        /// How long was waited.
        waited: Duration,
    },
    /// Another run of the same mode writes at the moment.
    #[error("another run compares {0} data at the moment")]
    Running(Mode),
    /// Nothing says which types are compared.
    #[error("no event types are configured: set reconcile.types, or configure [[webhooks]]")]
    NoTypes,
    /// The process ends.
    #[error("stopped; running it again goes on where it stopped")]
    Stopped,
    /// A thread that asked Kafka panicked.
    #[error("a thread that asked Kafka panicked")]
    Panicked,
}

impl From<sqlx::Error> for ReconcileError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}
