//! The envelope's parser against serde_json's `Value`: wherever `Value` can read the body, both must see the same event.

#![no_main]

use libfuzzer_sys::fuzz_target;
use riverlock_schemas::{Envelope, EnvelopeError};
use serde_json::{Map, Value};

/// The value of a key, if it is a text that says something.
fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fuzz_target!(|body: &[u8]| {
    let ours = Envelope::parse(body);
    // A byte order mark is passed over by the one, and no JSON to the other.
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // What `Value` cannot hold (deep nesting, 1e400, a lone surrogate) may be an event all the same.
    let Ok(theirs) = serde_json::from_slice::<Value>(json) else { return };
    let Value::Object(event) = &theirs else {
        assert!(matches!(ours, Err(EnvelopeError::NotJson(_))), "not an object, but {ours:?}");
        return;
    };
    let envelope = match ours {
        Ok(envelope) => envelope,
        // `Value` keeps the last of two keys and says nothing.
        Err(EnvelopeError::DuplicateKey(_)) => return,
        Err(EnvelopeError::Missing(key)) => {
            assert!(key == "id" || key == "type", "{key}");
            assert_eq!(text(event, key), None, "`{key}` is there");
            return;
        }
        Err(error) => panic!("serde_json reads an object, but {error}"),
    };
    assert_eq!(text(event, "id"), Some(envelope.id.as_ref()));
    assert_eq!(text(event, "type"), Some(envelope.event_type.as_ref()));

    let object = event.get("data").and_then(|data| data.get("object")).and_then(Value::as_object);
    let order_id = object.and_then(|object| text(object, "orderId").or_else(|| text(object, "id")));
    assert_eq!(order_id, envelope.order_id.as_deref());
    let live_mode = |map: &Map<String, Value>| map.get("liveMode").and_then(Value::as_bool);
    let live = live_mode(event).or_else(|| object.and_then(live_mode));
    assert_eq!(live, envelope.mode.map(|mode| mode.is_live()));
});
