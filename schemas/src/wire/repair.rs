//! Rewrites a body so that serde_json can decode every value of it.
//!
//! A string that was cut inside an emoji, or written in Latin-1, is not valid Unicode. Only that string is damaged; the rest of
//! the event is usable. A body that is not JSON is not made valid.

use std::borrow::Cow;

use crate::text::json_text;

/// A repaired body.
pub(crate) struct RepairedBody {
    pub(crate) text: String,
    /// Whether characters were replaced; otherwise only numbers were rewritten.
    pub(crate) is_damaged: bool,
}

/// Replaces invalid Unicode, and writes numbers that are not 64-bit integers as strings.
pub(crate) fn repair(body: &[u8]) -> RepairedBody {
    let (text, is_damaged) = match json_text(body) {
        Ok(text) => (Cow::Borrowed(text), false),
        Err(_) => {
            let text = String::from_utf8_lossy(body).into_owned();
            (text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text).into(), true)
        }
    };
    let mut repaired = RepairedBody { text: String::with_capacity(text.len() + text.len() / 16), is_damaged };
    let mut rest: &str = &text;
    while let Some(first) = rest.bytes().next() {
        rest = match first {
            b'"' => repaired.string(rest),
            b'-' | b'0'..=b'9' => repaired.number(rest),
            _ => {
                let length =
                    rest.find(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']).unwrap_or(rest.len());
                repaired.text.push_str(&rest[..length]);
                &rest[length..]
            }
        };
    }
    repaired
}

impl RepairedBody {
    /// Copies a string with its quotes and returns the rest of the text.
    fn string<'a>(&mut self, text: &'a str) -> &'a str {
        self.text.push('"');
        let mut rest = &text[1..];
        loop {
            let plain =
                rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ').unwrap_or(rest.len());
            self.text.push_str(&rest[..plain]);
            rest = &rest[plain..];
            match rest.bytes().next() {
                None => return rest,
                Some(b'"') => {
                    self.text.push('"');
                    return &rest[1..];
                }
                Some(b'\\') => rest = self.escape(rest),
                Some(control) => {
                    self.is_damaged = true;
                    self.text.push_str(&format!("\\u{control:04x}"));
                    rest = &rest[1..];
                }
            }
        }
    }

    /// Copies an escape. Half of a surrogate pair is replaced.
    fn escape<'a>(&mut self, text: &'a str) -> &'a str {
        let unit = |text: &str| -> Option<u16> {
            let digits = text.strip_prefix("\\u")?.get(..4)?;
            digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
        };
        let length = match unit(text) {
            Some(0xd800..=0xdbff) if matches!(text.get(6..).and_then(unit), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                self.is_damaged = true;
                self.text.push_str("\\ufffd");
                return &text[6..];
            }
            Some(_) => 6,
            // The backslash and the character that it escapes; serde_json reports an error if there is none.
            None => 1 + text[1..].chars().next().map_or(0, char::len_utf8),
        };
        self.text.push_str(&text[..length]);
        &text[length..]
    }

    /// Copies a number, as a string if serde_json would round or reject it.
    fn number<'a>(&mut self, text: &'a str) -> &'a str {
        let is_part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
        let (number, rest) = text.split_at(length);
        let is_exact = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
        if is_exact || !is_json_number(number) {
            self.text.push_str(number);
        } else {
            self.text.push('"');
            self.text.push_str(number);
            self.text.push('"');
        }
        rest
    }
}

/// Whether the text is a number in JSON's syntax.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    digits(whole) && (whole.len() == 1 || !whole.starts_with('0')) && digits(fraction) && digits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(body: &[u8]) -> (String, bool) {
        let RepairedBody { text, is_damaged } = repair(body);
        (text, is_damaged)
    }

    #[test]
    fn invalid_unicode_is_replaced() {
        for (body, text) in [
            (b"{\"a\":\"Zo\xe9\"}".as_slice(), "{\"a\":\"Zo\u{fffd}\"}"),
            (b"\xef\xbb\xbf[\"\xf0\x9f\x98\"]", "[\"\u{fffd}\"]"),
            (br#"["\ud83d"]"#, r#"["\ufffd"]"#),
            (br#"["\ude00x\ud83d\ud83d\ude00"]"#, r#"["\ufffdx\ufffd\ud83d\ude00"]"#),
            (br#"["\uD83D\u0041"]"#, r#"["\ufffd\u0041"]"#),
            (b"[\"a\tb\"]", r#"["a\u0009b"]"#),
        ] {
            assert_eq!(repaired(body), (text.to_owned(), true));
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn numbers_that_would_be_rounded_become_strings() {
        let body = br#"{"a":-1.50,"b":[1e400,18446744073709551616,18446744073709551615,-9223372036854775808,0],"c":"1.5","d":"\"2.5"}"#;
        let text = r#"{"a":"-1.50","b":["1e400","18446744073709551616",18446744073709551615,-9223372036854775808,0],"c":"1.5","d":"\"2.5"}"#;
        assert_eq!(repaired(body), (text.to_owned(), false));
    }

    #[test]
    fn invalid_json_stays_invalid() {
        for body in
            ["", "{", "[01]", "[1.]", "[.5]", "[1e]", "[--1]", "[+1.5]", "\"", "\"\\", "\"\\u12", "[\"\\x\"]", "tru"]
        {
            let (text, _) = repaired(body.as_bytes());
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_err(), "{body} became {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn json_keeps_its_meaning(value in json(), pretty: bool) {
            let body = if pretty { format!("{value:#}") } else { value.to_string() };
            let (text, is_damaged) = repaired(body.as_bytes());
            proptest::prop_assert!(!is_damaged);
            proptest::prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }

        #[test]
        fn no_body_makes_repair_panic(body: Vec<u8>) {
            repair(&body);
        }
    }

    /// Any JSON whose numbers are all integers.
    fn json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map("[a-z\"\\\\é]{0,3}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
