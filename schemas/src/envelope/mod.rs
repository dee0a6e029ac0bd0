//! The envelope of an event: the only part that ingest reads, and the one parser that every service uses.
//!
//! A body is rejected only if it is not an event at all: not JSON, no `id` or `type`, or a key that determines what the event
//! is about repeated with different values. Every other unusual body (no order id, an unknown type, an unknown shape, invalid
//! Unicode) is an event, and a consumer decides about its outcome.

mod fields;
mod model;

use serde::de::DeserializeSeed as _;

use self::fields::{Fields, Top, contradiction};
pub(crate) use self::fields::{Head, Scalar};
pub(crate) use self::model::Payload;
pub use self::model::{Envelope, EnvelopeError};
use crate::{
    oddity::{Oddities, Oddity},
    text::json_text,
    wire::{Notes, repair::repair},
};

/// The number of bytes of a body that [`Envelope::peek`] reads.
const PEEK_BYTES: usize = 64 << 10;

impl<'a> Envelope<'a> {
    /// Parses the envelope of a body. Does not allocate for a usual event, and never recurses.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        Ok(read::<()>(body, None)?.envelope)
    }

    /// Like [`Self::parse`], and returns the oddities of the envelope.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn parse_noting(body: &'a [u8]) -> Result<(Self, Oddities), EnvelopeError> {
        let read = read::<()>(body, None)?;
        Ok((read.envelope, read.notes.oddities()))
    }

    /// Reads the envelope from the beginning of a body that is too large to be parsed completely. Later keys, including
    /// repeated ones, are not read. `None` if `id` and `type` are not in the first 64 KiB.
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
        // Fails because the text is truncated, but keeps the fields that were read before.
        drop(Top::new(&mut fields, None, &notes).deserialize(&mut json));
        fields.into_envelope(&notes).ok().map(|(envelope, ..)| envelope)
    }
}

/// A parsed body.
pub(crate) struct ParsedEvent<'a, P> {
    pub(crate) envelope: Envelope<'a>,
    /// Fields of the object that both the envelope and the payload need.
    pub(crate) head: Head<'a>,
    /// The payload read from the object; `None` if there is no object.
    pub(crate) payload: Option<P>,
    pub(crate) notes: Notes,
}

/// Parses the envelope of a body and the payload `P` of its object. `event_type` is passed if it is already known.
///
/// # Errors
/// When the body is not an event at all.
pub(crate) fn read<'a, P: Payload>(
    body: &'a [u8],
    event_type: Option<&str>,
) -> Result<ParsedEvent<'a, P>, EnvelopeError> {
    let (mut fields, notes) = (Fields::<P>::default(), Notes::default());
    let usual = json_text(body).is_ok_and(|text| {
        let mut json = serde_json::Deserializer::from_str(text);
        Top::new(&mut fields, event_type, &notes).deserialize(&mut json).is_ok() && json.end().is_ok()
    });
    if usual { finish(fields, notes) } else { read_repaired(body, event_type) }
}

/// Parses a body after repairing it, or finds that it is not an event.
fn read_repaired<'a, P: Payload>(body: &[u8], event_type: Option<&str>) -> Result<ParsedEvent<'a, P>, EnvelopeError> {
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

fn finish<P>(fields: Fields<'_, P>, notes: Notes) -> Result<ParsedEvent<'_, P>, EnvelopeError> {
    let (envelope, head, payload) = fields.into_envelope(&notes)?;
    Ok(ParsedEvent { envelope, head, payload, notes })
}

#[cfg(test)]
mod tests;
