//! Events with several bodies.
//!
//! Records with the same event id are one event. The first decides its outcome; one with the same bytes is a duplicate.
//! One with other bytes is another *spelling*: a duplicate as well, unless it contradicts an earlier spelling, which is
//! a conflict. Every spelling is applied, so that facts found in only one of them count whichever came first. A
//! conflict marks the orders of both bodies: it does not matter which body came first and which consumer read the
//! second.
//!
//! [`Content`] determines whether two spellings contradict each other. Records stored before content digests existed
//! have none: they are compared by type, mode and order alone, and their conflicts stay conflicts.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    Mode,
    events::{content::Content, event_type},
    hash::Sha256Hash,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Error,
    store::{EventRow, Outcome},
};

/// An order: its id, and whether it is live.
pub(crate) type OrderMark = (String, bool);

/// A record whose body is one of its event's spellings.
#[derive(Clone, Debug)]
pub struct Spelling {
    /// Topic number, partition, offset.
    pub(crate) position: (i16, i32, i64),
    body_sha256: Vec<u8>,
    content: Content,
    outcome: String,
    /// Whether it was stored as a conflict by a version that compared bytes or had another digest.
    is_former_conflict: bool,
    /// Whether it was applied, by any consumer.
    pub(crate) has_effect: bool,
    /// The order that it was applied to.
    order: Option<OrderMark>,
}

impl Spelling {
    /// A record whose outcome is being determined.
    pub(crate) fn of_row(row: &EventRow<'_>, content: Content, has_effect: bool) -> Self {
        let order = row.order_id.as_deref().zip(row.live_mode).map(|(id, is_live)| (id.to_owned(), is_live));
        Self {
            position: (row.topic_id, row.partition, row.offset),
            body_sha256: row.body_sha256.as_bytes().to_vec(),
            content,
            outcome: row.outcome.as_str().to_owned(),
            is_former_conflict: false,
            has_effect,
            order: order.filter(|_| has_effect && event_type::subject(&row.event_type).is_some()),
        }
    }

    /// Whether this is another record with the same bytes.
    pub(crate) fn is_same_body(&self, position: (i16, i32, i64), body_sha256: &Sha256Hash) -> bool {
        self.position != position && self.body_sha256 == body_sha256.as_bytes()
    }
}

/// How a body relates to the other spellings of its event.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The aspect in which it contradicts one of them, if it does.
    pub aspect: Option<&'static str>,
    /// Orders of the spellings that it contradicts.
    pub orders: BTreeSet<OrderMark>,
    /// Positions of contradicted spellings that were stored as duplicates.
    pub duplicates: Vec<(i16, i32, i64)>,
}

/// Compares a body with the other spellings of its event.
pub fn compare(position: (i16, i32, i64), content: &Content, others: &[Spelling]) -> Comparison {
    let mut comparison = Comparison::default();
    for other in others.iter().filter(|other| other.position != position) {
        let Some(aspect) = other.content.contradicts(content) else { continue };
        comparison.aspect.get_or_insert(aspect);
        comparison.orders.extend(other.order.clone());
        if other.outcome == Outcome::Duplicate.as_str() {
            comparison.duplicates.push(other.position);
        }
    }
    comparison
}

/// Whether a version that compared bytes found a conflict among these.
pub fn has_former_conflict(spellings: &[Spelling]) -> bool {
    spellings.iter().any(|spelling| spelling.is_former_conflict)
}

/// Columns of a stored record from which its content follows.
#[derive(Clone, Copy, Debug)]
pub struct ContentColumns<'a> {
    /// The packed digest; `None` if another record has the same bytes.
    pub content: Option<&'a [u8]>,
    /// The event's type.
    pub event_type: &'a str,
    /// `liveMode`.
    pub live_mode: Option<bool>,
    /// The event's order.
    pub order_id: Option<&'a str>,
}

impl ContentColumns<'_> {
    /// The content of the record, if its digest was stored in a form that can be compared.
    #[must_use]
    pub fn stored(&self) -> Option<Content> {
        Content::unpack(self.content?, &self.known())
    }

    /// The content of the record, as far as it was stored.
    #[must_use]
    pub fn content(&self) -> Content {
        self.stored().unwrap_or_else(|| self.known())
    }

    fn known(&self) -> Content {
        Content::of_parts(self.event_type, self.live_mode.map(Mode::from_live), self.order_id)
    }
}

