//! Texts from outside, made fit to be stored and shown.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Visitor};

/// Whether a text holds a control character: PostgreSQL cannot store NUL, people cannot read the others.
#[must_use]
pub fn has_control(text: &str) -> bool {
    // Nearly every text is plain ASCII. Looking at all of its bytes is faster than stopping at the first that is not.
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    !plain && text.chars().any(char::is_control)
}

/// The text with control characters replaced, cut to so many characters; it is copied only where that changes it.
#[must_use]
pub fn bounded(text: Cow<'_, str>, chars_max: usize) -> Cow<'_, str> {
    // No text has more characters than bytes.
    if text.len() <= chars_max && !has_control(&text) {
        return text;
    }
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(chars_max).map(clean).collect()
}

/// The JSON text of a body. A byte order mark is no JSON, but it hides no meaning either, so it is passed over.
///
/// # Errors
/// When the body is not UTF-8.
pub(crate) fn json_text(body: &[u8]) -> Result<&str, std::str::Utf8Error> {
    let text = std::str::from_utf8(body)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A string of a JSON text, borrowed where it has no escapes.
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
    fn a_text_is_kept_as_it_is_unless_it_is_long_or_holds_a_control_character() {
        assert!(matches!(bounded("Größe".into(), 7), Cow::Borrowed("Größe")));
        for (text, chars_max, kept) in
            [("Größe", 3, "Grö"), ("Größe", 5, "Größe"), ("a\0b", 9, "a\u{fffd}b"), ("\u{85}ü\u{7f}", 2, "\u{fffd}ü")]
        {
            assert_eq!(bounded(text.into(), chars_max), kept, "{text:?}");
        }
    }
}
