//! The outbox as a queue: messages by number, those of one order in order.
//!
//! Rows of the queue are inserted and deleted all the time. While a long snapshot keeps PostgreSQL from removing dead
//! rows, finding the first live row reads all of them. So the search begins at a floor below which no message waits.
//! The floor may rise only if no message can appear below it: from a transaction that has drawn a number and is still
//! open, or by returning a parked message.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::publisher::{Item, PAGE_BYTES, Queue};
use crate::{Error, postgres::Lock};

/// Most messages in a page.
const PAGE_MESSAGES: usize = 1_000;
/// Time between two updates of the floor.
const FLOOR_LOOK: Duration = Duration::from_secs(1);
/// How long the floor is valid; then the whole queue is searched once.
const FLOOR_LIFETIME: Duration = Duration::from_secs(60);

/// State of the queue.
#[derive(Default)]
pub(super) struct Messages {
    /// No message with a number up to this one is waiting or can still appear.
    floor: i64,
    /// The highest number that was removed from the queue.
    passed: i64,
    /// A number to which the floor may rise once all transactions before the given one have ended, because one of them
    /// may have drawn a smaller number.
    rising: Option<(i64, u64)>,
    /// The last retry that was seen.
    retries: i64,
    looked_at: Option<Instant>,
    reset_at: Option<Instant>,
}

impl Messages {
    /// Raises the floor if possible, or resets it.
    async fn update_floor(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let row = sqlx::query!(
            r#"-- outbox_horizon
               SELECT (SELECT min(message_id) FROM outbox WHERE message_id > $1) AS first,
                      (SELECT coalesce(max(retry_id), 0) FROM outbox_retries) AS "retries!",
                      pg_snapshot_xmin(pg_current_snapshot())::text AS "oldest!",
                      pg_snapshot_xmax(pg_current_snapshot())::text AS "next!""#,
            self.floor
        );
        let row = row.fetch_one(connection).await?;
        let number = |text: &str| text.parse::<u64>().unwrap_or_default();
        self.raise_floor(row.first, row.retries, number(&row.oldest), number(&row.next));
        Ok(())
    }

    /// Moves the floor. `first` is the first waiting number above it, `oldest` the oldest open transaction, `next` the
    /// next transaction.
    fn raise_floor(&mut self, first: Option<i64>, retries: i64, oldest: u64, next: u64) {
        if retries != self.retries {
            self.retries = retries;
            self.reset_floor();
            return;
        }
        if let Some((number, since)) = self.rising
            && since <= oldest
        {
            self.rising = None;
            self.floor = self.floor.max(first.map_or(number, |first| number.min(first - 1)));
        }
        if self.rising.is_none() && self.passed > self.floor {
            self.rising = Some((self.passed, next));
        }
    }

    /// Resets the floor, so that the whole queue is searched.
    fn reset_floor(&mut self) {
        self.floor = 0;
        self.rising = None;
    }

    /// Updates the floor if it is due.
    async fn maintain_floor(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let now = Instant::now();
        let is_over = |at: Option<Instant>, after| at.is_none_or(|at| now.duration_since(at) >= after);
        if is_over(self.reset_at, FLOOR_LIFETIME) {
            self.reset_floor();
            self.reset_at = Some(now);
        }
        if is_over(self.looked_at, FLOOR_LOOK) {
            self.update_floor(connection).await?;
            self.looked_at = Some(now);
        }
        Ok(())
    }

