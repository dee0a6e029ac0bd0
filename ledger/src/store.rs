//! The ledger's tables: topics, events, dead letters, offsets.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, Utc};
use rdkafka::message::Headers;
use riverlock_schemas::{events::content::Content, hash::Sha256Hash};
use sqlx::PgConnection;

use crate::{DeadReason, Error, Record, detail};

/// A partition, by the topic's number.
pub type Partition = (i16, i32);

/// Where a consumer has read to, by topic number and partition: the offset that comes next, or `None` where it began at
/// the beginning and has read nothing yet.
pub type Positions = HashMap<(i16, i32), Option<i64>>;

/// The outcomes that a row of the audit may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// Its event had an outcome already.
    Duplicate,
    /// It was none of the consumer's business.
    Ignored,
    /// Its event had an outcome already, with another body.
    Conflict,
    /// It could not take effect.
    Dead,
}

impl Outcome {
    /// As in the database, labels and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Conflict => "conflict",
            Self::Dead => "dead",
        }
    }
}

/// A row of the audit; its texts are the record's where they can be.
#[derive(Clone, Debug)]
pub struct EventRow<'a> {
    /// The topic's number.
    pub topic_id: i16,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The event's id, or what stands for it.
    pub event_id: Cow<'a, str>,
    /// The event's type.
    pub event_type: Cow<'a, str>,
    /// `liveMode`.
    pub live_mode: Option<bool>,
    /// The order that it is about.
    pub order_id: Option<Cow<'a, str>>,
    /// When Digital River made it.
    pub created_at: Option<DateTime<Utc>>,
    /// When the broker took it.
    pub received_at: DateTime<Utc>,
    /// Hash of the body.
    pub body_sha256: Sha256Hash,
    /// What it says, for comparison with other bodies under its event's id; `None` when it is no event, and when another
    /// record has the same bytes.
    pub content: Option<Content>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why, for what was ignored or is dead.
    pub reason: Option<&'static str>,
}

/// The first record of an event: the one that decided its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRecord {
    /// Topic number, partition, offset.
    pub position: (i16, i32, i64),
    /// Hash of the body.
    pub body_sha256: Vec<u8>,
}

/// The numbers of topics of the current cluster; a topic without a number gets one.
///
/// Nothing is written, and no number of the sequence is used up, when all topics have numbers: this is called again and
/// again, and numbers are `smallint`.
pub async fn topic_ids(connection: &mut PgConnection, names: &[String]) -> Result<HashMap<String, i16>, Error> {
    let known = known_topic_ids(connection, names).await?;
    if names.iter().all(|name| known.contains_key(name)) {
        return Ok(known);
    }
    // `ON CONFLICT` for the case that another process adds the same name at this moment.
    sqlx::query!(
        "-- topics_add
         INSERT INTO topics (cluster_id, name)
         SELECT c.cluster_id, n.name
         FROM (SELECT DISTINCT * FROM unnest($1::text[])) AS n (name),
              (SELECT coalesce((SELECT cluster_id FROM kafka_clusters WHERE is_current), '') AS cluster_id) c
         WHERE NOT EXISTS (SELECT FROM topics t WHERE t.cluster_id = c.cluster_id AND t.name = n.name)
         ON CONFLICT DO NOTHING",
        names
    )
    .execute(&mut *connection)
    .await?;
    known_topic_ids(connection, names).await
}

/// The numbers of those topics of the current cluster that have one.
pub async fn known_topic_ids(connection: &mut PgConnection, names: &[String]) -> Result<HashMap<String, i16>, Error> {
    let rows = sqlx::query!(
        "-- topics_of
         SELECT topic_id, name FROM topics
         WHERE name = ANY($1)
           AND cluster_id = coalesce((SELECT cluster_id FROM kafka_clusters WHERE is_current), '')",
        names
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.topic_id)).collect())
}

/// The numbers of topics, for what only reads: a topic without a number gets a negative one, which is used by no row.
pub async fn topic_ids_to_read(connection: &mut PgConnection, names: &[String]) -> Result<HashMap<String, i16>, Error> {
    let mut ids = known_topic_ids(connection, names).await?;
    let unknown: Vec<&String> = names.iter().filter(|name| !ids.contains_key(*name)).collect();
    ids.extend(unknown.into_iter().cloned().zip((i16::MIN..0).rev()));
    Ok(ids)
}

