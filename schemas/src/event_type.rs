//! The event types that have consumers.

/// `order.accepted`: payment authorized, fraud check passed; only now may fulfillment start.
pub const ORDER_ACCEPTED: &str = "order.accepted";
/// `order.complete`: fulfilled and captured; the money is there.
pub const ORDER_COMPLETE: &str = "order.complete";
/// `order.invoice.created`: a VAT invoice can be fetched.
pub const ORDER_INVOICE_CREATED: &str = "order.invoice.created";
/// `order.credit_memo.created`: a credit memo can be fetched.
pub const ORDER_CREDIT_MEMO_CREATED: &str = "order.credit_memo.created";

/// Types whose object is a whole order snapshot; the processor folds them.
///
/// Source: Digital River's event types; each carries the order in `data.object`.
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

/// Types whose object is a file; the invoice-fetcher queues them.
pub const FILES: [&str; 2] = [ORDER_INVOICE_CREATED, ORDER_CREDIT_MEMO_CREATED];

/// Whether events of this type carry an order snapshot.
#[must_use]
pub fn is_order_snapshot(event_type: &str) -> bool {
    ORDER_SNAPSHOTS.contains(&event_type)
}
