//! Reads the fields of an envelope from any JSON, whatever types its values have.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::model::{Envelope, EnvelopeError, Payload};
use crate::{
    Mode,
    oddity::Oddity,
    text::Str,
    wire::{Any, Kinds, Member, Notes, scalar::Flag, time::Time},
};

/// The message of the error after which a body is read by the slow path.
const REPEATED: &str = "a repeated object";

/// The fields of a body, before validation.
pub(super) struct Fields<'a, P> {
    id: Scalar<'a>,
    event_type: Scalar<'a>,
    created_time: Option<Time>,
    live_mode: Scalar<'a>,
    head: Head<'a>,
    payload: Option<P>,
    has_data: bool,
    contradiction: Option<&'static str>,
}

impl<P> Default for Fields<'_, P> {
    fn default() -> Self {
        Self {
            id: Scalar::Absent,
            event_type: Scalar::Absent,
            created_time: None,
            live_mode: Scalar::Absent,
            head: Head::default(),
            payload: None,
            has_data: false,
            contradiction: None,
        }
    }
}

/// The fields of the object that the envelope needs.
#[derive(Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) id: Scalar<'a>,
    pub(crate) order_id: Scalar<'a>,
    live_mode: Scalar<'a>,
}

impl Head<'_> {
    pub(crate) fn into_owned(self) -> Head<'static> {
        Head { id: self.id.into_owned(), order_id: self.order_id.into_owned(), live_mode: self.live_mode.into_owned() }
    }
}

type Parts<'a, P> = (Envelope<'a>, Head<'a>, Option<P>);

impl<'a, P> Fields<'a, P> {
    pub(super) fn into_owned(self) -> Fields<'static, P> {
        Fields {
            id: self.id.into_owned(),
            event_type: self.event_type.into_owned(),
            created_time: self.created_time,
            live_mode: self.live_mode.into_owned(),
            head: self.head.into_owned(),
            payload: self.payload,
            has_data: self.has_data,
            contradiction: self.contradiction,
        }
    }

    /// Validates the fields. Returns the envelope and the fields that the payload needs.
    pub(super) fn into_envelope(self, notes: &Notes) -> Result<Parts<'a, P>, EnvelopeError> {
        if let Some(key) = self.contradiction {
            return Err(EnvelopeError::DuplicateKey(key));
        }
        // An id in which a character was replaced may be the id of another event.
        let is_damaged = notes.oddities().contains(Oddity::Encoding);
        let whole = |text: &Cow<'a, str>| !is_damaged || !text.contains(char::REPLACEMENT_CHARACTER);
        let id = self.id.into_text().filter(whole).ok_or(EnvelopeError::Missing("id"))?;
        let event_type = self.event_type.into_text().filter(whole).ok_or(EnvelopeError::Missing("type"))?;
        let (of_event, of_object) = (self.live_mode.flag(notes), self.head.live_mode.flag(notes));
        if of_event.is_some() && of_object.is_some() && of_event != of_object {
            notes.add(Oddity::ModeContradiction);
        }
        let envelope = Envelope {
            id,
            event_type,
            created_time: self.created_time.and_then(Time::at),
            mode: of_event.or(of_object).map(Mode::from_live),
            order_id: self.head.order_id.clone().into_text().or_else(|| self.head.id.clone().into_text()),
        };
        Ok((envelope, self.head, self.payload))
    }
}

/// Finds a repeated key with different values that does not prevent parsing: `data`, or `object` in it.
pub(super) fn contradiction(text: &str) -> Result<Option<&'static str>, serde_json::Error> {
    let top: Values<'_> = Values::of(text, "data")?;
    let Some(data) = top.0.first() else { return Ok(None) };
    if !top.are_same() {
        return Ok(Some("data"));
    }
    if !data.get().starts_with('{') {
        return Ok(None);
    }
    Ok((!Values::of(data.get(), "object")?.are_same()).then_some("object"))
}

/// The undecoded values of a repeated key, without `null`.
struct Values<'a>(Vec<&'a RawValue>);

