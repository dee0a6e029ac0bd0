//! Times in a payload.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, SeqAccess};

use super::{
    Any, Kinds, Notes, Wire,
    scalar::{TEXT_CHARS_MAX, documented_as},
};
use crate::{
    oddity::Oddity,
    text::{Str, bounded},
    time::{DAY_SECONDS, Moment, Parts, checked, epoch, parse_other_form, parse_rfc3339},
};

/// A time; `Time(None)` if the value is not a valid time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Option<Moment>);

impl Time {
    fn from_other_form(time: Option<Moment>, notes: &Notes) -> Self {
        let time = time.and_then(|moment| Some(Moment { at: checked(moment.at)?, ..moment }));
        notes.add(if time.is_some() { Oddity::TimeForm } else { Oddity::TimeUnreadable });
        Self(time)
    }

    /// The time of the field.
    pub(crate) fn at(self) -> Option<DateTime<Utc>> {
        self.0.map(|moment| moment.at)
    }
}

impl<'de> Wire<'de> for Time {
    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        value.deserialize_any(Any(TimeKinds(notes)))
    }
}

struct TimeKinds<'n>(&'n Notes);

impl<'de> Kinds<'de> for TimeKinds<'_> {
    type Value = Option<Time>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        Some(Time::from_other_form(None, self.0))
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        if let Some(time) = parse_rfc3339(&text) {
            return Some(Time(Some(time.into())));
        }
        let says_something = !text.trim().is_empty();
        says_something.then(|| Time::from_other_form(parse_other_form(&text), self.0))
    }

    fn boolean(self, value: bool) -> Self::Value {
        self.0.add(Oddity::TimeUnreadable);
        value.then_some(Time(None))
    }

    /// Seconds, milliseconds, microseconds or nanoseconds since 1970. Some systems write 0 if there is no time.
    fn integer(self, number: i128) -> Self::Value {
        if number == 0 {
            self.0.add(Oddity::TimeForm);
            return None;
        }
        let time = u64::try_from(number).ok().and_then(epoch);
        Some(Time::from_other_form(time.map(Moment::from), self.0))
    }

    /// The default serialization of Java libraries: `OffsetDateTime` and `LocalDateTime` as their parts, `Instant` as seconds
    /// and nanoseconds.
    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let time = moment_of_map(map)?;
        Ok(Some(Time::from_other_form(time, self.0)))
    }

    /// A list of year, month, day, hour, minute, second and nanosecond, also from Java libraries.
    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut numbers = Vec::with_capacity(LIST_MAX);
        let mut is_time = true;
        while let Some(number) = list.next_element_seed(Any(NumberKinds))? {
            is_time &= numbers.len() < LIST_MAX;
            if let (true, Some(number)) = (is_time, number) {
                numbers.push(number);
            } else {
                is_time = false;
            }
        }
        let part = |index: usize| numbers.get(index).copied().unwrap_or_default();
        let parts = Parts {
            year: part(0),
            month: part(1),
            day: part(2),
            hour: part(3),
            minute: part(4),
            second: part(5),
            nano: part(6),
            // A `LocalDate` has three parts. With a time of day, missing seconds are 0, so the time is exact.
            unit_seconds: if numbers.len() <= DATE_PARTS { DAY_SECONDS } else { 0 },
            ..Parts::default()
        };
        let time = if is_time { parts.read() } else { None };
        Ok(Some(Time::from_other_form(time, self.0)))
    }
}

/// Maximum number of elements of a time as a list.
const LIST_MAX: usize = 7;

/// Number of elements of a date as a list: year, month and day.
const DATE_PARTS: usize = 3;

fn moment_of_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Moment>, A::Error> {
    // A time without an hour is a `LocalDate`.
    let (mut parts, mut seconds, mut ended) = (Parts { unit_seconds: DAY_SECONDS, ..Parts::default() }, None, None);
    while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
        if key == "offset" {
            parts.offset_seconds = map.next_value_seed(Any(OffsetKinds))?.unwrap_or_default();
            continue;
        }
        let Some(number) = map.next_value_seed(Any(NumberKinds))? else { continue };
        match key.as_ref() {
            "year" => parts.year = number,
            "monthValue" | "month" => parts.month = number,
            "dayOfMonth" | "day" => parts.day = number,
            "hour" => (parts.hour, parts.unit_seconds) = (number, 0),
            "minute" => parts.minute = number,
            "second" => parts.second = number,
            "nano" | "nanos" => parts.nano = number,
            "epochSecond" | "seconds" => seconds = Some(number),
            "time" => ended = u64::try_from(number).ok().and_then(epoch),
            _ => {}
        }
    }
    let since = |seconds| DateTime::from_timestamp(seconds, u32::try_from(parts.nano).ok()?);
    let exact = seconds.and_then(since).or(ended).map(Moment::from);
    Ok(exact.or_else(|| parts.read()))
}

