//! Messages to other systems, written in the transaction that causes them.

use chrono::{DateTime, Utc};
use riverlock_schemas::cloud_event::Message;
use sqlx::PgConnection;

use crate::Error;

/// Adds messages, and puts them into the relay's queue. One that was ever added for the same order, kind and key is passed
/// over: an effect fires once for ever.
///
/// # Errors
/// When PostgreSQL refuses.
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
/// them. Returns how many that are. They keep their ids, so that a reader recognizes those that it has.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn publish_again(connection: &mut PgConnection, since: DateTime<Utc>) -> Result<u64, Error> {
    let added = sqlx::query!(
        "-- outbox_publish_again
         INSERT INTO outbox_due (message_id) SELECT message_id FROM outbox WHERE created_at >= $1
         ON CONFLICT DO NOTHING",
        since
    );
    Ok(added.execute(connection).await?.rows_affected())
}