impl<'a> Values<'a> {
    fn of(object: &'a str, key: &str) -> Result<Self, serde_json::Error> {
        struct Of<'k>(&'k str);
        impl<'de> Visitor<'de> for Of<'_> {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
                    if key == self.0 {
                        values.push(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(values)
            }
        }
        let mut json = serde_json::Deserializer::from_str(object);
        let mut values = json.deserialize_map(Of(key))?;
        json.end()?;
        values.retain(|value: &&RawValue| value.get() != "null");
        Ok(Self(values))
    }

    /// Whether all of them are equal, apart from white space and the order of keys.
    fn are_same(&self) -> bool {
        let Some((first, others)) = self.0.split_first() else { return true };
        others.iter().all(|other| {
            let parse = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
            first.get() == other.get() || parse(first).is_some_and(|first| parse(other) == Some(first))
        })
    }
}

/// Reads a body into `fields` in place, so that fields are kept if the rest cannot be read.
pub(super) struct Top<'f, 'a, P> {
    fields: &'f mut Fields<'a, P>,
    event_type: Option<&'f str>,
    notes: &'f Notes,
    /// Whether repeated `data` and `object` keys are known to have equal values.
    are_repeats_same: bool,
}

impl<'f, 'a, P> Top<'f, 'a, P> {
    pub(super) fn new(fields: &'f mut Fields<'a, P>, event_type: Option<&'f str>, notes: &'f Notes) -> Self {
        Self { fields, event_type, notes, are_repeats_same: false }
    }

    pub(super) fn of_repaired(fields: &'f mut Fields<'a, P>, event_type: Option<&'f str>, notes: &'f Notes) -> Self {
        Self { are_repeats_same: true, ..Self::new(fields, event_type, notes) }
    }
}

impl<'de, P: Payload> DeserializeSeed<'de> for Top<'_, 'de, P> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, body: D) -> Result<(), D::Error> {
        body.deserialize_map(self)
    }
}

impl<'de, P: Payload> Visitor<'de> for Top<'_, 'de, P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, event_type, notes, are_repeats_same } = self;
        while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
            let mut member = Member { map: &mut map, key: &key, notes };
            match key.as_ref() {
                "id" => read_scalar(&mut member, "id", &mut fields.id, &mut fields.contradiction)?,
                "type" => read_scalar(&mut member, "type", &mut fields.event_type, &mut fields.contradiction)?,
                "liveMode" => read_scalar(&mut member, "liveMode", &mut fields.live_mode, &mut fields.contradiction)?,
                "createdTime" => member.value(&mut fields.created_time)?,
                "data" => {
                    if fields.has_data {
                        pass_repeat(member, are_repeats_same)?;
                        continue;
                    }
                    let object = Object { known_type: event_type, fields: &mut *fields, notes, are_repeats_same };
                    fields.has_data = map.next_value_seed(Any(DataKinds(object)))?;
                }
                _ => member.ignore()?,
            }
        }
        Ok(())
    }
}

/// Skips a repeated value if it is known to be equal.
fn pass_repeat<'de, A: MapAccess<'de>>(member: Member<'_, A>, is_same: bool) -> Result<(), A::Error> {
    if !is_same {
        return Err(A::Error::custom(REPEATED));
    }
    member.notes.add(Oddity::RepeatedKey);
    member.ignore()
}

/// Reads a value that must not be repeated with a different value.
fn read_scalar<'de, A: MapAccess<'de>>(
    member: &mut Member<'_, A>,
    key: &'static str,
    slot: &mut Scalar<'de>,
    contradiction: &mut Option<&'static str>,
) -> Result<(), A::Error> {
    let value = member.map.next_value_seed(Any(ScalarKinds(member.notes)))?;
    if !matches!(slot, Scalar::Absent) {
        member.notes.add(Oddity::RepeatedKey);
        if !matches!(value, Scalar::Absent) && value != *slot {
            contradiction.get_or_insert(key);
        }
        return Ok(());
    }
    *slot = value;
    Ok(())
}

