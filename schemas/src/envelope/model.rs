//! An event's envelope, and why a body has none.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::MapAccess;

use crate::{Mode, text::bounded, wire::Member};

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

    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        Self::NotJson(bounded(error.to_string().into(), ERROR_CHARS_MAX).into_owned())
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
