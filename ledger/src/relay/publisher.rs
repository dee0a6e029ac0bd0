//! Publishes one queue, page by page, for as long as the process lives.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant as Moment},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _},
};
use riverlock_runtime::{Backoff, Component, backoff::jittered, kafka::KafkaConfig};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{RelayError, held::HeldGroups};
use crate::{
    Error, PostgresConfig, metrics,
    postgres::{Lock, bounded, try_lock},
};

/// How often the queue is looked at when it is empty.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often a process that does not publish asks whether it may.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest and longest wait after an error that concerns everything.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);
/// How long Kafka may take for a message, in milliseconds. A page waits for its slowest message, and so does all that follows,
/// while a partition has no leader.
const DELIVERY_TIMEOUT_MS: &str = "5000";
/// How long a page's delivery reports are waited for: they come by themselves after the time above.
const REPORT_LIMIT: Duration = Duration::from_secs(20);
/// Where a page of items ends in any case, in bytes of payload. The producer's queue has room for several.
pub(super) const PAGE_BYTES: i64 = 16 * 1024 * 1024;

/// What waits to be published.
pub(super) trait Queue: Send {
    /// What an item is found by.
    type Id: Clone + Send + Sync;
    /// The queue in metrics and logs.
    const SOURCE: &'static str;
    /// The lock of the process that publishes it.
    const LOCK: Lock<'static>;
    /// Most items in a page.
    const PAGE_ITEMS: usize;

    /// Another connection: what was known of the queue may not be so any more.
    fn begin(&mut self);

    /// The items that come next, at most [`PAGE_BYTES`], without those of groups that are held.
    fn page(
        &mut self,
        connection: &mut PgConnection,
        held: &[String],
    ) -> impl Future<Output = Result<Vec<Item<Self::Id>>, Error>> + Send;

