//! Effects: messages to other systems that follow from an order's facts.
//!
//! The set of effects grows with the facts and never shrinks, in whatever order the events arrive. So an order whose
//! cancellation arrives before its acceptance still gets `fulfillment.requested` (with a status that forbids shipping) and then
//! `fulfillment.halted`: the same messages as an order whose events arrived in order.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_schemas::{
    FulfillmentId, LineId,
    cloud_event::{
        FulfillmentCaptureFailed, FulfillmentEnded, FulfillmentReported, FulfillmentRequested, Message, ReportedLine,
        RequestedLine, fitting,
    },
    events::{charge_event::OperationKey, order_state::OrderState},
};

use super::{Facts, LineFacts, OperationFacts, OrderKey, Quantities, ShipmentFacts};

/// An effect, which occurs at most once per order. The variants are in the order in which messages are sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Start fulfillment, once there are lines to fulfil.
    Request,
    /// Announce what was shipped, once per fulfillment.
    Report(FulfillmentId),
    /// Recall a shipment or have the customer pay again, once per capture.
    Recall(OperationKey),
    /// Stop fulfillment.
    Halt,
    /// Close the order.
    Complete,
    /// Ship nothing more: the customer disputes the payment or was refunded by the bank.
    Dispute,
}

/// The effects that follow from the facts.
#[must_use]
pub fn effects(facts: &Facts) -> BTreeSet<Effect> {
    let mut effects = BTreeSet::new();
    // Fulfillment needs the lines, and an event about a charge may arrive before the first event with lines.
    let requested = facts.reached(OrderState::Accepted).is_some() && !facts.lines.is_empty();
    if requested {
        effects.insert(Effect::Request);
    }
    // A fulfillment that was never requested need not be stopped.
    if requested && facts.halted_at().is_some() {
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

/// The messages for the effects of `after` that `before` does not have.
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
        Effect::Request => Message::FulfillmentRequested(requested(key, status, facts)),
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

fn requested(key: &OrderKey, status: &'static str, facts: &Facts) -> FulfillmentRequested {
    let quantities = facts.quantities();
    let line = |(line_id, line): (&LineId, &LineFacts)| requested_line(line_id, line, &quantities);
    let lines = fitting(facts.lines.iter().map(line));
    let details = &facts.snapshot.content;
    FulfillmentRequested {
        order_id: key.order_id.clone(),
        mode: key.mode,
        status,
        upstream_id: details.upstream_id.clone(),
        service_level: details.service_level.clone(),
        ship_to: details.ship_to.clone(),
        line_count: facts.lines.len() as u64,
        more_lines_at: (lines.len() < facts.lines.len()).then(|| order_path(key)),
        lines,
    }
}

/// The order API's path of an order.
fn order_path(key: &OrderKey) -> String {
    let mut path = String::from("/v1/orders/");
    for byte in key.order_id.as_str().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
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
    let line_count = shipment.lines.len();
    let lines = fitting(shipment.lines.into_iter().map(|(line_id, line)| ReportedLine {
        line_id,
        fulfilled_quantity: line.fulfilled,
        cancelled_quantity: line.cancelled,
    }));
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
        line_count: line_count as u64,
        more_lines_at: (lines.len() < line_count).then(|| order_path(key)),
        lines,
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
        capture_id: operation.own_id().unwrap_or_default().to_owned(),
        charge_id: operation.charge_id,
        operation_key: operation.operation_id,
        fulfillment_id: known.details.fulfillment_id,
        amount: known.details.amount,
        currency: known.details.currency,
        failure_code: known.details.failure_code,
        failed_at: known.failed_at.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::{Mode, OrderId, events::order_event::LineDetails};

    use super::*;
    use crate::domain::Snapshot;

    #[test]
    fn messages_with_too_many_lines_link_to_the_order_api() {
        let key = OrderKey { order_id: OrderId::parse("o/1 é").unwrap(), mode: Mode::Test };
        let mut facts = Facts::default();
        facts.transitions.insert(OrderState::Accepted, chrono::DateTime::UNIX_EPOCH);
        let mut shipment = ShipmentFacts::default();
        for index in 0..20_000 {
            let line_id = LineId::parse(format!("{index:012}")).unwrap();
            let mut snapshot: Snapshot<LineDetails> = Snapshot::default();
            snapshot.content.sku_id = Some("s".repeat(1_000));
            facts.lines.insert(line_id.clone(), LineFacts { snapshot, ..LineFacts::default() });
            shipment.lines.insert(line_id, riverlock_schemas::events::fulfillment_event::ReportedQuantities::default());
        }
        facts.shipments.insert(FulfillmentId::parse("f").unwrap(), shipment);
        let messages = new_messages(&key, &Facts::default(), &facts);
        assert_eq!(messages.len(), 2);
        for message in messages {
            let (count, lines, path) = match &message {
                Message::FulfillmentRequested(message) => {
                    (message.line_count, message.lines.len(), &message.more_lines_at)
                }
                Message::FulfillmentReported(message) => {
                    (message.line_count, message.lines.len(), &message.more_lines_at)
                }
                other => panic!("{other:?}"),
            };
            assert!(count == 20_000 && (100..20_000).contains(&lines), "{lines} of {count} lines");
            assert_eq!(path.as_deref(), Some("/v1/orders/o%2F1%20%C3%A9"));
            assert!(
                message.to_json(chrono::DateTime::UNIX_EPOCH).len() < 3 << 19,
                "the message leaves half of a record's limit"
            );
        }
    }
}
