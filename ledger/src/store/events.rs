//! Writing `events`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    event_key,
    row::{EventRow, FirstRecord},
};
use crate::Error;

/// Numbers of event types and reasons, which stand for the names in `events`.
#[derive(Debug, Default)]
pub struct Names {
    types: HashMap<String, i32>,
    reasons: HashMap<String, i16>,
}

impl Names {
    /// Returns the numbers of the names in these rows; a name without a number gets one.
    ///
    /// They are read for every batch: a number that was kept in memory could be missing in a database that was restored
    /// meanwhile, and one that was given in a transaction disappears if that is rolled back.
    ///
    /// # Errors
    /// When PostgreSQL fails.
    pub async fn of<'a>(
        connection: &mut PgConnection,
        rows: impl Iterator<Item = &'a EventRow<'a>> + Clone,
    ) -> Result<Self, Error> {
        // Sorted, so that all transactions lock in the same order.
        let types: Vec<&str> =
            rows.clone().map(|row| row.event_type.as_ref()).collect::<BTreeSet<_>>().into_iter().collect();
        let reasons: Vec<&str> = rows.filter_map(|row| row.reason).collect::<BTreeSet<_>>().into_iter().collect();
        let mut names = Self::default();
        if !types.is_empty() {
            names.types = type_numbers(connection, &types).await?;
        }
        if !reasons.is_empty() {
            names.reasons = reason_numbers(connection, &reasons).await?;
        }
        Ok(names)
    }

    /// The number of a row's event type.
    ///
    /// # Errors
    /// When the row was not among those that the numbers were read for.
    pub fn type_of(&self, row: &EventRow<'_>) -> Result<i32, Error> {
        self.types.get(row.event_type.as_ref()).copied().ok_or_else(|| missing("event_types", &row.event_type))
    }

    /// The number of a row's reason; 0 if it has none.
    ///
    /// # Errors
    /// When the row was not among those that the numbers were read for.
    pub fn reason_of(&self, row: &EventRow<'_>) -> Result<i16, Error> {
        let Some(reason) = row.reason else { return Ok(0) };
        self.reasons.get(reason).copied().ok_or_else(|| missing("event_reasons", reason))
    }
}

fn missing(table: &'static str, name: &str) -> Error {
    Error::Inconsistent { table, id: name.to_owned(), reason: "it has no number".to_owned() }
}

async fn types_known(connection: &mut PgConnection, names: &[&str]) -> Result<HashMap<String, i32>, Error> {
    let rows = sqlx::query!(
        "-- event_types_of
         SELECT type_id, name FROM event_types WHERE name = ANY($1::text[])",
        names as _
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.name, row.type_id)).collect())
}

/// Gives numbers to event types. Only called for types without one: a number is used up even if another process adds the
/// same type concurrently.
async fn add_types(connection: &mut PgConnection, names: &[&str]) -> Result<(), Error> {
    sqlx::query!(
        "-- event_types_add
         INSERT INTO event_types (name) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING",
        names as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the numbers of event types; a type without a number gets one.
async fn type_numbers(connection: &mut PgConnection, types: &[&str]) -> Result<HashMap<String, i32>, Error> {
    let known = types_known(connection, types).await?;
    let missing: Vec<&str> = types.iter().copied().filter(|name| !known.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(known);
    }
    add_types(connection, &missing).await?;
    types_known(connection, types).await
}

async fn reasons_known(connection: &mut PgConnection, names: &[&str]) -> Result<HashMap<String, i16>, Error> {
    let rows = sqlx::query!(
        "-- event_reasons_of
         SELECT reason_id, name FROM event_reasons WHERE name = ANY($1::text[])",
        names as _
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.name, row.reason_id)).collect())
}

