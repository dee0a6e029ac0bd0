//! The consumer against a broker: poison, restarts, and offsets that Kafka does not have.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rdkafka::producer::{FutureProducer, FutureRecord};
use riverlock_ledger::{
    Decision, Error, Fresh, Projection,
    consumer::{self, BatchConfig, ConsumerError},
};
use riverlock_runtime::{Context, kafka::KafkaConfig};
use riverlock_sandbox::stack::Embedded;
use riverlock_schemas::Envelope;
use riverlock_tests::{Database, outcomes};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

const TOPIC: &str = "riverlock.raw.other";
const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Applies everything, but makes PostgreSQL refuse events whose id says poison.
struct Picky;

impl Projection for Picky {
    type Event = String;

    fn name(&self) -> &'static str {
        "picky"
    }

    fn decide(&self, envelope: &Envelope<'_>, _body: &[u8]) -> Decision<String> {
        Decision::Apply(envelope.id.to_string())
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<Fresh<String>>,
        _now: DateTime<Utc>,
    ) -> Result<(), Error> {
        for Fresh { event, .. } in fresh {
            let divisor = i32::from(!event.contains("poison"));
            sqlx::query("SELECT 1 / $1").bind(divisor).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

struct Setting {
    database: Database,
    kafka: KafkaConfig,
    _cluster: Embedded,
}

impl Setting {
    async fn new() -> Self {
        let cluster = Embedded::start([(TOPIC.to_owned(), PARTITIONS)].into_iter()).unwrap();
        let kafka = KafkaConfig { brokers: cluster.bootstrap(), ..KafkaConfig::default() };
        Self { database: Database::create().await.unwrap(), kafka, _cluster: cluster }
    }

    async fn produce(&self, ids: impl IntoIterator<Item = String>) {
        let producer: FutureProducer = self.kafka.producer().create().unwrap();
        for id in ids {
            let body = format!(r#"{{"id":"{id}","type":"anything"}}"#);
            producer.send(FutureRecord::to(TOPIC).key(&id).payload(&body), PATIENCE).await.unwrap();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    fn consume(&self, context: &Context) -> JoinHandle<Result<(), ConsumerError>> {
        let (kafka, postgres, context) = (self.kafka.clone(), self.database.config.clone(), context.clone());
        let config = BatchConfig { linger: Duration::from_millis(300), ..BatchConfig::default() };
        tokio::spawn(
            async move { consumer::run(Picky, vec![TOPIC.to_owned()], config, &kafka, &postgres, &context).await },
        )
    }

    async fn until_rows(&self, rows: i64) {
        let mut connection = self.database.connect().await.unwrap();
        let until = tokio::time::Instant::now() + PATIENCE;
        while outcomes(&mut connection).await.unwrap().values().sum::<i64>() < rows {
            assert!(tokio::time::Instant::now() < until, "{:?}", outcomes(&mut connection).await.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_found_and_the_rest_goes_on() {
    let setting = Setting::new().await;
    setting.produce((0..300).map(|i| if i % 100 == 50 { format!("poison-{i}") } else { format!("event-{i}") })).await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(300).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();

    let mut connection = setting.database.connect().await.unwrap();
    let found = outcomes(&mut connection).await.unwrap();
    assert_eq!((found["applied"], found["dead"]), (297, 3));
    let letters: Vec<(String, String)> = sqlx::query_as(
        "SELECT e.event_id, d.reason FROM dead_letters d JOIN events e USING (topic_id, partition, record_offset) ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let expected = ["poison-150", "poison-250", "poison-50"].map(|id| (id.to_owned(), "database".to_owned()));
    assert_eq!(letters, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_where_the_database_stands_whatever_kafka_remembers() {
    let setting = Setting::new().await;
    setting.produce((0..40).map(|i| format!("event-{i}"))).await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(40).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();

    // As after a restore of yesterday's backup: rows and offsets are gone, Kafka's committed offsets are not.
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::query("DELETE FROM events WHERE record_offset >= 3").execute(&mut connection).await.unwrap();
    sqlx::query("UPDATE consumer_offsets SET next_offset = least(next_offset, 3)")
        .execute(&mut connection)
        .await
        .unwrap();
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(40).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap()["applied"], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_kafka_does_not_have_stop_the_consumer_and_nothing_is_skipped() {
    let setting = Setting::new().await;
    setting.produce((0..8).map(|i| format!("event-{i}"))).await;
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::query("INSERT INTO topics (name) VALUES ($1)").bind(TOPIC).execute(&mut connection).await.unwrap();
    for partition in 0..PARTITIONS {
        sqlx::query(
            "INSERT INTO consumer_offsets (consumer, topic_id, partition, next_offset) VALUES ('picky', 1, $1, 1000)",
        )
        .bind(partition)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    let context = Context::new();
    let ended =
        tokio::time::timeout(PATIENCE, setting.consume(&context)).await.expect("it must not wait for ever").unwrap();
    let error = ended.expect_err("it must not go on");
    assert!(matches!(error, ConsumerError::OffsetGone { .. }), "{error}");
    assert!(outcomes(&mut connection).await.unwrap().is_empty());
}
