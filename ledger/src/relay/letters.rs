//! Dead letters as a queue: each one independently, oldest first.

use rdkafka::message::{Header, OwnedHeaders};
use sqlx::PgConnection;

use super::publisher::{Item, PAGE_BYTES, Queue};
use crate::{Error, postgres::Lock};

/// Most dead letters in a page.
const PAGE_LETTERS: usize = 500;

/// Dead letters that are not published yet.
pub(super) struct Letters;

/// A dead letter after one of its attempts; it is published again after each further one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    topic_id: i16,
    partition: i32,
    offset: i64,
    attempts: i32,
}

impl Queue for Letters {
    type Id = Letter;

    const SOURCE: &'static str = "dead_letters";
    const LOCK: Lock<'static> = Lock::DeadLetters;
    const IS_MESSAGES: bool = false;
    const PAGE_ITEMS: usize = PAGE_LETTERS;

    fn begin(&mut self) {}

    async fn page(&mut self, connection: &mut PgConnection, held: &[String]) -> Result<Vec<Item<Letter>>, Error> {
        let rows = sqlx::query!(
            r#"-- dead_letters_next
               SELECT d.topic_id AS "topic_id!", t.name, d.partition AS "partition!", d.record_offset AS "record_offset!",
                      d.reason AS "reason!", d.detail AS "detail!", d.record_key, d.header_names AS "header_names!",
                      d.header_values AS "header_values!", d.payload AS "payload!", d.attempts AS "attempts!"
               FROM (
                   SELECT *, sum(octet_length(payload)) OVER (
                                 ORDER BY created_at, topic_id, partition, record_offset ROWS UNBOUNDED PRECEDING
                             ) - octet_length(payload) AS bytes_before
                   FROM dead_letters
                   WHERE published_at IS NULL AND parked_at IS NULL
                     AND topic_id || '/' || partition || '/' || record_offset <> ALL($1)
                   ORDER BY created_at, topic_id, partition, record_offset LIMIT $2
               ) d
               JOIN topics t USING (topic_id)
               WHERE d.bytes_before < $3
               ORDER BY d.created_at, d.topic_id, d.partition, d.record_offset"#,
            held,
            i64::try_from(PAGE_LETTERS).unwrap_or(i64::MAX),
            PAGE_BYTES
        )
        .fetch_all(connection)
        .await?;
        let items = rows.into_iter().map(|row| {
            let mut headers = OwnedHeaders::new();
            for (key, value) in row.header_names.iter().zip(&row.header_values) {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let (partition, offset) = (row.partition.to_string(), row.record_offset.to_string());
            let attempts = row.attempts.to_string();
            let added = [
                ("dead-letter-topic", &row.name),
                ("dead-letter-partition", &partition),
                ("dead-letter-offset", &offset),
                ("dead-letter-reason", &row.reason),
                ("dead-letter-detail", &row.detail),
                ("dead-letter-attempts", &attempts),
            ];
            for (key, value) in added {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let id = Letter {
                topic_id: row.topic_id,
                partition: row.partition,
                offset: row.record_offset,
                attempts: row.attempts,
            };
            Item {
                id,
                group: format!("{}/{partition}/{offset}", row.topic_id),
                name: format!("dead letter {}[{partition}]@{offset}", row.name),
                key: row.record_key.unwrap_or_default(),
                payload: row.payload,
                headers,
            }
        });
        Ok(items.collect())
    }

    async fn remove(&mut self, connection: &mut PgConnection, ids: &[Letter]) -> Result<(), Error> {
        sqlx::query!(
            "-- dead_letters_published
             UPDATE dead_letters d SET published_at = now()
             FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::integer[])
                 AS u (topic_id, partition, record_offset, attempts)
             WHERE d.topic_id = u.topic_id AND d.partition = u.partition AND d.record_offset = u.record_offset
               AND d.attempts = u.attempts",
            &ids.iter().map(|id| id.topic_id).collect::<Vec<_>>(),
            &ids.iter().map(|id| id.partition).collect::<Vec<_>>(),
            &ids.iter().map(|id| id.offset).collect::<Vec<_>>(),
            &ids.iter().map(|id| id.attempts).collect::<Vec<_>>(),
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn park(&mut self, connection: &mut PgConnection, id: &Letter, reason: &str) -> Result<(), Error> {
        sqlx::query!(
            "-- dead_letters_park
             UPDATE dead_letters SET parked_at = now(), parked_reason = $5
             WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 AND attempts = $4",
            id.topic_id,
            id.partition,
            id.offset,
            id.attempts,
            reason
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
