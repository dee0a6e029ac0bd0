//! Queries on the ledger's tables: topics, events, dead letters, offsets.

pub mod event_key;
mod events;
mod row;

use std::collections::HashMap;

use rdkafka::message::Headers;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{DeadReason, Error, Record, detail};

pub use events::{Names, add_events, add_odd_ids, first_records, reason_number};
pub use row::{EventRow, FirstRecord, Outcome};

/// A partition: topic number and partition number.
pub type Partition = (i16, i32);

/// A consumer's next offsets by topic number and partition; `None` if it started at the beginning and has read nothing
/// yet.
pub type Positions = HashMap<(i16, i32), Option<i64>>;

/// Offsets between two positions that are looked up with one statement, at most.
const SPAN_GAP_MAX: i64 = 1_000;

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

/// Offsets `[start, end)` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetSpan {
    /// The partition.
    pub partition: Partition,
    /// The first offset.
    pub start: i64,
    /// The offset after the last one.
    pub end: i64,
}

/// Returns ranges of offsets that cover these positions. Rows are looked up by ranges, because the index on offsets finds
/// pages and not rows.
#[must_use]
pub fn spans(positions: impl IntoIterator<Item = (i16, i32, i64)>) -> Vec<OffsetSpan> {
    let mut positions: Vec<_> = positions.into_iter().collect();
    positions.sort_unstable();
    let mut spans: Vec<OffsetSpan> = Vec::new();
    for (topic_id, partition, offset) in positions {
        let partition = (topic_id, partition);
        match spans.last_mut() {
            Some(last) if last.partition == partition && offset - last.end < SPAN_GAP_MAX => last.end = offset + 1,
            _ => spans.push(OffsetSpan { partition, start: offset, end: offset + 1 }),
        }
    }
    spans
}

/// Returns the number of pages of `events`. Statements that read the whole table read it page by page, each statement a part
/// that it finishes within seconds; see [`first_row_of`].
///
/// # Errors
/// When PostgreSQL fails.
pub async fn event_pages(connection: &mut PgConnection) -> Result<i64, Error> {
    let pages = sqlx::query_scalar!(
        r#"-- events_pages
           SELECT pg_relation_size('events') / current_setting('block_size')::bigint AS "pages!""#
    );
    Ok(pages.fetch_one(connection).await?)
}

/// The location before the first row of a page, to compare with `row_location`.
#[must_use]
pub fn first_row_of(page: i64) -> String {
    format!("({page},0)")
}

/// Stores records that could not be applied, unchanged, with the keys of their events.
pub async fn add_dead_letters(
    connection: &mut PgConnection,
    letters: &[(&Record, Uuid, &DeadReason)],
) -> Result<(), Error> {
    for (record, event_key, dead) in letters {
        let headers = record.headers.iter().flat_map(Headers::iter);
        let (names, values): (Vec<_>, Vec<_>) =
            headers.map(|header| (header.key.replace('\0', ""), header.value.unwrap_or_default().to_vec())).unzip();
        sqlx::query!(
            "-- dead_letters_add
             INSERT INTO dead_letters (topic_id, partition, record_offset, reason, detail, record_key, header_names,
                                       header_values, payload, event_key)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            record.topic_id,
            record.partition,
            record.offset,
            dead.reason,
            detail::safe(&dead.detail),
            record.key.as_deref(),
            &names,
            &values,
            record.payload,
            event_key,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_covered_by_few_ranges_without_large_gaps() {
        let far = SPAN_GAP_MAX + 10;
        let found = spans([(1, 0, far), (1, 0, 9), (1, 0, 5), (1, 1, 6), (2, 1, 7)]);
        let span = |topic_id, partition, start, end| OffsetSpan { partition: (topic_id, partition), start, end };
        assert_eq!(found, [span(1, 0, 5, 10), span(1, 0, far, far + 1), span(1, 1, 6, 7), span(2, 1, 7, 8)]);
        assert_eq!(spans([]), []);
    }
}
