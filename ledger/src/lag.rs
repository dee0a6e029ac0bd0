//! How far behind a consumer is: what Kafka has and PostgreSQL does not.
//!
//! librdkafka's own statistics cannot tell: it learns where a partition ends from what it fetches, so a partition that is
//! paused, or that stands still, never falls behind.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::gauge;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use riverlock_runtime::kafka::REQUEST_TIMEOUT;

use crate::{context::Shared, metrics as names};

/// How often Kafka is asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Measures until the session ends. Blocks: for a thread of its own.
pub(crate) fn run(consumer: &'static str, client: &BaseConsumer, shared: &Shared) {
    while !shared.end.is_cancelled() {
        match measure(client, shared) {
            Ok(lags) => {
                for (topic, lag) in lags {
                    gauge!(names::LAG, "consumer" => consumer, "topic" => topic.to_string()).set(lag as f64);
                }
            }
            // Whoever reads says that Kafka is away.
            Err(error) => tracing::debug!(%error, "{consumer}: the lag could not be measured: {error}"),
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Records of each topic that PostgreSQL does not have, in the partitions that this process reads.
fn measure(client: &BaseConsumer, shared: &Shared) -> Result<HashMap<Arc<str>, i64>, KafkaError> {
    let mut lags: HashMap<Arc<str>, i64> = shared.names.values().map(|topic| (Arc::clone(topic), 0)).collect();
    for ((topic_id, partition), next) in shared.reading() {
        let topic = &shared.names[&topic_id];
        let (low, high) = client.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
        *lags.entry(Arc::clone(topic)).or_default() += (high - next.unwrap_or(low)).max(0);
    }
    Ok(lags)
}
