//! The last step of a request: its event was handed to the producer, and the sender waits for the result.
//!
//! Nothing between the end of the body and the hand-over waits, so a disconnect cannot interrupt it. A later disconnect
//! ends the request, but not the wait for the delivery report, which continues in the background and is counted as usual.

use std::{sync::Arc, time::Instant};

use riverlock_schemas::text;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    endpoints::Endpoint,
    kafka::producer::Delivery,
    metrics::{Outcome, Tally},
    refusal::Rejection,
    webhook::{
        floods::{Floods, Kind},
        state::{Ingest, SHOWN_ID_CHARS_MAX},
    },
};

/// The answer 202: the position of the event's record.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// As in the record's header: an id that is too long is replaced by its hash. For a body that is not an event, the hash
    /// of the body.
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
    fn conclude(self, delivery: Delivery, floods: &Floods) -> Result<Receipt, Rejection> {
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
                Err(Rejection::NotStored)
            }
            Delivery::Ambiguous(code) => {
                endpoint.metrics.ambiguous.increment(1);
                floods.warn(Kind::Request(Outcome::Ambiguous), || {
                    let id = text::bounded(event_id.into(), SHOWN_ID_CHARS_MAX);
                    tracing::warn!(
                        event.id = %id,
                        topic,
                        ?code,
                        "event {id} may or may not be stored: Kafka did not acknowledge it in time"
                    );
                });
                Err(Rejection::Ambiguous)
            }
        }
    }
}

/// Waits for the delivery report even if the client has disconnected.
pub(crate) struct PendingDelivery {
    ingest: Arc<Ingest>,
    /// `None` once it is concluded.
    pending: Option<(SentEvent, Tally)>,
    /// The client has disconnected; the wait continues in the background.
    is_detached: bool,
}

impl PendingDelivery {
    pub(crate) fn new(ingest: &Arc<Ingest>, sent: SentEvent, tally: Tally) -> Self {
        Self { ingest: Arc::clone(ingest), pending: Some((sent, tally)), is_detached: false }
    }

    pub(crate) async fn answer(mut self) -> Result<Receipt, Rejection> {
        let Some((sent, _)) = &mut self.pending else {
            return Err(Rejection::Internal);
        };
        let delivery = self.ingest.producer.delivered(&mut sent.delivery, sent.deadline).await;
        let Some((sent, mut tally)) = self.pending.take() else {
            return Err(Rejection::Internal);
        };
        let result = sent.conclude(delivery, &self.ingest.floods);
        tally.set(result.as_ref().map_or_else(Rejection::outcome, |_| Outcome::Accepted));
        result
    }
}

impl Drop for PendingDelivery {
    fn drop(&mut self) {
        // At the hard end of the process everything is dropped.
        let ends = self.is_detached || self.ingest.context.shutdown.hard().is_cancelled();
        if let Some(rest) = self.pending.take().filter(|_| !ends) {
            let waiting = Self { ingest: Arc::clone(&self.ingest), pending: Some(rest), is_detached: true };
            drop(self.ingest.context.shutdown.spawn_work(waiting.answer()));
        }
    }
}
