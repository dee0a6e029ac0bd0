//! Proves that nothing was lost: every record in the raw topics has exactly one outcome in PostgreSQL, with its body's hash.
//!
//! Nothing is taken from counters. Every record is read from Kafka and looked up, and the rows are counted for themselves,
//! so that neither a missing row nor an invented one goes unseen. Runs beside live traffic: what the consumers have not
//! reached yet is `pending`. Partitions are those that Kafka has, whatever the configuration says.
//!
//! [`run`] proves everything from the beginning. [`running`] proves what is new, again and again, for the sake of alarms.

mod compare;
pub mod running;
mod source;
mod store;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use rdkafka::{TopicPartitionList, consumer::Consumer as _, error::KafkaError};
use riverlock_runtime::kafka::KafkaConfig;
use serde::Serialize;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use self::{
    compare::{Comparison, Range, STALL_MAX},
    source::{Source, Watermarks},
};
use crate::{Error, context::Partition, metrics::OUTCOMES};

/// Findings that are listed; all are counted.
const FINDINGS_MAX: usize = 20;

/// The audit could not be made. That says nothing about the records.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka did not answer.
    #[error("Kafka could not be read")]
    Kafka(#[from] KafkaError),
    /// PostgreSQL did not answer.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka does not know a topic that a consumer reads.
    #[error("Kafka has no topic {0} (`riverlock setup` creates it)")]
    NoTopic(String),
    /// Kafka has records and does not send them.
    #[error("Kafka sent nothing for {} s although records are there", STALL_MAX.as_secs())]
    Stalled,
    /// Kafka drops old records faster than they can be counted.
    #[error("the beginnings of the topics move while they are counted")]
    Moving,
    /// The process ends.
    #[error("the audit was stopped")]
    Stopped,
}

impl From<sqlx::Error> for AuditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// What the audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records in the raw topics that the consumers have reached: each was acknowledged.
    pub acknowledged: u64,
    /// Rows by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Records that the consumers have not reached yet.
    pub pending: u64,
    /// Rows whose records are older than what the topics keep.
    pub expired: u64,
    /// Everything that is wrong; none means: nothing was lost and nothing invented.
    pub wrong: u64,
    /// The first of what is wrong.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether the equation holds: acknowledged = the sum of the outcomes, record by record.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.wrong == 0 && self.acknowledged == self.outcomes.values().sum::<u64>()
    }

    fn wrong(&mut self, count: u64, finding: impl FnOnce() -> String) {
        self.wrong += count;
        if count > 0 && self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding());
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "audit: acknowledged={}", self.acknowledged)?;
        for outcome in OUTCOMES {
            write!(f, " {outcome}={}", self.outcomes.get(outcome).copied().unwrap_or_default())?;
        }
        if self.pending > 0 {
            write!(f, " pending={}", self.pending)?;
        }
        if self.expired > 0 {
            write!(f, " expired={}", self.expired)?;
        }
        write!(f, " {}", if self.balances() { "OK" } else { "FAILED" })
    }
}

/// Compares Kafka with PostgreSQL. `consumers` are the consumers' names with the topics that each reads.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer; a difference is no error but part of the report.
pub async fn run(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
) -> Result<Report, AuditError> {
    let source = Source::open(kafka, connection, consumers).await?;
    let (snapshot, watermarks) = still_picture(&source, connection, consumers).await?;
    let mut report = Report::default();
    count(&mut report, &source, &snapshot, &watermarks);

    let mut ranges: HashMap<Partition, Range> = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for (&partition, &(low, high)) in &watermarks {
        let end = snapshot.reached.get(&partition).copied().unwrap_or(low);
        if low < end.min(high) {
            ranges.insert(partition, Range { next: low, end: end.min(high) });
            source.add(&mut assignment, partition, low)?;
        }
    }
    source.consumer.assign(&assignment)?;
    let mut comparison = Comparison::new(&source, &CancellationToken::new(), None);
    comparison.read(connection, ranges).await?;
    for (_, counts) in comparison.partitions {
        report.acknowledged += counts.acknowledged;
        report.wrong += counts.wrong;
    }
    report.findings.extend(comparison.findings);
    let rows: u64 = report.outcomes.values().sum();
    let more = rows.saturating_sub(report.acknowledged);
    report.wrong(more, || format!("there are {more} rows more than records"));
    report.findings.truncate(FINDINGS_MAX);
    Ok(report)
}

