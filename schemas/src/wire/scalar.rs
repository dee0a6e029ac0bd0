//! Strings, ids and booleans.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;

use super::{Any, Kinds, Notes, Wire};
use crate::{oddity::Oddity, text::bounded};

/// Maximum length of a free text from a payload, in characters; the complete text stays in the raw record.
pub const TEXT_CHARS_MAX: usize = 1_000;

/// Converts values to strings. Numbers that are not integers are already strings: see [`super::Any`].
pub(crate) struct TextKinds<'n>(pub(crate) &'n Notes);

impl<'de> Kinds<'de> for TextKinds<'_> {
    type Value = Option<Cow<'de, str>>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        Some(text)
    }

    fn integer(self, number: i128) -> Self::Value {
        self.0.add(Oddity::Kind);
        Some(number.to_string().into())
    }

    fn boolean(self, value: bool) -> Self::Value {
        self.0.add(Oddity::Kind);
        Some(if value { "true" } else { "false" }.into())
    }
}

/// A free text on which no decision depends: control characters are replaced, the length is limited. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl Text {
    pub(crate) fn new(text: Cow<'_, str>) -> Option<Self> {
        (!text.is_empty()).then(|| Self(bounded(text, TEXT_CHARS_MAX).into_owned()))
    }
}

impl<'de> Wire<'de> for Text {
    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        Ok(value.deserialize_any(Any(TextKinds(notes)))?.and_then(Self::new))
    }
}

/// The content of a free text.
pub(crate) fn text(value: Option<Text>) -> Option<String> {
    value.map(|text| text.0)
}

/// The name of a state. Effects depend on it, so two different values are an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateName(pub(crate) String);

impl<'de> Wire<'de> for StateName {
    const IS_STRICT: bool = true;

    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        Ok(Text::read(value, notes)?.map(|Text(name)| Self(name)))
    }
}

/// An unvalidated id. An integer is converted to its digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) String);

struct IdKinds<'n>(&'n Notes);

impl<'de> Kinds<'de> for IdKinds<'_> {
    type Value = Option<Id>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        Some(Id(text.into_owned()))
    }

    fn integer(self, number: i128) -> Self::Value {
        self.0.add(Oddity::Kind);
        Some(Id(number.to_string()))
    }
}

impl<'de> Wire<'de> for Id {
    const IS_STRICT: bool = true;

    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        value.deserialize_any(Any(IdKinds(notes)))
    }
}

/// A boolean, also as an unambiguous string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

impl Flag {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        if is("true") || is("1") {
            Some(Self(true))
        } else if is("false") || is("0") {
            Some(Self(false))
        } else {
            None
        }
    }
}

struct FlagKinds<'n>(&'n Notes);

impl<'de> Kinds<'de> for FlagKinds<'_> {
    type Value = Option<Flag>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn boolean(self, value: bool) -> Self::Value {
        Some(Flag(value))
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        self.0.add(Oddity::Kind);
        Flag::parse(&text)
    }

    fn integer(self, number: i128) -> Self::Value {
        self.text(number.to_string().into())
    }
}

impl<'de> Wire<'de> for Flag {
    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        value.deserialize_any(Any(FlagKinds(notes)))
    }
}

/// Implements a type's JSON Schema as Digital River documents it; other accepted values are not listed.
macro_rules! documented_as {
    ($name:ident, $schema:tt) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}
pub(crate) use documented_as;

documented_as!(Text, { "type": "string" });
documented_as!(StateName, { "type": "string" });
documented_as!(Id, { "type": "string" });
documented_as!(Flag, { "type": "boolean" });
