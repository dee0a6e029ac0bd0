//! Supervision of the producer: warm-up before the first event, replacement after a fatal error, and the state of Kafka and
//! the topics, which `/readyz` reports.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{message::OwnedHeaders, producer::Producer as _};
use riverlock_runtime::kafka::KafkaConfig;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    kafka::{
        producer::{Delivery, Producer, Record},
        topic_check::{self, Topic, TopicError},
        write_rights::{self, RightsError},
    },
    metrics::{PROCESS, Probe},
    readiness::{Obstacle, Readiness},
};

/// How long Kafka may take to acknowledge a probe record.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed warm-up.
const WARM_UP_PAUSE: Duration = Duration::from_millis(500);

/// Interval at which the breaker's state is checked, logged and written to the metrics.
const BREAKER_INTERVAL: Duration = Duration::from_millis(250);

/// Interval at which the topics are checked.
const TOPICS_INTERVAL: Duration = Duration::from_secs(30);

/// Interval of polling for Kafka's answer about ingest's rights.
const RIGHTS_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Shortest and longest pause between probes while the breaker is open. The pause grows each time a probe closed the
/// breaker and an event opened it again.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// Longest time without a heartbeat; slow operations run on other threads.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Supervises the producer.
pub(crate) struct Supervisor {
    pub(crate) producer: Arc<Producer>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) readiness: Arc<Readiness>,
    /// How long Kafka may fail to acknowledge events before ingest is not ready.
    pub(crate) not_ready_after: Duration,
}

impl Supervisor {
    pub(crate) async fn run(self, end: CancellationToken) {
        let all = async { tokio::join!(self.keep_working(), self.watch_kafka(), self.watch_topics()) };
        end.run_until_cancelled(all).await;
    }

    async fn keep_working(&self) -> Infallible {
        let producer = &self.producer;
        loop {
            if let Some(reason) = fatal_error(producer) {
                producer.set_accepting(false);
                let reason = format!("the Kafka producer had a fatal error and is replaced: {reason}");
                self.readiness.set(Obstacle::Producer, Some(reason));
                if let Err(error) = producer.replace().await {
                    tracing::error!(%error, "a new Kafka producer could not be created: {error}");
                    tokio::time::sleep(WARM_UP_PAUSE).await;
                    continue;
                }
            }
            match self.warm_up().await {
                Ok(topics) => {
                    producer.set_accepting(true);
                    self.readiness.set(Obstacle::Producer, None);
                    for risk in topic_check::risks(&self.kafka, &topics).await {
                        tracing::warn!("{risk}");
                    }
                    while fatal_error(producer).is_none() {
                        // Both results are fine: a reported failure wakes the task at once, others are found by the next
                        // check.
                        let _ = tokio::time::timeout(BREAKER_INTERVAL, producer.shared.failed.notified()).await;
                    }
                }
                Err(reason) => {
                    self.readiness.set(Obstacle::Producer, Some(reason));
                    tokio::time::sleep(WARM_UP_PAUSE).await;
                }
            }
        }
    }

    /// Connects, fetches the metadata of every topic and writes one probe record, so that the first event is not delayed by
    /// any of that. Returns the raw topics.
    async fn warm_up(&self) -> Result<Vec<Topic>, String> {
        let text = |error: TopicError| error.to_string();
        let topics = self.topics(self.kafka.topics().all_raw()).await.map_err(text)?;
        self.topics(vec![self.kafka.topics().probe()]).await.map_err(text)?;
        // Authenticated events do not need this topic.
        if let Err(reason) = self.topics(vec![self.kafka.topics().quarantine()]).await {
            tracing::warn!("no event can be quarantined: {reason}");
        }
        let delivery = self.send_probe()?;
        match tokio::time::timeout(PROBE_TIMEOUT, delivery).await {
            Ok(Ok(Delivery::Persisted { .. })) => Ok(topics),
            Ok(Ok(Delivery::NotPersisted(code))) => Err(format!("Kafka rejects a probe record: {code}")),
            _ => Err(format!("Kafka does not acknowledge a probe record: {}", self.last_error())),
        }
    }

    async fn topics(&self, names: Vec<String>) -> Result<Vec<Topic>, TopicError> {
        let closed = || TopicError::RequestFailed("the Kafka producer is closed".to_owned());
        let handle = self.producer.handle().ok_or_else(closed)?;
        let fetched = tokio::task::spawn_blocking(move || topic_check::topics(handle.client(), &names));
        let panicked = |error| TopicError::RequestFailed(format!("fetching the topics from Kafka panicked: {error}"));
        fetched.await.map_err(panicked)?
    }

