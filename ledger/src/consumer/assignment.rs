//! What the polling thread, the workers and librdkafka's callbacks share.

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

/// How long a revoked partition's batches may take to end before the partition is given away all the same.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// Shortest and longest wait before PostgreSQL is asked again for offsets.
const OFFSETS_RETRY: Range<Duration> = Duration::from_millis(250)..Duration::from_secs(5);

/// Records on their way to one worker.
#[derive(Default)]
pub(crate) struct Buffer {
    pub(crate) records: Vec<Record>,
    pub(crate) bytes: usize,
    pub(crate) since: Option<Instant>,
}

/// What a worker is given.
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// Where the consumer stood before it, in the partitions of these records.
    pub(crate) before: Positions,
}

#[derive(Default)]
pub(crate) struct AssignmentState {
    /// One per worker.
    pub(crate) buffers: Vec<Buffer>,
    /// Where the next batch of each partition that this process reads begins.
    positions: Positions,
    /// Up to where PostgreSQL has said that it has those partitions.
    confirmed: HashMap<Partition, i64>,
    /// Which record of each partition comes next.
    pub(crate) sequence: Sequence,
    /// Those of them that Kafka has been told to send nothing of.
    paused: HashSet<Partition>,
    /// Batches per partition that a worker has and has not finished.
    in_flight: HashMap<Partition, usize>,
    /// Offsets that PostgreSQL has and Kafka has not been told.
    uncommitted: HashMap<Partition, i64>,
}

impl AssignmentState {
    /// Whether this process reads the partition.
    pub(crate) fn reads(&self, partition: Partition) -> bool {
        self.positions.contains_key(&partition)
    }

    /// The worker that a partition's records go to.
    pub(crate) fn worker_of(&self, partition: Partition) -> usize {
        usize::try_from(partition.1).unwrap_or_default() % self.buffers.len()
    }

    /// Whether a worker has nothing to do although it has partitions to read.
    pub(crate) fn starves(&self, worker: usize) -> bool {
        let own = |partition: &Partition| self.worker_of(*partition) == worker;
        self.buffers[worker].records.is_empty() && self.positions.keys().any(own) && !self.in_flight.keys().any(own)
    }

    /// Takes what a worker's buffer holds as its next batch.
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

/// Shared state; the lock is held for moments only, and never while Kafka or PostgreSQL is asked.
pub(crate) struct Assignment {
    state: Mutex<AssignmentState>,
    finished: Condvar,
    /// Topics by number and numbers by topic.
    pub(crate) names: HashMap<i16, Arc<str>>,
    pub(crate) ids: HashMap<String, i16>,
    /// Whether the database was found to lack what it once had.
    went_back: AtomicBool,
    /// When Kafka last refused what a consumer needs, and nothing has shown since that it does not any more.
    trouble: Mutex<Option<Instant>>,
    /// Ends the session: the process ends, or everything is read again from where the database stands.
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
            went_back: AtomicBool::new(false),
            trouble: Mutex::new(None),
            end,
        }
    }

    /// Kafka refuses what the consumer needs: a right, a topic.
    pub(crate) fn trouble(&self) {
        *self.trouble.lock().expect("no code panics while it holds the time") = Some(Instant::now());
    }

    /// Kafka gives what it refused.
    pub(crate) fn trouble_passed(&self) {
        *self.trouble.lock().expect("no code panics while it holds the time") = None;
    }

    /// Since when Kafka has refused what the consumer needs.
    pub(crate) fn trouble_since(&self) -> Option<Instant> {
        *self.trouble.lock().expect("no code panics while it holds the time")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AssignmentState> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Ends the session because the database lacks what it once had.
    pub(crate) fn go_back(&self) {
        self.went_back.store(true, Ordering::Relaxed);
        self.end.cancel();
    }

    /// Whether the session ended, or ends, because the database lacks what it once had.
    pub(crate) fn went_back(&self) -> bool {
        self.went_back.load(Ordering::Relaxed)
    }

    /// Up to where PostgreSQL has said that it has each partition that this process reads.
    pub(crate) fn confirmed(&self) -> HashMap<Partition, i64> {
        self.lock().confirmed.clone()
    }

    /// The partitions that this process reads, and up to where PostgreSQL has them, where that is known.
    pub(crate) fn reading(&self) -> Vec<(Partition, Option<i64>)> {
        let state = self.lock();
        state.positions.keys().map(|partition| (*partition, state.confirmed.get(partition).copied())).collect()
    }

    /// A worker is done with a batch that ended at these offsets; `stored` says whether PostgreSQL has it.
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

    /// This process reads the partition from `next` on.
    pub(crate) fn start(&self, partition: Partition, next: Option<i64>) {
        let mut state = self.lock();
        state.positions.insert(partition, next);
        state.confirmed.extend(next.map(|next| (partition, next)));
        state.sequence.start(partition, next);
    }

    /// This process does not read the partitions any more; what is only buffered of them is dropped.
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

    /// How many partitions this process reads. librdkafka is not asked: a question that reaches it while it closes the consumer
    /// may be thrown away, and whoever asked waits for ever.
    fn assigned(&self) -> usize {
        self.lock().positions.len()
    }

    /// Stops reading the partitions of a worker for a while: those that are not paused yet. A rebalance may have brought some.
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

    /// Goes on reading the partitions of a worker that are paused.
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

    /// Tells Kafka how far PostgreSQL is, for the sake of those who watch the lag. `only` limits it to some partitions. The
    /// answer is not waited for: librdkafka sends it ahead of whatever comes next, and would wait for a lost one for ever.
    pub(crate) fn commit<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, only: Option<&HashSet<Partition>>) {
        let mut list = TopicPartitionList::new();
        let mut state = self.lock();
        let wanted = |partition: &Partition| only.is_none_or(|only| only.contains(partition));
        state.uncommitted.retain(|partition, next| {
            if !wanted(partition) {
                return true;
            }
            // A name that is in `uncommitted` came from a record of that topic.
            let added = list.add_partition_offset(&self.names[&partition.0], partition.1, Offset::Offset(*next));
            added.is_err()
        });
        drop(state);
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "offsets were not committed to Kafka, which only shows in its lag: {error}");
        }
    }
}

