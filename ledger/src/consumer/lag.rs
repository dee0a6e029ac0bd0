//! Measures a consumer's lag: records in Kafka that PostgreSQL does not have.
//!
//! librdkafka's own statistics are not sufficient: it learns the end of a partition from its fetches, so a paused or
//! stalled partition never shows a lag.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use riverlock_runtime::{Component, kafka::REQUEST_TIMEOUT};

use crate::{consumer::assignment::Assignment, metrics as names, store::Partition};

/// Time between two measurements.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time between two checks whether the session has ended.
const END_LOOK: Duration = Duration::from_millis(200);
/// How long a partition may have unread records without progress before the consumer is not ready.
const STANDSTILL_MAX: Duration = Duration::from_secs(120);

/// Measures the lag and reports it to metrics and health.
pub(crate) struct Lag {
    pub(crate) consumer: &'static str,
    pub(crate) client: BaseConsumer,
    pub(crate) shared: Arc<Assignment>,
    /// Reports whether Kafka lets the consumer read.
    pub(crate) reading: Component,
    /// Reports whether Kafka answers.
    pub(crate) component: Component,
}

/// Lag of each assigned partition, and the next offset confirmed by PostgreSQL.
type Lags = HashMap<Partition, (i64, Option<i64>)>;

/// Measures until the session ends. Blocks, so it needs its own thread.
pub(crate) fn run(lag: &Lag) {
    let mut moved = Movement::default();
    while !lag.shared.end.is_cancelled() {
        lag.component.beat();
        match lag.measure() {
            Ok(lags) => {
                lag.component.ready();
                lag.show(&lags);
                lag.update_readiness(&moved.update(&lags, Instant::now()));
            }
            Err(_) if lag.shared.end.is_cancelled() => {}
            Err(error) => lag.component.not_ready(format!("cannot get watermarks from Kafka: {error}")),
        }
        let measured = Instant::now();
        while measured.elapsed() < INTERVAL && !lag.shared.end.is_cancelled() {
            std::thread::sleep(END_LOOK);
        }
    }
}

impl Lag {
    /// Measures once and sets the metrics.
    pub(crate) fn round(&self) -> Result<(), KafkaError> {
        self.show(&self.measure()?);
        Ok(())
    }

    fn measure(&self) -> Result<Lags, KafkaError> {
        let mut lags = HashMap::new();
        for (partition, next) in self.shared.reading() {
            let topic = &self.shared.names[&partition.0];
            let (low, high) = self.client.fetch_watermarks(topic, partition.1, REQUEST_TIMEOUT)?;
            self.component.beat();
            lags.insert(partition, ((high - next.unwrap_or(low)).max(0), next));
        }
        Ok(lags)
    }

    /// Sets the lag of each topic, over the assigned partitions.
    fn show(&self, lags: &Lags) {
        let mut by_topic: HashMap<&Arc<str>, i64> = self.shared.names.values().map(|topic| (topic, 0)).collect();
        for (partition, (lag, _)) in lags {
            *by_topic.entry(&self.shared.names[&partition.0]).or_default() += lag;
        }
        for (topic, lag) in by_topic {
            gauge!(names::LAG, "consumer" => self.consumer, "topic" => topic.to_string()).set(lag as f64);
        }
    }

    /// Reports whether the consumer makes progress.
    fn update_readiness(&self, waiting: &[(Partition, Duration)]) {
        if let Some(failed_at) = self.shared.read_error_since() {
            // The error has passed if no partition has waited since it occurred. Without assigned partitions nothing is
            // known.
            let passed =
                !self.shared.reading().is_empty() && waiting.iter().all(|(_, for_)| *for_ < failed_at.elapsed());
            if !passed {
                return;
            }
            self.shared.clear_read_error();
        }
        match waiting.iter().max_by_key(|(_, for_)| *for_) {
            Some(((topic_id, partition), for_)) if *for_ > STANDSTILL_MAX => {
                let topic = &self.shared.names[topic_id];
                self.reading.not_ready(format!("{topic}[{partition}] has unread records and makes no progress"));
            }
            _ => self.reading.ready(),
        }
    }
}

/// When each partition last made progress, or had nothing to read.
#[derive(Default)]
struct Movement(HashMap<Partition, (Option<i64>, Instant)>);

impl Movement {
    /// Adds a measurement, and returns the partitions with unread records and the time since their last progress.
    fn update(&mut self, lags: &Lags, now: Instant) -> Vec<(Partition, Duration)> {
        self.0.retain(|partition, _| lags.contains_key(partition));
        let mut waiting = Vec::new();
        for (partition, (lag, next)) in lags {
            let seen = self.0.entry(*partition).or_insert((*next, now));
            if *lag == 0 || seen.0 != *next {
                *seen = (*next, now);
            }
            if *lag > 0 {
                waiting.push((*partition, now.duration_since(seen.1)));
            }
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_stalls_while_it_has_unread_records_and_none_is_stored() {
        let (mut movement, start) = (Movement::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let partition = (1, 0);
        let lags = |lag, next| Lags::from([(partition, (lag, Some(next)))]);
        assert_eq!(movement.update(&lags(5, 10), at(0)), [(partition, Duration::ZERO)]);
        assert_eq!(movement.update(&lags(9, 10), at(60)), [(partition, Duration::from_secs(60))]);
        assert_eq!(movement.update(&lags(8, 11), at(70)), [(partition, Duration::ZERO)], "it made progress");
        assert_eq!(movement.update(&lags(0, 19), at(80)), []);
        assert_eq!(movement.update(&lags(1, 19), at(500)), [(partition, Duration::from_secs(420))]);
        assert_eq!(movement.update(&Lags::new(), at(501)), [], "another process reads it");
        assert!(movement.0.is_empty());
    }
}
