//! What is known of an order, and how knowledge is joined.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    FulfillmentId, LineId, Mode, OrderId,
    charge_event::{Operation, OperationDetails, OperationKey, OperationState},
    event_type,
    fulfillment_event::{Fulfillment, Reported, Tracking},
    order_event::{LineDetails, OrderDetails, OrderEvent, OrderSnapshot},
    order_state::{LineState, OrderState},
};

/// What an order is found by. Test data and live data never meet, even under one id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    /// Digital River's id of the order.
    pub order_id: OrderId,
    /// Test or live.
    pub mode: Mode,
}

/// What makes one snapshot newer than another: the order's own time, then the event's, then the event's id, so that any two
/// different events have an order that everybody agrees on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The order's `updatedTime`.
    pub updated_at: Option<DateTime<Utc>>,
    /// The event's `createdTime`.
    pub created_at: Option<DateTime<Utc>>,
    /// The event's id.
    pub event_id: String,
}

/// A last-writer-wins register: the greatest stamp counts, and between equal stamps (two bodies under one event id) the
/// greater content, so that the result never depends on which came first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot<T> {
    /// Where the content comes from.
    pub stamp: Stamp,
    /// The content.
    pub content: T,
}

impl<T: Ord> Snapshot<T> {
    fn join(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}

/// What is known of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineFacts {
    /// Earliest time of each state.
    pub transitions: BTreeMap<LineState, DateTime<Utc>>,
    /// The newest snapshot of the line.
    pub snapshot: Snapshot<LineDetails>,
}

/// What is known of one fulfillment: one report to Digital River of what was shipped and what will not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShipmentFacts {
    /// When it was reported; the earliest that was said.
    pub created_at: Option<DateTime<Utc>>,
    /// How it travels.
    pub tracking: Tracking,
    /// What it says of each line. A fulfillment does not change; of two that differ under one id the larger numbers count.
    pub lines: BTreeMap<LineId, Reported>,
}

/// What is known of something that was done with money.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationFacts {
    /// Since when it is under way.
    pub pending_at: Option<DateTime<Utc>>,
    /// When it was done.
    pub complete_at: Option<DateTime<Utc>>,
    /// When it failed; the *latest* time, so that "failed after the order was accepted" stays true once it is.
    pub failed_at: Option<DateTime<Utc>>,
    /// What else is known; of two different values the greater counts.
    pub details: OperationDetails,
}

/// What is known of an order. The default is: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Types of the events that have been seen.
    pub seen: BTreeSet<String>,
    /// Earliest time of each state.
    pub transitions: BTreeMap<OrderState, DateTime<Utc>>,
    /// Names of states that this version does not know.
    pub unknown_states: BTreeSet<String>,
    /// Whether two different bodies came under one event id.
    pub conflicted: bool,
    /// The newest snapshot of the order.
    pub snapshot: Snapshot<OrderDetails>,
    /// The lines.
    pub lines: BTreeMap<LineId, LineFacts>,
    /// The fulfillments that were reported, by their id: one that is told of twice counts once.
    pub shipments: BTreeMap<FulfillmentId, ShipmentFacts>,
    /// What was done with money.
    pub operations: BTreeMap<OperationKey, OperationFacts>,
}

impl Facts {
    /// What one event says of its order.
    #[must_use]
    pub fn of(event: OrderEvent, conflict: bool) -> (OrderKey, Self) {
        let key = OrderKey { order_id: event.order_id, mode: event.mode };
        let mut facts = Self { conflicted: conflict, ..Self::default() };
        if let Some(order) = event.order {
            let stamp = Stamp {
                updated_at: order.updated_time,
                created_at: event.created_time,
                event_id: event.event_id.as_str().to_owned(),
            };
            let as_of = order.updated_time.unwrap_or(event.as_of);
            facts.add_snapshot(order, stamp, as_of);
        }
        if let Some(state) = announced_state(&event.event_type) {
            facts.transitions.entry(state).or_insert(event.as_of);
        }
        facts.seen.insert(event.event_type);
        for operation in event.operations {
            let (key, said) = OperationFacts::of(operation);
            facts.operations.entry(key).or_default().join(said);
        }
        // A fulfillment without lines says nothing.
        if let Some(Fulfillment { fulfillment_id, created_time, tracking, lines }) =
            event.fulfillment.filter(|fulfillment| !fulfillment.lines.is_empty())
        {
            let created_at = created_time.or(Some(event.as_of));
            facts.shipments.insert(fulfillment_id, ShipmentFacts { created_at, tracking, lines });
        }
        (key, facts)
    }

    fn add_snapshot(&mut self, order: OrderSnapshot, stamp: Stamp, as_of: DateTime<Utc>) {
        join_earliest(&mut self.transitions, order.transitions);
        // Older payloads, and some of today's, do not list the state that the order is in; nor that of its lines.
        if let Some(state) = order.state {
            self.transitions.entry(state).or_insert(as_of);
        }
        self.unknown_states = order.unknown_states;
        for line in order.lines {
            let snapshot = Snapshot { stamp: stamp.clone(), content: line.details };
            let state = snapshot.content.state.as_deref().and_then(LineState::parse);
            let mut transitions = BTreeMap::new();
            join_earliest(&mut transitions, line.transitions);
            if let Some(state) = state {
                transitions.entry(state).or_insert(as_of);
            }
            self.lines.entry(line.line_id).or_default().join(LineFacts { transitions, snapshot });
        }
        self.snapshot = Snapshot { stamp, content: order.details };
    }

    /// Adds what `other` knows.
    pub fn join(&mut self, other: Self) {
        self.seen.extend(other.seen);
        join_earliest(&mut self.transitions, other.transitions);
        self.unknown_states.extend(other.unknown_states);
        self.conflicted |= other.conflicted;
        self.snapshot.join(other.snapshot);
        for (line_id, line) in other.lines {
            self.lines.entry(line_id).or_default().join(line);
        }
        for (fulfillment_id, shipment) in other.shipments {
            self.shipments.entry(fulfillment_id).or_default().join(shipment);
        }
        for (key, operation) in other.operations {
            self.operations.entry(key).or_default().join(operation);
        }
    }

    /// When the order reached a state, if it did.
    #[must_use]
    pub fn reached(&self, state: OrderState) -> Option<DateTime<Utc>> {
        self.transitions.get(&state).copied()
    }
}

impl LineFacts {
    fn join(&mut self, other: Self) {
        join_earliest(&mut self.transitions, other.transitions);
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
        // The bank decided a dispute for the customer; that it was opened may never have been told.
        event_type::ORDER_CHARGEBACK => Some(OrderState::Dispute),
        other => OrderState::parse(other.strip_prefix("order.")?),
    }
}

/// The earlier of two times; any time is earlier than none.
fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    one.into_iter().chain(other).min()
}

fn join_greater<T: Ord>(known: &mut Option<T>, other: Option<T>) {
    if other > *known {
        *known = other;
    }
}

fn join_earliest<S: Ord>(map: &mut BTreeMap<S, DateTime<Utc>>, other: impl IntoIterator<Item = (S, DateTime<Utc>)>) {
    for (state, time) in other {
        map.entry(state).and_modify(|known| *known = time.min(*known)).or_insert(time);
    }
}
