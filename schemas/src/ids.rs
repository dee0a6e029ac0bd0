//! Typed ids, validated where they enter the system.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    hash::{HASHED, hashed},
    text::has_control,
};

/// Longest id that is accepted as a key, in bytes of UTF-8.
///
/// Digital River documents no maximum; its ids have 12 to 36 characters. PostgreSQL's index rows are limited to about 2 700
/// bytes, so ids need a limit. An event with a longer id becomes a dead letter.
pub const ID_BYTES_MAX: usize = 255;

/// The reason why a text is not a valid id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty or white space.
    #[error("is empty")]
    Empty,
    /// The text is longer than [`ID_BYTES_MAX`].
    #[error("has {0} bytes, more than {ID_BYTES_MAX}")]
    TooLong(usize),
    /// The text contains a control character. PostgreSQL cannot store NUL, and the others are unreadable.
    #[error("contains a control character")]
    ControlCharacter,
    /// The text is not a UUID (file ids only).
    #[error("is not a UUID")]
    NotUuid,
    /// A part of the id could not be decoded and was replaced, so the original may be another id.
    #[error("is damaged: it contains bytes or escapes that are not characters")]
    Damaged,
}

fn check(text: &str) -> Result<(), IdError> {
    if text.trim().is_empty() {
        Err(IdError::Empty)
    } else if text.len() > ID_BYTES_MAX {
        Err(IdError::TooLong(text.len()))
    } else if has_control(text) {
        Err(IdError::ControlCharacter)
    } else {
        Ok(())
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Validates the text.
            ///
            /// # Errors
            /// When the text is empty, longer than [`ID_BYTES_MAX`] or contains a control character.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// Validates a borrowed text.
            ///
            /// # Errors
            /// As for [`Self::parse`].
            pub fn check(text: &str) -> Result<(), IdError> {
                check(text)
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX })
            }
        }
    };
}

text_id! {
    /// Digital River's id of an event, unique per event and the same in every delivery.
    EventId
}
text_id! {
    /// Digital River's id of an order.
    OrderId
}
text_id! {
    /// Digital River's id of one line (item) of an order.
    LineId
}
text_id! {
    /// Digital River's id of a fulfillment.
    FulfillmentId
}

/// First character of the key of an object without an id; see [`event_key`].
const OF_EVENT: char = '@';

/// An id that is only compared: the id itself, its SHA-256 if it is not a valid key or could be confused with another kind of
/// key, or empty if there is none.
pub(crate) fn key_text(id: Option<&str>) -> String {
    match id {
        None => String::new(),
        Some(id) if id.trim().is_empty() => String::new(),
        Some(id) if check(id).is_ok() && !id.starts_with(OF_EVENT) && !id.starts_with(HASHED) => id.to_owned(),
        Some(id) => hashed(id),
    }
}

/// The key of an object without an id that this event announced.
pub(crate) fn event_key(event_id: &EventId) -> String {
    format!("{OF_EVENT}{event_id}")
}

/// Whether a key was made by [`event_key`].
pub(crate) fn is_event_key(key: &str) -> bool {
    key.starts_with(OF_EVENT)
}

/// Optional prefix of Digital River's file ids. Its documentation shows ids with and without it, and announces that prefixes
/// can be added and removed without a new API version.
const FILE_PREFIX: &str = "file_";

/// Digital River's id of a file, such as an invoice. Always a UUID, so it is safe in a path or an object key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FileId(Uuid);

impl JsonSchema for FileId {
    fn schema_name() -> Cow<'static, str> {
        "FileId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uuid" })
    }
}

impl FileId {
    /// Parses a UUID with or without hyphens, in lower or upper case, with or without the prefix `file_` and surrounding white
    /// space.
    ///
    /// # Errors
    /// When the text is not a UUID.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let uuid = text.strip_prefix(FILE_PREFIX).unwrap_or(text);
        // Braces and URNs are not accepted, because Digital River uses neither.
        if uuid.len() != uuid::fmt::Hyphenated::LENGTH && uuid.len() != uuid::fmt::Simple::LENGTH {
            return Err(IdError::NotUuid);
        }
        Uuid::try_parse(uuid).map(Self).map_err(|_| IdError::NotUuid)
    }

    /// The id with the prefix `file_`, as in some of Digital River's documentation.
    #[must_use]
    pub fn prefixed(&self) -> String {
        format!("{FILE_PREFIX}{self}")
    }

    /// The id as a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for FileId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Test or live data: Digital River's `liveMode`. Orders of different modes are different orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Mode {
    /// `liveMode: false`
    Test,
    /// `liveMode: true`
    Live,
}

impl Mode {
    /// The mode of a `liveMode` value.
    #[must_use]
    pub fn from_live(live: bool) -> Self {
        if live { Self::Live } else { Self::Test }
    }

    /// Whether this is [`Mode::Live`].
    #[must_use]
    pub fn is_live(self) -> bool {
        self == Self::Live
    }

    /// `live` or `test`, the name in configuration, metric labels and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_special_characters_are_valid() {
        for text in ["204440790336", "a/b+c=", "ордер", "x y", &"9".repeat(ID_BYTES_MAX)] {
            assert_eq!(OrderId::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn ids_that_cannot_be_indexed_are_rejected_with_a_reason() {
        assert_eq!(EventId::parse(""), Err(IdError::Empty));
        assert_eq!(OrderId::parse(" \t"), Err(IdError::Empty), "orders without an id must not be merged into one");
        assert_eq!(EventId::parse("a\0b"), Err(IdError::ControlCharacter));
        assert_eq!(EventId::parse("x".repeat(10_000)), Err(IdError::TooLong(10_000)));
    }

    #[test]
    fn file_ids_are_uuids_in_any_usual_format() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        for text in [
            id,
            "6E5BF525-3907-40C5-86A9-F14CE4F33F35",
            "6e5bf525390740c586a9f14ce4f33f35",
            "file_6e5bf525-3907-40c5-86a9-f14ce4f33f35",
            "file_6e5bf525390740c586a9f14ce4f33f35",
            " 6e5bf525-3907-40c5-86a9-f14ce4f33f35\n",
        ] {
            assert_eq!(FileId::parse(text).unwrap().to_string(), id, "{text}");
        }
        for text in [
            "",
            " ",
            "file_",
            "..",
            "../../etc/passwd",
            "fbe7-0b79-4302-a40b-fec2",
            "{6e5bf525-3907-40c5-86a9-f14ce4f33f35}",
            "6e5bf525-3907-40c5-86a9-f14ce4f33f3/",
            "file_file_6e5bf525390740c586a9f14ce4f33f35",
        ] {
            assert!(FileId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_of_different_objects_differ() {
        assert_eq!((key_text(None), key_text(Some(" "))), (String::new(), String::new()));
        assert_eq!(key_text(Some("a:b")), "a:b");
        let event = EventId::parse("e").unwrap();
        assert!(is_event_key(&event_key(&event)));
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for id in ["@e", &key_text(Some(&long)), "a\nb", &long] {
            let key = key_text(Some(id));
            assert!(key.starts_with(HASHED) && key != id && !is_event_key(&key), "{id}: {key}");
        }
    }
}
