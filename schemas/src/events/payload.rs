//! Shared by the payload types: errors, and validation of times.

use chrono::{DateTime, TimeDelta, Utc};

pub use crate::wire::scalar::TEXT_CHARS_MAX;
use crate::{
    Envelope, LineId, Mode, OrderId,
    ids::IdError,
    oddity::Oddity,
    wire::{Notes, scalar::Id, time::Time},
};

/// Maximum time by which a time in an event may be later than its receipt. A later time is an error, and would make a snapshot
/// the newest permanently. Errors from wrong clocks and time zones are smaller.
pub const FUTURE_MAX: TimeDelta = TimeDelta::days(1);

/// The reason why an event cannot be applied. Its record becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The event's id is not valid.
    #[error("the event id {0}")]
    EventId(IdError),
    /// The order's id is absent or not valid.
    #[error("the order id {0}")]
    OrderId(IdError),
    /// A line's id is absent or not valid.
    #[error("the id of line {index} {source}")]
    LineId {
        /// Position in `items`, from 0.
        index: usize,
        /// The error of the id.
        source: IdError,
    },
    /// Two lines of an order have the same id and different products or quantities. Accepting them would leave one unshipped.
    #[error("line {0} is repeated with another product or quantity")]
    LineTwice(LineId),
    /// The file's id is not a UUID.
    #[error("the file id {0}")]
    FileId(IdError),
    /// The fulfillment's id is absent or not valid.
    #[error("the fulfillment id {0}")]
    FulfillmentId(IdError),
    /// Neither the event nor its object has `liveMode`. Guessing it could ship a test order.
    #[error("neither the event nor its object has a `liveMode`")]
    Mode,
    /// Neither the object nor the event has a valid time, and the time of receipt is unknown, so snapshots cannot be ordered.
    #[error("neither the order nor the event has a valid time")]
    Time,
    /// The payload does not have the shape of its type.
    #[error("invalid payload: {0}")]
    Shape(String),
}

impl PayloadError {
    /// A short, stable code of the reason, for metric labels and lists.
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

/// The text of an id; empty if there is none.
///
/// # Errors
/// When a character of it was replaced, because the original may be another id.
pub(crate) fn id_text(id: Option<Id>, notes: &Notes) -> Result<String, IdError> {
    let Id(text) = id.unwrap_or(Id(String::new()));
    whole(&text, notes)?;
    Ok(text)
}

fn whole<'a>(id: &'a str, notes: &Notes) -> Result<&'a str, IdError> {
    let is_damaged = notes.oddities().contains(Oddity::Encoding) && id.contains(char::REPLACEMENT_CHARACTER);
    if is_damaged { Err(IdError::Damaged) } else { Ok(id) }
}

/// Validates the times of an event.
#[derive(Clone, Copy)]
pub(crate) struct Times<'n> {
    latest: Option<DateTime<Utc>>,
    created_time: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
    notes: &'n Notes,
}

impl<'n> Times<'n> {
    /// For an event that was received at `received_at`, or if that is unknown, created at `created_time`.
    pub(crate) fn new(
        received_at: Option<DateTime<Utc>>,
        created_time: Option<DateTime<Utc>>,
        notes: &'n Notes,
    ) -> Self {
        let latest = received_at.or(created_time).and_then(|time| time.checked_add_signed(FUTURE_MAX));
        Self { latest, created_time, received_at, notes }
    }

    /// The time, unless it is too far in the future.
    pub(crate) fn valid(self, time: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let is_late = time.is_some() && self.latest.is_some() && time > self.latest;
        if is_late {
            self.notes.add(Oddity::TimeInFuture);
        }
        time.filter(|_| !is_late)
    }

    /// The valid time of a field.
    pub(crate) fn read(self, time: Option<Time>) -> Option<DateTime<Utc>> {
        self.valid(time.and_then(Time::at))
    }

    /// The valid time of a field that orders snapshots. A time without seconds would make its snapshot older than it is; the
    /// event's time is more accurate.
    pub(crate) fn updated(self, time: Option<Time>) -> Option<DateTime<Utc>> {
        let moment = time.and_then(|time| time.0)?;
        let is_exact = moment.unit == TimeDelta::zero() || self.created_time.is_none_or(|created| created < moment.at);
        self.valid(is_exact.then_some(moment.at))
    }

    /// The valid time of a state in a snapshot of `as_of`. A time without seconds whose unit contains `as_of` is replaced by
    /// `as_of`, which is more accurate.
    pub(crate) fn reached(self, time: Time, as_of: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let moment = time.0?;
        let includes = |as_of: DateTime<Utc>| (moment.at..moment.at + moment.unit).contains(&as_of);
        if as_of.is_some_and(includes) { None } else { self.valid(Some(moment.at)) }
    }

    /// The time at which the event was created, or else received.
    pub(crate) fn of_event(self) -> Option<DateTime<Utc>> {
        self.created_time.or(self.received_at)
    }

    pub(crate) fn notes(self) -> &'n Notes {
        self.notes
    }
}
