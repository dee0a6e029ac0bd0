//! Applies one chunk inside a transaction and collects its outcomes and messages.

use std::{collections::HashSet, ops::Range};

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, Record, error::Disposition};
use sqlx::{Connection as _, PgConnection};

use crate::replay::{model::Position, report::ChunkResult};

use super::{Consumer, store};

pub(super) fn position(record: &Record) -> Position {
    (record.topic_id, record.partition, record.offset)
}

/// Returns the records that have no outcome yet.
pub(super) fn without(records: &[Record], known: &HashSet<Position>) -> Vec<Record> {
    records.iter().filter(|record| !known.contains(&position(record))).cloned().collect()
}

/// Stores outcomes and effects of the records inside the caller's transaction. Consumer offsets are not changed.
///
/// `now` must be used by this transaction only: the messages it writes are found by their time.
pub(super) async fn apply(
    transaction: &mut PgConnection,
    consumers: &[Consumer],
    records: &[Record],
    now: DateTime<Utc>,
) -> Result<ChunkResult, Error> {
    if records.is_empty() {
        return Ok(ChunkResult::default());
    }
    for consumer in consumers {
        let of_consumer = |record: &&Record| consumer.topics.iter().any(|topic| **topic == *record.topic);
        let records: Vec<Record> = records.iter().filter(of_consumer).cloned().collect();
        isolate(transaction, consumer, &records, now).await?;
    }
    let positions: Vec<Position> = records.iter().map(position).collect();
    let mut outcomes = store::outcomes(transaction, &positions).await?;
    outcomes.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
    let orders: Vec<String> = outcomes.iter().filter_map(|outcome| outcome.order_id.clone()).collect();
    let mut effects = store::effects_made(transaction, &orders, now).await?;
    effects.sort();
    Ok(ChunkResult { outcomes, effects })
}

/// As in live batches: a part that the database rejects is halved until the offending record is found, which becomes a
/// dead letter.
async fn isolate(
    transaction: &mut PgConnection,
    consumer: &Consumer,
    records: &[Record],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    parts.push(0..records.len());
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let mut savepoint = transaction.begin().await?;
        let result = consumer.applier.apply(&mut savepoint, &records[part.clone()], None, now).await;
        match result {
            Ok(()) => savepoint.commit().await?,
            Err(error) if error.disposition() == Disposition::Isolate => {
                savepoint.rollback().await?;
                if part.len() > 1 {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                } else {
                    consumer.applier.apply(transaction, &records[part], Some(&error.dead()), now).await?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
