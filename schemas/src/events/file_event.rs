//! Events whose object is a file: `order.invoice.created` and `order.credit_memo.created`.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::MapAccess};

use crate::{
    Envelope, EnvelopeError, EventId, FileId, Mode, OrderId,
    envelope::{self, Head},
    events::{
        event_type,
        payload::{self, PayloadError},
    },
    oddity::Oddities,
    wire::{
        Member, Notes,
        scalar::{Id, Text, text},
    },
};

/// The kind of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Purpose {
    /// `order.invoice.created`
    Invoice,
    /// `order.credit_memo.created`
    CreditMemo,
}

impl Purpose {
    /// `invoice` or `credit_memo`, the name in the database, in metric labels and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::CreditMemo => "credit_memo",
        }
    }

    /// The purpose with this name, as [`Self::as_str`] returns it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Invoice, Self::CreditMemo].into_iter().find(|purpose| purpose.as_str() == name)
    }

    /// Digital River's `purpose` of the file.
    ///
    /// Source: Digital River's `order.invoice.created` and `order.credit_memo.created` payloads.
    #[must_use]
    pub fn digital_river_name(self) -> &'static str {
        match self {
            Self::Invoice => "customer_invoice",
            Self::CreditMemo => "customer_credit_memo",
        }
    }

    /// The purpose that a type of event announces.
    #[must_use]
    pub fn of_event_type(event_type: &str) -> Option<Self> {
        match event_type {
            event_type::ORDER_INVOICE_CREATED => Some(Self::Invoice),
            event_type::ORDER_CREDIT_MEMO_CREATED => Some(Self::CreditMemo),
            _ => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A validated event that announces a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEvent {
    /// The event's id.
    pub event_id: EventId,
    /// When Digital River created the event.
    pub created_time: Option<DateTime<Utc>>,
    /// The order that the file belongs to.
    pub order_id: OrderId,
    /// Test or live.
    pub mode: Mode,
    /// The file's id. The download URL is built only from this id and the configuration.
    pub file_id: FileId,
    /// Invoice or credit memo, by the event's type.
    pub purpose: Purpose,
    /// The URL in the event. It is compared, but never requested, because an event must not decide to which server a key is
    /// sent.
    pub announced_url: Option<String>,
}

/// The fields of Digital River's file object that are read, as documented.
#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct WireFile {
    // Read with the envelope; declared here for the JSON Schema.
    id: Option<Id>,
    file_id: Option<Id>,
    #[schemars(rename = "invoiceURL")]
    invoice_url: Option<Text>,
}

impl envelope::Payload for WireFile {
    fn of_type(_: &str) -> Self {
        Self::default()
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "fileId" => value.value(&mut self.file_id),
            "invoiceURL" => value.value(&mut self.invoice_url),
            _ => value.ignore(),
        }
    }
}

/// The object of an event about a file, parsed together with the envelope in one pass over the body.
#[derive(Debug)]
pub struct FileObject<'a> {
    head: Head<'a>,
    file: WireFile,
    notes: Notes,
}

impl<'a> FileObject<'a> {
    /// Reads the envelope of a body and its object.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn read(body: &'a [u8]) -> Result<(Envelope<'a>, Self), EnvelopeError> {
        let read = envelope::read::<WireFile>(body, None)?;
        let file = read.payload.unwrap_or_default();
        Ok((read.envelope, Self { head: read.head, file, notes: read.notes }))
    }

    /// The oddities of the body.
    #[must_use]
    pub fn oddities(&self) -> Oddities {
        self.notes.oddities()
    }

    /// Converts the object to an event; `purpose` is that of the event's type.
    ///
    /// # Errors
    /// As for [`FileEvent::parse`].
    pub fn into_event(self, envelope: &Envelope<'_>, purpose: Purpose) -> Result<FileEvent, PayloadError> {
        let Self { head, file, notes } = self;
        let event_id = EventId::parse(envelope.id.as_ref()).map_err(PayloadError::EventId)?;
        let (order_id, mode) = payload::order_key(envelope, &notes)?;
        if let Some(fault) = notes.take_fault() {
            return Err(PayloadError::Shape(fault));
        }
        let file_id = file.file_id.map(|Id(id)| id).filter(|id| !id.trim().is_empty());
        let file_id = file_id.unwrap_or_else(|| head.id.as_text().to_owned());
        Ok(FileEvent {
            event_id,
            created_time: envelope.created_time,
            order_id,
            mode,
            file_id: FileId::parse(&file_id).map_err(PayloadError::FileId)?,
            purpose,
            announced_url: text(file.invoice_url),
        })
    }
}

