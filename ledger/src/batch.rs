//! Processing of a batch in one transaction: outcomes, effects, dead letters and offsets are committed together or not
//! at all.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    Envelope, EventId, Mode, OrderId,
    events::content::Content,
    hash::Sha256Hash,
    kafka::record,
    oddity::{Oddities, Oddity},
    text,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    DeadReason, Decision, Error, NewEvent, ParsedRecord, Projection, Record,
    metrics::latency,
    spellings::{self, Comparison, OrderMark, Spelling},
    store::{self, EventRow, Names, Outcome, Positions, event_key},
};

/// Longest event type that is stored, in characters.
const EVENT_TYPE_CHARS_MAX: usize = 100;

/// Reason of dead letters whose body is larger than [`record::FOLDED_BYTES_MAX`].
const TOO_LARGE: &str = "too_large";

/// Records that are parsed before yielding to other tasks.
const RECORDS_PER_YIELD: usize = 100;

/// Records of a batch by outcome. A record that already had one counts as read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    outcomes: HashMap<Outcome, u64>,
    oddities: HashMap<Oddity, u64>,
    /// The id of an event whose `liveMode` contradicts its object's.
    pub mode_contradiction: Option<String>,
    /// Records that were read again.
    pub reread: u64,
    /// Times of the applied events.
    pub(crate) times: latency::Times,
}

impl Tally {
    /// Number of records with this outcome.
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    /// Number of records with this oddity.
    #[must_use]
    pub fn odd(&self, oddity: Oddity) -> u64 {
        self.oddities.get(&oddity).copied().unwrap_or_default()
    }

    fn count<E>(&mut self, entry: &Entry<'_, E>) {
        *self.outcomes.entry(entry.row.outcome).or_default() += 1;
        self.times.add(&entry.row);
        for oddity in entry.oddities.iter() {
            *self.oddities.entry(oddity).or_default() += 1;
        }
        if entry.oddities.contains(Oddity::ModeContradiction) {
            self.mode_contradiction.get_or_insert_with(|| entry.row.event_id.to_string());
        }
    }
}

/// A record with its decision.
pub struct Entry<'a, E> {
    record: &'a Record,
    /// Its row in `events`.
    pub row: EventRow<'a>,
    /// The consumer's decision.
    pub decision: Decision<E>,
    oddities: Oddities,
}

/// The records of a batch. Boxed, because entries are large and are sorted and partitioned.
type Entries<'a, E> = Vec<Box<Entry<'a, E>>>;

/// Applies a batch in one transaction. Idempotent: applying it again changes nothing.
///
/// `rejected` is the reason for which the database rejected a single record before; the record becomes a dead letter
/// whatever the projection decides.
///
/// # Errors
/// Database errors. Nothing of the batch is stored then.
pub async fn apply<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    records: &[Record],
    rejected: Option<&DeadReason>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    apply_after(connection, projection, records, &Positions::new(), rejected, now).await
}

/// Like [`apply`], but only if the database has everything that the consumer read before: `before` has its offsets.
///
/// # Errors
/// Database errors, and [`Error::Regressed`]. Nothing of the batch is stored then.
pub async fn apply_after<P: Projection>(
    connection: &mut PgConnection,
    projection: &P,
    records: &[Record],
    before: &Positions,
    rejected: Option<&DeadReason>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries = classify_all(projection, records, rejected).await;
    // Before the transaction: one that gives a number to a type would keep others with the same type waiting to its end.
    let names = Names::of(connection, entries.iter().map(|entry| &entry.row)).await?;
    let mut transaction = connection.begin().await?;
    let (tally, applied) = write(&mut transaction, projection, entries, &names, now).await?;
    store::advance_offsets_after(&mut transaction, projection.name(), &next_offsets(records), before).await?;
    transaction.commit().await?;
    if let Some(applied) = applied {
        projection.committed(applied);
    }
    Ok(tally)
}

