//! What a consumer brings.

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use rdkafka::{
    Message, Timestamp,
    message::{BorrowedHeaders, BorrowedMessage, OwnedHeaders},
};
use riverlock_schemas::{
    Envelope, EnvelopeError,
    events::{content::Content, oddity::Oddities},
    record::Position,
};
use sqlx::PgConnection;

use crate::Error;
use crate::detail::DeadReason;

/// A record, copied out of Kafka's buffers.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic's number in the database.
    pub topic_id: i16,
    /// The topic's name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// When the broker took the record; the beginning of 1970 where it did not say.
    pub timestamp: DateTime<Utc>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Option<OwnedHeaders>,
    /// The body, byte for byte as Digital River sent it.
    pub payload: Vec<u8>,
}

impl Record {
    /// A record as the Kafka client has it, copied out of its buffers.
    pub fn copy(message: &BorrowedMessage<'_>, topic_id: i16, topic: Arc<str>) -> Self {
        let millis = match message.timestamp() {
            Timestamp::NotAvailable => 0,
            Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => millis,
        };
        Self {
            topic_id,
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp: DateTime::from_timestamp_millis(millis).unwrap_or_default(),
            key: message.key().map(<[u8]>::to_vec),
            headers: message.headers().map(BorrowedHeaders::detach),
            payload: message.payload().unwrap_or_default().to_vec(),
        }
    }

    /// Where the record lies.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { topic: self.topic.to_string(), partition: self.partition, offset: self.offset }
    }

    /// When the broker took the record; `None` where it did not say.
    #[must_use]
    pub fn received_at(&self) -> Option<DateTime<Utc>> {
        (self.timestamp != DateTime::UNIX_EPOCH).then_some(self.timestamp)
    }

    /// What the record takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + size_of::<Self>()
    }
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<E> {
    /// It takes effect.
    Apply(E),
    /// It is none of this consumer's business, for this reason.
    Ignore(&'static str),
    /// It should take effect and cannot: it goes to the dead letters.
    Dead(DeadReason),
}

/// An event that takes effect now, for the first time.
#[derive(Clone, Debug)]
pub struct NewEvent<E> {
    /// The event.
    pub event: E,
    /// Whether a body that contradicts this one came under the same event id before. Both take part, so that the result does
    /// not depend on which came first.
    pub conflict: bool,
}

/// A body, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRecord<'a, E> {
    /// The event's envelope.
    pub envelope: Envelope<'a>,
    /// What to do with the event.
    pub decision: Decision<E>,
    /// What is unusual in the body.
    pub oddities: Oddities,
}

/// What a consumer makes of events.
pub trait Projection: Send + Sync + 'static {
    /// An event, read and checked.
    type Event: Send + Sync;

    /// The consumer's name: its group in Kafka, its offsets in PostgreSQL, its label in metrics. Never change it.
    fn name(&self) -> &'static str;

    /// What to make of an event. Pure: the same bytes always get the same answer.
    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<Self::Event>;

    /// Reads a body, and says what to make of the event: as [`Self::decide`] does, which a consumer that reads envelope and
    /// payload in one pass, or needs to know when the broker took the record, need not ask. Pure, as that.
    ///
    /// # Errors
    /// When the body is not an event at all.
    fn read<'a>(
        &self,
        body: &'a [u8],
        _received_at: Option<DateTime<Utc>>,
    ) -> Result<ParsedRecord<'a, Self::Event>, EnvelopeError> {
        let (envelope, oddities) = Envelope::parse_noting(body)?;
        let decision = self.decide(&envelope, body);
        Ok(ParsedRecord { envelope, decision, oddities })
    }

    /// Adds what the event says to what its envelope says, so that it can be compared with other bodies under its id.
    fn describe(&self, _event: &Self::Event, _content: &mut Content) {}

    /// Writes what the events do, inside the caller's transaction.
    ///
    /// # Errors
    /// Whatever the database says; the caller rolls back and decides.
    fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<Self::Event>>,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}
