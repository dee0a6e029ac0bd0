//! Messages to other systems (warehouse, ERP, mail): CloudEvents 1.0 in the fulfillment topic, keyed by order id.
//!
//! Messages are delivered at least once; `id` is the same every time. Messages about one order are delivered in order, except
//! for `invoice.stored`, `shipment.reported` and `shipment.refused`, which do not follow from events of the order and can be
//! before or after the others.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    FileId, FulfillmentId, LineId, Mode, OrderId,
    events::{file_event::Purpose, order_event::ShipTo},
    hash::Sha256Hash,
};

/// The CloudEvents version of every message.
pub const SPEC_VERSION: &str = "1.0";
/// The CloudEvents source of every message.
pub const SOURCE: &str = "riverlock";
/// Maximum size of the lines of one message, in bytes. The rest of a message is far smaller than the other half of a topic's
/// limit (2 MiB with headers), so every message can be published.
pub const LINES_BYTES_MAX: usize = 1 << 20;
/// The media type of every message's data.
pub const DATA_CONTENT_TYPE: &str = "application/json";

/// A CloudEvents 1.0 envelope in its JSON form.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CloudEvent<'a, T = Message> {
    /// Always `1.0`.
    pub specversion: &'static str,
    /// Stable and unique per effect, so that a consumer can skip repetitions.
    pub id: String,
    /// Always `riverlock`.
    pub source: &'static str,
    /// The type of the message, for example `fulfillment.requested`.
    pub r#type: &'static str,
    /// The order.
    pub subject: &'a OrderId,
    /// When the message was written to the outbox.
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
    /// `fulfillment.halted`: do not ship; stop a shipment that is being prepared.
    FulfillmentHalted(FulfillmentEnded),
    /// `fulfillment.completed`: fulfilled and captured.
    FulfillmentCompleted(FulfillmentEnded),
    /// `fulfillment.reported`: shipped and cancelled quantities were reported to Digital River. One per fulfillment.
    FulfillmentReported(FulfillmentReported),
    /// `fulfillment.capture_failed`: shipped, but the capture failed. Recall the shipment, or have the customer pay again. One
    /// per capture, or per charge whose reauthorization failed.
    FulfillmentCaptureFailed(FulfillmentCaptureFailed),
    /// `fulfillment.disputed`: the customer disputes the charge, or was refunded by the bank. Ship nothing more.
    FulfillmentDisputed(FulfillmentEnded),
    /// `invoice.stored`: a VAT invoice or credit memo is in the archive.
    InvoiceStored(InvoiceStored),
    /// `shipment.reported`: Digital River has accepted a shipment that was stored here. One per shipment.
    ShipmentReported(ShipmentReported),
    /// `shipment.refused`: Digital River rejected a shipment, or a shipment from Kafka was not stored. One per attempt.
    ShipmentRefused(ShipmentRefused),
}

/// A request to fulfil an order.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentRequested {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was written. It is not `ready` if the order has already ended.
    pub status: &'static str,
    /// The merchant's own id of the order.
    pub upstream_id: Option<String>,
    /// The shipping service, as named in Digital River's `shippingChoice`.
    pub service_level: Option<String>,
    /// Recipient of physical lines; `null` for digital orders.
    pub ship_to: Option<ShipTo>,
    /// The order's lines, sorted by id, as many as fit into a message: about 5000.
    pub lines: Vec<RequestedLine>,
    /// Number of the order's lines.
    pub line_count: u64,
    /// The path of Riverlock's order API that returns all lines, if the order has more than `lines` contains; otherwise `null`.
    pub more_lines_at: Option<String>,
}

/// One line to fulfil.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RequestedLine {
    pub line_id: LineId,
    pub sku_id: Option<String>,
    /// Units ordered.
    pub quantity: Option<i64>,
    /// Units that were already reported as shipped or delivered.
    pub fulfilled_quantity: i64,
    /// Units that were already reported as cancelled.
    pub cancelled_quantity: i64,
    /// Whether the product is physical; `null` if unknown.
    pub physical: Option<bool>,
}

