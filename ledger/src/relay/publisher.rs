//! Publishes one queue page by page, as long as the process runs.

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
    Error, PostgresConfig,
    metrics::{self, latency},
    postgres::{Lock, bounded, try_lock},
};

/// Wait before an empty queue is read again.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Wait before a process that does not publish tries again to take the lock.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest and longest wait after an error that affects the whole queue.
const RETRY_WAIT: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);
/// Delivery timeout of a message, in milliseconds. While a partition has no leader, a page waits for its slowest
/// message, and everything after the page waits too.
const DELIVERY_TIMEOUT_MS: &str = "5000";
/// Longest wait for a page's delivery reports, which normally arrive within the delivery timeout.
const REPORT_LIMIT: Duration = Duration::from_secs(20);
/// Limit of a page, in bytes of payload. The producer's queue has room for several pages.
pub(super) const PAGE_BYTES: i64 = 16 * 1024 * 1024;

/// A queue of items to publish.
pub(super) trait Queue: Send {
    /// Identifies an item.
    type Id: Clone + Send + Sync;
    /// Name of the queue in metrics and logs.
    const SOURCE: &'static str;
    /// Lock of the process that publishes it.
    const LOCK: Lock<'static>;
    /// Whether the items are messages, whose payload says when they were written.
    const IS_MESSAGES: bool;
    /// Most items in a page.
    const PAGE_ITEMS: usize;

    /// Resets the state of the queue, because the connection is a new one.
    fn begin(&mut self);

    /// Returns the next items, at most [`PAGE_BYTES`], without those of held groups.
    fn page(
        &mut self,
        connection: &mut PgConnection,
        held: &[String],
    ) -> impl Future<Output = Result<Vec<Item<Self::Id>>, Error>> + Send;

    /// Records that these items are published.
    fn remove(
        &mut self,
        connection: &mut PgConnection,
        ids: &[Self::Id],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Parks an item that cannot be published, with the reason.
    fn park(
        &mut self,
        connection: &mut PgConnection,
        id: &Self::Id,
        reason: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// An item of a queue.
pub(super) struct Item<I> {
    pub(super) id: I,
    /// Items of one group are published in order.
    pub(super) group: String,
    /// Name of the item in logs.
    pub(super) name: String,
    pub(super) key: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) headers: OwnedHeaders,
}

/// Result of sending an item.
#[derive(Debug)]
enum SendResult {
    Delivered,
    Failed(RelayError),
    /// Not sent: an earlier one of its group failed, or the producer's queue was full.
    Skipped,
}

/// Results of a page, by index of the item.
#[derive(Debug, Default)]
struct SendResults {
    /// Published, as were all earlier items of its group.
    published: Vec<usize>,
    /// The first failure of its group.
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

    /// Publishes until the shutdown. Errors are logged and retried.
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
            tracing::warn!(%error, "the relay of {} failed and is retried in {} ms: {error}", Q::SOURCE, wait.as_millis());
            pause(wait, soft).await;
        }
        // Only items interrupted by an error are still in flight, and they are sent again.
        let _ = self.producer.flush(Duration::ZERO);
    }

    /// Works with one connection: takes the lock and publishes until something fails or the process shuts down.
    async fn session(&mut self, soft: &CancellationToken) -> Result<(), RelayError> {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            // A producer with a fatal error rejects everything.
            tracing::error!("the relay of {} creates a new producer: {reason}", Q::SOURCE);
            self.producer = producer(&self.kafka)?;
        }
        let limit = self.postgres.answer_limit();
        let mut connection = self.postgres.connect_as("relay").await?;
        while !bounded(limit, try_lock(&mut connection, Q::LOCK)).await? {
            // Another process is publishing.
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

    /// Publishes a page, and returns whether it was full.
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

    /// Publishes a page. Returns an error only if it affects the whole queue.
    async fn publish(&mut self, connection: &mut PgConnection, items: &[Item<Q::Id>]) -> Result<(), RelayError> {
        if items.is_empty() {
            return Ok(());
        }
        let sent = self.send(items).await;
        let groups: Vec<&str> = items.iter().map(|item| item.group.as_str()).collect();
        let SendResults { published, failed } = sort(&groups, sent);
        let mut moved = !published.is_empty();
        let ids: Vec<Q::Id> = published.iter().map(|index| items[*index].id.clone()).collect();
        self.remove(connection, &ids).await?;
        if Q::IS_MESSAGES {
            latency::published(published.iter().map(|index| items[*index].payload.as_slice()));
        }
        let mut last = None;
        for (index, error) in failed {
            let item = &items[index];
            self.component.beat();
            match self.handle_failure(connection, item, error).await? {
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
        self.component.not_ready(format!("{} and other messages are waiting: {error}", item.name));
        tracing::warn!(%error, "{} was not published; publishing others continues: {error}", item.name);
        Ok(())
    }

    /// Handles an item that failed. Returns `None` if it was removed from the queue, and the error if it stays.
    async fn handle_failure(
        &mut self,
        connection: &mut PgConnection,
        item: &Item<Q::Id>,
        error: RelayError,
    ) -> Result<Option<RelayError>, RelayError> {
        if !error.is_rejection() {
            return Ok(Some(error));
        }
        // Kafka rejects whole batches. An item that is rejected alone is itself the cause.
        let error = match self.send(std::slice::from_ref(item)).await.pop() {
            Some(SendResult::Delivered) => {
                self.remove(connection, std::slice::from_ref(&item.id)).await?;
                return Ok(None);
            }
            Some(SendResult::Failed(error)) if error.is_rejection() => error,
            Some(SendResult::Failed(error)) => return Ok(Some(error)),
            Some(SendResult::Skipped) | None => return Ok(Some(RelayError::NoReport)),
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

    /// Sends items concurrently, those of a group in order, and returns the result of each.
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
            // Does not wait for room, because later items would overtake the waiting one.
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
                    // A success without an offset is inferred, not reported; see ingest's producer.
                    Ok(Ok(Ok(delivery))) if delivery.offset < 0 => SendResult::Failed(RelayError::NoOffset),
                    Ok(Ok(Ok(_))) => SendResult::Delivered,
                    Ok(Ok(Err((error, _)))) => SendResult::Failed(error.into()),
                    Ok(Err(_)) | Err(_) => SendResult::Failed(RelayError::NoReport),
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

/// Sorts the results of a page. Items delivered after a failure of their group are sent again after it.
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
    fn items_count_as_published_up_to_the_first_failure_of_their_group() {
        let failed = || SendResult::Failed(RelayError::NoOffset);
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
