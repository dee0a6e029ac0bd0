//! Connections and settings of a comparison.

use std::time::Duration;

use riverlock_digital_river::Client;
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock, kafka::KafkaConfig};
use tokio_util::sync::CancellationToken;

/// A consumer and the topics that it reads.
pub type Consumers = [(&'static str, Vec<String>)];

/// Connections and settings of a comparison.
pub struct Reconciler<'a> {
    /// Digital River's API.
    pub client: &'a Client,
    /// Kafka, for writing missing events.
    pub kafka: &'a KafkaConfig,
    /// The consumers with the topics that each reads.
    pub consumers: &'a Consumers,
    /// Longest wait for an answer of PostgreSQL.
    pub answer_limit: Duration,
    /// The clock.
    pub clock: &'a dyn Clock,
    /// Stops the comparison when cancelled.
    pub stop: &'a CancellationToken,
}

impl Reconciler<'_> {
    /// Limits the wait for PostgreSQL's answer.
    pub(crate) async fn bounded<T, E: Into<riverlock_ledger::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, riverlock_ledger::Error> {
        bounded(self.answer_limit, async { work.await.map_err(Into::into) }).await
    }
}
