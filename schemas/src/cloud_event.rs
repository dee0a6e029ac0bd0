//! What other systems (warehouse, ERP, mail) get: CloudEvents 1.0 in the fulfillment topic, key = order id.
//!
//! Messages come at least once; `id` is the same every time. Messages of one order come in order.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{FileId, FulfillmentId, LineId, Mode, OrderId, file_event::Purpose, hash::Sha256Hash, order_event::ShipTo};

/// The CloudEvents version of every message.
pub const SPEC_VERSION: &str = "1.0";
/// The CloudEvents source of every message.
pub const SOURCE: &str = "riverlock";
/// The media type of every message's data.
pub const DATA_CONTENT_TYPE: &str = "application/json";

/// A CloudEvents 1.0 envelope in its JSON form.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CloudEvent<'a, T = Message> {
    /// Always `1.0`.
    pub specversion: &'static str,
    /// Stable and unique per effect, so that a consumer can pass over a repetition.
    pub id: String,
    /// Always `riverlock`.
    pub source: &'static str,
    /// Which message, for example `fulfillment.requested`.
    pub r#type: &'static str,
    /// The order.
    pub subject: &'a OrderId,
    /// When the effect was decided.
    pub time: DateTime<Utc>,
    /// Always `application/json`.
    pub datacontenttype: &'static str,
    /// The message.
    pub data: &'a T,
}

/// The messages, by type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// `fulfillment.requested`: payment is authorized and the fraud check passed. Ship only while `status` is `ready`.
    FulfillmentRequested(FulfillmentRequested),
    /// `fulfillment.halted`: do not ship; stop what has begun.
    FulfillmentHalted(FulfillmentEnded),
    /// `fulfillment.completed`: fulfilled and captured.
    FulfillmentCompleted(FulfillmentEnded),
    /// `fulfillment.reported`: Digital River has been told what was shipped and what will not be. One per fulfillment.
    FulfillmentReported(FulfillmentReported),
    /// `fulfillment.capture_failed`: shipped, and the money was not captured. Recall the shipment, or have the customer
    /// pay again. One per capture, or per charge that could not be authorized again.
    FulfillmentCaptureFailed(FulfillmentCaptureFailed),
    /// `fulfillment.disputed`: the customer disputes the charge, or has the money back. Ship nothing more.
    FulfillmentDisputed(FulfillmentEnded),
    /// `invoice.stored`: a VAT invoice or credit memo is in the archive.
    InvoiceStored(InvoiceStored),
}

/// What a warehouse needs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentRequested {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was made; an order that ended meanwhile says so here.
    pub status: &'static str,
    /// The merchant's own id of the order.
    pub upstream_id: Option<String>,
    /// How fast it is to be shipped, as Digital River's `shippingChoice` names it.
    pub service_level: Option<String>,
    /// Where physical lines go; `null` for digital orders.
    pub ship_to: Option<ShipTo>,
    pub lines: Vec<RequestedLine>,
}

/// One line to fulfil.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RequestedLine {
    pub line_id: LineId,
    pub sku_id: Option<String>,
    /// Pieces ordered.
    pub quantity: Option<i64>,
    /// Pieces of them that were already reported as shipped or delivered.
    pub fulfilled_quantity: i64,
    /// Pieces of them that were already reported as never to be shipped.
    pub cancelled_quantity: i64,
    /// Whether it has to be shipped; `null` when Digital River does not say.
    pub physical: Option<bool>,
}

/// The end of an order's fulfillment, or what stands against it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentEnded {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was made.
    pub status: &'static str,
    /// When Digital River ended it.
    pub ended_at: DateTime<Utc>,
}

/// What was shipped and what will not be, as Digital River was told.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentReported {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was made.
    pub status: &'static str,
    pub fulfillment_id: FulfillmentId,
    /// When it was reported.
    pub reported_at: Option<DateTime<Utc>>,
    pub shipment_id: Option<String>,
    pub tracking_company: Option<String>,
    pub tracking_number: Option<String>,
    pub tracking_url: Option<String>,
    pub lines: Vec<ReportedLine>,
}

/// What one fulfillment says of one line.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportedLine {
    /// The line.
    pub line_id: LineId,
    /// Pieces shipped or delivered.
    pub fulfilled_quantity: i64,
    /// Pieces never to be shipped.
    pub cancelled_quantity: i64,
}

