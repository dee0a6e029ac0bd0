//! Tolerant parser for payloads: reads any JSON, whatever types its values have. All payload types use it.
//!
//! Values whose meaning is unambiguous are read: a number as the text of its digits, a string as the number that it contains, a
//! key that is repeated with the same value. Other values count as absent: an object instead of a string, a list instead of an
//! object; a list is never read as an object by position. Only ids, quantities and amounts are strict, because a wrong guess
//! would ship or charge the wrong thing: their errors are kept as values and noted, so that one error does not hide the rest of
//! the event. Oddities are recorded in [`Notes`].
//!
//! serde's derive does not support this, so a payload type implements [`Members::member`] to read each of its keys.
//!
//! Usual bodies are read in one pass, and only the values that are kept are copied. If serde_json cannot decode a value
//! (invalid Unicode, numbers out of range), that pass fails; [`repair`] then rewrites the body so that the same parser can read
//! it.

pub(crate) mod number;
pub(crate) mod repair;
pub(crate) mod scalar;
pub(crate) mod time;

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
    marker::PhantomData,
};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    oddity::{Oddities, Oddity},
    text::Str,
};

/// Oddities and errors noted while a body was read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    oddities: Cell<Oddities>,
    fault: RefCell<Option<String>>,
}

impl Notes {
    pub(crate) fn add(&self, oddity: Oddity) {
        let mut oddities = self.oddities.get();
        oddities.insert(oddity);
        self.oddities.set(oddities);
    }

    pub(crate) fn oddities(&self) -> Oddities {
        self.oddities.get()
    }

    /// The reason why the payload cannot be used although it can be read; the first one counts.
    pub(crate) fn set_fault(&self, fault: impl FnOnce() -> String) {
        self.fault.borrow_mut().get_or_insert_with(fault);
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.fault.take()
    }
}

/// A value that can be read from any JSON value.
pub(crate) trait Wire<'de>: Sized + PartialEq {
    /// Whether two different values of one key are an error.
    const IS_STRICT: bool = false;

    /// Reads the value; `None` if it is absent, or of a type without meaning here.
    ///
    /// # Errors
    /// When the text is not JSON, or must be repaired before it can be read.
    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error>;
}

/// An object that is read key by key.
pub(crate) trait Members<'de>: Default + PartialEq {
    /// Whether an invalid element of a list is read as an empty object instead of being left out.
    const IS_STRICT: bool = false;

    /// Reads or ignores the value of a key.
    ///
    /// # Errors
    /// As for [`Wire::read`].
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error>;

    /// The object that a string represents, if it does.
    fn from_text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
}

/// The value of a key, not read yet.
pub(crate) struct Member<'m, A> {
    pub(crate) map: &'m mut A,
    pub(crate) key: &'m str,
    pub(crate) notes: &'m Notes,
}

impl<'de, A: MapAccess<'de>> Member<'_, A> {
    /// Reads a value.
    pub(crate) fn value<T: Wire<'de>>(self, slot: &mut Option<T>) -> Result<(), A::Error> {
        let value = self.map.next_value_seed(ValueSeed::<T>(self.notes, PhantomData))?;
        put(slot, value, T::IS_STRICT, self.key, self.notes);
        Ok(())
    }

    /// Reads an object.
    pub(crate) fn object<T: Members<'de>>(self, slot: &mut Option<T>) -> Result<(), A::Error> {
        let value = self.map.next_value_seed(Any(ObjectKinds::<T>(self.notes, PhantomData)))?;
        put(slot, value, T::IS_STRICT, self.key, self.notes);
        Ok(())
    }

    /// Reads a list of objects. A single object is read as a list of one.
    pub(crate) fn list<T: Members<'de>>(self, slot: &mut Option<Vec<T>>) -> Result<(), A::Error> {
        let value = self.map.next_value_seed(Any(ListKinds::<T>(self.notes, PhantomData)))?;
        put(slot, value, T::IS_STRICT, self.key, self.notes);
        Ok(())
    }

    /// Skips a value.
    pub(crate) fn ignore(self) -> Result<(), A::Error> {
        self.map.next_value::<IgnoredAny>().map(drop)
    }
}

