//! Values as text.

use chrono::{DateTime, Utc};
use riverlock_schemas::time::rfc3339;

/// Longest value from outside that is printed, in characters.
const VALUE_CHARS_MAX: usize = 1_000;

/// What stands for a value that is missing.
pub(crate) const MISSING: &str = "-";

/// A text from outside without characters that could control the terminal or change the direction of the text.
pub(crate) fn printable(value: &str) -> String {
    let controls = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    let replace = |c: char| if controls(c) { char::REPLACEMENT_CHARACTER } else { c };
    value.chars().take(VALUE_CHARS_MAX).map(replace).collect()
}

/// Like [`printable`]; [`MISSING`] for an empty text.
pub(crate) fn or_missing(value: &str) -> String {
    if value.is_empty() { MISSING.to_owned() } else { printable(value) }
}

/// An optional value.
pub(crate) fn optional(value: Option<&str>) -> String {
    or_missing(value.unwrap_or_default())
}

/// An optional time.
pub(crate) fn optional_time(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| MISSING.to_owned(), rfc3339)
}

/// A number with its noun: `1 order`, `2 orders`.
pub(crate) fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Writes lines of a name and a value, with the values aligned; empty values are left out.
pub(crate) fn fields(text: &mut String, indent: &str, fields: &[(&str, String)]) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{indent}{name:<width$}  {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_outside_cannot_control_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("é\u{202e}x"), "é\u{fffd}x");
        assert_eq!(or_missing(""), "-");
        assert_eq!(printable(&"x".repeat(2_000)).len(), VALUE_CHARS_MAX);
    }

    #[test]
    fn nouns_agree_with_their_numbers() {
        assert_eq!(
            [count(0_u64, "order"), count(1_u64, "order"), count(2_i64, "order")],
            ["0 orders", "1 order", "2 orders"]
        );
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let mut text = String::new();
        fields(&mut text, "  ", &[("id", "1".to_owned()), ("carrier", String::new()), ("state", "waiting".to_owned())]);
        assert_eq!(text, "  id       1\n  state    waiting\n");
    }
}