/// Loads where the consumer stands. Called on the polling thread.
pub(crate) type LoadOffsets = Box<dyn Fn() -> Result<HashMap<Partition, i64>, crate::Error> + Send + Sync>;

/// librdkafka's callbacks. All of them run inside `poll`, on the polling thread.
pub(crate) struct Callbacks {
    pub(crate) consumer: &'static str,
    pub(crate) shared: Arc<Assignment>,
    pub(crate) load_offsets: LoadOffsets,
    pub(crate) component: Component,
}

impl Callbacks {
    /// Starts the partitions where PostgreSQL says, whatever Kafka remembers.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let mut backoff = Backoff::new(OFFSETS_RETRY);
        let offsets = loop {
            match (self.load_offsets)() {
                Ok(offsets) => break offsets,
                Err(_) if self.shared.end.is_cancelled() => break HashMap::new(),
                Err(error) => {
                    tracing::warn!(%error, "{} cannot start partitions without its offsets: {error}", self.consumer);
                    self.component.not_ready(error.to_string());
                    // It waits for PostgreSQL; a new process would wait for it as well.
                    self.component.beat();
                    std::thread::sleep(backoff.next_wait());
                }
            }
        };
        self.component.ready();
        // librdkafka remembers that a partition was paused when it was given away, and would never read it again.
        if let Err(error) = consumer.resume(&self.shared.list(self.shared.partitions(list))) {
            tracing::error!(%error, "{} could not go on reading its partitions: {error}", self.consumer);
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
        if let Err(error) = consumer.incremental_assign(list) {
            tracing::error!(%error, "{} could not take its partitions: {error}", self.consumer);
        }
    }

    /// Ends the partitions: what is only buffered is dropped, what a worker has is waited for.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = self.shared.partitions(list);
        self.shared.stop(&partitions);
        if !self.shared.wait_idle(Some(&partitions), REVOKE_WAIT) {
            tracing::warn!("{} gives partitions away while it still works on them; nothing is lost", self.consumer);
        }
        if !consumer.assignment_lost() {
            self.shared.commit(consumer, Some(&partitions));
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::error!(%error, "{} could not give its partitions away: {error}", self.consumer);
        }
    }
}

/// The facility of librdkafka's warning that a broker belongs to another cluster than the client knew.
const OTHER_CLUSTER: &str = "CLUSTERID";

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        if fac == OTHER_CLUSTER {
            // Offsets mean nothing there. The next session begins only on the cluster that the database belongs to.
            self.shared.go_back();
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
                self.shared.trouble_passed();
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
            tracing::debug!(%error, "offsets were not committed to Kafka, which only shows in its lag: {error}");
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
    fn a_worker_starves_when_it_has_partitions_and_nothing_of_them() {
        let mut state = state(2);
        state.positions.extend([((1, 0), Some(0)), ((1, 1), Some(0))]);
        assert!(state.starves(0) && state.starves(1));
        state.in_flight.insert((1, 1), 1);
        assert!(state.starves(0) && !state.starves(1));
        state.positions.remove(&(1, 0));
        assert!(!state.starves(0), "it has no partition");
    }
}
