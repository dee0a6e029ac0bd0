//! One chunk inside a transaction: the real fold, and what it did.

use std::{collections::HashSet, ops::Range};

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, Record, error::Disposition};
use sqlx::{Connection as _, PgConnection};

use crate::replay::{model::Position, report::ChunkResult};

use super::{Consumer, store};

pub(super) fn position(record: &Record) -> Position {
    (record.topic_id, record.partition, record.offset)
}

/// Those of the records that have no outcome yet.
pub(super) fn without(records: &[Record], known: &HashSet<Position>) -> Vec<Record> {
    records.iter().filter(|record| !known.contains(&position(record))).cloned().collect()
}

/// Gives every record its outcome and its effect, inside the caller's transaction. The offsets of the consumers stay.
///
/// `now` must be a time of this transaction alone: what it wrote is found by it.
pub(super) async fn fold(
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
    let mut settled = store::settled(transaction, &positions).await?;
    settled.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
    let orders: Vec<String> = settled.iter().filter_map(|settled| settled.order_id.clone()).collect();
    let mut effects = store::effects_made(transaction, &orders, now).await?;
    effects.sort();
    Ok(ChunkResult { settled, effects })
}

/// As live batches do: what the database refuses is halved until the record is found that it refuses, which becomes a dead
/// letter.
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
        let result = consumer.fold.fold(&mut savepoint, &records[part.clone()], None, now).await;
        match result {
            Ok(()) => savepoint.commit().await?,
            Err(error) if error.disposition() == Disposition::Isolate => {
                savepoint.rollback().await?;
                if part.len() > 1 {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                } else {
                    consumer.fold.fold(transaction, &records[part], Some(&error.dead()), now).await?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
