//! What other systems (warehouse, ERP, mail) get: CloudEvents 1.0 in the fulfillment topic, key = order id.
//!
//! Messages come at least once; `id` is the same every time. Messages of one order come in order.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{FileId, Mode, OrderId, file_event::Purpose, hash::Sha256Hash, order_event::ShipTo};

/// A CloudEvents 1.0 envelope in its JSON form.
#[derive(Clone, Debug, Serialize)]
pub struct CloudEvent<'a> {
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
    pub data: &'a Message,
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
    /// `invoice.stored`: a VAT invoice or credit memo is in the archive.
    InvoiceStored(InvoiceStored),
}

/// What a warehouse needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct FulfillmentRequested {
    pub order_id: OrderId,
    pub mode: Mode,
    /// The order's status when the message was made; an order that ended meanwhile says so here.
    pub status: &'static str,
    pub ship_to: Option<ShipTo>,
    pub lines: Vec<RequestedLine>,
}

/// One line to fulfil.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RequestedLine {
    pub line_id: crate::LineId,
    pub sku_id: Option<String>,
    pub quantity: Option<i64>,
    /// Whether it has to be shipped; `null` when Digital River does not say.
    pub physical: Option<bool>,
}

/// The end of an order's fulfillment.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// A stored document.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
            Self::InvoiceStored(_) => "invoice.stored",
        }
    }

    /// The order that the message is about, with its mode.
    #[must_use]
    pub fn order(&self) -> (&OrderId, Mode) {
        match self {
            Self::FulfillmentRequested(message) => (&message.order_id, message.mode),
            Self::FulfillmentHalted(message) | Self::FulfillmentCompleted(message) => (&message.order_id, message.mode),
            Self::InvoiceStored(message) => (&message.order_id, message.mode),
        }
    }

    /// What tells several messages of one kind and order apart: the file's id for documents, otherwise empty.
    #[must_use]
    pub fn effect_key(&self) -> String {
        match self {
            Self::InvoiceStored(message) => message.file_id.to_string(),
            _ => String::new(),
        }
    }

    /// The message in its envelope, as JSON.
    #[must_use]
    pub fn to_json(&self, now: DateTime<Utc>) -> Vec<u8> {
        let (subject, mode) = self.order();
        let (kind, key) = (self.kind(), self.effect_key());
        let separator = if key.is_empty() { "" } else { ":" };
        let event = CloudEvent {
            specversion: "1.0",
            id: format!("{mode}:{subject}:{kind}{separator}{key}"),
            source: "riverlock",
            r#type: kind,
            subject,
            time: now,
            datacontenttype: "application/json",
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
