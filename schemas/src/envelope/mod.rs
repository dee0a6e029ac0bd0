//! The envelope of an event: the only part that ingest reads, and the one parser that every service uses.
//!
//! A body is refused only when it is not an event at all: not JSON, no `id` or `type`, or one of the keys that decide what
//! the event is about given twice with different values. Everything else that is odd (no order id, an unknown type, an unknown
//! shape, text that is no Unicode) is an event, and gets its outcome from a consumer.

mod fields;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::{DeserializeSeed as _, MapAccess};

use self::fields::{Fields, Top, contradiction};
pub(crate) use self::fields::{Head, Scalar};
use crate::{
    Mode,
    events::oddity::{Oddities, Oddity},
    text::{bounded, json_text},
    wire::{Member, Notes, repair::repair},
};

/// How much of the beginning of a body [`Envelope::peek`] reads, in bytes.
const PEEK_BYTES: usize = 64 << 10;
/// How much of serde's message an [`EnvelopeError`] repeats, in characters. It may quote the body.
const ERROR_CHARS_MAX: usize = 200;

/// What every event carries, whatever its type.
///
/// Source: Digital River's event object: `id`, `type`, `data.object`, `liveMode`, `createdTime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Digital River's id of the event; not empty, otherwise as it came. A number is its digits.
    pub id: Cow<'a, str>,
    /// The event's type, for example `order.accepted`; not empty.
    pub event_type: Cow<'a, str>,
    /// When Digital River made the event; `None` when absent or unreadable.
    pub created_time: Option<DateTime<Utc>>,
    /// `liveMode` of the event, or else of its object; `None` when neither says.
    pub mode: Option<Mode>,
    /// `data.object.orderId`, or else `data.object.id`: what brings an order's events together; `None` when empty or absent.
    pub order_id: Option<Cow<'a, str>>,
}

/// Why a body is not an event. The texts are short and hold no control characters, whatever the body holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The body is not JSON, or not a JSON object; the text says where.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// A field that every event has is absent, empty, no string, or damaged.
    #[error("the event has no `{0}` that can be read")]
    Missing(&'static str),
    /// A key that decides what the event is about stands twice with different values, so that two readers could read two
    /// different events.
    #[error("the key `{0}` stands twice with different values")]
    DuplicateKey(&'static str),
}

impl EnvelopeError {
    /// The parameter that Digital River's error shape names, where there is one.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        match self {
            Self::NotJson(_) => None,
            Self::Missing(name) | Self::DuplicateKey(name) => Some(name),
        }
    }

    fn not_json(error: &serde_json::Error) -> Self {
        Self::NotJson(bounded(error.to_string().into(), ERROR_CHARS_MAX).into_owned())
    }
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of a body. Does not allocate for a usual event, and never recurses.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        Ok(read::<()>(body, None)?.envelope)
    }

    /// As [`Self::parse`], and says what is odd about the envelope.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn parse_noting(body: &'a [u8]) -> Result<(Self, Oddities), EnvelopeError> {
        let read = read::<()>(body, None)?;
        Ok((read.envelope, read.notes.oddities()))
    }

    /// What the beginning of a body says, for bodies that are too large to be read whole. Keys that come later, duplicates
    /// among them, are not seen. `None` when `id` and `type` do not stand in the first 64 KiB.
    #[must_use]
    pub fn peek(body: &'a [u8]) -> Option<Self> {
        let beginning = body.get(..PEEK_BYTES).unwrap_or(body);
        let beginning = match std::str::from_utf8(beginning) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&beginning[..error.valid_up_to()]).ok()?,
        };
        let beginning = beginning.strip_prefix('\u{feff}').unwrap_or(beginning);
        let (mut fields, notes) = (Fields::<()>::default(), Notes::default());
        let mut json = serde_json::Deserializer::from_str(beginning);
        // It ends with an error, because the text is cut; what was read before is kept.
        drop(Top::new(&mut fields, None, &notes).deserialize(&mut json));
        fields.into_envelope(&notes).ok().map(|(envelope, ..)| envelope)
    }
}

/// What is wanted of an event's object besides the envelope's own fields.
pub(crate) trait Payload: Sized {
    /// Nothing of it is read yet. `event_type` is empty where the object stands before the type.
    fn of_type(event_type: &str) -> Self;

    /// Takes the value of a key, or ignores it.
    ///
    /// # Errors
    /// When the text is no JSON, or has to be repaired before it can be read.
    fn member<'de, A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error>;
}

/// The envelope is enough.
impl Payload for () {
    fn of_type(_: &str) -> Self {}

    fn member<'de, A: MapAccess<'de>>(&mut self, _: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        value.ignore()
    }
}

/// A body, read.
pub(crate) struct Read<'a, P> {
    pub(crate) envelope: Envelope<'a>,
    /// What the envelope and the payload both need of the object.
    pub(crate) head: Head<'a>,
    /// What was read of the object; `None` where there is none.
    pub(crate) payload: Option<P>,
    pub(crate) notes: Notes,
}

/// Reads a body: its envelope, and of its object what `P` wants. `event_type` is given where it is known already.
///
/// # Errors
/// When the body is not an event at all.
pub(crate) fn read<'a, P: Payload>(body: &'a [u8], event_type: Option<&str>) -> Result<Read<'a, P>, EnvelopeError> {
    let (mut fields, notes) = (Fields::<P>::default(), Notes::default());
    let usual = json_text(body).is_ok_and(|text| {
        let mut json = serde_json::Deserializer::from_str(text);
        Top::new(&mut fields, event_type, &notes).deserialize(&mut json).is_ok() && json.end().is_ok()
    });
    if usual { finish(fields, notes) } else { read_repaired(body, event_type) }
}

/// Reads a body that has to be repaired first, or is no event.
fn read_repaired<'a, P: Payload>(body: &[u8], event_type: Option<&str>) -> Result<Read<'a, P>, EnvelopeError> {
    let repaired = repair(body);
    if let Some(key) = contradiction(&repaired.text).map_err(|error| EnvelopeError::not_json(&error))? {
        return Err(EnvelopeError::DuplicateKey(key));
    }
    let (mut fields, notes) = (Fields::<P>::default(), Notes::default());
    if repaired.is_damaged {
        notes.add(Oddity::Encoding);
    }
    let mut json = serde_json::Deserializer::from_str(&repaired.text);
    Top::of_repaired(&mut fields, event_type, &notes)
        .deserialize(&mut json)
        .map_err(|error| EnvelopeError::not_json(&error))?;
    json.end().map_err(|error| EnvelopeError::not_json(&error))?;
    finish(fields.into_owned(), notes)
}

fn finish<P>(fields: Fields<'_, P>, notes: Notes) -> Result<Read<'_, P>, EnvelopeError> {
    let (envelope, head, payload) = fields.into_envelope(&notes)?;
    Ok(Read { envelope, head, payload, notes })
}

#[cfg(test)]
mod tests;
