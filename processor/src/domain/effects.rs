//! What the outside world is told.
//!
//! The set of effects grows with the facts and never shrinks, whatever the order of the events. So an order that is
//! cancelled before its acceptance arrives still gets `fulfillment.requested` (with its status, which forbids to ship) and
//! `fulfillment.halted` after it: the same messages as an order whose events came in time.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_schemas::{
    FulfillmentId, LineId,
    charge_event::OperationKey,
    cloud_event::{
        FulfillmentCaptureFailed, FulfillmentEnded, FulfillmentReported, FulfillmentRequested, Message, ReportedLine,
        RequestedLine,
    },
    order_state::OrderState,
};

use super::{Facts, LineFacts, OperationFacts, OrderKey, Quantities, ShipmentFacts};

/// An effect; each fires once for ever per order. Sorted as they are sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Start fulfillment.
    Request,
    /// Tell what was shipped, once per fulfillment.
    Report(FulfillmentId),
    /// Recall a shipment or have the customer pay again, once per capture.
    Recall(OperationKey),
    /// Stop fulfillment.
    Halt,
    /// Close the order.
    Complete,
    /// Ship nothing more: the customer wants the money back, or has it.
    Dispute,
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
    if facts.reached(OrderState::Dispute).is_some() {
        effects.insert(Effect::Dispute);
    }
    effects.extend(facts.shipments.keys().cloned().map(Effect::Report));
    effects.extend(facts.failed_captures().map(|(key, _)| Effect::Recall(key.clone())));
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
            upstream_id: facts.snapshot.content.upstream_id.clone(),
            service_level: facts.snapshot.content.service_level.clone(),
            ship_to: facts.snapshot.content.ship_to.clone(),
            lines: requested_lines(facts),
        }),
        Effect::Report(id) => {
            let shipment = facts.shipments.get(&id).cloned().unwrap_or_default();
            Message::FulfillmentReported(reported(key, status, id, shipment))
        }
        Effect::Recall(operation) => {
            let known = facts.operations.get(&operation).cloned().unwrap_or_default();
            Message::FulfillmentCaptureFailed(capture_failed(key, status, operation, known))
        }
        Effect::Halt => Message::FulfillmentHalted(ended(facts.halted_at())),
        Effect::Complete => Message::FulfillmentCompleted(ended(facts.reached(OrderState::Complete))),
        Effect::Dispute => Message::FulfillmentDisputed(ended(facts.reached(OrderState::Dispute))),
    }
}

fn requested_lines(facts: &Facts) -> Vec<RequestedLine> {
    let quantities = facts.quantities();
    let line = |(line_id, line): (&LineId, &LineFacts)| requested_line(line_id, line, &quantities);
    facts.lines.iter().map(line).collect()
}

fn requested_line(line_id: &LineId, line: &LineFacts, quantities: &BTreeMap<&LineId, Quantities>) -> RequestedLine {
    let details = &line.snapshot.content;
    let Quantities { fulfilled, cancelled, .. } = quantities.get(line_id).copied().unwrap_or_default();
    RequestedLine {
        line_id: line_id.clone(),
        sku_id: details.sku_id.clone(),
        quantity: details.quantity,
        fulfilled_quantity: fulfilled,
        cancelled_quantity: cancelled,
        physical: details.physical,
    }
}

fn reported(
    key: &OrderKey,
    status: &'static str,
    fulfillment_id: FulfillmentId,
    shipment: ShipmentFacts,
) -> FulfillmentReported {
    let lines = shipment.lines.into_iter().map(|(line_id, line)| ReportedLine {
        line_id,
        fulfilled_quantity: line.fulfilled,
        cancelled_quantity: line.cancelled,
    });
    FulfillmentReported {
        order_id: key.order_id.clone(),
        mode: key.mode,
        status,
        fulfillment_id,
        reported_at: shipment.created_at,
        shipment_id: shipment.tracking.shipment_id,
        tracking_company: shipment.tracking.company,
        tracking_number: shipment.tracking.number,
        tracking_url: shipment.tracking.url,
        lines: lines.collect(),
    }
}

fn capture_failed(
    key: &OrderKey,
    status: &'static str,
    operation: OperationKey,
    known: OperationFacts,
) -> FulfillmentCaptureFailed {
    FulfillmentCaptureFailed {
        order_id: key.order_id.clone(),
        mode: key.mode,
        status,
        operation: operation.kind.as_str(),
        charge_id: operation.charge_id,
        capture_id: operation.operation_id,
        fulfillment_id: known.details.fulfillment_id,
        amount: known.details.amount,
        currency: known.details.currency,
        failure_code: known.details.failure_code,
        failed_at: known.failed_at.unwrap_or_default(),
    }
}
