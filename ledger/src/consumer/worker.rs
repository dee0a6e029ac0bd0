//! Workers: each stores batches one after the other, retrying until they are stored.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::{counter, histogram};
use riverlock_runtime::{Backoff, Clock, Component};
use riverlock_schemas::oddity::Oddity;
use sqlx::PgConnection;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    DeadReason, Error, PostgresConfig, Projection, Record,
    batch::{self, Tally},
    consumer::assignment::{Assignment, Batch},
    error::Disposition,
    metrics::{self as names, latency},
    postgres::{self, bounded},
    store::{self, Outcome, Positions},
};

/// Longest duration of one transaction before its connection is dropped.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Transactions grow again while one takes less than this, and less than a quarter of the statement timeout.
const GROW_BELOW: Duration = Duration::from_secs(5);
/// Shortest and longest wait before a transaction is retried.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(5);
/// Time between two heartbeats of an idle worker.
const IDLE_BEAT: Duration = Duration::from_secs(10);

/// Shortest time between two warnings of the same kind, in seconds.
const WARNINGS_EVERY_SECONDS: i64 = 60;

pub(crate) struct Worker<P> {
    pub(crate) projection: Arc<P>,
    pub(crate) postgres: PostgresConfig,
    pub(crate) shared: Arc<Assignment>,
    /// This worker's own component, so that workers do not overwrite each other's state.
    pub(crate) component: Component,
    pub(crate) clock: Arc<dyn Clock>,
    /// A dedicated connection, so that problems of other tasks do not affect it.
    pub(crate) connection: Option<PgConnection>,
    /// Current limit of the records in one transaction: halved when one takes too long, doubled while they are fast.
    pub(crate) records_max: usize,
}

/// Result of storing a part of a batch.
enum PartResult {
    Stored,
    /// The database rejects some of the data: the record must be found.
    Rejected(Error),
    /// It took too long: it may be stored in smaller parts.
    TooSlow,
}

