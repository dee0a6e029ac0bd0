//! Reads topics in batches, and hands each partition's records to one worker.
//!
//! One thread owns the Kafka consumer and polls; workers own a database connection each. Correctness lives in PostgreSQL,
//! so whatever happens to this thread, records are at worst read again.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
    message::Message,
};
use riverlock_runtime::{Closing, Component, Context, kafka::KafkaConfig};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
};

use crate::{
    PostgresConfig, Projection, Record,
    cluster::{self, ClusterError},
    context::{Batch, Buffer, Callbacks, Shared},
    lag, metrics as names, store, watch,
    worker::Worker,
};

/// How often Kafka is told how far PostgreSQL is.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long one poll waits for a record when nothing is buffered.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long the workers may be behind before reading is paused, so that polling can go on without records.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// How long batches in flight may take to end at shutdown.
const DRAIN_WAIT: Duration = Duration::from_secs(15);
/// How long PostgreSQL may take to tell the offsets.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before a database that went back is asked where it stands.
const AGAIN_WAIT: Duration = Duration::from_secs(1);

/// How a consumer reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Most records in one transaction.
    pub records_max: usize,
    /// Most bytes in one transaction, about.
    pub bytes_max: usize,
    /// How long a record waits for others.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Transactions at the same time, each on a connection of its own. A partition's batches follow one another, so more of
    /// them than there are partitions have nothing to do.
    pub workers: usize,
    /// How long polling may stand still before the process counts as stuck.
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            // Reached by a consumer that is behind; one that keeps up has what comes in `linger`. The more of an order's events
            // meet in a batch, the fewer rows it writes.
            records_max: 4_000,
            bytes_max: 12 * 1024 * 1024,
            linger: Duration::from_millis(20),
            // As many as a topic has partitions by default: with one less, one of them has two, and the others wait for it.
            workers: 3,
            stuck_after: Duration::from_secs(60),
        }
    }
}

impl BatchConfig {
    /// Checks the limits; `section` is where they stand in the configuration.
    ///
    /// # Errors
    /// When a limit is zero or out of range.
    pub fn validate(&self, section: &str) -> Result<(), riverlock_runtime::ConfigError> {
        let refused =
            |key: &str, reason: &str| Err(riverlock_runtime::ConfigError::refused(format!("{section}.{key}"), reason));
        match self {
            Self { records_max: 0 | 10_001.., .. } => refused("records_max", "must be from 1 to 10000"),
            Self { bytes_max: 0, .. } => refused("bytes_max", "must be at least 1"),
            Self { workers: 0 | 65.., .. } => refused("workers", "must be from 1 to 64"),
            Self { stuck_after: Duration::ZERO, .. } => refused("stuck_after", "must be more than 0"),
            _ => Ok(()),
        }
    }
}

/// The consumer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The client could not be made, or is broken for good.
    #[error("{consumer}: Kafka")]
    Kafka {
        /// Which consumer.
        consumer: &'static str,
        /// What Kafka says.
        #[source]
        source: KafkaError,
    },
    /// The records after the consumer's offset are gone, or were never there. Jumping would lose events silently.
    #[error(
        "{consumer}: {reason}: Kafka does not have the records that follow the offset in PostgreSQL; either the topic lost \
         records or the database belongs to another cluster. Nothing was skipped"
    )]
    OffsetGone {
        /// Which consumer.
        consumer: &'static str,
        /// What Kafka says.
        reason: String,
    },
    /// PostgreSQL refused before anything was read, or Kafka is not the cluster that its offsets belong to.
    #[error("{consumer}")]
    Ledger {
        /// Which consumer.
        consumer: &'static str,
        /// What is wrong.
        #[source]
        source: ClusterError,
    },
    /// The polling thread or a worker panicked; the log says where.
    #[error("{0}: a thread panicked")]
    Panicked(&'static str),
}

/// Reads `topics` and applies them with `projection` until the shutdown.
///
/// # Errors
/// When the consumer cannot be made, or cannot go on without losing records.
pub async fn run<P: Projection>(
    projection: P,
    topics: Vec<String>,
    config: BatchConfig,
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<(), ConsumerError> {
    let name = projection.name();
    names::describe(name);
    let component = context.health.register_beating(name, config.stuck_after);
    let ledger = |source| ConsumerError::Ledger { consumer: name, source };
    let mut ids = topic_ids(kafka, postgres, &topics).await.map_err(ledger)?;
    let setting = Setting { projection: Arc::new(projection), topics, config, kafka, postgres, context, component };
    while setting.session(ids).await? == Ended::WentBack {
        metrics::counter!(names::WENT_BACK, "consumer" => name).increment(1);
        setting.component.not_ready("the database went back");
        tracing::error!(
            "{name}: PostgreSQL lacks what it once had: it was restored from a backup, or a failover lost commits. What \
             is missing is read again from Kafka"
        );
        let Some(found) = setting.topic_ids_again().await else { break };
        ids = found;
    }
    Ok(())
}

/// What every session of a consumer has in common.
struct Setting<'a, P> {
    projection: Arc<P>,
    topics: Vec<String>,
    config: BatchConfig,
    kafka: &'a KafkaConfig,
    postgres: &'a PostgresConfig,
    context: &'a Context,
    component: Component,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The process ends.
    Stopped,
    /// The database lacks what it once had: the next session begins where the database stands.
    WentBack,
}

