//! Kafka producer with delivery-report tracking.
//!
//! An event counts as stored only when librdkafka's delivery report says *persisted*: all in-sync replicas have it. A
//! report may arrive long after the answer was due, so no request waits for it beyond its deadline. The resources that an
//! event occupies (a permit, its bytes) are released only by the report, so memory stays bounded regardless of what senders
//! and Kafka do.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use metrics::Counter;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    bindings::rd_kafka_msg_status_t as MessageStatus,
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, DeliveryResult, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use riverlock_runtime::{Component, kafka::KafkaConfig};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    config::LimitsConfig,
    kafka::{
        breaker::{Breaker, Ticket},
        errors::KafkaErrors,
        partition_limits::{PartitionLimits, PartitionSlot},
        reports::{self, Traffic},
    },
    metrics::PROCESS,
    refusal::Rejection,
};

/// How long to wait at shutdown for events in flight.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Capacity of librdkafka's queue beyond the bodies in flight, in kilobytes, for keys and headers.
const QUEUE_KBYTES_MORE: usize = 64 * 1024;

/// Result of sending an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// All in-sync replicas have it; the broker returned its offset.
    Persisted { partition: i32, offset: i64 },
    /// It is definitely not in Kafka.
    NotPersisted(RDKafkaErrorCode),
    /// It may be in Kafka.
    Ambiguous(Option<RDKafkaErrorCode>),
}

/// Permission to send one event, with the resources that it occupies until Kafka's delivery report.
pub(crate) struct Admission {
    _bytes: OwnedSemaphorePermit,
    _partition_slot: PartitionSlot,
    /// Released last.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Admission {
    fn drop(&mut self) {
        PROCESS.in_flight.decrement(1.0);
    }
}

/// State of a record that was handed to librdkafka.
pub(crate) struct Pending {
    answer: oneshot::Sender<Delivery>,
    /// `None` for probe records.
    event: Option<Event>,
}

struct Event {
    ticket: Ticket,
    late_acks: Counter,
    admission: Admission,
}

/// A record to send.
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) headers: OwnedHeaders,
    /// When the answer to its request is due.
    pub(crate) deadline: Instant,
}

/// State that the producer and librdkafka's callbacks share.
pub(crate) struct DeliveryState {
    pub(crate) breaker: Breaker,
    /// The producer is warmed up and has had no fatal error.
    accepting: AtomicBool,
    pub(crate) failed: Notify,
    /// Recent errors.
    pub(crate) kafka_errors: Mutex<KafkaErrors>,
}

impl DeliveryState {
    fn fail(&self) {
        self.accepting.store(false, Ordering::Release);
        self.failed.notify_one();
    }

    pub(crate) fn kafka_errors(&self) -> MutexGuard<'_, KafkaErrors> {
        self.kafka_errors.lock().expect("no code panics while it holds the kafka_errors")
    }
}

/// librdkafka's callbacks. They run on the runtime's threads (see [`reports`]), so nothing here may block.
pub(crate) struct Callbacks {
    shared: Arc<DeliveryState>,
    traffic: Arc<Traffic>,
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        self.traffic.called_back();
        tracing::debug!(%error, "Kafka client: {reason}");
        self.shared.kafka_errors().note_client(reason, Instant::now());
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.shared.fail();
        }
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, report: &DeliveryResult<'_>, pending: Self::DeliveryOpaque) {
        let Pending { answer, event } = *pending;
        self.traffic.called_back();
        self.traffic.settled();
        let delivery = outcome(report);
        let persisted = matches!(delivery, Delivery::Persisted { .. });
        if let Err((error, message)) = report {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            self.shared.kafka_errors().note_delivery(message.topic(), code, Instant::now());
        }
        let late_acks = event.map(|Event { ticket, late_acks, admission }| {
            // Before the answer, because the sender may send the next event as soon as it has the answer.
            drop(admission);
            let took = self.shared.breaker.settle(ticket, persisted, Instant::now());
            if persisted {
                PROCESS.kafka_ack.record(took);
            }
            late_acks
        });
        // The receiver was dropped: the request was already answered with 503.
        if answer.send(delivery).is_err()
            && persisted
            && let Some(late_acks) = late_acks
        {
            late_acks.increment(1);
        }
    }
}

