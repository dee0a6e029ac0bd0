//! The end of a request: its event is in the producer's hands, and the sender waits for what becomes of it.
//!
//! Nothing between the end of the body and the hand-over waits for anything, so a sender that hangs up cannot interrupt it.
//! One that hangs up later ends its request, but not the waiting: it goes on without the sender and is counted as ever.

use std::{sync::Arc, time::Instant};

use riverlock_schemas::text;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    endpoints::Endpoint,
    kafka::producer::Delivery,
    metrics::{Outcome, Tally},
    refusal::Refusal,
    webhook::{
        floods::{Floods, Kind},
        state::{Ingest, SHOWN_ID_CHARS_MAX},
    },
};

/// The answer 202: where the event lies.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// As in the record's header: an id longer than ids may be is there as its hash. For a body that is no event, the hash of
    /// the body.
    event_id: String,
    topic: String,
    partition: i32,
    offset: i64,
}

/// An event that was handed to the producer.
pub(crate) struct SentEvent {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) event_id: String,
    pub(crate) topic: String,
    pub(crate) delivery: oneshot::Receiver<Delivery>,
    /// When the answer is due.
    pub(crate) deadline: Instant,
}

impl SentEvent {
    fn conclude(self, delivery: Delivery, floods: &Floods) -> Result<Receipt, Refusal> {
        let Self { endpoint, event_id, topic, .. } = self;
        match delivery {
            Delivery::Persisted { partition, offset } => {
                tracing::debug!(event.id = ?event_id, topic, partition, offset, "event {event_id:?} is stored");
                Ok(Receipt { event_id, topic, partition, offset })
            }
            Delivery::NotPersisted(code) => {
                floods.warn(Kind::Request(Outcome::NotStored), || {
                    let id = text::bounded(event_id.into(), SHOWN_ID_CHARS_MAX);
                    tracing::warn!(event.id = %id, topic, %code, "event {id} was not stored: {code}");
                });
                Err(Refusal::NotStored)
            }
            Delivery::Ambiguous(code) => {
                endpoint.metrics.ambiguous.increment(1);
                floods.warn(Kind::Request(Outcome::Ambiguous), || {
                    let id = text::bounded(event_id.into(), SHOWN_ID_CHARS_MAX);
                    tracing::warn!(
                        event.id = %id,
                        topic,
                        ?code,
                        "event {id} may be stored or not: Kafka did not say in time"
                    );
                });
                Err(Refusal::Ambiguous)
            }
        }
    }
}

/// Waits for what becomes of an event, whoever still listens.
pub(crate) struct PendingDelivery {
    ingest: Arc<Ingest>,
    /// Until it is concluded.
    rest: Option<(SentEvent, Tally)>,
    /// Nobody listens any more.
    alone: bool,
}

impl PendingDelivery {
    pub(crate) fn new(ingest: &Arc<Ingest>, sent: SentEvent, tally: Tally) -> Self {
        Self { ingest: Arc::clone(ingest), rest: Some((sent, tally)), alone: false }
    }

    pub(crate) async fn answer(mut self) -> Result<Receipt, Refusal> {
        let Some((sent, _)) = &mut self.rest else {
            return Err(Refusal::Internal);
        };
        let delivery = self.ingest.producer.delivered(&mut sent.delivery, sent.deadline).await;
        let Some((sent, mut tally)) = self.rest.take() else {
            return Err(Refusal::Internal);
        };
        let result = sent.conclude(delivery, &self.ingest.floods);
        tally.set(result.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Accepted));
        result
    }
}

impl Drop for PendingDelivery {
    fn drop(&mut self) {
        // At a hard end everything is dropped.
        let ends = self.alone || self.ingest.context.shutdown.hard().is_cancelled();
        if let Some(rest) = self.rest.take().filter(|_| !ends) {
            let waiting = Self { ingest: Arc::clone(&self.ingest), rest: Some(rest), alone: true };
            drop(self.ingest.context.shutdown.spawn_work(waiting.answer()));
        }
    }
}
