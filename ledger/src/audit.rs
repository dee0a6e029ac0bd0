//! Proves that nothing was lost: every record in the raw topics has exactly one outcome in PostgreSQL, with its body's hash.
//!
//! Nothing is taken from counters. Every record is read from Kafka and looked up, and the rows are counted for themselves,
//! so that neither a missing row nor an invented one goes unseen. Runs beside live traffic: what the consumers have not
//! reached yet is `pending`.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
};
use riverlock_runtime::kafka::{KafkaConfig, REQUEST_TIMEOUT};
use riverlock_schemas::{hash::Sha256Hash, record::Position};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{Error, metrics::OUTCOMES, store};

/// Records that are looked up with one statement.
const PAGE_RECORDS: usize = 2_000;
/// Findings that are listed; all are counted.
const FINDINGS_MAX: usize = 20;
/// How long Kafka may send nothing while records are known to be there.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The audit could not be made. That says nothing about the records.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka did not answer.
    #[error("Kafka could not be read")]
    Kafka(#[from] KafkaError),
    /// PostgreSQL did not answer.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka has records and does not send them.
    #[error("Kafka sent nothing for {} s although records are there", STALL_MAX.as_secs())]
    Stalled,
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

/// A range of offsets that the consumers have passed.
#[derive(Clone, Copy)]
struct Range {
    next: i64,
    end: i64,
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
    let mut report = Report::default();
    let consumer: BaseConsumer = kafka.consumer("riverlock-audit").create()?;
    let mut ranges: HashMap<(i16, i32), Range> = HashMap::new();
    let mut ids: HashMap<String, i16> = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for (name, topics) in consumers {
        let topic_ids = store::topic_ids(connection, topics).await?;
        let reached = store::offsets(connection, name).await?;
        for topic in topics {
            let id = topic_ids[topic];
            for partition in 0..kafka.partitions {
                let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
                let end = reached.get(&(id, partition)).copied().unwrap_or(low);
                report.pending += u64::try_from(high - end).unwrap_or_default();
                report.wrong(u64::try_from(end - high).unwrap_or_default(), || {
                    format!("{topic}[{partition}] ends at {high}, but {name} has read up to {end}")
                });
                count_rows(connection, &mut report, (id, partition), low, end).await?;
                if low < end.min(high) {
                    ranges.insert((id, partition), Range { next: low, end: end.min(high) });
                    assignment.add_partition_offset(topic, partition, Offset::Offset(low))?;
                }
            }
        }
        ids.extend(topic_ids);
    }
    consumer.assign(&assignment)?;
    read(&consumer, connection, &ids, ranges, &mut report).await?;
    Ok(report)
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
    let consumer: BaseConsumer = kafka.consumer("riverlock-audit").create()?;
    let mut pending = 0;
    for (name, topics) in consumers {
        let topic_ids = store::topic_ids(connection, topics).await?;
        let reached = store::offsets(connection, name).await?;
        for topic in topics {
            for partition in 0..kafka.partitions {
                let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
                let end = reached.get(&(topic_ids[topic], partition)).copied().unwrap_or(low);
                pending += u64::try_from(high - end).unwrap_or_default();
            }
        }
    }
    Ok(pending)
}

/// Counts the rows of one partition by outcome.
async fn count_rows(
    connection: &mut PgConnection,
    report: &mut Report,
    (topic_id, partition): (i16, i32),
    low: i64,
    end: i64,
) -> Result<(), Error> {
    let rows = sqlx::query!(
        r#"-- audit_count
           SELECT outcome, record_offset < $3 AS "expired!", record_offset >= $4 AS "early!", count(*) AS "count!"
           FROM events WHERE topic_id = $1 AND partition = $2 GROUP BY 1, 2, 3"#,
        topic_id,
        partition,
        low,
        end
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let count = u64::try_from(row.count).unwrap_or_default();
        if row.early {
            // Rows and offsets are written together.
            report.wrong(count, || {
                format!("{count} rows of topic {topic_id}[{partition}] lie after its consumer's offset")
            });
        } else if row.expired {
            report.expired += count;
        } else {
            *report.outcomes.entry(row.outcome).or_default() += count;
        }
    }
    Ok(())
}

/// Reads every record of the ranges and looks it up.
async fn read(
    consumer: &BaseConsumer,
    connection: &mut PgConnection,
    ids: &HashMap<String, i16>,
    mut ranges: HashMap<(i16, i32), Range>,
    report: &mut Report,
) -> Result<(), AuditError> {
    let mut page: Vec<(Position, i16, Sha256Hash)> = Vec::with_capacity(PAGE_RECORDS);
    let mut heard = Instant::now();
    while !ranges.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            None if heard.elapsed() > STALL_MAX => return Err(AuditError::Stalled),
            None => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                heard = Instant::now();
                let id = ids[message.topic()];
                let key = (id, message.partition());
                let Some(range) = ranges.get_mut(&key) else { continue };
                if message.offset() < range.end {
                    let hash = Sha256Hash::of(message.payload().unwrap_or_default());
                    let (topic, partition, offset) =
                        (message.topic().to_owned(), message.partition(), message.offset());
                    page.push((Position { topic, partition, offset }, id, hash));
                    range.next = offset + 1;
                }
                if message.offset() + 1 >= range.end {
                    ranges.remove(&key);
                }
            }
        }
        if page.len() >= PAGE_RECORDS {
            look_up(connection, &page, report).await?;
            page.clear();
        }
    }
    look_up(connection, &page, report).await?;
    Ok(())
}

async fn look_up(
    connection: &mut PgConnection,
    page: &[(Position, i16, Sha256Hash)],
    report: &mut Report,
) -> Result<(), Error> {
    report.acknowledged += page.len() as u64;
    let rows = sqlx::query!(
        "-- audit_look_up
         SELECT topic_id, partition, record_offset, body_sha256 FROM events
         WHERE (topic_id, partition, record_offset) IN (SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[]))",
        &page.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
        &page.iter().map(|(position, _, _)| position.partition).collect::<Vec<_>>(),
        &page.iter().map(|(position, _, _)| position.offset).collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    let found: HashMap<(i16, i32, i64), Vec<u8>> =
        rows.into_iter().map(|row| ((row.topic_id, row.partition, row.record_offset), row.body_sha256)).collect();
    for (position, id, hash) in page {
        match found.get(&(*id, position.partition, position.offset)) {
            None => report.wrong(1, || format!("{position} has no outcome")),
            Some(stored) if stored != hash.as_bytes() => {
                report.wrong(1, || format!("{position} has another body than the one that had its outcome"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
