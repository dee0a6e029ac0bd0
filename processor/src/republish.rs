//! Writes messages of orders again, for a Kafka cluster whose readers have not seen them.

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, outbox};
use riverlock_schemas::cloud_event::Message;
use sqlx::PgConnection;

use crate::{
    domain::{Facts, OrderKey, effects},
    store,
};

/// Orders that are read at a time.
const PAGE_ORDERS: i64 = 500;

/// Adds the messages of orders that were written since a time to the outbox again, and returns their number. They have the
/// same ids, and have the order's present content. Messages that still wait are left out.
///
/// # Errors
/// When PostgreSQL fails, or a stored order cannot be read.
pub async fn republish(connection: &mut PgConnection, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<u64, Error> {
    let (mut after, mut count) = ((String::new(), false), 0);
    loop {
        let rows = sqlx::query!(
            "-- republish_orders
             SELECT order_id, live_mode FROM orders
             WHERE (order_id, live_mode) > ($1, $2) AND changed_at >= $3 ORDER BY order_id, live_mode LIMIT $4",
            after.0,
            after.1,
            since,
            PAGE_ORDERS
        )
        .fetch_all(&mut *connection)
        .await?;
        let keys = rows.into_iter().map(|row| store::key(row.order_id, row.live_mode));
        let keys = keys.collect::<Result<Vec<OrderKey>, Error>>()?;
        let Some(last) = keys.last() else { return Ok(count) };
        after = (last.order_id.to_string(), last.mode.is_live());
        let order_ids: Vec<&str> = keys.iter().map(|key| key.order_id.as_str()).collect();
        let waiting = outbox::waiting(connection, &order_ids).await?;
        let mut messages = Vec::new();
        for (key, order) in store::read(connection, &keys).await? {
            let written = written_since(&key, &order, since)?;
            messages.extend(written.into_iter().filter(|message| !waiting.contains(&outbox::key(message))));
        }
        outbox::add(connection, &messages, now).await?;
        count += messages.len() as u64;
    }
}

/// The messages of an order that were written since a time, in the order in which they were written.
fn written_since(key: &OrderKey, order: &store::StoredOrder, since: DateTime<Utc>) -> Result<Vec<Message>, Error> {
    let times = order.fired.times().map_err(|error| store::inconsistent_effects(key, &error))?;
    let mut messages: Vec<(DateTime<Utc>, Message)> = effects::new_messages(key, &Facts::default(), &order.facts)
        .into_iter()
        .filter_map(|message| Some((*times.get(message.effect_name().as_str())?, message)))
        .filter(|(written_at, _)| *written_at >= since)
        .collect();
    messages.sort_by_key(|(written_at, _)| *written_at);
    Ok(messages.into_iter().map(|(_, message)| message).collect())
}
