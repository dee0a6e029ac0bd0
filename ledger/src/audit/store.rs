//! What the audit reads of PostgreSQL, and the running audit's own tables.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use riverlock_schemas::content::Content;
use sqlx::{Connection as _, PgConnection};

use super::{COUNT_TIMEOUT, Report, compare::Read, source::Watermarks};
use crate::{Error, context::Partition, store};

/// Rows and offsets of one moment.
pub(super) struct Snapshot {
    pub(super) reached: HashMap<Partition, i64>,
    pub(super) rows: Vec<Rows>,
    /// Rows of topics that no consumer reads.
    pub(super) foreign: Vec<(String, u64)>,
}

/// Rows of one partition with one outcome.
pub(super) struct Rows {
    pub(super) topic_id: i16,
    pub(super) partition: i32,
    pub(super) outcome: String,
    pub(super) place: Place,
    pub(super) count: u64,
}

/// Where rows lie, as Kafka and the consumer's offset see it.
pub(super) enum Place {
    /// Where Kafka has records that the consumer has passed.
    Kept,
    /// Before the records that Kafka still has.
    Expired,
    /// After the consumer's offset.
    Early,
    /// In a partition that Kafka does not have.
    Nowhere,
}

/// A row that was looked up.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) outcome: String,
    pub(super) body_sha256: Vec<u8>,
    /// For duplicates and conflicts: the hash of the record that decided the event's outcome.
    pub(super) first_sha256: Option<Vec<u8>>,
    /// The same: whether what it says contradicts what that record says.
    pub(super) contradicts_first: bool,
    /// For dead records: whether there is a letter that waits or was given up.
    pub(super) has_letter: Option<bool>,
}

