//! Keeps well-formed events whose sender is not believed, so that they can be released once a mistake here is mended.
//!
//! Nobody waits for it, and it has a producer and places of its own: a record that Kafka refuses makes an idempotent
//! producer begin anew, and strangers must not be able to do that to Digital River's events. What it keeps is bounded per second
//! here, and in all and in time by the topic's retention. Known senders, which are refused when a secret is wrong here, have a
//! budget and partitions of their own, so that strangers do not push them out. Credentials are never kept, only whether they
//! were right.

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
use riverlock_schemas::{Envelope, partitioner::partition, record, topics::Topics};
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

/// Most events on their way into quarantine.
const IN_FLIGHT_MAX: usize = 64;

/// How long they may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where what strangers send is kept, if there are several partitions. Retention is by partition.
const STRANGERS_PARTITION: i32 = 0;

/// What may still be kept within this second.
#[derive(Clone, Copy)]
struct Budget {
    events: f64,
    bytes: f64,
    since: Instant,
}

/// What may still be kept of each of the two.
struct Budgets {
    known: Budget,
    unknown: Budget,
}

/// An event that librdkafka holds.
struct Pending {
    metrics: Arc<EndpointMetrics>,
    _place: OwnedSemaphorePermit,
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
    places: Arc<Semaphore>,
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
        let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Ok(Self { config, producer, budgets, partitions: kafka.partitions, places })
    }

    /// Hands an event to Kafka, if it is one and there is room. What became of it is counted, at once or later.
    pub(crate) fn keep(&self, topics: &Topics, arrival: &Arrival, failure: &Failure, standing: Rank) {
        if let Err(outcome) = self.send(topics, arrival, failure, standing) {
            arrival.endpoint.metrics.quarantined(outcome);
        }
    }

    fn send(&self, topics: &Topics, arrival: &Arrival, failure: &Failure, standing: Rank) -> Result<(), Quarantined> {
        if !self.config.enabled {
            return Err(Quarantined::Disabled);
        }
        let Some(bytes) = u32::try_from(arrival.body.len()).ok().filter(|bytes| *bytes <= self.config.event_bytes_max)
        else {
            return Err(Quarantined::TooLarge);
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Quarantined::Busy);
        };
        // Before the body is parsed: a flood must not cost more than its refusal.
        if !self.take(bytes, standing, Instant::now()) {
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
        let pending = Box::new(Pending { metrics: Arc::clone(&arrival.endpoint.metrics), _place: place });
        let topic = topics.quarantine();
        let key = key(&envelope);
        let record = BaseRecord::with_opaque_to(&topic, pending).key(key.as_ref());
        let record = record.partition(self.partition(&key, standing));
        let traffic = &self.producer.context().0;
        traffic.sent();
        let sent = self.producer.send(record.payload(arrival.body.as_ref()).headers(headers));
        sent.map_err(|_returned| {
            traffic.settled();
            Quarantined::Failed
        })
    }

    /// Where an event is kept: events of known senders in any partition but the one of strangers, if there are several.
    fn partition(&self, key: &str, standing: Rank) -> i32 {
        if standing == Rank::Unknown || self.partitions < 2 {
            return STRANGERS_PARTITION;
        }
        1 + partition(key.as_bytes(), self.partitions - 1)
    }

    /// Waits a little for what is on its way.
    pub(crate) async fn close(&self) {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("not everything on its way into quarantine was acknowledged by Kafka before the end");
        }
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().expect("no code panics while it holds the budgets")
    }

    /// Takes an event of so many bytes from the budget of its sender, if there is enough left.
    fn take(&self, bytes: u32, standing: Rank, now: Instant) -> bool {
        let mut budgets = self.budgets();
        let budget = if standing == Rank::Unknown { &mut budgets.unknown } else { &mut budgets.known };
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
    async fn so_many_events_and_bytes_a_second_are_kept_and_no_more() {
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
    async fn strangers_leave_budget_and_partitions_to_known_senders() {
        let t0 = Instant::now();
        let quarantine = quarantine(3, t0);
        let kept = |standing| (0..100).filter(|_| quarantine.take(1, standing, t0)).count();
        assert_eq!((kept(Rank::Unknown), kept(Rank::KnownAddress)), (10, 10));
        let partitions = |standing| -> Vec<i32> {
            (0..50).map(|key: u8| quarantine.partition(&key.to_string(), standing)).collect()
        };
        assert!(partitions(Rank::Unknown).iter().all(|partition| *partition == STRANGERS_PARTITION));
        let mut known = partitions(Rank::KnownAddress);
        known.sort_unstable();
        known.dedup();
        assert_eq!(known, [1, 2]);
    }

    #[tokio::test]
    async fn with_one_partition_everything_is_kept_there() {
        let quarantine = quarantine(1, Instant::now());
        assert_eq!(quarantine.partition("o1", Rank::KnownAddress), STRANGERS_PARTITION);
    }
}
