//! What the payload types share: why a payload cannot be used, and which times are believed.

use chrono::{DateTime, TimeDelta, Utc};

pub use crate::wire::scalar::TEXT_CHARS_MAX;
use crate::{
    Envelope, LineId, Mode, OrderId,
    events::oddity::Oddity,
    ids::IdError,
    wire::{Notes, scalar::Id, time::Time},
};

/// How far past the moment of its receipt a time in an event may lie. A later one is a mistake, and would make a snapshot the
/// newest for ever; clocks and time zones that are wrong stay below it.
pub const FUTURE_MAX: TimeDelta = TimeDelta::days(1);

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
    /// Two lines of an order have one id, and another product or quantity: one of them would never be shipped.
    #[error("line {0} stands twice, with another product or quantity")]
    LineTwice(LineId),
    /// The file's id is not a UUID.
    #[error("the file id {0}")]
    FileId(IdError),
    /// The fulfillment has no id, or one that cannot be a key.
    #[error("the fulfillment id {0}")]
    FulfillmentId(IdError),
    /// Neither the event nor its object says whether it is live; guessing could ship a test order.
    #[error("neither the event nor its object has a `liveMode`")]
    Mode,
    /// Neither the object nor the event says when it was, and the time of receipt is not known; it cannot be ordered.
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
            Self::LineTwice(_) => "line_twice",
            Self::FileId(_) => "file_id",
            Self::FulfillmentId(_) => "fulfillment_id",
            Self::Mode => "live_mode",
            Self::Time => "time",
            Self::Shape(_) => "shape",
        }
    }
}

/// The order that an event belongs to.
pub(crate) fn order_key(envelope: &Envelope<'_>, notes: &Notes) -> Result<(OrderId, Mode), PayloadError> {
    let order_id = whole(envelope.order_id.as_deref().unwrap_or_default(), notes).and_then(OrderId::parse);
    let order_id = order_id.map_err(PayloadError::OrderId)?;
    Ok((order_id, envelope.mode.ok_or(PayloadError::Mode)?))
}

/// The text of an id; empty where there is none.
///
/// # Errors
/// When a character of it was replaced: it may be another id.
pub(crate) fn id_text(id: Option<Id>, notes: &Notes) -> Result<String, IdError> {
    let Id(text) = id.unwrap_or(Id(String::new()));
    whole(&text, notes)?;
    Ok(text)
}

fn whole<'a>(id: &'a str, notes: &Notes) -> Result<&'a str, IdError> {
    let is_damaged = notes.oddities().contains(Oddity::Encoding) && id.contains(char::REPLACEMENT_CHARACTER);
    if is_damaged { Err(IdError::Damaged) } else { Ok(id) }
}

/// Tells the times of an event that can be from those that cannot.
#[derive(Clone, Copy)]
pub(crate) struct Times<'n> {
    latest: Option<DateTime<Utc>>,
    created_time: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
    notes: &'n Notes,
}

impl<'n> Times<'n> {
    /// Times of an event that was received then, or at least made then.
    pub(crate) fn new(
        received_at: Option<DateTime<Utc>>,
        created_time: Option<DateTime<Utc>>,
        notes: &'n Notes,
    ) -> Self {
        let latest = received_at.or(created_time).and_then(|time| time.checked_add_signed(FUTURE_MAX));
        Self { latest, created_time, received_at, notes }
    }

    /// The time, unless it lies in the future.
    pub(crate) fn believed(self, time: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let is_late = time.is_some() && self.latest.is_some() && time > self.latest;
        if is_late {
            self.notes.add(Oddity::TimeInFuture);
        }
        time.filter(|_| !is_late)
    }

    /// The same for a time as it was written.
    pub(crate) fn read(self, time: Option<Time>) -> Option<DateTime<Utc>> {
        self.believed(time.and_then(Time::at))
    }

    /// The same for a time that orders snapshots. One without seconds would make its snapshot older than it is; the event's own
    /// time is nearer to it.
    pub(crate) fn updated(self, time: Option<Time>) -> Option<DateTime<Utc>> {
        let moment = time.and_then(|time| time.0)?;
        let is_exact = moment.unit == TimeDelta::zero() || self.created_time.is_none_or(|created| created < moment.at);
        self.believed(is_exact.then_some(moment.at))
    }

    /// The same for a time at which a state was reached, in a snapshot made at `as_of`. One without seconds says nothing beside
    /// that, if it includes it.
    pub(crate) fn reached(self, time: Time, as_of: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let moment = time.0?;
        let includes = |as_of: DateTime<Utc>| (moment.at..moment.at + moment.unit).contains(&as_of);
        if as_of.is_some_and(includes) { None } else { self.believed(Some(moment.at)) }
    }

    /// When the event was made, or else received.
    pub(crate) fn of_event(self) -> Option<DateTime<Utc>> {
        self.created_time.or(self.received_at)
    }

    pub(crate) fn notes(self) -> &'n Notes {
        self.notes
    }
}
