//! The envelope of an event: the only part that ingest reads, and the one parser that every service uses.
//!
//! A body is refused only when it is not an event at all: not JSON, no `id` or `type`, or one of the keys that decide what
//! the event is about given twice with different values. Everything else that is odd (no order id, an unknown type, an unknown
//! shape, text that is no Unicode) is an event, and gets its outcome from a consumer.

mod fields;
mod model;

use serde::de::DeserializeSeed as _;

use self::fields::{Fields, Top, contradiction};
pub(crate) use self::fields::{Head, Scalar};
pub(crate) use self::model::Payload;
pub use self::model::{Envelope, EnvelopeError};
use crate::{
    events::oddity::{Oddities, Oddity},
    text::json_text,
    wire::{Notes, repair::repair},
};

/// How much of the beginning of a body [`Envelope::peek`] reads, in bytes.
const PEEK_BYTES: usize = 64 << 10;

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

/// A body, read.
pub(crate) struct ParsedEvent<'a, P> {
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

/// Reads a body that has to be repaired first, or is no event.
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
