//! The raw topics: whether the consumers have caught up with them, and writing to them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use rdkafka::{
    consumer::Consumer as _,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_ledger::store;
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use riverlock_schemas::{
    Envelope,
    kafka::{
        record::{self, Position},
        topics::Topics,
    },
};
use sqlx::PgConnection;

use crate::{error::ReconcileError, reconciler::Reconciler};

/// Time between two checks of the consumers' offsets.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// Longest time to write a record.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Topic, partition and end offset.
type Ends = Vec<(String, i32, i64)>;

/// Waits until the consumers have read all records that are in Kafka now.
///
/// # Errors
/// When they have not within `limit`, or Kafka or PostgreSQL does not answer.
pub(crate) async fn caught_up(
    reconciler: &Reconciler<'_>,
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<(), ReconcileError> {
    let Reconciler { kafka, consumers, .. } = *reconciler;
    let topics: Vec<String> = consumers.iter().flat_map(|(_, topics)| topics).cloned().collect();
    let (config, names) = (kafka.clone(), topics.clone());
    let ends = tokio::task::spawn_blocking(move || ends(&config, &names)).await;
    let ends = ends.map_err(|_| ReconcileError::Panicked)??;
    let ids = reconciler.bounded(store::topic_ids_to_read(connection, &topics)).await?;
    let deadline = Instant::now() + limit;
    loop {
        let mut behind = 0;
        for (consumer, topics) in consumers {
            let reached = reconciler.bounded(store::offsets(connection, consumer)).await?;
            behind += records_behind(&ends, topics, &ids, &reached);
        }
        if behind == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ReconcileError::Behind { records: behind, waited: limit });
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// Returns the end offsets of the partitions that have records. Blocks.
fn ends(kafka: &KafkaConfig, topics: &[String]) -> Result<Ends, KafkaError> {
    let consumer = ConsumerGuard::create(&kafka.consumer("reconcile"))?;
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT)?;
    let mut ends = Vec::new();
    for topic in metadata.topics().iter().filter(|topic| topics.iter().any(|name| name == topic.name())) {
        for partition in topic.partitions() {
            let (low, high) = consumer.fetch_watermarks(topic.name(), partition.id(), REQUEST_TIMEOUT)?;
            if high > low {
                ends.push((topic.name().to_owned(), partition.id(), high));
            }
        }
    }
    Ok(ends)
}

fn records_behind(
    ends: &Ends,
    topics: &[String],
    ids: &HashMap<String, i16>,
    reached: &HashMap<(i16, i32), i64>,
) -> i64 {
    let mine = ends.iter().filter(|(topic, _, _)| topics.contains(topic));
    let behind = mine.map(|(topic, partition, end)| {
        let next = ids.get(topic).and_then(|id| reached.get(&(*id, *partition))).copied().unwrap_or(0);
        (end - next).max(0)
    });
    behind.sum()
}

/// Writes fetched events to the raw topics of their types, and returns their positions. They have no signature; the
/// header `origin` identifies them.
///
/// # Errors
/// When Kafka does not confirm one of them. Others may have been written.
pub(crate) async fn write(
    producer: &FutureProducer,
    topics: &Topics,
    bodies: &[&[u8]],
    now: DateTime<Utc>,
) -> Result<Vec<Position>, ReconcileError> {
    try_join_all(bodies.iter().map(|body| write_one(producer, topics, body, now))).await
}

async fn write_one(
    producer: &FutureProducer,
    topics: &Topics,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<Position, ReconcileError> {
    let envelope = Envelope::parse(body).map_err(|error| ReconcileError::Event(error.to_string()))?;
    let topic = topics.raw(&envelope.event_type);
    let (id, event_type) = (record::bounded(&envelope.id), record::bounded(&envelope.event_type));
    let received_at = now.to_rfc3339_opts(SecondsFormat::Micros, true);
    let mut headers = OwnedHeaders::new()
        .insert(Header { key: record::EVENT_ID, value: Some(id.as_ref()) })
        .insert(Header { key: record::EVENT_TYPE, value: Some(event_type.as_ref()) })
        .insert(Header { key: record::RECEIVED_AT, value: Some(received_at.as_str()) })
        .insert(Header { key: record::ORIGIN, value: Some(record::ORIGIN_RECONCILE) });
    if let Some(mode) = envelope.mode {
        let live = if mode.is_live() { "true" } else { "false" };
        headers = headers.insert(Header { key: record::LIVE_MODE, value: Some(live) });
    }
    let key = record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id));
    let wanted = FutureRecord::to(&topic).key(key.as_ref()).payload(body).headers(headers);
    let written = producer.send(wanted, WRITE_TIMEOUT).await.map_err(|(error, _)| error)?;
    // A success without an offset is inferred, not reported; see ingest's producer.
    if written.offset < 0 {
        return Err(ReconcileError::Unconfirmed(id.into_owned()));
    }
    Ok(Position { topic, partition: written.partition, offset: written.offset })
}
