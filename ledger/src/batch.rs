//! One batch, one transaction: outcomes, effects, dead letters and offsets together or not at all.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use riverlock_schemas::{Envelope, OrderId, hash::Sha256Hash, ids::EventId, record};
use sqlx::{Connection, PgConnection};

use crate::{
    Dead, Decision, Error, Fresh, Projection, Record,
    store::{self, EventRow, Outcome},
};

/// Longest event type that is kept, in characters.
const EVENT_TYPE_CHARS_MAX: usize = 100;

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
struct Entry<'a, E> {
    record: &'a Record,
    row: EventRow,
    decision: Decision<E>,
}

/// Applies a batch in one transaction. May run twice: the second time nothing happens.
///
/// `refused` is why the database did not take a single record; it is then set aside as a dead letter whatever the
/// projection thinks of it.
///
/// # Errors
/// Whatever the database says. Nothing of the batch is stored then.
pub async fn apply<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    records: &[Record],
    refused: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let mut transaction = connection.begin().await?;
    let tally = fold(&mut transaction, projection, records, refused, now).await?;
    store::advance_offsets(&mut transaction, projection.name(), &next_offsets(records)).await?;
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
    refused: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries: Vec<_> = records.iter().map(|record| judge(projection, record, refused)).collect();
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

fn judge<'a, P: Projection>(projection: &P, record: &'a Record, refused: Option<&str>) -> Entry<'a, P::Event> {
    let envelope = Envelope::parse(&record.payload);
    let mut decision = match &envelope {
        Ok(envelope) => projection.decide(envelope, &record.payload),
        Err(error) => Decision::Dead(Dead { reason: "envelope", detail: error.to_string() }),
    };
    if let Some(detail) = refused {
        decision = Decision::Dead(Dead { reason: "database", detail: detail.to_owned() });
    }
    let (outcome, reason) = match &decision {
        Decision::Apply(_) => (Outcome::Applied, None),
        Decision::Ignore(reason) => (Outcome::Ignored, Some(*reason)),
        Decision::Dead(dead) => (Outcome::Dead, Some(dead.reason)),
    };
    let envelope = envelope.ok();
    let row = EventRow {
        topic_id: record.topic_id,
        partition: record.partition,
        offset: record.offset,
        event_id: envelope.as_ref().map_or_else(|| format!("unreadable:{}", record.position()), event_key),
        event_type: envelope.as_ref().map(event_type).unwrap_or_default(),
        live_mode: envelope.as_ref().and_then(|envelope| envelope.mode).map(riverlock_schemas::Mode::is_live),
        order_id: envelope.as_ref().and_then(order_key),
        created_at: envelope.as_ref().and_then(|envelope| envelope.created_time),
        received_at: record.timestamp,
        body_sha256: Sha256Hash::of(&record.payload),
        outcome,
        reason,
    };
    Entry { record, row, decision }
}

/// The event's id, or its hash where the id cannot be a key.
pub(crate) fn event_key(envelope: &Envelope<'_>) -> String {
    match EventId::parse(envelope.id.as_ref()) {
        Ok(id) => id.as_str().to_owned(),
        Err(_) => record::hashed(&envelope.id),
    }
}

fn event_type(envelope: &Envelope<'_>) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    envelope.event_type.chars().take(EVENT_TYPE_CHARS_MAX).map(clean).collect()
}

pub(crate) fn order_key(envelope: &Envelope<'_>) -> Option<String> {
    let id = OrderId::parse(envelope.order_id.as_deref()?).ok()?;
    Some(id.as_str().to_owned())
}

type Settled<'a, E> = (Vec<Fresh<E>>, Vec<(&'a Record, Dead)>, Tally);

/// Writes every record's outcome, and says which events take effect now.
async fn settle<'a, E>(connection: &mut PgConnection, mut entries: Vec<Entry<'a, E>>) -> Result<Settled<'a, E>, Error> {
    // One order of locks for everybody. Stable, so that of two records of one event the earlier comes first.
    entries.sort_by(|a, b| a.row.event_id.cmp(&b.row.event_id));
    let mut seen = HashSet::new();
    let (candidates, repeated): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| seen.insert(entry.row.event_id.clone()));

    let rows: Vec<EventRow> = candidates.iter().map(|entry| entry.row.clone()).collect();
    let added: HashSet<_> = store::add_events(connection, &rows).await?.into_iter().collect();
    let (first, known): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|entry| added.contains(&position(&entry.row)));

    let mut tally = Tally::default();
    let (mut fresh, mut dead) = (Vec::new(), Vec::new());
    for entry in first {
        tally.count(entry.row.outcome);
        match entry.decision {
            Decision::Apply(event) => fresh.push(Fresh { event, conflict: false }),
            Decision::Ignore(_) => {}
            Decision::Dead(reason) => dead.push((entry.record, reason)),
        }
    }
    for entry in settle_repeated(connection, known.into_iter().chain(repeated).collect(), &mut tally).await? {
        if let Decision::Apply(event) = entry.decision {
            fresh.push(Fresh { event, conflict: true });
        }
    }
    Ok((fresh, dead, tally))
}

/// Writes the outcomes of records whose event has one already, and returns those that differ from it for the first time.
async fn settle_repeated<'a, E>(
    connection: &mut PgConnection,
    mut entries: Vec<Entry<'a, E>>,
    tally: &mut Tally,
) -> Result<Vec<Entry<'a, E>>, Error> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = entries.iter().map(|entry| entry.row.event_id.as_str()).collect();
    let first = store::first_records(connection, &ids).await?;
    let total = entries.len() as u64;
    entries.retain_mut(|entry| {
        let Some(first) = first.get(&entry.row.event_id) else {
            // Its record is there, as a repetition of another event's id: it is read again.
            return false;
        };
        let same = first.body_sha256 == entry.row.body_sha256.as_bytes();
        entry.row.outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
        entry.row.reason = None;
        first.position != position(&entry.row)
    });
    let rows: Vec<EventRow> = entries.iter().map(|entry| entry.row.clone()).collect();
    let added: HashSet<_> = store::add_events(connection, &rows).await?.into_iter().collect();
    entries.retain(|entry| added.contains(&position(&entry.row)));
    for entry in &entries {
        tally.count(entry.row.outcome);
        if entry.row.outcome == Outcome::Conflict {
            tracing::error!(
                event.id = entry.row.event_id,
                order.id = entry.row.order_id,
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

fn position(row: &EventRow) -> (i16, i32, i64) {
    (row.topic_id, row.partition, row.offset)
}