    /// These items are published.
    fn remove(
        &mut self,
        connection: &mut PgConnection,
        ids: &[Self::Id],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// This item cannot be published, for this reason.
    fn park(
        &mut self,
        connection: &mut PgConnection,
        id: &Self::Id,
        reason: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// An item of a queue, as it is sent.
pub(super) struct Item<I> {
    pub(super) id: I,
    /// Items of one group are published in order.
    pub(super) group: String,
    /// How the item is called in logs.
    pub(super) name: String,
    pub(super) key: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) headers: OwnedHeaders,
}

/// What became of an item.
#[derive(Debug)]
enum SendResult {
    Delivered,
    Failed(RelayError),
    /// It was not sent: one of its group before it failed, or there was no room.
    Skipped,
}

/// What follows from what became of a page: by number of the item.
#[derive(Debug, Default)]
struct SendResults {
    /// Published, and so was all of its group before it.
    published: Vec<usize>,
    /// The first of its group that failed.
    failed: Vec<(usize, RelayError)>,
}

/// Publishes a queue to a topic.
pub(super) struct Publisher<Q> {
    queue: Q,
    topic: String,
    kafka: KafkaConfig,
    postgres: PostgresConfig,
    component: Component,
    producer: FutureProducer,
    held: HeldGroups,
}

impl<Q: Queue> Publisher<Q> {
    pub(super) fn new(
        queue: Q,
        topic: String,
        kafka: &KafkaConfig,
        postgres: &PostgresConfig,
        component: Component,
    ) -> Result<Self, KafkaError> {
        let (kafka, postgres, producer) = (kafka.clone(), postgres.clone(), producer(kafka)?);
        Ok(Self { queue, topic, kafka, postgres, component, producer, held: HeldGroups::new() })
    }

    /// Runs until the shutdown. Errors are waited out.
    pub(super) async fn run(mut self, soft: &CancellationToken) {
        let mut backoff = Backoff::new(RETRY_WAIT);
        while !soft.is_cancelled() {
            self.component.beat();
            let begun = Moment::now();
            let Err(error) = self.session(soft).await else { continue };
            if begun.elapsed() > RETRY_WAIT.end {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            self.component.not_ready(error.to_string());
            tracing::warn!(%error, "the relay of {} goes on in {} ms: {error}", Q::SOURCE, wait.as_millis());
            pause(wait, soft).await;
        }
        // Nothing is in flight here but what an error interrupted, and that is sent again.
        let _ = self.producer.flush(Duration::ZERO);
    }

    /// One connection's life: take the lock, publish until something fails or the process ends.
    async fn session(&mut self, soft: &CancellationToken) -> Result<(), RelayError> {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            // It would refuse everything for ever.
            tracing::error!("the relay of {} makes a new producer: {reason}", Q::SOURCE);
            self.producer = producer(&self.kafka)?;
        }
        let limit = self.postgres.answer_limit();
        let mut connection = self.postgres.connect_as("relay").await?;
        while !bounded(limit, try_lock(&mut connection, Q::LOCK)).await? {
            // Another process publishes, which is as good.
            self.component.ready();
            self.component.beat();
            pause(jittered(LOCK_INTERVAL), soft).await;
            if soft.is_cancelled() {
                return Ok(());
            }
        }
        self.queue.begin();
        self.held = HeldGroups::new();
        while !soft.is_cancelled() {
            if !self.round(&mut connection).await? {
                pause(POLL_INTERVAL, soft).await;
            }
        }
        Ok(())
    }

    /// Publishes a page, and says whether it was full.
    pub(super) async fn round(&mut self, connection: &mut PgConnection) -> Result<bool, RelayError> {
        self.component.beat();
        let held = self.held.current(Instant::now());
        let items = bounded(self.postgres.answer_limit(), self.queue.page(connection, &held)).await?;
        self.publish(connection, &items).await?;
        if self.held.is_empty() {
            self.held.succeeded();
            self.component.ready();
        }
        Ok(items.len() >= Q::PAGE_ITEMS)
    }

    /// Publishes a page. Only what concerns everything is an error.
    async fn publish(&mut self, connection: &mut PgConnection, items: &[Item<Q::Id>]) -> Result<(), RelayError> {
        if items.is_empty() {
            return Ok(());
        }
        let sent = self.send(items).await;
        let groups: Vec<&str> = items.iter().map(|item| item.group.as_str()).collect();
        let SendResults { published, failed } = sort(&groups, sent);
        let mut moved = !published.is_empty();
        let ids: Vec<Q::Id> = published.into_iter().map(|index| items[index].id.clone()).collect();
        self.remove(connection, &ids).await?;
        let mut last = None;
        for (index, error) in failed {
            let item = &items[index];
            self.component.beat();
            match self.settle(connection, item, error).await? {
                None => moved = true,
                Some(error) => {
                    self.held.hold(&item.group, Instant::now());
                    last = Some((item, error));
                }
            }
        }
        let Some((item, error)) = last else { return Ok(()) };
        if !moved || self.held.is_full() {
            return Err(error);
        }
        self.component.not_ready(format!("{} and others like it wait: {error}", item.name));
        tracing::warn!(%error, "{} was not published, and others go on: {error}", item.name);
        Ok(())
    }

    /// Decides about an item that failed. `None` when it is out of the queue, and the error when it stays.
    async fn settle(
        &mut self,
        connection: &mut PgConnection,
        item: &Item<Q::Id>,
        error: RelayError,
    ) -> Result<Option<RelayError>, RelayError> {
        if !error.is_refusal() {
            return Ok(Some(error));
        }
        // Kafka refuses whole batches. What it refuses alone is to blame itself.
        let error = match self.send(std::slice::from_ref(item)).await.pop() {
            Some(SendResult::Delivered) => {
                self.remove(connection, std::slice::from_ref(&item.id)).await?;
                return Ok(None);
            }
            Some(SendResult::Failed(error)) if error.is_refusal() => error,
            Some(SendResult::Failed(error)) => return Ok(Some(error)),
            Some(SendResult::Skipped) | None => return Ok(Some(RelayError::Unknown)),
        };
        let reason = error.to_string();
        bounded(self.postgres.answer_limit(), self.queue.park(connection, &item.id, &reason)).await?;
        tracing::error!(%error, "{} is parked until `riverlock outbox retry`: {error}", item.name);
        Ok(None)
    }

    async fn remove(&mut self, connection: &mut PgConnection, ids: &[Q::Id]) -> Result<(), RelayError> {
        if !ids.is_empty() {
            bounded(self.postgres.answer_limit(), self.queue.remove(connection, ids)).await?;
            ::metrics::counter!(metrics::RELAYED, "source" => Q::SOURCE).increment(ids.len() as u64);
        }
        Ok(())
    }

    /// Sends items side by side, those of a group in order, and says what became of each.
    async fn send(&self, items: &[Item<Q::Id>]) -> Vec<SendResult> {
        let mut broken: HashSet<&str> = HashSet::new();
        let mut has_room = true;
        let mut pending: Vec<Result<DeliveryFuture, SendResult>> = Vec::with_capacity(items.len());
        for item in items {
            if !has_room || broken.contains(item.group.as_str()) {
                pending.push(Err(SendResult::Skipped));
                continue;
            }
            let record =
                FutureRecord::to(&self.topic).key(&item.key).payload(&item.payload).headers(item.headers.clone());
            // Not waiting for room: what waits would be overtaken.
            pending.push(self.producer.send_result(record).map_err(|(error, _)| {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                    has_room = false;
                    return SendResult::Skipped;
                }
                broken.insert(&item.group);
                SendResult::Failed(error.into())
            }));
        }
        let deadline = Instant::now() + REPORT_LIMIT;
        let mut sent = Vec::with_capacity(items.len());
        for pending in pending {
            sent.push(match pending {
                Err(sent) => sent,
                Ok(delivery) => match timeout_at(deadline, delivery).await {
                    // A success without an offset is only concluded, not reported; see ingest's producer.
                    Ok(Ok(Ok(delivery))) if delivery.offset < 0 => SendResult::Failed(RelayError::Unproven),
                    Ok(Ok(Ok(_))) => SendResult::Delivered,
                    Ok(Ok(Err((error, _)))) => SendResult::Failed(error.into()),
                    Ok(Err(_)) | Err(_) => SendResult::Failed(RelayError::Unknown),
                },
            });
        }
        sent
    }
}

fn producer(kafka: &KafkaConfig) -> Result<FutureProducer, KafkaError> {
    kafka.producer().set("message.timeout.ms", DELIVERY_TIMEOUT_MS).create()
}

async fn pause(wait: Duration, soft: &CancellationToken) {
    tokio::select! {
        () = sleep(wait) => {}
        () = soft.cancelled() => {}
    }
}

/// Sorts a page by what is to be done. What was delivered after a failure of its group is sent again behind it.
fn sort(groups: &[&str], sent: Vec<SendResult>) -> SendResults {
    let (mut sorted, mut stopped) = (SendResults::default(), HashSet::new());
    for (index, (group, sent)) in groups.iter().zip(sent).enumerate() {
        if stopped.contains(group) {
            continue;
        }
        match sent {
            SendResult::Delivered => sorted.published.push(index),
            SendResult::Skipped => {
                stopped.insert(group);
            }
            SendResult::Failed(error) => {
                stopped.insert(group);
                sorted.failed.push((index, error));
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_group_that_is_published_which_lies_before_its_first_failure() {
        let failed = || SendResult::Failed(RelayError::Unproven);
        let groups = ["a", "b", "a", "c", "b", "a", "c", "b"];
        let sent = vec![
            SendResult::Delivered,
            failed(),
            failed(),
            SendResult::Delivered,
            SendResult::Delivered,
            SendResult::Delivered,
            SendResult::Skipped,
            failed(),
        ];
        let sorted = sort(&groups, sent);
        assert_eq!(sorted.published, [0, 3]);
        assert_eq!(sorted.failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
    }
}