impl<P: Projection> Setting<'_, P> {
    /// Reads until the shutdown, or until the database went back. Nothing that one session knows outlives it.
    async fn session(&self, ids: HashMap<String, i16>) -> Result<Ended, ConsumerError> {
        let name = self.projection.name();
        let end = self.context.shutdown.soft().child_token();
        let shared = Arc::new(Shared::new(ids, self.config.workers, end));
        let callbacks = Callbacks {
            consumer: name,
            shared: Arc::clone(&shared),
            load_offsets: load_offsets(name, self.postgres.clone()),
            component: self.component.clone(),
        };
        let broken = |source| ConsumerError::Kafka { consumer: name, source };
        let consumer = Closing::create_with_context(&self.kafka.consumer(name), callbacks).map_err(broken)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(broken)?;

        let mut senders = Vec::with_capacity(self.config.workers);
        for _ in 0..self.config.workers {
            let (sender, receiver) = mpsc::channel(1);
            let worker = Worker {
                projection: Arc::clone(&self.projection),
                postgres: self.postgres.clone(),
                shared: Arc::clone(&shared),
                component: self.component.clone(),
                clock: Arc::clone(&self.context.clock),
                connection: None,
            };
            drop(self.context.shutdown.spawn_work(worker.run(receiver)));
            senders.push(sender);
        }
        let watch = watch::run(name, self.postgres.clone(), Arc::clone(&shared));
        drop(self.context.shutdown.spawn_work(watch));
        let client = self.kafka.client().create().map_err(broken)?;
        let measured = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("{name}-lag"))
            .spawn(move || lag::run(name, &client, &measured))
            .map_err(|_| ConsumerError::Panicked(name))?;
        let (component, config) = (self.component.clone(), self.config.clone());
        let poll = Poll { name, consumer, shared: Arc::clone(&shared), config, senders, component };
        let (result, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("{name}-poll"))
            .spawn(move || drop(result.send(poll.run())))
            .map_err(|_| ConsumerError::Panicked(name))?;
        let ended = ended.await.unwrap_or(Err(ConsumerError::Panicked(name)));
        // Also when polling failed: nobody else is to go on.
        shared.end.cancel();
        ended
    }

    /// The topics' numbers in a database that went back; `None` when the process ends first.
    async fn topic_ids_again(&self) -> Option<HashMap<String, i16>> {
        let soft = self.context.shutdown.soft();
        loop {
            tokio::select! {
                () = tokio::time::sleep(AGAIN_WAIT) => {}
                () = soft.cancelled() => return None,
            }
            self.component.beat();
            match topic_ids(self.kafka, self.postgres, &self.topics).await {
                Ok(ids) => return Some(ids),
                Err(error) => tracing::warn!(%error, "{}: {error}", self.projection.name()),
            }
        }
    }
}

/// The topics' numbers, if Kafka is the cluster that the database belongs to.
async fn topic_ids(
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    topics: &[String],
) -> Result<HashMap<String, i16>, ClusterError> {
    let mut connection = postgres.connect().await?;
    cluster::ensure_current(kafka, &mut connection).await?;
    Ok(store::topic_ids(&mut connection, topics).await?)
}

/// Asks PostgreSQL for the offsets, from the polling thread.
fn load_offsets(name: &'static str, postgres: PostgresConfig) -> crate::context::LoadOffsets {
    let runtime = Handle::current();
    Box::new(move || {
        let load = async {
            let mut connection = postgres.connect().await?;
            store::offsets(&mut connection, name).await
        };
        let loaded = async { tokio::time::timeout(OFFSETS_TIMEOUT, load).await };
        runtime.block_on(loaded).unwrap_or(Err(crate::Error::TimedOut(OFFSETS_TIMEOUT.as_secs())))
    })
}

/// The polling thread.
struct Poll {
    name: &'static str,
    consumer: Closing<Callbacks>,
    shared: Arc<Shared>,
    config: BatchConfig,
    senders: Vec<mpsc::Sender<Batch>>,
    component: Component,
}

