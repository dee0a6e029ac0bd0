//! A topic in an embedded broker, and a consumer that reads it.

use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord};
use riverlock_ledger::{
    PostgresConfig, Projection,
    consumer::{self, BatchConfig, ConsumerError},
};
use riverlock_runtime::{Context, kafka::KafkaConfig};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_tests::{Database, outcomes};
use tokio::task::JoinHandle;

use super::PATIENCE;

pub(crate) const TOPIC: &str = "riverlock.raw.other";
pub(crate) const PARTITIONS: i32 = 4;

/// A broker with one topic, and a database.
pub(crate) struct Topic {
    pub(crate) database: Database,
    pub(crate) kafka: KafkaConfig,
    _cluster: EmbeddedBroker,
}

impl Topic {
    pub(crate) async fn new() -> Self {
        let cluster = EmbeddedBroker::start([(TOPIC.to_owned(), PARTITIONS)].into_iter()).unwrap();
        let session_timeout = Duration::from_secs(6);
        let kafka = KafkaConfig { brokers: cluster.bootstrap(), session_timeout, ..KafkaConfig::default() };
        Self { database: Database::create().await.unwrap(), kafka, _cluster: cluster }
    }

    pub(crate) async fn produce(&self, ids: impl IntoIterator<Item = String>) {
        let producer: FutureProducer = self.kafka.producer().create().unwrap();
        let mut sent = Vec::new();
        for id in ids {
            let body = format!(r#"{{"id":"{id}","type":"anything"}}"#);
            sent.push(producer.send_result(FutureRecord::to(TOPIC).key(&id).payload(&body)).unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap().unwrap();
        }
    }

    /// The number of records with an outcome.
    pub(crate) async fn rows(&self) -> i64 {
        let mut connection = self.database.connect().await.unwrap();
        outcomes(&mut connection).await.unwrap().values().sum()
    }

    pub(crate) async fn until_rows(&self, rows: i64) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.rows().await;
            if found >= rows {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "only {found} of {rows} records have an outcome");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Starts a consumer of the topic.
#[expect(clippy::disallowed_methods, reason = "the test awaits the task")]
pub(crate) fn consume<P: Projection>(
    setting: &Topic,
    postgres: &PostgresConfig,
    projection: P,
    config: &BatchConfig,
    context: &Context,
) -> JoinHandle<Result<(), ConsumerError>> {
    let (kafka, postgres, config) = (setting.kafka.clone(), postgres.clone(), config.clone());
    let context = context.clone();
    tokio::spawn(
        async move { consumer::run(projection, vec![TOPIC.to_owned()], config, &kafka, &postgres, &context).await },
    )
}
