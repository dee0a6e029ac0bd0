//! Read model of the ledger for the CLI and API.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use riverlock_schemas::kafka::record::Position;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, store::event_key};

/// Most rows that are returned for one order or one event.
pub const ROWS_MAX: i64 = 1_000;

/// A record and its outcome.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct EventView {
    pub event_id: String,
    pub event_type: String,
    pub live_mode: Option<bool>,
    pub order_id: Option<String>,
    /// When Digital River created the event.
    pub created_at: Option<DateTime<Utc>>,
    /// When Kafka stored the record.
    pub received_at: DateTime<Utc>,
    /// When the outcome was stored.
    pub recorded_at: DateTime<Utc>,
    /// For a record of an earlier Kafka cluster: `<cluster id>/<topic>`.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// SHA-256 of the record's body.
    pub body_sha256: String,
    /// `applied`, `duplicate`, `ignored`, `conflict` or `dead`.
    pub outcome: String,
    pub reason: Option<String>,
}

impl EventView {
    /// Position of the record.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { topic: self.topic.clone(), partition: self.partition, offset: self.offset }
    }
}

/// Start of a page of an order's records: the records before this one follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// When Kafka stored it.
    pub received_at: DateTime<Utc>,
    /// Its position.
    pub record: Position,
}

/// A message for other systems.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct MessageView {
    pub kind: String,
    /// Distinguishes messages of the same order and kind: a document's file id, for example.
    pub effect_key: String,
    pub live_mode: bool,
    pub created_at: DateTime<Utc>,
    /// Whether it has been published to Kafka.
    pub published: bool,
}

