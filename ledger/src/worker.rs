//! Applies batches, one after the other, until they are stored.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::{counter, histogram};
use riverlock_runtime::{Clock, Component};
use riverlock_schemas::oddity::Oddity;
use sqlx::PgConnection;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    Error, PostgresConfig, Projection, Record,
    batch::{self, Tally},
    context::{Batch, Shared},
    error::Disposition,
    metrics as names, postgres,
    store::{self, Outcome, Positions},
};

/// How long one transaction may take before its connection is given up.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Shortest and longest wait before a transaction runs again.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(5);

/// Least time between two warnings of one kind, in seconds.
const WARNINGS_EVERY_SECONDS: i64 = 60;

pub(crate) struct Worker<P> {
    pub(crate) projection: Arc<P>,
    pub(crate) postgres: PostgresConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) component: Component,
    pub(crate) clock: Arc<dyn Clock>,
    /// A connection of its own: no other task's trouble becomes this one's.
    pub(crate) connection: Option<PgConnection>,
}

impl<P: Projection> Worker<P> {
    /// Takes batches until the sender is gone.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        while let Some(Batch { records, before }) = batches.recv().await {
            let next = batch::next_offsets(&records);
            let stored = self.store(&records, before).await;
            self.shared.end(&next, stored);
        }
    }

    /// Stores a batch whatever it takes; `false` when the session ends first, and the batch is read again later.
    async fn store(&mut self, records: &[Record], mut before: Positions) -> bool {
        histogram!(names::BATCH_RECORDS, "consumer" => self.projection.name()).record(records.len() as f64);
        // What the database refuses is halved until the record is found that it refuses.
        let mut parts: Vec<Range<usize>> = Vec::with_capacity(16);
        parts.push(0..records.len());
        while let Some(part) = parts.pop() {
            let Some(result) = self.store_part(&records[part.clone()], &before, None).await else { return false };
            let Err(error) = result else {
                // The rest of a batch that was halved begins where this part ended.
                before.extend(batch::next_offsets(&records[part]).into_iter().map(|(place, next)| (place, Some(next))));
                continue;
            };
            if part.len() > 1 {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                continue;
            }
            let record = &records[part.start];
            tracing::error!(%error, "{} is refused by the database and becomes a dead letter: {error}", record.position());
            if self.store_part(&records[part], &before, Some(&error.to_string())).await.is_none() {
                return false;
            }
            before.insert((record.topic_id, record.partition), Some(record.offset + 1));
        }
        true
    }

    /// Runs one transaction until it is stored or its data is refused; `None` when the session ends first.
    async fn store_part(
        &mut self,
        records: &[Record],
        before: &Positions,
        refused: Option<&str>,
    ) -> Option<Result<(), Error>> {
        let mut wait = RETRY_WAIT.start;
        loop {
            let error = match self.attempt(records, before, refused).await {
                Ok(tally) => {
                    self.component.ready();
                    self.count(&tally);
                    return Some(Ok(()));
                }
                Err(error) if error.disposition() == Disposition::Isolate && refused.is_none() => {
                    return Some(Err(error));
                }
                Err(Error::WentBack) => {
                    self.shared.go_back();
                    return None;
                }
                Err(error) => error,
            };
            counter!(names::RETRIES, "consumer" => self.projection.name(), "reason" => error.label()).increment(1);
            if !error.leaves_connection_usable() {
                self.connection = None;
            }
            if matches!(error.label(), "lost_race" | "deadlock" | "serialization") {
                tracing::debug!(%error, "a batch runs again: {error}");
            } else {
                self.component.not_ready(error.to_string());
                tracing::warn!(%error, "a batch runs again in {} ms: {error}", wait.as_millis());
            }
            let jittered = wait.mul_f64(0.5 + fastrand::f64());
            tokio::select! {
                () = sleep(jittered) => {}
                () = self.shared.end.cancelled() => return None,
            }
            wait = (wait * 2).min(RETRY_WAIT.end);
        }
    }

    async fn attempt(&mut self, records: &[Record], before: &Positions, refused: Option<&str>) -> Result<Tally, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let started = Instant::now();
        let transaction =
            batch::apply_after(&mut connection, &*self.projection, records, before, refused, self.clock.now());
        // When time is up, the connection is dropped with whatever it was doing: nobody uses it again.
        let result = timeout(TRANSACTION_TIMEOUT, transaction).await;
        let result = result.unwrap_or_else(|_| Err(Error::TimedOut(TRANSACTION_TIMEOUT.as_secs())));
        if result.as_ref().map_or_else(Error::leaves_connection_usable, |_| true) {
            self.connection = Some(connection);
        }
        histogram!(names::BATCH_SECONDS, "consumer" => self.projection.name()).record(started.elapsed().as_secs_f64());
        result
    }

    /// A connection to the database whose tables are this version's, and whose topics have the numbers that the records have.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let mut connection = self.postgres.connect().await?;
        let unknown = postgres::migrations_unknown(&mut connection).await?;
        if unknown > 0 {
            return Err(Error::Newer(unknown));
        }
        let topics: Vec<String> = self.shared.ids.keys().cloned().collect();
        // A backup from before a topic was known gives it another number when it is known again.
        let same = store::known_topic_ids(&mut connection, &topics).await? == self.shared.ids;
        if same { Ok(connection) } else { Err(Error::WentBack) }
    }

    /// Warns of a mode that contradicts itself; the metric has how many there are.
    fn warn_of_mode(&self, event_id: &str) {
        static WARNED_AT_SECONDS: AtomicI64 = AtomicI64::new(0);
        let now = self.clock.now().timestamp();
        if now - WARNED_AT_SECONDS.load(Ordering::Relaxed) >= WARNINGS_EVERY_SECONDS {
            WARNED_AT_SECONDS.store(now, Ordering::Relaxed);
            tracing::warn!(
                event.id = event_id,
                "event {event_id} and its object disagree about `liveMode`; the event's counts"
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
    }
}