fn outcome(report: &DeliveryResult<'_>) -> Delivery {
    let (message, code) = match report {
        Ok(message) => (message, None),
        Err((error, message)) => (message, error.rdkafka_error_code()),
    };
    match (report, status(message)) {
        // Without an offset, success is only inferred: librdkafka considers a record stored when a later one of its
        // partition is. That is wrong if the broker had no state for this producer yet (a new topic, a new leader) and
        // accepted the later one first (KAFKA-15591). Such a record may be lost, so only an offset is accepted as
        // confirmation.
        (Ok(_), MessageStatus::RD_KAFKA_MSG_STATUS_PERSISTED) if message.offset() >= 0 => {
            Delivery::Persisted { partition: message.partition(), offset: message.offset() }
        }
        (Err(_), MessageStatus::RD_KAFKA_MSG_STATUS_NOT_PERSISTED) => {
            Delivery::NotPersisted(code.unwrap_or(RDKafkaErrorCode::Unknown))
        }
        _ => Delivery::Ambiguous(code),
    }
}

/// Whether the message is in Kafka, as far as librdkafka can tell.
fn status(message: &BorrowedMessage<'_>) -> MessageStatus {
    #[expect(
        unsafe_code,
        reason = "rdkafka does not wrap this call, which distinguishes a definite failure from an ambiguous one"
    )]
    // SAFETY: `ptr` is the message of a delivery report, valid for as long as `message` is borrowed; the call only reads.
    unsafe {
        rdkafka::bindings::rd_kafka_message_status(message.ptr())
    }
}

pub(crate) type Handle = BaseProducer<Callbacks>;

/// One Kafka producer at a time, replaced after a fatal error.
pub(crate) struct Producer {
    config: ClientConfig,
    current: ArcSwapOption<Handle>,
    permits: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    partition_limits: Arc<PartitionLimits>,
    /// Its heartbeat shows that delivery reports are fetched.
    reports: Component,
    pub(crate) shared: Arc<DeliveryState>,
}

impl Producer {
    /// Creates the first producer. It accepts no events until it is warmed up. Must be called within a Tokio runtime.
    pub(crate) fn new(kafka: &KafkaConfig, limits: &LimitsConfig, reports: Component) -> Result<Self, KafkaError> {
        let mut config = kafka.producer();
        // Hard limits behind the permits; a message counts until its delivery report is served. Lower ones would reject
        // events that have a permit.
        let kbytes = limits.in_flight_bytes_max / 1024 + QUEUE_KBYTES_MORE;
        raise(&mut config, kafka, "queue.buffering.max.messages", 2 * limits.in_flight_max);
        raise(&mut config, kafka, "queue.buffering.max.kbytes", kbytes);
        let shared = Arc::new(DeliveryState {
            breaker: Breaker::default(),
            accepting: AtomicBool::new(false),
            failed: Notify::new(),
            kafka_errors: Mutex::default(),
        });
        let producer = Self {
            config,
            current: ArcSwapOption::empty(),
            permits: Arc::new(Semaphore::new(limits.in_flight_max)),
            bytes: Arc::new(Semaphore::new(limits.in_flight_bytes_max)),
            partition_limits: PartitionLimits::new(&kafka.topics(), kafka.partitions, limits.in_flight_partition_max()),
            reports,
            shared,
        };
        producer.current.store(Some(producer.create()?));
        Ok(producer)
    }

    /// Creates a producer whose delivery reports are served until it is dropped.
    fn create(&self) -> Result<Arc<Handle>, KafkaError> {
        let traffic = Arc::new(Traffic::default());
        let callbacks = Callbacks { shared: Arc::clone(&self.shared), traffic: Arc::clone(&traffic) };
        let handle: Arc<Handle> = Arc::new(self.config.create_with_context(callbacks)?);
        reports::start(&handle, &traffic, self.reports.clone());
        Ok(handle)
    }

    /// The current producer; `None` once it is closed.
    pub(crate) fn handle(&self) -> Option<Arc<Handle>> {
        self.current.load_full()
    }

    /// Sets whether events are accepted.
    pub(crate) fn set_accepting(&self, accepting: bool) {
        self.shared.accepting.store(accepting, Ordering::Release);
    }

