//! The polling thread: reads records from Kafka and distributes them to the workers by partition.
//!
//! A slow worker does not block the others: its partitions are paused, and reading the others continues.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use rdkafka::{
    Offset,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::Message as _,
};
use riverlock_runtime::{Component, ConsumerGuard};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    Record,
    consumer::{
        BatchConfig, ConsumerError,
        assignment::{Assignment, Batch, Buffer, Callbacks},
        sequence::Arrival,
    },
    metrics as names,
    store::Partition,
};

/// Time between two commits of offsets to Kafka.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait of one poll when nothing is buffered.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long a worker may be behind before its partitions are paused, so that polling can continue without their
/// records. Pausing discards prefetched records, so a worker that is only briefly busy is waited for.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// The same while another worker is idle: the records it waits for may be behind those of the slow worker.
const PAUSE_AFTER_STARVING: Duration = Duration::from_millis(50);
/// Longest duration of a seek.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long batches in flight may take to finish at shutdown.
const DRAIN_WAIT: Duration = Duration::from_secs(15);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The process is shutting down.
    Stopped,
    /// The database regressed: the next session begins at the database's offsets.
    Regressed,
}

/// Channel to one worker.
pub(crate) struct WorkerChannel {
    pub(crate) sender: mpsc::Sender<Batch>,
    /// Since when the worker has not taken a full batch.
    pub(crate) behind_since: Option<Instant>,
    /// Whether its partitions are paused.
    pub(crate) paused: bool,
}

/// The polling thread.
pub(crate) struct Poll {
    pub(crate) name: &'static str,
    pub(crate) consumer: ConsumerGuard<Callbacks>,
    pub(crate) shared: Arc<Assignment>,
    pub(crate) config: BatchConfig,
    pub(crate) lanes: Vec<WorkerChannel>,
    pub(crate) component: Component,
    /// Reports whether Kafka lets the consumer read.
    pub(crate) reading: Component,
}

impl Poll {
    /// Polls until the session ends.
    pub(crate) fn run(mut self) -> Result<SessionEnd, ConsumerError> {
        let mut committed = Instant::now();
        self.component.ready();
        while !self.shared.end.is_cancelled() {
            self.component.beat();
            self.hand_over()?;
            if self.relieve() {
                self.poll(self.wait())?;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
            if committed.elapsed() >= COMMIT_INTERVAL {
                self.shared.commit(&self.consumer, None);
                committed = Instant::now();
            }
        }
        // Records that are only buffered are read again later; batches that a worker has are stored first.
        drop(self.lanes);
        if !self.shared.wait_idle(None, DRAIN_WAIT) {
            tracing::warn!("{} stops while batches are in flight; their records will be read again", self.name);
        }
        if self.shared.has_regressed() {
            return Ok(SessionEnd::Regressed);
        }
        // Closing the consumer waits for the commit.
        self.shared.commit(&self.consumer, None);
        Ok(SessionEnd::Stopped)
    }

    /// Longest wait of the next poll; longer if no buffered records are to be distributed meanwhile.
    fn wait(&self) -> Duration {
        let is_empty = self.shared.lock().buffers.iter().all(|buffer| buffer.records.is_empty());
        if is_empty { POLL_WAIT } else { self.config.linger }
    }

    /// Reads available records, up to the first full buffer.
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
                Err(error) => self.handle_error(error)?,
            }
            next = self.consumer.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Adds a record to its worker's buffer; returns `true` if the buffer is full.
    fn push(&self, record: Record) -> bool {
        let partition = (record.topic_id, record.partition);
        let mut state = self.shared.lock();
        if !state.reads(partition) {
            // Revoked in the meantime: the new owner reads it.
            return false;
        }
        match state.sequence.arrive(partition, record.offset) {
            Arrival::Next => {}
            Arrival::Stale => return false,
            Arrival::Gap { missing } => {
                drop(state);
                self.reread_from(&record, partition, missing);
                return false;
            }
            Arrival::PermanentGap { missing } => {
                counter!(names::GAPS, "consumer" => self.name, "kind" => "lasting").increment(1);
                tracing::error!(
                    "{}: {} follows offset {}, and reading from {missing} again found no records several times: Kafka has none \
                     there, and reading continues",
                    self.name,
                    record.position(),
                    missing - 1,
                );
            }
        }
        let worker = state.worker_of(partition);
        let buffer = &mut state.buffers[worker];
        buffer.since.get_or_insert_with(Instant::now);
        buffer.bytes += record.bytes();
        buffer.records.push(record);
        self.is_full(buffer)
    }

