//! What the payload types share: tolerant values, and why a payload cannot be used.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    str::FromStr,
};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    Envelope, Mode, OrderId,
    envelope::json_text,
    ids::IdError,
    order_state::{LineState, OrderState},
    text::{Str, bounded},
    time::parse_time,
};

/// Longest free text that is kept from a payload, in characters; the rest stays in the raw record.
pub const TEXT_CHARS_MAX: usize = 1_000;

/// Why an event of a type that has a consumer cannot be applied. Such a record becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The event's own id cannot be a key.
    #[error("the event id {0}")]
    EventId(IdError),
    /// The order's id is absent or cannot be a key.
    #[error("the order id {0}")]
    OrderId(IdError),
    /// A line has no id, or one that cannot be a key.
    #[error("the id of line {index} {source}")]
    LineId {
        /// Position in `items`, from 0.
        index: usize,
        /// What is wrong with it.
        source: IdError,
    },
    /// The file's id is not a UUID.
    #[error("the file id {0}")]
    FileId(IdError),
    /// The fulfillment has no id, or one that cannot be a key.
    #[error("the fulfillment id {0}")]
    FulfillmentId(IdError),
    /// Neither the event nor its object says whether it is live; guessing could ship a test order.
    #[error("neither the event nor its object has a `liveMode`")]
    Mode,
    /// Neither the object nor the event says when it was; without a time it cannot be ordered.
    #[error("neither the order nor the event has a time that can be read")]
    Time,
    /// The payload has not the shape of its type.
    #[error("the payload cannot be read: {0}")]
    Shape(String),
}

impl PayloadError {
    /// A short, stable name of the reason, for labels and lists.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::EventId(_) => "event_id",
            Self::OrderId(_) => "order_id",
            Self::LineId { .. } => "line_id",
            Self::FileId(_) => "file_id",
            Self::FulfillmentId(_) => "fulfillment_id",
            Self::Mode => "live_mode",
            Self::Time => "time",
            Self::Shape(_) => "shape",
        }
    }
}

/// Reads `data.object` of a body as `T`.
pub(crate) fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, PayloadError> {
    #[derive(Deserialize)]
    struct Event<T> {
        data: Data<T>,
    }
    #[derive(Deserialize)]
    struct Data<T> {
        object: T,
    }
    let text = json_text(body).map_err(|error| PayloadError::Shape(error.to_string()))?;
    let event: Event<T> = serde_json::from_str(text).map_err(|error| PayloadError::Shape(error.to_string()))?;
    Ok(event.data.object)
}

/// The order that an event belongs to.
pub(crate) fn order_key(envelope: &Envelope<'_>) -> Result<(OrderId, Mode), PayloadError> {
    let order_id = envelope.order_id.as_deref().unwrap_or_default();
    let order_id = OrderId::parse(order_id).map_err(PayloadError::OrderId)?;
    Ok((order_id, envelope.mode.ok_or(PayloadError::Mode)?))
}

/// A text that people read and nothing depends on: control characters are replaced, length is limited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Str(text) = Str::deserialize(deserializer)?;
        Ok(Self(bounded(text, TEXT_CHARS_MAX).into_owned()))
    }
}

pub(crate) fn text(value: Option<Text>) -> Option<String> {
    value.map(|text| text.0).filter(|text| !text.is_empty())
}

/// A time; unreadable is the same as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Option<DateTime<Utc>>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(parse_time(&Str::deserialize(deserializer)?.0)))
    }
}

pub(crate) fn time(value: Option<Time>) -> Option<DateTime<Utc>> {
    value.and_then(|time| time.0)
}

/// An exact decimal number, never through a binary float. A number that does not fit is an error, not an approximation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Money(pub(crate) Decimal);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let digits = raw.get().trim_matches('"');
        let exact = match digits.split_once(['e', 'E']) {
            None => Decimal::from_str_exact(digits).ok(),
            Some(_) => Decimal::from_scientific(digits).ok(),
        };
        let amount = exact
            .ok_or_else(|| D::Error::custom(format!("`{digits:.40}` is not an amount that can be kept exactly")))?;
        Ok(Self(amount.normalize()))
    }
}

/// A number of pieces: a whole number from 0 to [`Quantity::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity(pub(crate) i64);

impl Quantity {
    /// The most pieces that a line may have.
    pub(crate) const MAX: i64 = 1_000_000_000;
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Money(number) = Money::deserialize(deserializer)?;
        let whole = i64::from_str(&number.to_string()).ok().filter(|pieces| (0..=Self::MAX).contains(pieces));
        whole.map(Self).ok_or_else(|| D::Error::custom(format!("`{number}` is not a number of pieces")))
    }
}

macro_rules! value_schema {
    ($name:ident, $schema:tt) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

value_schema!(Text, { "type": "string" });
value_schema!(Time, { "type": "string", "description": "ISO 8601 in UTC; what cannot be read counts as absent" });
value_schema!(Money, { "type": ["number", "string"], "pattern": "^-?[0-9.eE+-]+$" });
value_schema!(Quantity, { "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000_000, "pattern": "^[0-9]" });

/// A state by the name that Digital River writes.
pub(crate) trait State: Copy + PartialEq {
    fn named(name: &str) -> Option<Self>;
    fn name(self) -> &'static str;
}

impl State for OrderState {
    fn named(name: &str) -> Option<Self> {
        Self::parse(name)
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl State for LineState {
    fn named(name: &str) -> Option<Self> {
        Self::parse(name)
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

/// `stateTransitions`: states with the time they were reached. Times that cannot be read are left out; of a state that stands
/// there twice the last time counts.
#[derive(Debug)]
pub(crate) struct Transitions<S> {
    known: Vec<(S, Option<DateTime<Utc>>)>,
    /// States that this version does not know.
    unknown: BTreeMap<String, Option<DateTime<Utc>>>,
}

impl<S> Default for Transitions<S> {
    fn default() -> Self {
        Self { known: Vec::new(), unknown: BTreeMap::new() }
    }
}

impl<S: State> Transitions<S> {
    /// The known states by name, in whatever order they were written, and the names of the others.
    pub(crate) fn split(mut self) -> (Vec<(S, DateTime<Utc>)>, BTreeSet<String>) {
        self.known.sort_unstable_by_key(|(state, _)| state.name());
        let known = self.known.into_iter().filter_map(|(state, time)| Some((state, time?))).collect();
        let unknown = self.unknown.into_iter().filter(|(_, time)| time.is_some()).map(|(name, _)| name).collect();
        (known, unknown)
    }
}

impl<'de, S: State> Deserialize<'de> for Transitions<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TransitionsVisitor<S>(PhantomData<S>);
        impl<'de, S: State> Visitor<'de> for TransitionsVisitor<S> {
            type Value = Transitions<S>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut transitions = Transitions::default();
                while let Some((Str(name), value)) = map.next_entry::<Str<'de>, Option<Time>>()? {
                    let (name, time) = (bounded(name, TEXT_CHARS_MAX), time(value));
                    let Some(state) = S::named(&name) else {
                        transitions.unknown.insert(name.into_owned(), time);
                        continue;
                    };
                    match transitions.known.iter_mut().find(|(known, _)| *known == state) {
                        Some((_, known)) => *known = time,
                        None => transitions.known.push((state, time)),
                    }
                }
                Ok(transitions)
            }
        }
        deserializer.deserialize_map(TransitionsVisitor(PhantomData))
    }
}

impl<S> JsonSchema for Transitions<S> {
    fn schema_name() -> Cow<'static, str> {
        "Transitions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<Text, Option<Time>>::json_schema(generator)
    }
}
