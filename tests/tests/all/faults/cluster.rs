//! The Kafka cluster is replaced by another one.

use std::{
    process::Output,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use riverlock_ledger::{
    consumer::{self, BatchConfig},
    postgres::cluster,
    relay,
};
use riverlock_processor::CONSUMER;
use riverlock_recovery::{
    audit::{self, AuditError},
    rebuild::{Rebuild, RebuildError, RebuildPlan},
    replay::{self, Replay, ReplayError, Selection},
};
use riverlock_runtime::{
    Context, SystemClock,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_tests::{binary, events, lives, outcomes, state};
use sqlx::Connection as _;
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use crate::harness::raw::{Raw, invoices, orders, value};

/// The longest that any step may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ORDERS: u64 = 8;

/// The same database on another, empty cluster.
fn moved(raw: Raw) -> (Raw, Option<EmbeddedBroker>) {
    let Raw { database, kafka, _cluster: former } = raw;
    let names = topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions));
    let cluster = EmbeddedBroker::start(names).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap(), ..kafka };
    (Raw { database, kafka, _cluster: Some(cluster) }, former)
}

/// Runs a command of the binary.
async fn command(raw: &Raw, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("riverlock.toml");
    let (brokers, partitions) = (&raw.kafka.brokers, raw.kafka.partitions);
    let url = raw.database.config.url.expose();
    let config = format!(
        "[kafka]\nbrokers = '{brokers}'\npartitions = {partitions}\n[postgres]\nurl = '{url}'\n\
         [invoice_fetcher.test]\napi_key = 'key'\n"
    );
    std::fs::write(&file, config).unwrap();
    Command::new(binary().unwrap()).arg("--config").arg(file).args(arguments).output().await.unwrap()
}

