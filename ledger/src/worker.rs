//! Applies batches, one after the other, until they are stored.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Duration};

use metrics::{counter, histogram};
use riverlock_runtime::{Clock, Component};
use sqlx::PgConnection;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, PostgresConfig, Projection, Record,
    batch::{self, Tally},
    context::{Partition, Shared},
    error::Disposition,
    metrics as names,
    store::Outcome,
};

/// How long one transaction may take before its connection is given up.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Shortest and longest wait before a transaction runs again.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(5);

pub(crate) struct Worker<P> {
    pub(crate) projection: Arc<P>,
    pub(crate) postgres: PostgresConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) component: Component,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
    /// A connection of its own: no other task's trouble becomes this one's.
    pub(crate) connection: Option<PgConnection>,
}

/// The partitions that a batch has records of.
pub(crate) fn partitions(records: &[Record]) -> HashSet<Partition> {
    records.iter().map(|record| (record.topic_id, record.partition)).collect()
}

impl<P: Projection> Worker<P> {
    /// Takes batches until the sender is gone.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Vec<Record>>) {
        while let Some(records) = batches.recv().await {
            let stored = self.store(&records).await;
            let next = stored.then(|| batch::next_offsets(&records));
            self.shared.end(&partitions(&records), next.as_ref());
        }
    }

    /// Stores a batch whatever it takes; `false` when the process ends first, and the batch is read again later.
    async fn store(&mut self, records: &[Record]) -> bool {
        histogram!(names::BATCH_RECORDS, "consumer" => self.projection.name()).record(records.len() as f64);
        // What the database refuses is halved until the record is found that it refuses.
        let mut parts: Vec<Range<usize>> = Vec::with_capacity(16);
        parts.push(0..records.len());
        while let Some(part) = parts.pop() {
            let Some(result) = self.store_part(&records[part.clone()], None).await else { return false };
            let Err(error) = result else { continue };
            if part.len() > 1 {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                continue;
            }
            let record = &records[part.start];
            tracing::error!(%error, "{} is refused by the database and becomes a dead letter: {error}", record.position());
            if self.store_part(&records[part], Some(&error.to_string())).await.is_none() {
                return false;
            }
        }
        true
    }

    /// Runs one transaction until it is stored or its data is refused; `None` when the process ends first.
    async fn store_part(&mut self, records: &[Record], refused: Option<&str>) -> Option<Result<(), Error>> {
        let mut wait = RETRY_WAIT.start;
        loop {
            let error = match self.attempt(records, refused).await {
                Ok(tally) => {
                    self.component.ready();
                    self.count(&tally);
                    return Some(Ok(()));
                }
                Err(error) if error.disposition() == Disposition::Isolate && refused.is_none() => {
                    return Some(Err(error));
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
                () = self.stop.cancelled() => return None,
            }
            wait = (wait * 2).min(RETRY_WAIT.end);
        }
    }

    async fn attempt(&mut self, records: &[Record], refused: Option<&str>) -> Result<Tally, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.postgres.connect().await?,
        };
        let started = Instant::now();
        let transaction = batch::apply(&mut connection, &*self.projection, records, refused, self.clock.now());
        // When time is up, the connection is dropped with whatever it was doing: nobody uses it again.
        let result = timeout(TRANSACTION_TIMEOUT, transaction).await;
        let result = result.unwrap_or_else(|_| Err(Error::TimedOut(TRANSACTION_TIMEOUT.as_secs())));
        if result.as_ref().map_or_else(Error::leaves_connection_usable, |_| true) {
            self.connection = Some(connection);
        }
        histogram!(names::BATCH_SECONDS, "consumer" => self.projection.name()).record(started.elapsed().as_secs_f64());
        result
    }

    fn count(&self, tally: &Tally) {
        let consumer = self.projection.name();
        for outcome in [Outcome::Applied, Outcome::Duplicate, Outcome::Ignored, Outcome::Conflict, Outcome::Dead] {
            counter!(names::RECORDS, "consumer" => consumer, "outcome" => outcome.as_str())
                .increment(tally.get(outcome));
        }
        counter!(names::REREAD, "consumer" => consumer).increment(tally.reread);
    }
}
