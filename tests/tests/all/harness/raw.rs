//! Raw topics, a database, and consumers that can be started and stopped.

use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord};
use riverlock_invoice_fetcher::{AccountConfig, InvoiceFetcherConfig, InvoiceQueue};
use riverlock_ledger::consumer::{self, BatchConfig, ConsumerError};
use riverlock_processor::Orders;
use riverlock_runtime::{
    Context, Secret,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_schemas::{Envelope, Mode, kafka::record};
use riverlock_tests::{Database, outcomes};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinHandle;

/// The longest that any step may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A broker with all topics, and a database.
pub(crate) struct Raw {
    pub(crate) database: Database,
    pub(crate) kafka: KafkaConfig,
    /// Kept so that the broker runs.
    pub(crate) _cluster: Option<EmbeddedBroker>,
}

/// Running consumers.
pub(crate) struct Consumers {
    context: Context,
    tasks: Vec<JoinHandle<Result<(), ConsumerError>>>,
}

pub(crate) fn orders() -> Orders {
    Orders::new(vec![Mode::Test, Mode::Live])
}

pub(crate) fn invoices() -> InvoiceQueue {
    let account = AccountConfig { api_key: Secret::new("key"), requests_per_second: None };
    InvoiceQueue::new(&InvoiceFetcherConfig { test: Some(account), ..InvoiceFetcherConfig::default() })
}

pub(crate) fn event(id: &str, event_type: &str, object: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
    )
    .into_bytes()
}

impl Raw {
    pub(crate) async fn new() -> Self {
        let kafka = KafkaConfig { partitions: 4, ..KafkaConfig::default() };
        let names = topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions));
        let cluster = EmbeddedBroker::start(names).unwrap();
        let kafka = KafkaConfig { brokers: cluster.bootstrap(), ..kafka };
        Self { database: Database::create().await.unwrap(), kafka, _cluster: Some(cluster) }
    }

    /// Writes bodies to the topics that ingest chooses for them.
    pub(crate) async fn produce(&self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        let (producer, topics): (FutureProducer, _) = (self.kafka.producer().create().unwrap(), self.kafka.topics());
        let mut sent = Vec::new();
        for body in bodies {
            let envelope = Envelope::parse(&body).unwrap();
            let key = record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id)).into_owned();
            let topic = topics.raw(&envelope.event_type);
            sent.push(
                producer.send_result(FutureRecord::to(&topic).key(&key).payload(&body)).map_err(|(e, _)| e).unwrap(),
            );
        }
        for delivery in sent {
            delivery.await.unwrap().unwrap();
        }
    }

    /// Writes a record to a partition.
    pub(crate) async fn produce_to(&self, topic: &str, partition: i32, body: Vec<u8>) {
        let producer: FutureProducer = self.kafka.producer().create().unwrap();
        let record = FutureRecord::<(), _>::to(topic).partition(partition).payload(&body);
        producer.send(record, PATIENCE).await.unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "the tests end the tasks")]
    pub(crate) fn consume(&self, projection: Orders) -> Consumers {
        let context = Context::new();
        let config = BatchConfig { linger: Duration::from_millis(50), ..BatchConfig::default() };
        let (kafka, postgres) = (self.kafka.clone(), self.database.config.clone());
        let topics = kafka.topics();
        let (orders_topics, files_topics) = (topics.orders(), topics.documents());
        let processor = {
            let (kafka, postgres, context, config) = (kafka.clone(), postgres.clone(), context.clone(), config.clone());
            tokio::spawn(
                async move { consumer::run(projection, orders_topics, config, &kafka, &postgres, &context).await },
            )
        };
        let fetcher = {
            let context = context.clone();
            tokio::spawn(
                async move { consumer::run(invoices(), files_topics, config, &kafka, &postgres, &context).await },
            )
        };
        Consumers { context, tasks: vec![processor, fetcher] }
    }

    /// Waits until this many records have an outcome.
    pub(crate) async fn until_rows(&self, rows: usize) {
        let mut connection = self.database.connect().await.unwrap();
        let until = tokio::time::Instant::now() + PATIENCE;
        while outcomes(&mut connection).await.unwrap().values().sum::<i64>() < i64::try_from(rows).unwrap() {
            assert!(tokio::time::Instant::now() < until, "{:?}", outcomes(&mut connection).await.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes bodies, and consumes them until each has an outcome.
    pub(crate) async fn take(&self, bodies: Vec<Vec<u8>>) {
        let mut connection = self.database.connect().await.unwrap();
        let before = outcomes(&mut connection).await.unwrap().values().sum::<i64>();
        let rows = usize::try_from(before).unwrap() + bodies.len();
        self.produce(bodies).await;
        let consumers = self.consume(orders());
        self.until_rows(rows).await;
        consumers.end().await;
    }
}

impl Consumers {
    pub(crate) fn of(context: Context, tasks: Vec<JoinHandle<Result<(), ConsumerError>>>) -> Self {
        Self { context, tasks }
    }

    pub(crate) async fn end(self) {
        self.context.shutdown.stop();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

/// Runs a statement; returns the number of affected rows.
pub(crate) async fn execute(connection: &mut PgConnection, statement: impl Into<String>) -> u64 {
    sqlx::query(AssertSqlSafe(statement.into())).execute(connection).await.unwrap().rows_affected()
}

/// Returns the single value of a query.
pub(crate) async fn value<T>(connection: &mut PgConnection, statement: impl Into<String>) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(statement.into())).fetch_one(connection).await.unwrap()
}
