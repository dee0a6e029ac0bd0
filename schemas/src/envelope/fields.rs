//! Reads the few values of an envelope out of any JSON, whatever kinds its values have.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Envelope, EnvelopeError};
use crate::{Mode, time::parse_time};

/// What the body says, before it is judged.
#[derive(Default)]
pub(super) struct Fields<'a> {
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
    /// The envelope, if the body is an event.
    pub(super) fn into_envelope(self) -> Result<Envelope<'a>, EnvelopeError> {
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
    pub(super) fn from_raw(text: &'a str) -> Option<Self> {
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