impl FileEvent {
    /// Reads the payload of an event whose envelope is already read; `purpose` is that of the event's type.
    ///
    /// # Errors
    /// When the event cannot be queued: missing or invalid ids, or no mode.
    pub fn parse(envelope: &Envelope<'_>, purpose: Purpose, body: &[u8]) -> Result<Self, PayloadError> {
        let (_, object) = FileObject::read(body).map_err(|error| PayloadError::Shape(error.to_string()))?;
        object.into_event(envelope, purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oddity::Oddity;

    fn parse(object: &str) -> Result<FileEvent, PayloadError> {
        let body =
            format!(r#"{{"id":"e","type":"order.invoice.created","liveMode":true,"data":{{"object":{object}}}}}"#);
        FileEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), Purpose::Invoice, body.as_bytes())
    }

    #[test]
    fn the_file_id_is_read_from_file_id_or_else_from_id() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        let event =
            parse(&format!(r#"{{"id":"x","fileId":"{id}","orderId":"o","invoiceURL":"https://evil.example/"}}"#))
                .unwrap();
        assert_eq!((event.file_id.to_string().as_str(), event.order_id.as_str()), (id, "o"));
        assert_eq!(parse(&format!(r#"{{"id":"{id}","orderId":"o"}}"#)).unwrap().file_id.to_string(), id);
    }

    #[test]
    fn every_spelling_of_a_file_id_is_read() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        for object in [
            format!(r#"{{"id":"file_{id}","fileId":"file_{id}","orderId":"o"}}"#),
            format!(r#"{{"fileId":"{}","orderId":"o"}}"#, id.to_uppercase()),
            format!(r#"{{"fileId":"{}","orderId":"o"}}"#, id.replace('-', "")),
            format!(r#"{{"fileId":" {id} ","orderId":"o"}}"#),
            format!(r#"{{"id":"{id}","fileId":null,"orderId":"o"}}"#),
            format!(r#"{{"id":"{id}","fileId":"","orderId":"o"}}"#),
            format!(r#"{{"id":"{id}","fileId":{{}},"orderId":"o"}}"#),
            format!(r#"{{"id":"{id}","fileId":"{id}","fileId":"{id}","orderId":"o","invoiceURL":7}}"#),
        ] {
            assert_eq!(parse(&object).unwrap().file_id.to_string(), id, "{object}");
        }
        let number = parse(&format!(r#"{{"fileId":"{id}","orderId":48304242}}"#)).unwrap();
        assert_eq!(number.order_id.as_str(), "48304242");
    }

    #[test]
    fn oddities_of_the_object_are_noted() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        for (object, oddities) in [
            (format!(r#"{{"id":"{id}","fileId":"{id}","orderId":"o","invoiceURL":"https://x"}}"#), &[][..]),
            (format!(r#"{{"fileId":"{id}","orderId":"o","invoiceURL":7}}"#), &[Oddity::Kind]),
            (format!(r#"{{"fileId":{{}},"id":"{id}","orderId":"o"}}"#), &[Oddity::Kind]),
            (format!(r#"{{"fileId":"{id}","fileId":"{id}","orderId":"o"}}"#), &[Oddity::RepeatedKey]),
            (
                format!(r#"{{"fileId":"{id}","orderId":"o","invoiceURL":"a","invoiceURL":"b"}}"#),
                &[Oddity::ContradictingKey],
            ),
            (format!(r#"{{"fileId":"{id}","orderId":"o","invoiceURL":"\ud83d"}}"#), &[Oddity::Encoding]),
        ] {
            let body = format!(r#"{{"id":"e","type":"order.invoice.created","data":{{"object":{object}}}}}"#);
            let (_, read) = FileObject::read(body.as_bytes()).unwrap();
            assert!(read.oddities().iter().eq(oddities.iter().copied()), "{object}: {:?}", read.oddities());
        }
    }

    #[test]
    fn invalid_file_ids_are_rejected() {
        for id in ["", "../x", "6e5bf525-3907-40c5-86a9-f14ce4f33f35/../..", "0", "fbe7-0b79-4302-a40b-fec2", "file_"] {
            assert_eq!(parse(&format!(r#"{{"fileId":"{id}","orderId":"o"}}"#)).unwrap_err().code(), "file_id", "{id}");
        }
    }
}