async fn text(raw: &Raw, arguments: &[&str], code: i32) -> String {
    let output = command(raw, arguments).await;
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

/// Runs `setup`, once connections that were just closed have ended.
async fn set_up(raw: &Raw, arguments: &[&str]) -> String {
    let arguments = [&["setup"], arguments].concat();
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let output = command(raw, &arguments).await;
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            return text;
        }
        assert!(tokio::time::Instant::now() < until && text.contains("connections of running services"), "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The number of messages on the fulfillment topic.
fn published(kafka: &KafkaConfig) -> i64 {
    let consumer: BaseConsumer = kafka.client().create().unwrap();
    let topic = kafka.topics().fulfillment();
    let high = |partition| consumer.fetch_watermarks(&topic, partition, PATIENCE).unwrap().1;
    (0..kafka.partitions).map(high).sum()
}

/// Runs a relay until nothing waits.
async fn relay(raw: &Raw) {
    let context = Context::new();
    let run = relay::run(raw.kafka.clone(), raw.database.config.clone(), context.clone());
    let done = async {
        let mut connection = raw.database.connect().await.unwrap();
        let until = tokio::time::Instant::now() + PATIENCE;
        while value::<i64>(&mut connection, "SELECT count(*) FROM outbox").await > 0 {
            assert!(tokio::time::Instant::now() < until, "messages still wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        context.shutdown.stop();
        connection.close().await.unwrap();
    };
    let (ran, ()) = tokio::join!(run, done);
    ran.unwrap();
}

fn consumers(kafka: &KafkaConfig) -> [(&'static str, Vec<String>); 2] {
    let topics = kafka.topics();
    [(CONSUMER, topics.orders()), ("invoice-fetcher", topics.documents())]
}

async fn audited(raw: &Raw) -> Result<audit::Report, AuditError> {
    let mut connection = raw.database.connect().await.unwrap();
    audit::run(&raw.kafka, &mut connection, &consumers(&raw.kafka)).await
}

/// Everything that reads or compares positions rejects the wrong cluster.
async fn assert_refused(raw: &Raw, current: &str) {
    let context = Context::new();
    let (kafka, postgres) = (&raw.kafka, &raw.database.config);
    let run = consumer::run(orders(), kafka.topics().orders(), BatchConfig::default(), kafka, postgres, &context);
    let refused = format!("{:#}", anyhow::Error::from(run.await.unwrap_err()));
    assert!(refused.contains(current), "{refused}");
    let error = audited(raw).await.unwrap_err();
    assert!(matches!(error, AuditError::Cluster(_)), "{error}");
    let planned = plan(raw).await.map(drop).unwrap_err();
    assert!(matches!(planned, ReplayError::Cluster(_)), "{planned}");
    let refolded = text(raw, &["refold", "--all"], 1).await;
    assert!(refolded.contains(current), "{refolded}");
}

async fn plan(raw: &Raw) -> Result<replay::PlanSummary, ReplayError> {
    let topics = raw.kafka.topics();
    let consumers =
        [replay::Consumer::new(orders(), topics.orders()), replay::Consumer::new(invoices(), topics.documents())];
    let replay = Replay {
        kafka: &raw.kafka,
        postgres: &raw.database.config,
        consumers: &consumers,
        clock: &SystemClock,
        stop: CancellationToken::new(),
        rate: replay::RATE_DEFAULT,
        by: "ada",
        why: "a test",
    };
    replay::plan(&replay, &Selection::default(), 0, &mut Silent).await
}

struct Silent;

impl replay::Observer for Silent {
    fn begin(&mut self, _total: u64, _done: u64) {}
    fn progress(&mut self, _read: u64, _selected: u64) {}
    fn say(&mut self, _text: &str) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn services_continue_on_a_new_cluster_and_nothing_takes_effect_twice() {
    let all: Vec<Vec<u8>> = events(&lives(71, ORDERS)).map(|event| event.body.to_vec()).collect();
    let (before, after) = all.split_at(all.len() / 2);
    let raw = Raw::new().await;
    set_up(&raw, &[]).await;
    let first = cluster::connected(&raw.kafka).await.unwrap();
    raw.take(before.to_vec()).await;
    Box::pin(relay(&raw)).await;
    let sent = published(&raw.kafka);
    assert!(sent > 0 && audited(&raw).await.unwrap().balances());

    let (raw, former) = moved(raw);
    let second = cluster::connected(&raw.kafka).await.unwrap();
    assert_ne!(first, second);
    assert_refused(&raw, &first).await;
    let refused = text(&raw, &["setup"], 1).await;
    assert!(refused.contains(&format!("riverlock setup --new-cluster {second}")), "{refused}");
    let other = text(&raw, &["setup", "--new-cluster", "typo"], 1).await;
    assert!(other.contains(&format!("connects to cluster {second}, not to typo")), "{other}");
    let taken = set_up(&raw, &["--new-cluster", &second, "--republish-since", "1h"]).await;
    assert!(taken.contains(&format!("cluster {second}: recorded")), "{taken}");

    // All earlier events are delivered again, and new ones.
    let mut connection = raw.database.connect().await.unwrap();
    let known = outcomes(&mut connection).await.unwrap();
    raw.take(before.to_vec()).await;
    let again = outcomes(&mut connection).await.unwrap();
    let duplicates =
        |outcomes: &std::collections::BTreeMap<String, i64>| outcomes.get("duplicate").copied().unwrap_or(0);
    assert_eq!(again["applied"], known["applied"], "nothing takes effect twice");
    assert_eq!(duplicates(&again) - duplicates(&known), i64::try_from(before.len()).unwrap());
    raw.take(after.to_vec()).await;
    Box::pin(relay(&raw)).await;
    let messages: i64 = value(&mut connection, "SELECT count(*) FROM effects").await;
    assert_eq!(published(&raw.kafka), messages, "the new cluster has every message once");
    let reference = crate::recovery::refold::reference(&all).await;
    assert_eq!(state(&mut connection).await.unwrap(), reference);

    let report = audited(&raw).await.unwrap();
    assert!(report.balances() && report.pending == 0, "{report}: {:?}", report.findings);
    assert_eq!(
        report.earlier,
        u64::try_from(before.len()).unwrap(),
        "records of the former cluster are counted separately"
    );
    assert_eq!(report.acknowledged, u64::try_from(all.len()).unwrap());
    assert_eq!(
        plan(&raw).await.unwrap().report.records,
        report.acknowledged,
        "positions of the former cluster are not read"
    );
    let order: String = value(&mut connection, "SELECT order_id FROM event_records ORDER BY recorded_at LIMIT 1").await;
    let shown = text(&raw, &["orders", "show", &order], 0).await;
    assert!(shown.contains(&format!("{first}/riverlock.raw.")), "{shown}");

    // Orders can be refolded from bodies that were delivered again, and only from those.
    let refolded = text(&raw, &["refold", "--all"], 0).await;
    assert!(refolded.contains("nothing to change"), "{refolded}");
    let consumers = consumers(&raw.kafka).to_vec();
    let fingerprint = "this test".to_owned();
    let tables = RebuildPlan { schema: "riverlock_rebuild".to_owned(), fingerprint, fresh: false, consumers };
    let rebuilt = Rebuild::open(&raw.kafka, &raw.database.config, tables).await.map(drop).unwrap_err();
    assert!(matches!(&rebuilt, RebuildError::EarlierCluster(cluster) if *cluster == first), "{rebuilt}");
    drop(former);
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_position_in_two_clusters_is_two_records_and_returning_resumes_at_the_stored_offset() {
    let raw = Raw::new().await;
    set_up(&raw, &[]).await;
    let first = cluster::connected(&raw.kafka).await.unwrap();
    let bad = |text: &str| format!("no event: {text}").into_bytes();
    raw.produce_to("riverlock.raw.other", 0, bad("one")).await;
    let consumers = raw.consume(orders());
    raw.until_rows(1).await;
    consumers.end().await;

    let (raw, former) = moved(raw);
    let second = cluster::connected(&raw.kafka).await.unwrap();
    set_up(&raw, &["--new-cluster", &second]).await;
    raw.produce_to("riverlock.raw.other", 0, bad("two")).await;
    let consumers = raw.consume(orders());
    raw.until_rows(2).await;
    consumers.end().await;
    let mut connection = raw.database.connect().await.unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap()["dead"], 2, "two dead letters, and no conflict");
    let names = "SELECT string_agg(full_name || '@' || record_offset, ' ' ORDER BY topic_id)
                 FROM dead_letters JOIN topic_names USING (topic_id)";
    let names: String = value(&mut connection, names).await;
    assert_eq!(names, format!("{first}/riverlock.raw.other@0 riverlock.raw.other@0"));
    let letters = text(&raw, &["dead-letters", "list"], 0).await;
    assert!(letters.contains(&format!("{first}/riverlock.raw.other[0]@0\t")), "{letters}");
    let named = format!("{first}/riverlock.raw.other[0]@0");
    let letter = text(&raw, &["dead-letters", "show", &named], 0).await;
    assert!(letter.contains(&named), "{letter}");
    connection.close().await.unwrap();

    let Raw { database, kafka, _cluster: second } = raw;
    let brokers = former.as_ref().unwrap().bootstrap();
    let raw = Raw { database, kafka: KafkaConfig { brokers, ..kafka }, _cluster: former };
    set_up(&raw, &["--new-cluster", &first]).await;
    raw.produce_to("riverlock.raw.other", 0, bad("three")).await;
    let consumers = raw.consume(orders());
    raw.until_rows(3).await;
    consumers.end().await;
    let report = audited(&raw).await.unwrap();
    assert!(report.balances() && report.acknowledged == 2 && report.earlier == 1, "{report}: {:?}", report.findings);
    drop(second);
}

/// A proxy whose target can be changed, as a DNS name's can.
struct Switch {
    address: String,
    behind: Arc<Mutex<String>>,
}

impl Switch {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    async fn to(behind: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(behind)));
        let target = Arc::clone(&behind);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let target = target.lock().unwrap().clone();
                tokio::spawn(async move {
                    // The broker may be gone.
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { address, behind }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test ends the task")]
async fn a_running_consumer_reads_nothing_from_another_cluster_behind_its_address() {
    let raw = Raw::new().await;
    set_up(&raw, &[]).await;
    let switch = Switch::to(raw.kafka.brokers.clone()).await;
    let raw = Raw { kafka: KafkaConfig { brokers: switch.address.clone(), ..raw.kafka }, ..raw };
    let context = Context::new();
    let (kafka, postgres, running) = (raw.kafka.clone(), raw.database.config.clone(), context.clone());
    let run = tokio::spawn(async move {
        let topics = kafka.topics().orders();
        consumer::run(orders(), topics, BatchConfig::default(), &kafka, &postgres, &running).await
    });
    raw.produce_to("riverlock.raw.other", 0, b"one".to_vec()).await;
    raw.until_rows(1).await;

    let Raw { database, kafka, _cluster: former } = raw;
    let names = topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions));
    let second = EmbeddedBroker::start(names).unwrap();
    *switch.behind.lock().unwrap() = second.bootstrap();
    drop(former);
    let raw = Raw { database, kafka, _cluster: Some(second) };
    // Its offset exists there, and is another record.
    for text in ["not this", "nor this"] {
        raw.produce_to("riverlock.raw.other", 0, text.into()).await;
    }
    let id = cluster::connected(&raw.kafka).await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while !context.health.not_ready().iter().any(|finding| finding.reason.contains(&id)) {
        assert!(tokio::time::Instant::now() < until, "{:?}", context.health.not_ready());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut connection = raw.database.connect().await.unwrap();
    let read =
        "SELECT count(*) FROM event_records JOIN topic_names USING (topic_id) WHERE name = 'riverlock.raw.other'";
    let read: i64 = value(&mut connection, read).await;
    assert_eq!(read, 1, "nothing was read from the other cluster");
    context.shutdown.stop();
    run.await.unwrap().unwrap();
}
