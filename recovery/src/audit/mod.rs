//! Audit: proves that every record in the raw topics has exactly one outcome in PostgreSQL, with its body's hash.
//!
//! No counters are trusted. Every record is read from Kafka and looked up, and the rows are counted separately, so that
//! both missing and surplus rows are found. The audit runs beside live traffic: records that the consumers have not
//! read yet are `pending`. Partitions come from Kafka, not from the configuration.
//!
//! [`run`] proves everything from the beginning. [`running`] repeatedly proves what is new, so that alerts can fire.

mod compare;
mod error;
mod report;
pub mod running;
mod source;
pub(crate) mod store;

use std::collections::{BTreeMap, HashMap};

use riverlock_ledger::{
    postgres::{TRANSACTION_LIMIT, bounded},
    store::Partition,
};
use riverlock_runtime::kafka::KafkaConfig;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use self::{
    compare::{Comparison, Counts, Range},
    source::{Source, Watermarks},
    store::{AuditedPartition, PartitionMarks},
};

pub use error::AuditError;
pub use report::Report;

impl Report {
    /// Finds mismatches that show without reading records.
    fn check_offsets(&mut self, source: &Source, marks: &BTreeMap<Partition, PartitionMarks>, watermarks: &Watermarks) {
        for (&partition, mark) in marks {
            let (reached, early) = (mark.reached, u64::try_from(mark.early).unwrap_or_default());
            let high = watermarks.get(&partition).map_or(0, |(_, high)| *high);
            self.wrong(u64::try_from(reached - high).unwrap_or_default(), || {
                format!("{} ends at {high}, but its consumer has read up to {reached}", source.name(partition))
            });
            self.wrong(early, || {
                format!("{early} rows of {} are at or after its consumer's offset {reached}", source.name(partition))
            });
        }
        for (partition, &(low, high)) in watermarks {
            let reached = marks.get(partition).map_or(low, |mark| mark.reached);
            self.pending += u64::try_from(high - reached).unwrap_or_default();
        }
    }
}

/// Compares Kafka with PostgreSQL. `consumers` are the consumers' names with the topics that each reads.
///
/// No transaction stays open while records are read. Rows before a consumer's offset do not change, so they can be
/// counted at any time after the offsets were read.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer. A mismatch is not an error; it is part of the report.
pub async fn run(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
) -> Result<Report, AuditError> {
    let mut source = Source::open(kafka)?;
    source.prepare(connection, consumers).await?;
    // Partitions are listed before the offsets are read: one that has rows then has an offset as well. Kafka's end offsets are
    // requested last, because records are written before they are read.
    let audited = store::audited_partitions(connection).await?;
    let marks = bounded(TRANSACTION_LIMIT, store::partition_marks(connection, consumers, &source.ids)).await?;
    let watermarks = source.watermarks()?;
    let mut report = Report::default();
    report.check_offsets(&source, &marks, &watermarks);
    count_unread_rows(&mut report, connection, &source, audited, &marks, &watermarks).await?;

    let mut ranges: HashMap<Partition, Range> = HashMap::new();
    for (partition, &(low, high)) in &watermarks {
        let end = marks.get(partition).map_or(low, |mark| mark.reached.min(high));
        if low < end {
            ranges.insert(*partition, Range { next: low, end });
        }
    }
    let read = ranges.clone();
    let mut comparison = Comparison::new(&source, &CancellationToken::new(), None, &|| {});
    comparison.read(connection, ranges).await?;
    for (partition, range) in read {
        let counts = comparison.partitions.remove(&partition).unwrap_or_default();
        let rows = count_kept(&mut report, connection, &source, partition, range, &counts).await?;
        let found: i64 = counts.outcomes.values().sum();
        let more = u64::try_from(rows - found).unwrap_or_default();
        report.wrong(more, || format!("{}: {more} rows have no record", source.name(partition)));
        report.acknowledged += counts.acknowledged;
        report.wrong += counts.wrong;
        for (outcome, count) in counts.outcomes {
            *report.outcomes.entry(outcome).or_default() += u64::try_from(count).unwrap_or_default();
        }
    }
    report.findings.append(&mut comparison.findings);
    report.findings.truncate(report::FINDINGS_MAX);
    Ok(report)
}

/// Counts the rows of a range. Rows whose records Kafka deleted while the range was read count as expired instead.
async fn count_kept(
    report: &mut Report,
    connection: &mut PgConnection,
    source: &Source,
    partition: Partition,
    range: Range,
    counts: &Counts,
) -> Result<i64, AuditError> {
    let mut rows = store::count_rows(connection, partition, range.next, range.end).await?;
    for &(from, to) in &counts.deleted {
        let deleted = store::count_rows(connection, partition, from, to).await?;
        rows -= deleted;
        report.expired += u64::try_from(deleted).unwrap_or_default();
        report.note_deleted(&source.name(partition), from, to);
    }
    Ok(rows)
}

/// Counts the rows for which no record is read: those of deleted records and of earlier clusters, and those that should
/// not exist.
async fn count_unread_rows(
    report: &mut Report,
    connection: &mut PgConnection,
    source: &Source,
    audited: Vec<AuditedPartition>,
    marks: &BTreeMap<Partition, PartitionMarks>,
    watermarks: &Watermarks,
) -> Result<(), AuditError> {
    for partition_rows in audited {
        let partition = (partition_rows.topic_id, partition_rows.partition);
        let name = partition_rows.topic.unwrap_or_else(|| format!("topic number {}", partition_rows.topic_id));
        let rows = match watermarks.get(&partition) {
            Some((low, _)) if marks.contains_key(&partition) => {
                store::count_rows(connection, partition, partition_rows.first, *low).await?
            }
            _ => partition_rows.rows,
        };
        let count = u64::try_from(rows).unwrap_or_default();
        let name = format!("{name}[{}]", partition_rows.partition);
        if !partition_rows.is_current {
            report.earlier += count;
        } else if !source.ids.values().any(|id| *id == partition_rows.topic_id) {
            report.wrong(count, || format!("{count} rows belong to {name}, which no consumer reads"));
        } else if !watermarks.contains_key(&partition) {
            report.wrong(count, || format!("{count} rows belong to {name}, which Kafka does not have"));
        } else if !marks.contains_key(&partition) {
            report.wrong(count, || format!("{count} rows belong to {name}, for which its consumer has no offset"));
        } else {
            report.expired += count;
        }
    }
    Ok(())
}

/// Counts the records that the consumers have not read yet. Cheap enough to be polled.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn pending(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
) -> Result<u64, AuditError> {
    let mut source = Source::open(kafka)?;
    source.prepare(connection, consumers).await?;
    let reached = bounded(TRANSACTION_LIMIT, store::reached(connection, consumers, &source.ids)).await?;
    let unread = source.watermarks()?.into_iter().map(|(partition, (low, high))| {
        let next = reached.get(&partition).copied().unwrap_or(low);
        u64::try_from(high - next).unwrap_or_default()
    });
    Ok(unread.sum())
}
