//! The backlog in Kafka: generated events in the order in which they happened, so that an order's events are apart as in a
//! real backlog.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_sandbox::{Life, Mode, PlannedEvent, PlayConfig};
use riverlock_schemas::kafka::record;

/// How long Kafka may take to acknowledge the last records.
const FLUSH_WITHIN: Duration = Duration::from_secs(120);
/// Only the length of the signature matters.
const SIGNATURE: &str = "t=1767600000,v1=0000000000000000000000000000000000000000000000000000000000000000";

/// The backlog in Kafka.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// All events of many orders by creation time, generated on demand.
struct History {
    coming: Life,
    /// Generated events that are not due yet, by time and number.
    waiting: BTreeMap<(DateTime<Utc>, u64), PlannedEvent>,
    made: u64,
}

impl History {
    fn new() -> Self {
        Self { coming: life(0), waiting: BTreeMap::new(), made: 0 }
    }
}

fn life(index: u64) -> Life {
    Life::generate(1, index, Mode::Test, PlayConfig::default_start())
}

impl Iterator for History {
    type Item = PlannedEvent;

    fn next(&mut self) -> Option<PlannedEvent> {
        loop {
            // Orders begin one after the other: no later order has an event before the first one of this order.
            let begins = self.coming.events.first()?.created_time;
            if self.waiting.first_key_value().is_some_and(|((at, _), _)| *at < begins) {
                return self.waiting.pop_first().map(|(_, event)| event);
            }
            let following = life(self.coming.index + 1);
            let begun = std::mem::replace(&mut self.coming, following);
            for event in begun.events {
                self.made += 1;
                self.waiting.insert((event.created_time, self.made), event);
            }
        }
    }
}

/// Counts records that Kafka did not accept.
#[derive(Clone, Default)]
struct Reports(Arc<AtomicU64>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes `events` events that the processor reads, as ingest does.
pub(crate) fn produce(kafka: &KafkaConfig, events: usize) -> anyhow::Result<Backlog> {
    let (topics, reports) = (kafka.topics(), Reports::default());
    let mut client = kafka.producer();
    // Latency does not matter here, and the queue is always full.
    client.set("linger.ms", "20").set("batch.size", "1000000").set("message.timeout.ms", "300000");
    let producer: BaseProducer<Reports> = client.create_with_context(reports.clone())?;
    let files = topics.documents();
    let mut backlog = Backlog::default();
    for event in History::new() {
        let topic = topics.raw(event.event_type);
        if files.contains(&topic) {
            continue;
        }
        send(&producer, &topic, &event)?;
        backlog.events += 1;
        backlog.bytes += event.body.len();
        if backlog.events == events {
            break;
        }
    }
    producer.flush(FLUSH_WITHIN).context("Kafka does not accept the events")?;
    let refused = reports.0.load(Ordering::Relaxed);
    anyhow::ensure!(refused == 0, "Kafka did not accept {refused} events");
    Ok(backlog)
}

fn send(producer: &BaseProducer<Reports>, topic: &str, event: &PlannedEvent) -> anyhow::Result<()> {
    let created = event.created_time.to_rfc3339();
    let headers = [
        (record::EVENT_ID, event.id.as_str()),
        (record::EVENT_TYPE, event.event_type),
        (record::LIVE_MODE, "false"),
        (record::ENDPOINT, "bench"),
        (record::RECEIVED_AT, created.as_str()),
        (record::SIGNATURE, SIGNATURE),
        (record::SECRET_ID, "bench"),
        (record::ORIGIN, record::ORIGIN_WEBHOOK),
    ];
    let headers = headers
        .into_iter()
        .fold(OwnedHeaders::new_with_capacity(8), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let key = event.order_id.as_deref().unwrap_or(&event.id);
    let mut record = BaseRecord::to(topic).key(key).payload(event.body.as_ref()).headers(headers);
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
            Err((error, _)) => return Err(error.into()),
        };
        producer.poll(Duration::from_millis(10));
    }
}
