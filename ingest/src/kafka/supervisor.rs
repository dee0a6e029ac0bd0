//! Brings the producer to work and keeps it there: warm-up before the first event, replacement after a fatal error, and a look
//! at how Kafka and the topics are, which is what `/readyz` tells.

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

/// How long Kafka may take to acknowledge a record of ingest's own.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a warm-up that failed the next one begins.
const WARM_UP_PAUSE: Duration = Duration::from_millis(500);

/// How often the breaker's state is put into the metrics and the log when no request does.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often the topics are looked at.
const TOPICS_INTERVAL: Duration = Duration::from_secs(30);

/// How often it is looked whether Kafka has answered which rights ingest has.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// How long after a probe the next one follows if the breaker is open, at first and at most: longer each time that a probe
/// closed it and an event opened it again.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// How long the supervisor may make no step; what may take long runs beside it.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Supervises until `end`.
pub(crate) struct Supervisor {
    pub(crate) producer: Arc<Producer>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) readiness: Arc<Readiness>,
    /// How long Kafka may fail to acknowledge events before that stands in the way.
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
                let reason = format!("the Kafka producer failed for good and is replaced: {reason}");
                self.readiness.set(Obstacle::Producer, Some(reason));
                if let Err(error) = producer.replace().await {
                    tracing::error!(%error, "a new Kafka producer could not be made: {error}");
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
                        // Either: a failure is seen at once, or soon where librdkafka reports none.
                        let _ = tokio::time::timeout(LOOK_INTERVAL, producer.shared.failed.notified()).await;
                    }
                }
                Err(reason) => {
                    self.readiness.set(Obstacle::Producer, Some(reason));
                    tokio::time::sleep(WARM_UP_PAUSE).await;
                }
            }
        }
    }

    /// Connects, learns where every topic's partitions are, and writes one record, so that the first event pays for none of
    /// it. Returns the raw topics.
    async fn warm_up(&self) -> Result<Vec<Topic>, String> {
        let text = |error: TopicError| error.to_string();
        let topics = self.topics(self.kafka.topics().all_raw()).await.map_err(text)?;
        self.topics(vec![self.kafka.topics().probe()]).await.map_err(text)?;
        // Events do not depend on it.
        if let Err(reason) = self.topics(vec![self.kafka.topics().quarantine()]).await {
            tracing::warn!("nothing can be kept in quarantine: {reason}");
        }
        let delivery = self.send_probe()?;
        match tokio::time::timeout(PROBE_TIMEOUT, delivery).await {
            Ok(Ok(Delivery::Persisted { .. })) => Ok(topics),
            Ok(Ok(Delivery::NotPersisted(code))) => Err(format!("Kafka does not take a record: {code}")),
            _ => Err(format!("Kafka does not acknowledge a record: {}", self.last_error())),
        }
    }

    async fn topics(&self, names: Vec<String>) -> Result<Vec<Topic>, TopicError> {
        let closed = || TopicError::NotAsked("the Kafka producer is closed".to_owned());
        let handle = self.producer.handle().ok_or_else(closed)?;
        let asked = tokio::task::spawn_blocking(move || topic_check::topics(handle.client(), &names));
        let panicked = |error| TopicError::NotAsked(format!("asking Kafka for its topics panicked: {error}"));
        asked.await.map_err(panicked)?
    }

    /// Says to which topics Kafka does not let ingest write, before an event shows it. Where Kafka does not answer, what was
    /// known before counts.
    async fn look_at_rights(&self) {
        match self.unwritable().await {
            Ok(topics) => {
                let reason = format!("Kafka does not authorize ingest to write to {}", topics.join(", "));
                self.readiness.set(Obstacle::Rights, (!topics.is_empty()).then_some(reason));
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    async fn unwritable(&self) -> Result<Vec<String>, RightsError> {
        let handle = self.producer.handle().ok_or(RightsError::NotAsked)?;
        let question = write_rights::ask(handle.client(), &self.kafka.topics().all_raw())?;
        loop {
            // librdkafka gives an answer in any case.
            match question.answer() {
                Some(answer) => return answer,
                None => tokio::time::sleep(ANSWER_INTERVAL).await,
            }
        }
    }

    fn last_error(&self) -> String {
        let last = self.producer.shared.kafka_errors().last(Instant::now());
        last.unwrap_or_else(|| "Kafka gave no reason".to_owned())
    }

    /// Writes a record that means nothing to a topic that nobody reads.
    fn send_probe(&self) -> Result<oneshot::Receiver<Delivery>, String> {
        let topic = self.kafka.topics().probe();
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let record = Record { topic: &topic, key: "ingest", payload: b"", headers: OwnedHeaders::new(), deadline };
        self.producer.send_probe(record).map_err(|refusal| refusal.to_string())
    }

    /// Tells how the breaker is, and probes Kafka while it is open: no event may come for hours.
    async fn watch_kafka(&self) -> Infallible {
        let mut prober = Prober::new(Instant::now());
        loop {
            self.readiness.beat();
            let now = Instant::now();
            let look = self.producer.shared.breaker.look(now);
            PROCESS.breaker_open.set(if look.is_open { 1.0 } else { 0.0 });
            match (look.has_changed, look.is_open) {
                (true, true) => {
                    let reason = self.last_error();
                    tracing::warn!("Kafka does not acknowledge events: refusing them at once ({reason})");
                }
                (true, false) => tracing::info!("Kafka acknowledges events again, or a record of ingest's own"),
                (false, _) => {}
            }
            let lasts = look.unhealthy_for.filter(|unhealthy_for| *unhealthy_for >= self.not_ready_after);
            self.readiness.set(
                Obstacle::Kafka,
                lasts.map(|_| format!("Kafka does not acknowledge events ({})", self.last_error())),
            );
            let refused = self.producer.shared.kafka_errors().refused(now);
            self.readiness.set(Obstacle::Refused, refused);
            if look.unhealthy_for.is_none() {
                prober.pause = PROBE_PAUSE.0;
            }
            prober.step(self, look.is_open, now);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Looks whether the topics are still there and can be written to: one that was deleted takes no event.
    async fn watch_topics(&self) -> Infallible {
        loop {
            self.look_at_rights().await;
            tokio::time::sleep(TOPICS_INTERVAL).await;
            match self.topics(self.kafka.topics().all_raw()).await {
                Ok(_) => self.readiness.set(Obstacle::Topics, None),
                // That Kafka does not answer is for the breaker, which knows whether events suffer from it.
                Err(error @ (TopicError::Silent { .. } | TopicError::NotAsked(_))) => tracing::debug!("{error}"),
                Err(error) => self.readiness.set(Obstacle::Topics, Some(error.to_string())),
            }
        }
    }
}

/// Probes Kafka while the breaker is open.
struct Prober {
    /// The probe that is under way. It is answered at some time: librdkafka gives it up after `message.timeout.ms`.
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
