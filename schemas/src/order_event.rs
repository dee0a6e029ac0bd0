//! Events about an order: most carry all of it (`order.accepted`, `order.complete` and their kin), others a charge or a
//! fulfillment that names it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Envelope, EventId, LineId, Mode, OrderId,
    charge_event::Operation,
    fulfillment_event::Fulfillment,
    order_object::OrderObject,
    order_state::{LineState, OrderState},
    payload::{self, Money, PayloadError, Quantity, Text, Time, Transitions},
};

/// An event about an order, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// The event's id.
    pub event_id: EventId,
    /// The event's type, for example `order.complete`.
    pub event_type: String,
    /// When Digital River made the event.
    pub created_time: Option<DateTime<Utc>>,
    /// When it was as the event says: the order's `updatedTime`, or else the event's `createdTime`; of events without an
    /// order the event's `createdTime`, or else that of their object.
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
}

/// An order as one event shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderSnapshot {
    /// Orders the snapshots of one order.
    ///
    /// Source: Digital River's order `updatedTime`.
    pub updated_time: Option<DateTime<Utc>>,
    /// The state that the order was in.
    pub state: Option<OrderState>,
    /// Every state reached so far with its time.
    ///
    /// Source: Digital River's order `stateTransitions`; so an `order.complete` that overtakes its `order.accepted` still
    /// tells when the order was accepted.
    pub transitions: Vec<(OrderState, DateTime<Utc>)>,
    /// Names of states that this version does not know.
    pub unknown_states: BTreeSet<String>,
    /// What may change from snapshot to snapshot.
    pub details: OrderDetails,
    /// The order's lines.
    pub lines: Vec<LineSnapshot>,
}

/// The parts of a snapshot of which the newest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderDetails {
    /// The state that the order was in, as Digital River names it.
    pub state: Option<String>,
    /// `review_opened`, `blocked` or `passed`.
    pub fraud_state: Option<String>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// What the customer pays, in `currency`.
    pub total_amount: Option<Decimal>,
    /// Digital River's id of the customer.
    pub customer_id: Option<String>,
    /// Which Digital River company sells; it decides whether a VAT invoice is made.
    pub selling_entity_id: Option<String>,
    /// The merchant's own id of the order.
    pub upstream_id: Option<String>,
    /// How fast it is to be shipped, as Digital River's `shippingChoice` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_level: Option<String>,
    /// Where physical lines go; `None` for digital orders.
    pub ship_to: Option<ShipTo>,
}

/// A name and an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipTo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// One line (item) as an event shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineSnapshot {
    /// The line's id.
    pub line_id: LineId,
    /// Every state reached so far with its time.
    pub transitions: Vec<(LineState, DateTime<Utc>)>,
    /// What may change from snapshot to snapshot.
    pub details: LineDetails,
}

/// The parts of a line of which the newest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineDetails {
    /// The state that the line was in, as Digital River names it.
    pub state: Option<String>,
    /// The merchant's product.
    pub sku_id: Option<String>,
    /// Pieces ordered.
    pub quantity: Option<i64>,
    /// Whether it has to be shipped; only expanded events say.
    pub physical: Option<bool>,
}

impl OrderEvent {
    /// Reads the payload of an event whose envelope is already read.
    ///
    /// # Errors
    /// When the event cannot be applied to an order: no usable ids, no mode, no time, or a payload without the shape of an
    /// order.
    pub fn parse(envelope: &Envelope<'_>, body: &[u8]) -> Result<Self, PayloadError> {
        OrderObject::default().into_event(envelope, body)
    }
}

/// The fields of Digital River's order that are read, as they are written.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireOrder {
    pub(crate) id: Option<Text>,
    updated_time: Option<Time>,
    state: Option<Text>,
    state_transitions: Option<Transitions<OrderState>>,
    fraud_state: Option<Text>,
    currency: Option<Text>,
    total_amount: Option<Money>,
    customer_id: Option<Text>,
    selling_entity: Option<WireSellingEntity>,
    upstream_id: Option<Text>,
    shipping_choice: Option<WireShippingChoice>,
    ship_to: Option<WireShipTo>,
    items: Option<Vec<WireItem>>,
}

