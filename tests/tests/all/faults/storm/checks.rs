//! The conditions that must hold after a storm.

use std::{
    collections::{BTreeSet, HashMap},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use riverlock_ledger::batch;
use riverlock_recovery::audit;
use riverlock_schemas::Mode;
use riverlock_tests::{Database, binary, hostile, now, record, state};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Acknowledged, Storm, Traffic};

/// Checks all conditions once everything is processed.
pub(super) async fn check(storm: &Storm, traffic: &Traffic, acknowledged: &Acknowledged) -> anyhow::Result<()> {
    let config = &storm.world.local.config;
    let mut connection = config.postgres.connect().await?;
    let consumers = config.consumers();
    let report = audit::run(&config.kafka, &mut connection, &consumers).await?;
    ensure!(report.balances() && report.pending == 0, "{report}: {:?}", report.findings);
    let output = Command::new(binary()?).arg("--config").arg(&storm.world.local.config_file).arg("audit").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let sent: u64 = acknowledged.values().map(|count| count.unsigned_abs()).sum();
    ensure!(report.acknowledged >= sent, "{sent} deliveries were acknowledged, but {report}");
    outcomes(&mut connection, acknowledged).await?;
    let verified = riverlock::develop::demo::verify::run(&storm.world.play, config, &mut connection).await?;
    ensure!(verified.problems_total == 0, "{:?}", verified.problems);
    effects(storm, &mut connection).await?;

    let reference = Database::create().await?;
    let mut plain = reference.connect().await?;
    let orders = riverlock_processor::Orders::new(vec![Mode::Test, Mode::Live]);
    let lives: Vec<_> = storm.world.play.lives().collect();
    let bodies = riverlock_tests::events(&lives).map(|event| &event.body).chain(&traffic.contradictions);
    let records: Vec<_> = bodies.zip(0..).map(|(body, offset)| record(0, offset, body)).collect();
    batch::apply(&mut plain, &orders, &records, None, now()).await?;
    ensure!(state(&mut connection).await? == state(&mut plain).await?, "the tables differ");
    for service in &storm.services {
        let log = std::fs::read_to_string(&service.log)?;
        ensure!(!log.contains("panicked"), "{} has panicked; see {}", service.name, service.log.display());
    }
    Ok(())
}

/// Every event has one outcome apart from duplicates, and at least one record for each acknowledgement.
async fn outcomes(connection: &mut PgConnection, acknowledged: &Acknowledged) -> anyhow::Result<()> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT coalesce(event_id, ''), count(*), count(*) FILTER (WHERE outcome NOT IN ('duplicate', 'conflict'))
         FROM event_records GROUP BY 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    let rows: HashMap<String, (i64, i64)> = rows.into_iter().map(|(id, all, first)| (id, (all, first))).collect();
    for (id, count) in acknowledged.iter().filter(|(id, _)| !id.is_empty() && id.len() <= 255 && !id.contains('\0')) {
        let (all, first) = rows.get(id).with_context(|| format!("event {id} has no outcome"))?;
        ensure!(all >= count && *first == 1, "event {id}: {count} acknowledged, {all} records, {first} outcomes");
    }
    let found: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT reason FROM dead_letters").fetch_all(connection).await?;
    let expected = hostile::corpus().into_iter().filter(|odd| odd.outcome == "dead").filter_map(|odd| odd.reason);
    let (found, expected): (BTreeSet<String>, BTreeSet<String>) =
        (found.into_iter().collect(), expected.map(str::to_owned).collect());
    ensure!(found == expected, "dead letters {found:?} and not {expected:?}");
    Ok(())
}

/// Kafka has exactly the messages of the effects that have fired, and those of one order in order.
async fn effects(storm: &Storm, connection: &mut PgConnection) -> anyhow::Result<()> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT row_number() OVER (ORDER BY fired_at, number), order_id,
                concat_ws(':', CASE WHEN live_mode THEN 'live' ELSE 'test' END,
                          replace(replace(order_id, '%', '%25'), ':', '%3A'), kind, nullif(effect_key, ''))
         FROM effects",
    )
    .fetch_all(connection)
    .await?;
    let mut numbers = HashMap::new();
    for (number, order_id, id) in &rows {
        ensure!(numbers.insert(id.clone(), (*number, order_id.as_str())).is_none(), "two messages have one id");
    }
    let kafka = storm.world.local.config.kafka.clone();
    let published = tokio::task::spawn_blocking(move || published(&kafka)).await??;
    let (mut seen, mut last) = (BTreeSet::new(), HashMap::new());
    let total = published.len();
    for (key, id) in &published {
        let (number, order_id) = numbers.get(id).with_context(|| format!("message {id} is of no effect"))?;
        ensure!(key == order_id, "message {id} has the key {key}");
        // Invoices are stored at any time: only messages about the order itself are ordered.
        if seen.insert(id.clone()) && !id.contains("invoice.stored") {
            let before = last.insert(key, *number).unwrap_or_default();
            let all: Vec<_> = published.iter().filter(|(other, _)| other == key).map(|(_, id)| id).collect();
            ensure!(before < *number, "message {id} ({number}) came after {before}: {all:?}");
        }
    }
    ensure!(seen.len() == rows.len(), "{} messages, of which {} are published", rows.len(), seen.len());
    println!("{} messages, {} of them published again", rows.len(), total - seen.len());
    Ok(())
}

/// Key and id of all messages, in order by partition.
fn published(kafka: &riverlock_runtime::kafka::KafkaConfig) -> anyhow::Result<Vec<(String, String)>> {
    let topic = kafka.topics().fulfillment();
    let consumer: BaseConsumer = kafka.consumer("storm").create()?;
    let limit = Duration::from_secs(10);
    let (mut assignment, mut left) = (TopicPartitionList::new(), 0);
    let metadata = consumer.fetch_metadata(Some(&topic), limit)?;
    for partition in metadata.topics().first().context("no topic")?.partitions() {
        let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), limit)?;
        left += high - low;
        assignment.add_partition_offset(&topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut found = Vec::new();
    while left > 0 {
        let message = consumer.poll(limit).context("Kafka has fewer messages than its offsets say")??;
        left -= 1;
        let event: Value = serde_json::from_slice(message.payload().context("an empty message")?)?;
        let key = String::from_utf8(message.key().context("a message without key")?.to_vec())?;
        found.push((key, event["id"].as_str().context("a message without id")?.to_owned()));
    }
    Ok(found)
}
