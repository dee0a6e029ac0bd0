//! Queries on the tables of plans and runs, and on the ledger's tables.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use riverlock_ledger::{
    Error,
    reading::ranges::OffsetRange,
    store::{event_key, spans},
};
use riverlock_schemas::hash::Sha256Hash;
use serde::Serialize;
use sqlx::{PgConnection, types::Uuid};

use crate::replay::model::{AssignedRange, Limits, Position, RangeKey, RecordedOutcome};

use super::{Effect, Report, Selection};

/// Counts the records of an order that have an outcome.
pub(super) async fn records_of_order(connection: &mut PgConnection, order_id: &str) -> Result<i64, Error> {
    let row = sqlx::query!(
        r#"-- replay_records_of_order
           SELECT count(*) AS "count!" FROM events WHERE order_id = $1"#,
        order_id
    );
    Ok(row.fetch_one(connection).await?.count)
}

/// Returns the positions of events' records, by event id.
pub(super) async fn records_of_events(
    connection: &mut PgConnection,
    event_ids: &[String],
) -> Result<HashMap<String, Vec<Position>>, Error> {
    let ids: HashMap<Uuid, &String> = event_ids.iter().map(|id| (event_key::of(id), id)).collect();
    let rows = sqlx::query!(
        "-- replay_records_of_events
         SELECT event_key, topic_id, partition, record_offset FROM events
         -- In two halves, each of which has an index.
         WHERE (event_key = ANY($1::uuid[]) AND outcome_code IN ('a', 'i', 'x'))
            OR (event_key = ANY($1::uuid[]) AND outcome_code IN ('d', 'c'))",
        &ids.keys().copied().collect::<Vec<_>>()
    );
    let mut found: HashMap<String, Vec<Position>> = HashMap::new();
    for row in rows.fetch_all(connection).await? {
        if let Some(id) = ids.get(&row.event_key) {
            let position = (row.topic_id, row.partition, row.record_offset);
            found.entry((*id).clone()).or_default().push(position);
        }
    }
    Ok(found)
}

/// Returns the positions that have an outcome.
pub(super) async fn known(connection: &mut PgConnection, positions: &[Position]) -> Result<HashSet<Position>, Error> {
    let wanted: HashSet<Position> = positions.iter().copied().collect();
    let mut known = HashSet::new();
    for span in spans(positions.iter().copied()) {
        let (topic_id, partition) = span.partition;
        let offsets = sqlx::query_scalar!(
            "-- replay_known
             SELECT record_offset FROM events
             WHERE topic_id = $1 AND partition = $2 AND record_offset >= $3 AND record_offset < $4
               AND offset_key_of(topic_id, record_offset) >= offset_key_of($1, $3)
               AND offset_key_of(topic_id, record_offset) < offset_key_of($1, $4)",
            topic_id,
            partition,
            span.start,
            span.end,
        );
        let offsets = offsets.fetch_all(&mut *connection).await?.into_iter();
        known.extend(offsets.map(|offset| (topic_id, partition, offset)).filter(|position| wanted.contains(position)));
    }
    Ok(known)
}

/// Returns the outcomes at these positions.
pub(super) async fn outcomes(
    connection: &mut PgConnection,
    positions: &[Position],
) -> Result<Vec<RecordedOutcome>, Error> {
    let wanted: HashSet<Position> = positions.iter().copied().collect();
    let mut outcomes = Vec::with_capacity(positions.len());
    for span in spans(positions.iter().copied()) {
        let (topic_id, partition) = span.partition;
        let rows = sqlx::query_as!(
            RecordedOutcome,
            r#"-- replay_settled
               SELECT t.name AS topic, e.partition AS "partition!", e.record_offset AS "offset!", e.event_id AS "event_id!",
                      e.order_id, e.outcome AS "outcome!", e.reason, e.body_sha256 AS "body_sha256!"
               FROM event_records e JOIN topics t USING (topic_id)
               WHERE e.topic_id = $1 AND e.partition = $2 AND e.record_offset >= $3 AND e.record_offset < $4
                 AND offset_key_of(e.topic_id, e.record_offset) >= offset_key_of($1, $3)
                 AND offset_key_of(e.topic_id, e.record_offset) < offset_key_of($1, $4)"#,
            topic_id,
            partition,
            span.start,
            span.end,
        );
        let rows = rows.fetch_all(&mut *connection).await?.into_iter();
        outcomes.extend(rows.filter(|row| wanted.contains(&(topic_id, partition, row.offset))));
    }
    Ok(outcomes)
}

