//! The relay: messages that cannot be published do not block others, are reported, and are retried by a command.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use riverlock_ledger::{
    PostgresConfig, batch,
    outbox::{self, Request},
    postgres::{self, Lock},
    relay,
};
use riverlock_runtime::{Context, kafka::KafkaConfig, telemetry};
use riverlock_tests::{Database, events, lives, now, record};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::harness::{
    proxy::Proxy,
    raw::{execute, orders, value},
    until,
};

const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker with injected failures, and a database.
struct Setting {
    cluster: MockCluster<'static, DefaultProducerContext>,
    kafka: KafkaConfig,
    database: Database,
    connection: PgConnection,
    context: Context,
}

impl Setting {
    async fn new() -> Self {
        let cluster = MockCluster::new(2).unwrap();
        let kafka = KafkaConfig { brokers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        for topic in [kafka.topics().fulfillment(), kafka.topics().dead_letter()] {
            cluster.create_topic(&topic, PARTITIONS, 1).unwrap();
            for partition in 0..PARTITIONS {
                cluster.partition_leader(&topic, partition, Some(if partition == 0 { 2 } else { 1 })).unwrap();
            }
        }
        let database = Database::create().await.unwrap();
        let connection = database.connect().await.unwrap();
        sqlx::raw_sql("INSERT INTO topics (name) VALUES ('riverlock.raw.other')")
            .execute(&mut database.connect().await.unwrap())
            .await
            .unwrap();
        Self { cluster, kafka, database, connection, context: Context::new() }
    }

    fn relay(&self, postgres: &PostgresConfig) {
        let task = self.context.clone();
        self.context.shutdown.spawn("relay", relay::run(self.kafka.clone(), postgres.clone(), task));
    }

    /// Adds a message of `bytes` bytes about an order.
    async fn add(&mut self, order: &str, key: &str, bytes: i32) -> i64 {
        add(&mut self.connection, order, key, bytes).await
    }

    async fn add_letters(&mut self, count: i32) {
        sqlx::query(
            "INSERT INTO dead_letters (topic_id, partition, record_offset, reason, detail, header_names, header_values, payload,
                                       event_key)
             SELECT 1, 0, i, 'shape', '', '{}', '{}', convert_to('letter ' || i, 'UTF8'), event_key_of(i::text)
             FROM generate_series(1, $1) i",
        )
        .bind(count)
        .execute(&mut self.connection)
        .await
        .unwrap();
    }

