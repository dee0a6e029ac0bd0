//! Queries on the ledger's tables: topics, events, dead letters, offsets.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, Utc};
use rdkafka::message::Headers;
use riverlock_schemas::{events::content::Content, hash::Sha256Hash};
use sqlx::PgConnection;

use crate::{DeadReason, Error, Record, detail};

/// A partition: topic number and partition number.
pub type Partition = (i16, i32);

/// A consumer's next offsets by topic number and partition; `None` if it started at the beginning and has read nothing
/// yet.
pub type Positions = HashMap<(i16, i32), Option<i64>>;

/// Outcome of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The event was applied.
    Applied,
    /// Its event already had an outcome, and its content does not contradict it.
    Duplicate,
    /// Not handled by the consumer.
    Ignored,
    /// Its event already had an outcome, and its content contradicts it.
    Conflict,
    /// It could not be applied.
    Dead,
}

impl Outcome {
    /// The name used in the database, in labels and in output.
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

/// A row of `events`. Texts are borrowed from the record where possible.
#[derive(Clone, Debug)]
pub struct EventRow<'a> {
    /// The topic's number.
    pub topic_id: i16,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The event's id, or its substitute.
    pub event_id: Cow<'a, str>,
    /// The event's type.
    pub event_type: Cow<'a, str>,
    /// `liveMode`.
    pub live_mode: Option<bool>,
    /// The event's order.
    pub order_id: Option<Cow<'a, str>>,
    /// When Digital River created the event.
    pub created_at: Option<DateTime<Utc>>,
    /// When Kafka stored the record.
    pub received_at: DateTime<Utc>,
    /// Hash of the body.
    pub body_sha256: Sha256Hash,
    /// Content digest, for comparison with other bodies of the event; `None` if the record is not an event, and if
    /// another record has the same bytes.
    pub content: Option<Content>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it was ignored or is dead.
    pub reason: Option<&'static str>,
}

/// The first record of an event, which decided its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRecord {
    /// Topic number, partition, offset.
    pub position: (i16, i32, i64),
    /// Hash of the body.
    pub body_sha256: Vec<u8>,
}

/// Returns the numbers of topics of the current cluster; a topic without a number gets one.
///
/// If all topics have numbers, nothing is written and no sequence number is used: this is called repeatedly, and
/// numbers are `smallint`.
pub async fn topic_ids(connection: &mut PgConnection, names: &[String]) -> Result<HashMap<String, i16>, Error> {
    let known = known_topic_ids(connection, names).await?;
    if names.iter().all(|name| known.contains_key(name)) {
        return Ok(known);
    }
    // `ON CONFLICT` covers another process that adds the same name concurrently.
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

/// Returns the numbers of topics of the current cluster that have one.
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

/// Returns the numbers of topics for reading: a topic without a number gets a negative one, which no row uses.
pub async fn topic_ids_to_read(connection: &mut PgConnection, names: &[String]) -> Result<HashMap<String, i16>, Error> {
    let mut ids = known_topic_ids(connection, names).await?;
    let unknown: Vec<&String> = names.iter().filter(|name| !ids.contains_key(*name)).collect();
    ids.extend(unknown.into_iter().cloned().zip((i16::MIN..0).rev()));
    Ok(ids)
}

/// Adds rows to `events` that do not exist yet, and returns the positions of the added ones.
///
/// A row exists already if its record was read before, or if another record decided its event's outcome.
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

/// Returns the first records of events, by event id.
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

/// Stores records that could not be applied, unchanged.
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

/// Advances a consumer's offsets; they never decrease.
pub async fn advance_offsets(
    connection: &mut PgConnection,
    consumer: &str,
    next_offsets: &HashMap<(i16, i32), i64>,
) -> Result<(), Error> {
    advance_offsets_after(connection, consumer, next_offsets, &Positions::new()).await
}

/// Like [`advance_offsets`], but only if the stored offsets are not before the consumer's position. Stored offsets
/// before it mean that the database has lost data, and advancing them would skip that data forever.
///
/// # Errors
/// When PostgreSQL fails, or with [`Error::Regressed`].
pub async fn advance_offsets_after(
    connection: &mut PgConnection,
    consumer: &str,
    next_offsets: &HashMap<(i16, i32), i64>,
    before: &Positions,
) -> Result<(), Error> {
    // All transactions lock in the same order.
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
    if moved.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(Error::Regressed) }
}

/// Returns a consumer's offsets, by topic number and partition.
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
