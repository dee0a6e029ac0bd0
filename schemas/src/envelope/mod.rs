//! The envelope of an event: the only part that ingest reads, and the one parser that every service uses.
//!
//! A body is refused only when it is not an event at all: not JSON, no `id` or `type`, or a key that would mean two things
//! because it is there twice. Everything else that is odd (no order id, an unknown type, an unknown shape) is an event, is
//! stored, and gets its outcome from a consumer: a refusal would be retried for 72 hours and then lose the event.

mod fields;

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use self::fields::Fields;
pub(crate) use self::fields::Payload;
use crate::Mode;

/// What every event carries, whatever its type.
///
/// Source: Digital River's event object: `id`, `type`, `data.object`, `liveMode`, `createdTime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Digital River's id of the event; not empty, otherwise as it came.
    pub id: Cow<'a, str>,
    /// The event's type, for example `order.accepted`; not empty.
    pub event_type: Cow<'a, str>,
    /// When Digital River made the event; `None` when absent or unreadable.
    pub created_time: Option<DateTime<Utc>>,
    /// `liveMode` of the event, or else of its object; `None` when neither says.
    pub mode: Option<Mode>,
    /// `data.object.orderId`, or else `data.object.id`: what brings an order's events together; `None` when empty or absent.
    pub order_id: Option<Cow<'a, str>>,
}

/// Why a body is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The body is not UTF-8, not JSON, or not a JSON object; the text says where.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// A field that every event has is absent, empty or no string.
    #[error("the event has no `{0}`, or it is not a non-empty string")]
    Missing(&'static str),
    /// A key of the envelope stands twice, so that two readers could read two different events.
    #[error("the key `{0}` stands twice")]
    DuplicateKey(String),
}

impl EnvelopeError {
    /// The parameter that Digital River's error shape names, where there is one.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        match self {
            Self::NotJson(_) => None,
            Self::Missing(name) => Some(name),
            Self::DuplicateKey(key) => Some(key),
        }
    }
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of a body. Does not allocate for a usual event, and never recurses.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        let text = json_text(body).map_err(|error| EnvelopeError::NotJson(error.to_string()))?;
        let fields = match serde_json::from_str::<Fields<'a>>(text) {
            Ok(fields) => fields,
            // A value that is read may be impossible to decode (a lone surrogate, 1e400) in a body that is JSON all the same.
            Err(error) => Fields::from_raw(text).ok_or_else(|| EnvelopeError::NotJson(error.to_string()))?,
        };
        fields.into_envelope()
    }

    /// Reads the envelope of a body and, on the same way, what `P` wants of its object. Where anything is odd there is only
    /// the envelope, and what is odd is found by whoever reads the object next.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub(crate) fn parse_with<P: Payload<'a>>(body: &'a [u8]) -> Result<(Self, Option<P>), EnvelopeError> {
        let usual = json_text(body).ok().and_then(|text| serde_json::from_str::<Fields<'a, P>>(text).ok());
        let Some(mut fields) = usual else { return Ok((Self::parse(body)?, None)) };
        let payload = fields.take_payload();
        Ok((fields.into_envelope()?, payload))
    }
}