    /// Reads a partition again from the first missing record.
    fn reread_from(&self, record: &Record, partition: Partition, missing: i64) {
        counter!(names::GAPS, "consumer" => self.name, "kind" => "reread").increment(1);
        tracing::error!(
            "{}: received {} where offset {missing} was expected: reading the partition again from there",
            self.name,
            record.position(),
        );
        match self.consumer.seek(&record.topic, record.partition, Offset::Offset(missing), SEEK_TIMEOUT) {
            Ok(()) => self.shared.lock().sequence.reread(partition, missing),
            // The next record shows the gap again.
            Err(error) => tracing::warn!(%error, "{} could not seek: {error}", self.name),
        }
    }

    fn is_full(&self, buffer: &Buffer) -> bool {
        buffer.records.len() >= self.config.records_max || buffer.bytes >= self.config.bytes_max
    }

    /// Gives every worker its batch, if the batch is full or old enough. A worker that cannot take a full batch is
    /// behind; when it takes it, its partitions are resumed.
    fn hand_over(&mut self) -> Result<(), ConsumerError> {
        for index in 0..self.lanes.len() {
            let mut state = self.shared.lock();
            let buffer = &mut state.buffers[index];
            let full = self.is_full(buffer);
            let due = full || buffer.since.is_some_and(|since| since.elapsed() >= self.config.linger);
            if buffer.records.is_empty() {
                buffer.since = None;
            }
            let taken = if buffer.records.is_empty() || !due {
                true
            } else {
                match self.lanes[index].sender.try_reserve() {
                    Ok(permit) => {
                        permit.send(state.take_batch(index));
                        true
                    }
                    Err(TrySendError::Full(())) => !full,
                    // Workers end after this thread, so this one has panicked.
                    Err(TrySendError::Closed(())) => return Err(ConsumerError::Panicked(self.name)),
                }
            };
            drop(state);
            let lane = &mut self.lanes[index];
            if !taken {
                lane.behind_since.get_or_insert_with(Instant::now);
            } else {
                lane.behind_since = None;
                if std::mem::take(&mut lane.paused) {
                    self.pause(index, false);
                }
            }
        }
        Ok(())
    }

    /// Pauses the partitions of workers that have been behind for too long, so that the others can continue. Returns
    /// `false` if polling must wait for a worker, because it would bring records that do not fit.
    fn relieve(&mut self) -> bool {
        if self.lanes.iter().all(|lane| lane.behind_since.is_none()) {
            return true;
        }
        let starving = {
            let state = self.shared.lock();
            (0..self.lanes.len()).any(|index| state.is_starved(index))
        };
        let patience = if starving { PAUSE_AFTER_STARVING } else { PAUSE_AFTER };
        let mut may_read = true;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let Some(since) = lane.behind_since else { continue };
            if lane.paused || since.elapsed() >= patience {
                // Repeated for a paused worker: a rebalance may have assigned partitions that are not paused.
                lane.paused = true;
                self.pause(index, true);
            } else {
                may_read = false;
            }
        }
        may_read
    }

    /// Pauses or resumes the partitions of one worker.
    fn pause(&self, worker: usize, pause: bool) {
        let result =
            if pause { self.shared.pause(&self.consumer, worker) } else { self.shared.resume(&self.consumer, worker) };
        if let Err(error) = result {
            let verb = if pause { "pause" } else { "resume" };
            tracing::warn!(%error, "{} could not {verb} the partitions of worker {worker}: {error}", self.name);
        }
        let paused = self.lanes.iter().filter(|lane| lane.paused).count();
        gauge!(names::PAUSED, "consumer" => self.name).set(paused as f64);
    }

    /// Handles an error of the consumer: most errors pass, some end the process.
    fn handle_error(&self, error: KafkaError) -> Result<(), ConsumerError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(ConsumerError::OffsetGone { consumer: self.name, reason: error.to_string() })
            }
            Some(RDKafkaErrorCode::Fatal) => Err(ConsumerError::Kafka { consumer: self.name, source: error }),
            _ if self.consumer.client().fatal_error().is_some() => {
                Err(ConsumerError::Kafka { consumer: self.name, source: error })
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::InconsistentGroupProtocol,
            ) => {
                // Logged once, when it begins; the lag shows when it has passed.
                tracing::error!(%error, "{} cannot read: {error}", self.name);
                self.shared.note_read_error();
                self.reading.not_ready(error.to_string());
                Ok(())
            }
            _ => {
                tracing::warn!(%error, "{}: {error}", self.name);
                Ok(())
            }
        }
    }
}
