//! What is known of an order, and how knowledge is joined.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    LineId, Mode, OrderId,
    order_event::{LineDetails, OrderDetails, OrderEvent},
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
}

impl Facts {
    /// What one event says of its order.
    #[must_use]
    pub fn of(event: OrderEvent, conflict: bool) -> (OrderKey, Self) {
        let order = event.order;
        let stamp = Stamp {
            updated_at: order.updated_time,
            created_at: event.created_time,
            event_id: event.event_id.as_str().to_owned(),
        };
        let mut transitions = earliest(order.transitions);
        // Older payloads, and some of today's, do not list the state that the event itself announces.
        for state in order.state.into_iter().chain(announced_state(&event.event_type)) {
            transitions.entry(state).or_insert(event.as_of);
        }
        let mut facts = Self {
            seen: BTreeSet::from([event.event_type]),
            transitions,
            unknown_states: order.unknown_states,
            conflicted: conflict,
            snapshot: Snapshot { stamp: stamp.clone(), content: order.details },
            lines: BTreeMap::new(),
        };
        for line in order.lines {
            let snapshot = Snapshot { stamp: stamp.clone(), content: line.details };
            let said = LineFacts { transitions: earliest(line.transitions), snapshot };
            facts.lines.entry(line.line_id).or_default().join(said);
        }
        (OrderKey { order_id: event.order_id, mode: event.mode }, facts)
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

/// The state that an event's type announces.
///
/// Source: Digital River's event types.
fn announced_state(event_type: &str) -> Option<OrderState> {
    match event_type {
        "order.review_opened" => Some(OrderState::InReview),
        other => OrderState::parse(other.strip_prefix("order.")?),
    }
}

fn earliest<S: Ord>(transitions: Vec<(S, DateTime<Utc>)>) -> BTreeMap<S, DateTime<Utc>> {
    let mut map = BTreeMap::new();
    join_earliest(&mut map, transitions);
    map
}

fn join_earliest<S: Ord>(map: &mut BTreeMap<S, DateTime<Utc>>, other: impl IntoIterator<Item = (S, DateTime<Utc>)>) {
    for (state, time) in other {
        map.entry(state).and_modify(|known| *known = time.min(*known)).or_insert(time);
    }
}
