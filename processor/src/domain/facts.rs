//! The facts of an order and their join.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    FulfillmentId, LineId, Mode, OrderId,
    events::{
        charge_event::{Operation, OperationDetails, OperationKey, OperationState},
        event_type,
        fulfillment_event::{Fulfillment, ReportedQuantities, Tracking},
        order_event::{LineDetails, OrderDetails, OrderEvent, OrderSnapshot},
        order_state::{LineState, OrderState},
    },
};

/// The key of an order. Test and live data are always separate, even with the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    /// Digital River's id of the order.
    pub order_id: OrderId,
    /// Test or live.
    pub mode: Mode,
}

impl OrderKey {
    /// The key of the order that an event belongs to.
    #[must_use]
    pub fn of(event: &OrderEvent) -> Self {
        Self { order_id: event.order_id.clone(), mode: event.mode }
    }
}

/// Orders snapshots by age: by the order's own time, then the event's time, then the event's id, so that the order of any two
/// events is total and deterministic.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The order's `updatedTime`; if that is missing or invalid, the event's `as_of`, so that the snapshot does not count as
    /// older than it is.
    pub updated_at: Option<DateTime<Utc>>,
    /// The event's `createdTime`.
    pub created_at: Option<DateTime<Utc>>,
    /// The event's id.
    pub event_id: String,
}

/// Snapshot contents, which are joined if their stamps are equal.
pub trait Content {
    /// Adds the fields of another spelling of the same snapshot. Commutative, associative and idempotent.
    fn join(&mut self, other: Self);
}

impl Content for OrderDetails {
    fn join(&mut self, other: Self) {
        Self::join(self, other);
    }
}

impl Content for LineDetails {
    fn join(&mut self, other: Self) {
        Self::join(self, other);
    }
}

/// A last-writer-wins register: the greatest stamp counts. Contents with equal stamps are from several bodies of one event,
/// such as its standard and its expanded spelling; they are joined, so that the result does not depend on their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot<T> {
    /// The event that the content is from.
    pub stamp: Stamp,
    /// The content.
    pub content: T,
}

impl<T: Content> Snapshot<T> {
    fn join(&mut self, other: Self) {
        match other.stamp.cmp(&self.stamp) {
            Ordering::Greater => *self = other,
            Ordering::Equal => self.content.join(other.content),
            Ordering::Less => {}
        }
    }

    /// Like [`Self::join`], but copies the stamp only if it is greater.
    fn add(&mut self, stamp: &Stamp, content: T) {
        match stamp.cmp(&self.stamp) {
            Ordering::Greater => {
                self.stamp.clone_from(stamp);
                self.content = content;
            }
            Ordering::Equal => self.content.join(content),
            Ordering::Less => {}
        }
    }
}

/// The facts of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineFacts {
    /// Earliest time of each state.
    pub transitions: BTreeMap<LineState, DateTime<Utc>>,
    /// The newest snapshot of the line.
    pub snapshot: Snapshot<LineDetails>,
}

/// The facts of one fulfillment, Digital River's object of a shipment that was reported to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShipmentFacts {
    /// The time of the report; of several, the earliest.
    pub created_at: Option<DateTime<Utc>>,
    /// The carrier's tracking data.
    pub tracking: Tracking,
    /// Reported quantities by line. A fulfillment does not change; if two with the same id differ, the larger quantities count.
    pub lines: BTreeMap<LineId, ReportedQuantities>,
}

/// The facts of one payment operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationFacts {
    /// When it became pending.
    pub pending_at: Option<DateTime<Utc>>,
    /// When it was completed.
    pub complete_at: Option<DateTime<Utc>>,
    /// When it failed; the *latest* time, so that "failed after the order was accepted" stays true once it is.
    pub failed_at: Option<DateTime<Utc>>,
    /// Further details; of two different values the greater counts.
    pub details: OperationDetails,
}

