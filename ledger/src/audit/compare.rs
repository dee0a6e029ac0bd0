//! Reads records from Kafka and looks each of them up.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rdkafka::message::Message as _;
use riverlock_schemas::{hash::Sha256Hash, record::Position};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{
    AuditError, FINDINGS_MAX,
    source::Source,
    store::{self, Found},
};
use crate::{context::Partition, store::Outcome};

/// Records that are looked up with one statement.
const PAGE_RECORDS: usize = 2_000;
/// How long Kafka may send nothing while records are known to be there.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);
/// How long one poll waits for a record.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// A range of offsets that the consumers have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) next: i64,
    pub(super) end: i64,
}

/// What was found in a partition.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) outcomes: BTreeMap<String, i64>,
    pub(super) wrong: u64,
}

/// A record that was read.
pub(super) struct Read {
    pub(super) topic_id: i16,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) body_sha256: Sha256Hash,
}

/// Records against rows.
pub(super) struct Comparison<'a> {
    source: &'a Source,
    stop: CancellationToken,
    /// Most records per second.
    rate: Option<u32>,
    pub(super) partitions: BTreeMap<Partition, Counts>,
    pub(super) findings: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(source: &'a Source, stop: &CancellationToken, rate: Option<u32>) -> Self {
        Self { source, stop: stop.clone(), rate, partitions: BTreeMap::new(), findings: Vec::new() }
    }

    /// Reads the ranges, which the consumer is assigned to, and compares every record in them.
    pub(super) async fn read(
        &mut self,
        connection: &mut PgConnection,
        mut ranges: HashMap<Partition, Range>,
    ) -> Result<(), AuditError> {
        let mut page = Vec::with_capacity(PAGE_RECORDS);
        let mut heard = Instant::now();
        while !ranges.is_empty() {
            if self.stop.is_cancelled() {
                return Err(AuditError::Stopped);
            }
            match self.source.consumer.poll(POLL_WAIT) {
                None if heard.elapsed() > STALL_MAX => return Err(AuditError::Stalled),
                None => {}
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (topic_id, partition, offset) =
                        (self.source.ids[message.topic()], message.partition(), message.offset());
                    let Some(range) = ranges.get_mut(&(topic_id, partition)) else { continue };
                    if (range.next..range.end).contains(&offset) {
                        let body_sha256 = Sha256Hash::of(message.payload().unwrap_or_default());
                        page.push(Read { topic_id, partition, offset, body_sha256 });
                        range.next = offset + 1;
                    }
                    if offset + 1 >= range.end {
                        ranges.remove(&(topic_id, partition));
                    }
                }
            }
            if page.len() >= PAGE_RECORDS {
                self.compare(connection, &mut page).await?;
                heard = Instant::now();
            }
        }
        self.compare(connection, &mut page).await
    }

    async fn compare(&mut self, connection: &mut PgConnection, page: &mut Vec<Read>) -> Result<(), AuditError> {
        let begun = Instant::now();
        let found = store::look_up(connection, page).await?;
        for read in page.iter() {
            let row = found.get(&(read.topic_id, read.partition, read.offset));
            let counts = self.partitions.entry((read.topic_id, read.partition)).or_default();
            counts.acknowledged += 1;
            if let Some(row) = row {
                *counts.outcomes.entry(row.outcome.clone()).or_default() += 1;
            }
            if let Some(wrong) = what_is_wrong(read, row) {
                counts.wrong += 1;
                let topic = self.source.topic(read.topic_id).to_owned();
                let position = Position { topic, partition: read.partition, offset: read.offset };
                self.wrong(format!("{position} {wrong}"));
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

    /// Lists a finding, as long as there are few.
    pub(super) fn wrong(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Compares a record with its row.
fn what_is_wrong(read: &Read, row: Option<&Found>) -> Option<&'static str> {
    let Some(row) = row else { return Some("has no outcome") };
    if row.body_sha256 != read.body_sha256.as_bytes() {
        return Some("has another body than the one that had its outcome");
    }
    let first = row.first_sha256.as_deref();
    if row.outcome == Outcome::Duplicate.as_str() && (first.is_none() || row.contradicts_first) {
        return Some("is called a duplicate, but no other record of its event says the same");
    }
    if row.outcome == Outcome::Conflict.as_str() && first.is_none_or(|first| first == row.body_sha256) {
        return Some("is called a conflict, but no other record of its event has another body");
    }
    if row.outcome == Outcome::Dead.as_str() && row.has_letter != Some(true) {
        return Some("is dead and not among the dead letters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: &str, body: &[u8], first: Option<&[u8]>, has_letter: Option<bool>) -> Found {
        Found {
            outcome: outcome.to_owned(),
            body_sha256: Sha256Hash::of(body).as_bytes().to_vec(),
            first_sha256: first.map(|first| Sha256Hash::of(first).as_bytes().to_vec()),
            contradicts_first: first.is_some_and(|first| first == b"contrary"),
            has_letter,
        }
    }

    #[test]
    fn every_way_in_which_a_row_can_lie_about_its_record_has_a_name() {
        let read = Read { topic_id: 1, partition: 0, offset: 0, body_sha256: Sha256Hash::of(b"body") };
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
            let found = what_is_wrong(&read, row.as_ref());
            assert_eq!(found.is_some(), wrong.is_some(), "{found:?} for {row:?}");
            assert!(found.unwrap_or_default().contains(wrong.unwrap_or_default()), "{found:?} for {row:?}");
        }
    }
}