    /// Rejects a request before it is read if its event could not be stored in time.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Rejection> {
        if !self.shared.accepting.load(Ordering::Acquire) {
            return Err(Rejection::NotReady);
        }
        if !self.shared.breaker.lets_through(now) {
            return Err(Rejection::BreakerOpen);
        }
        Ok(())
    }

    /// Reserves capacity for an event of `bytes` bytes, regardless of the producer's state.
    pub(crate) fn reserve(&self, topic: &str, key: &str, bytes: usize) -> Result<Admission, Rejection> {
        let bytes = u32::try_from(bytes).map_err(|_| Rejection::Busy)?;
        let partition_slot = self.partition_limits.enter(topic, key).ok_or(Rejection::Busy)?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Rejection::Busy)?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| Rejection::Busy)?;
        PROCESS.in_flight.increment(1.0);
        Ok(Admission { _permit: permit, _partition_slot: partition_slot, _bytes: bytes })
    }

    /// Hands an event to librdkafka, which copies it. The receiver gets the delivery result eventually.
    pub(crate) fn send(
        &self,
        record: Record<'_>,
        admission: Admission,
        late_acks: Counter,
    ) -> Result<oneshot::Receiver<Delivery>, Rejection> {
        let ticket = self.shared.breaker.send(Instant::now(), record.deadline).ok_or(Rejection::BreakerOpen)?;
        let sent = self.hand_over(record, Some(Event { ticket, late_acks, admission }));
        if sent.is_err() {
            self.shared.breaker.forget(ticket);
        }
        sent
    }

    /// Hands a probe record to librdkafka, regardless of the events in flight. The breaker is not involved.
    pub(crate) fn send_probe(&self, record: Record<'_>) -> Result<oneshot::Receiver<Delivery>, Rejection> {
        self.hand_over(record, None)
    }

    fn hand_over(&self, record: Record<'_>, event: Option<Event>) -> Result<oneshot::Receiver<Delivery>, Rejection> {
        let handle = self.handle().ok_or(Rejection::NotReady)?;
        let (answer, delivery) = oneshot::channel();
        let base = BaseRecord::with_opaque_to(record.topic, Box::new(Pending { answer, event }))
            .key(record.key)
            .payload(record.payload)
            .headers(record.headers);
        let traffic = &handle.context().traffic;
        traffic.sent();
        let Err((error, _returned)) = handle.send(base) else {
            return Ok(delivery);
        };
        traffic.settled();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Err(Rejection::Busy),
            Some(RDKafkaErrorCode::Fatal) => {
                self.shared.fail();
                Err(Rejection::NotReady)
            }
            _ => {
                tracing::error!(topic = record.topic, %error, "a record could not be handed to the producer: {error}");
                self.shared.kafka_errors().note_client(&error.to_string(), Instant::now());
                Err(Rejection::NotStored)
            }
        }
    }

    /// Waits for the delivery report until `deadline`; after that the result is ambiguous.
    pub(crate) async fn delivered(&self, delivery: &mut oneshot::Receiver<Delivery>, deadline: Instant) -> Delivery {
        if let Ok(report) = tokio::time::timeout_at(deadline.into(), &mut *delivery).await {
            return report.unwrap_or(Delivery::Ambiguous(None));
        }
        // Closing makes any later report count as late; one that has already arrived still counts.
        delivery.close();
        delivery.try_recv().unwrap_or_else(|_| {
            self.shared.breaker.miss();
            Delivery::Ambiguous(None)
        })
    }

    /// Replaces a producer that had a fatal error, and closes the old one.
    pub(crate) async fn replace(&self) -> Result<(), KafkaError> {
        let fresh = self.create()?;
        let old = self.current.swap(Some(fresh));
        PROCESS.producers_replaced.increment(1);
        end(old, Duration::ZERO).await;
        Ok(())
    }

    /// Waits up to [`FLUSH_TIMEOUT`] for events in flight, and closes the producer.
    pub(crate) async fn close(&self) {
        self.set_accepting(false);
        end(self.current.swap(None), FLUSH_TIMEOUT).await;
    }
}

/// Raises a limit to `needed`, unless a higher one is configured.
fn raise(config: &mut ClientConfig, kafka: &KafkaConfig, name: &str, needed: usize) {
    let configured = kafka.properties.get(name).map(|value| value.expose().parse::<usize>());
    match configured {
        Some(Ok(value)) if value >= needed => {}
        Some(_) => {
            tracing::warn!("kafka.properties.\"{name}\" is too low for ingest.limits; using {needed}");
            config.set(name, needed.to_string());
        }
        None => drop(config.set(name, needed.to_string())),
    }
}

/// Flushes and drops a producer on a blocking thread, because dropping it waits for its threads.
async fn end(handle: Option<Arc<Handle>>, timeout: Duration) {
    let Some(mut handle) = handle else { return };
    let ended = tokio::task::spawn_blocking(move || {
        if !timeout.is_zero() && handle.flush(timeout).is_err() {
            tracing::warn!(
                events = handle.in_flight_count(),
                "{} events were not acknowledged by Kafka before shutdown; Digital River sends them again",
                handle.in_flight_count()
            );
        }
        // A request may still hold a reference for a moment, and must not be the one that drops the producer.
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Err(shared) = Arc::try_unwrap(handle) {
            if Instant::now() > deadline {
                return;
            }
            handle = shared;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    if ended.await.is_err() {
        tracing::error!("closing the Kafka producer panicked");
    }
}

#[cfg(test)]
mod tests;