/// Gives numbers to reasons, like [`add_types`].
async fn add_reasons(connection: &mut PgConnection, names: &[&str]) -> Result<(), Error> {
    sqlx::query!(
        "-- event_reasons_add
         INSERT INTO event_reasons (name) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING",
        names as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the numbers of reasons; a reason without a number gets one.
async fn reason_numbers(connection: &mut PgConnection, reasons: &[&str]) -> Result<HashMap<String, i16>, Error> {
    let known = reasons_known(connection, reasons).await?;
    let missing: Vec<&str> = reasons.iter().copied().filter(|name| !known.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(known);
    }
    add_reasons(connection, &missing).await?;
    reasons_known(connection, reasons).await
}

/// Returns the number of a reason; a reason without a number gets one.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn reason_number(connection: &mut PgConnection, reason: &str) -> Result<i16, Error> {
    let number = reason_numbers(connection, &[reason]).await?.remove(reason);
    number.ok_or_else(|| missing("event_reasons", reason))
}

/// Stores the ids that do not follow from their keys.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn add_odd_ids<'a>(
    connection: &mut PgConnection,
    rows: impl Iterator<Item = &'a EventRow<'a>>,
) -> Result<(), Error> {
    let odd: BTreeMap<Uuid, &str> = rows
        .filter(|row| event_key::is_odd(&row.event_key))
        .map(|row| (row.event_key, row.event_id.as_ref()))
        .collect();
    if odd.is_empty() {
        return Ok(());
    }
    let (keys, ids): (Vec<Uuid>, Vec<&str>) = odd.into_iter().unzip();
    sqlx::query!(
        "-- odd_event_ids_add
         INSERT INTO odd_event_ids (event_key, event_id) SELECT * FROM unnest($1::uuid[], $2::text[]) ON CONFLICT DO NOTHING",
        &keys,
        &ids as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds rows to `events` that do not exist yet, and returns the positions of the added ones.
///
/// A row exists already if its record was read before, or if another record decided its event's outcome. The caller has
/// stored the odd ids of the rows.
///
/// # Errors
/// When PostgreSQL fails, or `names` lacks a name.
pub async fn add_events(
    connection: &mut PgConnection,
    rows: &[&EventRow<'_>],
    names: &Names,
) -> Result<Vec<(i16, i32, i64)>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let contents: Vec<Option<Vec<u8>>> = rows.iter().map(|row| row.packed_content()).collect();
    // One row is returned and not one per record.
    let added = sqlx::query!(
        r#"-- events_add
           WITH added AS (
               INSERT INTO events (event_key, record_offset, received_at, created_at, partition, type_id, recorded_after,
                                   topic_id, reason_id, outcome_code, mode_code, body_sha256, content, order_id)
               SELECT event_key, record_offset, received_at, coalesce(created_at, '-infinity'), partition, type_id,
                      extract(epoch FROM now() - received_at)::real, topic_id, reason_id, outcome_code, mode_code,
                      body_sha256, content, order_id
               FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[],
                           $7::smallint[], $8::smallint[], $9::"char"[], $10::"char"[], $11::bytea[], $12::bytea[],
                           $13::text[])
                    AS n (event_key, record_offset, received_at, created_at, partition, type_id, topic_id, reason_id,
                          outcome_code, mode_code, body_sha256, content, order_id)
               ON CONFLICT DO NOTHING
               RETURNING topic_id, partition, record_offset
           )
           SELECT array_agg(topic_id) AS topic_ids, array_agg(partition) AS partitions, array_agg(record_offset) AS offsets
           FROM added"#,
        &rows.iter().map(|row| row.event_key).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.offset).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.received_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.created_at).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.partition).collect::<Vec<_>>(),
        &rows.iter().map(|row| names.type_of(row)).collect::<Result<Vec<_>, _>>()?,
        &rows.iter().map(|row| row.topic_id).collect::<Vec<_>>(),
        &rows.iter().map(|row| names.reason_of(row)).collect::<Result<Vec<_>, _>>()?,
        &rows.iter().map(|row| row.outcome.code()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.mode_code()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.body_sha256.as_bytes().as_slice()).collect::<Vec<_>>() as _,
        &contents as _,
        &rows.iter().map(|row| row.order_id.as_deref()).collect::<Vec<_>>() as _,
    )
    .fetch_one(connection)
    .await?;
    let topics = added.topic_ids.unwrap_or_default().into_iter();
    let places = added.partitions.unwrap_or_default().into_iter().zip(added.offsets.unwrap_or_default());
    Ok(topics.zip(places).map(|(topic_id, (partition, offset))| (topic_id, partition, offset)).collect())
}

/// Returns the first records of events, by the events' keys.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn first_records(
    connection: &mut PgConnection,
    event_keys: &[Uuid],
) -> Result<HashMap<Uuid, FirstRecord>, Error> {
    if event_keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "-- events_first
         SELECT event_key, topic_id, partition, record_offset, body_sha256 FROM events
         WHERE event_key = ANY($1::uuid[]) AND outcome_code IN ('a', 'i', 'x')",
        event_keys
    )
    .fetch_all(connection)
    .await?;
    let first = rows.into_iter().map(|row| {
        let position = (row.topic_id, row.partition, row.record_offset);
        (row.event_key, FirstRecord { position, body_sha256: row.body_sha256 })
    });
    Ok(first.collect())
}
