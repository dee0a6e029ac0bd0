//! The audit's queries, and the tables of the continuous audit.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use riverlock_ledger::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
    spellings::ContentColumns,
    store::{self, OffsetSpan, Outcome, Partition},
};
use riverlock_schemas::hash::Sha256Hash;
use sqlx::{Connection as _, PgConnection, types::Uuid};

use super::Report;

/// Offsets whose rows one statement counts. Each statement has its own snapshot and ends within seconds, so that counting
/// a large table neither holds back vacuum nor runs into the statement timeout.
const COUNT_OFFSETS: i64 = 200_000;
/// Pages of `events` that one statement reads: 128 MiB.
const SCAN_PAGES: i64 = 16_384;
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
    /// Number of rows.
    pub(super) rows: i64,
    /// The lowest offset.
    pub(super) first: i64,
}

/// Lists every partition that has rows. Reads the whole table, in parts: whatever rows it has, each is counted.
pub(crate) async fn audited_partitions(connection: &mut PgConnection) -> Result<Vec<AuditedPartition>, Error> {
    let pages = store::event_pages(connection).await?;
    let mut found: BTreeMap<Partition, (i64, i64)> = BTreeMap::new();
    for page in (0..pages).step_by(usize::try_from(SCAN_PAGES).unwrap_or(usize::MAX)) {
        let part = sqlx::query!(
            r#"-- audit_partitions_part
               SELECT topic_id, partition, count(*) AS "rows!", min(record_offset) AS "first!" FROM events
               WHERE ctid >= $1::text::tid AND ctid < $2::text::tid GROUP BY topic_id, partition"#,
            store::first_row_of(page),
            store::first_row_of(page + SCAN_PAGES)
        );
        let part = async { Ok::<_, Error>(part.fetch_all(&mut *connection).await?) };
        for row in bounded(TRANSACTION_LIMIT, part).await? {
            let sum = found.entry((row.topic_id, row.partition)).or_insert((0, row.first));
            *sum = (sum.0 + row.rows, sum.1.min(row.first));
        }
    }
    let topics = sqlx::query!(
        r#"-- audit_topics
           SELECT topic_id, name, cluster_id = coalesce((SELECT cluster_id FROM kafka_clusters WHERE is_current), '')
                      AS "is_current!"
           FROM topics"#
    );
    let topics: HashMap<i16, (String, bool)> =
        topics.fetch_all(connection).await?.into_iter().map(|row| (row.topic_id, (row.name, row.is_current))).collect();
    let partitions = found.into_iter().map(|((topic_id, partition), (rows, first))| {
        let (topic, is_current) = topics.get(&topic_id).cloned().unzip();
        AuditedPartition { topic_id, partition, topic, is_current: is_current.unwrap_or(true), rows, first }
    });
    Ok(partitions.collect())
}

/// Counts the rows with offsets `[from, to)` of a partition, in parts.
pub(super) async fn count_rows(
    connection: &mut PgConnection,
    partition: Partition,
    mut from: i64,
    to: i64,
) -> Result<i64, Error> {
    let mut rows = 0;
    while from < to {
        let end = to.min(from + COUNT_OFFSETS);
        let counted = sqlx::query_scalar!(
            r#"-- audit_count
               SELECT count(*) AS "rows!" FROM events
               WHERE topic_id = $1 AND partition = $2 AND record_offset >= $3 AND record_offset < $4
                 AND offset_key_of(topic_id, record_offset) >= offset_key_of($1, $3)
                 AND offset_key_of(topic_id, record_offset) < offset_key_of($1, $4)"#,
            partition.0,
            partition.1,
            from,
            end
        );
        let counted = async { Ok::<_, Error>(counted.fetch_one(&mut *connection).await?) };
        rows += bounded(TRANSACTION_LIMIT, counted).await?;
        from = end;
    }
    Ok(rows)
}

/// Looks records up by topic number, partition and offset.
pub(super) async fn look_up(
    connection: &mut PgConnection,
    page: &[ReadRecord],
) -> Result<HashMap<(i16, i32, i64), AuditRow>, Error> {
    let positions = page.iter().map(|read| (read.topic_id, read.partition, read.offset));
    let mut stored = Vec::with_capacity(page.len());
    for span in store::spans(positions) {
        stored.extend(rows_of(connection, &span).await?);
    }
    let repeated =
        |row: &&StoredRow| [Outcome::Duplicate.as_str(), Outcome::Conflict.as_str()].contains(&&*row.outcome);
    let keys: Vec<Uuid> = stored.iter().filter(repeated).map(|row| row.event_key).collect();
    let firsts = first_rows(connection, &keys).await?;
    let found = stored.into_iter().map(|row| {
        let first = firsts.get(&row.event_key);
        // Records stored before content digests existed cannot be compared by content.
        let contents = row.content().stored().zip(first.and_then(|first| first.content().stored()));
        let found = AuditRow {
            first_sha256: first.map(|first| first.body_sha256.clone()),
            contradicts_first: contents.is_some_and(|(content, first)| content.contradicts(&first).is_some()),
            outcome: row.outcome,
            body_sha256: row.body_sha256,
            has_letter: row.has_letter,
        };
        ((row.topic_id, row.partition, row.record_offset), found)
    });
    Ok(found.collect())
}