/// Times that a picture is taken before the beginnings of the topics count as moving.
const PICTURES_MAX: u32 = 5;

/// Rows and offsets of one moment, and watermarks that include it: records are written before they are read, so Kafka's ends
/// are asked for after the database, and beginnings that move in between make the picture void.
async fn still_picture(
    source: &Source,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
) -> Result<(store::Snapshot, Watermarks), AuditError> {
    let mut watermarks = source.watermarks()?;
    for _ in 0..PICTURES_MAX {
        let snapshot = store::snapshot(connection, consumers, &source.ids, &watermarks).await?;
        let after = source.watermarks()?;
        let still =
            after.iter().all(|(partition, (low, _))| watermarks.get(partition).map(|(low, _)| low) == Some(low));
        if still {
            return Ok((snapshot, after));
        }
        watermarks = after;
    }
    Err(AuditError::Moving)
}

/// Counts the rows by outcome, and finds those that belong to no record.
fn count(report: &mut Report, source: &Source, snapshot: &store::Snapshot, watermarks: &Watermarks) {
    for row in &snapshot.rows {
        let place = || source.name((row.topic_id, row.partition));
        match row.place {
            // Rows and offsets are written together.
            store::Place::Early => {
                report
                    .wrong(row.count, || format!("{} rows of {} lie after its consumer's offset", row.count, place()));
            }
            store::Place::Nowhere => {
                report.wrong(row.count, || format!("{} rows are of {}, which Kafka does not have", row.count, place()));
            }
            store::Place::Expired => report.expired += row.count,
            store::Place::Kept => *report.outcomes.entry(row.outcome.clone()).or_default() += row.count,
        }
    }
    for (topic, count) in &snapshot.foreign {
        report.wrong(*count, || format!("{count} rows are of topic {topic}, which no consumer reads"));
    }
    for (&partition, &(low, high)) in watermarks {
        let reached = snapshot.reached.get(&partition).copied().unwrap_or(low);
        report.pending += u64::try_from(high - reached).unwrap_or_default();
    }
    for (partition, reached, high) in beyond(&snapshot.reached, watermarks) {
        report.wrong(u64::try_from(reached - high).unwrap_or_default(), || {
            format!("{} ends at {high}, but its consumer has read up to {reached}", source.name(partition))
        });
    }
}

/// Partitions that a consumer has read further than Kafka has them.
fn beyond(reached: &HashMap<Partition, i64>, watermarks: &Watermarks) -> Vec<(Partition, i64, i64)> {
    let end = |partition| watermarks.get(partition).map_or(0, |(_, high)| *high);
    let mut beyond: Vec<_> =
        reached.iter().map(|(partition, reached)| (*partition, *reached, end(partition))).collect();
    beyond.retain(|(_, reached, high)| reached > high);
    beyond.sort_unstable();
    beyond
}

/// How many records the consumers have not reached yet; cheap enough to ask again and again.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn pending(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
) -> Result<u64, AuditError> {
    let source = Source::open(kafka, connection, consumers).await?;
    let reached = store::reached(connection, consumers, &source.ids).await?;
    let waiting = source.watermarks()?.into_iter().map(|(partition, (low, high))| {
        let next = reached.get(&partition).copied().unwrap_or(low);
        u64::try_from(high - next).unwrap_or_default()
    });
    Ok(waiting.sum())
}

/// How long one statement that counts a whole table may take.
const COUNT_TIMEOUT: Duration = Duration::from_secs(3600);