/// Money that did not come although something was shipped.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentCaptureFailed {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was made.
    pub status: &'static str,
    /// `capture`, or `reauthorization` when the authorization had run out and could not be had again.
    pub operation: &'static str,
    /// Empty where Digital River does not name it.
    pub charge_id: String,
    /// The capture; empty where Digital River does not name it.
    pub capture_id: String,
    /// The fulfillment whose capture failed: what to recall.
    pub fulfillment_id: Option<String>,
    /// In `currency`, as a decimal number in a text.
    #[schemars(with = "Option<String>")]
    pub amount: Option<Decimal>,
    pub currency: Option<String>,
    /// Why, as Digital River names it. Not for customers.
    pub failure_code: Option<String>,
    pub failed_at: DateTime<Utc>,
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct InvoiceStored {
    pub order_id: OrderId,
    pub mode: Mode,
    pub file_id: FileId,
    pub purpose: Purpose,
    /// Where it lies in the object store.
    pub object_key: String,
    pub sha256: Sha256Hash,
    pub size_bytes: u64,
}

impl Message {
    /// The CloudEvents type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FulfillmentRequested(_) => "fulfillment.requested",
            Self::FulfillmentHalted(_) => "fulfillment.halted",
            Self::FulfillmentCompleted(_) => "fulfillment.completed",
            Self::FulfillmentReported(_) => "fulfillment.reported",
            Self::FulfillmentCaptureFailed(_) => "fulfillment.capture_failed",
            Self::FulfillmentDisputed(_) => "fulfillment.disputed",
            Self::InvoiceStored(_) => "invoice.stored",
        }
    }

    /// The order that the message is about, with its mode.
    #[must_use]
    pub fn order(&self) -> (&OrderId, Mode) {
        match self {
            Self::FulfillmentRequested(message) => (&message.order_id, message.mode),
            Self::FulfillmentHalted(message)
            | Self::FulfillmentCompleted(message)
            | Self::FulfillmentDisputed(message) => (&message.order_id, message.mode),
            Self::FulfillmentReported(message) => (&message.order_id, message.mode),
            Self::FulfillmentCaptureFailed(message) => (&message.order_id, message.mode),
            Self::InvoiceStored(message) => (&message.order_id, message.mode),
        }
    }

    /// What tells several messages of one kind and order apart: the id of the document, of the fulfillment, of what was
    /// done with money; empty for the kinds of which an order has one.
    #[must_use]
    pub fn effect_key(&self) -> String {
        match self {
            Self::InvoiceStored(message) => message.file_id.to_string(),
            Self::FulfillmentReported(message) => message.fulfillment_id.to_string(),
            Self::FulfillmentCaptureFailed(message) => {
                format!("{}:{}:{}", message.operation, message.charge_id, message.capture_id)
            }
            Self::FulfillmentRequested(_)
            | Self::FulfillmentHalted(_)
            | Self::FulfillmentCompleted(_)
            | Self::FulfillmentDisputed(_) => String::new(),
        }
    }

    /// The message in its envelope, as JSON.
    #[must_use]
    pub fn to_json(&self, now: DateTime<Utc>) -> Vec<u8> {
        let (subject, mode) = self.order();
        let (kind, key) = (self.kind(), self.effect_key());
        let separator = if key.is_empty() { "" } else { ":" };
        let event = CloudEvent {
            specversion: SPEC_VERSION,
            id: format!("{mode}:{subject}:{kind}{separator}{key}"),
            source: SOURCE,
            r#type: kind,
            subject,
            time: now,
            datacontenttype: DATA_CONTENT_TYPE,
            data: self,
        };
        serde_json::to_vec(&event).expect("a struct of texts and numbers always serializes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_cloud_event_with_a_stable_id() {
        let message = Message::FulfillmentHalted(FulfillmentEnded {
            order_id: OrderId::parse("204440790336").unwrap(),
            mode: Mode::Live,
            status: "cancelled",
            ended_at: DateTime::UNIX_EPOCH,
        });
        let text = String::from_utf8(message.to_json(DateTime::UNIX_EPOCH)).unwrap();
        assert_eq!(
            text,
            r#"{"specversion":"1.0","id":"live:204440790336:fulfillment.halted","source":"riverlock","type":"fulfillment.halted","subject":"204440790336","time":"1970-01-01T00:00:00Z","datacontenttype":"application/json","data":{"orderId":"204440790336","mode":"live","status":"cancelled","endedAt":"1970-01-01T00:00:00Z"}}"#
        );
    }
}
