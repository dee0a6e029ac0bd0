//! Queues documents that an earlier version ignored because their mode had no account when their events arrived.
//!
//! The events have the outcome `ignored (mode)` and their bodies are in Kafka. They are read again in pages, and each page's
//! events become `applied` in the transaction that queues their documents. The consumer's offsets do not change.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use riverlock_ledger::{
    Decision, Error, Projection as _,
    postgres::bounded,
    reading::{positions::PositionReader, ranges::RangeError},
    store::known_topic_ids,
};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::{
    events::{event_type, file_event::FileEvent},
    hash::Sha256Hash,
    kafka::record::Position,
};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::{
    InvoiceQueue,
    queue::{
        self, clean,
        retry::{Request, Run},
    },
};

/// Events that are read with one statement and changed in one transaction.
const PAGE_EVENTS: i64 = 500;

/// The reader's consumer group, which names it in Kafka's logs.
const GROUP: &str = "invoices-ignored";

/// Numbers of ignored events by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Events that were ignored because their mode had no account.
    pub ignored: u64,
    /// Events whose documents were queued, or would be in a dry run.
    pub queued: u64,
    /// Events that Kafka no longer has.
    pub gone: u64,
    /// Events whose record differs from the audited one, or announces no document that can be downloaded.
    pub unusable: u64,
}

