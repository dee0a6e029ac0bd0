//! Dry run of a replay.

use std::collections::HashMap;

use riverlock_schemas::{hash::Sha256Hash, time::to_micros};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use super::{
    CHUNK_BYTES, CHUNK_RECORDS, Effect, Observer, OrderChange, Replay, ReplayError, Report, Selection, chunk,
    overlay::Overlay,
    report::Chain,
    selection,
    store::{self, PlannedChunk, StoredPlan},
};
use crate::replay::{
    input::{pace::Pace, reading::ChunkReader},
    model::Limits,
};
use riverlock_ledger::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
};

/// Result of a dry run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// The plan's hash; `None` if nothing would change, so that there is nothing to apply.
    pub plan: Option<Sha256Hash>,
    /// Counts.
    pub report: Report,
    /// The first orders that would change.
    pub orders: Vec<OrderChange>,
    /// The first messages that would be sent.
    pub effects: Vec<Effect>,
    /// Records that were read, selected or not.
    pub read: u64,
}

/// Determines what a replay of the selection would do, and stores it as a plan. Nothing else is written. At most `list`
/// orders and `list` messages are listed.
///
/// # Errors
/// When the selection is invalid, or Kafka or PostgreSQL does not answer.
pub async fn plan(
    replay: &Replay<'_>,
    selection: &Selection,
    list: usize,
    observer: &mut dyn Observer,
) -> Result<PlanSummary, ReplayError> {
    let limit = replay.postgres.answer_limit();
    let mut connection = replay.postgres.connect().await?;
    let resolved = selection::resolve(replay, &mut connection, selection).await?;
    resolved.notes.iter().for_each(|note| observer.say(note));
    let limits = Limits { records: CHUNK_RECORDS, bytes: CHUNK_BYTES };
    let (ranges, next) = (resolved.ranges, HashMap::new());
    observer.begin(ranges.iter().map(|assigned| assigned.range.records()).sum(), 0);
    let mut reading = ChunkReader::start(replay.kafka, "replay", &ranges, &next, selection, limits)?;
    let mut pace = Pace::start(replay).await?;

    let mut overlay = Overlay::open(replay.postgres).await?;
    let (mut report, mut hash, mut chunks) = (Report::default(), Chain::new("records"), HashMap::new());
    let mut number = 0;
    while let Some(chunk) = reading.next().await? {
        if !pace.wait(chunk.records.len(), observer, &replay.stop).await {
            return Err(ReplayError::Stopped);
        }
        let positions: Vec<_> = chunk.records.iter().map(chunk::position).collect();
        let known = bounded(limit, store::known(&mut connection, &positions)).await?;
        let fresh = chunk::without(&chunk.records, &known);
        let result = overlay.apply(replay.consumers, &fresh, to_micros(replay.clock.now()));
        let result = bounded(TRANSACTION_LIMIT, result).await?;
        report.add(chunk.records.len(), &result);
        if let Some(digest) = result.digest() {
            chunks.insert(number, PlannedChunk { digest, summary: result.summary() });
        }
        result.outcomes.iter().for_each(|recorded| hash.add_outcome(recorded));
        number += 1;
        observer.progress(reading.records_read(), report.records);
    }

    let orders;
    let listed = overlay.orders(i64::try_from(list).unwrap_or(i64::MAX));
    (report.orders, orders) = bounded(TRANSACTION_LIMIT, listed).await?;
    let mut effects_hash = Chain::new("messages");
    let effects;
    (report.effects, effects) = overlay.effects(list, &mut effects_hash).await?;
    report.documents = bounded(limit, overlay.documents()).await?;
    hash.add_hash(effects_hash.end());
    let mut planned = PlanSummary { plan: None, report, orders, effects, read: reading.records_read() };
    if !chunks.is_empty() {
        let plan = StoredPlan {
            hash: hash.end(),
            selection: selection.clone(),
            report: planned.report.clone(),
            limits,
            ranges,
            chunks,
            created_at: to_micros(replay.clock.now()),
            created_by: replay.by.to_owned(),
            generation: 0,
        };
        bounded(TRANSACTION_LIMIT, save(&mut connection, &plan)).await?;
        planned.plan = Some(plan.hash);
    }
    Ok(planned)
}

async fn save(connection: &mut PgConnection, plan: &StoredPlan) -> Result<(), Error> {
    let mut transaction = connection.begin().await?;
    store::save_plan(&mut transaction, plan).await?;
    Ok(transaction.commit().await?)
}
