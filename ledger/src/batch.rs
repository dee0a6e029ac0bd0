//! One batch, one transaction: outcomes, effects, dead letters and offsets together or not at all.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    Envelope, EventId, Mode, OrderId,
    events::{
        content::Content,
        oddity::{Oddities, Oddity},
    },
    hash::Sha256Hash,
    record, text,
};
use sqlx::{Connection, PgConnection};

use crate::{
    DeadReason, Decision, Error, NewEvent, ParsedRecord, Projection, Record,
    spellings::{self, Comparison, OrderMark, Spelling},
    store::{self, EventRow, Outcome, Positions},
};

/// Longest event type that is kept, in characters.
const EVENT_TYPE_CHARS_MAX: usize = 100;

/// Why a body larger than [`record::FOLDED_BYTES_MAX`] is dead.
const TOO_LARGE: &str = "too_large";

/// How many records are parsed before other tasks have their turn.
const JUDGED_AT_ONCE: usize = 100;

/// How many records of a batch had which outcome. A record that already had one counts as read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    outcomes: HashMap<Outcome, u64>,
    oddities: HashMap<Oddity, u64>,
    /// An event whose `liveMode` contradicts its object's.
    pub mode_contradiction: Option<String>,
    /// Records that were read again.
    pub reread: u64,
}

impl Tally {
    /// Records with this outcome.
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    /// Records with this oddity.
    #[must_use]
    pub fn odd(&self, oddity: Oddity) -> u64 {
        self.oddities.get(&oddity).copied().unwrap_or_default()
    }

    fn count<E>(&mut self, entry: &Entry<'_, E>) {
        *self.outcomes.entry(entry.row.outcome).or_default() += 1;
        for oddity in entry.oddities.iter() {
            *self.oddities.entry(oddity).or_default() += 1;
        }
        if entry.oddities.contains(Oddity::ModeContradiction) {
            self.mode_contradiction.get_or_insert_with(|| entry.row.event_id.to_string());
        }
    }
}

/// A record, judged.
pub struct Entry<'a, E> {
    record: &'a Record,
    /// The row of the audit.
    pub row: EventRow<'a>,
    /// What the consumer makes of it.
    pub decision: Decision<E>,
    oddities: Oddities,
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
    refused: Option<&DeadReason>,
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
    refused: Option<&DeadReason>,
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
    refused: Option<&DeadReason>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let entries = judge_all(projection, records, refused).await;
    write(transaction, projection, entries, now).await
}

/// Judges every record, and lets other tasks have their turn meanwhile: a large batch takes a while to parse.
async fn judge_all<'a, P: Projection>(
    projection: &P,
    records: &'a [Record],
    refused: Option<&DeadReason>,
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
    let BatchResult { fresh, dead, marks, tally } = settle(transaction, entries).await?;
    store::add_dead_letters(transaction, &dead.iter().map(|(record, dead)| (*record, dead)).collect::<Vec<_>>())
        .await?;
    if !fresh.is_empty() {
        projection.apply(transaction, fresh, now).await?;
    }
    // After the effects: some of the orders may have been made by them.
    spellings::mark_orders(transaction, &marks, now).await?;
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
pub fn judge<'a, P: Projection>(
    projection: &P,
    record: &'a Record,
    refused: Option<&DeadReason>,
) -> Entry<'a, P::Event> {
    let (envelope, mut decision, oddities) = read(projection, record);
    let envelope = envelope.as_ref();
    let mut content = envelope.map(Content::of_envelope);
    if let (Decision::Apply(event), Some(content)) = (&decision, &mut content) {
        projection.describe(event, content);
    }
    if let Some(dead) = refused {
        decision = Decision::Dead(dead.clone());
    }
    let (outcome, reason) = match &decision {
        Decision::Apply(_) => (Outcome::Applied, None),
        Decision::Ignore(reason) => (Outcome::Ignored, Some(*reason)),
        Decision::Dead(dead) => (Outcome::Dead, Some(dead.reason)),
    };
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
        content,
        outcome,
        reason,
    };
    Entry { record, row, decision, oddities }
}

/// The envelope of a record, as [`judge`] reads it.
pub fn envelope(record: &Record) -> Option<Envelope<'_>> {
    if record.payload.len() > record::FOLDED_BYTES_MAX {
        Envelope::peek(&record.payload)
    } else {
        Envelope::parse(&record.payload).ok()
    }
}

/// Reads a record. One that is too large is not read further than to know which event it is.
fn read<'a, P: Projection>(projection: &P, record: &'a Record) -> (Option<Envelope<'a>>, Decision<P::Event>, Oddities) {
    let bytes = record.payload.len();
    if bytes > record::FOLDED_BYTES_MAX {
        let detail = format!("the body has {bytes} bytes, more than the {} that are read", record::FOLDED_BYTES_MAX);
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

/// What stands for the id of a record that is no event. With the topic's number, because the same position is another record in
/// another Kafka cluster.
pub fn unreadable_key(record: &Record) -> String {
    format!("unreadable:{}:{}", record.topic_id, record.position())
}

/// The event's id, or its hash where the id cannot be a key.
pub fn event_key<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    match EventId::check(&envelope.id) {
        Ok(()) => envelope.id.clone(),
        Err(_) => record::hashed(&envelope.id).into(),
    }
}

fn event_type<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    text::bounded(envelope.event_type.clone(), EVENT_TYPE_CHARS_MAX)
}

/// The id of the order that the event is about, fit to be stored.
pub fn order_key<'a>(envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
    envelope.order_id.clone().filter(|id| OrderId::check(id).is_ok())
}