/// Returns the spellings of events, by the events' keys.
pub async fn of_events(
    connection: &mut PgConnection,
    event_keys: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Spelling>>, Error> {
    let mut spellings: HashMap<Uuid, Vec<Spelling>> = HashMap::new();
    if event_keys.is_empty() {
        return Ok(spellings);
    }
    let rows = sqlx::query!(
        r#"-- events_spellings
           SELECT e.event_key AS "event_key!", e.topic_id AS "topic_id!", e.partition AS "partition!",
                  e.record_offset AS "record_offset!", e.event_type AS "event_type!", e.live_mode, e.order_id,
                  e.body_sha256 AS "body_sha256!", e.content, e.outcome AS "outcome!",
                  EXISTS (
                      SELECT FROM dead_letters d
                      WHERE (d.topic_id, d.partition, d.record_offset) = (e.topic_id, e.partition, e.record_offset)
                        AND d.state <> 'redriven'
                  ) AS "is_dead!"
           FROM event_records e
           -- In two halves, each of which has an index.
           WHERE (e.event_key = ANY($1::uuid[]) AND e.outcome_code IN ('a', 'i', 'x'))
              OR (e.event_key = ANY($1::uuid[]) AND e.outcome_code IN ('d', 'c')
                  AND (e.content IS NOT NULL OR e.outcome_code = 'c'))"#,
        event_keys
    );
    for row in rows.fetch_all(connection).await? {
        let columns = ContentColumns {
            content: row.content.as_deref(),
            event_type: &row.event_type,
            live_mode: row.live_mode,
            order_id: row.order_id.as_deref(),
        };
        let (is_known, content) = (columns.stored().is_some(), columns.content());
        let has_effect = match row.outcome.as_str() {
            "applied" => true,
            "duplicate" | "conflict" => !row.is_dead,
            _ => false,
        };
        let is_of_order = has_effect && event_type::subject(&row.event_type).is_some();
        spellings.entry(row.event_key).or_default().push(Spelling {
            position: (row.topic_id, row.partition, row.record_offset),
            body_sha256: row.body_sha256,
            content,
            is_former_conflict: !is_known && row.outcome == Outcome::Conflict.as_str(),
            outcome: row.outcome,
            has_effect,
            order: row.order_id.zip(row.live_mode).filter(|_| is_of_order),
        });
    }
    Ok(spellings)
}

/// Returns the positions of records whose bodies contradict another one of their event. Conflicts found when bytes were
/// compared stay conflicts, together with all other records of their events.
pub async fn contradicted(
    connection: &mut PgConnection,
    event_keys: &[Uuid],
) -> Result<HashSet<(i16, i32, i64)>, Error> {
    // Conflicts are rare and have an index.
    let keys = sqlx::query_scalar!(
        "-- events_conflicted
         SELECT DISTINCT event_key FROM events WHERE event_key = ANY($1::uuid[]) AND outcome_code = 'c'",
        event_keys
    );
    let keys = keys.fetch_all(&mut *connection).await?;
    let mut contradicted = HashSet::new();
    for spellings in of_events(connection, &keys).await?.into_values() {
        let is_former = has_former_conflict(&spellings);
        let is_contradicted = |spelling: &&Spelling| {
            is_former || compare(spelling.position, &spelling.content, &spellings).aspect.is_some()
        };
        contradicted.extend(spellings.iter().filter(is_contradicted).map(|spelling| spelling.position));
    }
    Ok(contradicted)
}

/// Marks orders that have an event with contradicting bodies. An order that does not exist was not affected.
pub async fn mark_orders(
    connection: &mut PgConnection,
    orders: &BTreeSet<OrderMark>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let (order_ids, live_modes): (Vec<&str>, Vec<bool>) =
        orders.iter().map(|(id, is_live)| (id.as_str(), is_live)).unzip();
    sqlx::query!(
        "-- orders_mark_conflicted
         UPDATE orders SET conflicted = true, version = version + 1, changed_at = $3
         WHERE NOT conflicted AND (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))",
        &order_ids as _,
        &live_modes,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes duplicates to conflicts, because a body that they contradict could not be read at first.
///
/// # Errors
/// When PostgreSQL fails, or one of the records is no longer a duplicate.
pub async fn mark_conflicts(connection: &mut PgConnection, records: &[(i16, i32, i64)]) -> Result<(), Error> {
    if records.is_empty() {
        return Ok(());
    }
    let called = sqlx::query!(
        "-- events_call_conflicts
         UPDATE events SET outcome_code = 'c'
         WHERE (topic_id, partition, record_offset) IN (SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[]))
           AND outcome_code = 'd'",
        &records.iter().map(|record| record.0).collect::<Vec<_>>(),
        &records.iter().map(|record| record.1).collect::<Vec<_>>(),
        &records.iter().map(|record| record.2).collect::<Vec<_>>(),
    );
    let called = called.execute(connection).await?.rows_affected();
    if called == records.len() as u64 { Ok(()) } else { Err(Error::LostRace("a duplicate")) }
}