/// The destination of an event's object.
struct Object<'f, 'a, P> {
    known_type: Option<&'f str>,
    fields: &'f mut Fields<'a, P>,
    notes: &'f Notes,
    are_repeats_same: bool,
}

/// Reads the value of `data`, of any type. Only an `object` that is an object is read. Returns whether there is a value.
struct DataKinds<'f, 'a, P>(Object<'f, 'a, P>);

impl<'de, P: Payload> Kinds<'de> for DataKinds<'_, 'de, P> {
    type Value = bool;

    fn absent(self) -> bool {
        false
    }

    fn other(self) -> bool {
        self.0.notes.add(Oddity::Kind);
        true
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Object { known_type, fields, notes, are_repeats_same } = self.0;
        let mut has_object = false;
        while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
            let member = Member { map: &mut map, key: &key, notes };
            if key != "object" {
                member.ignore()?;
            } else if has_object {
                pass_repeat(member, are_repeats_same)?;
            } else {
                let object = Object { known_type, fields: &mut *fields, notes, are_repeats_same };
                has_object = map.next_value_seed(Any(ObjectKinds(object)))?;
            }
        }
        Ok(true)
    }
}

/// Reads the value of `object`. Returns whether there is one.
struct ObjectKinds<'f, 'a, P>(Object<'f, 'a, P>);

impl<'de, P: Payload> Kinds<'de> for ObjectKinds<'_, 'de, P> {
    type Value = bool;

    fn absent(self) -> bool {
        false
    }

    fn other(self) -> bool {
        self.0.notes.add(Oddity::Kind);
        true
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Object { known_type, fields, notes, .. } = self.0;
        let payload = P::of_type(known_type.unwrap_or_else(|| fields.event_type.as_text()));
        let payload = fields.payload.insert(payload);
        let (head, contradiction) = (&mut fields.head, &mut fields.contradiction);
        while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
            let mut member = Member { map: &mut map, key: &key, notes };
            match key.as_ref() {
                "id" => read_scalar(&mut member, "id", &mut head.id, contradiction)?,
                "orderId" => read_scalar(&mut member, "orderId", &mut head.order_id, contradiction)?,
                "liveMode" => read_scalar(&mut member, "liveMode", &mut head.live_mode, contradiction)?,
                _ => payload.member(&key, member)?,
            }
        }
        Ok(true)
    }
}

/// A value that should be a string or a boolean, but can be of any type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    #[default]
    Absent,
    /// A string, or the digits of a number.
    Text(Cow<'a, str>),
    Bool(bool),
    Other,
}

impl<'a> Scalar<'a> {
    /// The text; `None` if it is empty or white space.
    pub(crate) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.trim().is_empty() => Some(text),
            _ => None,
        }
    }

    /// The text; empty if there is none or only white space.
    pub(crate) fn as_text(&self) -> &str {
        match self {
            Self::Text(text) if !text.trim().is_empty() => text,
            _ => "",
        }
    }

    /// The boolean that the value represents, if it does.
    fn flag(&self, notes: &Notes) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Text(text) => {
                notes.add(Oddity::Kind);
                Flag::parse(text).map(|flag| flag.0)
            }
            Self::Absent | Self::Other => None,
        }
    }

    fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Absent => Scalar::Absent,
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Self::Bool(value) => Scalar::Bool(value),
            Self::Other => Scalar::Other,
        }
    }
}

struct ScalarKinds<'n>(&'n Notes);

impl<'de> Kinds<'de> for ScalarKinds<'_> {
    type Value = Scalar<'de>;

    fn absent(self) -> Self::Value {
        Scalar::Absent
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        Scalar::Other
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        Scalar::Text(text)
    }

    fn boolean(self, value: bool) -> Self::Value {
        Scalar::Bool(value)
    }

    fn integer(self, number: i128) -> Self::Value {
        self.0.add(Oddity::Kind);
        Scalar::Text(number.to_string().into())
    }
}
