//! Publishes what waits in PostgreSQL: the outbox to the fulfillment topic, dead letters to theirs.
//!
//! At least once, with a stable id per message. One relay works at a time, whoever holds the lock, so that messages of one
//! order go out in the order in which they were written. No transaction is open while Kafka is asked.

use std::time::Duration;

use futures::future::join_all;
use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
    util::Timeout,
};
use riverlock_runtime::{Component, Context, kafka::KafkaConfig};
use riverlock_schemas::topics::Topics;
use sqlx::PgConnection;

use crate::{
    Error, PostgresConfig, metrics,
    postgres::{Lock, try_lock},
};

/// Messages that are published between two statements.
const PAGE_MESSAGES: i64 = 500;
/// How often the relay looks for messages when there are none.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long the relay waits after an error, and before it asks for the lock again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The relay could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL refused, or is away.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka did not take a message.
    #[error("Kafka did not take a message")]
    Kafka(#[source] KafkaError),
    /// Kafka took a message and did not say where; it may be lost, so the page is sent again.
    #[error("Kafka did not say where a message lies")]
    Unproven,
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// Runs until the shutdown. Errors are waited out; they never end the relay.
///
/// # Errors
/// When the Kafka client cannot be made.
pub async fn run(kafka: KafkaConfig, postgres: PostgresConfig, context: Context) -> Result<(), KafkaError> {
    metrics::describe_relay();
    let component = context.health.register("relay");
    let relay = Relay { producer: kafka.producer().create()?, topics: kafka.topics() };
    let soft = context.shutdown.soft().clone();
    // Waiting for the lock is as good as holding it: another process relays.
    component.ready();
    while !soft.is_cancelled() {
        let session = relay.session(&postgres, &component, &soft);
        if let Err(error) = session.await {
            component.not_ready(format!("{error:#}"));
            tracing::warn!(
                error = format!("{error:#}"),
                "the relay goes on in {} s: {error:#}",
                RETRY_INTERVAL.as_secs()
            );
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

struct Relay {
    producer: FutureProducer,
    topics: Topics,
}

impl Relay {
    /// One connection's life: take the lock, publish until something fails or the process ends.
    async fn session(
        &self,
        postgres: &PostgresConfig,
        component: &Component,
        soft: &tokio_util::sync::CancellationToken,
    ) -> Result<(), RelayError> {
        let mut connection = postgres.connect().await?;
        if !try_lock(&mut connection, Lock::Messages).await? {
            component.ready();
            return Ok(());
        }
        while !soft.is_cancelled() {
            let letters = self.publish_dead_letters(&mut connection).await?;
            let messages = self.publish_outbox(&mut connection).await?;
            component.ready();
            if letters.max(messages) < PAGE_MESSAGES {
                tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                    () = soft.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    async fn publish_outbox(&self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let rows = sqlx::query!(
            "-- outbox_next
             SELECT d.message_id, o.order_id, o.kind, o.payload
             FROM outbox_due d
             -- Row by row, whatever the planner thinks of a queue that is empty at one moment and long at another: all messages
             -- that were ever published lie before those that wait.
             CROSS JOIN LATERAL (
                 SELECT order_id, kind, payload FROM outbox WHERE message_id = d.message_id LIMIT 1
             ) o
             ORDER BY d.message_id LIMIT $1",
            PAGE_MESSAGES
        )
        .fetch_all(&mut *connection)
        .await?;
        ::metrics::gauge!(metrics::RELAY_WAITING, "source" => "outbox").set(rows.len() as f64);
        let topic = self.topics.fulfillment();
        // Sent in order; the producer keeps it.
        let sent = rows.iter().map(|row| {
            let headers = OwnedHeaders::new()
                .insert(Header { key: "content-type", value: Some("application/cloudevents+json") })
                .insert(Header { key: "ce_type", value: Some(&row.kind) });
            self.send(FutureRecord::to(&topic).key(&row.order_id).payload(&row.payload).headers(headers))
        });
        join_all(sent).await.into_iter().collect::<Result<(), _>>()?;
        let ids: Vec<i64> = rows.iter().map(|row| row.message_id).collect();
        sqlx::query!("-- outbox_published\nDELETE FROM outbox_due WHERE message_id = ANY($1)", &ids)
            .execute(connection)
            .await?;
        ::metrics::counter!(metrics::RELAYED, "source" => "outbox").increment(ids.len() as u64);
        Ok(i64::try_from(ids.len()).unwrap_or(PAGE_MESSAGES))
    }

    async fn publish_dead_letters(&self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let rows = sqlx::query!(
            "-- dead_letters_next
             SELECT topic_id, name, partition, record_offset, reason, detail, record_key, header_names, header_values,
                    payload, attempts
             FROM dead_letters JOIN topics USING (topic_id) WHERE published_at IS NULL ORDER BY created_at LIMIT $1",
            PAGE_MESSAGES / 10
        )
        .fetch_all(&mut *connection)
        .await?;
        ::metrics::gauge!(metrics::RELAY_WAITING, "source" => "dead_letters").set(rows.len() as f64);
        let topic = self.topics.dead_letter();
        for row in &rows {
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
            let key = row.record_key.clone().unwrap_or_default();
            self.send(FutureRecord::to(&topic).key(&key).payload(&row.payload).headers(headers)).await?;
            sqlx::query!(
                "-- dead_letters_published
                 UPDATE dead_letters SET published_at = now()
                 WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 AND attempts = $4",
                row.topic_id,
                row.partition,
                row.record_offset,
                row.attempts
            )
            .execute(&mut *connection)
            .await?;
            ::metrics::counter!(metrics::RELAYED, "source" => "dead_letters").increment(1);
        }
        Ok(i64::try_from(rows.len()).unwrap_or(PAGE_MESSAGES))
    }

    async fn send<K, P>(&self, record: FutureRecord<'_, K, P>) -> Result<(), RelayError>
    where
        K: rdkafka::message::ToBytes + ?Sized,
        P: rdkafka::message::ToBytes + ?Sized,
    {
        // A full queue is waited out: the page is small, and Kafka's own timeout ends it.
        let sent = self.producer.send(record, Timeout::Never).await.map_err(|(error, _)| RelayError::Kafka(error))?;
        // A success without an offset is only concluded, not reported; see ingest's producer.
        if sent.offset < 0 { Err(RelayError::Unproven) } else { Ok(()) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nothing is in flight here but what an error interrupted, and that is sent again.
        let _ = self.producer.flush(Duration::ZERO);
    }
}
