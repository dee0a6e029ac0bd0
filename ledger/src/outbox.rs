//! Messages to other systems, written in the transaction that causes them; and what of them, and of the dead letters, is not
//! published.

use chrono::{DateTime, Utc};
use riverlock_schemas::{cloud_event::Message, record::Position};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::Error;

/// Adds messages, and puts them into the relay's queue. One that was ever added for the same order, kind and key is passed
/// over: an effect fires once for ever.
///
/// Messages about an order itself are published in the order in which they were written, because a transaction that writes
/// them has written the order's row before: no other one writes such messages meanwhile. `invoice.stored` is written without
/// that row, so it may come before or after any of them.
pub async fn add(connection: &mut PgConnection, messages: &[Message], now: DateTime<Utc>) -> Result<u64, Error> {
    if messages.is_empty() {
        return Ok(0);
    }
    let orders: Vec<_> = messages.iter().map(Message::order).collect();
    let added = sqlx::query!(
        "-- outbox_add
         WITH added AS (
             INSERT INTO outbox (order_id, live_mode, kind, effect_key, payload, created_at)
             SELECT *, $6 FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bytea[])
             ON CONFLICT DO NOTHING RETURNING message_id
         )
         INSERT INTO outbox_due (message_id) SELECT message_id FROM added",
        &orders.iter().map(|(order_id, _)| order_id.as_str()).collect::<Vec<_>>() as _,
        &orders.iter().map(|(_, mode)| mode.is_live()).collect::<Vec<_>>(),
        &messages.iter().map(Message::kind).collect::<Vec<_>>() as _,
        &messages.iter().map(Message::effect_key).collect::<Vec<_>>(),
        &messages.iter().map(|message| message.to_json(now)).collect::<Vec<_>>(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(added.rows_affected())
}

/// Puts messages that were written at this time or later into the relay's queue again, for a cluster whose readers never saw
/// them. Returns how many that are. They keep their ids, so that a reader recognizes those that it has. Who did it, and why, is
/// recorded with the first of them: so a relay that runs sees that messages came back that lie before those it has passed.
pub async fn publish_again(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
    (by, why): (&str, &str),
) -> Result<u64, Error> {
    let mut transaction = connection.begin().await?;
    one_retry_at_a_time(&mut transaction).await?;
    let row = sqlx::query!(
        r#"-- outbox_publish_again
           WITH again AS (
               INSERT INTO outbox_due (message_id) SELECT message_id FROM outbox
               WHERE created_at >= $1 AND message_id NOT IN (SELECT message_id FROM outbox_parked)
               ON CONFLICT DO NOTHING RETURNING message_id
           ), recorded AS (
               INSERT INTO outbox_retries (message_id, retried_by, why)
               SELECT min(message_id), $2, $3 FROM again HAVING count(*) > 0
           )
           SELECT count(*) AS "count!" FROM again"#,
        since,
        by,
        why
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(u64::try_from(row.count).unwrap_or_default())
}

/// A message that is not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedMessage {
    /// Its number, by which it is named.
    pub message_id: i64,
    /// The order that it is about.
    pub order_id: String,
    /// Whether it is a live order.
    pub live_mode: bool,
    /// What it says, as `fulfillment.requested`.
    pub kind: String,
    /// Size of its body.
    pub bytes: i32,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// Since when it is parked; without, it waits for the relay.
    pub parked_at: Option<DateTime<Utc>>,
    /// Why it is parked.
    pub reason: Option<String>,
    /// The message of the same order that it waits for; without, Kafka refused this one.
    pub behind: Option<i64>,
}

/// A dead letter that cannot be published to its topic. What it is a letter for is another matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedLetter {
    /// Where its record lies, by which it is named.
    pub position: String,
    /// Size of its body.
    pub bytes: i32,
    /// When the record became a letter.
    pub created_at: DateTime<Utc>,
    /// Since when it is parked.
    pub parked_at: DateTime<Utc>,
    /// Why it is parked.
    pub reason: String,
}

/// Who has what published again, and why.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// Whether to do it, or to say only what would be done.
    pub apply: bool,
}

/// Messages that are not published, by number: those after `after`, at most `limit`. `parked_only` leaves out those that wait
/// for the relay.
pub async fn queued(
    connection: &mut PgConnection,
    parked_only: bool,
    after: i64,
    limit: i64,
) -> Result<Vec<QueuedMessage>, Error> {
    let rows = sqlx::query_as!(
        QueuedMessage,
        r#"-- outbox_queued
           SELECT q.message_id AS "message_id!", o.order_id, o.live_mode, o.kind, octet_length(o.payload) AS "bytes!",
                  o.created_at, q.parked_at, q.reason, q.behind
           FROM (
               (SELECT message_id, NULL::timestamptz AS parked_at, NULL::text AS reason, NULL::bigint AS behind
                FROM outbox_due WHERE message_id > $2 AND NOT $1 ORDER BY message_id LIMIT $3)
               UNION ALL
               (SELECT message_id, parked_at, reason, behind
                FROM outbox_parked WHERE message_id > $2 ORDER BY message_id LIMIT $3)
           ) q
           JOIN outbox o USING (message_id)
           ORDER BY q.message_id LIMIT $3"#,
        parked_only,
        after,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Dead letters that cannot be published, by where their records lie: those after `after`, at most `limit`.
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

/// Puts a parked message back into the relay's queue, with all of its order that are parked: they are published in order, or
/// not at all. Returns the numbers of those that are put back; none, when the message is not parked.
///
/// # Errors
/// When PostgreSQL refuses. Nothing is changed then.
pub async fn retry_message(
    connection: &mut PgConnection,
    message_id: i64,
    request: &Request,
) -> Result<Vec<i64>, Error> {
    let mut transaction = connection.begin().await?;
    one_retry_at_a_time(&mut transaction).await?;
    // Locked before they are taken: the relay parks messages behind these, and must not behind what is gone.
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
               DELETE FROM outbox_parked p USING outbox named
               WHERE named.message_id = $1 AND p.order_id = named.order_id AND p.live_mode = named.live_mode
               RETURNING p.message_id, p.parked_at, p.reason
           ), due AS (
               INSERT INTO outbox_due (message_id) SELECT message_id FROM back
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

/// Lets the relay publish a parked dead letter again. `false`, when it is not parked.
///
/// # Errors
/// When PostgreSQL refuses. Nothing is changed then.
pub async fn retry_letter(
    connection: &mut PgConnection,
    position: &Position,
    request: &Request,
) -> Result<bool, Error> {
    let mut transaction = connection.begin().await?;
    one_retry_at_a_time(&mut transaction).await?;
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

/// The relay sees by the newest number of a retry that messages came back, so numbers must become visible in order.
async fn one_retry_at_a_time(transaction: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("-- outbox_retries_lock\nLOCK TABLE outbox_retries IN SHARE ROW EXCLUSIVE MODE")
        .execute(transaction)
        .await?;
    Ok(())
}
