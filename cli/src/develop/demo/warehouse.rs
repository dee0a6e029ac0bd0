//! A warehouse: it reads what it is asked to ship, and writes shipments to their topic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer as _,
    producer::{FutureProducer, FutureRecord},
};
use riverlock_processor::store;
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT, topics::partitions_of},
};
use riverlock_sandbox::{Api, Life, PlayConfig};
use riverlock_schemas::Mode;
use riverlock_shipments::view;
use serde_json::{Value, json};

use super::restart::{CHECK_INTERVAL, restart_ended};
use crate::{develop::local::Local, terminal::out};

/// How long shipments may take until they are reported and their orders are complete.
const WITHIN: Duration = Duration::from_secs(60);

/// How long the topic of messages may be silent before its end.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Ships the orders that ask for it and whose histories do not: reads `fulfillment.requested`, writes shipments to Kafka, and
/// waits until they are reported and the orders are complete. Returns the orders.
///
/// # Errors
/// When a shipment is not reported, or its order does not become complete.
pub(super) async fn ship(
    local: &mut Local,
    played: &PlayConfig,
    api: &std::sync::Arc<Api>,
) -> anyhow::Result<BTreeSet<String>> {
    let ready: Vec<Life> = played.lives().filter(|life| life.expected.status == "ready").collect();
    for event in ready.iter().flat_map(|life| &life.events) {
        ensure!(api.learn(&event.body).is_ok(), "the sandbox cannot read event {}", event.id);
    }
    let kafka = local.config.kafka.clone();
    let requested = tokio::task::spawn_blocking(move || requested(&kafka)).await.context("reading messages")??;
    let shipments: BTreeMap<String, Value> = ready
        .iter()
        .map(|life| {
            let lines = requested.get(&life.order_id);
            let lines = lines.with_context(|| format!("order {} did not ask to be shipped", life.order_id))?;
            Ok((life.order_id.clone(), shipment(&life.order_id, played, lines)))
        })
        .collect::<anyhow::Result<_>>()?;
    out::line(&format!("shipping {} orders that ask for it, through the topic of shipments", shipments.len()));
    write(&local.config.kafka, &shipments).await?;
    let shipped: BTreeSet<String> = shipments.into_keys().collect();
    until_complete(local, played, &shipped).await?;
    Ok(shipped)
}

/// The lines of every `fulfillment.requested`, by order. Blocks.
fn requested(kafka: &KafkaConfig) -> anyhow::Result<BTreeMap<String, Value>> {
    let topic = kafka.topics().fulfillment();
    let consumer = ConsumerGuard::create(&kafka.consumer("demo-warehouse"))?;
    let (mut list, mut left) = (TopicPartitionList::new(), 0);
    for partition in 0..partitions_of(kafka, &topic)? {
        let (low, high) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)?;
        left += high - low;
        list.add_partition_offset(&topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut found = BTreeMap::new();
    let mut heard = Instant::now();
    while left > 0 {
        let Some(message) = consumer.poll(Duration::from_millis(500)) else {
            ensure!(heard.elapsed() < SILENCE_MAX, "{left} messages cannot be read");
            continue;
        };
        let message = message?;
        (left, heard) = (left - 1, Instant::now());
        let message: Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
        if message["type"] == "fulfillment.requested"
            && let Some(order_id) = message["subject"].as_str()
        {
            found.insert(order_id.to_owned(), message["data"]["lines"].clone());
        }
    }
    Ok(found)
}

/// A shipment of all lines of an order.
fn shipment(order_id: &str, played: &PlayConfig, lines: &Value) -> Value {
    let line = |line: &Value| json!({ "lineId": line["lineId"], "quantity": line["quantity"] });
    json!({
        "orderId": order_id,
        "mode": Mode::from_live(played.mode.is_live()),
        "idempotencyKey": format!("demo-{order_id}"),
        "lines": lines.as_array().into_iter().flatten().map(line).collect::<Vec<_>>(),
        "trackingCompany": "DHL",
        "trackingNumber": format!("JD{order_id}"),
    })
}

async fn write(kafka: &KafkaConfig, shipments: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    let (producer, topic): (FutureProducer, String) = (kafka.producer().create()?, kafka.topics().shipments());
    for (order_id, shipment) in shipments {
        let body = shipment.to_string();
        let record = FutureRecord::to(&topic).key(order_id).payload(&body);
        producer.send(record, REQUEST_TIMEOUT).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

async fn until_complete(local: &mut Local, played: &PlayConfig, shipped: &BTreeSet<String>) -> anyhow::Result<()> {
    let (begun, ids) = (Instant::now(), shipped.iter().cloned().collect::<Vec<_>>());
    let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).saturating_add(1);
    loop {
        let mut connection = local.config.postgres.connect().await?;
        let reports = view::list(&mut connection, None, Some("reported"), None, limit).await?;
        let statuses = store::statuses(&mut connection, Mode::from_live(played.mode.is_live()), &ids).await?;
        let complete = statuses.values().filter(|status| *status == "complete").count();
        if reports.len() == ids.len() && complete == ids.len() {
            return Ok(());
        }
        if begun.elapsed() > WITHIN {
            bail!("{} of {} shipments are reported, and {complete} of their orders complete", reports.len(), ids.len());
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
        restart_ended(local).await?;
    }
}
