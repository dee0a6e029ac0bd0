//! What a consumer brings.

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use rdkafka::{
    Message, Timestamp,
    message::{BorrowedHeaders, BorrowedMessage, OwnedHeaders},
};
use riverlock_schemas::{Envelope, EnvelopeError, record::Position};
use sqlx::PgConnection;

use crate::Error;

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
    /// When the broker took the record.
    pub timestamp: DateTime<Utc>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Option<OwnedHeaders>,
    /// The body, byte for byte as Digital River sent it.
    pub payload: Vec<u8>,
}

impl Record {
    pub(crate) fn copy(message: &BorrowedMessage<'_>, topic_id: i16, topic: Arc<str>) -> Self {
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
    Dead(Dead),
}

/// Why a record is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// A short, stable name, for labels and lists.
    pub reason: &'static str,
    /// What exactly is wrong, for people.
    pub detail: String,
}

/// An event that takes effect now, for the first time.
#[derive(Clone, Debug)]
pub struct Fresh<E> {
    /// The event.
    pub event: E,
    /// Whether another body came under the same event id before. Both take part, so that the result does not depend on
    /// which came first.
    pub conflict: bool,
}

/// What a consumer makes of events.
pub trait Projection: Send + Sync + 'static {
    /// An event, read and checked.
    type Event: Send + Sync;

    /// The consumer's name: its group in Kafka, its offsets in PostgreSQL, its label in metrics. Never change it.
    fn name(&self) -> &'static str;

    /// What to make of an event. Pure: the same bytes always get the same answer.
    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<Self::Event>;

    /// Reads a body's envelope, and says what to make of the event: as [`Self::decide`] does, which a consumer that reads
    /// both on one way through the body need not ask.
    ///
    /// # Errors
    /// When the body is not an event at all.
    fn read<'a>(&self, body: &'a [u8]) -> Result<(Envelope<'a>, Decision<Self::Event>), EnvelopeError> {
        let envelope = Envelope::parse(body)?;
        let decision = self.decide(&envelope, body);
        Ok((envelope, decision))
    }

    /// Writes what the events do, inside the caller's transaction.
    ///
    /// # Errors
    /// Whatever the database says; the caller rolls back and decides.
    fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<Fresh<Self::Event>>,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}
