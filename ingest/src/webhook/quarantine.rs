//! Quarantine: keeps well-formed unauthenticated events, so that they can be released after a mistake in the configuration
//! was corrected.
//!
//! No request waits for it, and it has its own producer and capacity: a record that Kafka rejects resets an idempotent
//! producer, and unauthenticated senders must not be able to cause that for Digital River's events. The amount is limited
//! per second here, and in total and by age by the topic's retention. Known senders, which are rejected if a secret is
//! configured wrongly, have their own budget and partitions, so that unknown senders do not displace their events.
//! Credentials are never stored, only whether they were correct.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use riverlock_runtime::{Component, kafka::KafkaConfig};
use riverlock_schemas::{
    Envelope,
    kafka::{partitioner::partition, record, topics::Topics},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Failure,
    config::QuarantineConfig,
    http::slots::Rank,
    kafka::reports::{self, Traffic},
    metrics::{EndpointMetrics, Quarantined},
    webhook::{
        arrival::{Arrival, key, put},
        odd::Oddities,
    },
};

/// Most quarantined events in flight.
const IN_FLIGHT_MAX: usize = 64;

/// How long to wait for them at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Partition for the events of unknown senders, if there are several partitions. Retention applies per partition.
const UNKNOWN_SENDERS_PARTITION: i32 = 0;

/// Remaining budget for events and bytes, refilled every second.
#[derive(Clone, Copy)]
struct Budget {
    events: f64,
    bytes: f64,
    since: Instant,
}

/// Budgets of known and unknown senders.
struct Budgets {
    known: Budget,
    unknown: Budget,
}

/// State of an event that was handed to librdkafka.
struct Pending {
    metrics: Arc<EndpointMetrics>,
    _permit: OwnedSemaphorePermit,
}

/// librdkafka's callbacks; they run on the runtime's threads.
struct Callbacks(Arc<Traffic>);

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.called_back();
        tracing::debug!(%error, "Kafka client of the quarantine: {reason}");
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, report: &DeliveryResult<'_>, pending: Self::DeliveryOpaque) {
        self.0.called_back();
        self.0.settled();
        pending.metrics.quarantined(if report.is_ok() { Quarantined::Kept } else { Quarantined::Failed });
    }
}

pub(crate) struct Quarantine {
    config: QuarantineConfig,
    producer: Arc<BaseProducer<Callbacks>>,
    budgets: Mutex<Budgets>,
    partitions: i32,
    permits: Arc<Semaphore>,
}

impl Quarantine {
    pub(crate) fn new(
        config: QuarantineConfig,
        kafka: &KafkaConfig,
        reports: Component,
        now: Instant,
    ) -> Result<Self, KafkaError> {
        let mut client = kafka.producer();
        client.set("enable.idempotence", "false").set("queue.buffering.max.messages", IN_FLIGHT_MAX.to_string());
        let traffic = Arc::new(Traffic::default());
        let producer = Arc::new(client.create_with_context(Callbacks(Arc::clone(&traffic)))?);
        reports::start(&producer, &traffic, reports);
        let (events, bytes) = (f64::from(config.events_per_second), f64::from(config.bytes_per_second));
        let budget = Budget { events, bytes, since: now };
        let budgets = Mutex::new(Budgets { known: budget, unknown: budget });
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Ok(Self { config, producer, budgets, partitions: kafka.partitions, permits })
    }

    /// Hands an event to Kafka, if the body is an event and there is capacity. The outcome is counted, at once or later.
    pub(crate) fn keep(&self, topics: &Topics, arrival: &Arrival, failure: &Failure, rank: Rank) {
        if let Err(outcome) = self.send(topics, arrival, failure, rank) {
            arrival.endpoint.metrics.quarantined(outcome);
        }
    }

