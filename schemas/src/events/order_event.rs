//! Events about an order: most carry all of it (`order.accepted`, `order.complete` and their kin), others a charge or a
//! fulfillment that names it.

use chrono::{DateTime, Utc};

pub use crate::events::order_snapshot::{LineDetails, LineSnapshot, OrderDetails, OrderSnapshot, ShipTo};
use crate::{
    EventId, Mode, OrderId,
    events::{charge_event::Operation, fulfillment_event::Fulfillment, oddity::Oddities},
};

/// An event about an order, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// The event's id.
    pub event_id: EventId,
    /// The event's type, for example `order.complete`, under the name that Digital River's list has for it.
    pub event_type: String,
    /// When Digital River made the event; `None` where that cannot be read or lies in the future.
    pub created_time: Option<DateTime<Utc>>,
    /// When it was as the event says: the order's `updatedTime`, or else the event's `createdTime`; of events without an
    /// order the event's `createdTime`, or else that of their object. Where neither can be used, when it was received.
    pub as_of: DateTime<Utc>,
    /// The order's id.
    pub order_id: OrderId,
    /// Test data and live data never meet in one order.
    pub mode: Mode,
    /// The order as the event shows it, if it does.
    pub order: Option<OrderSnapshot>,
    /// What was done with money, if the event is about a charge.
    pub operations: Vec<Operation>,
    /// What was shipped, if the event is about a fulfillment.
    pub fulfillment: Option<Fulfillment>,
    /// What was unusual in it.
    pub oddities: Oddities,
}
