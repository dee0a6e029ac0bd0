//! Events about an order: most contain the complete order (for example `order.accepted` and `order.complete`), others a charge
//! or a fulfillment with the order's id.

use chrono::{DateTime, Utc};

pub use crate::events::order_snapshot::{LineDetails, LineSnapshot, OrderDetails, OrderSnapshot, ShipTo};
use crate::{
    EventId, Mode, OrderId,
    events::{charge_event::Operation, fulfillment_event::Fulfillment},
    oddity::Oddities,
};

/// A validated event about an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// The event's id.
    pub event_id: EventId,
    /// The event's canonical type, for example `order.complete`.
    pub event_type: String,
    /// When Digital River created the event; `None` if that is invalid or in the future.
    pub created_time: Option<DateTime<Utc>>,
    /// The time to which the event's content refers: the order's `updatedTime`, or else the event's `createdTime`; for events
    /// without an order the event's `createdTime`, or else that of its object. If none is valid, the time of receipt.
    pub as_of: DateTime<Utc>,
    /// The order's id.
    pub order_id: OrderId,
    /// Test or live.
    pub mode: Mode,
    /// The order, if the event contains it.
    pub order: Option<OrderSnapshot>,
    /// The payment operations, if the event is about a charge.
    pub operations: Vec<Operation>,
    /// The fulfillment, if the event is about one.
    pub fulfillment: Option<Fulfillment>,
    /// The oddities of the event.
    pub oddities: Oddities,
}