/// Returns the records of an order, in the order in which Kafka stored them.
pub async fn events_of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<EventView>, Error> {
    let rows = sqlx::query_as!(
        EventView,
        r#"-- events_of_order
           SELECT event_id AS "event_id!", event_type AS "event_type!", live_mode, order_id, created_at,
                  received_at AS "received_at!", recorded_at AS "recorded_at!", full_name AS "topic!",
                  partition AS "partition!", record_offset AS "offset!", encode(body_sha256, 'hex') AS "body_sha256!",
                  outcome AS "outcome!", reason
           FROM event_records JOIN topic_names USING (topic_id) WHERE order_id = $1 ORDER BY received_at, record_offset LIMIT $2"#,
        order_id,
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns a page of an order's records, newest first.
pub async fn events_of_order_page(
    connection: &mut PgConnection,
    order_id: &str,
    live_mode: Option<bool>,
    before: Option<&EventPosition>,
    limit: i64,
) -> Result<Vec<EventView>, Error> {
    let rows = sqlx::query_as!(
        EventView,
        r#"-- events_of_order_page
           SELECT event_id AS "event_id!", event_type AS "event_type!", live_mode, order_id, created_at,
                  received_at AS "received_at!", recorded_at AS "recorded_at!", full_name AS "topic!",
                  partition AS "partition!", record_offset AS "offset!", encode(body_sha256, 'hex') AS "body_sha256!",
                  outcome AS "outcome!", reason
           FROM event_records JOIN topic_names USING (topic_id)
           WHERE order_id = $1 AND ($2::boolean IS NULL OR live_mode = $2)
             AND ($3::timestamptz IS NULL OR (received_at, full_name, partition, record_offset) < ($3, $4, $5, $6))
           ORDER BY received_at DESC, full_name DESC, partition DESC, record_offset DESC LIMIT $7"#,
        order_id,
        live_mode,
        before.map(|before| before.received_at),
        before.map(|before| before.record.topic.as_str()),
        before.map(|before| before.record.partition),
        before.map(|before| before.record.offset),
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the records of an event, in the order in which they were processed.
pub async fn records_of_event(connection: &mut PgConnection, event_id: &str) -> Result<Vec<EventView>, Error> {
    let rows = sqlx::query_as!(
        EventView,
        r#"-- records_of_event
           SELECT event_id AS "event_id!", event_type AS "event_type!", live_mode, order_id, created_at,
                  received_at AS "received_at!", recorded_at AS "recorded_at!", full_name AS "topic!",
                  partition AS "partition!", record_offset AS "offset!", encode(body_sha256, 'hex') AS "body_sha256!",
                  outcome AS "outcome!", reason
           FROM event_records JOIN topic_names USING (topic_id)
           -- In two halves, each of which has an index.
           WHERE (event_key = $1 AND outcome_code IN ('a', 'i', 'x'))
              OR (event_key = $1 AND outcome_code IN ('d', 'c'))
           ORDER BY recorded_at, received_at, full_name, partition, record_offset LIMIT $2"#,
        event_key::of(event_id),
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the columns of a dead letter except the record itself, by name; `None` if there is none.
pub async fn dead_letter(
    connection: &mut PgConnection,
    record: &Position,
) -> Result<Option<serde_json::Map<String, serde_json::Value>>, Error> {
    let row = sqlx::query!(
        r#"-- dead_letter_of_record
           SELECT to_jsonb(d) - '{topic_id,partition,record_offset,record_key,header_names,header_values,payload,event_key}'::text[]
                  AS "letter!"
           FROM dead_letters d JOIN topic_names USING (topic_id) WHERE full_name = $1 AND partition = $2 AND record_offset = $3"#,
        record.topic,
        record.partition,
        record.offset
    );
    let row = row.fetch_optional(connection).await?;
    Ok(row.and_then(|row| match row.letter {
        serde_json::Value::Object(letter) => Some(letter),
        _ => None,
    }))
}

/// Returns the messages of an order, in the order in which they are published.
pub async fn messages_of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<MessageView>, Error> {
    let rows = sqlx::query_as!(
        MessageView,
        r#"-- outbox_of_order
           WITH waiting AS (
               SELECT live_mode, kind, effect_key FROM outbox WHERE order_id = $1
               UNION ALL
               SELECT live_mode, kind, effect_key FROM outbox_parked WHERE order_id = $1
           )
           SELECT kind AS "kind!", effect_key AS "effect_key!", live_mode AS "live_mode!", fired_at AS "created_at!",
                  (live_mode, kind, effect_key) NOT IN (SELECT * FROM waiting) AS "published!"
           FROM effects WHERE order_id = $1 ORDER BY fired_at, number LIMIT $2"#,
        order_id,
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns how many messages were ever written, and how many are not published yet.
pub async fn outbox_counts(connection: &mut PgConnection) -> Result<(u64, u64), Error> {
    let row = sqlx::query!(
        r#"-- outbox_counts
           SELECT (SELECT count(*) FROM effects) AS "all!",
                  (SELECT count(*) FROM outbox) + (SELECT count(*) FROM outbox_parked) AS "waiting!""#
    );
    let row = row.fetch_one(connection).await?;
    Ok((u64::try_from(row.all).unwrap_or_default(), u64::try_from(row.waiting).unwrap_or_default()))
}

/// Returns those of the events that have an outcome.
pub async fn known_events(connection: &mut PgConnection, event_ids: &[String]) -> Result<HashSet<String>, Error> {
    let mut ids: HashMap<Uuid, &String> = event_ids.iter().map(|id| (event_key::of(id), id)).collect();
    let rows = sqlx::query_scalar!(
        "-- events_known
         SELECT DISTINCT event_key FROM events
         -- In two halves, each of which has an index.
         WHERE (event_key = ANY($1::uuid[]) AND outcome_code IN ('a', 'i', 'x'))
            OR (event_key = ANY($1::uuid[]) AND outcome_code IN ('d', 'c'))",
        &ids.keys().copied().collect::<Vec<_>>()
    );
    let known = rows.fetch_all(connection).await?;
    Ok(known.into_iter().filter_map(|key| ids.remove(&key).cloned()).collect())
}