/// Returns the messages of these orders that were written with this time.
pub(super) async fn effects_made(
    connection: &mut PgConnection,
    order_ids: &[String],
    now: DateTime<Utc>,
) -> Result<Vec<Effect>, Error> {
    let rows = sqlx::query_as!(
        Effect,
        r#"-- replay_effects_made
           SELECT order_id AS "order_id!", live_mode AS "live_mode!", kind AS "kind!", effect_key AS "effect_key!"
           -- Not from the view `effects`: in a dry run, these are copies of the tables, which the view does not know.
           FROM (
               SELECT o.order_id, o.live_mode, split_part(f.key, ':', 1) AS kind,
                      substr(f.key, strpos(f.key || ':', ':') + 1) AS effect_key, f.value::timestamptz AS fired_at
               FROM orders o CROSS JOIN LATERAL json_each_text(o.fired) AS f (key, value) WHERE o.order_id = ANY($1)
               UNION ALL
               SELECT order_id, live_mode, 'invoice.stored', file_id::text, message_at FROM invoices WHERE order_id = ANY($1)
           ) e
           WHERE fired_at = $2"#,
        order_ids,
        now
    );
    Ok(rows.fetch_all(connection).await?)
}

/// A plan as it is stored.
#[derive(Debug)]
pub(super) struct StoredPlan {
    pub(super) hash: Sha256Hash,
    pub(super) selection: Selection,
    pub(super) report: Report,
    pub(super) limits: Limits,
    pub(super) ranges: Vec<AssignedRange>,
    pub(super) chunks: HashMap<u64, PlannedChunk>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) created_by: String,
    /// How often the plan was made; its runs have the same number. Assigned when the plan is stored.
    pub(super) generation: i64,
}

/// Planned result of a chunk.
#[derive(Clone, Debug)]
pub(super) struct PlannedChunk {
    pub(super) digest: Sha256Hash,
    pub(super) summary: String,
}