/// What follows from the outcomes of a batch.
struct BatchResult<'a, E> {
    /// Events that take effect now.
    fresh: Vec<NewEvent<E>>,
    dead: Vec<(&'a Record, DeadReason)>,
    /// Orders of which an event came with contradicting bodies.
    marks: BTreeSet<OrderMark>,
    tally: Tally,
}

/// Writes every record's outcome, and says which events take effect now.
async fn settle<'a, E>(
    connection: &mut PgConnection,
    mut entries: Entries<'a, E>,
) -> Result<BatchResult<'a, E>, Error> {
    // One order of locks for everybody. Stable, so that of two records of one event the earlier comes first.
    entries.sort_by(|a, b| a.row.event_id.cmp(&b.row.event_id));
    let is_first = |i: usize| i == 0 || entries[i - 1].row.event_id != entries[i].row.event_id;
    let is_first: Vec<bool> = (0..entries.len()).map(is_first).collect();
    let (candidates, repeated) = split(entries, is_first);

    let rows: Vec<&EventRow<'_>> = candidates.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows).await?;
    let (first, known) = split_added(candidates, added);

    let mut settled = BatchResult {
        fresh: Vec::with_capacity(first.len()),
        dead: Vec::new(),
        marks: BTreeSet::new(),
        tally: Tally::default(),
    };
    for entry in first {
        settled.tally.count(&entry);
        match entry.decision {
            Decision::Apply(event) => settled.fresh.push(NewEvent { event, conflict: false }),
            Decision::Ignore(_) => {}
            Decision::Dead(reason) => settled.dead.push((entry.record, reason)),
        }
    }
    settle_repeated(connection, known.into_iter().chain(repeated).collect(), &mut settled).await?;
    Ok(settled)
}

/// Writes the outcomes of records whose event has one already. Those with other bytes take effect as well.
async fn settle_repeated<'a, E>(
    connection: &mut PgConnection,
    mut entries: Entries<'a, E>,
    settled: &mut BatchResult<'a, E>,
) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = entries.iter().map(|entry| entry.row.event_id.as_ref()).collect();
    let first = store::first_records(connection, &ids).await?;
    let total = entries.len() as u64;
    entries.retain_mut(|entry| {
        let Some(first) = first.get(entry.row.event_id.as_ref()) else {
            // Its record is there, as a repetition of another event's id: it is read again.
            return false;
        };
        entry.row.outcome = Outcome::Duplicate;
        entry.row.reason = None;
        if first.body_sha256 == entry.row.body_sha256.as_bytes() {
            entry.row.content = None;
        }
        first.position != position(&entry.row)
    });
    let mut placed = place(connection, &mut entries).await?;
    let rows: Vec<&EventRow<'_>> = entries.iter().map(|entry| &entry.row).collect();
    let added = store::add_events(connection, &rows).await?;
    let (entries, _) = split_added(entries, added);
    settled.tally.reread += total - entries.len() as u64;
    for entry in entries {
        settled.tally.count(&entry);
        // A record with the same bytes as the first has no effect of its own.
        let Some(SpellingContext { comparison, is_only_hope }) = placed.remove(&position(&entry.row)) else { continue };
        let Comparison { aspect, orders, .. } = comparison;
        if let Some(aspect) = aspect {
            log_conflict(&entry, aspect);
        }
        settled.marks.extend(orders);
        match entry.decision {
            Decision::Apply(event) => settled.fresh.push(NewEvent { event, conflict: aspect.is_some() }),
            // What a contradicting body says is missing until it is redriven; and so is the event, if no spelling can be read.
            Decision::Dead(reason) if aspect.is_some() || is_only_hope => settled.dead.push((entry.record, reason)),
            Decision::Dead(_) | Decision::Ignore(_) => {}
        }
    }
    Ok(())
}

/// How a spelling stands beside the others of its event.
struct SpellingContext {
    comparison: Comparison,
    /// No other spelling has taken effect.
    is_only_hope: bool,
}

/// Compares records with the other spellings of their events, and makes those that contradict one conflicts.
async fn place<E>(
    connection: &mut PgConnection,
    entries: &mut Entries<'_, E>,
) -> Result<HashMap<(i16, i32, i64), SpellingContext>, Error> {
    let mut placed = HashMap::new();
    let ids: Vec<&str> =
        entries.iter().filter(|entry| entry.row.content.is_some()).map(|entry| entry.row.event_id.as_ref()).collect();
    if ids.is_empty() {
        return Ok(placed);
    }
    let mut spellings = spellings::of_events(connection, &ids).await?;
    for entry in entries {
        let Some(content) = entry.row.content else { continue };
        let others = spellings.entry(entry.row.event_id.to_string()).or_default();
        let at = position(&entry.row);
        let comparison = spellings::compare(at, &content, others);
        if comparison.aspect.is_some() {
            entry.row.outcome = Outcome::Conflict;
        } else if others.iter().any(|other| other.has_effect && other.is_same_body(at, &entry.row.body_sha256)) {
            // This spelling has had its effect, too.
            entry.row.content = None;
            continue;
        }
        let is_only_hope = !others.iter().any(|other| other.has_effect && other.position != at);
        others.push(Spelling::of_row(&entry.row, content, matches!(entry.decision, Decision::Apply(_))));
        placed.insert(at, SpellingContext { comparison, is_only_hope });
    }
    Ok(placed)
}

fn log_conflict<E>(entry: &Entry<'_, E>, aspect: &str) {
    tracing::error!(
        event.id = entry.row.event_id.as_ref(),
        order.id = entry.row.order_id.as_deref(),
        "event {} came with two bodies that contradict each other ({aspect}); this one is {} with SHA-256 {}",
        entry.row.event_id,
        entry.record.position(),
        entry.row.body_sha256,
    );
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
