//! What a comparison works with.

use std::time::Duration;

use riverlock_digital_river::Client;
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock, kafka::KafkaConfig};
use tokio_util::sync::CancellationToken;

/// A consumer and the topics that it reads.
pub type Consumers = [(&'static str, Vec<String>)];

/// What a comparison needs.
pub struct Reconciler<'a> {
    /// Digital River.
    pub client: &'a Client,
    /// Where events are written.
    pub kafka: &'a KafkaConfig,
    /// The consumers with the topics that each reads.
    pub consumers: &'a Consumers,
    /// How long PostgreSQL's answer is waited for.
    pub answer_limit: Duration,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// When it has to stop.
    pub stop: &'a CancellationToken,
}

impl Reconciler<'_> {
    /// Waits for PostgreSQL's answer, but not for ever.
    pub(crate) async fn bounded<T, E: Into<riverlock_ledger::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, riverlock_ledger::Error> {
        bounded(self.answer_limit, async { work.await.map_err(Into::into) }).await
    }
}