/// Stores the value of a key that may already have one.
fn put<T: PartialEq>(slot: &mut Option<T>, value: Option<T>, is_strict: bool, key: &str, notes: &Notes) {
    let Some(known) = slot else {
        *slot = value;
        return;
    };
    match value {
        None => notes.add(Oddity::RepeatedKey),
        Some(value) if value == *known => notes.add(Oddity::RepeatedKey),
        Some(value) => {
            notes.add(Oddity::ContradictingKey);
            if is_strict {
                notes.set_fault(|| format!("`{key:.40}` is repeated with different values"));
            }
            *known = value;
        }
    }
}

/// Reads all members of an object.
pub(crate) fn read_members<'de, T: Members<'de>, A: MapAccess<'de>>(
    mut map: A,
    object: &mut T,
    notes: &Notes,
) -> Result<usize, A::Error> {
    let mut count = 0;
    while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
        object.member(&key, Member { map: &mut map, key: &key, notes })?;
        count += 1;
    }
    Ok(count)
}

struct ValueSeed<'n, T>(&'n Notes, PhantomData<T>);

impl<'de, T: Wire<'de>> DeserializeSeed<'de> for ValueSeed<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        T::read(value, self.0)
    }
}

/// The message of the error after which the body is repaired; see [`Any::visit_f64`].
const INEXACT: &str = "a number that is not read as it is written";

/// Conversions from each type of JSON value.
pub(crate) trait Kinds<'de>: Sized {
    type Value;

    /// `null`.
    fn absent(self) -> Self::Value;

    /// A value of a type without meaning here.
    fn other(self) -> Self::Value;

    fn text(self, _: Cow<'de, str>) -> Self::Value {
        self.other()
    }

    fn boolean(self, _: bool) -> Self::Value {
        self.other()
    }

    fn integer(self, _: i128) -> Self::Value {
        self.other()
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip_map(map)?;
        Ok(self.other())
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        skip_list(list)?;
        Ok(self.other())
    }
}

pub(crate) fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

pub(crate) fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads a value of any type.
pub(crate) struct Any<K>(pub(crate) K);

impl<'de, K: Kinds<'de>> DeserializeSeed<'de> for Any<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de, K: Kinds<'de>> Visitor<'de> for Any<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.absent())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.0.integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.0.integer(value.into()))
    }

    /// serde_json has rounded the number. It is read from the repaired body, which contains its digits as a string.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom(INEXACT))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.0.map(map)
    }
}

struct ObjectKinds<'n, T>(&'n Notes, PhantomData<T>);

impl<'de, T: Members<'de>> Kinds<'de> for ObjectKinds<'_, T> {
    type Value = Option<T>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        self.0.add(Oddity::Kind);
        T::from_text(text)
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut object = T::default();
        read_members(map, &mut object, self.0)?;
        Ok(Some(object))
    }
}

struct ListKinds<'n, T>(&'n Notes, PhantomData<T>);

impl<'de, T: Members<'de>> Kinds<'de> for ListKinds<'_, T> {
    type Value = Option<Vec<T>>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.0.add(Oddity::Kind);
        let mut object = T::default();
        let count = read_members(map, &mut object, self.0)?;
        Ok((count > 0).then(|| vec![object]))
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(Any(ElementKinds::<T>(self.0, PhantomData)))? {
            elements.extend(element);
        }
        Ok(Some(elements))
    }
}

/// An element of a list. An element that is not an object is left out, or read as an empty object if [`Members::IS_STRICT`].
struct ElementKinds<'n, T>(&'n Notes, PhantomData<T>);

impl<'de, T: Members<'de>> Kinds<'de> for ElementKinds<'_, T> {
    type Value = Option<T>;

    fn absent(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        T::IS_STRICT.then(T::default)
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut object = T::default();
        read_members(map, &mut object, self.0)?;
        Ok(Some(object))
    }
}
