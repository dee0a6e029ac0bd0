//! Sanitizing of text from requests and records, so that it can be stored and shown.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Visitor};

/// Whether a text contains a control character. PostgreSQL cannot store NUL, and the others are unreadable.
#[must_use]
pub fn has_control(text: &str) -> bool {
    // Nearly every text is ASCII, and checking all of its bytes is faster than an early exit.
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    !plain && text.chars().any(char::is_control)
}

/// Replaces control characters and truncates the text to `chars_max` characters. Copies it only if it changes.
#[must_use]
pub fn bounded(text: Cow<'_, str>, chars_max: usize) -> Cow<'_, str> {
    // A text never has more characters than bytes.
    if text.len() <= chars_max && !has_control(&text) {
        return text;
    }
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(chars_max).map(clean).collect()
}

/// The JSON text of a body, without a byte order mark, which JSON does not allow but some systems write.
///
/// # Errors
/// When the body is not UTF-8.
pub(crate) fn json_text(body: &[u8]) -> Result<&str, std::str::Utf8Error> {
    let text = std::str::from_utf8(body)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A JSON string, borrowed if it has no escapes.
pub(crate) struct Str<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StrVisitor;
        impl<'de> Visitor<'de> for StrVisitor {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(StrVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_changes_only_long_texts_and_control_characters() {
        assert!(matches!(bounded("Größe".into(), 7), Cow::Borrowed("Größe")));
        for (text, chars_max, kept) in
            [("Größe", 3, "Grö"), ("Größe", 5, "Größe"), ("a\0b", 9, "a\u{fffd}b"), ("\u{85}ü\u{7f}", 2, "\u{fffd}ü")]
        {
            assert_eq!(bounded(text.into(), chars_max), kept, "{text:?}");
        }
    }
}
