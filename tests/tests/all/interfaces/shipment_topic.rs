//! Shipments are read from Kafka with the checks and the idempotency of the order API.

use std::time::{Duration, Instant};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
    producer::{FutureProducer, FutureRecord},
};
use riverlock_ledger::batch;
use riverlock_runtime::Context;
use riverlock_schemas::Mode;
use riverlock_shipments::intake;
use riverlock_tests::{lives, now, record};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::harness::raw::{Raw, execute, value};

const WITHIN: Duration = Duration::from_secs(60);

/// An accepted order with one of its lines and the line's quantity.
async fn accepted(connection: &mut PgConnection) -> (String, String, i64) {
    let lives = lives(3, 60);
    let (life, body) = lives
        .iter()
        .find_map(|life| Some((life, life.events.iter().find(|event| event.event_type == "order.accepted")?)))
        .unwrap();
    let orders = riverlock_processor::Orders::new(vec![Mode::Test]);
    batch::apply(connection, &orders, &[record(0, 0, &body.body)], None, now()).await.unwrap();
    let event: Value = serde_json::from_slice(&body.body).unwrap();
    let item = &event["data"]["object"]["items"][0];
    (life.order_id.clone(), item["id"].as_str().unwrap().to_owned(), item["quantity"].as_i64().unwrap())
}

/// Writes shipments; those of one order to one partition.
async fn write(raw: &Raw, key: &str, bodies: &[Vec<u8>]) {
    let producer: FutureProducer = raw.kafka.producer().create().unwrap();
    for body in bodies {
        let record = FutureRecord::to("riverlock.shipments").key(key).payload(body);
        producer.send(record, WITHIN).await.unwrap();
    }
}

/// Reads shipments until the consumer's offsets add up to `records`; then stops.
async fn read(raw: &Raw, connection: &mut PgConnection, records: i64) {
    let context = Context::new();
    let (kafka, postgres) = (raw.kafka.clone(), raw.database.config.clone());
    context.shutdown.spawn("intake", intake::run(kafka, postgres, context.clone()));
    let begun = Instant::now();
    let offsets = "SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offsets WHERE consumer = 'shipments'";
    while value::<i64>(connection, offsets).await < records {
        assert!(begun.elapsed() < WITHIN, "the records were not read in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    context.shutdown.stop();
    assert!(context.shutdown.wait(WITHIN).await);
}

/// The reasons of the records in the dead-letter topic.
fn dead_letters(raw: &Raw) -> Vec<String> {
    let consumer: BaseConsumer = raw.kafka.consumer("a-test").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..raw.kafka.partitions {
        list.add_partition_offset("riverlock.dead-letter", partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut found, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_secs(3) {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let headers = message.headers().unwrap();
        let reason = headers.iter().find(|header| header.key == "dead-letter-reason").unwrap();
        found.push(String::from_utf8(reason.value.unwrap().to_vec()).unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn shipments_from_kafka_are_stored_once_or_rejected_with_a_message() {
    let raw = Raw::new().await;
    let mut connection = raw.database.connect().await.unwrap();
    let (order, line, quantity) = accepted(&mut connection).await;
    let shipment = |key: &str, order: &str, line: &str, quantity: i64| {
        json!({ "orderId": order, "mode": "test", "idempotencyKey": key, "lines": [{ "lineId": line, "quantity": quantity }] })
            .to_string()
            .into_bytes()
    };
    let bodies = [
        shipment("one", &order, &line, quantity),
        shipment("one", &order, &line, quantity),
        json!({ "orderId": order, "mode": "test", "idempotencyKey": "one", "trackingNumber": "7",
                "lines": [{ "lineId": line, "quantity": quantity }] })
        .to_string()
        .into_bytes(),
        shipment("two", &order, &line, 1),
        shipment("three", &order, "nothing", 1),
        shipment("four", "999", &line, 1),
        shipment("a key", &order, &line, 1),
        shipment("five", "", &line, 1),
        b"<html>".to_vec(),
    ];
    write(&raw, &order, &bodies).await;
    let records = i64::try_from(bodies.len()).unwrap();
    read(&raw, &mut connection, records).await;

    let rejected = intake::rejections(&mut connection, None, 100).await.unwrap();
    let mut codes: Vec<_> = rejected.iter().map(|one| (one.offset, one.outcome.as_str(), one.code.as_str())).collect();
    codes.sort_unstable();
    let expected = [
        (2, "refused", "idempotency_key_reused"),
        (3, "refused", "quantity_too_large"),
        (4, "refused", "unknown_line"),
        (5, "refused", "unknown_order"),
        (6, "refused", "invalid_request"),
        (7, "dead", "shape"),
        (8, "dead", "shape"),
    ];
    assert_eq!(codes, expected);
    assert_eq!(intake::rejections(&mut connection, Some("999"), 100).await.unwrap().len(), 1);
    let stored = "SELECT string_agg(source || ' ' || idempotency_key || ' ' || state, ', ') FROM shipment_reports";
    assert_eq!(value::<String>(&mut connection, stored).await, "kafka one waiting");
    let messages = "SELECT count(*) FROM outbox WHERE kind = 'shipment.refused'";
    assert_eq!(value::<i64>(&mut connection, messages).await, 5);
    let payload = "SELECT convert_from(payload, 'UTF8') FROM outbox WHERE order_id = '999'";
    let message: Value = serde_json::from_str(&value::<String>(&mut connection, payload).await).unwrap();
    assert_eq!(
        (&message["data"]["code"], &message["data"]["refusedBy"]),
        (&json!("unknown_order"), &json!("riverlock"))
    );
    assert_eq!(dead_letters(&raw), ["shape", "shape"]);

    // A database that was restored reads them again, and nothing has another effect.
    execute(&mut connection, "DELETE FROM consumer_offsets WHERE consumer = 'shipments'").await;
    read(&raw, &mut connection, records).await;
    assert_eq!(value::<String>(&mut connection, stored).await, "kafka one waiting");
    assert_eq!(value::<i64>(&mut connection, messages).await, 5);
    assert_eq!(intake::rejections(&mut connection, None, 100).await.unwrap().len(), expected.len());

    // After a restart, reading continues where it stopped.
    write(&raw, &order, &[shipment("six", &order, "nothing", 1)]).await;
    read(&raw, &mut connection, records + 1).await;
    assert_eq!(value::<i64>(&mut connection, messages).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_read_the_same_shipments_at_the_same_time() {
    let raw = Raw::new().await;
    let mut connection = raw.database.connect().await.unwrap();
    let (order, line, _) = accepted(&mut connection).await;
    let bodies: Vec<Vec<u8>> = (0..40)
        .map(|number| {
            json!({ "orderId": order, "mode": "test", "idempotencyKey": format!("k{number}"),
                    "lines": [{ "lineId": line, "quantity": 1_000 }] })
            .to_string()
            .into_bytes()
        })
        .collect();
    write(&raw, &order, &bodies).await;
    let (mut one, mut two) = (raw.database.connect().await.unwrap(), raw.database.connect().await.unwrap());
    let records = i64::try_from(bodies.len()).unwrap();
    tokio::join!(read(&raw, &mut one, records), read(&raw, &mut two, records));
    let messages = "SELECT count(*) FROM outbox WHERE kind = 'shipment.refused'";
    assert_eq!(value::<i64>(&mut connection, messages).await, records);
}