/// Columns of `events` that the audit compares.
struct StoredRow {
    topic_id: i16,
    partition: i32,
    record_offset: i64,
    event_key: Uuid,
    event_type: String,
    live_mode: Option<bool>,
    order_id: Option<String>,
    body_sha256: Vec<u8>,
    content: Option<Vec<u8>>,
    outcome: String,
    has_letter: Option<bool>,
}

impl StoredRow {
    fn content(&self) -> ContentColumns<'_> {
        ContentColumns {
            content: self.content.as_deref(),
            event_type: &self.event_type,
            live_mode: self.live_mode,
            order_id: self.order_id.as_deref(),
        }
    }
}

async fn rows_of(connection: &mut PgConnection, span: &OffsetSpan) -> Result<Vec<StoredRow>, Error> {
    let rows = sqlx::query_as!(
        StoredRow,
        r#"-- audit_look_up
           SELECT topic_id AS "topic_id!", partition AS "partition!", record_offset AS "record_offset!",
                  event_key AS "event_key!", event_type AS "event_type!", live_mode, order_id, body_sha256 AS "body_sha256!",
                  content, outcome AS "outcome!",
                  CASE outcome_code WHEN 'x' THEN EXISTS (
                      SELECT FROM dead_letters d
                      WHERE (d.topic_id, d.partition, d.record_offset) = (e.topic_id, e.partition, e.record_offset)
                        AND d.state <> 'redriven'
                  ) END AS has_letter
           FROM event_records e
           WHERE topic_id = $1 AND partition = $2 AND record_offset >= $3 AND record_offset < $4
             AND offset_key_of(topic_id, record_offset) >= offset_key_of($1, $3)
             AND offset_key_of(topic_id, record_offset) < offset_key_of($1, $4)"#,
        span.partition.0,
        span.partition.1,
        span.start,
        span.end
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the records that decided the outcomes of events, by the events' keys.
async fn first_rows(connection: &mut PgConnection, keys: &[Uuid]) -> Result<HashMap<Uuid, StoredRow>, Error> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query_as!(
        StoredRow,
        r#"-- audit_firsts
           SELECT topic_id AS "topic_id!", partition AS "partition!", record_offset AS "record_offset!",
                  event_key AS "event_key!", event_type AS "event_type!", live_mode, order_id, body_sha256 AS "body_sha256!",
                  content, outcome AS "outcome!", NULL::boolean AS has_letter
           FROM event_records WHERE event_key = ANY($1::uuid[]) AND outcome_code IN ('a', 'i', 'x')"#,
        keys
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.event_key, row)).collect())
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

/// Reads the offsets and marks of the consumers' partitions, and counts early rows in the same snapshot: a row is stored
/// together with the offset after it.
pub(super) async fn partition_marks(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<BTreeMap<Partition, PartitionMarks>, Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut marks = BTreeMap::new();
    for (name, topics) in consumers {
        let rows = sqlx::query!(
            r#"-- audit_standings
               SELECT topic_id, partition, o.next_offset AS reached, m.next_offset AS "proved?"
               FROM consumer_offsets o LEFT JOIN audit_marks m USING (topic_id, partition)
               WHERE consumer = $1 AND topic_id = ANY($2)"#,
            name,
            &topics.iter().map(|topic| ids[topic]).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *transaction)
        .await?;
        for row in rows {
            let early = sqlx::query_scalar!(
                r#"-- audit_early
                   SELECT count(*) AS "early!" FROM (
                       SELECT FROM events WHERE topic_id = $1 AND partition = $2 AND record_offset >= $3
                         AND offset_key_of(topic_id, record_offset) >= offset_key_of($1, $3)
                         -- The highest offset that a row can have.
                         AND offset_key_of(topic_id, record_offset) <= offset_key_of($1, 281474976710655)
                       LIMIT $4) early"#,
                row.topic_id,
                row.partition,
                row.reached,
                EARLY_ROWS_MAX
            );
            let early = early.fetch_one(&mut *transaction).await?;
            let mark = PartitionMarks { reached: row.reached, early, proved: row.proved };
            marks.insert((row.topic_id, row.partition), mark);
        }
    }
    transaction.commit().await?;
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