    async fn count(&mut self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn until_count(&mut self, query: &'static str, expected: i64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.count(query).await;
            if found == expected {
                return;
            }
            assert!(
                Instant::now() < until,
                "{query}: {found} and not {expected}; {:?}",
                self.context.health.not_ready()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The messages of a topic, by key, in order, without repetitions.
    fn published(&self, topic: &str) -> BTreeMap<String, Vec<String>> {
        let consumer: BaseConsumer = self.kafka.consumer("test").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(message) = consumer.poll(Duration::from_secs(3)) {
            let Ok(message) = message else { continue };
            let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap();
            let text = String::from_utf8_lossy(message.payload().unwrap()).trim_end_matches('.').to_owned();
            let texts = found.entry(key).or_default();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        found
    }

    fn findings(&self) -> Vec<String> {
        self.context.health.not_ready().iter().map(ToString::to_string).collect()
    }

    async fn end(self) {
        self.context.shutdown.stop();
        assert!(self.context.shutdown.wait(PATIENCE).await);
    }
}

async fn add(connection: &mut PgConnection, order: &str, key: &str, bytes: i32) -> i64 {
    sqlx::query_scalar(
        "INSERT INTO outbox (order_id, live_mode, kind, effect_key, payload)
         VALUES ($1, false, 'fulfillment.requested', $2, convert_to(rpad($2, $3, '.'), 'UTF8')) RETURNING message_id",
    )
    .bind(order)
    .bind(key)
    .bind(bytes)
    .fetch_one(connection)
    .await
    .unwrap()
}

fn request(apply: bool) -> Request {
    Request { by: "ada".to_owned(), why: "the limit was raised".to_owned(), apply }
}

const WAITING: &str = "SELECT count(*) FROM outbox";
const PARKED: &str = "SELECT count(*) FROM outbox_parked";

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kafka_rejects_is_parked_with_later_ones_of_its_order_and_retried_in_order() {
    let page = telemetry::metrics().unwrap();
    let mut setting = Setting::new().await;
    setting.add("whole", "one", 100).await;
    let large = setting.add("stuck", "large", 5 * 1024 * 1024).await;
    let behind = setting.add("stuck", "behind", 100).await;
    for i in 0..50 {
        setting.add(&format!("other-{i}"), "message", 100).await;
    }
    setting.relay(&setting.database.config);
    setting.until_count(PARKED, 2).await;
    setting.until_count(WAITING, 0).await;
    let later = setting.add("stuck", "later", 100).await;
    setting.add("whole", "two", 100).await;
    setting.until_count(PARKED, 3).await;
    setting.until_count(WAITING, 0).await;
    let topic = setting.kafka.topics().fulfillment();
    let published = setting.published(&topic);
    assert_eq!((published["whole"].as_slice(), published.len()), (&["one".to_owned(), "two".to_owned()][..], 51));
    assert!(!published.contains_key("stuck"));
    assert_eq!(setting.findings(), Vec::<String>::new(), "parked messages make nothing unready");
    let parked = "riverlock_relay_parked_messages{source=\"outbox\"} 3";
    until("the metric was not updated", || page.render().lines().any(|line| line == parked)).await;

    let queued = outbox::queued(&mut setting.connection, true, 0, 10).await.unwrap();
    let shown: Vec<_> = queued.iter().map(|message| (message.message_id, message.behind)).collect();
    assert_eq!(shown, [(large, None), (behind, Some(large)), (later, Some(large))]);
    assert!(queued[0].reason.as_deref().unwrap().contains("MessageSizeTooLarge"), "{:?}", queued[0]);

    // The cause remains: it is parked again, with all messages behind it.
    let ids = vec![large, behind, later];
    assert_eq!(outbox::retry_message(&mut setting.connection, behind, &request(false)).await.unwrap(), ids);
    assert_eq!(setting.count(PARKED).await, 3, "a dry run changes nothing");
    assert_eq!(outbox::retry_message(&mut setting.connection, behind, &request(true)).await.unwrap(), ids);
    setting.until_count("SELECT count(*) FROM outbox_retries", 3).await;
    setting.until_count(PARKED, 3).await;
    setting.until_count(WAITING, 0).await;

    sqlx::query("UPDATE outbox_parked SET payload = 'large' WHERE message_id = $1")
        .bind(large)
        .execute(&mut setting.connection)
        .await
        .unwrap();
    assert_eq!(outbox::retry_message(&mut setting.connection, large, &request(true)).await.unwrap(), ids);
    setting.until_count(WAITING, 0).await;
    setting.until_count(PARKED, 0).await;
    assert_eq!(setting.published(&topic)["stuck"], ["large", "behind", "later"]);
    assert!(outbox::retry_message(&mut setting.connection, large, &request(true)).await.unwrap().is_empty());
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_kafka_rejects_is_parked_and_retried() {
    let mut setting = Setting::new().await;
    setting.add_letters(3).await;
    sqlx::query("UPDATE dead_letters SET payload = convert_to(repeat('.', 5 << 20), 'UTF8') WHERE record_offset = 2")
        .execute(&mut setting.connection)
        .await
        .unwrap();
    setting.relay(&setting.database.config);
    setting.until_count("SELECT count(*) FROM dead_letters WHERE published_at IS NOT NULL", 2).await;
    setting.until_count("SELECT count(*) FROM dead_letters WHERE parked_at IS NOT NULL", 1).await;
    let parked = outbox::parked_letters(&mut setting.connection, None, 10).await.unwrap();
    assert_eq!(parked[0].position, "riverlock.raw.other[0]@2");
    let position =
        riverlock_schemas::kafka::record::Position { topic: "riverlock.raw.other".to_owned(), partition: 0, offset: 2 };
    sqlx::query("UPDATE dead_letters SET payload = 'short' WHERE record_offset = 2")
        .execute(&mut setting.connection)
        .await
        .unwrap();
    assert!(outbox::retry_letter(&mut setting.connection, &position, &request(false)).await.unwrap());
    assert_eq!(
        outbox::parked_letters(&mut setting.connection, None, 10).await.unwrap().len(),
        1,
        "a dry run changes nothing"
    );
    assert!(outbox::retry_letter(&mut setting.connection, &position, &request(true)).await.unwrap());
    setting.until_count("SELECT count(*) FROM dead_letters WHERE published_at IS NOT NULL", 3).await;
    assert!(!outbox::retry_letter(&mut setting.connection, &position, &request(true)).await.unwrap());
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_rights_blocks_only_its_own_messages_and_is_reported() {
    let mut setting = Setting::new().await;
    let dead_letter = setting.kafka.topics().dead_letter();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    let granted = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    setting.cluster.topic_error(&dead_letter, refused).unwrap();
    setting.add_letters(2_000).await;
    for i in 0..20 {
        setting.add(&format!("order-{i}"), "first", 100).await;
    }
    setting.relay(&setting.database.config);
    setting.until_count(WAITING, 0).await;
    let says = |setting: &Setting, name: &str| setting.findings().iter().any(|text| text.starts_with(name));
    until("the failure is not reported", || says(&setting, "dead-letter-relay: ")).await;
    assert!(!says(&setting, "relay: "), "{:?}", setting.findings());

    setting.cluster.topic_error(&dead_letter, granted).unwrap();
    setting.until_count("SELECT count(*) FROM dead_letters WHERE published_at IS NULL", 0).await;
    // Only in this way does the mock broker reject producers that know the topic.
    setting.cluster.request_errors(RDKafkaApiKey::Produce, &[refused; 1_000]);
    setting.add("order", "second", 100).await;
    until("the failure is not reported", || says(&setting, "relay: ")).await;
    assert_eq!(setting.count(WAITING).await, 1);
    assert_eq!(setting.count(PARKED).await, 0, "a missing right does not park messages");
    setting.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    setting.until_count(WAITING, 0).await;
    until("the failure is still reported", || setting.findings().is_empty()).await;
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_partition_does_not_block_orders_of_other_partitions() {
    const ORDERS: i64 = 30;
    let mut setting = Setting::new().await;
    let topic = setting.kafka.topics().fulfillment();
    setting.relay(&setting.database.config);
    for i in 0..ORDERS {
        setting.add(&format!("order-{i}"), "first", 100).await;
    }
    setting.until_count(WAITING, 0).await;
    setting.cluster.broker_down(2).unwrap();
    for round in ["second", "third"] {
        for i in 0..ORDERS {
            setting.add(&format!("order-{i}"), round, 100).await;
        }
    }
    // About two thirds: those of two of three partitions.
    let deadline = Instant::now() + PATIENCE;
    while setting.count(WAITING).await > ORDERS {
        assert!(Instant::now() < deadline, "{} messages wait", setting.count(WAITING).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(setting.count(WAITING).await > 0, "every partition is reached: the test showed nothing");
    assert_eq!(setting.count(PARKED).await, 0);
    assert!(setting.findings().iter().any(|text| text.starts_with("relay: ")), "{:?}", setting.findings());
    setting.cluster.broker_up(2).unwrap();
    setting.until_count(WAITING, 0).await;
    let published = setting.published(&topic);
    assert_eq!(published.len(), 30);
    for texts in published.values() {
        assert_eq!(texts, &["first", "second", "third"], "in order");
    }
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_transaction_commits_late_is_published_after_later_ones() {
    let mut setting = Setting::new().await;
    setting.relay(&setting.database.config);
    let mut late = setting.database.connect().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut late).await.unwrap();
    let number = add(&mut late, "late", "late", 100).await;
    // Several times the interval at which the relay tries to raise its floor.
    let until = Instant::now() + Duration::from_secs(4);
    let mut last = 0;
    while Instant::now() < until {
        last = setting.add(&format!("order-{}", fastrand::u64(..)), "message", 100).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(number < last);
    setting.until_count(WAITING, 0).await;
    sqlx::raw_sql("COMMIT").execute(&mut late).await.unwrap();
    let committed = Instant::now();
    setting.until_count(WAITING, 0).await;
    assert!(committed.elapsed() < Duration::from_secs(10), "only the scan of the whole queue found it");
    assert_eq!(setting.published(&setting.kafka.topics().fulfillment())["late"], ["late"]);
    setting.end().await;
}

#[tokio::test]
async fn messages_written_since_a_time_are_published_again_with_the_same_ids() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let lives = lives(41, 20);
    let records: Vec<_> = events(&lives).zip(0..).map(|(event, offset)| record(0, offset, &event.body)).collect();
    batch::apply(&mut connection, &orders(), &records, None, now()).await.unwrap();
    let ids = "SELECT string_agg(convert_from(payload, 'UTF8')::json ->> 'id', ',' ORDER BY message_id) FROM outbox";
    let published: String = value(&mut connection, ids).await;

    let since = now() - chrono::TimeDelta::hours(1);
    let republish = riverlock_processor::republish;
    assert_eq!(republish(&mut connection, since, now()).await.unwrap(), 0, "they still wait");
    // Those of one order wait, the others are published.
    let order: String = value(&mut connection, "SELECT min(order_id) FROM outbox").await;
    execute(&mut connection, format!("DELETE FROM outbox WHERE order_id <> '{order}'")).await;
    let later = now() + chrono::TimeDelta::hours(1);
    assert_eq!(republish(&mut connection, later, later).await.unwrap(), 0);
    let again = republish(&mut connection, since, later).await.unwrap();
    assert!(again > 20, "{again} messages: the test showed nothing");
    let mut expected: Vec<&str> = published.split(',').collect();
    let second: String = value(&mut connection, ids).await;
    let mut found: Vec<&str> = second.split(',').collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_messages_and_their_age_are_reported_while_no_relay_publishes() {
    let page = telemetry::metrics().unwrap();
    let mut setting = Setting::new().await;
    let mut holder = setting.database.connect().await.unwrap();
    for lock in [Lock::Messages, Lock::DeadLetters] {
        assert!(postgres::try_lock(&mut holder, lock).await.unwrap());
    }
    setting.add("order", "message", 100).await;
    setting.add_letters(7).await;
    sqlx::query("UPDATE outbox SET created_at = now() - interval '1 hour'")
        .execute(&mut setting.connection)
        .await
        .unwrap();
    setting.relay(&setting.database.config);
    let value = |name: &str| -> f64 {
        let text = page.render();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok())).unwrap_or_default()
    };
    until("the age is not reported", || {
        value("riverlock_relay_oldest_waiting_age_seconds{source=\"outbox\"}") > 3_590.0
    })
    .await;
    until("the metric was not updated", || value("riverlock_relay_pending_messages{source=\"dead_letters\"}") >= 7.0)
        .await;
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_to_postgres_is_detected_and_replaced() {
    let mut setting = Setting::new().await;
    let (proxy, postgres) = Proxy::to_database(&setting.database).await;
    let postgres = PostgresConfig { statement_timeout: Duration::from_secs(1), ..postgres };
    setting.relay(&postgres);
    setting.add("order", "first", 100).await;
    setting.until_count(WAITING, 0).await;
    proxy.open.send_replace(false);
    setting.add("order", "second", 100).await;
    setting.add_letters(1).await;
    for name in ["relay: ", "dead-letter-relay: "] {
        let reported = || setting.findings().iter().any(|text| text.starts_with(name) && text.contains("answer"));
        until("the silent connection is not detected", reported).await;
    }
    assert!(setting.context.health.stuck().is_empty(), "it waits, and is not stuck");
    proxy.open.send_replace(true);
    setting.until_count(WAITING, 0).await;
    setting.until_count("SELECT count(*) FROM dead_letters WHERE published_at IS NULL", 0).await;
    until("the failure is still reported", || setting.findings().is_empty()).await;
    setting.end().await;
}
