//! Reads the ranges partition number by partition number, with all topics merged in order of time, and cuts the
//! selected records into chunks.
//!
//! An order's records have the same partition number in several topics. Read in order of time, an order passes through
//! its states as it did live, and each message has the content it would have had then. Where chunks end depends only on
//! the ranges and the selection, so that applying or resuming a plan produces the same chunks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use riverlock_ledger::{
    Record,
    reading::ranges::{OffsetRange, RangeReader},
};
use riverlock_runtime::kafka::KafkaConfig;
use tokio::sync::mpsc;

use crate::replay::{
    ReplayError, Selection,
    model::{AssignedRange, Limits, RangeKey},
};

/// Records of one transaction, and the progress of the ranges.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// The next offset of every range that has advanced since the previous chunk.
    pub(crate) next: Vec<(RangeKey, i64)>,
}

/// Stream of chunks; one is read ahead.
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<Result<Chunk, ReplayError>>,
    read: Arc<AtomicU64>,
}

impl ChunkReader {
    /// Starts reading. `next` has the offsets at which ranges are resumed.
    pub(crate) fn start(
        kafka: &KafkaConfig,
        group: &str,
        ranges: &[AssignedRange],
        next: &HashMap<RangeKey, i64>,
        selection: &Selection,
        limits: Limits,
    ) -> Result<Self, ReplayError> {
        let read = Arc::new(AtomicU64::new(0));
        let mut lanes: Vec<TopicReader> = Vec::new();
        for assigned in ranges {
            let range = Progress::new(assigned, next);
            match lanes.iter_mut().find(|lane| lane.topic_id == assigned.topic_id) {
                Some(lane) => lane.ranges.push(range),
                None => lanes.push(TopicReader {
                    topic_id: assigned.topic_id,
                    topic: Arc::from(assigned.range.topic.as_str()),
                    ranges: vec![range],
                    reader: None,
                    head: None,
                }),
            }
        }
        for lane in &mut lanes {
            let left = lane.ranges.iter().map(|range| OffsetRange { start: range.next, ..range.range.clone() });
            lane.reader = Some(RangeReader::open(kafka, group, left)?);
        }
        let (sender, chunks) = mpsc::channel(1);
        let merge = Merge { lanes, selection: selection.clone(), limits, read: Arc::clone(&read) };
        std::thread::Builder::new()
            .name("replay-read".to_owned())
            .spawn(move || merge.run(&sender))
            .map_err(|_| ReplayError::Panicked)?;
        Ok(Self { chunks, read })
    }

    /// Returns the next chunk; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, ReplayError> {
        self.chunks.recv().await.transpose()
    }

    /// Number of records read, selected or not.
    pub(crate) fn records_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// A range and its next offset.
struct Progress {
    range: OffsetRange,
    key: RangeKey,
    next: i64,
    /// The next offset reported with the last chunk.
    reported: i64,
}

impl Progress {
    fn new(assigned: &AssignedRange, next: &HashMap<RangeKey, i64>) -> Self {
        let key = (assigned.topic_id, assigned.range.partition, assigned.range.start);
        let next = next.get(&key).copied().unwrap_or(assigned.range.start);
        Self { range: assigned.range.clone(), key, next, reported: next }
    }
}

/// Reader of one topic.
struct TopicReader {
    topic_id: i16,
    topic: Arc<str>,
    /// In reading order: by partition, then by offset.
    ranges: Vec<Progress>,
    reader: Option<RangeReader>,
    /// The next selected record.
    head: Option<Record>,
}

impl TopicReader {
    /// Reads up to the next selected record.
    fn advance(&mut self, selection: &Selection, read: &AtomicU64) -> Result<(), ReplayError> {
        self.head = None;
        let Some(reader) = &mut self.reader else { return Ok(()) };
        while let Some(message) = reader.read()? {
            read.fetch_add(1, Ordering::Relaxed);
            let record = Record::copy(&message, self.topic_id, Arc::clone(&self.topic));
            if selection.has(&record) {
                self.head = Some(record);
                break;
            }
        }
        // Everything before the head is in a chunk, or was not selected.
        let head = self.head.as_ref().map(|record| (record.partition, record.offset));
        for progress in &mut self.ranges {
            let OffsetRange { partition, end, .. } = progress.range;
            progress.next = match head {
                None => end,
                Some((at, _)) if at > partition => end,
                Some((at, offset)) if at == partition => offset.clamp(progress.next, end),
                Some(_) => progress.next,
            };
        }
        Ok(())
    }
}

/// Merges the topics.
struct Merge {
    lanes: Vec<TopicReader>,
    selection: Selection,
    limits: Limits,
    read: Arc<AtomicU64>,
}

impl Merge {
    fn run(mut self, sender: &mpsc::Sender<Result<Chunk, ReplayError>>) {
        for lane in &mut self.lanes {
            if let Err(error) = lane.advance(&self.selection, &self.read) {
                drop(sender.blocking_send(Err(error)));
                return;
            }
        }
        loop {
            let chunk = self.chunk();
            // Sending fails if the replay was stopped.
            let is_last = chunk.as_ref().map_or(true, |chunk| chunk.records.is_empty());
            let has_progress =
                chunk.as_ref().map_or(true, |chunk| !(chunk.records.is_empty() && chunk.next.is_empty()));
            if (has_progress && sender.blocking_send(chunk).is_err()) || is_last {
                return;
            }
        }
    }

    fn chunk(&mut self) -> Result<Chunk, ReplayError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < self.limits.records && bytes < self.limits.bytes {
            let heads = self.lanes.iter_mut().filter(|lane| lane.head.is_some());
            let Some(lane) = heads.min_by_key(|lane| {
                let head = lane.head.as_ref();
                head.map(|record| (record.partition, record.timestamp, record.topic_id))
            }) else {
                break;
            };
            let Some(record) = lane.head.take() else { break };
            bytes += record.bytes();
            records.push(record);
            lane.advance(&self.selection, &self.read)?;
        }
        let mut next = Vec::new();
        for progress in self.lanes.iter_mut().flat_map(|lane| &mut lane.ranges) {
            if progress.next != progress.reported {
                progress.reported = progress.next;
                next.push((progress.key, progress.next));
            }
        }
        Ok(Chunk { records, next })
    }
}
