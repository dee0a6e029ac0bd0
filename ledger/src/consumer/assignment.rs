//! State shared by the polling thread, the workers and librdkafka's callbacks.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use riverlock_runtime::{Backoff, Component};
use tokio_util::sync::CancellationToken;

use crate::{Record, batch, consumer::sequence::Sequence, metrics as names, store::Partition, store::Positions};

/// How long batches of a revoked partition may take to finish before the partition is released regardless.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// Shortest and longest wait before PostgreSQL is asked for offsets again.
const OFFSETS_RETRY: Range<Duration> = Duration::from_millis(250)..Duration::from_secs(5);

/// Records that are collected for one worker.
#[derive(Default)]
pub(crate) struct Buffer {
    pub(crate) records: Vec<Record>,
    pub(crate) bytes: usize,
    pub(crate) since: Option<Instant>,
}

/// Records for one transaction of a worker.
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// The consumer's offsets before these records, in their partitions.
    pub(crate) before: Positions,
}

#[derive(Default)]
pub(crate) struct AssignmentState {
    /// One per worker.
    pub(crate) buffers: Vec<Buffer>,
    /// Where the next batch of each assigned partition begins.
    positions: Positions,
    /// Offsets that PostgreSQL has confirmed for the assigned partitions.
    confirmed: HashMap<Partition, i64>,
    /// The next expected record of each partition.
    pub(crate) sequence: Sequence,
    /// Assigned partitions whose fetching is paused.
    paused: HashSet<Partition>,
    /// Batches that a worker has not finished, per partition.
    in_flight: HashMap<Partition, usize>,
    /// Offsets that are stored in PostgreSQL and not committed to Kafka yet.
    uncommitted: HashMap<Partition, i64>,
}

impl AssignmentState {
    /// Whether the partition is assigned to this process.
    pub(crate) fn reads(&self, partition: Partition) -> bool {
        self.positions.contains_key(&partition)
    }

    /// The worker of a partition.
    pub(crate) fn worker_of(&self, partition: Partition) -> usize {
        usize::try_from(partition.1).unwrap_or_default() % self.buffers.len()
    }

    /// Whether a worker has nothing to do although it has partitions.
    pub(crate) fn is_starved(&self, worker: usize) -> bool {
        let own = |partition: &Partition| self.worker_of(*partition) == worker;
        self.buffers[worker].records.is_empty() && self.positions.keys().any(own) && !self.in_flight.keys().any(own)
    }

    /// Takes the records of a worker's buffer as its next batch.
    pub(crate) fn take_batch(&mut self, worker: usize) -> Batch {
        let records = std::mem::take(&mut self.buffers[worker]).records;
        let mut before = Positions::new();
        for (partition, next) in batch::next_offsets(&records) {
            before.insert(partition, self.positions.insert(partition, Some(next)).flatten());
            *self.in_flight.entry(partition).or_default() += 1;
        }
        Batch { records, before }
    }
}

/// Shared state. The lock is held only briefly, and never during requests to Kafka or PostgreSQL.
pub(crate) struct Assignment {
    state: Mutex<AssignmentState>,
    finished: Condvar,
    /// Topics by number, and numbers by topic.
    pub(crate) names: HashMap<i16, Arc<str>>,
    pub(crate) ids: HashMap<String, i16>,
    /// Whether the database regressed.
    regressed: AtomicBool,
    /// When Kafka last rejected a read, unless reading has succeeded since.
    read_error_at: Mutex<Option<Instant>>,
    /// Ends the session: at shutdown, or to read again from the database's offsets.
    pub(crate) end: CancellationToken,
}

impl Assignment {
    pub(crate) fn new(ids: HashMap<String, i16>, workers: usize, end: CancellationToken) -> Self {
        let state = AssignmentState {
            buffers: (0..workers).map(|_| Buffer::default()).collect(),
            ..AssignmentState::default()
        };
        let names = ids.iter().map(|(name, &id)| (id, Arc::from(name.as_str()))).collect();
        Self {
            state: Mutex::new(state),
            finished: Condvar::new(),
            names,
            ids,
            regressed: AtomicBool::new(false),
            read_error_at: Mutex::new(None),
            end,
        }
    }

    /// Records that Kafka rejects reading: a permission or a topic is missing.
    pub(crate) fn note_read_error(&self) {
        *self.read_error_at.lock().expect("no code panics while it holds the time") = Some(Instant::now());
    }

    /// Records that reading has succeeded.
    pub(crate) fn clear_read_error(&self) {
        *self.read_error_at.lock().expect("no code panics while it holds the time") = None;
    }