/// Adds rows of the audit that are not there yet, and returns where those are that were added.
///
/// A row is there already when its record is (it is read again), or when another record decided its event's outcome.
pub async fn add_events(connection: &mut PgConnection, rows: &[&EventRow<'_>]) -> Result<Vec<(i16, i32, i64)>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let added = sqlx::query!(
        r#"-- events_add
           INSERT INTO events (topic_id, partition, record_offset, event_id, event_type, live_mode, order_id, created_at,
                               received_at, body_sha256, content, outcome, reason)
           SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::boolean[],
                                $7::text[], $8::timestamptz[], $9::timestamptz[], $10::bytea[], $11::bytea[], $12::text[],
                                $13::text[])
           ON CONFLICT DO NOTHING
           RETURNING topic_id, partition, record_offset"#,
        &rows.iter().map(|row| row.topic_id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.partition).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.offset).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.event_id.as_ref()).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.event_type.as_ref()).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.live_mode).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.order_id.as_deref()).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.created_at).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.received_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.body_sha256.as_bytes().as_slice()).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.content.as_ref().map(|content| content.as_bytes().as_slice())).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.reason).collect::<Vec<_>>() as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(added.into_iter().map(|row| (row.topic_id, row.partition, row.record_offset)).collect())
}

/// The first records of events, by event id.
pub async fn first_records(
    connection: &mut PgConnection,
    event_ids: &[&str],
) -> Result<HashMap<String, FirstRecord>, Error> {
    if event_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "-- events_first
         SELECT event_id, topic_id, partition, record_offset, body_sha256 FROM events
         WHERE event_id = ANY($1::text[]) AND outcome IN ('applied', 'ignored', 'dead')",
        event_ids as _
    )
    .fetch_all(connection)
    .await?;
    let first = rows.into_iter().map(|row| {
        let position = (row.topic_id, row.partition, row.record_offset);
        (row.event_id, FirstRecord { position, body_sha256: row.body_sha256 })
    });
    Ok(first.collect())
}

/// Keeps records that could not be applied, as they were.
pub async fn add_dead_letters(connection: &mut PgConnection, letters: &[(&Record, &DeadReason)]) -> Result<(), Error> {
    for (record, dead) in letters {
        let headers = record.headers.iter().flat_map(Headers::iter);
        let (names, values): (Vec<_>, Vec<_>) =
            headers.map(|header| (header.key.replace('\0', ""), header.value.unwrap_or_default().to_vec())).unzip();
        sqlx::query!(
            "-- dead_letters_add
             INSERT INTO dead_letters (topic_id, partition, record_offset, reason, detail, record_key, header_names,
                                       header_values, payload)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
            record.topic_id,
            record.partition,
            record.offset,
            dead.reason,
            detail::safe(&dead.detail),
            record.key.as_deref(),
            &names,
            &values,
            record.payload,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Moves a consumer's offsets forward; never back.
pub async fn advance_offsets(
    connection: &mut PgConnection,
    consumer: &str,
    next_offsets: &HashMap<(i16, i32), i64>,
) -> Result<(), Error> {
    advance_offsets_after(connection, consumer, next_offsets, &Positions::new()).await
}

/// As [`advance_offsets`], but only from where the consumer has read on: offsets that lie before its position mean that the
/// database has lost what it once had, and moving them would skip that for ever.
///
/// # Errors
/// When PostgreSQL refuses, or with [`Error::WentBack`].
pub async fn advance_offsets_after(
    connection: &mut PgConnection,
    consumer: &str,
    next_offsets: &HashMap<(i16, i32), i64>,
    before: &Positions,
) -> Result<(), Error> {
    // One order of locks for everybody.
    let mut rows: Vec<_> = next_offsets.iter().map(|(&(topic, partition), &next)| (topic, partition, next)).collect();
    rows.sort_unstable();
    let position = |row: &(i16, i32, i64)| before.get(&(row.0, row.1)).copied().flatten();
    let moved = sqlx::query!(
        r#"-- consumer_offsets_advance
           INSERT INTO consumer_offsets (consumer, topic_id, partition, next_offset)
           SELECT $1, n.topic_id, n.partition, n.next_offset
           FROM unnest($2::smallint[], $3::integer[], $4::bigint[], $5::bigint[])
               AS n (topic_id, partition, next_offset, position)
           LEFT JOIN consumer_offsets o ON o.consumer = $1 AND o.topic_id = n.topic_id AND o.partition = n.partition
           WHERE n.position IS NULL OR o.next_offset >= n.position
           ON CONFLICT (consumer, topic_id, partition) DO UPDATE
           SET next_offset = GREATEST(consumer_offsets.next_offset, EXCLUDED.next_offset), updated_at = now()"#,
        consumer,
        &rows.iter().map(|row| row.0).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.1).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.2).collect::<Vec<_>>(),
        &rows.iter().map(position).collect::<Vec<_>>() as _,
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(Error::WentBack) }
}

/// Where a consumer stands, by topic number and partition.
pub async fn offsets(connection: &mut PgConnection, consumer: &str) -> Result<HashMap<(i16, i32), i64>, Error> {
    let rows = sqlx::query!(
        "-- consumer_offsets_of
         SELECT topic_id, partition, next_offset FROM consumer_offsets WHERE consumer = $1",
        consumer
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.topic_id, row.partition), row.next_offset)).collect())
}
