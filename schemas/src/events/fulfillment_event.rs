//! `fulfillment.created`: shipped and cancelled lines were reported to Digital River.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::MapAccess;

use crate::{
    FulfillmentId, LineId,
    events::{
        order_snapshot::WireOrder,
        payload::{self, PayloadError, Times},
    },
    wire::{
        Member, Members,
        number::Quantity,
        scalar::{Id, Text, text},
        time::Time,
    },
};

/// A fulfillment as contained in one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfillment {
    /// Its id. A fulfillment that several events contain counts once.
    pub fulfillment_id: FulfillmentId,
    /// When it was reported.
    pub created_time: Option<DateTime<Utc>>,
    /// The carrier's tracking data.
    pub tracking: Tracking,
    /// Quantities by line.
    pub lines: BTreeMap<LineId, ReportedQuantities>,
}

/// Quantities of a line in one fulfillment, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedQuantities {
    /// Shipped or delivered; the amount is captured.
    ///
    /// Source: Digital River's fulfillment item `quantity`.
    pub fulfilled: i64,
    /// Will not be shipped; the amount is released.
    ///
    /// Source: Digital River's fulfillment item `cancelQuantity`.
    pub cancelled: i64,
}

/// The carrier's tracking data of a shipment, as shown to the customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct Tracking {
    pub shipment_id: Option<String>,
    pub company: Option<String>,
    pub number: Option<String>,
    pub url: Option<String>,
}

/// The fields of Digital River's fulfillment that are read, as documented.
#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct WireFulfillment {
    pub(crate) id: Option<Id>,
    /// The order.
    // Read with the envelope; declared here for the JSON Schema.
    order_id: Option<Id>,
    created_time: Option<Time>,
    shipment_id: Option<Text>,
    tracking_company: Option<Text>,
    tracking_number: Option<Text>,
    tracking_url: Option<Text>,
    items: Option<Vec<WireFulfillmentItem>>,
    /// The order, without its payment.
    order_details: Option<WireOrder>,
}

impl<'de> Members<'de> for WireFulfillment {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "createdTime" => value.value(&mut self.created_time),
            "shipmentId" => value.value(&mut self.shipment_id),
            "trackingCompany" => value.value(&mut self.tracking_company),
            "trackingNumber" => value.value(&mut self.tracking_number),
            "trackingUrl" => value.value(&mut self.tracking_url),
            "items" => value.list(&mut self.items),
            "orderDetails" => value.object(&mut self.order_details),
            _ => value.ignore(),
        }
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct WireFulfillmentItem {
    /// The line.
    item_id: Option<Id>,
    /// Units that were shipped or delivered.
    quantity: Option<Quantity>,
    /// Units that will not be shipped.
    cancel_quantity: Option<Quantity>,
}

impl<'de> Members<'de> for WireFulfillmentItem {
    const IS_STRICT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "itemId" => value.value(&mut self.item_id),
            "quantity" => value.value(&mut self.quantity),
            "cancelQuantity" => value.value(&mut self.cancel_quantity),
            _ => value.ignore(),
        }
    }
}

impl WireFulfillment {
    /// The fulfillment, and the order's snapshot if the event contains one.
    pub(crate) fn split(self, times: Times<'_>) -> Result<(Fulfillment, Option<WireOrder>), PayloadError> {
        let units = |quantity| Quantity::units(quantity).map_err(PayloadError::Shape);
        let mut lines: BTreeMap<LineId, ReportedQuantities> = BTreeMap::new();
        for (index, item) in self.items.into_iter().flatten().enumerate() {
            let line_id = payload::id_text(item.item_id, times.notes()).and_then(LineId::parse);
            let line_id = line_id.map_err(|source| PayloadError::LineId { index, source })?;
            // Two items of one fulfillment may be about the same line, for example two parcels of one shipment.
            let line = lines.entry(line_id).or_default();
            line.fulfilled = line.fulfilled.saturating_add(units(item.quantity)?.unwrap_or_default());
            line.cancelled = line.cancelled.saturating_add(units(item.cancel_quantity)?.unwrap_or_default());
        }
        let id = payload::id_text(self.id, times.notes()).and_then(FulfillmentId::parse);
        let fulfillment = Fulfillment {
            fulfillment_id: id.map_err(PayloadError::FulfillmentId)?,
            created_time: times.read(self.created_time),
            tracking: Tracking {
                shipment_id: text(self.shipment_id),
                company: text(self.tracking_company),
                number: text(self.tracking_number),
                url: text(self.tracking_url),
            },
            lines,
        };
        Ok((fulfillment, self.order_details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, events::order_event::OrderEvent};

    fn parse(object: &str) -> Result<OrderEvent, PayloadError> {
        let body = format!(
            r#"{{"id":"e","type":"fulfillment.created","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
        );
        OrderEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes(), None)
    }

    #[test]
    fn quantities_of_a_line_are_summed_within_one_fulfillment() {
        let event = parse(
            r#"{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1},{"itemId":"l","quantity":"2","cancelQuantity":3},
               {"itemId":"m","cancelQuantity":1}],"orderDetails":{"id":"o","state":"accepted","items":[{"id":"l"}]}}"#,
        )
        .unwrap();
        assert_eq!(event.order_id.as_str(), "o");
        assert_eq!(event.order.unwrap().lines.len(), 1, "the order's details are a snapshot");
        let reported = |fulfilled, cancelled| ReportedQuantities { fulfilled, cancelled };
        let lines: Vec<_> = event.fulfillment.unwrap().lines.into_iter().collect();
        let id = |text: &str| LineId::parse(text).unwrap();
        assert_eq!(lines, [(id("l"), reported(3, 3)), (id("m"), reported(0, 1))]);
    }

    #[test]
    fn fulfillments_without_valid_ids_or_quantities_are_rejected() {
        for (object, code) in [
            (r#"{"orderId":"o","items":[]}"#, "fulfillment_id"),
            (r#"{"id":"f","items":[]}"#, "order_id"),
            (r#"{"id":"f","items":[],"orderId":""}"#, "order_id"),
            (r#"{"id":"f","items":[{"quantity":1}],"orderId":"o"}"#, "line_id"),
            (r#"{"id":"f","items":["l"],"orderId":"o"}"#, "line_id"),
            (r#"{"id":"f","items":[{"itemId":"l","quantity":0.5}],"orderId":"o"}"#, "shape"),
            (r#"{"id":"f","items":[{"itemId":"l","quantity":1,"quantity":2}],"orderId":"o"}"#, "shape"),
            (r#"{"id":"f","orderId":"o","orderDetails":{"id":"other"}}"#, "shape"),
        ] {
            assert_eq!(parse(object).unwrap_err().code(), code, "{object}");
        }
    }

    #[test]
    fn unusual_tracking_data_is_accepted() {
        let event = parse(
            r#"{"id":77,"orderId":"o","createdTime":{},"trackingNumber":980,"trackingCompany":["DHL"],"shipmentId":"\ud83d",
               "items":[{"itemId":7,"quantity":1,"quantity":1}],"orderDetails":"none"}"#,
        )
        .unwrap();
        let fulfillment = event.fulfillment.unwrap();
        assert_eq!((fulfillment.fulfillment_id.as_str(), fulfillment.created_time), ("77", None));
        let Tracking { shipment_id, company, number, url } = fulfillment.tracking;
        assert_eq!(
            (number.as_deref(), company, shipment_id.as_deref(), url),
            (Some("980"), None, Some("\u{fffd}"), None)
        );
        assert_eq!(fulfillment.lines[&LineId::parse("7").unwrap()].fulfilled, 1);
    }
}
