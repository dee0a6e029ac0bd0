//! Rows of `events`.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use riverlock_schemas::{Mode, events::content::Content, hash::Sha256Hash};
use uuid::Uuid;

/// Outcome of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The event was applied.
    Applied,
    /// Its event already had an outcome, and its content does not contradict it.
    Duplicate,
    /// Not handled by the consumer.
    Ignored,
    /// Its event already had an outcome, and its content contradicts it.
    Conflict,
    /// It could not be applied.
    Dead,
}

impl Outcome {
    /// The name used in the database, in labels and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Conflict => "conflict",
            Self::Dead => "dead",
        }
    }

    /// The code in the database, an ASCII letter.
    #[must_use]
    pub fn code(self) -> i8 {
        code(match self {
            Self::Applied => b'a',
            Self::Duplicate => b'd',
            Self::Ignored => b'i',
            Self::Conflict => b'c',
            Self::Dead => b'x',
        })
    }

    /// The outcome with this code. A CHECK constraint excludes other codes.
    #[must_use]
    pub fn of_code(code: i8) -> Option<Self> {
        [Self::Applied, Self::Duplicate, Self::Ignored, Self::Conflict, Self::Dead]
            .into_iter()
            .find(|outcome| outcome.code() == code)
    }
}

/// PostgreSQL's type `"char"` is a signed byte.
fn code(letter: u8) -> i8 {
    i8::from_ne_bytes([letter])
}

/// A row of `events`. Texts are borrowed from the record where possible.
#[derive(Clone, Debug)]
pub struct EventRow<'a> {
    /// The topic's number.
    pub topic_id: i16,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The event's id, or its substitute.
    pub event_id: Cow<'a, str>,
    /// The key of the event id; see [`super::event_key`].
    pub event_key: Uuid,
    /// The event's type.
    pub event_type: Cow<'a, str>,
    /// `liveMode`.
    pub live_mode: Option<bool>,
    /// The event's order.
    pub order_id: Option<Cow<'a, str>>,
    /// When Digital River created the event.
    pub created_at: Option<DateTime<Utc>>,
    /// When Kafka stored the record.
    pub received_at: DateTime<Utc>,
    /// Hash of the body.
    pub body_sha256: Sha256Hash,
    /// Content digest, for comparison with other bodies of the event; `None` if the record is not an event, and if
    /// another record has the same bytes.
    pub content: Option<Content>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it was ignored or is dead.
    pub reason: Option<&'static str>,
}

impl EventRow<'_> {
    /// The content digest of the other columns.
    #[must_use]
    pub fn known_content(&self) -> Content {
        Content::of_parts(&self.event_type, self.live_mode.map(Mode::from_live), self.order_id.as_deref())
    }

    /// The content digest as it is stored.
    #[must_use]
    pub fn packed_content(&self) -> Option<Vec<u8>> {
        self.content.map(|content| content.pack(&self.known_content()))
    }

    /// The code of the mode in the database.
    #[must_use]
    pub fn mode_code(&self) -> i8 {
        code(match self.live_mode {
            Some(true) => b'l',
            Some(false) => b't',
            None => b'-',
        })
    }
}

/// The first record of an event, which decided its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRecord {
    /// Topic number, partition, offset.
    pub position: (i16, i32, i64),
    /// Hash of the body.
    pub body_sha256: Vec<u8>,
}