/// The JSON text of a body. A byte order mark is no JSON, but it hides no meaning either, so it is passed over.
///
/// # Errors
/// When the body is not UTF-8.
pub(crate) fn json_text(body: &[u8]) -> Result<&str, std::str::Utf8Error> {
    let text = std::str::from_utf8(body)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::parse(text.as_bytes())
    }

    #[test]
    fn an_order_event_is_keyed_by_its_order() {
        let event = parse(
            r#"{"id":"e1","type":"order.accepted","data":{"object":{"id":"o1","items":[{"id":"l1"}]}},"liveMode":true,"createdTime":"2021-11-01T18:23:06.272054Z"}"#,
        )
        .unwrap();
        assert_eq!((event.id.as_ref(), event.event_type.as_ref()), ("e1", "order.accepted"));
        assert_eq!(event.order_id.as_deref(), Some("o1"));
        assert_eq!(event.mode, Some(Mode::Live));
        assert_eq!(event.created_time.unwrap().timestamp_micros(), 1_635_790_986_272_054);
        assert!(matches!(event.id, Cow::Borrowed(_)), "a usual event is read without copies");
    }

    #[test]
    fn an_invoice_event_is_keyed_by_the_order_it_names_and_not_by_its_file() {
        let event = parse(
            r#"{"data":{"object":{"id":"f1","fileId":"f1","orderId":"o1"}},"type":"order.invoice.created","id":"e"}"#,
        )
        .unwrap();
        assert_eq!(event.order_id.as_deref(), Some("o1"));
        assert_eq!((event.mode, event.created_time), (None, None));
    }

    #[test]
    fn odd_events_are_events() {
        let deep = format!(r#"{{"id":"e","type":"t","data":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for (text, order_id) in [
            (r#"{"id":"e","type":"t"}"#, None),
            (r#"{"id":"e","type":"t","data":null}"#, None),
            (r#"{"id":"e","type":"t","data":[1,{"object":2}]}"#, None),
            (r#"{"id":"e","type":"t","data":{"object":"x"}}"#, None),
            (r#"{"id":"e","type":"t","data":{"object":{"id":12345}}}"#, None),
            (r#"{"id":"e","type":"t","data":{"object":{"id":1e400,"n":18446744073709551616}}}"#, None),
            (r#"{"id":"e","type":"t","data":{"object":{"id":"\ud800"}}}"#, None),
            (r#"{"id":"e","type":"t","data":{"object":{"orderId":"","id":"o"}}}"#, Some("o")),
            (r#"{"id":"e","type":"t","data":{"object":{"id":"o","x":1,"x":2}}}"#, Some("o")),
            ("\u{feff}{\"id\":\"e\",\"type\":\"t\",\"data\":{\"object\":{\"id\":\"o\\u0000\"}}}", Some("o\0")),
            (
                r#"{"id":"e","type":"t","createdTime":7,"liveMode":"yes","data":{"object":{"id":"o","liveMode":{}}}}"#,
                Some("o"),
            ),
            (&deep, None),
        ] {
            let event = parse(text).unwrap_or_else(|error| panic!("{error}: {}", &text[..text.len().min(100)]));
            assert_eq!(event.order_id.as_deref(), order_id, "{}", &text[..text.len().min(100)]);
        }
    }

    #[test]
    fn what_is_no_event_is_refused_with_the_reason() {
        assert_eq!(parse(r#"{"type":"t"}"#), Err(EnvelopeError::Missing("id")));
        assert_eq!(parse(r#"{"id":"","type":"t"}"#), Err(EnvelopeError::Missing("id")));
        assert_eq!(parse(r#"{"id":7,"type":"t"}"#), Err(EnvelopeError::Missing("id")));
        assert_eq!(parse(r#"{"id":"\ud800","type":"t"}"#), Err(EnvelopeError::Missing("id")));
        assert_eq!(parse(r#"{"id":"e"}"#), Err(EnvelopeError::Missing("type")));
        for text in ["", "[]", "null", "{", r#"{"id":"e","type":"t"} x"#, "id=e&type=t", r#"{"id":"e","type":"t",}"#] {
            assert!(matches!(parse(text), Err(EnvelopeError::NotJson(_))), "{text}");
        }
        assert!(matches!(Envelope::parse(b"{\"id\":\"\xff\",\"type\":\"t\"}"), Err(EnvelopeError::NotJson(_))));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_on_both_ways_of_parsing() {
        for (text, key) in [
            (r#"{"id":"e","type":"t","id":"f"}"#, "id"),
            (r#"{"id":"e","\u0069d":"f","type":"t"}"#, "id"),
            (r#"{"id":"e","type":"t","x":1,"x":1}"#, "x"),
            (r#"{"id":"e","type":"t","data":{"object":{"id":"1"},"object":{"id":"2"}}}"#, "object"),
            (r#"{"id":"e","type":"t","data":{"object":{"id":"1","id":"2"}}}"#, "id"),
            (r#"{"id":"e","type":"t","data":{"object":{"orderId":"1","orderId":"2"}}}"#, "orderId"),
        ] {
            assert_eq!(parse(text), Err(EnvelopeError::DuplicateKey(key.to_owned())), "{text}");
            let slow = Fields::from_raw(text).unwrap().into_envelope();
            assert_eq!(slow, Err(EnvelopeError::DuplicateKey(key.to_owned())), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn both_ways_of_parsing_agree(id in "[a-z\"\\\\]{0,3}", kind in "[a-z.]{0,3}", order in "[a-z0-9]{0,3}", live: bool) {
            let body = serde_json::json!({"id": id, "type": kind, "liveMode": live, "data": {"object": {"id": order}}}).to_string();
            let slow = Fields::from_raw(&body).unwrap().into_envelope();
            proptest::prop_assert_eq!(parse(&body), slow);
        }

        #[test]
        fn no_body_makes_the_parser_panic(body: Vec<u8>) {
            let _ = Envelope::parse(&body);
        }
    }
}