/// Ignored events could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum IgnoredError {
    /// PostgreSQL returned an error or is unavailable.
    #[error(transparent)]
    Database(#[from] Error),
    /// Kafka could not be read.
    #[error(transparent)]
    Kafka(#[from] RangeError),
    /// The thread that reads from Kafka panicked.
    #[error("the thread that reads from Kafka panicked")]
    Panicked,
}

/// An event that was ignored.
struct IgnoredEvent {
    topic_id: i16,
    partition: i32,
    record_offset: i64,
    body_sha256: Vec<u8>,
}

/// Queues the documents of ignored events, or only counts them in a dry run. Each statement may take `limit`.
///
/// # Errors
/// When PostgreSQL or Kafka is unavailable. Documents that were already queued stay queued.
pub async fn run(
    connection: &mut PgConnection,
    kafka: &KafkaConfig,
    projection: &InvoiceQueue,
    request: &Request,
    run: Run,
    limit: Duration,
) -> Result<Totals, IgnoredError> {
    let names = kafka.topics().documents_of_all_versions();
    let ids = bounded(limit, known_topic_ids(connection, &names)).await?;
    let topics: HashMap<i16, String> = ids.into_iter().map(|(name, id)| (id, name)).collect();
    let mut totals = Totals::default();
    let mut reader = None;
    let mut after = None;
    loop {
        let rows = bounded(limit, page(connection, &topics, after)).await?;
        let Some(last) = rows.last() else { return Ok(totals) };
        after = Some((last.topic_id, last.partition, last.record_offset));
        totals.ignored += rows.len() as u64;
        let (bodies, used) = read(kafka, reader.take(), &rows, &topics).await?;
        reader = Some(used);
        let mut usable = Vec::with_capacity(rows.len());
        for row in rows {
            match bodies.get(&position(&row, &topics)) {
                None => totals.gone += 1,
                Some(body) => match event(projection, &row, body) {
                    Some(event) => usable.push((row, event)),
                    None => totals.unusable += 1,
                },
            }
        }
        totals.queued += match run {
            Run::Dry => usable.len() as u64,
            Run::Apply => bounded(limit, apply(connection, &usable, request)).await?,
        };
    }
}

async fn page(
    connection: &mut PgConnection,
    topics: &HashMap<i16, String>,
    after: Option<(i16, i32, i64)>,
) -> Result<Vec<IgnoredEvent>, Error> {
    let (topic_id, partition, offset) = after.unwrap_or((i16::MIN, i32::MIN, i64::MIN));
    let rows = sqlx::query_as!(
        IgnoredEvent,
        "-- invoice_events_ignored
         SELECT topic_id, partition, record_offset, body_sha256 FROM events
         WHERE outcome_code = 'i' AND reason_id = (SELECT reason_id FROM event_reasons WHERE name = 'mode')
           AND topic_id = ANY($1) AND type_id IN (SELECT type_id FROM event_types WHERE name = ANY($2))
           AND (topic_id, partition, record_offset) > ($3, $4, $5)
         ORDER BY topic_id, partition, record_offset LIMIT $6",
        &topics.keys().copied().collect::<Vec<_>>(),
        &[event_type::ORDER_INVOICE_CREATED, event_type::ORDER_CREDIT_MEMO_CREATED] as &[&str],
        topic_id,
        partition,
        offset,
        PAGE_EVENTS,
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Reads the bodies of these events that Kafka still has.
async fn read(
    kafka: &KafkaConfig,
    reader: Option<PositionReader>,
    rows: &[IgnoredEvent],
    topics: &HashMap<i16, String>,
) -> Result<(HashMap<Position, Vec<u8>>, PositionReader), IgnoredError> {
    let (kafka, wanted) = (kafka.clone(), rows.iter().map(|row| position(row, topics)).collect::<BTreeSet<_>>());
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = match reader {
            Some(reader) => reader,
            None => PositionReader::open(&kafka, GROUP)?,
        };
        let mut bodies = HashMap::with_capacity(wanted.len());
        reader.read(wanted, |position, body| {
            bodies.insert(position.clone(), body.to_vec());
        })?;
        Ok::<_, RangeError>((bodies, reader))
    });
    Ok(reading.await.map_err(|_| IgnoredError::Panicked)??)
}

fn position(row: &IgnoredEvent, topics: &HashMap<i16, String>) -> Position {
    let topic = topics.get(&row.topic_id).cloned().unwrap_or_default();
    Position { topic, partition: row.partition, offset: row.record_offset }
}

/// The announced document, if the record is the audited one.
fn event(projection: &InvoiceQueue, row: &IgnoredEvent, body: &[u8]) -> Option<FileEvent> {
    let is_same = Sha256Hash::of(body).as_bytes().as_slice() == row.body_sha256;
    match projection.read(body, None).ok().filter(|_| is_same)?.decision {
        Decision::Apply(event) => Some(event),
        Decision::Ignore(_) | Decision::Dead(_) => None,
    }
}

/// Changes the outcome of the events and queues their documents. Returns the number of events.
async fn apply(
    connection: &mut PgConnection,
    events: &[(IgnoredEvent, FileEvent)],
    request: &Request,
) -> Result<u64, Error> {
    let mut transaction = connection.begin().await?;
    let applied = sqlx::query!(
        "-- invoice_events_apply
         UPDATE events SET outcome_code = 'a', reason_id = 0
         FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) AS chosen (topic_id, partition, record_offset)
         WHERE events.topic_id = chosen.topic_id AND events.partition = chosen.partition
           AND events.record_offset = chosen.record_offset AND events.outcome_code = 'i'
           AND events.reason_id = (SELECT reason_id FROM event_reasons WHERE name = 'mode')",
        &events.iter().map(|(row, _)| row.topic_id).collect::<Vec<_>>(),
        &events.iter().map(|(row, _)| row.partition).collect::<Vec<_>>(),
        &events.iter().map(|(row, _)| row.record_offset).collect::<Vec<_>>(),
    );
    let applied = applied.execute(&mut *transaction).await?.rows_affected();
    // All transactions lock rows in the same order, to avoid deadlocks.
    let mut announced: Vec<FileEvent> = events.iter().map(|(_, event)| event.clone()).collect();
    announced.sort_by(|a, b| (a.file_id, &a.event_id).cmp(&(b.file_id, &b.event_id)));
    queue::add(&mut transaction, &announced).await?;
    sqlx::query!(
        "-- invoice_retries_note
         INSERT INTO invoice_retries (file_id, retried_at, retried_by, reason, state, attempts)
         SELECT file_id, now(), $2, $3, state, attempts FROM invoices WHERE file_id = ANY($1) AND created_at = now()",
        &announced.iter().map(|event| event.file_id.as_uuid()).collect::<Vec<_>>(),
        clean(&request.by),
        clean(&request.reason),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(applied)
}
