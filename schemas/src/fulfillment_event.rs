//! `fulfillment.created`: somebody reported to Digital River which lines were shipped, and which will not be.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    FulfillmentId, LineId,
    order_event::WireOrder,
    payload::{self, PayloadError, Quantity, Text, Time},
};

/// A fulfillment as one event shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfillment {
    /// Its id: a fulfillment that is told of twice counts once.
    pub fulfillment_id: FulfillmentId,
    /// When it was reported.
    pub created_time: Option<DateTime<Utc>>,
    /// How it travels.
    pub tracking: Tracking,
    /// What it says of each line.
    pub lines: BTreeMap<LineId, Reported>,
}

/// How many pieces of a line one fulfillment reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Shipped or delivered; the money is captured.
    ///
    /// Source: Digital River's fulfillment item `quantity`.
    pub fulfilled: i64,
    /// Never to be shipped; the money is released.
    ///
    /// Source: Digital River's fulfillment item `cancelQuantity`.
    pub cancelled: i64,
}

/// How a shipment travels, for the customer's eyes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct Tracking {
    pub shipment_id: Option<String>,
    pub company: Option<String>,
    pub number: Option<String>,
    pub url: Option<String>,
}

/// Digital River's fulfillment, as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireFulfillment {
    id: Option<String>,
    /// The order.
    pub(crate) order_id: Option<String>,
    pub(crate) created_time: Option<Time>,
    shipment_id: Option<Text>,
    tracking_company: Option<Text>,
    tracking_number: Option<Text>,
    tracking_url: Option<Text>,
    items: Option<Vec<WireFulfillmentItem>>,
    /// The order, without its payment.
    pub(crate) order_details: Option<WireOrder>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireFulfillmentItem {
    /// The line.
    item_id: Option<String>,
    /// Pieces that were shipped or delivered.
    quantity: Option<Quantity>,
    /// Pieces that will not be.
    cancel_quantity: Option<Quantity>,
}

impl WireFulfillment {
    /// The fulfillment, and the order's snapshot if the event carries one.
    pub(crate) fn split(self) -> Result<(Fulfillment, Option<WireOrder>), PayloadError> {
        let id = self.id.unwrap_or_default();
        let mut lines: BTreeMap<LineId, Reported> = BTreeMap::new();
        for (index, item) in self.items.into_iter().flatten().enumerate() {
            let line_id = LineId::parse(item.item_id.unwrap_or_default());
            let line_id = line_id.map_err(|source| PayloadError::LineId { index, source })?;
            // Two items of one fulfillment may be about the same line: two parcels of one shipment.
            let line = lines.entry(line_id).or_default();
            line.fulfilled += item.quantity.map_or(0, |quantity| quantity.0);
            line.cancelled += item.cancel_quantity.map_or(0, |quantity| quantity.0);
        }
        let fulfillment = Fulfillment {
            fulfillment_id: FulfillmentId::parse(id).map_err(PayloadError::FulfillmentId)?,
            created_time: payload::time(self.created_time),
            tracking: Tracking {
                shipment_id: payload::text(self.shipment_id),
                company: payload::text(self.tracking_company),
                number: payload::text(self.tracking_number),
                url: payload::text(self.tracking_url),
            },
            lines,
        };
        Ok((fulfillment, self.order_details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, order_event::OrderEvent};

    fn parse(object: &str) -> Result<OrderEvent, PayloadError> {
        let body = format!(
            r#"{{"id":"e","type":"fulfillment.created","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
        );
        OrderEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_pieces_of_a_line_are_added_up_within_one_fulfillment() {
        let event = parse(
            r#"{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1},{"itemId":"l","quantity":"2","cancelQuantity":3},
               {"itemId":"m","cancelQuantity":1}],"orderDetails":{"id":"o","state":"accepted","items":[{"id":"l"}]}}"#,
        )
        .unwrap();
        assert_eq!(event.order_id.as_str(), "o");
        assert_eq!(event.order.unwrap().lines.len(), 1, "the order's details are a snapshot");
        let reported = |fulfilled, cancelled| Reported { fulfilled, cancelled };
        let lines: Vec<_> = event.fulfillment.unwrap().lines.into_iter().collect();
        let id = |text: &str| LineId::parse(text).unwrap();
        assert_eq!(lines, [(id("l"), reported(3, 3)), (id("m"), reported(0, 1))]);
    }

    #[test]
    fn what_cannot_be_counted_once_is_not_counted_at_all() {
        for (object, code) in [
            (r#"{"orderId":"o","items":[]}"#, "fulfillment_id"),
            (r#"{"id":"f","items":[]}"#, "order_id"),
            (r#"{"id":"f","items":[],"orderId":""}"#, "order_id"),
            (r#"{"id":"f","items":[{"quantity":1}],"orderId":"o"}"#, "line_id"),
            (r#"{"id":"f","items":[{"itemId":"l","quantity":0.5}],"orderId":"o"}"#, "shape"),
            (r#"{"id":"f","orderId":"o","orderDetails":{"id":"other"}}"#, "shape"),
        ] {
            assert_eq!(parse(object).unwrap_err().code(), code, "{object}");
        }
    }
}