    /// Checks which topics Kafka does not authorize ingest to write to, before an event shows it. If Kafka does not answer,
    /// the previous result is kept.
    async fn check_rights(&self) {
        match self.unwritable().await {
            Ok(topics) => {
                let reason = format!("Kafka does not authorize ingest to write to {}", topics.join(", "));
                self.readiness.set(Obstacle::Rights, (!topics.is_empty()).then_some(reason));
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    async fn unwritable(&self) -> Result<Vec<String>, RightsError> {
        let handle = self.producer.handle().ok_or(RightsError::RequestFailed)?;
        let request = write_rights::request(handle.client(), &self.kafka.topics().all_raw())?;
        loop {
            // librdkafka always answers, at the latest with a timeout.
            match request.answer() {
                Some(answer) => return answer,
                None => tokio::time::sleep(RIGHTS_POLL_INTERVAL).await,
            }
        }
    }

    fn last_error(&self) -> String {
        let last = self.producer.shared.kafka_errors().last(Instant::now());
        last.unwrap_or_else(|| "Kafka gave no reason".to_owned())
    }

    /// Writes an empty record to the probe topic, which has no consumers.
    fn send_probe(&self) -> Result<oneshot::Receiver<Delivery>, String> {
        let topic = self.kafka.topics().probe();
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let record = Record { topic: &topic, key: "ingest", payload: b"", headers: OwnedHeaders::new(), deadline };
        self.producer.send_probe(record).map_err(|refusal| refusal.to_string())
    }

    /// Reports the breaker's state, and probes Kafka while it is open, because the next event may arrive hours later.
    async fn watch_kafka(&self) -> Infallible {
        let mut prober = Prober::new(Instant::now());
        loop {
            self.readiness.beat();
            let now = Instant::now();
            let snapshot = self.producer.shared.breaker.snapshot(now);
            PROCESS.breaker_open.set(if snapshot.is_open { 1.0 } else { 0.0 });
            match (snapshot.has_changed, snapshot.is_open) {
                (true, true) => {
                    let reason = self.last_error();
                    tracing::warn!("Kafka does not acknowledge events: rejecting them at once ({reason})");
                }
                (true, false) => tracing::info!("Kafka acknowledges events or probe records again"),
                (false, _) => {}
            }
            let not_ready = snapshot.unhealthy_for.filter(|unhealthy_for| *unhealthy_for >= self.not_ready_after);
            self.readiness.set(
                Obstacle::Kafka,
                not_ready.map(|_| format!("Kafka does not acknowledge events ({})", self.last_error())),
            );
            let refused = self.producer.shared.kafka_errors().refused(now);
            self.readiness.set(Obstacle::Rejected, refused);
            if snapshot.unhealthy_for.is_none() {
                prober.pause = PROBE_PAUSE.0;
            }
            prober.step(self, snapshot.is_open, now);
            tokio::time::sleep(BREAKER_INTERVAL).await;
        }
    }

    /// Checks that the topics still exist and can be written to: events of a deleted topic cannot be stored.
    async fn watch_topics(&self) -> Infallible {
        loop {
            self.check_rights().await;
            tokio::time::sleep(TOPICS_INTERVAL).await;
            match self.topics(self.kafka.topics().all_raw()).await {
                Ok(_) => self.readiness.set(Obstacle::Topics, None),
                // The breaker handles an unavailable Kafka, because it knows whether events are affected.
                Err(error @ (TopicError::NoAnswer { .. } | TopicError::RequestFailed(_))) => tracing::debug!("{error}"),
                Err(error) => self.readiness.set(Obstacle::Topics, Some(error.to_string())),
            }
        }
    }
}

/// Probes Kafka while the breaker is open.
struct Prober {
    /// The probe in flight. It always gets a report: librdkafka times out after `message.timeout.ms`.
    pending: Option<oneshot::Receiver<Delivery>>,
    next: Instant,
    pause: Duration,
}

impl Prober {
    fn new(now: Instant) -> Self {
        Self { pending: None, next: now, pause: PROBE_PAUSE.0 }
    }

    fn step(&mut self, supervisor: &Supervisor, is_open: bool, now: Instant) {
        if let Some(pending) = &mut self.pending {
            match pending.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Delivery::Persisted { .. }) => {
                    PROCESS.probe(Probe::Acknowledged);
                    supervisor.producer.shared.breaker.probed(now);
                    self.next = now + self.pause;
                    self.pause = (2 * self.pause).min(PROBE_PAUSE.1);
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {
                    PROCESS.probe(Probe::Failed);
                    self.next = now + PROBE_PAUSE.0;
                }
            }
            self.pending = None;
        }
        if is_open && now >= self.next {
            match supervisor.send_probe() {
                Ok(delivery) => self.pending = Some(delivery),
                Err(reason) => {
                    tracing::debug!("Kafka cannot be probed: {reason}");
                    self.next = now + PROBE_PAUSE.0;
                }
            }
        }
    }
}

fn fatal_error(producer: &Producer) -> Option<String> {
    producer.handle()?.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"))
}
