//! What the outside world is told.
//!
//! The set of effects grows with the facts and never shrinks, whatever the order of the events. So an order that is
//! cancelled before its acceptance arrives still gets `fulfillment.requested` (with its status, which forbids to ship) and
//! `fulfillment.halted` after it: the same messages as an order whose events came in time.

use std::collections::BTreeSet;

use riverlock_schemas::{
    cloud_event::{FulfillmentEnded, FulfillmentRequested, Message, RequestedLine},
    order_state::OrderState,
};

use super::{Facts, OrderKey};

/// A kind of effect; each fires once for ever per order. Sorted as they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Start fulfillment.
    Request,
    /// Stop fulfillment.
    Halt,
    /// Close the order.
    Complete,
}

/// The effects that the facts call for.
#[must_use]
pub fn effects(facts: &Facts) -> BTreeSet<Effect> {
    let mut effects = BTreeSet::new();
    let accepted = facts.reached(OrderState::Accepted).is_some();
    if accepted {
        effects.insert(Effect::Request);
    }
    // What was never requested need not be stopped.
    if accepted && facts.halted_at().is_some() {
        effects.insert(Effect::Halt);
    }
    if facts.reached(OrderState::Complete).is_some() {
        effects.insert(Effect::Complete);
    }
    effects
}

/// The messages for the effects that `after` calls for and `before` did not.
#[must_use]
pub fn new_messages(key: &OrderKey, before: &Facts, after: &Facts) -> Vec<Message> {
    let known = effects(before);
    effects(after)
        .into_iter()
        .filter(|effect| !known.contains(effect))
        .map(|effect| message(effect, key, after))
        .collect()
}

fn message(effect: Effect, key: &OrderKey, facts: &Facts) -> Message {
    let status = facts.status().as_str();
    let ended = |ended_at: Option<_>| FulfillmentEnded {
        order_id: key.order_id.clone(),
        mode: key.mode,
        status,
        ended_at: ended_at.unwrap_or_default(),
    };
    match effect {
        Effect::Request => Message::FulfillmentRequested(FulfillmentRequested {
            order_id: key.order_id.clone(),
            mode: key.mode,
            status,
            ship_to: facts.snapshot.content.ship_to.clone(),
            lines: facts.lines.iter().map(|(line_id, line)| requested_line(line_id, line)).collect(),
        }),
        Effect::Halt => Message::FulfillmentHalted(ended(facts.halted_at())),
        Effect::Complete => Message::FulfillmentCompleted(ended(facts.reached(OrderState::Complete))),
    }
}

fn requested_line(line_id: &riverlock_schemas::LineId, line: &super::LineFacts) -> RequestedLine {
    let details = &line.snapshot.content;
    RequestedLine {
        line_id: line_id.clone(),
        sku_id: details.sku_id.clone(),
        quantity: details.quantity,
        physical: details.physical,
    }
}
