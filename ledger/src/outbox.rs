//! The outbox: messages for other systems, written in the transaction that causes them and deleted when they are
//! published; and the dead letters that are not published.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use riverlock_schemas::{cloud_event::Message, kafka::record::Position};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::Error;

/// Adds messages to the outbox, where they wait for the relay, which deletes them.
///
/// The caller guarantees that each effect fires once: it records what has fired in the row that causes the message, in
/// the same transaction.
///
/// Messages of an order itself are published in the order in which they were written: a transaction that writes them
/// has updated the order's row first, so that no other transaction writes such messages concurrently. `invoice.stored`,
/// `shipment.reported` and `shipment.refused` are written without updating that row, so they may come before or after
/// any of them.
///
/// # Errors
/// When PostgreSQL fails; the caller rolls back.
pub async fn add(connection: &mut PgConnection, messages: &[Message], now: DateTime<Utc>) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let orders: Vec<_> = messages.iter().map(Message::order).collect();
    sqlx::query!(
        "-- outbox_add
         INSERT INTO outbox (order_id, live_mode, kind, effect_key, payload, created_at)
         SELECT *, $6 FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bytea[])",
        &orders.iter().map(|(order_id, _)| order_id.as_str()).collect::<Vec<_>>() as _,
        &orders.iter().map(|(_, mode)| mode.is_live()).collect::<Vec<_>>(),
        &messages.iter().map(Message::kind).collect::<Vec<_>>() as _,
        &messages.iter().map(Message::effect_key).collect::<Vec<_>>(),
        &messages.iter().map(|message| message.to_json(now)).collect::<Vec<_>>(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Identifies a message: order id, mode, kind, effect key.
pub type MessageKey = (String, bool, String, String);

/// The key of a message.
#[must_use]
pub fn key(message: &Message) -> MessageKey {
    let (order_id, mode) = message.order();
    (order_id.to_string(), mode.is_live(), message.kind().to_owned(), message.effect_key())
}

/// Returns the messages of orders that are not published, waiting or parked.
pub async fn waiting(connection: &mut PgConnection, order_ids: &[&str]) -> Result<HashSet<MessageKey>, Error> {
    let rows = sqlx::query!(
        r#"-- outbox_waiting
           SELECT order_id AS "order_id!", live_mode AS "live_mode!", kind AS "kind!", effect_key AS "effect_key!" FROM outbox
           WHERE order_id = ANY($1)
           UNION ALL
           SELECT order_id, live_mode, kind, effect_key FROM outbox_parked WHERE order_id = ANY($1)"#,
        order_ids as _
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    Ok(rows.map(|row| (row.order_id, row.live_mode, row.kind, row.effect_key)).collect())
}

/// Records who had messages published again and why, with the first message after the number `after`.
pub async fn record_republished(
    connection: &mut PgConnection,
    after: i64,
    (by, why): (&str, &str),
) -> Result<(), Error> {
    sqlx::query!(
        "-- outbox_record_republished
         INSERT INTO outbox_retries (message_id, retried_by, why)
         SELECT min(message_id), $2, $3 FROM outbox WHERE message_id > $1 HAVING count(*) > 0",
        after,
        by,
        why
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the highest number of a message that waits, 0 if none does.
pub async fn last(connection: &mut PgConnection) -> Result<i64, Error> {
    let last = sqlx::query_scalar!("-- outbox_last\nSELECT coalesce(max(message_id), 0) AS \"last!\" FROM outbox");
    Ok(last.fetch_one(connection).await?)
}

/// A message that is not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedMessage {
    /// Number of the message.
    pub message_id: i64,
    /// Order id.
    pub order_id: String,
    /// Whether it is a live order.
    pub live_mode: bool,
    /// Kind of effect, such as `fulfillment.requested`.
    pub kind: String,
    /// Size of its body in bytes.
    pub bytes: i32,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was parked; `None` if it is waiting for the relay.
    pub parked_at: Option<DateTime<Utc>>,
    /// Why it is parked.
    pub reason: Option<String>,
    /// The parked message of the same order that it waits for; `None` if Kafka rejected this message itself.
    pub behind: Option<i64>,
}

/// A dead letter that cannot be published to its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedLetter {
    /// Position of its record.
    pub position: String,
    /// Size of its body in bytes.
    pub bytes: i32,
    /// When the record became a dead letter.
    pub created_at: DateTime<Utc>,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// Why it is parked.
    pub reason: String,
}

/// An operator's request to publish parked messages again.
#[derive(Clone, Debug)]
pub struct Request {
    /// The operator.
    pub by: String,
    /// The reason.
    pub why: String,
    /// Whether to commit the changes, as opposed to a dry run.
    pub apply: bool,
}

/// Returns at most `limit` messages that are not published, by number, after the number `after`. `parked_only` leaves
/// out those that wait for the relay.
pub async fn queued(
    connection: &mut PgConnection,
    parked_only: bool,
    after: i64,
    limit: i64,
) -> Result<Vec<QueuedMessage>, Error> {
    let rows = sqlx::query_as!(
        QueuedMessage,
        r#"-- outbox_queued
           SELECT message_id AS "message_id!", order_id AS "order_id!", live_mode AS "live_mode!", kind AS "kind!",
                  octet_length(payload) AS "bytes!", created_at AS "created_at!", parked_at, reason, behind
           FROM (
               (SELECT message_id, order_id, live_mode, kind, payload, created_at, NULL::timestamptz AS parked_at,
                       NULL::text AS reason, NULL::bigint AS behind
                FROM outbox WHERE message_id > $2 AND NOT $1 ORDER BY message_id LIMIT $3)
               UNION ALL
               (SELECT message_id, order_id, live_mode, kind, payload, created_at, parked_at, reason, behind
                FROM outbox_parked WHERE message_id > $2 ORDER BY message_id LIMIT $3)
           ) q
           ORDER BY message_id LIMIT $3"#,
        parked_only,
        after,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns at most `limit` dead letters that cannot be published, by position, after the position `after`.
pub async fn parked_letters(
    connection: &mut PgConnection,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<ParkedLetter>, Error> {
    let rows = sqlx::query_as!(
        ParkedLetter,
        r#"-- dead_letters_parked
           SELECT format('%s[%s]@%s', t.full_name, d.partition, d.record_offset) AS "position!",
                  octet_length(d.payload) AS "bytes!", d.created_at, d.parked_at AS "parked_at!",
                  d.parked_reason AS "reason!"
           FROM dead_letters d JOIN topic_names t USING (topic_id)
           WHERE d.parked_at IS NOT NULL
             AND ($1::text IS NULL OR (t.full_name, d.partition, d.record_offset) > ($1, $2, $3))
           ORDER BY t.full_name, d.partition, d.record_offset LIMIT $4"#,
        after.map(|after| after.topic.as_str()),
        after.map(|after| after.partition),
        after.map(|after| after.offset),
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns a parked message to the relay's queue, together with all parked messages of its order, because they are
/// published in order. Returns their numbers; none if the message is not parked.
///
/// # Errors
/// When PostgreSQL fails. Nothing is changed then.
pub async fn retry_message(
    connection: &mut PgConnection,
    message_id: i64,
    request: &Request,
) -> Result<Vec<i64>, Error> {
    let mut transaction = connection.begin().await?;
    lock_retries(&mut transaction).await?;
    // Locked before they are removed: the relay parks messages behind these, and must not do so behind a removed one.
    let parked = sqlx::query_scalar!(
        "-- outbox_parked_lock
         SELECT p.message_id FROM outbox_parked p
         JOIN outbox_parked named ON named.order_id = p.order_id AND named.live_mode = p.live_mode
         WHERE named.message_id = $1
         ORDER BY p.message_id FOR UPDATE",
        message_id
    )
    .fetch_all(&mut *transaction)
    .await?;
    if !request.apply || parked.is_empty() {
        transaction.rollback().await?;
        return Ok(parked);
    }
    let mut back = sqlx::query_scalar!(
        r#"-- outbox_unpark
           WITH back AS (
               DELETE FROM outbox_parked p USING outbox_parked named
               WHERE named.message_id = $1 AND p.order_id = named.order_id AND p.live_mode = named.live_mode
               RETURNING p.*
           ), waiting AS (
               INSERT INTO outbox (message_id, order_id, live_mode, kind, effect_key, payload, created_at)
               OVERRIDING SYSTEM VALUE
               SELECT message_id, order_id, live_mode, kind, effect_key, payload, created_at FROM back
           )
           INSERT INTO outbox_retries (message_id, retried_by, why, parked_at, reason)
           SELECT message_id, $2, $3, parked_at, reason FROM back
           RETURNING message_id AS "message_id!""#,
        message_id,
        request.by,
        request.why
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    back.sort_unstable();
    Ok(back)
}

/// Lets the relay publish a parked dead letter again; returns `false` if it is not parked.
///
/// # Errors
/// When PostgreSQL fails. Nothing is changed then.
pub async fn retry_letter(
    connection: &mut PgConnection,
    position: &Position,
    request: &Request,
) -> Result<bool, Error> {
    let mut transaction = connection.begin().await?;
    lock_retries(&mut transaction).await?;
    let retried = sqlx::query!(
        "-- dead_letters_unpark
         WITH parked AS (
             SELECT d.topic_id, d.partition, d.record_offset, d.parked_at, d.parked_reason
             FROM dead_letters d JOIN topic_names t USING (topic_id)
             WHERE t.full_name = $1 AND d.partition = $2 AND d.record_offset = $3 AND d.parked_at IS NOT NULL
             FOR UPDATE OF d
         ), back AS (
             UPDATE dead_letters d SET parked_at = NULL, parked_reason = NULL FROM parked p
             WHERE d.topic_id = p.topic_id AND d.partition = p.partition AND d.record_offset = p.record_offset
         )
         INSERT INTO outbox_retries (topic_id, partition, record_offset, retried_by, why, parked_at, reason)
         SELECT topic_id, partition, record_offset, $4, $5, parked_at, parked_reason FROM parked",
        position.topic,
        position.partition,
        position.offset,
        request.by,
        request.why
    )
    .execute(&mut *transaction)
    .await?;
    if request.apply {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(retried.rows_affected() > 0)
}

/// The relay detects returned messages by the highest retry number, so numbers must become visible in order.
async fn lock_retries(transaction: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("-- outbox_retries_lock\nLOCK TABLE outbox_retries IN SHARE ROW EXCLUSIVE MODE")
        .execute(transaction)
        .await?;
    Ok(())
}
