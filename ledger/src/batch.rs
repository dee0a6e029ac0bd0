//! One batch, one transaction: outcomes, effects, dead letters and offsets together or not at all.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use chrono::{DateTime, Utc};
use riverlock_schemas::{Envelope, EventId, Mode, OrderId, hash::Sha256Hash, record, text};
use sqlx::{Connection, PgConnection};

use crate::{
    Dead, Decision, Error, Fresh, Projection, Record,
    store::{self, EventRow, Outcome, Positions},
};

/// Longest event type that is kept, in characters.
const EVENT_TYPE_CHARS_MAX: usize = 100;

/// How many records are parsed before other tasks have their turn.
const JUDGED_AT_ONCE: usize = 100;

/// How many records of a batch had which outcome. A record that already had one counts as read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    outcomes: HashMap<Outcome, u64>,
    /// Records that were read again.
    pub reread: u64,
}

impl Tally {
    /// Records with this outcome.
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    fn count(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

/// A record, judged.
pub(crate) struct Entry<'a, E> {
    record: &'a Record,
    pub(crate) row: EventRow<'a>,
    pub(crate) decision: Decision<E>,
}

/// The records of a batch. An entry is large; sorting and splitting move only the boxes.
type Entries<'a, E> = Vec<Box<Entry<'a, E>>>;

/// Applies a batch in one transaction. May run twice: the second time nothing happens.
///
/// `refused` is why a single record could not be stored before; it becomes a dead letter, whatever the projection thinks.
///
/// # Errors
/// Whatever the database says. Nothing of the batch is stored then.
pub async fn apply<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    records: &[Record],
    refused: Option<&Dead>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    apply_after(connection, projection, records, &Positions::new(), refused, now).await
}

/// As [`apply`], but only if the database has what the consumer read before: `before` is where it stood.
///
/// # Errors
/// Whatever the database says, and [`Error::WentBack`]. Nothing of the batch is stored then.
pub async fn apply_after<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    records: &[Record],
    before: &Positions,
    refused: Option<&Dead>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries = judge_all(projection, records, refused).await;
    let mut transaction = connection.begin().await?;
    let tally = write(&mut transaction, projection, entries, now).await?;
    store::advance_offsets_after(&mut transaction, projection.name(), &next_offsets(records), before).await?;
    transaction.commit().await?;
    Ok(tally)
}

/// What [`apply`] does, inside the caller's transaction and without moving the consumer's offsets.
///
/// # Errors
/// Whatever the database says; the caller rolls back and decides.
pub async fn fold<P: Projection>(
    transaction: &mut PgConnection,
    projection: &P,
    records: &[Record],
    refused: Option<&Dead>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries = judge_all(projection, records, refused).await;
    write(transaction, projection, entries, now).await
}

/// Judges every record, and lets other tasks have their turn meanwhile: a large batch takes a while to parse.
async fn judge_all<'a, P: Projection>(
    projection: &P,
    records: &'a [Record],
    refused: Option<&Dead>,
) -> Entries<'a, P::Event> {
    let mut entries = Vec::with_capacity(records.len());
    for some in records.chunks(JUDGED_AT_ONCE) {
        entries.extend(some.iter().map(|record| Box::new(judge(projection, record, refused))));
        tokio::task::yield_now().await;
    }
    entries
}

/// Writes outcomes, dead letters and effects.
async fn write<P: Projection>(
    transaction: &mut PgConnection,
    projection: &P,
    entries: Entries<'_, P::Event>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let (fresh, dead, tally) = settle(transaction, entries).await?;
    store::add_dead_letters(transaction, &dead.iter().map(|(record, dead)| (*record, dead)).collect::<Vec<_>>())
        .await?;
    if !fresh.is_empty() {
        projection.apply(transaction, fresh, now).await?;
    }
    Ok(tally)
}

/// The offset after the last record of every partition.
pub(crate) fn next_offsets(records: &[Record]) -> HashMap<(i16, i32), i64> {
    let mut next = HashMap::new();
    for record in records {
        let offset = next.entry((record.topic_id, record.partition)).or_insert(0);
        *offset = (record.offset + 1).max(*offset);
    }
    next
}

/// What the projection makes of a record, and the row of the audit that follows from it.
pub(crate) fn judge<'a, P: Projection>(
    projection: &P,
    record: &'a Record,
    refused: Option<&Dead>,
) -> Entry<'a, P::Event> {
    let (envelope, mut decision) = match projection.read(&record.payload) {
        Ok((envelope, decision)) => (Some(envelope), decision),
        Err(error) => (None, Decision::Dead(Dead { reason: "envelope", detail: error.to_string() })),
    };
    if let Some(dead) = refused {
        decision = Decision::Dead(dead.clone());
    }
    let (outcome, reason) = match &decision {
        Decision::Apply(_) => (Outcome::Applied, None),
        Decision::Ignore(reason) => (Outcome::Ignored, Some(*reason)),
        Decision::Dead(dead) => (Outcome::Dead, Some(dead.reason)),
    };
    let envelope = envelope.as_ref();
    let row = EventRow {
        topic_id: record.topic_id,
        partition: record.partition,
        offset: record.offset,
        event_id: envelope.map_or_else(|| unreadable_key(record).into(), event_key),
        event_type: envelope.map(event_type).unwrap_or_default(),
        live_mode: envelope.and_then(|envelope| envelope.mode).map(Mode::is_live),
        order_id: envelope.and_then(order_key),
        created_at: envelope.and_then(|envelope| envelope.created_time),
        received_at: record.timestamp,
        body_sha256: Sha256Hash::of(&record.payload),
        outcome,
        reason,
    };
    Entry { record, row, decision }
}

