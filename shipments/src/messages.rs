//! Messages about shipments, for other systems.

use riverlock_schemas::{
    Mode, OrderId,
    cloud_event::{Message, RefusedBy, ShipmentRefused, ShipmentReported},
};
use uuid::Uuid;

/// Longest explanation in a message, in characters.
const DETAIL_CHARS_MAX: usize = 1_000;

/// The code of a rejection without one from Digital River.
const REFUSED: &str = "refused";

/// A stored shipment, as far as messages name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) order_id: &'a str,
    pub(crate) mode: Mode,
    pub(crate) report_id: Uuid,
    pub(crate) idempotency_key: &'a str,
}

impl Subject<'_> {
    /// `shipment.reported`; `None` if the order id is invalid, which an order in the database never has.
    pub(crate) fn reported(&self, fulfillment_id: &str) -> Option<Message> {
        Some(Message::ShipmentReported(ShipmentReported {
            order_id: OrderId::parse(self.order_id).ok()?,
            mode: self.mode,
            report_id: self.report_id.to_string(),
            idempotency_key: self.idempotency_key.to_owned(),
            fulfillment_id: fulfillment_id.to_owned(),
        }))
    }

    /// `shipment.refused` by Digital River, once per attempt.
    pub(crate) fn refused(&self, attempts: i32, code: Option<&str>, detail: &str) -> Option<Message> {
        Some(Message::ShipmentRefused(ShipmentRefused {
            order_id: OrderId::parse(self.order_id).ok()?,
            mode: self.mode,
            report_id: Some(self.report_id.to_string()),
            idempotency_key: self.idempotency_key.to_owned(),
            refused_by: RefusedBy::DigitalRiver,
            code: code.filter(|code| !code.is_empty()).unwrap_or(REFUSED).to_owned(),
            detail: bounded(detail),
            refusal_key: format!("{}:{attempts}", self.report_id),
        }))
    }
}

/// The first characters of an explanation.
pub(crate) fn bounded(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS_MAX).collect()
}
