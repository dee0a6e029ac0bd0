//! Reads records from Kafka and looks up the outcome of each.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use riverlock_ledger::{
    postgres::{TRANSACTION_LIMIT, bounded},
    reading::ranges::{ReadFailure, STALL_MAX},
    store::{Outcome, Partition},
};
use riverlock_schemas::{
    hash::Sha256Hash,
    kafka::record::{self, Position},
};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::audit::store::ReadRecord;

use super::{
    AuditError,
    report::FINDINGS_MAX,
    source::Source,
    store::{self, AuditRow},
};

/// Records that are looked up with one statement.
pub(super) const PAGE_RECORDS: usize = 2_000;
/// Longest wait of one poll.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// A range of offsets that the consumers have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) next: i64,
    pub(super) end: i64,
}

/// Results for one partition.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) outcomes: BTreeMap<String, i64>,
    pub(super) wrong: u64,
    /// Offsets `[from, to)` that Kafka deleted before they could be read.
    pub(super) deleted: Vec<(i64, i64)>,
}

/// Compares records with their rows.
pub(super) struct Comparison<'a> {
    pub(super) source: &'a Source,
    stop: CancellationToken,
    /// Most records per second.
    rate: Option<u32>,
    /// Called after every page, and while Kafka sends nothing.
    pub(super) beat: &'a (dyn Fn() + Sync),
    pub(super) partitions: BTreeMap<Partition, Counts>,
    pub(super) findings: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        source: &'a Source,
        stop: &CancellationToken,
        rate: Option<u32>,
        beat: &'a (dyn Fn() + Sync),
    ) -> Self {
        Self { source, stop: stop.clone(), rate, beat, partitions: BTreeMap::new(), findings: Vec::new() }
    }

    /// Reads the ranges and compares every record in them. Interruptions by a broker's restart are waited out; records
    /// that Kafka's retention deletes meanwhile are left out and noted.
    pub(super) async fn read(
        &mut self,
        connection: &mut PgConnection,
        mut ranges: HashMap<Partition, Range>,
    ) -> Result<(), AuditError> {
        self.start(&mut ranges)?;
        let source = self.source;
        let mut page = Vec::with_capacity(PAGE_RECORDS);
        let mut last_message_at = Instant::now();
        while !ranges.is_empty() {
            if self.stop.is_cancelled() {
                return Err(AuditError::Stopped);
            }
            match source.consumer().poll(POLL_WAIT) {
                Some(Ok(message)) => {
                    last_message_at = Instant::now();
                    page.extend(take(&message, source.ids[message.topic()], &mut ranges));
                }
                Some(Err(error)) => match source.classify(&error) {
                    ReadFailure::Fatal => return Err(error.into()),
                    // The error does not say which partition it is about.
                    ReadFailure::Gone if self.skip_deleted(&mut ranges)? => {
                        self.start(&mut ranges)?;
                        last_message_at = Instant::now();
                    }
                    ReadFailure::Gone | ReadFailure::Passing => {
                        tracing::debug!(%error, "the audit is waiting for Kafka: {error}");
                    }
                },
                None => (self.beat)(),
            }
            if last_message_at.elapsed() > STALL_MAX {
                return Err(AuditError::Stalled);
            }
            if page.len() >= PAGE_RECORDS {
                self.compare(connection, &mut page).await?;
                last_message_at = Instant::now();
            }
        }
        // Stop fetching until the next run.
        source.start([])?;
        self.compare(connection, &mut page).await
    }

    fn start(&mut self, ranges: &mut HashMap<Partition, Range>) -> Result<(), AuditError> {
        ranges.retain(|_, range| range.next < range.end);
        Ok(self.source.start(ranges.iter().map(|(partition, range)| (*partition, range.next)))?)
    }

    /// Removes from the ranges what Kafka has deleted; returns `false` if nothing was deleted.
    fn skip_deleted(&mut self, ranges: &mut HashMap<Partition, Range>) -> Result<bool, AuditError> {
        let mut is_any = false;
        for (partition, range) in ranges.iter_mut() {
            let (low, _) = self.source.watermarks_of(*partition)?;
            if low > range.next {
                let deleted = (range.next, low.min(range.end));
                self.partitions.entry(*partition).or_default().deleted.push(deleted);
                range.next = deleted.1;
                is_any = true;
            }
        }
        Ok(is_any)
    }

    async fn compare(&mut self, connection: &mut PgConnection, page: &mut Vec<ReadRecord>) -> Result<(), AuditError> {
        (self.beat)();
        let begun = Instant::now();
        let found = bounded(TRANSACTION_LIMIT, store::look_up(connection, page)).await?;
        for read in page.iter() {
            let row = found.get(&(read.topic_id, read.partition, read.offset));
            let counts = self.partitions.entry((read.topic_id, read.partition)).or_default();
            counts.acknowledged += 1;
            if let Some(row) = row {
                *counts.outcomes.entry(row.outcome.clone()).or_default() += 1;
            }
            if let Some(wrong) = mismatch(read, row) {
                counts.wrong += 1;
                let topic = self.source.topic(read.topic_id).to_owned();
                let position = Position { topic, partition: read.partition, offset: read.offset };
                let event_type = read.event_type.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                self.wrong(format!("{position}{event_type} {wrong}"));
            }
        }
        if let Some(rate) = self.rate {
            let share = Duration::from_secs(1).mul_f64(page.len() as f64 / f64::from(rate));
            tokio::select! {
                () = tokio::time::sleep(share.saturating_sub(begun.elapsed())) => {}
                () = self.stop.cancelled() => {}
            }
        }
        page.clear();
        Ok(())
    }

    /// Adds a mismatch, unless [`FINDINGS_MAX`] are listed already.
    pub(super) fn wrong(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Returns the record if it is within one of the ranges, and advances that range.
fn take(message: &BorrowedMessage<'_>, topic_id: i16, ranges: &mut HashMap<Partition, Range>) -> Option<ReadRecord> {
    let (partition, offset) = (message.partition(), message.offset());
    let range = ranges.get_mut(&(topic_id, partition))?;
    let is_within = (range.next..range.end).contains(&offset);
    range.next = range.next.max(offset + 1);
    if range.next >= range.end {
        ranges.remove(&(topic_id, partition));
    }
    let body_sha256 = Sha256Hash::of(message.payload().unwrap_or_default());
    is_within.then(|| ReadRecord { topic_id, partition, offset, event_type: event_type(message), body_sha256 })
}

/// The event type, according to the record's header.
fn event_type(message: &BorrowedMessage<'_>) -> Option<String> {
    let value = message.headers()?.iter().find(|header| header.key == record::EVENT_TYPE)?.value?;
    Some(record::bounded(std::str::from_utf8(value).ok()?).into_owned())
}

/// Returns the mismatch between a record and its row, if there is one.
fn mismatch(read: &ReadRecord, row: Option<&AuditRow>) -> Option<&'static str> {
    let Some(row) = row else { return Some("has no outcome") };
    if row.body_sha256 != read.body_sha256.as_bytes() {
        return Some("has another body than the one its outcome was recorded for");
    }
    let first = row.first_sha256.as_deref();
    if row.outcome == Outcome::Duplicate.as_str() && (first.is_none() || row.contradicts_first) {
        return Some("is called a duplicate, but no other record of its event has the same content");
    }
    if row.outcome == Outcome::Conflict.as_str() && first.is_none_or(|first| first == row.body_sha256) {
        return Some("is called a conflict, but no other record of its event has another body");
    }
    if row.outcome == Outcome::Dead.as_str() && row.has_letter != Some(true) {
        return Some("is dead, but not among the dead letters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: &str, body: &[u8], first: Option<&[u8]>, has_letter: Option<bool>) -> AuditRow {
        AuditRow {
            outcome: outcome.to_owned(),
            body_sha256: Sha256Hash::of(body).as_bytes().to_vec(),
            first_sha256: first.map(|first| Sha256Hash::of(first).as_bytes().to_vec()),
            contradicts_first: first.is_some_and(|first| first == b"contrary"),
            has_letter,
        }
    }

    #[test]
    fn every_kind_of_mismatch_has_its_own_message() {
        let read =
            ReadRecord { topic_id: 1, partition: 0, offset: 0, event_type: None, body_sha256: Sha256Hash::of(b"body") };
        for (row, wrong) in [
            (None, Some("no outcome")),
            (Some(row("applied", b"body", None, None)), None),
            (Some(row("ignored", b"other", None, None)), Some("another body")),
            (Some(row("duplicate", b"body", Some(b"body"), None)), None),
            (Some(row("duplicate", b"body", Some(b"another spelling"), None)), None),
            (Some(row("duplicate", b"body", Some(b"contrary"), None)), Some("called a duplicate")),
            (Some(row("duplicate", b"body", None, None)), Some("called a duplicate")),
            (Some(row("conflict", b"body", Some(b"other"), None)), None),
            (Some(row("conflict", b"body", Some(b"body"), None)), Some("called a conflict")),
            (Some(row("conflict", b"body", None, None)), Some("called a conflict")),
            (Some(row("dead", b"body", None, Some(true))), None),
            (Some(row("dead", b"body", None, Some(false))), Some("not among the dead letters")),
        ] {
            let found = mismatch(&read, row.as_ref());
            assert_eq!(found.is_some(), wrong.is_some(), "{found:?} for {row:?}");
            assert!(found.unwrap_or_default().contains(wrong.unwrap_or_default()), "{found:?} for {row:?}");
        }
    }
}