/// The end of an order's fulfillment, or a reason to stop it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentEnded {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was written.
    pub status: &'static str,
    /// When the order reached this end at Digital River.
    pub ended_at: DateTime<Utc>,
}

/// Shipped and cancelled quantities that were reported to Digital River.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentReported {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was written.
    pub status: &'static str,
    pub fulfillment_id: FulfillmentId,
    /// When the fulfillment was reported.
    pub reported_at: Option<DateTime<Utc>>,
    pub shipment_id: Option<String>,
    pub tracking_company: Option<String>,
    pub tracking_number: Option<String>,
    pub tracking_url: Option<String>,
    /// The lines, sorted by id, as many as fit into a message: about 10000.
    pub lines: Vec<ReportedLine>,
    /// Number of the fulfillment's lines.
    pub line_count: u64,
    /// The path of Riverlock's order API that returns all lines, if the fulfillment has more than `lines` contains; otherwise
    /// `null`.
    pub more_lines_at: Option<String>,
}

/// Quantities of one line in a fulfillment.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportedLine {
    /// Digital River's id of the line.
    pub line_id: LineId,
    /// Units shipped or delivered.
    pub fulfilled_quantity: i64,
    /// Units that will not be shipped.
    pub cancelled_quantity: i64,
}

/// A failed capture of an amount for shipped goods.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentCaptureFailed {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was written.
    pub status: &'static str,
    /// `capture`, or `reauthorization` if the authorization had expired and could not be renewed.
    pub operation: &'static str,
    /// Digital River's id of the charge; empty if unknown.
    pub charge_id: String,
    /// Digital River's id of the capture; empty if unknown.
    pub capture_id: String,
    /// Distinguishes the captures of a charge: the capture's id, or a substitute if it has none.
    #[serde(skip)]
    pub operation_key: String,
    /// The fulfillment whose capture failed, that is, the shipment to recall.
    pub fulfillment_id: Option<String>,
    /// The amount in `currency`, as a decimal number in a string.
    #[schemars(with = "Option<String>")]
    pub amount: Option<Decimal>,
    pub currency: Option<String>,
    /// Digital River's failure code. Not to be shown to customers.
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
    /// Its key in the archive.
    pub object_key: String,
    pub sha256: Sha256Hash,
    pub size_bytes: u64,
}

/// A shipment that was reported to Digital River.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipmentReported {
    pub order_id: OrderId,
    pub mode: Mode,
    /// Riverlock's id of the shipment.
    pub report_id: String,
    /// The key with which the shipment was stored.
    pub idempotency_key: String,
    /// Digital River's id of the fulfillment. `fulfillment.reported` has its lines.
    pub fulfillment_id: String,
}

/// A shipment that was rejected.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipmentRefused {
    pub order_id: OrderId,
    pub mode: Mode,
    /// Riverlock's id of the shipment; `null` if the shipment was not stored.
    pub report_id: Option<String>,
    /// The key with which the shipment was stored or was to be stored.
    pub idempotency_key: String,
    /// Who rejected it.
    pub refused_by: RefusedBy,
    /// The violated rule, or Digital River's error code. `order_cancelled` and `payment_authorization_failed` mean: do not
    /// ship.
    pub code: String,
    /// An explanation for people.
    pub detail: String,
    /// Distinguishes the rejections of one order: the report and its attempt, or the record's position.
    #[serde(skip)]
    pub refusal_key: String,
}

/// Who rejected a shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBy {
    /// Riverlock: the shipment contradicts the order's facts, and was not stored.
    Riverlock,
    /// Digital River: the shipment stays stored, and an operator decides about it.
    DigitalRiver,
}

