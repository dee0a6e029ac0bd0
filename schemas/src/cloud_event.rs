//! What other systems (warehouse, ERP, mail) get: CloudEvents 1.0 in the fulfillment topic, key = order id.
//!
//! Messages come at least once; `id` is the same every time. Messages about one order come in order; `invoice.stored` comes
//! whenever a document is stored, before or after them.

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
/// Most bytes that the lines of one message take. The rest of a message is far smaller than the other half of what a topic
/// takes (2 MiB with headers), so every message can be published.
pub const LINES_BYTES_MAX: usize = 1 << 20;
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
    /// The order's lines by their ids, as many as fit into a message: about 5000.
    pub lines: Vec<RequestedLine>,
    /// How many lines the order has.
    pub line_count: u64,
    /// Where all lines are when more than those in `lines` are to be fulfilled: a path of Riverlock's order API. `null` when
    /// `lines` holds all of them.
    pub more_lines_at: Option<String>,
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
    /// The lines by their ids, as many as fit into a message: about 10000.
    pub lines: Vec<ReportedLine>,
    /// How many lines the fulfillment reports.
    pub line_count: u64,
    /// Where all lines are when the fulfillment reports more than those in `lines`: a path of Riverlock's order API. `null`
    /// when `lines` holds all of them.
    pub more_lines_at: Option<String>,
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
    /// What tells this capture from others of the charge: its id, or what stands for it where it has none.
    #[serde(skip)]
    pub operation_key: String,
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

/// A line of a message.
pub trait MessageLine {
    /// At most so many bytes it takes in JSON, with the comma after it.
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

/// What names, numbers and punctuation of a line take at most: `quantity` and the other numbers have up to 19 digits.
const LINE_FRAME_BYTES: usize = 192;

/// What a text of so many bytes takes in JSON at most. Quotes and backslashes take two bytes; control characters would take
/// six, but no id and no text from a payload holds one.
const fn text_bytes_max(bytes: usize) -> usize {
    2 * bytes + 2
}

/// As many lines from the beginning as fit into a message.
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
            // The parts are Digital River's ids, which may hold anything: escaped, no two different pairs look alike.
            Self::FulfillmentCaptureFailed(message) => {
                format!("{}:{}:{}", message.operation, escaped(&message.charge_id), escaped(&message.operation_key))
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
            id: format!("{mode}:{}:{kind}{separator}{key}", escaped(subject.as_str())),
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

/// A text without `:`. Nearly every id is one already and stays as it is.
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
    fn different_effects_have_different_keys_and_ids_whatever_the_ids_hold() {
        let ids = ["", "a", "b", "a:b", "b:c", "a%3Ab", "a%", "%", ":", "::", "@e"];
        let mut keys = BTreeSet::new();
        for (charge, capture) in ids.iter().flat_map(|charge| ids.map(|capture| (*charge, capture))) {
            let message = capture_failed("o", charge, capture);
            assert!(keys.insert(message.effect_key()), "{charge:?} and {capture:?}");
        }
        assert_eq!(
            capture_failed("o", "610000000020", "8-1").effect_key(),
            "capture:610000000020:8-1",
            "as it ever was"
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
    fn the_longest_lines_that_fit_take_no_more_than_they_may() {
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