    /// Since when Kafka has rejected reading.
    pub(crate) fn read_error_since(&self) -> Option<Instant> {
        *self.read_error_at.lock().expect("no code panics while it holds the time")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AssignmentState> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Ends the session because the database regressed.
    pub(crate) fn mark_regressed(&self) {
        self.regressed.store(true, Ordering::Relaxed);
        self.end.cancel();
    }

    /// Whether the session ends because the database regressed.
    pub(crate) fn has_regressed(&self) -> bool {
        self.regressed.load(Ordering::Relaxed)
    }

    /// The offsets that PostgreSQL has confirmed for the assigned partitions.
    pub(crate) fn confirmed(&self) -> HashMap<Partition, i64> {
        self.lock().confirmed.clone()
    }

    /// The assigned partitions, and the offsets that PostgreSQL has confirmed.
    pub(crate) fn reading(&self) -> Vec<(Partition, Option<i64>)> {
        let state = self.lock();
        state.positions.keys().map(|partition| (*partition, state.confirmed.get(partition).copied())).collect()
    }

    /// Records that a worker has finished a batch that ended at these offsets; `stored` tells whether PostgreSQL has
    /// it.
    pub(crate) fn end(&self, next_offsets: &HashMap<Partition, i64>, stored: bool) {
        let mut state = self.lock();
        for (partition, next) in next_offsets {
            if let Some(count) = state.in_flight.get_mut(partition) {
                *count = count.saturating_sub(1);
            }
            if stored {
                state.uncommitted.insert(*partition, *next);
                if state.reads(*partition) {
                    state.confirmed.insert(*partition, *next);
                }
            }
        }
        state.in_flight.retain(|_, count| *count > 0);
        drop(state);
        self.finished.notify_all();
    }

    /// Starts an assigned partition at `next`.
    pub(crate) fn start(&self, partition: Partition, next: Option<i64>) {
        let mut state = self.lock();
        state.positions.insert(partition, next);
        state.confirmed.extend(next.map(|next| (partition, next)));
        state.sequence.start(partition, next);
    }

    /// Ends revoked partitions; their buffered records are dropped.
    fn stop(&self, partitions: &HashSet<Partition>) {
        let mut state = self.lock();
        for buffer in &mut state.buffers {
            buffer.records.retain(|record| !partitions.contains(&(record.topic_id, record.partition)));
            buffer.bytes = buffer.records.iter().map(Record::bytes).sum();
        }
        state.positions.retain(|partition, _| !partitions.contains(partition));
        state.confirmed.retain(|partition, _| !partitions.contains(partition));
        state.sequence.stop(partitions);
        state.paused.retain(|partition| !partitions.contains(partition));
    }

    /// Number of assigned partitions. librdkafka is not asked: it may drop a request that arrives while it closes the
    /// consumer, and the caller would wait forever.
    fn assigned(&self) -> usize {
        self.lock().positions.len()
    }

    /// Pauses those partitions of a worker that are not paused yet; a rebalance may have assigned some.
    pub(crate) fn pause<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, worker: usize) -> KafkaResult<()> {
        let mut state = self.lock();
        let reading: HashSet<Partition> = state
            .positions
            .keys()
            .filter(|partition| state.worker_of(**partition) == worker && !state.paused.contains(*partition))
            .copied()
            .collect();
        state.paused.extend(&reading);
        drop(state);
        if reading.is_empty() { Ok(()) } else { consumer.pause(&self.list(reading)) }
    }

    /// Resumes the paused partitions of a worker.
    pub(crate) fn resume<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, worker: usize) -> KafkaResult<()> {
        let mut state = self.lock();
        let paused: HashSet<Partition> =
            state.paused.iter().filter(|partition| state.worker_of(**partition) == worker).copied().collect();
        state.paused.retain(|partition| !paused.contains(partition));
        drop(state);
        if paused.is_empty() { Ok(()) } else { consumer.resume(&self.list(paused)) }
    }

    fn list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(&self.names[&topic], partition);
        }
        list
    }

    /// Waits until no worker has a batch with one of these partitions; `None` means any partition.
    pub(crate) fn wait_idle(&self, partitions: Option<&HashSet<Partition>>, wait: Duration) -> bool {
        let busy = |state: &mut AssignmentState| match partitions {
            None => !state.in_flight.is_empty(),
            Some(partitions) => partitions.iter().any(|partition| state.in_flight.contains_key(partition)),
        };
        let waited = self.finished.wait_timeout_while(self.lock(), wait, busy);
        !waited.expect("no code panics while it holds the state").1.timed_out()
    }

    fn partitions(&self, list: &TopicPartitionList) -> HashSet<Partition> {
        let known = |topic: &str| self.ids.get(topic).copied();
        list.elements().iter().filter_map(|element| Some((known(element.topic())?, element.partition()))).collect()
    }

    /// Commits the offsets to Kafka, for tools that monitor the lag. `only` restricts it to some partitions.
    /// Asynchronous: librdkafka sends the commit before anything else, but would wait forever for a lost answer.
    pub(crate) fn commit<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, only: Option<&HashSet<Partition>>) {
        let mut list = TopicPartitionList::new();
        let mut state = self.lock();
        let wanted = |partition: &Partition| only.is_none_or(|only| only.contains(partition));
        state.uncommitted.retain(|partition, next| {
            if !wanted(partition) {
                return true;
            }
            // A name in `uncommitted` came from a record of that topic.
            let added = list.add_partition_offset(&self.names[&partition.0], partition.1, Offset::Offset(*next));
            added.is_err()
        });
        drop(state);
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "cannot commit offsets to Kafka, which affects only its lag: {error}");
        }
    }
}