/// Stores a plan. If the same plan was made before, this one replaces it, and its unfinished runs become `superseded`.
pub(super) async fn save_plan(transaction: &mut PgConnection, plan: &StoredPlan) -> Result<(), Error> {
    let hash = plan.hash.as_bytes().as_slice();
    sqlx::query!(
        "-- replay_plan_save
         INSERT INTO replay_plans (plan_hash, selection, summary, chunk_records, chunk_bytes, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (plan_hash) DO UPDATE
         SET selection = EXCLUDED.selection, summary = EXCLUDED.summary, chunk_records = EXCLUDED.chunk_records,
             chunk_bytes = EXCLUDED.chunk_bytes, created_at = EXCLUDED.created_at, created_by = EXCLUDED.created_by,
             generation = replay_plans.generation + 1",
        hash,
        to_json(&plan.selection),
        to_json(&plan.report),
        i32::try_from(plan.limits.records).unwrap_or(i32::MAX),
        i32::try_from(plan.limits.bytes).unwrap_or(i32::MAX),
        plan.created_at,
        plan.created_by,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "-- replay_runs_supersede
         UPDATE replay_runs SET state = 'superseded', ended_at = $2, updated_at = $2
         WHERE plan_hash = $1 AND state NOT IN ('superseded', 'done')",
        hash,
        plan.created_at
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!("-- replay_plan_ranges_drop\nDELETE FROM replay_plan_ranges WHERE plan_hash = $1", hash)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("-- replay_plan_chunks_drop\nDELETE FROM replay_plan_chunks WHERE plan_hash = $1", hash)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!(
        "-- replay_plan_ranges_save
         INSERT INTO replay_plan_ranges (plan_hash, topic_id, partition, start_offset, end_offset)
         SELECT $1, * FROM unnest($2::smallint[], $3::integer[], $4::bigint[], $5::bigint[])",
        hash,
        &plan.ranges.iter().map(|assigned| assigned.topic_id).collect::<Vec<_>>(),
        &plan.ranges.iter().map(|assigned| assigned.range.partition).collect::<Vec<_>>(),
        &plan.ranges.iter().map(|assigned| assigned.range.start).collect::<Vec<_>>(),
        &plan.ranges.iter().map(|assigned| assigned.range.end).collect::<Vec<_>>(),
    )
    .execute(&mut *transaction)
    .await?;
    let chunks: Vec<_> = plan.chunks.iter().collect();
    sqlx::query!(
        "-- replay_plan_chunks_save
         INSERT INTO replay_plan_chunks (plan_hash, chunk, digest, summary)
         SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::text[])",
        hash,
        &chunks.iter().map(|(number, _)| to_i64(**number)).collect::<Vec<_>>(),
        &chunks.iter().map(|(_, chunk)| chunk.digest.as_bytes().as_slice()).collect::<Vec<_>>() as _,
        &chunks.iter().map(|(_, chunk)| chunk.summary.as_str()).collect::<Vec<_>>() as _,
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// Returns up to two hashes of plans that begin with the prefix; two mean that it is ambiguous.
pub(super) async fn plan_hashes(connection: &mut PgConnection, prefix: &str) -> Result<Vec<Sha256Hash>, Error> {
    let rows = sqlx::query!(
        "-- replay_plan_hashes
         SELECT plan_hash FROM replay_plans WHERE starts_with(encode(plan_hash, 'hex'), $1) LIMIT 2",
        prefix
    );
    let rows = rows.fetch_all(connection).await?;
    rows.into_iter().map(|row| hash("replay_plans", &row.plan_hash)).collect()
}

/// Loads a plan, which must exist.
pub(super) async fn load_plan(connection: &mut PgConnection, plan: Sha256Hash) -> Result<StoredPlan, Error> {
    let bytes = plan.as_bytes().as_slice();
    let row = sqlx::query!(
        "-- replay_plan_load
         SELECT selection, summary, chunk_records, chunk_bytes, created_at, created_by, generation
         FROM replay_plans WHERE plan_hash = $1",
        bytes
    )
    .fetch_one(&mut *connection)
    .await?;
    let inconsistent = |error: serde_json::Error| Error::Inconsistent {
        table: "replay_plans",
        id: plan.to_string(),
        reason: error.to_string(),
    };
    let ranges = sqlx::query!(
        r#"-- replay_plan_ranges_load
           SELECT topic_id, full_name AS "name!", partition, start_offset, end_offset
           FROM replay_plan_ranges JOIN topic_names USING (topic_id) WHERE plan_hash = $1
           ORDER BY full_name, partition, start_offset"#,
        bytes
    )
    .fetch_all(&mut *connection)
    .await?;
    let assigned = ranges.into_iter().map(|row| AssignedRange {
        topic_id: row.topic_id,
        range: OffsetRange { topic: row.name, partition: row.partition, start: row.start_offset, end: row.end_offset },
    });
    let chunks = sqlx::query!(
        "-- replay_plan_chunks_load
         SELECT chunk, digest, summary FROM replay_plan_chunks WHERE plan_hash = $1",
        bytes
    )
    .fetch_all(connection)
    .await?;
    let chunks = chunks.into_iter().map(|row| {
        let digest = hash("replay_plan_chunks", &row.digest)?;
        Ok((u64::try_from(row.chunk).unwrap_or_default(), PlannedChunk { digest, summary: row.summary }))
    });
    Ok(StoredPlan {
        hash: plan,
        selection: serde_json::from_value(row.selection).map_err(inconsistent)?,
        report: serde_json::from_value(row.summary).map_err(inconsistent)?,
        limits: Limits {
            records: usize::try_from(row.chunk_records).unwrap_or(1),
            bytes: usize::try_from(row.chunk_bytes).unwrap_or(1),
        },
        ranges: assigned.collect(),
        chunks: chunks.collect::<Result<_, Error>>()?,
        created_at: row.created_at,
        created_by: row.created_by,
        generation: row.generation,
    })
}

fn hash(table: &'static str, bytes: &[u8]) -> Result<Sha256Hash, Error> {
    let inconsistent = || Error::Inconsistent {
        table,
        id: format!("{bytes:02x?}"),
        reason: "the hash does not have 32 bytes".to_owned(),
    };
    Sha256Hash::from_slice(bytes).ok_or_else(inconsistent)
}

fn to_json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("structs of strings and numbers always serialize")
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Progress of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) run_id: i64,
    pub(super) next_chunk: u64,
    pub(super) next: HashMap<RangeKey, i64>,
}

/// The last run of a plan.
pub(super) struct LastRun {
    pub(super) run_id: i64,
    pub(super) state: String,
    pub(super) next_chunk: i64,
    pub(super) started_by: String,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// Returns the last run of this generation of a plan.
pub(super) async fn last_run(connection: &mut PgConnection, plan: &StoredPlan) -> Result<Option<LastRun>, Error> {
    let row = sqlx::query_as!(
        LastRun,
        "-- replay_run_last
         SELECT run_id, state, next_chunk, started_by, ended_at FROM replay_runs
         WHERE plan_hash = $1 AND generation = $2 AND state <> 'superseded' ORDER BY run_id DESC LIMIT 1",
        plan.hash.as_bytes().as_slice(),
        plan.generation
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Begins a run. `by` is the operator, `why` the reason.
pub(super) async fn begin_run(
    connection: &mut PgConnection,
    plan: &StoredPlan,
    (by, why): (&str, &str),
    now: DateTime<Utc>,
) -> Result<Run, Error> {
    let row = sqlx::query!(
        "-- replay_run_begin
         INSERT INTO replay_runs (plan_hash, generation, state, started_at, started_by, why, updated_at)
         VALUES ($1, $2, 'running', $3, $4, $5, $3) RETURNING run_id",
        plan.hash.as_bytes().as_slice(),
        plan.generation,
        now,
        by,
        why
    );
    Ok(Run { run_id: row.fetch_one(connection).await?.run_id, next_chunk: 0, next: HashMap::new() })
}

/// Resumes a run. `by` is the operator, `why` the reason.
pub(super) async fn resume_run(
    connection: &mut PgConnection,
    last: &LastRun,
    (by, why): (&str, &str),
    now: DateTime<Utc>,
) -> Result<Run, Error> {
    sqlx::query!(
        "-- replay_run_resume
         UPDATE replay_runs
         SET state = 'running', detail = NULL, updated_at = $2, resumed_by = $3, resumed_why = $4
         WHERE run_id = $1 AND state NOT IN ('superseded', 'done')",
        last.run_id,
        now,
        by,
        why
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        "-- replay_run_ranges_load
         SELECT topic_id, partition, start_offset, next_offset FROM replay_run_ranges WHERE run_id = $1",
        last.run_id
    );
    let rows = rows.fetch_all(connection).await?;
    let next = rows.into_iter().map(|row| ((row.topic_id, row.partition, row.start_offset), row.next_offset)).collect();
    Ok(Run { run_id: last.run_id, next_chunk: u64::try_from(last.next_chunk).unwrap_or_default(), next })
}

/// Locks a run and returns the number of its next chunk; `None` if the run has ended.
pub(super) async fn lock_run(transaction: &mut PgConnection, run_id: i64) -> Result<Option<u64>, Error> {
    let row = sqlx::query!(
        "-- replay_run_lock
         SELECT next_chunk FROM replay_runs WHERE run_id = $1 AND state = 'running' FOR UPDATE",
        run_id
    );
    let row = row.fetch_optional(transaction).await?;
    Ok(row.map(|row| u64::try_from(row.next_chunk).unwrap_or_default()))
}

/// Progress that a chunk adds to its run.
pub(super) struct ChunkProgress<'a> {
    pub(super) records: usize,
    pub(super) fresh: usize,
    pub(super) effects: usize,
    pub(super) next: &'a [(RangeKey, i64)],
}

/// Stores the progress of a run, in the chunk's transaction.
pub(super) async fn advance_run(
    transaction: &mut PgConnection,
    run_id: i64,
    step: &ChunkProgress<'_>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "-- replay_run_advance
         UPDATE replay_runs
         SET next_chunk = next_chunk + 1, records = records + $2, fresh = fresh + $3, effects = effects + $4,
             updated_at = $5
         WHERE run_id = $1 AND state = 'running'",
        run_id,
        to_i64(step.records as u64),
        to_i64(step.fresh as u64),
        to_i64(step.effects as u64),
        now
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "-- replay_run_ranges_advance
         INSERT INTO replay_run_ranges (run_id, topic_id, partition, start_offset, next_offset)
         SELECT $1, * FROM unnest($2::smallint[], $3::integer[], $4::bigint[], $5::bigint[])
         ON CONFLICT (run_id, topic_id, partition, start_offset) DO UPDATE SET next_offset = EXCLUDED.next_offset",
        run_id,
        &step.next.iter().map(|(key, _)| key.0).collect::<Vec<_>>(),
        &step.next.iter().map(|(key, _)| key.1).collect::<Vec<_>>(),
        &step.next.iter().map(|(key, _)| key.2).collect::<Vec<_>>(),
        &step.next.iter().map(|(_, next)| *next).collect::<Vec<_>>(),
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// Sets a run's state and detail.
pub(super) async fn set_state(
    connection: &mut PgConnection,
    run_id: i64,
    state: &str,
    detail: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "-- replay_run_state
         UPDATE replay_runs
         SET state = $2, detail = $3, updated_at = $4, ended_at = CASE WHEN $2 = 'done' THEN $4::timestamptz END
         WHERE run_id = $1 AND state NOT IN ('superseded', 'done')",
        run_id,
        state,
        detail,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