    /// Parks messages behind a parked message of their order, unless that one was returned in the meantime: then they
    /// follow it.
    async fn park_behind(connection: &mut PgConnection, behind: &[i64], ids: &[i64]) -> Result<(), Error> {
        sqlx::query!(
            "-- outbox_park_behind
             WITH parked AS (
                 SELECT message_id, order_id, live_mode FROM outbox_parked WHERE message_id = ANY($1) FOR SHARE
             ), gone AS (
                 DELETE FROM outbox o USING parked p
                 WHERE o.message_id = ANY($2) AND o.order_id = p.order_id AND o.live_mode = p.live_mode
                 RETURNING o.*, p.message_id AS behind
             )
             INSERT INTO outbox_parked (message_id, order_id, live_mode, kind, effect_key, payload, created_at, reason, behind)
             SELECT message_id, order_id, live_mode, kind, effect_key, payload, created_at,
                    'waits behind message ' || behind, behind
             FROM gone
             ON CONFLICT (message_id) DO NOTHING",
            behind,
            ids
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Queue for Messages {
    type Id = i64;

    const SOURCE: &'static str = "outbox";
    const LOCK: Lock<'static> = Lock::Messages;
    const IS_MESSAGES: bool = true;
    const PAGE_ITEMS: usize = PAGE_MESSAGES;

    fn begin(&mut self) {
        *self = Self::default();
    }

    async fn page(&mut self, connection: &mut PgConnection, held: &[String]) -> Result<Vec<Item<i64>>, Error> {
        self.maintain_floor(connection).await?;
        let rows = sqlx::query!(
            r#"-- outbox_next
               SELECT n.message_id AS "message_id!", n.order_id AS "order_id!", n.live_mode AS "live_mode!", n.kind AS "kind!",
                      n.payload AS "payload!", (
                          SELECT min(p.message_id) FROM outbox_parked p
                          WHERE p.order_id = n.order_id AND p.live_mode = n.live_mode
                      ) AS behind, (SELECT coalesce(max(retry_id), 0) FROM outbox_retries) AS "retries!"
               FROM (
                   SELECT message_id, order_id, live_mode, kind, payload,
                          sum(octet_length(payload)) OVER (ORDER BY message_id ROWS UNBOUNDED PRECEDING)
                              - octet_length(payload) AS bytes_before
                   FROM outbox
                   WHERE message_id > $1 AND order_id <> ALL($2)
                   ORDER BY message_id LIMIT $3
               ) n
               WHERE n.bytes_before < $4
               ORDER BY n.message_id"#,
            self.floor,
            held,
            i64::try_from(PAGE_MESSAGES).unwrap_or(i64::MAX),
            PAGE_BYTES
        )
        .fetch_all(&mut *connection)
        .await?;
        if rows.first().is_some_and(|row| row.retries != self.retries) {
            // Messages were returned that may be below the floor and before others of their orders.
            self.looked_at = None;
            return Ok(Vec::new());
        }
        let (waiting, behind): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.behind.is_none());
        if !behind.is_empty() {
            let parked: Vec<i64> = behind.iter().filter_map(|row| row.behind).collect();
            let ids: Vec<i64> = behind.iter().map(|row| row.message_id).collect();
            Self::park_behind(connection, &parked, &ids).await?;
        }
        let items = waiting.into_iter().map(|row| Item {
            id: row.message_id,
            name: format!("message {} ({}) of order {}", row.message_id, row.kind, row.order_id),
            key: row.order_id.clone().into_bytes(),
            group: row.order_id,
            payload: row.payload,
            headers: OwnedHeaders::new()
                .insert(Header { key: "content-type", value: Some("application/cloudevents+json") })
                .insert(Header { key: "ce_type", value: Some(&row.kind) }),
        });
        Ok(items.collect())
    }

    async fn remove(&mut self, connection: &mut PgConnection, ids: &[i64]) -> Result<(), Error> {
        sqlx::query!("-- outbox_published\nDELETE FROM outbox WHERE message_id = ANY($1)", ids)
            .execute(connection)
            .await?;
        self.passed = ids.iter().copied().fold(self.passed, i64::max);
        Ok(())
    }

    async fn park(&mut self, connection: &mut PgConnection, id: &i64, reason: &str) -> Result<(), Error> {
        sqlx::query!(
            "-- outbox_park
             WITH gone AS (DELETE FROM outbox WHERE message_id = $1 RETURNING *)
             INSERT INTO outbox_parked (message_id, order_id, live_mode, kind, effect_key, payload, created_at, reason)
             SELECT message_id, order_id, live_mode, kind, effect_key, payload, created_at, $2 FROM gone
             ON CONFLICT (message_id) DO NOTHING",
            id,
            reason
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_rises_only_above_numbers_that_no_open_transaction_can_have() {
        let mut messages = Messages { passed: 100, ..Messages::default() };
        messages.raise_floor(None, 0, 40, 50);
        assert_eq!((messages.floor, messages.rising), (0, Some((100, 50))), "transactions 40 to 49 may have drawn 99");
        messages.passed = 200;
        messages.raise_floor(None, 0, 49, 60);
        assert_eq!(messages.floor, 0, "49 has not ended");
        messages.raise_floor(Some(90), 0, 50, 60);
        assert_eq!(messages.floor, 89, "90 appeared, and waits");
        messages.raise_floor(None, 0, 55, 70);
        assert_eq!(messages.floor, 89, "60 counts from here");
        messages.raise_floor(None, 0, 60, 80);
        assert_eq!(messages.floor, 200);
    }

    #[test]
    fn the_floor_is_reset_when_messages_are_returned() {
        let mut messages = Messages { floor: 70, passed: 100, rising: Some((100, 5)), ..Messages::default() };
        messages.raise_floor(Some(101), 1, 9, 10);
        assert_eq!((messages.floor, messages.retries, messages.rising), (0, 1, None));
    }
}
