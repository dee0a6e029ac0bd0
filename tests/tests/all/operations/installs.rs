//! Two installs share a database, with a schema each, and a Kafka cluster, with a topic prefix each, without interfering.

use std::time::Duration;

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_ledger::{
    PostgresConfig,
    postgres::{self, Lock},
};
use riverlock_processor::{CONSUMER, ProcessorConfig};
use riverlock_recovery::rebuild::{Rebuild, RebuildError, RebuildPlan, SCHEMA};
use riverlock_runtime::{
    Context,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_tests::Database;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::Instant;

use crate::harness::raw::{event, value};

const PATIENCE: Duration = Duration::from_secs(60);
const ORDERS: usize = 40;

/// One of several installs.
struct Install {
    name: &'static str,
    kafka: KafkaConfig,
    postgres: PostgresConfig,
    connection: PgConnection,
    context: Context,
}

impl Install {
    async fn new(name: &'static str, brokers: &str, database: &Database) -> Self {
        let statement = format!("CREATE SCHEMA {name}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut database.connect().await.unwrap()).await.unwrap();
        let postgres = database.config.in_schema(name);
        let mut connection = postgres.connect().await.unwrap();
        postgres::migrate(&mut connection).await.unwrap();
        Self { name, kafka: kafka(name, brokers), postgres, connection, context: Context::new() }
    }

    fn start(&self) {
        riverlock_processor::start(ProcessorConfig::default(), &self.kafka, &self.postgres, &self.context);
    }

    /// Writes the same events for every install, except for one word.
    async fn produce(&self) {
        let producer: FutureProducer = self.kafka.producer().create().unwrap();
        let topic = self.kafka.topics().raw("order.accepted");
        for i in 0..ORDERS {
            let object = format!(
                r#"{{"id":"order-{i}","state":"accepted","upstreamId":"{}","items":[{{"id":"1","skuId":"s","quantity":1}}]}}"#,
                self.name
            );
            let (key, body) = (format!("order-{i}"), event(&format!("event-{i}"), "order.accepted", &object));
            let record = FutureRecord::to(&topic).key(&key).payload(&body);
            producer.send(record, PATIENCE).await.unwrap();
        }
    }

    async fn until_all_is_done(&mut self) {
        let until = Instant::now() + PATIENCE;
        let all = i64::try_from(ORDERS).unwrap();
        loop {
            let orders: i64 = value(&mut self.connection, "SELECT count(*) FROM orders").await;
            let waiting: i64 = value(&mut self.connection, "SELECT count(*) FROM outbox").await;
            let messages: i64 = value(&mut self.connection, "SELECT count(*) FROM effects").await;
            if (orders, messages, waiting) == (all, all, 0) {
                return;
            }
            let findings = self.context.health.not_ready();
            assert!(
                Instant::now() < until,
                "{}: {orders} orders, {messages} messages, {waiting} wait; {findings:?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The number of messages that the install has published.
    fn published(&self) -> usize {
        let consumer: BaseConsumer = self.kafka.consumer("test").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..self.kafka.partitions {
            assignment.add_partition_offset(&self.kafka.topics().fulfillment(), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        while let Some(message) = consumer.poll(Duration::from_secs(3)) {
            let Ok(message) = message else { continue };
            keys.insert(message.key().unwrap_or_default().to_vec());
        }
        keys.len()
    }

    fn plan(&self, schema: &str) -> RebuildPlan {
        let consumers = vec![(CONSUMER, self.kafka.topics().orders())];
        RebuildPlan { schema: schema.to_owned(), fingerprint: "this test".to_owned(), fresh: true, consumers }
    }
}

fn kafka(prefix: &str, brokers: &str) -> KafkaConfig {
    let (topic_prefix, brokers) = (prefix.to_owned(), brokers.to_owned());
    KafkaConfig { topic_prefix, brokers, session_timeout: Duration::from_secs(6), ..KafkaConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installs_share_a_database_and_a_cluster_without_interfering() {
    let names = ["shop", "boutique"].map(|name| kafka(name, "")).map(|kafka| topics::names(&kafka)).concat();
    let cluster = EmbeddedBroker::start(names.into_iter().map(|name| (name, 3))).unwrap();
    let database = Database::create().await.unwrap();
    let mut one = Install::new("shop", &cluster.bootstrap(), &database).await;
    let mut other = Install::new("boutique", &cluster.bootstrap(), &database).await;
    for install in [&one, &other] {
        install.start();
        install.produce().await;
    }
    for install in [&mut one, &mut other] {
        install.until_all_is_done().await;
        let own = format!("SELECT count(*) FROM orders WHERE details::text LIKE '%{}%'", install.name);
        let own: i64 = sqlx::query_scalar(AssertSqlSafe(own)).fetch_one(&mut install.connection).await.unwrap();
        assert!(own == 0 || own == i64::try_from(ORDERS).unwrap(), "{}: {own} of its own orders", install.name);
    }
    assert_eq!((one.published(), other.published()), (ORDERS, ORDERS));

    // One stops, the other continues.
    one.context.shutdown.stop();
    assert!(one.context.shutdown.wait(PATIENCE).await);
    let until = Instant::now() + PATIENCE;
    while postgres::other_connections(&mut one.connection).await.unwrap() > 0 {
        assert!(Instant::now() < until, "{:?}", postgres::other_sessions(&mut one.connection).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sessions = postgres::other_sessions(&mut other.connection).await.unwrap();
    assert!(sessions.iter().any(|session| session.contains("riverlock/boutique/relay")), "{sessions:?}");
    assert!(sessions.iter().all(|session| session.contains("riverlock/boutique")), "{sessions:?}");

    // The exclusive locks of one do not block the other.
    let mut holder = other.postgres.connect().await.unwrap();
    for lock in [Lock::Messages, Lock::DeadLetters] {
        assert!(!postgres::try_lock(&mut holder, lock).await.unwrap(), "the lock is held");
        assert!(postgres::try_lock(&mut one.connection, lock).await.unwrap(), "{lock:?}");
    }
    for lock in [Lock::Migrate, Lock::Audit, Lock::Replay("plan")] {
        assert!(postgres::try_lock(&mut holder, lock).await.unwrap());
        assert!(postgres::try_lock(&mut one.connection, lock).await.unwrap(), "{lock:?}");
        postgres::unlock(&mut one.connection, lock).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, postgres::migrate(&mut one.connection))
        .await
        .expect("it does not wait for the other install")
        .unwrap();
    let _of_other = Rebuild::open(&other.kafka, &other.postgres, other.plan(SCHEMA)).await.unwrap();
    let taken = Rebuild::open(&one.kafka, &one.postgres, one.plan(SCHEMA)).await;
    assert!(matches!(&taken, Err(RebuildError::Schema(text)) if text.contains("--schema")), "{:?}", taken.err());
    Rebuild::open(&one.kafka, &one.postgres, one.plan("riverlock_rebuild_shop")).await.unwrap();
    other.context.shutdown.stop();
    assert!(other.context.shutdown.wait(PATIENCE).await);
}

#[tokio::test]
async fn the_server_probes_silent_clients() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let mut settings = Vec::new();
    for name in ["tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"] {
        let setting: String =
            sqlx::query_scalar(AssertSqlSafe(format!("SHOW {name}"))).fetch_one(&mut connection).await.unwrap();
        settings.push(setting);
    }
    assert_eq!(settings, ["15", "5", "3", "30000"], "the session's keepalive settings");
}

#[tokio::test]
async fn a_schema_with_a_long_name_has_its_own_sessions() {
    let database = Database::create().await.unwrap();
    let mut connections = Vec::new();
    for last in ["a", "b"] {
        let name = format!("{}{last}", "s".repeat(62));
        let statement = format!("CREATE SCHEMA {name}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut database.connect().await.unwrap()).await.unwrap();
        connections.push(database.config.in_schema(&name).connect_as("invoice-fetcher").await.unwrap());
    }
    assert_eq!(postgres::other_connections(&mut connections[0]).await.unwrap(), 0);
    assert_eq!(postgres::other_connections(&mut connections[1]).await.unwrap(), 0);
    // Earlier versions do not name the schema in their sessions.
    let mut former = database.connect().await.unwrap();
    sqlx::raw_sql("SET application_name = 'riverlock'").execute(&mut former).await.unwrap();
    assert_eq!(postgres::other_connections(&mut connections[0]).await.unwrap(), 1);
}