/// The facts of an order. The default has no facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Types of the order's events.
    pub seen: BTreeSet<String>,
    /// Earliest time of each state.
    pub transitions: BTreeMap<OrderState, DateTime<Utc>>,
    /// Names of states that this version does not know.
    pub unknown_states: BTreeSet<String>,
    /// Whether two bodies with the same event id contradict each other.
    pub conflicted: bool,
    /// The newest snapshot of the order.
    pub snapshot: Snapshot<OrderDetails>,
    /// The lines.
    pub lines: BTreeMap<LineId, LineFacts>,
    /// The fulfillments by id: one that several events contain counts once.
    pub shipments: BTreeMap<FulfillmentId, ShipmentFacts>,
    /// The payment operations.
    pub operations: BTreeMap<OperationKey, OperationFacts>,
}

impl Facts {
    /// The facts of one event, and the key of its order.
    #[must_use]
    pub fn of(event: OrderEvent, conflict: bool) -> (OrderKey, Self) {
        let (key, mut facts) = (OrderKey::of(&event), Self::default());
        facts.add(event, conflict);
        (key, facts)
    }

    /// Adds the facts of one event. Equivalent to joining [`Self::of`] the event.
    pub fn add(&mut self, event: OrderEvent, conflict: bool) {
        self.conflicted |= conflict;
        let mut transitions = Vec::new();
        if let Some(order) = event.order {
            let as_of = order.updated_time.unwrap_or(event.as_of);
            let stamp =
                Stamp { updated_at: Some(as_of), created_at: event.created_time, event_id: event.event_id.into() };
            transitions = self.add_snapshot(order, stamp, as_of);
        }
        if let Some(state) = announced_state(&event.event_type) {
            add_missing(&mut transitions, state, event.as_of);
        }
        join_earliest(&mut self.transitions, transitions);
        self.seen.insert(event.event_type);
        for operation in event.operations {
            let (key, added) = OperationFacts::of(operation);
            self.operations.entry(key).or_default().join(added);
        }
        // A fulfillment without lines has no facts.
        if let Some(Fulfillment { fulfillment_id, created_time, tracking, lines }) =
            event.fulfillment.filter(|fulfillment| !fulfillment.lines.is_empty())
        {
            let created_at = created_time.or(Some(event.as_of));
            let added = ShipmentFacts { created_at, tracking, lines };
            self.shipments.entry(fulfillment_id).or_default().join(added);
        }
    }

    /// Adds an event's snapshot of the order and returns the states that it names.
    fn add_snapshot(
        &mut self,
        order: OrderSnapshot,
        stamp: Stamp,
        as_of: DateTime<Utc>,
    ) -> Vec<(OrderState, DateTime<Utc>)> {
        let mut transitions = timed(order.transitions, as_of);
        // Older payloads, and some current ones, do not list the current state of the order or of its lines.
        if let Some(state) = order.state {
            add_missing(&mut transitions, state, as_of);
        }
        self.unknown_states.extend(order.unknown_states);
        for line in order.lines {
            let mut transitions = timed(line.transitions, as_of);
            if let Some(state) = line.details.state.as_deref().and_then(LineState::parse) {
                add_missing(&mut transitions, state, as_of);
            }
            let known = self.lines.entry(line.line_id).or_default();
            join_earliest(&mut known.transitions, transitions);
            known.snapshot.add(&stamp, line.details);
        }
        self.snapshot.join(Snapshot { stamp, content: order.details });
        transitions
    }

    /// Adds the facts of `other`.
    pub fn join(&mut self, other: Self) {
        join_sets(&mut self.seen, other.seen);
        join_maps(&mut self.transitions, other.transitions, join_earlier);
        join_sets(&mut self.unknown_states, other.unknown_states);
        self.conflicted |= other.conflicted;
        self.snapshot.join(other.snapshot);
        join_maps(&mut self.lines, other.lines, LineFacts::join);
        join_maps(&mut self.shipments, other.shipments, ShipmentFacts::join);
        join_maps(&mut self.operations, other.operations, OperationFacts::join);
    }

    /// The time at which the order reached a state, if it did.
    #[must_use]
    pub fn reached(&self, state: OrderState) -> Option<DateTime<Utc>> {
        self.transitions.get(&state).copied()
    }
}

