//! Reads the few values of an envelope out of any JSON, whatever kinds its values have.

use std::{borrow::Cow, collections::HashSet, fmt, marker::PhantomData};

use serde::{
    de::{
        Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::MapAccessDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;

use super::{Envelope, EnvelopeError};
use crate::{Mode, text::Str, time::parse_time};

/// What a consumer wants of an event's object, read on the same way through the body as the envelope.
pub(crate) trait Payload<'de>: Sized {
    /// Reads the object of an event of this type, or passes over it where it needs a closer look.
    fn read<D: Deserializer<'de>>(event_type: &str, object: D) -> Result<Option<Self>, D::Error>;
}

/// The envelope is enough.
impl<'de> Payload<'de> for () {
    fn read<D: Deserializer<'de>>(_: &str, object: D) -> Result<Option<Self>, D::Error> {
        IgnoredAny::deserialize(object)?;
        Ok(None)
    }
}

/// What the body says, before it is judged.
pub(super) struct Fields<'a, P = ()> {
    id: Lenient<'a>,
    event_type: Lenient<'a>,
    created_time: Lenient<'a>,
    live_mode: Lenient<'a>,
    object: Object<'a, P>,
    duplicate: Option<String>,
}

struct Object<'a, P> {
    id: Lenient<'a>,
    order_id: Lenient<'a>,
    live_mode: Lenient<'a>,
    duplicate: Option<&'static str>,
    payload: Option<P>,
}

impl<P> Default for Object<'_, P> {
    fn default() -> Self {
        Self {
            id: Lenient::Absent,
            order_id: Lenient::Absent,
            live_mode: Lenient::Absent,
            duplicate: None,
            payload: None,
        }
    }
}

impl<'a, P> Fields<'a, P> {
    /// What was read of the object besides.
    pub(super) fn take_payload(&mut self) -> Option<P> {
        self.object.payload.take()
    }

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
}

impl<'a> Fields<'a> {
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
                payload: None,
            },
            duplicate: top.first_duplicate(),
        })
    }
}

impl<'de: 'a, 'a, P: Payload<'de>> Deserialize<'de> for Fields<'a, P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor<P>(PhantomData<P>);
        impl<'de, P: Payload<'de>> Visitor<'de> for TopVisitor<P> {
            type Value = Fields<'de, P>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields {
                    id: Lenient::Absent,
                    event_type: Lenient::Absent,
                    created_time: Lenient::Absent,
                    live_mode: Lenient::Absent,
                    object: Object::default(),
                    duplicate: None,
                };
                let mut seen = HashSet::with_capacity(16);
                while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
                    match key.as_ref() {
                        "id" => fields.id = map.next_value()?,
                        "type" => fields.event_type = map.next_value()?,
                        "createdTime" => fields.created_time = map.next_value()?,
                        "liveMode" => fields.live_mode = map.next_value()?,
                        "data" => {
                            let of = Type::<P>(fields.event_type.as_text(), PhantomData);
                            fields.object = map.next_value_seed(AnyVisitor(DataVisitor(of)))?;
                        }
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
        deserializer.deserialize_map(TopVisitor(PhantomData))
    }
}

/// The event's type, as far as it is known where its object begins, and what is wanted of the object.
struct Type<'t, P>(&'t str, PhantomData<P>);

/// Reads the value of `data`, whatever it is; only an object that holds an object is looked into.
struct DataVisitor<'t, P>(Type<'t, P>);

impl<'de, P: Payload<'de>> LenientMap<'de> for DataVisitor<'_, P> {
    type Value = Object<'de, P>;

    fn other(self) -> Self::Value {
        Object::default()
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Type(event_type, wanted) = self.0;
        let mut object: Option<Object<'de, P>> = None;
        while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
            if key != "object" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let twice = object.is_some();
            let value = object.insert(map.next_value_seed(AnyVisitor(ObjectVisitor(Type(event_type, wanted))))?);
            if twice {
                value.duplicate = Some("object");
            }
        }
        Ok(object.unwrap_or_default())
    }
}

struct ObjectVisitor<'t, P>(Type<'t, P>);

impl<'de, P: Payload<'de>> LenientMap<'de> for ObjectVisitor<'_, P> {
    type Value = Object<'de, P>;

    fn other(self) -> Self::Value {
        Object::default()
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        let watched = Watched { map, object: &mut object, member: None };
        object.payload = P::read(self.0.0, MapAccessDeserializer::new(watched))?;
        Ok(object)
    }
}

/// The object's members on their way to whoever reads the payload; what the envelope needs of them is noted.
struct Watched<'o, 'de, A, P> {
    map: A,
    object: &'o mut Object<'de, P>,
    /// The member whose value comes next, if the envelope needs it.
    member: Option<&'static str>,
}

impl<'de, A: MapAccess<'de>, P> MapAccess<'de> for Watched<'_, 'de, A, P> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(Str(key)) = self.map.next_key::<Str<'de>>()? else { return Ok(None) };
        self.member = match key.as_ref() {
            "id" => Some("id"),
            "orderId" => Some("orderId"),
            "liveMode" => Some("liveMode"),
            _ => None,
        };
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let Some(member) = self.member else { return self.map.next_value_seed(seed) };
        let slot = match member {
            "id" => &mut self.object.id,
            "orderId" => &mut self.object.order_id,
            _ => &mut self.object.live_mode,
        };
        if !matches!(slot, Lenient::Absent) {
            self.object.duplicate = Some(member);
        }
        *slot = self.map.next_value()?;
        seed.deserialize(Again(slot.clone(), PhantomData))
    }
}

/// A value that was read already. One that is neither a text nor a boolean can only be ignored.
struct Again<'de, E>(Lenient<'de>, PhantomData<E>);

impl<'de, E: Error> Deserializer<'de> for Again<'de, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.0 {
            Lenient::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Lenient::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Lenient::Bool(value) => visitor.visit_bool(value),
            Lenient::Absent | Lenient::Other => Err(E::custom("neither a text nor a boolean")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier
    }
}

/// A value that should be a text or a boolean, and may be anything.
#[derive(Clone, Default)]
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

    /// The text; empty where there is none.
    fn as_text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
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

impl<'de, T: LenientMap<'de>> DeserializeSeed<'de> for AnyVisitor<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

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
                while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
                    members.push((key, map.next_value::<&'de RawValue>()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}
