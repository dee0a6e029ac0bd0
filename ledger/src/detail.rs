//! Details of dead letters: what is wrong and where, without values of the body. The text goes to lists, message
//! headers and logs, and the body contains names and addresses of customers.

/// Longest detail that is stored, in characters.
const DETAIL_CHARS_MAX: usize = 500;
/// Replaces a value that was left out.
const LEFT_OUT: char = '…';
/// Texts of serde that precede a value of the body in backticks; all other texts in backticks are identifiers of the
/// program.
const BEFORE_VALUES: [&str; 7] =
    ["integer ", "floating point ", "boolean ", "character ", "unknown field ", "unknown variant ", "value "];

/// Removes values of the body from a message and limits it to [`DETAIL_CHARS_MAX`].
///
/// serde and PostgreSQL quote values in double quotes, serde also in backticks. Quoted texts are left out, except names
/// of expected fields.
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(DETAIL_CHARS_MAX));
    let mut chars = text.chars();
    let mut count = 0;
    while let Some(c) = chars.next() {
        if count >= DETAIL_CHARS_MAX {
            safe.push(LEFT_OUT);
            break;
        }
        count += 1;
        match c {
            '"' => {
                skip_quoted(&mut chars, '"');
                safe.extend(['"', LEFT_OUT, '"']);
            }
            '`' if BEFORE_VALUES.iter().any(|before| safe.ends_with(before)) => {
                skip_quoted(&mut chars, '`');
                safe.extend(['`', LEFT_OUT, '`']);
            }
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

/// Skips to the end of a quoted text, including the closing quote. An escaped quote does not end it.
fn skip_quoted(chars: &mut std::str::Chars<'_>, quote: char) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return,
            _ => {}
        }
    }
}

/// Why a record is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadReason {
    /// A short, stable name for labels and lists.
    pub reason: &'static str,
    /// Details for the operator.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors matter")]
    struct Shape {
        quantity: u8,
        state: State,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Created,
        Paid,
    }

    #[test]
    fn values_of_the_body_are_left_out_and_expected_names_stay() {
        for (body, expected) in [
            (r#"{"quantity":"Erika \"E\" Mustermann"}"#, r#"invalid type: string "…", expected u8"#),
            (r#"{"quantity":4915123456789}"#, "invalid value: integer `…`, expected u8"),
            (r#"{"quantity":-1.5}"#, "invalid type: floating point `…`, expected u8"),
            (r#"{"quantity":true}"#, "invalid type: boolean `…`, expected u8"),
            (r#"{"quantity":1,"state":"Erika"}"#, "unknown variant `…`, expected `created` or `paid`"),
            (r#"{"Erika Mustermann":1}"#, "unknown field `…`, expected `quantity` or `state`"),
            (r#"{"quantity":1}"#, "missing field `state`"),
        ] {
            let error = serde_json::from_str::<Shape>(body).unwrap_err().to_string();
            let safe = safe(&error);
            assert!(safe.starts_with(expected), "{error}\nbecame\n{safe}");
            assert!(!safe.contains("Erika") && !safe.contains("49151"), "{safe}");
        }
        assert_eq!(safe("a\0b\nc"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(safe(r#"an open quote "Erika"#), "an open quote \"…\"");
        assert_eq!(safe(&"x".repeat(10_000)).chars().count(), DETAIL_CHARS_MAX + 1);
    }
}
