//! The audit's queries, and the tables of the continuous audit.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use riverlock_ledger::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
    store::{self, Partition},
};
use riverlock_schemas::{events::content::Content, hash::Sha256Hash};
use sqlx::{Connection as _, PgConnection};

use super::Report;

/// Rows that one statement counts at most. Each statement has its own snapshot and ends within seconds, so that
/// counting a large table neither holds back vacuum nor runs into the statement timeout.
const COUNT_ROWS: i64 = 200_000;
/// Most rows at or after a consumer's offset that are counted; one is already a mismatch.
const EARLY_ROWS_MAX: i64 = 10_000;

/// The `events` row of a record.
#[derive(Debug)]
pub(super) struct AuditRow {
    pub(super) outcome: String,
    pub(super) body_sha256: Vec<u8>,
    /// For duplicates and conflicts: the hash of the record that decided the event's outcome.
    pub(super) first_sha256: Option<Vec<u8>>,
    /// For duplicates and conflicts: whether the content contradicts that record's content.
    pub(super) contradicts_first: bool,
    /// For dead records: whether there is a dead letter that is open or discarded.
    pub(super) has_letter: Option<bool>,
}

/// The consumers' offsets.
pub(super) async fn reached(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<HashMap<Partition, i64>, Error> {
    let mut reached = HashMap::new();
    for (name, topics) in consumers {
        let topic_ids: Vec<i16> = topics.iter().map(|topic| ids[topic]).collect();
        let offsets = store::offsets(connection, name).await?;
        reached.extend(offsets.into_iter().filter(|((topic_id, _), _)| topic_ids.contains(topic_id)));
    }
    Ok(reached)
}

/// A partition that has rows in `events`.
#[derive(Debug)]
pub(crate) struct AuditedPartition {
    pub(crate) topic_id: i16,
    pub(crate) partition: i32,
    /// The topic's name; `None` if no topic has this number.
    pub(super) topic: Option<String>,
    /// Whether it is a topic of the current cluster.
    pub(super) is_current: bool,
}

/// Reads the marks of the consumers' partitions and all partitions that have rows in one snapshot, so that the first
/// batch of a partition is in both or in neither.
pub(super) async fn read_snapshot(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<(BTreeMap<Partition, PartitionMarks>, Vec<AuditedPartition>), Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let marks = partition_marks(&mut transaction, consumers, ids).await?;
    let partitions = audited_partitions(&mut transaction).await?;
    transaction.commit().await?;
    Ok((marks, partitions))
}

/// Lists every partition that has rows, jumping from one to the next along the primary key.
pub(crate) async fn audited_partitions(connection: &mut PgConnection) -> Result<Vec<AuditedPartition>, Error> {
    let rows = sqlx::query_as!(
        AuditedPartition,
        r#"-- audit_places
           WITH RECURSIVE places AS (
               (SELECT topic_id, partition FROM events ORDER BY topic_id, partition, record_offset LIMIT 1)
               UNION ALL
               SELECT n.topic_id, n.partition
               FROM places p CROSS JOIN LATERAL (
                   SELECT e.topic_id, e.partition FROM events e
                   WHERE (e.topic_id, e.partition) > (p.topic_id, p.partition)
                   ORDER BY e.topic_id, e.partition, e.record_offset LIMIT 1
               ) n
           )
           SELECT p.topic_id AS "topic_id!", p.partition AS "partition!", t.name AS "topic?",
                  coalesce(t.cluster_id = coalesce((SELECT cluster_id FROM kafka_clusters WHERE is_current), ''), true)
                      AS "is_current!"
           FROM places p LEFT JOIN topics t ON t.topic_id = p.topic_id"#
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Counts the rows with offsets `[from, to)` of a partition, in parts.
pub(super) async fn count_rows(
    connection: &mut PgConnection,
    partition: Partition,
    mut from: i64,
    to: i64,
) -> Result<i64, Error> {
    let mut rows = 0;
    loop {
        let counted = sqlx::query!(
            r#"-- audit_count
               SELECT count(*) AS "rows!", max(record_offset) AS last FROM (
                   SELECT record_offset FROM events
                   WHERE topic_id = $1 AND partition = $2 AND record_offset >= $3 AND record_offset < $4
                   ORDER BY record_offset LIMIT $5
               ) part"#,
            partition.0,
            partition.1,
            from,
            to,
            COUNT_ROWS
        );
        let counted = async { Ok::<_, Error>(counted.fetch_one(&mut *connection).await?) };
        let part = bounded(TRANSACTION_LIMIT, counted).await?;
        rows += part.rows;
        match part.last {
            Some(last) if part.rows == COUNT_ROWS => from = last + 1,
            _ => return Ok(rows),
        }
    }
}

/// Looks records up by topic number, partition and offset.
pub(super) async fn look_up(
    connection: &mut PgConnection,
    page: &[ReadRecord],
) -> Result<HashMap<(i16, i32, i64), AuditRow>, Error> {
    if page.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"-- audit_look_up
           SELECT topic_id, partition, record_offset, body_sha256, content, outcome,
                  CASE WHEN outcome IN ('duplicate', 'conflict') THEN (
                      SELECT ARRAY[first.body_sha256, first.content] FROM events first
                      WHERE first.event_id = e.event_id AND first.outcome IN ('applied', 'ignored', 'dead')
                  ) END AS "first: Vec<Option<Vec<u8>>>",
                  CASE outcome WHEN 'dead' THEN EXISTS (
                      SELECT FROM dead_letters d
                      WHERE (d.topic_id, d.partition, d.record_offset) = (e.topic_id, e.partition, e.record_offset)
                        AND d.state <> 'redriven'
                  ) END AS has_letter
           FROM events e
           WHERE (topic_id, partition, record_offset) IN
                 (SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[]))"#,
        &page.iter().map(|read| read.topic_id).collect::<Vec<_>>(),
        &page.iter().map(|read| read.partition).collect::<Vec<_>>(),
        &page.iter().map(|read| read.offset).collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().map(|row| {
        let (first_sha256, first_content) = row.first.map_or((None, None), |first| {
            let mut first = first.into_iter();
            (first.next().flatten(), first.next().flatten())
        });
        // Records stored before content digests existed cannot be compared by content.
        let parsed = |content: Option<Vec<u8>>| content.as_deref().and_then(Content::from_slice);
        let contradicts_first = match (parsed(row.content), parsed(first_content)) {
            (Some(content), Some(first)) => content.contradicts(&first).is_some(),
            _ => false,
        };
        let found = AuditRow {
            outcome: row.outcome,
            body_sha256: row.body_sha256,
            first_sha256,
            contradicts_first,
            has_letter: row.has_letter,
        };
        ((row.topic_id, row.partition, row.record_offset), found)
    });
    Ok(found.collect())
}

/// Offset and mark of a partition.
#[derive(Debug, Default)]
pub(super) struct PartitionMarks {
    /// The consumer's offset.
    pub(super) reached: i64,
    /// Rows at or after that offset in the same snapshot: at most [`EARLY_ROWS_MAX`].
    pub(super) early: i64,
    /// The offset up to which the continuous audit has proved the partition.
    pub(super) proved: Option<i64>,
}

/// Reads the offsets and marks of the consumers' partitions.
pub(super) async fn partition_marks(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<BTreeMap<Partition, PartitionMarks>, Error> {
    let mut marks = BTreeMap::new();
    for (name, topics) in consumers {
        let rows = sqlx::query!(
            r#"-- audit_standings
               SELECT topic_id, partition, o.next_offset AS reached, m.next_offset AS "proved?",
                      (SELECT count(*) FROM (
                           SELECT FROM events e
                           WHERE e.topic_id = o.topic_id AND e.partition = o.partition
                             AND e.record_offset >= o.next_offset LIMIT $3) early) AS "early!"
               FROM consumer_offsets o LEFT JOIN audit_marks m USING (topic_id, partition)
               WHERE consumer = $1 AND topic_id = ANY($2)"#,
            name,
            &topics.iter().map(|topic| ids[topic]).collect::<Vec<_>>(),
            EARLY_ROWS_MAX
        )
        .fetch_all(&mut *connection)
        .await?;
        marks.extend(rows.into_iter().map(|row| {
            let mark = PartitionMarks { reached: row.reached, early: row.early, proved: row.proved };
            ((row.topic_id, row.partition), mark)
        }));
    }
    Ok(marks)
}

/// A range of a partition without a mismatch.
pub(super) struct ProvenRange {
    pub(super) partition: Partition,
    pub(super) to: i64,
    pub(super) outcomes: BTreeMap<String, i64>,
}

/// Advances the marks.
pub(super) async fn advance_marks(connection: &mut PgConnection, proved: &[ProvenRange]) -> Result<(), Error> {
    let of = |outcome: &str| -> Vec<i64> {
        proved.iter().map(|proved| proved.outcomes.get(outcome).copied().unwrap_or_default()).collect()
    };
    sqlx::query!(
        "-- audit_marks_advance
         INSERT INTO audit_marks AS m (topic_id, partition, next_offset, acknowledged, applied, duplicate, ignored, conflict,
                                       dead)
         SELECT topic_id, partition, past, applied + duplicate + ignored + conflict + dead, applied, duplicate, ignored,
                conflict, dead
         FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[])
              AS p (topic_id, partition, past, applied, duplicate, ignored, conflict, dead)
         ON CONFLICT (topic_id, partition) DO UPDATE
         SET next_offset = EXCLUDED.next_offset, acknowledged = m.acknowledged + EXCLUDED.acknowledged,
             applied = m.applied + EXCLUDED.applied, duplicate = m.duplicate + EXCLUDED.duplicate,
             ignored = m.ignored + EXCLUDED.ignored, conflict = m.conflict + EXCLUDED.conflict,
             dead = m.dead + EXCLUDED.dead, marked_at = now()
         WHERE m.next_offset < EXCLUDED.next_offset",
        &proved.iter().map(|proved| proved.partition.0).collect::<Vec<_>>(),
        &proved.iter().map(|proved| proved.partition.1).collect::<Vec<_>>(),
        &proved.iter().map(|proved| proved.to).collect::<Vec<_>>(),
        &of("applied"),
        &of("duplicate"),
        &of("ignored"),
        &of("conflict"),
        &of("dead"),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sums of the marks, in total and by outcome.
pub(super) async fn mark_sums(connection: &mut PgConnection) -> Result<(u64, BTreeMap<String, u64>), Error> {
    let row = sqlx::query!(
        r#"-- audit_marks_sum
           SELECT coalesce(sum(acknowledged), 0)::bigint AS "acknowledged!", coalesce(sum(applied), 0)::bigint AS "applied!",
                  coalesce(sum(duplicate), 0)::bigint AS "duplicate!", coalesce(sum(ignored), 0)::bigint AS "ignored!",
                  coalesce(sum(conflict), 0)::bigint AS "conflict!", coalesce(sum(dead), 0)::bigint AS "dead!"
           FROM audit_marks"#
    )
    .fetch_one(connection)
    .await?;
    let outcomes = [
        ("applied", row.applied),
        ("duplicate", row.duplicate),
        ("ignored", row.ignored),
        ("conflict", row.conflict),
        ("dead", row.dead),
    ];
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    let outcomes = outcomes.into_iter().map(|(outcome, rows)| (outcome.to_owned(), count(rows)));
    Ok((count(row.acknowledged), outcomes.collect()))
}

/// The last run of the continuous audit. Times are the database's, so that processes on several hosts agree.
#[derive(Debug)]
pub(super) struct LastRun {
    pub(super) seconds_ago: f64,
    /// When a run last found nothing wrong, in seconds since 1970.
    pub(super) succeeded_at: Option<f64>,
    pub(super) duration_seconds: f64,
    pub(super) wrong: i64,
    pub(super) pending: i64,
}

pub(super) async fn last_run(connection: &mut PgConnection) -> Result<Option<LastRun>, Error> {
    let row = sqlx::query_as!(
        LastRun,
        r#"-- audit_runs_last_read
           SELECT extract(epoch FROM now() - ended_at)::double precision AS "seconds_ago!",
                  extract(epoch FROM succeeded_at)::double precision AS succeeded_at, duration_seconds, wrong, pending
           FROM audit_runs_last"#
    );
    Ok(row.fetch_optional(connection).await?)
}

pub(super) async fn set_last_run(
    connection: &mut PgConnection,
    report: &Report,
    duration: Duration,
) -> Result<(), Error> {
    sqlx::query!(
        "-- audit_runs_last_write
         INSERT INTO audit_runs_last AS last (ended_at, succeeded_at, duration_seconds, wrong, pending, findings)
         VALUES (now(), CASE WHEN $2::bigint = 0 THEN now() END, $1, $2, $3, $4)
         ON CONFLICT (only_row) DO UPDATE
         SET ended_at = EXCLUDED.ended_at, succeeded_at = coalesce(EXCLUDED.succeeded_at, last.succeeded_at),
             duration_seconds = EXCLUDED.duration_seconds, wrong = EXCLUDED.wrong, pending = EXCLUDED.pending,
             findings = EXCLUDED.findings",
        duration.as_secs_f64(),
        i64::try_from(report.wrong).unwrap_or(i64::MAX),
        i64::try_from(report.pending).unwrap_or(i64::MAX),
        &report.findings,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A record that was read from Kafka.
pub(crate) struct ReadRecord {
    pub(crate) topic_id: i16,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// For the operator only: nothing is compared with it.
    pub(crate) event_type: Option<String>,
    pub(crate) body_sha256: Sha256Hash,
}
