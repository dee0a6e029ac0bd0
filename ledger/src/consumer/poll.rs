//! The polling thread: takes records from Kafka, and gives each worker those of its partitions.
//!
//! A worker that is behind holds up nobody else: its partitions are paused, and the others are read on.

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

/// How often Kafka is told how far PostgreSQL is.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long one poll waits for a record when nothing is buffered.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long a worker may be behind before its partitions are paused, so that polling can go on without their records. Pausing
/// throws away what was fetched ahead, so a worker that is only busy is waited for.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// The same while another worker has nothing to do: what it waits for may come behind the records of the one that is behind.
const PAUSE_AFTER_STARVING: Duration = Duration::from_millis(50);
/// How long Kafka may take to go back to an offset.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long batches in flight may take to end at shutdown.
const DRAIN_WAIT: Duration = Duration::from_secs(15);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The process ends.
    Stopped,
    /// The database lacks what it once had: the next session begins where the database stands.
    WentBack,
}

/// The way to one worker.
pub(crate) struct WorkerChannel {
    pub(crate) sender: mpsc::Sender<Batch>,
    /// Since when the worker has not taken a batch that is full.
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
    /// Says whether Kafka lets the consumer read.
    pub(crate) reading: Component,
}

impl Poll {
    /// Reads until the session ends.
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
        // What is only buffered is read again later; what a worker has is stored first.
        drop(self.lanes);
        if !self.shared.wait_idle(None, DRAIN_WAIT) {
            tracing::warn!("{} ends while batches are in flight; they are read again", self.name);
        }
        if self.shared.went_back() {
            return Ok(SessionEnd::WentBack);
        }
        // Closing the consumer waits for the answer.
        self.shared.commit(&self.consumer, None);
        Ok(SessionEnd::Stopped)
    }

    /// How long a poll waits for a record: longer when there is nothing to hand over meanwhile.
    fn wait(&self) -> Duration {
        let is_empty = self.shared.lock().buffers.iter().all(|buffer| buffer.records.is_empty());
        if is_empty { POLL_WAIT } else { self.config.linger }
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
        let partition = (record.topic_id, record.partition);
        let mut state = self.shared.lock();
        if !state.reads(partition) {
            // Given away in the meantime: whoever has the partition reads it.
            return false;
        }
        match state.sequence.arrive(partition, record.offset) {
            Arrival::Next => {}
            Arrival::Stale => return false,
            Arrival::Gap { missing } => {
                drop(state);
                self.read_again(&record, partition, missing);
                return false;
            }
            Arrival::LastingGap { missing } => {
                counter!(names::GAPS, "consumer" => self.name, "kind" => "lasting").increment(1);
                tracing::error!(
                    "{}: {} follows offset {} although nothing was read from {missing} on, several times: Kafka has nothing \
                     there, and reading goes on",
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

    /// Has Kafka send a partition again from the first record on that did not come.
    fn read_again(&self, record: &Record, partition: Partition, missing: i64) {
        counter!(names::GAPS, "consumer" => self.name, "kind" => "reread").increment(1);
        tracing::error!(
            "{}: {} came where offset {missing} was expected: the partition is read again from there",
            self.name,
            record.position(),
        );
        match self.consumer.seek(&record.topic, record.partition, Offset::Offset(missing), SEEK_TIMEOUT) {
            Ok(()) => self.shared.lock().sequence.reread(partition, missing),
            // The next record shows the gap again.
            Err(error) => tracing::warn!(%error, "{} could not go back: {error}", self.name),
        }
    }

    fn is_full(&self, buffer: &Buffer) -> bool {
        buffer.records.len() >= self.config.records_max || buffer.bytes >= self.config.bytes_max
    }

    /// Gives every worker its batch, if the batch is full or old enough. A worker that cannot take a full one is behind; one
    /// that was and takes it is read for again.
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
                    // Workers end after this thread; this one has panicked.
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

    /// Pauses the partitions of workers that are behind for too long, so that the others go on. `false` when reading has to
    /// wait for a worker: polling now would bring records that it has no room for.
    fn relieve(&mut self) -> bool {
        if self.lanes.iter().all(|lane| lane.behind_since.is_none()) {
            return true;
        }
        let starving = {
            let state = self.shared.lock();
            (0..self.lanes.len()).any(|index| state.starves(index))
        };
        let patience = if starving { PAUSE_AFTER_STARVING } else { PAUSE_AFTER };
        let mut may_read = true;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let Some(since) = lane.behind_since else { continue };
            if lane.paused || since.elapsed() >= patience {
                // Again for one that is paused: a rebalance may bring partitions that are not.
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
                // Said once, when it begins; the lag shows when it has passed.
                tracing::error!(%error, "{} cannot read: {error}", self.name);
                self.shared.trouble();
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