/// Up to where the consumers have read their topics.
pub(super) async fn reached(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<HashMap<Partition, i64>, Error> {
    let mut reached = HashMap::new();
    for (name, topics) in consumers {
        let mine: Vec<i16> = topics.iter().map(|topic| ids[topic]).collect();
        let offsets = store::offsets(connection, name).await?;
        reached.extend(offsets.into_iter().filter(|((topic_id, _), _)| mine.contains(topic_id)));
    }
    Ok(reached)
}

/// Takes a picture of one moment, so that batches that come in meanwhile are in all of it or in none.
pub(super) async fn snapshot(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
    watermarks: &Watermarks,
) -> Result<Snapshot, Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query_scalar!(
        "-- audit_count_timeout
         SELECT set_config('statement_timeout', $1, true)",
        COUNT_TIMEOUT.as_millis().to_string()
    )
    .fetch_one(&mut *transaction)
    .await?;
    let reached = reached(&mut transaction, consumers, ids).await?;
    let mut rows = Vec::new();
    for &topic_id in ids.values() {
        let bounds = watermarks.iter().filter(|((topic, _), _)| *topic == topic_id);
        let bounds: Vec<(i32, i64, i64)> = bounds
            .map(|(partition, (low, _))| (partition.1, *low, reached.get(partition).copied().unwrap_or(*low)))
            .collect();
        rows.extend(count(&mut transaction, topic_id, &bounds).await?);
    }
    let foreign = sqlx::query!(
        r#"-- audit_count_foreign
           SELECT name, (SELECT count(*) FROM events WHERE events.topic_id = topics.topic_id) AS "count!"
           FROM topics WHERE topic_id <> ALL($1)"#,
        &ids.values().copied().collect::<Vec<_>>()
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let foreign = foreign.into_iter().map(|row| (row.name, u64::try_from(row.count).unwrap_or_default()));
    Ok(Snapshot { reached, rows, foreign: foreign.filter(|(_, count)| *count > 0).collect() })
}

/// Counts the rows of a topic. `bounds` are partitions with the first offset in Kafka and the consumer's offset.
async fn count(connection: &mut PgConnection, topic_id: i16, bounds: &[(i32, i64, i64)]) -> Result<Vec<Rows>, Error> {
    let rows = sqlx::query!(
        r#"-- audit_count
           SELECT partition AS "partition!", outcome AS "outcome!", low IS NULL AS "nowhere!",
                  coalesce(record_offset < low, false) AS "expired!", coalesce(record_offset >= reached, false) AS "early!",
                  count(*) AS "count!"
           FROM events
           LEFT JOIN unnest($2::integer[], $3::bigint[], $4::bigint[]) AS bounds (partition, low, reached) USING (partition)
           WHERE topic_id = $1 GROUP BY 1, 2, 3, 4, 5"#,
        topic_id,
        &bounds.iter().map(|bound| bound.0).collect::<Vec<_>>(),
        &bounds.iter().map(|bound| bound.1).collect::<Vec<_>>(),
        &bounds.iter().map(|bound| bound.2).collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| Rows {
        topic_id,
        partition: row.partition,
        outcome: row.outcome,
        place: match (row.nowhere, row.early, row.expired) {
            (true, ..) => Place::Nowhere,
            (_, true, _) => Place::Early,
            (.., true) => Place::Expired,
            _ => Place::Kept,
        },
        count: u64::try_from(row.count).unwrap_or_default(),
    });
    Ok(rows.collect())
}

/// Looks records up, by topic number, partition and offset.
pub(super) async fn look_up(
    connection: &mut PgConnection,
    page: &[Read],
) -> Result<HashMap<(i16, i32, i64), Found>, Error> {
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
        // Records from before spellings were compared cannot be judged by what they say.
        let parsed = |content: Option<Vec<u8>>| content.as_deref().and_then(Content::from_slice);
        let contradicts_first = match (parsed(row.content), parsed(first_content)) {
            (Some(content), Some(first)) => content.contradicts(&first).is_some(),
            _ => false,
        };
        let found = Found {
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

/// A partition as its consumer and the running audit left it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The consumer's offset.
    pub(super) reached: i64,
    /// The last row, in the same moment.
    pub(super) last_row: Option<i64>,
    /// Up to where the running audit has proved it.
    pub(super) proved: Option<i64>,
}

/// How the consumers' partitions stand.
pub(super) async fn standings(
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    ids: &HashMap<String, i16>,
) -> Result<BTreeMap<Partition, Standing>, Error> {
    let mut standings = BTreeMap::new();
    for (name, topics) in consumers {
        let rows = sqlx::query!(
            r#"-- audit_standings
               SELECT topic_id, partition, o.next_offset AS reached, m.next_offset AS "proved?",
                      (SELECT max(record_offset) FROM events e
                       WHERE e.topic_id = o.topic_id AND e.partition = o.partition) AS last_row
               FROM consumer_offsets o LEFT JOIN audit_marks m USING (topic_id, partition)
               WHERE consumer = $1 AND topic_id = ANY($2)"#,
            name,
            &topics.iter().map(|topic| ids[topic]).collect::<Vec<_>>()
        )
        .fetch_all(&mut *connection)
        .await?;
        standings.extend(rows.into_iter().map(|row| {
            let standing = Standing { reached: row.reached, last_row: row.last_row, proved: row.proved };
            ((row.topic_id, row.partition), standing)
        }));
    }
    Ok(standings)
}

/// A stretch of a partition in which every record was found right.
pub(super) struct Proved {
    pub(super) partition: Partition,
    pub(super) to: i64,
    pub(super) outcomes: BTreeMap<String, i64>,
}

/// How many rows there are in each stretch, in its order.
pub(super) async fn rows_within(
    connection: &mut PgConnection,
    stretches: &[(Partition, i64, i64)],
) -> Result<Vec<i64>, Error> {
    let rows = sqlx::query_scalar!(
        r#"-- audit_rows_within
           SELECT (SELECT count(*) FROM events e
                   WHERE e.topic_id = s.topic_id AND e.partition = s.partition
                     AND e.record_offset >= s.first AND e.record_offset < s.past) AS "count!"
           FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::bigint[])
                WITH ORDINALITY AS s (topic_id, partition, first, past, place) ORDER BY place"#,
        &stretches.iter().map(|stretch| stretch.0.0).collect::<Vec<_>>(),
        &stretches.iter().map(|stretch| stretch.0.1).collect::<Vec<_>>(),
        &stretches.iter().map(|stretch| stretch.1).collect::<Vec<_>>(),
        &stretches.iter().map(|stretch| stretch.2).collect::<Vec<_>>(),
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Moves the marks forward.
pub(super) async fn mark(connection: &mut PgConnection, proved: &[Proved]) -> Result<(), Error> {
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

/// What the marks add up to, by outcome.
pub(super) async fn marked(connection: &mut PgConnection) -> Result<(u64, BTreeMap<String, u64>), Error> {
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

/// How the running audit's last run ended.
#[derive(Debug)]
pub(super) struct LastRun {
    pub(super) ended_at: DateTime<Utc>,
    pub(super) succeeded_at: Option<DateTime<Utc>>,
    pub(super) duration_seconds: f64,
    pub(super) wrong: i64,
    pub(super) pending: i64,
}

pub(super) async fn last_run(connection: &mut PgConnection) -> Result<Option<LastRun>, Error> {
    let row = sqlx::query_as!(
        LastRun,
        "-- audit_runs_last_read
         SELECT ended_at, succeeded_at, duration_seconds, wrong, pending FROM audit_runs_last"
    );
    Ok(row.fetch_optional(connection).await?)
}

pub(super) async fn set_last_run(
    connection: &mut PgConnection,
    report: &Report,
    duration: Duration,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "-- audit_runs_last_write
         INSERT INTO audit_runs_last AS last (ended_at, succeeded_at, duration_seconds, wrong, pending, findings)
         VALUES ($1, CASE WHEN $3::bigint = 0 THEN $1::timestamptz END, $2, $3, $4, $5)
         ON CONFLICT (only_row) DO UPDATE
         SET ended_at = EXCLUDED.ended_at, succeeded_at = coalesce(EXCLUDED.succeeded_at, last.succeeded_at),
             duration_seconds = EXCLUDED.duration_seconds, wrong = EXCLUDED.wrong, pending = EXCLUDED.pending,
             findings = EXCLUDED.findings",
        now,
        duration.as_secs_f64(),
        i64::try_from(report.wrong).unwrap_or(i64::MAX),
        i64::try_from(report.pending).unwrap_or(i64::MAX),
        &report.findings,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the lock that makes the running audit the only one, for as long as the connection lives.
pub(super) async fn try_lock(connection: &mut PgConnection, lock_id: i64) -> Result<bool, Error> {
    let lock = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, lock_id);
    Ok(lock.fetch_one(connection).await?)
}