/// What stands for the id of a record that is no event. With the topic's number, because the same position is another record in
/// another Kafka cluster.
pub(crate) fn unreadable_key(record: &Record) -> String {
    format!("unreadable:{}:{}", record.topic_id, record.position())
}

/// The event's id, or its hash where the id cannot be a key.
pub(crate) fn event_key<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    match EventId::check(&envelope.id) {
        Ok(()) => envelope.id.clone(),
        Err(_) => record::hashed(&envelope.id).into(),
    }
}

fn event_type<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    text::bounded(envelope.event_type.clone(), EVENT_TYPE_CHARS_MAX)
}

pub(crate) fn order_key<'a>(envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
    envelope.order_id.clone().filter(|id| OrderId::check(id).is_ok())
}

type Settled<'a, E> = (Vec<Fresh<E>>, Vec<(&'a Record, Dead)>, Tally);

/// Writes every record's outcome, and says which events take effect now.
async fn settle<'a, E>(connection: &mut PgConnection, mut entries: Entries<'a, E>) -> Result<Settled<'a, E>, Error> {
    // One order of locks for everybody. Stable, so that of two records of one event the earlier comes first.
    entries.sort_by(|a, b| a.row.event_id.cmp(&b.row.event_id));
    let is_first = |i: usize| i == 0 || entries[i - 1].row.event_id != entries[i].row.event_id;
    let is_first: Vec<bool> = (0..entries.len()).map(is_first).collect();
    let (candidates, repeated) = split(entries, is_first);

    let rows: Vec<&EventRow<'_>> = candidates.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows).await?;
    let (first, known) = split_added(candidates, added);

    let mut tally = Tally::default();
    let (mut fresh, mut dead) = (Vec::with_capacity(first.len()), Vec::new());
    for entry in first {
        tally.count(entry.row.outcome);
        match entry.decision {
            Decision::Apply(event) => fresh.push(Fresh { event, conflict: false }),
            Decision::Ignore(_) => {}
            Decision::Dead(reason) => dead.push((entry.record, reason)),
        }
    }
    let repeated = known.into_iter().chain(repeated).collect();
    for entry in settle_repeated(connection, repeated, &mut tally).await? {
        match entry.decision {
            Decision::Apply(event) => fresh.push(Fresh { event, conflict: true }),
            Decision::Ignore(_) => {}
            // Its outcome is a conflict, and what it says is missing all the same until it is redriven.
            Decision::Dead(reason) => dead.push((entry.record, reason)),
        }
    }
    Ok((fresh, dead, tally))
}

/// Writes the outcomes of records whose event has one already, and returns those that differ from it for the first time.
async fn settle_repeated<'a, E>(
    connection: &mut PgConnection,
    mut entries: Entries<'a, E>,
    tally: &mut Tally,
) -> Result<Entries<'a, E>, Error> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = entries.iter().map(|entry| entry.row.event_id.as_ref()).collect();
    let first = store::first_records(connection, &ids).await?;
    let total = entries.len() as u64;
    entries.retain_mut(|entry| {
        let Some(first) = first.get(entry.row.event_id.as_ref()) else {
            // Its record is there, as a repetition of another event's id: it is read again.
            return false;
        };
        let same = first.body_sha256 == entry.row.body_sha256.as_bytes();
        entry.row.outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
        entry.row.reason = None;
        first.position != position(&entry.row)
    });
    let rows: Vec<&EventRow<'_>> = entries.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows).await?;
    let (mut entries, _) = split_added(entries, added);
    for entry in &entries {
        tally.count(entry.row.outcome);
        if entry.row.outcome == Outcome::Conflict {
            tracing::error!(
                event.id = entry.row.event_id.as_ref(),
                order.id = entry.row.order_id.as_deref(),
                "event {} came with two different bodies; this one is {} with SHA-256 {}",
                entry.row.event_id,
                entry.record.position(),
                entry.row.body_sha256,
            );
        }
    }
    tally.reread += total - entries.len() as u64;
    entries.retain(|entry| entry.row.outcome == Outcome::Conflict);
    Ok(entries)
}

/// Those whose rows were added, and the others.
fn split_added<'a, E>(entries: Entries<'a, E>, added: Vec<(i16, i32, i64)>) -> (Entries<'a, E>, Entries<'a, E>) {
    if added.len() == entries.len() {
        return (entries, Vec::new());
    }
    let added: HashSet<_> = added.into_iter().collect();
    let is_added: Vec<bool> = entries.iter().map(|entry| added.contains(&position(&entry.row))).collect();
    split(entries, is_added)
}

fn split<T>(items: Vec<T>, is_first: Vec<bool>) -> (Vec<T>, Vec<T>) {
    let mut is_first = is_first.into_iter();
    items.into_iter().partition(|_| is_first.next().unwrap_or_default())
}

fn position(row: &EventRow<'_>) -> (i16, i32, i64) {
    (row.topic_id, row.partition, row.offset)
}