#[derive(Deserialize, JsonSchema)]
struct WireSellingEntity {
    id: Option<Text>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireShippingChoice {
    service_level: Option<Text>,
}

#[derive(Deserialize, JsonSchema)]
struct WireShipTo {
    name: Option<Text>,
    phone: Option<Text>,
    address: Option<WireAddress>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct WireAddress {
    line1: Option<Text>,
    line2: Option<Text>,
    city: Option<Text>,
    postal_code: Option<Text>,
    state: Option<Text>,
    country: Option<Text>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireItem {
    id: Option<String>,
    sku_id: Option<Text>,
    quantity: Option<Quantity>,
    state: Option<Text>,
    state_transitions: Option<Transitions<LineState>>,
    product_details: Option<WireProduct>,
}

#[derive(Deserialize, JsonSchema)]
struct WireProduct {
    id: Option<Text>,
    physical: Option<bool>,
}

impl WireOrder {
    pub(crate) fn into_snapshot(self) -> Result<OrderSnapshot, PayloadError> {
        let state = payload::text(self.state);
        let known = state.as_deref().and_then(OrderState::parse);
        let (transitions, mut unknown_states) = self.state_transitions.unwrap_or_default().split();
        if known.is_none() {
            unknown_states.extend(state.clone());
        }
        let lines = self.items.into_iter().flatten().enumerate();
        Ok(OrderSnapshot {
            updated_time: payload::time(self.updated_time),
            state: known,
            transitions,
            unknown_states,
            lines: lines.map(|(index, item)| item.into_line(index)).collect::<Result<_, _>>()?,
            details: OrderDetails {
                state,
                fraud_state: payload::text(self.fraud_state),
                currency: payload::text(self.currency),
                total_amount: self.total_amount.map(|money| money.0),
                customer_id: payload::text(self.customer_id),
                selling_entity_id: self.selling_entity.and_then(|entity| payload::text(entity.id)),
                upstream_id: payload::text(self.upstream_id),
                service_level: self.shipping_choice.and_then(|choice| payload::text(choice.service_level)),
                ship_to: self.ship_to.map(WireShipTo::into_ship_to),
            },
        })
    }
}

impl WireShipTo {
    fn into_ship_to(self) -> ShipTo {
        let address = self.address.unwrap_or_default();
        ShipTo {
            name: payload::text(self.name),
            phone: payload::text(self.phone),
            line1: payload::text(address.line1),
            line2: payload::text(address.line2),
            city: payload::text(address.city),
            postal_code: payload::text(address.postal_code),
            state: payload::text(address.state),
            country: payload::text(address.country),
        }
    }
}

impl WireItem {
    fn into_line(self, index: usize) -> Result<LineSnapshot, PayloadError> {
        let id = self.id.unwrap_or_default();
        let product = self.product_details;
        let physical = product.as_ref().and_then(|product| product.physical);
        // Items without `skuId` name their product in `productDetails`.
        let sku_id = payload::text(self.sku_id).or_else(|| product.and_then(|product| payload::text(product.id)));
        Ok(LineSnapshot {
            line_id: LineId::parse(id).map_err(|source| PayloadError::LineId { index, source })?,
            transitions: self.state_transitions.unwrap_or_default().split().0,
            details: LineDetails {
                state: payload::text(self.state),
                sku_id,
                quantity: self.quantity.map(|quantity| quantity.0),
                physical,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::parse_time;

    fn parse(object: &str) -> Result<OrderEvent, PayloadError> {
        let body = format!(
            r#"{{"id":"e","type":"order.accepted","liveMode":false,"createdTime":"2021-11-01T18:23:06Z","data":{{"object":{object}}}}}"#
        );
        OrderEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_snapshot_is_read_with_exact_money_and_all_transitions() {
        let event = parse(
            r#"{"id":"o","updatedTime":"2021-11-01T18:23:02Z","currency":"USD","totalAmount":27.10,"state":"accepted",
               "stateTransitions":{"accepted":"2021-11-01T18:23:05Z","teleported":"2021-11-01T18:23:06Z","fulfilled":null},
               "shipTo":{"name":"A\u0000B","address":{"city":"Minneapolis"}},"charges":[{"any":"thing"}],
               "items":[{"id":"l","productDetails":{"id":"sku","physical":true},"quantity":2.0,"state":"created",
                         "stateTransitions":{"created":"2021-11-01T18:23:02Z"},"metadata":{"a":1}}]}"#,
        )
        .unwrap();
        let order = event.order.unwrap();
        assert_eq!(order.details.total_amount.unwrap().to_string(), "27.1");
        assert_eq!(order.transitions, [(OrderState::Accepted, parse_time("2021-11-01T18:23:05Z").unwrap())]);
        assert_eq!(order.unknown_states, BTreeSet::from(["teleported".to_owned()]));
        assert_eq!(order.details.ship_to.unwrap().name.unwrap(), "A\u{fffd}B");
        let line = &order.lines[0].details;
        assert_eq!((line.sku_id.as_deref(), line.quantity, line.physical), (Some("sku"), Some(2), Some(true)));
    }

    #[test]
    fn an_order_may_lack_nearly_everything() {
        let event = parse(r#"{"id":"o","items":null,"totalAmount":null,"updatedTime":"soon"}"#).unwrap();
        assert_eq!(event.order, Some(OrderSnapshot::default()));
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_an_error_and_not_an_approximation() {
        for (object, code) in [
            (r#"{"id":"o","totalAmount":1e400}"#, "shape"),
            (r#"{"id":"o","totalAmount":123456789012345678901234567890.5}"#, "shape"),
            (r#"{"id":"o","totalAmount":"a lot"}"#, "shape"),
            (r#"{"id":"o","items":[{"id":"l","quantity":1.5}]}"#, "shape"),
            (r#"{"id":"o","items":[{"id":"l","quantity":-1}]}"#, "shape"),
            (r#"{"id":"o","items":[{"id":"l","quantity":18446744073709551616}]}"#, "shape"),
            (r#"{"id":"o","items":[{"quantity":1}]}"#, "line_id"),
            (r#"{"id":"o","items":{}}"#, "shape"),
            (r#"{"id":"o","state":"accepted","state":"complete"}"#, "shape"),
            (r#"{"state":"accepted"}"#, "order_id"),
            (r#"{"id":"o\u0000"}"#, "order_id"),
            (r#"[]"#, "order_id"),
        ] {
            assert_eq!(parse(object).unwrap_err().code(), code, "{object}");
        }
        assert_eq!(
            parse(r#"{"id":"o","totalAmount":1.5e1}"#)
                .unwrap()
                .order
                .unwrap()
                .details
                .total_amount
                .unwrap()
                .to_string(),
            "15"
        );
    }

    #[test]
    fn an_event_without_any_time_cannot_be_ordered() {
        let body =
            br#"{"id":"e","type":"order.accepted","liveMode":true,"data":{"object":{"id":"o","updatedTime":"soon"}}}"#;
        assert_eq!(OrderEvent::parse(&Envelope::parse(body).unwrap(), body), Err(PayloadError::Time));
    }

    #[test]
    fn an_event_that_does_not_say_whether_it_is_live_is_not_guessed() {
        let body = br#"{"id":"e","type":"order.accepted","data":{"object":{"id":"o"}}}"#;
        assert_eq!(OrderEvent::parse(&Envelope::parse(body).unwrap(), body), Err(PayloadError::Mode));
    }
}