impl<P: Projection> Worker<P> {
    /// Processes batches until the sender is dropped.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        loop {
            self.component.beat();
            match timeout(IDLE_BEAT, batches.recv()).await {
                Err(_) => {}
                Ok(None) => return,
                Ok(Some(Batch { records, before })) => {
                    let next = batch::next_offsets(&records);
                    let stored = self.store(&records, before).await;
                    self.shared.end(&next, stored);
                }
            }
        }
    }

    /// Stores a batch, retrying as long as necessary; returns `false` if the session ends first, and the batch is read
    /// again later.
    async fn store(&mut self, records: &[Record], mut before: Positions) -> bool {
        histogram!(names::BATCH_RECORDS, "consumer" => self.projection.name()).record(records.len() as f64);
        // A part that the database rejects is halved until the rejected record is found.
        let mut parts: Vec<Range<usize>> = Vec::with_capacity(16);
        parts.push(0..records.len());
        while let Some(mut part) = parts.pop() {
            if part.len() > self.records_max {
                let end = part.start + self.records_max;
                parts.push(end..part.end);
                part.end = end;
            }
            let started = Instant::now();
            let Some(ended) = self.store_part(&records[part.clone()], &before, None).await else { return false };
            match ended {
                PartResult::Stored => {
                    // A transaction twice as large is then still far from its time limit.
                    if part.len() >= self.records_max && started.elapsed() < self.grow_below() {
                        self.records_max = self.records_max.saturating_mul(2);
                    }
                    // The rest of a halved batch begins where this part ended.
                    let next = batch::next_offsets(&records[part]).into_iter();
                    before.extend(next.map(|(place, next)| (place, Some(next))));
                }
                PartResult::TooSlow => {
                    self.records_max = part.len().div_ceil(2);
                    tracing::warn!(
                        "{}: a batch takes too long and is stored in parts of {} records",
                        self.projection.name(),
                        self.records_max
                    );
                    parts.push(part);
                }
                PartResult::Rejected(_) if part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                PartResult::Rejected(error) => {
                    let (record, dead) = (&records[part.start], error.dead());
                    let (position, DeadReason { reason, detail }) = (record.position(), &dead);
                    tracing::error!("{position} cannot be applied and becomes a dead letter ({reason}): {detail}");
                    if self.store_part(&records[part], &before, Some(&dead)).await.is_none() {
                        return false;
                    }
                    before.insert((record.topic_id, record.partition), Some(record.offset + 1));
                }
            }
        }
        true
    }

    /// Retries one transaction until it is stored, its data is rejected, or it must be made smaller; returns `None` if
    /// the session ends first.
    async fn store_part(
        &mut self,
        records: &[Record],
        before: &Positions,
        rejected: Option<&DeadReason>,
    ) -> Option<PartResult> {
        let mut backoff = Backoff::new(RETRY_WAIT);
        loop {
            self.component.beat();
            let error = match self.attempt(records, before, rejected).await {
                Ok(tally) => {
                    self.component.ready();
                    self.count(&tally);
                    return Some(PartResult::Stored);
                }
                Err(error) if error.disposition() == Disposition::Isolate && rejected.is_none() => {
                    return Some(PartResult::Rejected(error));
                }
                Err(Error::Regressed) => {
                    self.shared.mark_regressed();
                    return None;
                }
                Err(error) => error,
            };
            counter!(names::RETRIES, "consumer" => self.projection.name(), "reason" => error.label()).increment(1);
            if !error.leaves_connection_usable() {
                self.connection = None;
            }
            let wait = backoff.next_wait();
            if matches!(error.label(), "lost_race" | "deadlock" | "serialization") {
                tracing::debug!(%error, "retrying a batch: {error}");
            } else {
                self.component.not_ready(error.to_string());
                tracing::warn!(%error, "retrying a batch in {} ms: {error}", wait.as_millis());
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.shared.end.cancelled() => return None,
            }
            if error.is_timeout() && records.len() > 1 {
                return Some(PartResult::TooSlow);
            }
        }
    }

    async fn attempt(
        &mut self,
        records: &[Record],
        before: &Positions,
        rejected: Option<&DeadReason>,
    ) -> Result<Tally, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let started = Instant::now();
        let transaction =
            batch::apply_after(&mut connection, &*self.projection, records, before, rejected, self.clock.now());
        // On a timeout the connection is dropped, because the server may still be executing the statement.
        let result = bounded(TRANSACTION_TIMEOUT, transaction).await;
        if result.as_ref().map_or_else(Error::leaves_connection_usable, |_| true) {
            self.connection = Some(connection);
        }
        histogram!(names::BATCH_SECONDS, "consumer" => self.projection.name()).record(started.elapsed().as_secs_f64());
        result
    }

    /// Opens a connection, after checking that the database's tables are of this version and its topics have the same
    /// numbers as the records.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let mut connection = self.postgres.connect_as(self.projection.name()).await?;
        let check = async {
            let unknown = postgres::migrations_unknown(&mut connection).await?;
            if unknown > 0 {
                return Err(Error::Newer(unknown));
            }
            let topics: Vec<String> = self.shared.ids.keys().cloned().collect();
            // After restoring a backup from before a topic was known, the topic gets another number.
            let same = store::known_topic_ids(&mut connection, &topics).await? == self.shared.ids;
            if same { Ok(()) } else { Err(Error::Regressed) }
        };
        bounded(self.postgres.answer_limit(), check).await?;
        self.projection.connected();
        Ok(connection)
    }

    /// Longest duration of a transaction for the next one to be larger.
    fn grow_below(&self) -> Duration {
        let limit = self.postgres.statement_timeout;
        // For PostgreSQL, 0 means no limit.
        if limit.is_zero() { GROW_BELOW } else { GROW_BELOW.min(limit / 4) }
    }

    /// Warns of an event whose mode is contradictory; the metric counts all of them.
    fn warn_of_mode(&self, event_id: &str) {
        static WARNED_AT_SECONDS: AtomicI64 = AtomicI64::new(0);
        let now = self.clock.now().timestamp();
        if now - WARNED_AT_SECONDS.load(Ordering::Relaxed) >= WARNINGS_EVERY_SECONDS {
            WARNED_AT_SECONDS.store(now, Ordering::Relaxed);
            tracing::warn!(
                event.id = event_id,
                "event {event_id} and its object have different values of `liveMode`; the event's is used"
            );
        }
    }

    fn count(&self, tally: &Tally) {
        let consumer = self.projection.name();
        for outcome in [Outcome::Applied, Outcome::Duplicate, Outcome::Ignored, Outcome::Conflict, Outcome::Dead] {
            counter!(names::RECORDS, "consumer" => consumer, "outcome" => outcome.as_str())
                .increment(tally.get(outcome));
        }
        for oddity in Oddity::ALL {
            counter!(names::ODDITIES, "consumer" => consumer, "kind" => oddity.as_str()).increment(tally.odd(oddity));
        }
        if let Some(event_id) = &tally.mode_contradiction {
            self.warn_of_mode(event_id);
        }
        counter!(names::REREAD, "consumer" => consumer).increment(tally.reread);
        latency::applied(&tally.times, self.clock.now());
    }
}
