//! Queries on runs and on the events that they wrote.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use riverlock_digital_river::lists::OrderState;
use riverlock_schemas::{Mode, kafka::record::Position};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::listing::windows::Range;

/// An unfinished run.
pub(crate) struct UnfinishedRun {
    pub(crate) run_id: Uuid,
    /// The range that it has compared and written.
    pub(crate) done: Range,
}

/// Returns the unfinished run with these types that was started after `since` and has compared most.
pub(crate) async fn unfinished(
    connection: &mut PgConnection,
    mode: Mode,
    types: &[String],
    since: DateTime<Utc>,
) -> Result<Option<UnfinishedRun>, sqlx::Error> {
    let row = sqlx::query!(
        "-- reconcile_run_unfinished
         SELECT run_id, done_from, window_end FROM reconcile_runs
         WHERE live_mode = $1 AND types = $2 AND started_at > $3 AND finished_at IS NULL
         ORDER BY window_end - done_from DESC, started_at DESC LIMIT 1",
        mode.is_live(),
        types,
        since
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| UnfinishedRun { run_id: row.run_id, done: Range { from: row.done_from, to: row.window_end } }))
}

/// Stores a new run.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    run_id: Uuid,
    mode: Mode,
    types: &[String],
    range: Range,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- reconcile_run_begin
         INSERT INTO reconcile_runs (run_id, live_mode, types, window_start, window_end, done_from, started_at)
         VALUES ($1, $2, $3, $4, $5, $5, $6)",
        run_id,
        mode.is_live(),
        types,
        range.from,
        range.to,
        now
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Progress of a run.
pub(crate) struct RunProgress {
    pub(crate) done_from: DateTime<Utc>,
    pub(crate) listed: i64,
    pub(crate) missing: i64,
    pub(crate) written: i64,
}

/// Stores the progress of a run.
pub(crate) async fn reached(
    connection: &mut PgConnection,
    run_id: Uuid,
    reached: &RunProgress,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- reconcile_run_reached
         UPDATE reconcile_runs SET done_from = $2, listed = $3, missing = $4, written = $5, updated_at = now()
         WHERE run_id = $1 AND finished_at IS NULL",
        run_id,
        reached.done_from,
        reached.listed,
        reached.missing,
        reached.written
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Marks runs as finished: this one, and the one that it resumed.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    runs: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- reconcile_run_finish
         UPDATE reconcile_runs SET finished_at = $2, updated_at = $2 WHERE run_id = ANY($1) AND finished_at IS NULL",
        runs,
        now
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Returns those of the events that were written by a run.
pub(crate) async fn written(connection: &mut PgConnection, ids: &[String]) -> Result<HashSet<String>, sqlx::Error> {
    let rows = sqlx::query!(
        "-- reconciled_events_known
         SELECT event_id FROM reconciled_events WHERE event_id = ANY($1)",
        ids
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| row.event_id).collect())
}

/// Remembers written events with their positions.
pub(crate) async fn remember(
    connection: &mut PgConnection,
    run_id: Uuid,
    events: &[(String, Position)],
) -> Result<(), sqlx::Error> {
    let (mut ids, mut topics, mut partitions, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, position) in events {
        ids.push(id.clone());
        topics.push(position.topic.clone());
        partitions.push(position.partition);
        offsets.push(position.offset);
    }
    sqlx::query!(
        "-- reconciled_events_add
         INSERT INTO reconciled_events (event_id, run_id, topic, partition, record_offset)
         SELECT event_id, $1, topic, partition, record_offset
         FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[]) AS new (event_id, topic, partition, record_offset)
         ON CONFLICT (event_id) DO NOTHING",
        run_id,
        &ids,
        &topics,
        &partitions,
        &offsets
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Forgets events that were written long ago, because the consumers have read them.
pub(crate) async fn forget(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "-- reconciled_events_forget
         DELETE FROM reconciled_events WHERE written_at < $1",
        before
    );
    Ok(deleted.execute(connection).await?.rows_affected())
}

/// Returns those of the orders that are known to have reached a state.
pub(crate) async fn orders_in(
    connection: &mut PgConnection,
    mode: Mode,
    ids: &[String],
    state: OrderState,
) -> Result<HashSet<String>, sqlx::Error> {
    let rows = sqlx::query!(
        "-- reconcile_orders_known
         SELECT order_id FROM orders
         WHERE live_mode = $1 AND order_id = ANY($2) AND CASE $3::text
             WHEN 'accepted' THEN accepted_at WHEN 'fulfilled' THEN fulfilled_at WHEN 'complete' THEN complete_at
             WHEN 'cancelled' THEN cancelled_at ELSE blocked_at END IS NOT NULL",
        mode.is_live(),
        ids,
        state.as_str()
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| row.order_id).collect())
}

/// Returns those of the documents that are stored. Documents that are queued or discarded are not.
pub(crate) async fn documents(
    connection: &mut PgConnection,
    mode: Mode,
    ids: &[String],
) -> Result<HashSet<String>, sqlx::Error> {
    let wanted: Vec<Uuid> = ids.iter().filter_map(|id| id.parse().ok()).collect();
    let rows = sqlx::query!(
        "-- reconcile_documents_known
         SELECT file_id FROM invoices WHERE live_mode = $1 AND file_id = ANY($2) AND state = 'stored'",
        mode.is_live(),
        &wanted
    );
    let found: HashSet<Uuid> = rows.fetch_all(connection).await?.into_iter().map(|row| row.file_id).collect();
    Ok(ids.iter().filter(|id| id.parse().is_ok_and(|id: Uuid| found.contains(&id))).cloned().collect())
}
