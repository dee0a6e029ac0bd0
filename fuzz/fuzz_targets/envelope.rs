//! The envelope's parser against serde_json's `Value`: if `Value` can read the body, both must yield the same event.

#![no_main]

use libfuzzer_sys::fuzz_target;
use riverlock_schemas::{Envelope, EnvelopeError};
use serde_json::{Map, Value};

/// The value of a key: a string, or a whole number as its digits. `Err` if `Value` has rounded the number.
fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, ()> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        Some(Value::Number(number)) if number.is_f64() => Err(()),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        _ => Ok(None),
    }
}

/// The value of a key as a boolean, if it has an unambiguous one.
fn flag(object: &Map<String, Value>) -> Option<bool> {
    let name = match object.get("liveMode")? {
        Value::Bool(flag) => return Some(*flag),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    match name.as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fuzz_target!(|body: &[u8]| {
    let ours = Envelope::parse(body);
    if let Err(error) = &ours {
        let text = error.to_string();
        assert!(text.chars().count() < 300 && !text.chars().any(char::is_control), "{text:?}");
    }
    // The envelope's parser skips a byte order mark; for serde_json it is not JSON.
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // A body that `Value` cannot read (deep nesting, 1e400, a lone surrogate, Latin-1) may still be an event.
    let Ok(theirs) = serde_json::from_slice::<Value>(json) else { return };
    let Value::Object(event) = &theirs else {
        assert!(matches!(ours, Err(EnvelopeError::NotJson(_))), "not an object, but {ours:?}");
        return;
    };
    let envelope = match ours {
        Ok(envelope) => envelope,
        // `Value` silently keeps the last of two equal keys.
        Err(EnvelopeError::DuplicateKey(_)) => return,
        Err(EnvelopeError::Missing(key)) => {
            assert!(key == "id" || key == "type", "{key}");
            assert!(!matches!(text(event, key), Ok(Some(_))), "`{key}` exists");
            return;
        }
        Err(error) => panic!("serde_json reads an object, but {error}"),
    };
    let same = |object: &Map<String, Value>, key: &str, ours: &str| match text(object, key) {
        Ok(Some(theirs)) => assert_eq!(theirs, ours, "`{key}`"),
        // The key may occur a second time with `null`.
        Ok(None) => assert!(object.get(key).is_some_and(Value::is_null), "`{key}` is {ours}"),
        Err(()) => {}
    };
    same(event, "id", &envelope.id);
    same(event, "type", &envelope.event_type);

    let object = event.get("data").and_then(|data| data.get("object")).and_then(Value::as_object);
    if let Some(object) = object {
        // The key may occur a second time with `null`, after the id.
        let is_null = object.get("orderId").is_some_and(Value::is_null);
        match (text(object, "orderId"), text(object, "id")) {
            (Ok(None), Ok(Some(_))) if is_null => {}
            (Ok(Some(order_id)), _) | (Ok(None), Ok(Some(order_id))) => {
                assert_eq!(Some(order_id.as_str()), envelope.order_id.as_deref());
            }
            _ => {}
        }
    }
    if let Some(live) = flag(event) {
        assert_eq!(Some(live), envelope.mode.map(|mode| mode.is_live()));
    }
});
