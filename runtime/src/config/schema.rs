//! JSON Schemas of values that are written as strings, for the configuration reference.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::Secret;

/// Format of a [`DurationText`] in a JSON Schema.
pub const DURATION_FORMAT: &str = "duration-text";
/// Format of a [`Secret`] in a JSON Schema.
pub const SECRET_FORMAT: &str = "secret";

/// A duration as it is written in the configuration, such as `2500ms` or `1h 30m`.
pub struct DurationText;

/// An address with a scheme, such as `https://api.digitalriver.com`.
pub struct UrlText;

/// A string with a format.
macro_rules! text {
    ($type:ty, $name:literal, $format:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

text!(DurationText, "Duration", DURATION_FORMAT);
text!(UrlText, "Url", "uri");
text!(Secret, "Secret", SECRET_FORMAT);
