//! Reads topics in batches, and gives each partition's records to one worker.
//!
//! One thread owns the Kafka consumer and polls; each worker owns a database connection. Correctness depends on
//! PostgreSQL alone: whatever happens to the polling thread, records are at worst read again.

pub(crate) mod assignment;
mod config;
mod error;
pub(crate) mod lag;
pub(crate) mod poll;
pub(crate) mod restore_check;
pub(crate) mod sequence;
pub(crate) mod worker;

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use metrics::counter;
use rdkafka::consumer::Consumer as _;
use riverlock_runtime::{Backoff, Component, ConsumerGuard, Context, kafka::KafkaConfig};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    PostgresConfig, Projection,
    consumer::{
        assignment::{Assignment, Callbacks},
        lag::Lag,
        poll::{Poll, SessionEnd, WorkerChannel},
        worker::Worker,
    },
    metrics as names,
    postgres::{
        bounded,
        cluster::{self, ClusterError},
    },
    store,
};

pub use config::BatchConfig;
pub use error::ConsumerError;

/// Time without a heartbeat after which a worker counts as stuck; longer than all its timeouts.
const WORKER_STUCK_AFTER: Duration = Duration::from_secs(240);
/// The same for the task that compares offsets and the thread that measures the lag.
const SIDE_TASK_STUCK_AFTER: Duration = Duration::from_secs(120);
/// Longest wait for the offsets from PostgreSQL.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest and longest wait before a regressed database is asked for its topics and offsets.
const AGAIN_WAIT: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(10);

/// Reads `topics` and applies them with `projection` until the shutdown.
///
/// # Errors
/// When the consumer cannot be created, or cannot continue without losing records.
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
    names::describe_common();
    let component = context.health.register_beating(name, config.stuck_after);
    let ledger = |source| ConsumerError::Ledger { consumer: name, source };
    let mut ids = topic_ids(kafka, postgres, &topics).await.map_err(ledger)?;
    let setting =
        ConsumerSetup { projection: Arc::new(projection), topics, config, kafka, postgres, context, component };
    while setting.session(ids).await? == SessionEnd::Regressed {
        counter!(names::REGRESSIONS, "consumer" => name).increment(1);
        setting.component.not_ready("the database regressed");
        tracing::error!(
            "{name}: PostgreSQL lacks data that it had confirmed: it was restored from a backup, or a failover lost \
             commits. The missing records are read again from Kafka"
        );
        let Some(found) = setting.reload_topic_ids().await else { break };
        ids = found;
    }
    Ok(())
}

/// What all sessions of a consumer have in common.
struct ConsumerSetup<'a, P> {
    projection: Arc<P>,
    topics: Vec<String>,
    config: BatchConfig,
    kafka: &'a KafkaConfig,
    postgres: &'a PostgresConfig,
    context: &'a Context,
    component: Component,
}

impl<P: Projection> ConsumerSetup<'_, P> {
    /// Reads until the shutdown, or until the database regressed. No state is kept between sessions.
    async fn session(&self, ids: HashMap<String, i16>) -> Result<SessionEnd, ConsumerError> {
        let name = self.projection.name();
        let end = self.context.shutdown.soft().child_token();
        let shared = Arc::new(Assignment::new(ids, self.config.workers, end));
        let callbacks = Callbacks {
            consumer: name,
            shared: Arc::clone(&shared),
            load_offsets: load_offsets(name, self.postgres.clone()),
            component: self.component.clone(),
        };
        let broken = |source| ConsumerError::Kafka { consumer: name, source };
        let consumer = ConsumerGuard::create_with_context(&self.kafka.consumer(name), callbacks).map_err(broken)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(broken)?;

        let lanes = (0..self.config.workers).map(|index| self.start_worker(index, &shared)).collect();
        let beat = self.component.part_beating("offsets", SIDE_TASK_STUCK_AFTER);
        let watch = restore_check::run(name, self.postgres.clone(), Arc::clone(&shared), beat);
        drop(self.context.shutdown.spawn_work(watch));
        let reading = self.component.part("reading");
        let lag = Lag {
            consumer: name,
            client: self.kafka.client().create().map_err(broken)?,
            shared: Arc::clone(&shared),
            reading: reading.clone(),
            component: self.component.part_beating("lag", SIDE_TASK_STUCK_AFTER),
        };
        std::thread::Builder::new()
            .name(format!("{name}-lag"))
            .spawn(move || lag::run(&lag))
            .map_err(|_| ConsumerError::Panicked(name))?;
        let (component, config) = (self.component.clone(), self.config.clone());
        let poll = Poll { name, consumer, shared: Arc::clone(&shared), config, lanes, component, reading };
        let (result, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("{name}-poll"))
            .spawn(move || drop(result.send(poll.run())))
            .map_err(|_| ConsumerError::Panicked(name))?;
        let ended = ended.await.unwrap_or(Err(ConsumerError::Panicked(name)));
        // Also when polling failed, so that workers and side tasks end too.
        shared.end.cancel();
        ended
    }

    /// Starts a worker and returns the channel to it.
    fn start_worker(&self, index: usize, shared: &Arc<Assignment>) -> WorkerChannel {
        let (sender, receiver) = mpsc::channel(1);
        let worker = Worker {
            projection: Arc::clone(&self.projection),
            postgres: self.postgres.clone(),
            shared: Arc::clone(shared),
            component: self.component.part_beating(format!("worker {index}"), WORKER_STUCK_AFTER),
            clock: Arc::clone(&self.context.clock),
            connection: None,
            records_max: usize::MAX,
        };
        drop(self.context.shutdown.spawn_work(worker.run(receiver)));
        WorkerChannel { sender, behind_since: None, paused: false }
    }

    /// Returns the topics' numbers in a regressed database; `None` if the process shuts down first.
    async fn reload_topic_ids(&self) -> Option<HashMap<String, i16>> {
        let soft = self.context.shutdown.soft();
        let mut backoff = Backoff::new(AGAIN_WAIT);
        loop {
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = soft.cancelled() => return None,
            }
            self.component.beat();
            match topic_ids(self.kafka, self.postgres, &self.topics).await {
                Ok(ids) => return Some(ids),
                Err(error) => {
                    self.component.not_ready(error.to_string());
                    tracing::warn!(%error, "{}: {error}", self.projection.name());
                }
            }
        }
    }
}

/// Returns the topics' numbers, after checking that Kafka is the cluster that the database belongs to.
async fn topic_ids(
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    topics: &[String],
) -> Result<HashMap<String, i16>, ClusterError> {
    let mut connection = postgres.connect().await?;
    cluster::ensure_current(kafka, &mut connection).await?;
    Ok(bounded(postgres.answer_limit(), store::topic_ids(&mut connection, topics)).await?)
}

/// Returns a function that loads the offsets from PostgreSQL; it is called on the polling thread.
fn load_offsets(name: &'static str, postgres: PostgresConfig) -> crate::consumer::assignment::LoadOffsets {
    let runtime = Handle::current();
    Box::new(move || {
        let load = async {
            let mut connection = postgres.connect().await?;
            store::offsets(&mut connection, name).await
        };
        runtime.block_on(bounded(OFFSETS_TIMEOUT, load))
    })
}