/// An integer, also as a string.
struct NumberKinds;

impl<'de> Kinds<'de> for NumberKinds {
    type Value = Option<i64>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        None
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        text.parse().ok()
    }

    fn integer(self, number: i128) -> Self::Value {
        number.try_into().ok()
    }
}

/// Java's `ZoneOffset`.
struct OffsetKinds;

impl<'de> Kinds<'de> for OffsetKinds {
    type Value = Option<i64>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        None
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut offset = None;
        while let Some(Str(key)) = map.next_key::<Str<'de>>()? {
            let number = map.next_value_seed(Any(NumberKinds))?;
            if key == "totalSeconds" {
                offset = number;
            }
        }
        Ok(offset)
    }
}

/// A state with Digital River's name.
pub(crate) trait State: Copy + PartialEq {
    fn named(name: &str) -> Option<Self>;
    fn name(self) -> &'static str;
}

/// `stateTransitions`: states with the times at which they were reached. A state with an invalid time was reached; one without
/// a time was not. If a state is repeated, the earlier time counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transitions<S> {
    known: Vec<(S, Time)>,
    /// Names of states that this version does not know.
    unknown: BTreeMap<String, Time>,
}

impl<S> Default for Transitions<S> {
    fn default() -> Self {
        Self { known: Vec::new(), unknown: BTreeMap::new() }
    }
}

impl<S: State> Transitions<S> {
    /// The known states, sorted by name, and the names of the others.
    pub(crate) fn split(mut self) -> (Vec<(S, Time)>, impl Iterator<Item = String>) {
        self.known.sort_unstable_by_key(|(state, _)| state.name());
        (self.known, self.unknown.into_keys())
    }

    fn add(&mut self, name: Cow<'_, str>, time: Time, notes: &Notes) {
        let known = match S::named(&name) {
            Some(state) => match self.known.iter_mut().find(|(known, _)| *known == state) {
                Some((_, known)) => known,
                None => return self.known.push((state, time)),
            },
            None => match self.unknown.get_mut(name.as_ref()) {
                Some(known) => known,
                None => {
                    self.unknown.insert(name.into_owned(), time);
                    return;
                }
            },
        };
        notes.add(if *known == time { Oddity::RepeatedKey } else { Oddity::ContradictingKey });
        known.0 = known.0.into_iter().chain(time.0).min_by_key(|moment| moment.at);
    }
}

struct TransitionsKinds<'n, S>(&'n Notes, PhantomData<S>);

impl<'de, S: State> Kinds<'de> for TransitionsKinds<'_, S> {
    type Value = Option<Transitions<S>>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        self.0.add(Oddity::Kind);
        None
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut transitions = Transitions::default();
        while let Some(Str(name)) = map.next_key::<Str<'de>>()? {
            if let Some(time) = map.next_value_seed(Any(ReachedKinds(self.0)))? {
                transitions.add(bounded(name, TEXT_CHARS_MAX), time, self.0);
            }
        }
        Ok(Some(transitions))
    }
}

/// The time at which a state was reached. A string without digits (`never`, `n/a`) means that it was not reached.
struct ReachedKinds<'n>(&'n Notes);

impl<'de> Kinds<'de> for ReachedKinds<'_> {
    type Value = Option<Time>;

    fn absent(self) -> Self::Value {
        None
    }

    fn other(self) -> Self::Value {
        TimeKinds(self.0).other()
    }

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
        TimeKinds(self.0).text(text).filter(|_| has_digits)
    }

    fn boolean(self, value: bool) -> Self::Value {
        TimeKinds(self.0).boolean(value)
    }

    fn integer(self, number: i128) -> Self::Value {
        TimeKinds(self.0).integer(number)
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        TimeKinds(self.0).map(map)
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        TimeKinds(self.0).list(list)
    }
}

impl<'de, S: State> Wire<'de> for Transitions<S> {
    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        value.deserialize_any(Any(TransitionsKinds::<S>(notes, PhantomData)))
    }
}

documented_as!(Time, { "type": "string", "description": "ISO 8601 in UTC; an invalid time counts as absent" });

impl<S> JsonSchema for Transitions<S> {
    fn schema_name() -> Cow<'static, str> {
        "Transitions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, Option<Time>>::json_schema(generator)
    }
}