/// A line of a message, with a bound on its size.
pub trait MessageLine {
    /// An upper bound of the line's size in JSON, in bytes, with the following comma.
    fn bytes_max(&self) -> usize;
}

impl MessageLine for RequestedLine {
    fn bytes_max(&self) -> usize {
        let sku = self.sku_id.as_ref().map_or(0, String::len);
        text_bytes_max(self.line_id.as_str().len()) + text_bytes_max(sku) + LINE_FRAME_BYTES
    }
}

impl MessageLine for ReportedLine {
    fn bytes_max(&self) -> usize {
        text_bytes_max(self.line_id.as_str().len()) + LINE_FRAME_BYTES
    }
}

/// Maximum size of a line's names, numbers and punctuation, in bytes. Numbers have up to 19 digits and a sign.
const LINE_FRAME_BYTES: usize = 192;

/// Maximum size of a text of `bytes` bytes in JSON. Quotes and backslashes take two bytes; control characters would take six,
/// but ids and texts from payloads contain none.
const fn text_bytes_max(bytes: usize) -> usize {
    2 * bytes + 2
}

/// The first lines, as many as fit into a message.
#[must_use]
pub fn fitting<T: MessageLine>(lines: impl Iterator<Item = T>) -> Vec<T> {
    let mut bytes = 0_usize;
    lines
        .take_while(|line| {
            bytes += line.bytes_max();
            bytes <= LINES_BYTES_MAX
        })
        .collect()
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
            Self::ShipmentReported(_) => "shipment.reported",
            Self::ShipmentRefused(_) => "shipment.refused",
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
            Self::ShipmentReported(message) => (&message.order_id, message.mode),
            Self::ShipmentRefused(message) => (&message.order_id, message.mode),
        }
    }

    /// Distinguishes several messages of one kind and order: the id of the document, the fulfillment, the payment operation or
    /// the shipment; empty for kinds that occur once per order.
    #[must_use]
    pub fn effect_key(&self) -> String {
        match self {
            Self::InvoiceStored(message) => message.file_id.to_string(),
            Self::FulfillmentReported(message) => message.fulfillment_id.to_string(),
            Self::ShipmentReported(message) => message.report_id.clone(),
            Self::ShipmentRefused(message) => message.refusal_key.clone(),
            // Digital River's ids may contain any character. Escaping keeps different keys different.
            Self::FulfillmentCaptureFailed(message) => {
                format!("{}:{}:{}", message.operation, escaped(&message.charge_id), escaped(&message.operation_key))
            }
            Self::FulfillmentRequested(_)
            | Self::FulfillmentHalted(_)
            | Self::FulfillmentCompleted(_)
            | Self::FulfillmentDisputed(_) => String::new(),
        }
    }

    /// Name of the message's effect among those of its order: the kind, and the effect key if there is one. No kind contains
    /// a colon.
    #[must_use]
    pub fn effect_name(&self) -> String {
        let (kind, key) = (self.kind(), self.effect_key());
        if key.is_empty() { kind.to_owned() } else { format!("{kind}:{key}") }
    }

    /// The message in its envelope, as JSON.
    #[must_use]
    pub fn to_json(&self, now: DateTime<Utc>) -> Vec<u8> {
        let (subject, mode) = self.order();
        let event = CloudEvent {
            specversion: SPEC_VERSION,
            id: format!("{mode}:{}:{}", escaped(subject.as_str()), self.effect_name()),
            source: SOURCE,
            r#type: self.kind(),
            subject,
            time: now,
            datacontenttype: DATA_CONTENT_TYPE,
            data: self,
        };
        serde_json::to_vec(&event).expect("a struct of strings and numbers can always be serialized")
    }
}