impl LineFacts {
    fn join(&mut self, other: Self) {
        join_maps(&mut self.transitions, other.transitions, join_earlier);
        self.snapshot.join(other.snapshot);
    }
}

impl ShipmentFacts {
    fn join(&mut self, other: Self) {
        self.created_at = earlier(self.created_at, other.created_at);
        join_greater(&mut self.tracking.shipment_id, other.tracking.shipment_id);
        join_greater(&mut self.tracking.company, other.tracking.company);
        join_greater(&mut self.tracking.number, other.tracking.number);
        join_greater(&mut self.tracking.url, other.tracking.url);
        for (line_id, reported) in other.lines {
            let known = self.lines.entry(line_id).or_default();
            known.fulfilled = known.fulfilled.max(reported.fulfilled);
            known.cancelled = known.cancelled.max(reported.cancelled);
        }
    }
}

impl OperationFacts {
    fn of(operation: Operation) -> (OperationKey, Self) {
        let reached = |wanted| operation.reached.and_then(|(state, at)| (state == wanted).then_some(at));
        let facts = Self {
            pending_at: reached(OperationState::Pending),
            complete_at: reached(OperationState::Complete),
            failed_at: reached(OperationState::Failed),
            details: operation.details,
        };
        (operation.key, facts)
    }

    fn join(&mut self, other: Self) {
        self.pending_at = earlier(self.pending_at, other.pending_at);
        self.complete_at = earlier(self.complete_at, other.complete_at);
        self.failed_at = self.failed_at.max(other.failed_at);
        join_greater(&mut self.details.amount, other.details.amount);
        join_greater(&mut self.details.currency, other.details.currency);
        join_greater(&mut self.details.failure_code, other.details.failure_code);
        join_greater(&mut self.details.fulfillment_id, other.details.fulfillment_id);
    }
}

/// The state that an event's type announces.
///
/// Source: Digital River's event types.
fn announced_state(event_type: &str) -> Option<OrderState> {
    match event_type {
        "order.review_opened" => Some(OrderState::InReview),
        // The bank decided a dispute for the customer. The event that opened the dispute may be missing.
        event_type::ORDER_CHARGEBACK => Some(OrderState::Dispute),
        other => OrderState::parse(other.strip_prefix("order.")?),
    }
}

/// The earlier of two times. `None` is later than any time.
fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    one.into_iter().chain(other).min()
}

fn join_greater<T: Ord>(known: &mut Option<T>, other: Option<T>) {
    if other > *known {
        *known = other;
    }
}

fn join_earlier(known: &mut DateTime<Utc>, other: DateTime<Utc>) {
    *known = other.min(*known);
}

fn join_earliest<S: Ord>(map: &mut BTreeMap<S, DateTime<Utc>>, other: impl IntoIterator<Item = (S, DateTime<Utc>)>) {
    for (state, time) in other {
        map.entry(state).and_modify(|known| join_earlier(known, time)).or_insert(time);
    }
}

/// States with their times. A state without a valid time was reached by `as_of` at the latest.
fn timed<S>(listed: Vec<(S, Option<DateTime<Utc>>)>, as_of: DateTime<Utc>) -> Vec<(S, DateTime<Utc>)> {
    listed.into_iter().map(|(state, time)| (state, time.unwrap_or(as_of))).collect()
}

/// Adds a state with its time unless the list contains the state.
fn add_missing<S: PartialEq>(listed: &mut Vec<(S, DateTime<Utc>)>, state: S, time: DateTime<Utc>) {
    if listed.iter().all(|(known, _)| *known != state) {
        listed.push((state, time));
    }
}

/// Joins the values of each key. Moves `other` if `map` is empty.
fn join_maps<K: Ord, V>(map: &mut BTreeMap<K, V>, other: BTreeMap<K, V>, join: impl Fn(&mut V, V)) {
    if map.is_empty() {
        *map = other;
        return;
    }
    for (key, value) in other {
        match map.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(mut entry) => join(entry.get_mut(), value),
        }
    }
}

fn join_sets(set: &mut BTreeSet<String>, other: BTreeSet<String>) {
    if set.is_empty() {
        *set = other;
    } else {
        set.extend(other);
    }
}