impl Poll {
    fn run(self) -> Result<Ended, ConsumerError> {
        let mut committed = Instant::now();
        let mut behind_since: Option<Instant> = None;
        let mut paused = false;
        self.component.ready();
        while !self.shared.end.is_cancelled() {
            self.component.beat();
            if self.hand_over()? {
                behind_since = None;
                if std::mem::take(&mut paused) {
                    self.pause(false);
                }
                self.poll(if self.shared.lock().buffers.iter().all(|buffer| buffer.records.is_empty()) {
                    POLL_WAIT
                } else {
                    self.config.linger
                })?;
            } else if behind_since.get_or_insert_with(Instant::now).elapsed() < PAUSE_AFTER {
                std::thread::sleep(Duration::from_millis(1));
            } else {
                // Polling must go on, or Kafka takes the partitions away; without records, or memory would grow. A
                // rebalance may bring partitions that are not paused yet.
                self.pause(true);
                paused = true;
                self.poll(POLL_WAIT)?;
            }
            if committed.elapsed() >= COMMIT_INTERVAL {
                self.shared.commit(&self.consumer, None);
                committed = Instant::now();
            }
        }
        // What is only buffered is read again later; what a worker has is stored first.
        drop(self.senders);
        if !self.shared.wait_idle(None, DRAIN_WAIT) {
            tracing::warn!("{} ends while batches are in flight; they are read again", self.name);
        }
        if self.shared.went_back() {
            return Ok(Ended::WentBack);
        }
        // Closing the consumer waits for the answer.
        self.shared.commit(&self.consumer, None);
        Ok(Ended::Stopped)
    }

    /// Reads what is there, up to the first full buffer.
    fn poll(&self, wait: Duration) -> Result<(), ConsumerError> {
        let mut next = self.consumer.poll(wait);
        while let Some(result) = next {
            match result {
                Ok(message) => {
                    let id = self.shared.ids[message.topic()];
                    let topic = Arc::clone(&self.shared.names[&id]);
                    if self.push(Record::copy(&message, id, topic)) {
                        return Ok(());
                    }
                }
                Err(error) => self.judge(error)?,
            }
            next = self.consumer.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Puts a record into its worker's buffer; `true` when the buffer is full.
    fn push(&self, record: Record) -> bool {
        let worker = usize::try_from(record.partition).unwrap_or_default() % self.senders.len();
        let mut state = self.shared.lock();
        if !state.reads((record.topic_id, record.partition)) {
            // Given away in the meantime: whoever has the partition reads it.
            return false;
        }
        let buffer = &mut state.buffers[worker];
        buffer.since.get_or_insert_with(Instant::now);
        buffer.bytes += record.bytes();
        buffer.records.push(record);
        self.is_full(buffer)
    }

    fn is_full(&self, buffer: &Buffer) -> bool {
        buffer.records.len() >= self.config.records_max || buffer.bytes >= self.config.bytes_max
    }

    /// Gives every worker its batch, if the batch is full or old enough. `false` when a full one could not be given.
    fn hand_over(&self) -> Result<bool, ConsumerError> {
        let mut keeps_up = true;
        for (index, sender) in self.senders.iter().enumerate() {
            let mut state = self.shared.lock();
            let buffer = &mut state.buffers[index];
            let full = self.is_full(buffer);
            let due = full || buffer.since.is_some_and(|since| since.elapsed() >= self.config.linger);
            if buffer.records.is_empty() {
                buffer.since = None;
                continue;
            }
            if !due {
                continue;
            }
            match sender.try_reserve() {
                Ok(permit) => permit.send(state.take_batch(index)),
                Err(TrySendError::Full(())) => keeps_up &= !full,
                // Workers end after this thread; this one has panicked.
                Err(TrySendError::Closed(())) => return Err(ConsumerError::Panicked(self.name)),
            }
        }
        Ok(keeps_up)
    }

    fn pause(&self, pause: bool) {
        let result = if pause { self.shared.pause(&self.consumer) } else { self.shared.resume(&self.consumer) };
        if let Err(error) = result {
            tracing::warn!(%error, "{} could not {} reading: {error}", self.name, if pause { "pause" } else { "resume" });
        }
        metrics::gauge!(names::PAUSED, "consumer" => self.name).set(f64::from(u8::from(pause)));
    }

    /// What an error of the consumer means: most pass, some must end the process.
    fn judge(&self, error: KafkaError) -> Result<(), ConsumerError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(ConsumerError::OffsetGone { consumer: self.name, reason: error.to_string() })
            }
            Some(RDKafkaErrorCode::Fatal) => Err(ConsumerError::Kafka { consumer: self.name, source: error }),
            _ if self.consumer.client().fatal_error().is_some() => {
                Err(ConsumerError::Kafka { consumer: self.name, source: error })
            }
            _ => {
                tracing::warn!(%error, "{}: {error}", self.name);
                Ok(())
            }
        }
    }
}
