//! Applies a plan exactly as planned.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use rdkafka::consumer::Consumer as _;
use riverlock_runtime::{Backoff, ConsumerGuard, kafka::REQUEST_TIMEOUT};
use riverlock_schemas::{hash::Sha256Hash, kafka::topics::is_of_earlier_cluster, time::to_micros};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use super::{
    Observer, Replay, ReplayError, chunk,
    store::{self, ChunkProgress, Run, StoredPlan},
};
use crate::replay::{
    input::{
        pace::Pace,
        reading::{Chunk, ChunkReader},
    },
    report::ChunkResult,
};
use riverlock_ledger::{
    PostgresConfig,
    error::Disposition,
    postgres::{self, Lock, TRANSACTION_LIMIT, bounded, cluster},
    reading::ranges::{RangeError, ask_patiently, partition_counts},
    store as ledger_store,
};

/// How long a replay waits for a lock held by live traffic before it rolls back and retries the chunk.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// Shortest and longest wait before a chunk is retried.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(5);
/// Fewest digits by which a plan's hash may be given.
const HASH_DIGITS_MIN: usize = 8;

/// Result of applying a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayResult {
    /// The plan's hash.
    pub plan: String,
    /// Whether the plan is applied completely, as opposed to stopped.
    pub done: bool,
    /// Chunks that an earlier run had applied.
    pub resumed_at_chunk: u64,
    /// Chunks applied by this run.
    pub chunks: u64,
    /// Selected records read by this run.
    pub records: u64,
    /// Records that this run gave an outcome.
    pub fresh: u64,
    /// Messages written by this run.
    pub effects: u64,
}

/// Applies the plan whose hash begins with `hash`, resuming where an earlier run stopped.
///
/// # Errors
/// When there is no such plan, it was applied before, its result would differ from the plan, or Kafka does not answer.
/// Errors of PostgreSQL that may pass are retried.
pub async fn apply(replay: &Replay<'_>, hash: &str, observer: &mut dyn Observer) -> Result<ReplayResult, ReplayError> {
    let hash = hash.trim().to_ascii_lowercase();
    if hash.len() < HASH_DIGITS_MIN || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(ReplayError::BadHash(hash, HASH_DIGITS_MIN));
    }
    // Holds the lock until the end: while this connection lives, no other process can apply the plan.
    let mut holder = replay.postgres.connect().await?;
    cluster::ensure_current(replay.kafka, &mut holder).await?;
    let plan = bounded(TRANSACTION_LIMIT, find(&mut holder, &hash)).await?;
    bounded(TRANSACTION_LIMIT, hold(&mut holder, plan.hash)).await?;
    check(replay, &mut holder, &plan).await?;
    let run = bounded(TRANSACTION_LIMIT, begin(replay, &mut holder, &plan)).await?;

    let total = plan.ranges.iter().map(|assigned| assigned.range.records()).sum();
    let before = plan.ranges.iter().map(|assigned| {
        let range = &assigned.range;
        let next = run.next.get(&(assigned.topic_id, range.partition, range.start));
        u64::try_from(next.copied().unwrap_or(range.start) - range.start).unwrap_or_default()
    });
    let before = before.sum();
    observer.begin(total, before);
    if run.next_chunk > 0 {
        observer.say(&format!("resuming after {} completed chunks", run.next_chunk));
    }
    let group = format!("replay-{}", run.run_id);
    let mut reading = ChunkReader::start(replay.kafka, &group, &plan.ranges, &run.next, &plan.selection, plan.limits)?;
    let pace = Pace::start(replay).await?;
    let mut plan_run = PlanRun {
        replay,
        plan: &plan,
        postgres: PostgresConfig { lock_timeout: LOCK_TIMEOUT, ..replay.postgres.clone() },
        connection: None,
        pace,
        applied: ReplayResult {
            plan: plan.hash.to_string(),
            resumed_at_chunk: run.next_chunk,
            ..ReplayResult::default()
        },
        run,
    };
    let result = plan_run.all(&mut reading, before, observer).await;
    let (state, detail) = match &result {
        Ok(true) => ("done", None),
        Ok(false) => ("stopped", None),
        Err(error @ ReplayError::Deviates { .. }) => ("refused", Some(error.to_string())),
        Err(error) => ("stopped", Some(error.to_string())),
    };
    let (run_id, mut applied) = (plan_run.run.run_id, plan_run.applied);
    let stored = store::set_state(&mut holder, run_id, state, detail.as_deref(), replay.clock.now());
    bounded(TRANSACTION_LIMIT, stored).await?;
    applied.done = result?;
    Ok(applied)
}

