//! The envelope of an event: the only part that ingest reads, and the one parser that every service uses.
//!
//! A body is refused only when it is not an event at all: not JSON, no `id` or `type`, or a key that would mean two things
//! because it is there twice. Everything else that is odd (no order id, an unknown type, an unknown shape) is an event, is
//! stored, and gets its outcome from a consumer: a refusal would be retried for 72 hours and then lose the event.

use std::{borrow::Cow, collections::HashSet, fmt};

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Mode, time::parse_time};

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
}

/// The JSON text of a body. A byte order mark is no JSON, but it hides no meaning either, so it is passed over.
///
/// # Errors
/// When the body is not UTF-8.
pub(crate) fn json_text(body: &[u8]) -> Result<&str, std::str::Utf8Error> {
    let text = std::str::from_utf8(body)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// What the body says, before it is judged.
#[derive(Default)]
struct Fields<'a> {
    id: Lenient<'a>,
    event_type: Lenient<'a>,
    created_time: Lenient<'a>,
    live_mode: Lenient<'a>,
    object: Object<'a>,
    duplicate: Option<String>,
}

#[derive(Default)]
struct Object<'a> {
    id: Lenient<'a>,
    order_id: Lenient<'a>,
    live_mode: Lenient<'a>,
    duplicate: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn into_envelope(self) -> Result<Envelope<'a>, EnvelopeError> {
        if let Some(key) = self.duplicate.or_else(|| self.object.duplicate.map(str::to_owned)) {
            return Err(EnvelopeError::DuplicateKey(key));
        }
        Ok(Envelope {
            id: self.id.text().ok_or(EnvelopeError::Missing("id"))?,
            event_type: self.event_type.text().ok_or(EnvelopeError::Missing("type"))?,
            created_time: self.created_time.text().and_then(|text| parse_time(&text)),
            mode: self.live_mode.bool().or_else(|| self.object.live_mode.bool()).map(Mode::from_live),
            order_id: self.object.order_id.text().or_else(|| self.object.id.text()),
        })
    }

    /// The slow way: splits the objects into raw members first and decodes only what is needed, each on its own.
    fn from_raw(text: &'a str) -> Option<Self> {
        let top = serde_json::from_str::<Members<'a>>(text).ok()?;
        let data = top.get("data").and_then(|raw| serde_json::from_str::<Members<'a>>(raw).ok()).unwrap_or_default();
        let object =
            data.get("object").and_then(|raw| serde_json::from_str::<Members<'a>>(raw).ok()).unwrap_or_default();
        Some(Self {
            id: top.decode("id"),
            event_type: top.decode("type"),
            created_time: top.decode("createdTime"),
            live_mode: top.decode("liveMode"),
            object: Object {
                id: object.decode("id"),
                order_id: object.decode("orderId"),
                live_mode: object.decode("liveMode"),
                duplicate: data.twice(&["object"]).or_else(|| object.twice(&["id", "orderId", "liveMode"])),
            },
            duplicate: top.first_duplicate(),
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;
        impl<'de> Visitor<'de> for TopVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                let mut seen = HashSet::with_capacity(16);
                while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                    match key.as_ref() {
                        "id" => fields.id = map.next_value()?,
                        "type" => fields.event_type = map.next_value()?,
                        "createdTime" => fields.created_time = map.next_value()?,
                        "liveMode" => fields.live_mode = map.next_value()?,
                        "data" => fields.object = map.next_value::<Data<'de>>()?.0,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                    if let Some(key) = seen.replace(key) {
                        fields.duplicate.get_or_insert_with(|| key.into_owned());
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(TopVisitor)
    }
}

/// The value of `data`, whatever it is; only an object that holds an object is looked into.
struct Data<'a>(Object<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DataVisitor;
        impl<'de> LenientMap<'de> for DataVisitor {
            type Value = Data<'de>;

            fn other(self) -> Self::Value {
                Data(Object::default())
            }

            fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object: Option<Object<'de>> = None;
                while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                    if key != "object" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let twice = object.is_some();
                    let value = object.insert(map.next_value()?);
                    if twice {
                        value.duplicate = Some("object");
                    }
                }
                Ok(Data(object.unwrap_or_default()))
            }
        }
        deserializer.deserialize_any(AnyVisitor(DataVisitor))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> LenientMap<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn other(self) -> Self::Value {
                Object::default()
            }

            fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object = Object::default();
                while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                    let (name, slot) = match key.as_ref() {
                        "id" => ("id", &mut object.id),
                        "orderId" => ("orderId", &mut object.order_id),
                        "liveMode" => ("liveMode", &mut object.live_mode),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if !matches!(slot, Lenient::Absent) {
                        object.duplicate = Some(name);
                    }
                    *slot = map.next_value()?;
                }
                Ok(object)
            }
        }
        deserializer.deserialize_any(AnyVisitor(ObjectVisitor))
    }
}

/// A value that should be a text or a boolean, and may be anything.
#[derive(Default)]
enum Lenient<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Bool(bool),
    Other,
}

impl<'a> Lenient<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Lenient<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LenientVisitor;
        impl<'de> LenientMap<'de> for LenientVisitor {
            type Value = Lenient<'de>;

            fn other(self) -> Self::Value {
                Lenient::Other
            }

            fn text(self, text: Cow<'de, str>) -> Self::Value {
                Lenient::Text(text)
            }

            fn bool(self, value: bool) -> Self::Value {
                Lenient::Bool(value)
            }
        }
        deserializer.deserialize_any(AnyVisitor(LenientVisitor))
    }
}

/// Reads any JSON value, and asks what to make of it only for the kinds that matter.
trait LenientMap<'de>: Sized {
    type Value;

    fn other(self) -> Self::Value;

    fn text(self, _text: Cow<'de, str>) -> Self::Value {
        self.other()
    }

    fn bool(self, _value: bool) -> Self::Value {
        self.other()
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.other())
    }
}

struct AnyVisitor<T>(T);

impl<'de, T: LenientMap<'de>> Visitor<'de> for AnyVisitor<T> {
    type Value = T::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(self.0.other())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(self.0.other())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(self.0.other())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.other())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.0.other())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.0.map(map)
    }
}

/// A member's name, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// An object's members, not yet decoded.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get())
    }

    fn decode(&self, name: &str) -> Lenient<'a> {
        self.get(name).map_or(Lenient::Absent, |raw| serde_json::from_str(raw).unwrap_or(Lenient::Other))
    }

    fn twice(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.0.iter().filter(|(key, _)| key == name).count() > 1)
    }

    fn first_duplicate(&self) -> Option<String> {
        let mut seen = HashSet::with_capacity(self.0.len());
        self.0.iter().find(|(key, _)| !seen.insert(key)).map(|(key, _)| key.to_string())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                    members.push((key, map.next_value::<&'de RawValue>()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
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
