//! Redriving: processes a dead letter again with its projection.

use std::{ops::Range, time::Duration};

use chrono::{DateTime, Utc};
use rdkafka::message::{Header, OwnedHeaders};
use riverlock_runtime::Backoff;
use riverlock_schemas::hash::Sha256Hash;
use sqlx::{Connection as _, PgConnection};

use super::{LetterPosition, LetterState, REDRIVES_MAX, RedriveResult, Request, Run, SkipReason, clean};
use riverlock_ledger::{
    DeadReason, Decision, Error, NewEvent, Projection, Record,
    batch::{self, Entry},
    detail::safe,
    error::Disposition,
    postgres::{TRANSACTION_LIMIT, bounded},
    spellings::{self, Comparison},
    store::{self, EventRow, Names, Outcome},
};

/// Attempts of a transaction that loses a race with another one.
const RACES_MAX: u32 = 10;
/// Shortest and longest wait between attempts.
const RACE_WAIT: Range<Duration> = Duration::from_millis(10)..Duration::from_secs(5);

/// A dead letter and the `events` row of its record, both locked.
pub(super) struct LockedLetter {
    topic: String,
    pub(super) state: String,
    pub(super) attempts: i32,
    pub(super) reason: String,
    pub(super) detail: String,
    record_key: Option<Vec<u8>>,
    header_names: Vec<String>,
    header_values: Vec<Vec<u8>>,
    payload: Vec<u8>,
    pub(super) outcome: Outcome,
    received_at: DateTime<Utc>,
    body_sha256: Vec<u8>,
}

/// What the history records about an action.
pub(super) struct Action<'a> {
    pub(super) action: &'static str,
    pub(super) outcome: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) detail: Option<&'a str>,
}

