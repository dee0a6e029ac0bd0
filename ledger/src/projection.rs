//! The interface that a consumer implements.

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use rdkafka::{
    Message, Timestamp,
    message::{BorrowedHeaders, BorrowedMessage, Headers as _, OwnedHeaders},
};
use riverlock_schemas::{Envelope, EnvelopeError, events::content::Content, kafka::record::Position, oddity::Oddities};
use sqlx::PgConnection;

use crate::{Error, detail::DeadReason};

/// A record, copied out of the Kafka client's buffers.
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
    /// When Kafka stored the record; 1970-01-01 if unknown.
    pub timestamp: DateTime<Utc>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Option<OwnedHeaders>,
    /// The body, unchanged as Digital River sent it.
    pub payload: Vec<u8>,
}

impl Record {
    /// Copies a record out of the Kafka client's buffers.
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

    /// Position of the record.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { topic: self.topic.to_string(), partition: self.partition, offset: self.offset }
    }

    /// When Kafka stored the record, if known.
    #[must_use]
    pub fn received_at(&self) -> Option<DateTime<Utc>> {
        (self.timestamp != DateTime::UNIX_EPOCH).then_some(self.timestamp)
    }

    /// The value of a header; `None` if the record does not have it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.as_ref()?.iter().find(|header| header.key == name)?.value
    }

    /// Approximate size of the record in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + size_of::<Self>()
    }
}

/// A consumer's decision about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<E> {
    /// Apply the event.
    Apply(E),
    /// Not handled by this consumer; the reason is recorded.
    Ignore(&'static str),
    /// The event cannot be applied: the record becomes a dead letter.
    Dead(DeadReason),
}

/// An event that is applied for the first time.
#[derive(Clone, Debug)]
pub struct NewEvent<E> {
    /// The event.
    pub event: E,
    /// Whether its body contradicts an earlier body of the same event. Both are applied, so that the result does not
    /// depend on their order.
    pub conflict: bool,
}

/// A parsed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRecord<'a, E> {
    /// The event's envelope.
    pub envelope: Envelope<'a>,
    /// The decision about the event.
    pub decision: Decision<E>,
    /// Oddities of the body.
    pub oddities: Oddities,
}

/// How a consumer reads and applies events.
pub trait Projection: Send + Sync + 'static {
    /// A parsed and validated event.
    type Event: Send + Sync;
    /// What was applied in a transaction; passed to [`Self::committed`].
    type Applied: Send;

    /// The consumer's name: its group in Kafka, its offsets in PostgreSQL, its label in metrics. It must never change.
    fn name(&self) -> &'static str;

    /// Decides about an event. Pure: the same bytes always lead to the same decision.
    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<Self::Event>;

    /// Reads a body and decides about the event like [`Self::decide`]. Overridden by consumers that parse envelope and
    /// payload in one pass, or need the time at which Kafka stored the record. Pure as well.
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

    /// Adds the event's content to that of its envelope, so that it can be compared with other bodies of the same
    /// event.
    fn describe(&self, _event: &Self::Event, _content: &mut Content) {}

    /// Applies the events inside the caller's transaction.
    ///
    /// # Errors
    /// Database errors; the caller rolls back.
    fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<Self::Event>>,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Self::Applied, Error>> + Send;

    /// Called after the transaction of [`Self::apply`] was committed. It is not called if the caller commits it, or if
    /// the commit's answer was lost.
    fn committed(&self, _applied: Self::Applied) {}

    /// Called when a consumer has a new connection: the database may have been restored, and whatever is known of its
    /// content is out of date.
    fn connected(&self) {}
}