    fn send(&self, topics: &Topics, arrival: &Arrival, failure: &Failure, rank: Rank) -> Result<(), Quarantined> {
        if !self.config.enabled {
            return Err(Quarantined::Disabled);
        }
        let Some(bytes) = u32::try_from(arrival.body.len()).ok().filter(|bytes| *bytes <= self.config.event_bytes_max)
        else {
            return Err(Quarantined::TooLarge);
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Err(Quarantined::Busy);
        };
        // Before the body is parsed, so that a flood costs no more than its rejection.
        if !self.take(bytes, rank, Instant::now()) {
            return Err(Quarantined::Limited);
        }
        let Ok(envelope) = Envelope::parse(&arrival.body) else {
            return Err(Quarantined::NotAnEvent);
        };
        let oddities = Oddities::of(&arrival.headers, arrival.body.len());
        let mut headers = arrival.record_headers(Some(&envelope), oddities, None);
        headers = put(headers, record::REASON, failure.error.reason().as_bytes());
        for (name, passed) in [(record::BASIC, failure.basic), (record::BEARER, failure.bearer)] {
            if let Some(passed) = passed {
                headers = put(headers, name, if passed { record::PASSED } else { record::FAILED }.as_bytes());
            }
        }
        let pending = Box::new(Pending { metrics: Arc::clone(&arrival.endpoint.metrics), _permit: permit });
        let topic = topics.quarantine();
        let key = key(&envelope);
        let record = BaseRecord::with_opaque_to(&topic, pending).key(key.as_ref());
        let record = record.partition(self.partition(&key, rank));
        let traffic = &self.producer.context().0;
        traffic.sent();
        let sent = self.producer.send(record.payload(arrival.body.as_ref()).headers(headers));
        sent.map_err(|_returned| {
            traffic.settled();
            Quarantined::Failed
        })
    }

    /// The partition of an event. If there are several, events of known senders use all but the one for unknown senders.
    fn partition(&self, key: &str, rank: Rank) -> i32 {
        if rank == Rank::Unknown || self.partitions < 2 {
            return UNKNOWN_SENDERS_PARTITION;
        }
        1 + partition(key.as_bytes(), self.partitions - 1)
    }

    /// Waits up to [`FLUSH_TIMEOUT`] for events in flight.
    pub(crate) async fn close(&self) {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("some quarantined events were not acknowledged by Kafka before shutdown");
        }
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().expect("no code panics while it holds the budgets")
    }

    /// Deducts an event of `bytes` bytes from the budget of its sender, if enough is left.
    fn take(&self, bytes: u32, rank: Rank, now: Instant) -> bool {
        let mut budgets = self.budgets();
        let budget = if rank == Rank::Unknown { &mut budgets.unknown } else { &mut budgets.known };
        let seconds = now.saturating_duration_since(budget.since).as_secs_f64();
        let (events_max, bytes_max) =
            (f64::from(self.config.events_per_second), f64::from(self.config.bytes_per_second));
        budget.events = (budget.events + seconds * events_max).min(events_max);
        budget.bytes = (budget.bytes + seconds * bytes_max).min(bytes_max);
        budget.since = budget.since.max(now);
        let has_room = budget.events >= 1.0 && budget.bytes >= f64::from(bytes);
        if has_room {
            budget.events -= 1.0;
            budget.bytes -= f64::from(bytes);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine(partitions: i32, now: Instant) -> Quarantine {
        let config = QuarantineConfig { events_per_second: 10, bytes_per_second: 1_000, ..QuarantineConfig::default() };
        let kafka = KafkaConfig { partitions, ..KafkaConfig::default() };
        let reports = riverlock_runtime::Health::default().register("reports");
        Quarantine::new(config, &kafka, reports, now).unwrap()
    }

    #[tokio::test]
    async fn kept_events_and_bytes_are_limited_per_second() {
        let t0 = Instant::now();
        let quarantine = quarantine(3, t0);
        let kept = |bytes, now| (0..100).filter(|_| quarantine.take(bytes, Rank::Unknown, now)).count();
        assert_eq!(kept(10, t0), 10);
        assert_eq!(kept(10, t0 + Duration::from_millis(100)), 1);
        assert_eq!(kept(400, t0 + Duration::from_secs(10)), 2);
        assert_eq!(kept(1, t0 + Duration::from_secs(10)), 8);
        assert_eq!(kept(1_000, t0 + Duration::from_secs(3_600)), 1);
    }

    #[tokio::test]
    async fn unknown_senders_do_not_use_the_budget_and_partitions_of_known_ones() {
        let t0 = Instant::now();
        let quarantine = quarantine(3, t0);
        let kept = |rank| (0..100).filter(|_| quarantine.take(1, rank, t0)).count();
        assert_eq!((kept(Rank::Unknown), kept(Rank::KnownAddress)), (10, 10));
        let partitions =
            |rank| -> Vec<i32> { (0..50).map(|key: u8| quarantine.partition(&key.to_string(), rank)).collect() };
        assert!(partitions(Rank::Unknown).iter().all(|partition| *partition == UNKNOWN_SENDERS_PARTITION));
        let mut known = partitions(Rank::KnownAddress);
        known.sort_unstable();
        known.dedup();
        assert_eq!(known, [1, 2]);
    }

    #[tokio::test]
    async fn a_single_partition_keeps_all_events() {
        let quarantine = quarantine(1, Instant::now());
        assert_eq!(quarantine.partition("o1", Rank::KnownAddress), UNKNOWN_SENDERS_PARTITION);
    }
}
