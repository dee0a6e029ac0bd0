//! Keeps well-formed events whose sender is not believed, so that a wrong secret in the configuration loses nothing.
//!
//! Nobody waits for it, and it has a producer and places of its own: a record that Kafka refuses makes an idempotent
//! producer begin anew, and strangers must not be able to do that to Digital River's events. What it keeps is bounded per second here, and in all and in
//! time by the topic's retention. Credentials are never kept, only whether they were right.

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
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::{Envelope, record, topics::Topics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    arrival::{Arrival, key, put},
    authentication::Failure,
    config::QuarantineConfig,
    metrics::{EndpointMetrics, Quarantined},
    reports::{self, Traffic},
};

/// Most events on their way into quarantine.
const IN_FLIGHT_MAX: usize = 64;

/// How long they may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What may still be kept within this second.
struct Budget {
    events: f64,
    bytes: f64,
    since: Instant,
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
    budget: Mutex<Budget>,
    places: Arc<Semaphore>,
}

impl Quarantine {
    pub(crate) fn new(config: QuarantineConfig, kafka: &KafkaConfig, now: Instant) -> Result<Self, KafkaError> {
        let mut client = kafka.producer();
        client.set("enable.idempotence", "false").set("queue.buffering.max.messages", IN_FLIGHT_MAX.to_string());
        let traffic = Arc::new(Traffic::default());
        let producer = Arc::new(client.create_with_context(Callbacks(Arc::clone(&traffic)))?);
        reports::start(&producer, &traffic);
        let (events, bytes) = (f64::from(config.events_per_second), f64::from(config.bytes_per_second));
        let budget = Mutex::new(Budget { events, bytes, since: now });
        Ok(Self { config, producer, budget, places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) })
    }

    /// Hands an event to Kafka, if it is one and there is room. What became of it is counted, at once or later.
    pub(crate) fn keep(&self, topics: &Topics, arrival: &Arrival, failure: &Failure) {
        if let Err(outcome) = self.send(topics, arrival, failure) {
            arrival.endpoint.metrics.quarantined(outcome);
        }
    }

    fn send(&self, topics: &Topics, arrival: &Arrival, failure: &Failure) -> Result<(), Quarantined> {
        if !self.config.enabled {
            return Err(Quarantined::Disabled);
        }
        let Some(bytes) = u32::try_from(arrival.body.len()).ok().filter(|bytes| *bytes <= self.config.event_bytes_max)
        else {
            return Err(Quarantined::TooLarge);
        };
        // Before the body is looked at: a flood must not cost more than its refusal.
        if !self.has_room(bytes, Instant::now()) {
            return Err(Quarantined::Limited);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Quarantined::Limited);
        };
        let Ok(envelope) = Envelope::parse(&arrival.body) else {
            return Err(Quarantined::NotAnEvent);
        };
        self.take(bytes);
        let mut headers = arrival.record_headers(&envelope, None);
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
        let traffic = &self.producer.context().0;
        traffic.sent();
        let sent = self.producer.send(record.payload(arrival.body.as_ref()).headers(headers));
        sent.map_err(|_returned| {
            traffic.settled();
            Quarantined::Failed
        })
    }

    /// Waits a little for what is on its way.
    pub(crate) async fn close(&self) {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("not everything on its way into quarantine was acknowledged by Kafka before the end");
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().expect("no code panics while it holds the budget")
    }

    fn has_room(&self, bytes: u32, now: Instant) -> bool {
        let mut budget = self.budget();
        let seconds = now.saturating_duration_since(budget.since).as_secs_f64();
        let (events_max, bytes_max) =
            (f64::from(self.config.events_per_second), f64::from(self.config.bytes_per_second));
        budget.events = (budget.events + seconds * events_max).min(events_max);
        budget.bytes = (budget.bytes + seconds * bytes_max).min(bytes_max);
        budget.since = budget.since.max(now);
        budget.events >= 1.0 && budget.bytes >= f64::from(bytes)
    }

    /// Requests at once may overdraw the budget, by no more than there are places.
    fn take(&self, bytes: u32) {
        let mut budget = self.budget();
        budget.events -= 1.0;
        budget.bytes -= f64::from(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_events_and_bytes_a_second_are_kept_and_no_more() {
        let t0 = Instant::now();
        let config = QuarantineConfig { events_per_second: 10, bytes_per_second: 1_000, ..QuarantineConfig::default() };
        let quarantine = Quarantine::new(config, &KafkaConfig::default(), t0).unwrap();
        let kept = |bytes, now| {
            let fits = || quarantine.has_room(bytes, now).then(|| quarantine.take(bytes)).is_some();
            (0..100).filter(|_| fits()).count()
        };
        assert_eq!(kept(10, t0), 10);
        assert_eq!(kept(10, t0 + Duration::from_millis(100)), 1);
        assert_eq!(kept(400, t0 + Duration::from_secs(10)), 2);
        assert_eq!(kept(1, t0 + Duration::from_secs(10)), 8);
        assert_eq!(kept(1_000, t0 + Duration::from_secs(3_600)), 1);
    }
}