/// Like [`apply`], but inside the caller's transaction and without advancing the consumer's offsets.
///
/// # Errors
/// Database errors; the caller rolls back.
pub async fn apply_within<P: Projection>(
    transaction: &mut PgConnection,
    projection: &P,
    records: &[Record],
    rejected: Option<&DeadReason>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries = classify_all(projection, records, rejected).await;
    let names = Names::of(transaction, entries.iter().map(|entry| &entry.row)).await?;
    Ok(write(transaction, projection, entries, &names, now).await?.0)
}

/// Classifies every record, yielding to other tasks: a large batch takes a while to parse.
async fn classify_all<'a, P: Projection>(
    projection: &P,
    records: &'a [Record],
    rejected: Option<&DeadReason>,
) -> Entries<'a, P::Event> {
    let mut entries = Vec::with_capacity(records.len());
    for some in records.chunks(RECORDS_PER_YIELD) {
        entries.extend(some.iter().map(|record| Box::new(classify(projection, record, rejected))));
        tokio::task::yield_now().await;
    }
    entries
}

/// Writes outcomes, dead letters and effects.
async fn write<P: Projection>(
    transaction: &mut PgConnection,
    projection: &P,
    entries: Entries<'_, P::Event>,
    names: &Names,
    now: DateTime<Utc>,
) -> Result<(Tally, Option<P::Applied>), Error> {
    let BatchResult { fresh, dead, marks, tally } = write_outcomes(transaction, entries, names).await?;
    let letters: Vec<_> = dead.iter().map(|(record, event_key, dead)| (*record, *event_key, dead)).collect();
    store::add_dead_letters(transaction, &letters).await?;
    let applied = if fresh.is_empty() { None } else { Some(projection.apply(transaction, fresh, now).await?) };
    // After the effects, which may create some of the orders.
    spellings::mark_orders(transaction, &marks, now).await?;
    Ok((tally, applied))
}

/// Returns the offset after the last record of every partition.
pub(crate) fn next_offsets(records: &[Record]) -> HashMap<(i16, i32), i64> {
    let mut next = HashMap::new();
    for record in records {
        let offset = next.entry((record.topic_id, record.partition)).or_insert(0);
        *offset = (record.offset + 1).max(*offset);
    }
    next
}

/// Determines the projection's decision about a record, and the record's row in `events`.
pub fn classify<'a, P: Projection>(
    projection: &P,
    record: &'a Record,
    rejected: Option<&DeadReason>,
) -> Entry<'a, P::Event> {
    let (envelope, mut decision, oddities) = read(projection, record);
    let envelope = envelope.as_ref();
    let mut content = envelope.map(Content::of_envelope);
    if let (Decision::Apply(event), Some(content)) = (&decision, &mut content) {
        projection.describe(event, content);
    }
    if let Some(dead) = rejected {
        decision = Decision::Dead(dead.clone());
    }
    let (outcome, reason) = match &decision {
        Decision::Apply(_) => (Outcome::Applied, None),
        Decision::Ignore(reason) => (Outcome::Ignored, Some(*reason)),
        Decision::Dead(dead) => (Outcome::Dead, Some(dead.reason)),
    };
    let event_id: Cow<'_, str> = envelope.map_or_else(|| unreadable_id(record).into(), stored_event_id);
    let row = EventRow {
        topic_id: record.topic_id,
        partition: record.partition,
        offset: record.offset,
        event_key: event_key::of(&event_id),
        event_id,
        event_type: envelope.map(event_type).unwrap_or_default(),
        live_mode: envelope.and_then(|envelope| envelope.mode).map(Mode::is_live),
        order_id: envelope.and_then(order_key),
        created_at: envelope.and_then(|envelope| envelope.created_time),
        received_at: record.timestamp,
        body_sha256: Sha256Hash::of(&record.payload),
        content,
        outcome,
        reason,
    };
    Entry { record, row, decision, oddities }
}

/// Returns the envelope of a record, parsed as [`classify`] does.
pub fn envelope(record: &Record) -> Option<Envelope<'_>> {
    if record.payload.len() > record::FOLDED_BYTES_MAX {
        Envelope::peek(&record.payload)
    } else {
        Envelope::parse(&record.payload).ok()
    }
}