/// Escapes `:` and `%`. Nearly every id contains neither and is returned unchanged.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['%', ':']) { text.replace('%', "%25").replace(':', "%3A").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn capture_failed(order_id: &str, charge_id: &str, capture_id: &str) -> Message {
        Message::FulfillmentCaptureFailed(FulfillmentCaptureFailed {
            order_id: OrderId::parse(order_id).unwrap(),
            mode: Mode::Live,
            status: "ready",
            operation: "capture",
            charge_id: charge_id.to_owned(),
            capture_id: capture_id.to_owned(),
            operation_key: capture_id.to_owned(),
            fulfillment_id: None,
            amount: None,
            currency: None,
            failure_code: None,
            failed_at: DateTime::UNIX_EPOCH,
        })
    }

    fn halted(order_id: &str) -> Message {
        Message::FulfillmentHalted(FulfillmentEnded {
            order_id: OrderId::parse(order_id).unwrap(),
            mode: Mode::Live,
            status: "cancelled",
            ended_at: DateTime::UNIX_EPOCH,
        })
    }

    fn id(message: &Message) -> String {
        let event: serde_json::Value = serde_json::from_slice(&message.to_json(DateTime::UNIX_EPOCH)).unwrap();
        event["id"].as_str().unwrap().to_owned()
    }

    #[test]
    fn different_effects_have_different_keys_and_ids_for_any_order_ids() {
        let ids = ["", "a", "b", "a:b", "b:c", "a%3Ab", "a%", "%", ":", "::", "@e"];
        let mut keys = BTreeSet::new();
        for (charge, capture) in ids.iter().flat_map(|charge| ids.map(|capture| (*charge, capture))) {
            let message = capture_failed("o", charge, capture);
            assert!(keys.insert(message.effect_key()), "{charge:?} and {capture:?}");
        }
        assert_eq!(
            capture_failed("o", "610000000020", "8-1").effect_key(),
            "capture:610000000020:8-1",
            "usual ids are not escaped"
        );

        let mut seen = BTreeSet::new();
        for order_id in ["a", "a:fulfillment.capture_failed:capture:b:c", "a:b", "a%3Ab", "a:fulfillment.halted"] {
            for message in [
                halted(order_id),
                capture_failed(order_id, "b", "c"),
                capture_failed(order_id, "b:fulfillment.halted", ""),
            ] {
                assert!(seen.insert(id(&message)), "{message:?}");
            }
        }
    }

    #[test]
    fn the_longest_lines_stay_within_the_limit() {
        let line = |index: usize| RequestedLine {
            line_id: LineId::parse(format!("{index}{}", "\"".repeat(249))).unwrap(),
            sku_id: Some("\\".repeat(1_000)),
            quantity: Some(i64::MIN),
            fulfilled_quantity: i64::MIN,
            cancelled_quantity: i64::MIN,
            physical: Some(false),
        };
        let all = 1_000;
        let lines = fitting((0..all).map(line));
        let bytes = serde_json::to_vec(&lines).unwrap().len();
        assert!(lines.len() < all && bytes <= LINES_BYTES_MAX, "{} lines take {bytes} bytes", lines.len());
        assert!(bytes > LINES_BYTES_MAX * 9 / 10, "{bytes}");
        let usual = |index: usize| RequestedLine {
            sku_id: Some("sku-1".to_owned()),
            line_id: LineId::parse(format!("{index:012}")).unwrap(),
            ..line(0)
        };
        assert!(fitting((0..100_000).map(usual)).len() > 4_000);
    }

    #[test]
    fn a_message_is_a_cloud_event_with_a_stable_id() {
        let text = String::from_utf8(halted("204440790336").to_json(DateTime::UNIX_EPOCH)).unwrap();
        assert_eq!(
            text,
            r#"{"specversion":"1.0","id":"live:204440790336:fulfillment.halted","source":"riverlock","type":"fulfillment.halted","subject":"204440790336","time":"1970-01-01T00:00:00Z","datacontenttype":"application/json","data":{"orderId":"204440790336","mode":"live","status":"cancelled","endedAt":"1970-01-01T00:00:00Z"}}"#
        );
    }
}
