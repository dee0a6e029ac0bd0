//! Event types that consumers handle.

/// `order.accepted`: payment authorized, fraud check passed; only now may fulfillment start.
pub const ORDER_ACCEPTED: &str = "order.accepted";
/// `order.complete`: fulfilled and captured.
pub const ORDER_COMPLETE: &str = "order.complete";
/// `order.dispute.resolved`: a dispute is over.
pub const ORDER_DISPUTE_RESOLVED: &str = "order.dispute.resolved";
/// `order.chargeback`: a dispute was decided for the customer, who was refunded.
pub const ORDER_CHARGEBACK: &str = "order.chargeback";
/// `order.invoice.created`: a VAT invoice can be fetched.
pub const ORDER_INVOICE_CREATED: &str = "order.invoice.created";
/// `order.credit_memo.created`: a credit memo can be fetched.
pub const ORDER_CREDIT_MEMO_CREATED: &str = "order.credit_memo.created";
/// `fulfillment.created`: shipped and cancelled quantities were reported to Digital River.
pub const FULFILLMENT_CREATED: &str = "fulfillment.created";

/// The name of [`FULFILLMENT_CREATED`] in Digital River's page on fulfillments.
const FULFILLMENT_CREATE: &str = "fulfillment.create";

/// Types of an order's usual lifecycle whose object is a complete order.
///
/// Source: Digital River's event types; each has the order in `data.object`.
pub const ORDER_SNAPSHOTS: [&str; 11] = [
    ORDER_ACCEPTED,
    "order.blocked",
    "order.cancelled",
    ORDER_COMPLETE,
    "order.created",
    "order.dispute",
    "order.fulfilled",
    "order.pending_payment",
    "order.refunded",
    "order.returned",
    "order.review_opened",
];

/// Further types whose object is a complete order.
pub const MORE_ORDER_SNAPSHOTS: [&str; 4] =
    [ORDER_DISPUTE_RESOLVED, "order.review_closed", "order.submitted", "order.updated"];

/// The prefix of all types whose object is a charge.
pub const CHARGE_PREFIX: &str = "order.charge.";

/// The types in Digital River's list whose object is a charge. Other types with [`CHARGE_PREFIX`] are read in the same way.
///
/// Source: Digital River's order events. Some are listed twice, as `complete` and as `completed`.
pub const CHARGES: [&str; 22] = [
    "order.charge.cancel.complete",
    "order.charge.cancel.failed",
    "order.charge.cancel.pending",
    "order.charge.cancel.pending_information",
    "order.charge.cancelled",
    "order.charge.capturable",
    "order.charge.capture.complete",
    "order.charge.capture.completed",
    "order.charge.capture.created",
    "order.charge.capture.failed",
    "order.charge.capture.pending",
    "order.charge.complete",
    "order.charge.completed",
    "order.charge.created",
    "order.charge.failed",
    "order.charge.pending",
    "order.charge.reauth.failed",
    "order.charge.refund.complete",
    "order.charge.refund.completed",
    "order.charge.refund.created",
    "order.charge.refund.failed",
    "order.charge.refund.pending",
];

/// Types whose object is a file; the invoice-fetcher queues them.
pub const FILES: [&str; 2] = [ORDER_INVOICE_CREATED, ORDER_CREDIT_MEMO_CREATED];

/// Every type that this version knows, each once.
pub fn known() -> impl Iterator<Item = &'static str> {
    let others = [ORDER_CHARGEBACK, FULFILLMENT_CREATED];
    ORDER_SNAPSHOTS.into_iter().chain(MORE_ORDER_SNAPSHOTS).chain(CHARGES).chain(FILES).chain(others)
}

/// The kind of object of an event that the processor applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The complete order.
    Order,
    /// A charge of the order; in some events the complete order, with its charges.
    Charge,
    /// A sales transaction with the order's id, or the complete order.
    Chargeback,
    /// A fulfillment.
    Fulfillment,
}

/// The kind of object of a type; `None` if the processor does not handle the type.
#[must_use]
pub fn subject(event_type: &str) -> Option<Subject> {
    if is_order_snapshot(event_type) {
        Some(Subject::Order)
    } else if event_type.starts_with(CHARGE_PREFIX) {
        Some(Subject::Charge)
    } else {
        match event_type {
            ORDER_CHARGEBACK => Some(Subject::Chargeback),
            FULFILLMENT_CREATED | FULFILLMENT_CREATE => Some(Subject::Fulfillment),
            _ => None,
        }
    }
}

/// The canonical name of a type that has several names.
#[must_use]
pub fn canonical(event_type: &str) -> &str {
    if event_type == FULFILLMENT_CREATE { FULFILLMENT_CREATED } else { event_type }
}

/// Whether events of this type have a complete order as their object.
#[must_use]
pub fn is_order_snapshot(event_type: &str) -> bool {
    ORDER_SNAPSHOTS.contains(&event_type) || MORE_ORDER_SNAPSHOTS.contains(&event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_type_has_the_right_subject_and_files_have_none() {
        let subjects = |types: &[&str]| types.iter().map(|name| subject(name)).collect::<Vec<_>>();
        assert!(subjects(&ORDER_SNAPSHOTS).iter().all(|found| *found == Some(Subject::Order)));
        assert!(subjects(&MORE_ORDER_SNAPSHOTS).iter().all(|found| *found == Some(Subject::Order)));
        assert!(subjects(&CHARGES).iter().all(|found| *found == Some(Subject::Charge)));
        assert_eq!(subject("order.charge.invented.tomorrow"), Some(Subject::Charge));
        assert_eq!(
            subjects(&[ORDER_CHARGEBACK, FULFILLMENT_CREATED, "order.charge", "payout.created"]),
            [Some(Subject::Chargeback), Some(Subject::Fulfillment), None, None]
        );
        assert!(subjects(&FILES).iter().all(Option::is_none));
        assert_eq!(subject("fulfillment.create"), Some(Subject::Fulfillment));
        assert_eq!((canonical("fulfillment.create"), canonical(ORDER_ACCEPTED)), (FULFILLMENT_CREATED, ORDER_ACCEPTED));
    }
}