/// Reads a record. If it is too large, only the event's identity is read.
fn read<'a, P: Projection>(projection: &P, record: &'a Record) -> (Option<Envelope<'a>>, Decision<P::Event>, Oddities) {
    let bytes = record.payload.len();
    if bytes > record::FOLDED_BYTES_MAX {
        let detail = format!("the body has {bytes} bytes, more than the limit of {}", record::FOLDED_BYTES_MAX);
        let dead = DeadReason { reason: TOO_LARGE, detail };
        return (Envelope::peek(&record.payload), Decision::Dead(dead), Oddities::default());
    }
    match projection.read(&record.payload, record.received_at()) {
        Ok(ParsedRecord { envelope, decision, oddities }) => (Some(envelope), decision, oddities),
        Err(error) => {
            let dead = DeadReason { reason: "envelope", detail: error.to_string() };
            (None, Decision::Dead(dead), Oddities::default())
        }
    }
}

/// Returns a substitute for the event id of an unreadable record. It includes the topic's number, because the same
/// position is another record in another Kafka cluster.
pub fn unreadable_id(record: &Record) -> String {
    format!("unreadable:{}:{}", record.topic_id, record.position())
}

/// Returns the event's id, or its hash if the id is not a valid key.
pub fn stored_event_id<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    match EventId::check(&envelope.id) {
        Ok(()) => envelope.id.clone(),
        Err(_) => record::hashed(&envelope.id).into(),
    }
}

fn event_type<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    text::bounded(envelope.event_type.clone(), EVENT_TYPE_CHARS_MAX)
}

/// Returns the id of the event's order, if it is a valid key.
pub fn order_key<'a>(envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
    envelope.order_id.clone().filter(|id| OrderId::check(id).is_ok())
}

/// Result of writing the outcomes of a batch.
struct BatchResult<'a, E> {
    /// Events to apply.
    fresh: Vec<NewEvent<E>>,
    /// Records that could not be applied, with the keys of their events.
    dead: Vec<(&'a Record, Uuid, DeadReason)>,
    /// Orders with an event whose bodies contradict each other.
    marks: BTreeSet<OrderMark>,
    tally: Tally,
}

/// Writes every record's outcome, and determines which events are applied.
async fn write_outcomes<'a, E>(
    connection: &mut PgConnection,
    mut entries: Entries<'a, E>,
    names: &Names,
) -> Result<BatchResult<'a, E>, Error> {
    // All transactions lock in the same order. The sort is stable, so that of two records of one event the earlier
    // comes first.
    entries.sort_by_key(|entry| entry.row.event_key);
    let is_first = |i: usize| i == 0 || entries[i - 1].row.event_key != entries[i].row.event_key;
    let is_first: Vec<bool> = (0..entries.len()).map(is_first).collect();
    store::add_odd_ids(connection, entries.iter().map(|entry| &entry.row)).await?;
    let (candidates, repeated) = split(entries, is_first);

    let rows: Vec<&EventRow<'_>> = candidates.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows, names).await?;
    let (first, known) = split_added(candidates, added);

    let mut result = BatchResult {
        fresh: Vec::with_capacity(first.len()),
        dead: Vec::new(),
        marks: BTreeSet::new(),
        tally: Tally::default(),
    };
    for entry in first {
        result.tally.count(&entry);
        match entry.decision {
            Decision::Apply(event) => result.fresh.push(NewEvent { event, conflict: false }),
            Decision::Ignore(_) => {}
            Decision::Dead(reason) => result.dead.push((entry.record, entry.row.event_key, reason)),
        }
    }
    write_repeated_outcomes(connection, known.into_iter().chain(repeated).collect(), names, &mut result).await?;
    Ok(result)
}