/// Loads the consumer's offsets. Called on the polling thread.
pub(crate) type LoadOffsets = Box<dyn Fn() -> Result<HashMap<Partition, i64>, crate::Error> + Send + Sync>;

/// librdkafka's callbacks. All of them run inside `poll`, on the polling thread.
pub(crate) struct Callbacks {
    pub(crate) consumer: &'static str,
    pub(crate) shared: Arc<Assignment>,
    pub(crate) load_offsets: LoadOffsets,
    pub(crate) component: Component,
}

impl Callbacks {
    /// Starts the partitions at PostgreSQL's offsets, regardless of those committed to Kafka.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let mut backoff = Backoff::new(OFFSETS_RETRY);
        let offsets = loop {
            match (self.load_offsets)() {
                Ok(offsets) => break offsets,
                Err(_) if self.shared.end.is_cancelled() => break HashMap::new(),
                Err(error) => {
                    tracing::warn!(%error, "{} cannot start partitions without its offsets: {error}", self.consumer);
                    self.component.not_ready(error.to_string());
                    // The thread waits for PostgreSQL and is not stuck; restarting would not help.
                    self.component.beat();
                    std::thread::sleep(backoff.next_wait());
                }
            }
        };
        self.component.ready();
        // librdkafka remembers that a partition was paused when it was revoked, and would never read it again.
        if let Err(error) = consumer.resume(&self.shared.list(self.shared.partitions(list))) {
            tracing::error!(%error, "{} could not resume its partitions: {error}", self.consumer);
        }
        let places: Vec<(String, i32)> =
            list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        for (topic, partition) in places {
            let Some(&id) = self.shared.ids.get(&topic) else { continue };
            let next = offsets.get(&(id, partition)).copied();
            self.shared.start((id, partition), next);
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            if let Err(error) = list.set_partition_offset(&topic, partition, offset) {
                tracing::error!(topic, partition, %error, "{topic}[{partition}] cannot start at {offset:?}: {error}");
            }
        }
        if let Err(error) = consumer.assign(list) {
            tracing::error!(%error, "{} could not assign its partitions: {error}", self.consumer);
        }
    }

    /// Ends the partitions: buffered records are dropped, batches in flight are waited for.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = self.shared.partitions(list);
        self.shared.stop(&partitions);
        if !self.shared.wait_idle(Some(&partitions), REVOKE_WAIT) {
            tracing::warn!("{} releases partitions while batches are in flight; nothing is lost", self.consumer);
        }
        if !consumer.assignment_lost() {
            self.shared.commit(consumer, Some(&partitions));
        }
        if let Err(error) = consumer.unassign() {
            tracing::error!(%error, "{} could not release its partitions: {error}", self.consumer);
        }
    }
}

/// Facility of librdkafka's warning that a broker belongs to another cluster than the client was connected to.
const OTHER_CLUSTER: &str = "CLUSTERID";

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        if fac == OTHER_CLUSTER {
            // The offsets are meaningless there. The next session begins only on the cluster that the database belongs
            // to.
            self.shared.mark_regressed();
        }
        DefaultClientContext.log(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, "{}: Kafka: {reason}", self.consumer);
    }
}

impl ConsumerContext for Callbacks {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let kind = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assign(consumer, list);
                self.shared.clear_read_error();
                "assign"
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.revoke(consumer, list);
                "revoke"
            }
            other => {
                tracing::error!("{}: rebalance failed: {other:?}", self.consumer);
                self.revoke(consumer, list);
                "error"
            }
        };
        let assigned = self.shared.assigned();
        tracing::info!("{}: {kind} {} partitions, {assigned} in all", self.consumer, list.count());
        counter!(names::REBALANCES, "consumer" => self.consumer, "kind" => kind).increment(1);
        gauge!(names::PARTITIONS, "consumer" => self.consumer).set(assigned as f64);
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "cannot commit offsets to Kafka, which affects only its lag: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(workers: usize) -> AssignmentState {
        AssignmentState { buffers: (0..workers).map(|_| Buffer::default()).collect(), ..AssignmentState::default() }
    }

    #[test]
    fn a_worker_is_starved_if_it_has_partitions_but_no_records() {
        let mut state = state(2);
        state.positions.extend([((1, 0), Some(0)), ((1, 1), Some(0))]);
        assert!(state.is_starved(0) && state.is_starved(1));
        state.in_flight.insert((1, 1), 1);
        assert!(state.is_starved(0) && !state.is_starved(1));
        state.positions.remove(&(1, 0));
        assert!(!state.is_starved(0), "it has no partition");
    }
}
