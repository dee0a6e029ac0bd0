//! The envelope of an event, and the errors of bodies without one.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::MapAccess;

use crate::{Mode, text::bounded, wire::Member};

/// Maximum length of serde's message in an [`EnvelopeError`], in characters. It may quote the body.
const ERROR_CHARS_MAX: usize = 200;

/// The fields that every event has, whatever its type.
///
/// Source: Digital River's event object: `id`, `type`, `data.object`, `liveMode`, `createdTime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Digital River's id of the event: not empty, otherwise unchanged. A number is converted to its digits.
    pub id: Cow<'a, str>,
    /// The event's type, for example `order.accepted`; not empty.
    pub event_type: Cow<'a, str>,
    /// When Digital River created the event; `None` if absent or invalid.
    pub created_time: Option<DateTime<Utc>>,
    /// `liveMode` of the event, or else of its object; `None` if neither has it.
    pub mode: Option<Mode>,
    /// `data.object.orderId`, or else `data.object.id`: the key of the record, so that an order's events are in one partition;
    /// `None` if empty or absent.
    pub order_id: Option<Cow<'a, str>>,
}

/// The reason why a body is not an event. The messages are short and contain no control characters, whatever the body contains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The body is not JSON, or not a JSON object; the text contains the position.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// A required field is absent, empty, not a string, or damaged.
    #[error("the event has no valid `{0}`")]
    Missing(&'static str),
    /// A key that determines what the event is about is repeated with different values, so two readers could read two different
    /// events.
    #[error("the key `{0}` is repeated with different values")]
    DuplicateKey(&'static str),
}

impl EnvelopeError {
    /// The field for `parameter` in Digital River's error format, if there is one.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        match self {
            Self::NotJson(_) => None,
            Self::Missing(name) | Self::DuplicateKey(name) => Some(name),
        }
    }

    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        Self::NotJson(bounded(error.to_string().into(), ERROR_CHARS_MAX).into_owned())
    }
}

/// The payload that is read from an event's object in addition to the envelope's fields.
pub(crate) trait Payload: Sized {
    /// Creates an empty payload. `event_type` is empty if the object precedes the type.
    fn of_type(event_type: &str) -> Self;

    /// Reads or ignores the value of a key.
    ///
    /// # Errors
    /// When the text is not JSON, or must be repaired before it can be read.
    fn member<'de, A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error>;
}

/// Reads the envelope only.
impl Payload for () {
    fn of_type(_: &str) -> Self {}

    fn member<'de, A: MapAccess<'de>>(&mut self, _: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        value.ignore()
    }
}