async fn find(connection: &mut PgConnection, prefix: &str) -> Result<StoredPlan, ReplayError> {
    let mut hashes = store::plan_hashes(connection, prefix).await?;
    match (hashes.pop(), hashes.pop()) {
        (Some(hash), None) => Ok(store::load_plan(connection, hash).await?),
        (Some(_), Some(_)) => Err(ReplayError::AmbiguousPlan(prefix.to_owned())),
        (None, _) => Err(ReplayError::UnknownPlan(prefix.to_owned())),
    }
}

async fn hold(connection: &mut PgConnection, plan: Sha256Hash) -> Result<(), ReplayError> {
    let plan = plan.to_string();
    if postgres::try_lock(connection, Lock::Replay(&plan)).await? { Ok(()) } else { Err(ReplayError::Busy(plan)) }
}

/// Checks that Kafka still has the plan's ranges, and that the live consumers have read them.
async fn check(replay: &Replay<'_>, connection: &mut PgConnection, plan: &StoredPlan) -> Result<(), ReplayError> {
    if let Some(assigned) = plan.ranges.iter().find(|assigned| is_of_earlier_cluster(&assigned.range.topic)) {
        let (plan, topic) = (plan.hash.to_string(), assigned.range.topic.clone());
        return Err(ReplayError::EarlierCluster { plan, topic });
    }
    let client = ConsumerGuard::create(&replay.kafka.client()).map_err(ReplayError::kafka("connect to Kafka"))?;
    let topics: BTreeSet<String> = plan.ranges.iter().map(|assigned| assigned.range.topic.clone()).collect();
    let counts = partition_counts(&client, &topics.into_iter().collect::<Vec<_>>())?;
    for consumer in replay.consumers {
        let offsets = ledger_store::offsets(connection, consumer.name);
        let offsets = bounded(replay.postgres.answer_limit(), offsets).await?;
        for assigned in plan.ranges.iter().filter(|assigned| consumer.topics.contains(&assigned.range.topic)) {
            let range = &assigned.range;
            let (topic, partition) = (range.topic.clone(), range.partition);
            let (reached, partitions) = (offsets.get(&(assigned.topic_id, partition)), counts[&topic]);
            let reached = reached.copied().unwrap_or_default();
            if partition >= partitions {
                return Err(RangeError::NoPartition { topic, partition, partitions }.into());
            }
            if reached < range.end {
                let consumer = consumer.name;
                return Err(ReplayError::ConsumerRegressed { consumer, topic, partition, reached, end: range.end });
            }
            let (low, high) = ask_patiently(|| client.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT))
                .map_err(ReplayError::kafka("get watermarks from Kafka"))?;
            if range.start < low || range.end > high {
                let (start, end) = (range.start, range.end);
                return Err(ReplayError::NotInKafka { topic, partition, low, high, start, end });
            }
        }
    }
    Ok(())
}

/// Begins a new run, or resumes one that was stopped, killed or rejected.
async fn begin(replay: &Replay<'_>, connection: &mut PgConnection, plan: &StoredPlan) -> Result<Run, ReplayError> {
    let now = to_micros(replay.clock.now());
    match store::last_run(connection, plan).await? {
        None => Ok(store::begin_run(connection, plan, (replay.by, replay.why), now).await?),
        Some(last) => match last.ended_at {
            Some(when) if last.state == "done" => {
                Err(ReplayError::AlreadyDone { plan: plan.hash.to_string(), when, by: last.started_by })
            }
            _ => Ok(store::resume_run(connection, &last, (replay.by, replay.why), now).await?),
        },
    }
}

