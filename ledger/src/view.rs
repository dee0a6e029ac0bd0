//! The ledger for people who look.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::Error;

/// Rows that are shown of one order.
const ROWS_MAX: i64 = 1_000;

/// A record and its outcome.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct EventView {
    pub event_id: String,
    pub event_type: String,
    pub live_mode: Option<bool>,
    pub created_at: Option<DateTime<Utc>>,
    pub received_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub outcome: String,
    pub reason: Option<String>,
}

/// A message to other systems.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct MessageView {
    pub kind: String,
    pub live_mode: bool,
    pub created_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
}

/// The records of an order, in the order in which they were taken.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn events_of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<EventView>, Error> {
    let rows = sqlx::query_as!(
        EventView,
        r#"-- events_of_order
           SELECT event_id, event_type, live_mode, created_at, received_at, recorded_at, name AS topic, partition,
                  record_offset AS "offset", outcome, reason
           FROM events JOIN topics USING (topic_id) WHERE order_id = $1 ORDER BY received_at, record_offset LIMIT $2"#,
        order_id,
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// The messages about an order, in the order in which they are sent.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn messages_of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<MessageView>, Error> {
    let rows = sqlx::query_as!(
        MessageView,
        "-- outbox_of_order
         SELECT kind, live_mode, created_at, published_at FROM outbox WHERE order_id = $1 ORDER BY message_id LIMIT $2",
        order_id,
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// How many messages were ever written, and how many of them wait to be published.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn outbox_counts(connection: &mut PgConnection) -> Result<(u64, u64), Error> {
    let row = sqlx::query!(
        r#"-- outbox_counts
           SELECT count(*) AS "all!", count(*) FILTER (WHERE published_at IS NULL) AS "waiting!" FROM outbox"#
    );
    let row = row.fetch_one(connection).await?;
    Ok((u64::try_from(row.all).unwrap_or_default(), u64::try_from(row.waiting).unwrap_or_default()))
}

/// Which of these events have an outcome.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn known_events(connection: &mut PgConnection, event_ids: &[String]) -> Result<HashSet<String>, Error> {
    let rows = sqlx::query!(
        "-- events_known
         SELECT DISTINCT event_id FROM events WHERE event_id = ANY($1)",
        event_ids
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| row.event_id).collect())
}