/// Redrives one dead letter in one transaction: effect, outcome, state and history are committed together or not at
/// all. If another run has locked the letter, this one waits and then skips it.
///
/// # Errors
/// When the database fails, as opposed to the record. Nothing is changed then.
pub async fn redrive<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    position: &LetterPosition,
    request: &Request,
    now: DateTime<Utc>,
) -> Result<RedriveResult, Error> {
    let mut backoff = Backoff::new(RACE_WAIT);
    for _ in 0..RACES_MAX {
        match bounded(TRANSACTION_LIMIT, attempt(connection, projection, position, request, now)).await {
            Err(error) if matches!(error.label(), "lost_race" | "deadlock" | "serialization") => {
                tracing::debug!(%error, "retrying the redrive of a dead letter: {error}");
            }
            ended => return ended,
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    // Skip this dead letter for now, so that the others can be redriven.
    Ok(RedriveResult::Skipped(SkipReason::Busy))
}

async fn attempt<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    position: &LetterPosition,
    request: &Request,
    now: DateTime<Utc>,
) -> Result<RedriveResult, Error> {
    let mut transaction = connection.begin().await?;
    let Some(letter) = lock(&mut transaction, position).await? else {
        return Ok(RedriveResult::Skipped(SkipReason::Unknown));
    };
    if let Some(skip) = letter.skip(request) {
        return Ok(RedriveResult::Skipped(skip));
    }
    let record = letter.record(position);
    let entry = batch::classify(projection, &record, None);
    let redriven = match settle(&mut transaction, projection, &letter, entry, now).await? {
        Ok((outcome, reason)) => {
            set_state(&mut transaction, position, &letter, LetterState::Redriven).await?;
            let action = Action { action: "redrive", outcome: outcome.as_str(), reason, detail: None };
            add_action(&mut transaction, position, &letter, request, &action).await?;
            RedriveResult::Settled { outcome, reason }
        }
        Err(DeadReason { reason, detail }) => {
            let dead = DeadReason { reason, detail: safe(&detail) };
            keep_dead(&mut transaction, position, &dead).await?;
            let (reason, detail) = (Some(dead.reason), Some(dead.detail.as_str()));
            let action = Action { action: "redrive", outcome: letter.outcome.as_str(), reason, detail };
            add_action(&mut transaction, position, &letter, request, &action).await?;
            RedriveResult::Dead { reason: dead.reason.to_owned(), detail: dead.detail, attempts: letter.attempts + 1 }
        }
    };
    match request.run {
        Run::Dry => transaction.rollback().await?,
        Run::Apply => transaction.commit().await?,
    }
    Ok(redriven)
}

impl LockedLetter {
    fn skip(&self, request: &Request) -> Option<SkipReason> {
        if self.state == LetterState::Redriven.as_str() {
            return Some(SkipReason::Redriven);
        }
        if self.state == LetterState::Discarded.as_str() && !request.include_discarded {
            return Some(SkipReason::Discarded);
        }
        if Sha256Hash::of(&self.payload).as_bytes().as_slice() != self.body_sha256 {
            return Some(SkipReason::Contradicted("its body does not match the recorded hash"));
        }
        if ![Outcome::Dead, Outcome::Conflict].contains(&self.outcome) {
            return Some(SkipReason::Contradicted("its record has an outcome other than `dead` or `conflict`"));
        }
        let failed = self.attempts - 1;
        (failed >= REDRIVES_MAX && !request.include_looping).then_some(SkipReason::Looping(failed))
    }

    /// The record as it was read from Kafka.
    fn record(&self, position: &LetterPosition) -> Record {
        let headers = self.header_names.iter().zip(&self.header_values);
        let headers = headers
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        Record {
            topic_id: position.topic_id,
            topic: self.topic.as_str().into(),
            partition: position.position.partition,
            offset: position.position.offset,
            timestamp: self.received_at,
            key: self.record_key.clone(),
            headers: Some(headers),
            payload: self.payload.clone(),
        }
    }
}

/// Locks a dead letter and the `events` row of its record until the transaction ends.
pub(super) async fn lock(
    connection: &mut PgConnection,
    position: &LetterPosition,
) -> Result<Option<LockedLetter>, Error> {
    let row = sqlx::query!(
        r#"-- dead_letters_lock
           SELECT t.name AS topic, d.state, d.attempts, d.reason, d.detail, d.record_key, d.header_names, d.header_values,
                  d.payload, e.outcome_code, e.received_at, e.body_sha256
           FROM dead_letters d JOIN topics t USING (topic_id) JOIN events e USING (topic_id, partition, record_offset)
           WHERE d.topic_id = $1 AND d.partition = $2 AND d.record_offset = $3
             -- In two halves, each of which has an index.
             AND ((e.event_key = d.event_key AND e.outcome_code IN ('a', 'i', 'x'))
               OR (e.event_key = d.event_key AND e.outcome_code IN ('d', 'c')))
           FOR UPDATE OF d, e"#,
        position.topic_id,
        position.position.partition,
        position.position.offset
    );
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    let outcome = Outcome::of_code(row.outcome_code).ok_or_else(|| Error::Inconsistent {
        table: "events",
        id: position.position.to_string(),
        reason: format!("unknown outcome code {}", row.outcome_code),
    })?;
    Ok(Some(LockedLetter {
        topic: row.topic,
        state: row.state,
        attempts: row.attempts,
        reason: row.reason,
        detail: row.detail,
        record_key: row.record_key,
        header_names: row.header_names,
        header_values: row.header_values,
        payload: row.payload,
        outcome,
        received_at: row.received_at,
        body_sha256: row.body_sha256,
    }))
}

/// The outcome of a redriven record, or why it stays dead.
type RedriveVerdict = Result<(Outcome, Option<&'static str>), DeadReason>;

/// Writes outcome and effect behind a savepoint: if the database rejects the effect, only the savepoint is rolled back.
async fn settle<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    letter: &LockedLetter,
    entry: Entry<'_, P::Event>,
    now: DateTime<Utc>,
) -> Result<RedriveVerdict, Error> {
    let Entry { mut row, decision, .. } = entry;
    let event = match decision {
        Decision::Apply(event) => Some(event),
        Decision::Ignore(_) => None,
        Decision::Dead(dead) => return Ok(Err(dead)),
    };
    let mut savepoint = connection.begin().await?;
    let EventContext { comparison, is_repeated } = place_among_others(&mut savepoint, &mut row).await?;
    let (outcome, reason) = (row.outcome, row.reason);
    write_outcome(&mut savepoint, letter, &row, comparison.aspect).await?;
    spellings::mark_conflicts(&mut savepoint, &comparison.duplicates).await?;
    // A record with the same bytes has already been applied.
    let conflict = comparison.aspect.is_some();
    if let Some(event) = event.filter(|_| !is_repeated)
        && let Err(error) = projection.apply(&mut savepoint, vec![NewEvent { event, conflict }], now).await
    {
        if error.disposition() != Disposition::Isolate {
            return Err(error);
        }
        savepoint.rollback().await?;
        return Ok(Err(error.dead()));
    }
    spellings::mark_orders(&mut savepoint, &comparison.orders, now).await?;
    savepoint.commit().await?;
    Ok(Ok((outcome, reason)))
}

/// How a record relates to the other records of its event.
struct EventContext {
    comparison: Comparison,
    /// Another record has the same bytes and decided the event's outcome.
    is_repeated: bool,
}

/// Determines the row's outcome from the other records of its event, as in live processing. The event id may be new: a
/// record that was unreadable before may be readable now.
async fn place_among_others(connection: &mut PgConnection, row: &mut EventRow<'_>) -> Result<EventContext, Error> {
    let at = (row.topic_id, row.partition, row.offset);
    let event_key = row.event_key;
    let first = store::first_records(connection, &[event_key]).await?;
    let first = first.get(&event_key).filter(|first| first.position != at);
    if first.is_some_and(|first| first.body_sha256 == row.body_sha256.as_bytes()) {
        (row.outcome, row.reason, row.content) = (Outcome::Duplicate, None, None);
        return Ok(EventContext { comparison: Comparison::default(), is_repeated: true });
    }
    let others = spellings::of_events(connection, &[event_key]).await?.remove(&event_key).unwrap_or_default();
    let mut comparison = row.content.map(|content| spellings::compare(at, &content, &others)).unwrap_or_default();
    if first.is_some() {
        row.outcome = if comparison.aspect.is_some() { Outcome::Conflict } else { Outcome::Duplicate };
        row.reason = None;
    } else if spellings::has_former_conflict(&others) {
        comparison.aspect.get_or_insert("bytes");
    }
    Ok(EventContext { comparison, is_repeated: false })
}

async fn write_outcome(
    connection: &mut PgConnection,
    letter: &LockedLetter,
    row: &EventRow<'_>,
    aspect: Option<&str>,
) -> Result<(), Error> {
    let names = Names::of(connection, std::iter::once(row)).await?;
    store::add_odd_ids(connection, std::iter::once(row)).await?;
    // A dead record and a conflict are found by their position. The dead letter gets the key of its record.
    let written = sqlx::query!(
        r#"-- events_redriven
           WITH letter AS (
               UPDATE dead_letters SET event_key = $4 WHERE topic_id = $1 AND partition = $2 AND record_offset = $3
           )
           UPDATE events SET event_key = $4, type_id = $5, mode_code = $6, order_id = $7,
                             created_at = coalesce($8::timestamptz, '-infinity'), outcome_code = $9, reason_id = $10,
                             content = $13
           WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 AND outcome_code <> 'a' AND outcome_code = $11
             AND body_sha256 = $12"#,
        row.topic_id,
        row.partition,
        row.offset,
        row.event_key,
        names.type_of(row)?,
        row.mode_code(),
        row.order_id.as_deref(),
        row.created_at,
        row.outcome.code(),
        names.reason_of(row)?,
        letter.outcome.code(),
        row.body_sha256.as_bytes().as_slice(),
        row.packed_content(),
    )
    .execute(connection)
    .await;
    match written {
        Ok(written) if written.rows_affected() == 1 => {}
        Ok(_) => return Err(Error::LostRace("a dead letter's record")),
        // Another record of the event was stored in the meantime; the next attempt sees it.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Err(Error::LostRace("the first record of an event"));
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(aspect) = aspect.filter(|_| letter.outcome != Outcome::Conflict) {
        tracing::error!(
            event.id = row.event_id.as_ref(),
            order.id = row.order_id.as_deref(),
            "event {} has two bodies that contradict each other ({aspect}); this one, {}, was stored as a dead letter",
            row.event_id,
            row.body_sha256,
        );
    }
    Ok(())
}

pub(super) async fn set_state(
    connection: &mut PgConnection,
    position: &LetterPosition,
    letter: &LockedLetter,
    state: LetterState,
) -> Result<(), Error> {
    let written = sqlx::query!(
        "-- dead_letters_set_state
         UPDATE dead_letters SET state = $4, attempts = attempts + $5,
                                 attempted_at = CASE $5 WHEN 0 THEN attempted_at ELSE now() END
         WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 AND state = $6",
        position.topic_id,
        position.position.partition,
        position.position.offset,
        state.as_str(),
        i32::from(state == LetterState::Redriven),
        &letter.state,
    );
    match written.execute(connection).await?.rows_affected() {
        1 => Ok(()),
        _ => Err(Error::LostRace("a dead letter")),
    }
}

/// Records one more failed attempt. Resetting `published_at` makes the relay publish the letter again.
async fn keep_dead(connection: &mut PgConnection, position: &LetterPosition, dead: &DeadReason) -> Result<(), Error> {
    let reason_id = store::reason_number(connection, dead.reason).await?;
    sqlx::query!(
        "-- dead_letters_keep
         WITH letter AS (
             UPDATE dead_letters SET attempts = attempts + 1, attempted_at = now(), reason = $4, detail = $5,
                                     published_at = NULL, parked_at = NULL, parked_reason = NULL
             WHERE topic_id = $1 AND partition = $2 AND record_offset = $3
         )
         UPDATE events SET reason_id = $6
         WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 AND outcome_code = 'x'",
        position.topic_id,
        position.position.partition,
        position.position.offset,
        dead.reason,
        &dead.detail,
        reason_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds an action to the history.
pub(super) async fn add_action(
    connection: &mut PgConnection,
    position: &LetterPosition,
    letter: &LockedLetter,
    request: &Request,
    action: &Action<'_>,
) -> Result<(), Error> {
    sqlx::query!(
        "-- dead_letter_actions_add
         INSERT INTO dead_letter_actions (topic_id, partition, record_offset, action, acted_by, why, outcome, reason, detail,
                                          previous_state, previous_reason, previous_detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        position.topic_id,
        position.position.partition,
        position.position.offset,
        action.action,
        clean(&request.by),
        clean(&request.why),
        action.outcome,
        action.reason,
        action.detail,
        &letter.state,
        &letter.reason,
        &letter.detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}