/// A plan that is being applied.
struct PlanRun<'a> {
    replay: &'a Replay<'a>,
    plan: &'a StoredPlan,
    /// With a short lock timeout.
    postgres: PostgresConfig,
    connection: Option<PgConnection>,
    pace: Pace,
    run: Run,
    applied: ReplayResult,
}

impl PlanRun<'_> {
    /// Applies chunk after chunk; returns `false` if stopped between two of them.
    async fn all(
        &mut self,
        reading: &mut ChunkReader,
        before: u64,
        observer: &mut dyn Observer,
    ) -> Result<bool, ReplayError> {
        while let Some(chunk) = reading.next().await? {
            if !self.pace.wait(chunk.records.len(), observer, &self.replay.stop).await {
                return Ok(false);
            }
            if !self.store(&chunk, observer).await? {
                return Ok(false);
            }
            observer.progress(before + reading.records_read(), self.applied.records);
        }
        Ok(true)
    }

    /// Stores a chunk, retrying as long as necessary; returns `false` if stopped first.
    async fn store(&mut self, chunk: &Chunk, observer: &mut dyn Observer) -> Result<bool, ReplayError> {
        let mut backoff = Backoff::new(RETRY_WAIT);
        loop {
            let error = match self.attempt(chunk).await {
                Ok(applied) => {
                    self.run.next_chunk += 1;
                    self.applied.chunks += 1;
                    self.applied.records += chunk.records.len() as u64;
                    self.applied.fresh += applied.outcomes.len() as u64;
                    self.applied.effects += applied.effects.len() as u64;
                    return Ok(true);
                }
                Err(ReplayError::Ledger(error)) if error.disposition() == Disposition::Retry => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(%error, "retrying chunk {}: {error}", self.run.next_chunk);
            let wait = backoff.next_wait();
            if backoff.is_longest() {
                observer.say(&format!("chunk {} is waiting for PostgreSQL: {error}", self.run.next_chunk));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.replay.stop.cancelled() => return Ok(false),
            }
        }
    }

    async fn attempt(&mut self, chunk: &Chunk) -> Result<ChunkResult, ReplayError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.postgres.connect().await?,
        };
        let result = bounded(TRANSACTION_LIMIT, self.transact(&mut connection, chunk)).await;
        let is_usable = match &result {
            Ok(_) => true,
            Err(ReplayError::Ledger(error)) => error.leaves_connection_usable(),
            Err(_) => false,
        };
        self.connection = is_usable.then_some(connection);
        result
    }

    /// One transaction: the chunk's result, if it is as planned, and the progress of the run.
    async fn transact(&self, connection: &mut PgConnection, chunk: &Chunk) -> Result<ChunkResult, ReplayError> {
        let mut transaction = connection.begin().await?;
        let number = self.run.next_chunk;
        match store::lock_run(&mut transaction, self.run.run_id).await? {
            None => return Err(ReplayError::Superseded(self.plan.hash.to_string())),
            // The chunk was committed, but the confirmation was lost.
            Some(next) if next > number => return Ok(ChunkResult::default()),
            Some(_) => {}
        }
        let now = to_micros(self.replay.clock.now());
        let positions: Vec<_> = chunk.records.iter().map(chunk::position).collect();
        let known = store::known(&mut transaction, &positions).await?;
        let fresh = chunk::without(&chunk.records, &known);
        let applied = chunk::apply(&mut transaction, self.replay.consumers, &fresh, now).await?;
        let planned = self.plan.chunks.get(&number);
        if applied.digest() != planned.map(|planned| planned.digest) {
            return Err(ReplayError::Deviates {
                plan: self.plan.hash.to_string(),
                chunk: number,
                planned: planned.map_or_else(|| ChunkResult::default().summary(), |planned| planned.summary.clone()),
                found: applied.summary(),
                done: number,
            });
        }
        let (fresh, effects) = (applied.outcomes.len(), applied.effects.len());
        let step = ChunkProgress { records: chunk.records.len(), fresh, effects, next: &chunk.next };
        store::advance_run(&mut transaction, self.run.run_id, &step, now).await?;
        transaction.commit().await?;
        Ok(applied)
    }
}