/// Writes the outcomes of records whose event already has one. Records with other bytes are applied as well.
async fn write_repeated_outcomes<'a, E>(
    connection: &mut PgConnection,
    mut entries: Entries<'a, E>,
    names: &Names,
    result: &mut BatchResult<'a, E>,
) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let keys: Vec<Uuid> = entries.iter().map(|entry| entry.row.event_key).collect();
    let first = store::first_records(connection, &keys).await?;
    let total = entries.len() as u64;
    entries.retain_mut(|entry| {
        let Some(first) = first.get(&entry.row.event_key) else {
            // The record has a row already, as a repetition of an event with another id: it was read again.
            return false;
        };
        entry.row.outcome = Outcome::Duplicate;
        entry.row.reason = None;
        if first.body_sha256 == entry.row.body_sha256.as_bytes() {
            entry.row.content = None;
        }
        first.position != position(&entry.row)
    });
    let mut contexts = compare_spellings(connection, &mut entries).await?;
    let rows: Vec<&EventRow<'_>> = entries.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows, names).await?;
    let (entries, _) = split_added(entries, added);
    result.tally.reread += total - entries.len() as u64;
    for entry in entries {
        result.tally.count(&entry);
        // A record with the same bytes as the first has no effect.
        let Some(SpellingContext { comparison, no_other_effect }) = contexts.remove(&position(&entry.row)) else {
            continue;
        };
        let Comparison { aspect, orders, .. } = comparison;
        if let Some(aspect) = aspect {
            log_conflict(&entry, aspect);
        }
        result.marks.extend(orders);
        match entry.decision {
            Decision::Apply(event) => result.fresh.push(NewEvent { event, conflict: aspect.is_some() }),
            // A contradicting body is stored as a dead letter until it is redriven, and so is the event if no spelling
            // can be read.
            Decision::Dead(reason) if aspect.is_some() || no_other_effect => {
                result.dead.push((entry.record, entry.row.event_key, reason));
            }
            Decision::Dead(_) | Decision::Ignore(_) => {}
        }
    }
    Ok(())
}

/// How a spelling relates to the others of its event.
struct SpellingContext {
    comparison: Comparison,
    /// No other spelling has been applied.
    no_other_effect: bool,
}

/// Compares records with the other spellings of their events; a record that contradicts one becomes a conflict.
async fn compare_spellings<E>(
    connection: &mut PgConnection,
    entries: &mut Entries<'_, E>,
) -> Result<HashMap<(i16, i32, i64), SpellingContext>, Error> {
    let mut contexts = HashMap::new();
    let keys: Vec<Uuid> =
        entries.iter().filter(|entry| entry.row.content.is_some()).map(|entry| entry.row.event_key).collect();
    if keys.is_empty() {
        return Ok(contexts);
    }
    let mut spellings = spellings::of_events(connection, &keys).await?;
    for entry in entries {
        let Some(content) = entry.row.content else { continue };
        let others = spellings.entry(entry.row.event_key).or_default();
        let at = position(&entry.row);
        let comparison = spellings::compare(at, &content, others);
        if comparison.aspect.is_some() {
            entry.row.outcome = Outcome::Conflict;
        } else if others.iter().any(|other| other.has_effect && other.is_same_body(at, &entry.row.body_sha256)) {
            // This spelling has been applied already, too.
            entry.row.content = None;
            continue;
        }
        let no_other_effect = !others.iter().any(|other| other.has_effect && other.position != at);
        others.push(Spelling::of_row(&entry.row, content, matches!(entry.decision, Decision::Apply(_))));
        contexts.insert(at, SpellingContext { comparison, no_other_effect });
    }
    Ok(contexts)
}

fn log_conflict<E>(entry: &Entry<'_, E>, aspect: &str) {
    tracing::error!(
        event.id = entry.row.event_id.as_ref(),
        order.id = entry.row.order_id.as_deref(),
        "event {} has two bodies that contradict each other ({aspect}); this one is {} with SHA-256 {}",
        entry.row.event_id,
        entry.record.position(),
        entry.row.body_sha256,
    );
}

/// Splits entries into those whose rows were added and the others.
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
