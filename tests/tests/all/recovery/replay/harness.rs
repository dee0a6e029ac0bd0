//! A broker and a database, filled by the live consumers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use rdkafka::producer::{FutureProducer, FutureRecord};
use riverlock::config::Config;
use riverlock_invoice_fetcher::{AccountConfig, InvoiceFetcherConfig, InvoiceQueue};
use riverlock_ledger::{
    Error, Record, batch,
    consumer::{self, BatchConfig},
};
use riverlock_processor::Orders;
use riverlock_recovery::{
    audit,
    replay::{self, Consumer, Observer, PlanSummary, RATE_DEFAULT, Replay, ReplayError, ReplayResult, Selection},
};
use riverlock_runtime::{Context, Secret, SystemClock, kafka::KafkaConfig};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_schemas::{Envelope, Mode, hash::Sha256Hash};
use riverlock_tests::{Database, lives, now, record, state};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::harness::projection::{Applying, Every, reject_some};

const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(180);

/// Topic, key, body.
pub(super) type Produced = (String, String, Vec<u8>);

/// Whether the record is an event of this type.
pub(super) fn has_type((_, _, body): &Produced, event_type: &str) -> bool {
    Envelope::parse(body).is_ok_and(|envelope| envelope.event_type == event_type)
}

pub(super) struct Setting {
    pub(super) database: Database,
    config: Config,
    produced: Mutex<Vec<Produced>>,
    _cluster: Option<EmbeddedBroker>,
}

/// Collects a replay's notes, and can stop it.
#[derive(Default)]
pub(super) struct Watcher {
    pub(super) said: Vec<String>,
    stop: CancellationToken,
    chunks_left: Option<usize>,
}

impl Watcher {
    pub(super) fn that_stops_after(chunks: usize) -> Self {
        Self { chunks_left: Some(chunks), ..Self::default() }
    }
}

impl Observer for Watcher {
    fn begin(&mut self, _total: u64, _done: u64) {}

    fn progress(&mut self, _read: u64, _selected: u64) {
        if let Some(left) = &mut self.chunks_left {
            *left -= 1;
            if *left == 0 {
                self.stop.cancel();
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
}

impl Setting {
    pub(super) async fn empty() -> Self {
        // A short session timeout, so that partitions are reassigned quickly.
        let session_timeout = Duration::from_secs(6);
        let kafka = KafkaConfig { partitions: PARTITIONS, session_timeout, ..KafkaConfig::default() };
        let topics = kafka.topics().all_raw().into_iter().map(|topic| (topic, PARTITIONS));
        let cluster = EmbeddedBroker::start(topics).unwrap();
        let kafka = KafkaConfig { brokers: cluster.bootstrap(), ..kafka };
        Self::on(kafka, Some(cluster)).await
    }

    pub(super) async fn on(kafka: KafkaConfig, cluster: Option<EmbeddedBroker>) -> Self {
        let database = Database::create().await.unwrap();
        let invoice_fetcher = InvoiceFetcherConfig {
            test: Some(AccountConfig { api_key: Secret::new("key"), requests_per_second: None }),
            ..InvoiceFetcherConfig::default()
        };
        let config = Config { kafka, postgres: database.config.clone(), invoice_fetcher, ..Config::default() };
        Self { database, config, produced: Mutex::default(), _cluster: cluster }
    }

    /// With the events of some orders, consumed to the end.
    pub(super) async fn with_orders(seed: u64, orders: u64) -> Self {
        let setting = Self::empty().await;
        setting.produce(setting.more(seed, orders)).await;
        setting.consume_all().await;
        setting
    }

    pub(super) fn kafka(&self) -> &KafkaConfig {
        &self.config.kafka
    }

    pub(super) async fn connect(&self) -> PgConnection {
        self.database.connect().await.unwrap()
    }

    /// The events of some orders, interleaved: the first event of each order, then the second ones, and so on.
    pub(super) fn more(&self, seed: u64, orders: u64) -> Vec<Produced> {
        let topics = self.kafka().topics();
        let lives = lives(seed, orders);
        let longest = lives.iter().map(|life| life.events.len()).max().unwrap_or_default();
        let events = (0..longest).flat_map(|step| lives.iter().filter_map(move |life| life.events.get(step)));
        events
            .map(|event| {
                let key = event.order_id.clone().unwrap_or_else(|| event.id.clone());
                (topics.raw(event.event_type), key, event.body.to_vec())
            })
            .collect()
    }

    /// An event that the processor ignores.
    pub(super) fn other(&self, id: &str) -> Produced {
        let body = format!(r#"{{"id":"{id}","type":"anything","liveMode":false}}"#);
        (self.kafka().topics().raw_other(), id.to_owned(), body.into_bytes())
    }

    pub(super) async fn produce(&self, records: impl IntoIterator<Item = Produced>) {
        let producer: FutureProducer = self.kafka().producer().create().unwrap();
        let mut written = Vec::new();
        for (topic, key, body) in records {
            let record = FutureRecord::to(&topic).key(&key).payload(&body);
            written.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
            self.produced.lock().unwrap().push((topic, key, body));
        }
        for delivery in written {
            delivery.await.unwrap().unwrap();
        }
    }

    pub(super) fn bodies(&self) -> Vec<Produced> {
        self.produced.lock().unwrap().clone()
    }

    pub(super) fn records(&self) -> u64 {
        self.produced.lock().unwrap().len() as u64
    }

    /// Runs both live consumers until shutdown.
    #[expect(clippy::disallowed_methods, reason = "the test awaits the task")]
    pub(super) fn consume(&self, context: &Context) -> impl Future<Output = ()> + use<> {
        let topics = self.kafka().topics();
        let (kafka, postgres) = (self.config.kafka.clone(), self.config.postgres.clone());
        let (other_kafka, other_postgres) = (kafka.clone(), postgres.clone());
        let (context, other_context) = (context.clone(), context.clone());
        let queue = InvoiceQueue::new(&self.config.invoice_fetcher);
        let (order_topics, file_topics) = (topics.orders(), topics.documents());
        let batch = BatchConfig::default;
        let orders = tokio::spawn(async move {
            let orders = Orders::new(vec![Mode::Test, Mode::Live]);
            consumer::run(orders, order_topics, batch(), &kafka, &postgres, &context).await
        });
        let files = tokio::spawn(async move {
            consumer::run(queue, file_topics, batch(), &other_kafka, &other_postgres, &other_context).await
        });
        async move {
            orders.await.unwrap().unwrap();
            files.await.unwrap().unwrap();
        }
    }

    /// Runs both live consumers until they have read everything.
    pub(super) async fn consume_all(&self) {
        let context = Context::new();
        let consumers = self.consume(&context);
        self.until_consumed().await;
        context.shutdown.stop();
        consumers.await;
    }

    pub(super) async fn until_consumed(&self) {
        let records = i64::try_from(self.records()).unwrap();
        self.until("SELECT sum(next_offset)::bigint FROM consumer_offsets", records).await;
    }

    /// Waits until a query returns at least this number.
    pub(super) async fn until(&self, query: &str, least: i64) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.count(query).await < least {
            assert!(tokio::time::Instant::now() < until, "{query}: {}", self.count(query).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn count(&self, query: &str) -> i64 {
        let count: Option<Option<i64>> = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_optional(&mut self.connect().await)
            .await
            .unwrap();
        count.flatten().unwrap_or_default()
    }

    pub(super) async fn text(&self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut self.connect().await).await.unwrap()
    }

    pub(super) async fn state(&self) -> String {
        state(&mut self.connect().await).await.unwrap()
    }

    pub(super) async fn everything(&self) -> String {
        everything(&mut self.connect().await).await
    }

    /// The state of a database to which every body was applied once.
    pub(super) async fn state_of_all_bodies(&self) -> String {
        let reference = Database::create().await.unwrap();
        let mut plain = reference.connect().await.unwrap();
        let files = self.kafka().topics().documents();
        let bodies = self.bodies().into_iter().filter(|(topic, ..)| !files.contains(topic)).zip(0..);
        let records: Vec<Record> = bodies.map(|((_, _, body), offset)| record(0, offset, &body)).collect();
        let orders = Orders::new(vec![Mode::Test, Mode::Live]);
        batch::apply(&mut plain, &orders, &records, None, now()).await.unwrap();
        state(&mut plain).await.unwrap()
    }

    pub(super) async fn offsets(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT format('%s %s %s', consumer, topic_id, partition), next_offset FROM consumer_offsets",
        )
        .fetch_all(&mut self.connect().await)
        .await
        .unwrap();
        rows.into_iter().collect()
    }

    /// Deletes the rows of some orders, and keeps the consumers' offsets.
    pub(super) async fn lose(&self, which: &str) {
        let mut connection = self.connect().await;
        for table in ["charge_operations", "shipments", "orders", "outbox", "invoices", "event_records"] {
            let query =
                format!("DELETE FROM {table} WHERE {}", which.replace("order_id", &format!("{table}.order_id")));
            sqlx::query(AssertSqlSafe(query)).execute(&mut connection).await.unwrap();
        }
        sqlx::query("DELETE FROM dead_letters d WHERE NOT EXISTS (SELECT FROM event_records e WHERE (e.topic_id, e.partition, e.record_offset) = (d.topic_id, d.partition, d.record_offset))")
            .execute(&mut connection)
            .await
            .unwrap();
    }

    /// Orders with an event in the database.
    pub(super) async fn known_orders(&self) -> BTreeSet<String> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT order_id FROM event_records WHERE order_id IS NOT NULL")
                .fetch_all(&mut self.connect().await)
                .await
                .unwrap();
        rows.into_iter().collect()
    }

    /// The consumers, as the binary configures them.
    pub(super) fn consumers(&self) -> [Consumer; 2] {
        riverlock::repair::replay::consumers(&self.config)
    }

    pub(super) fn replay<'a>(&'a self, consumers: &'a [Consumer]) -> Replay<'a> {
        Replay {
            kafka: &self.config.kafka,
            postgres: &self.config.postgres,
            consumers,
            clock: &SystemClock,
            stop: CancellationToken::new(),
            rate: RATE_DEFAULT,
            by: "a test",
            why: "rows were lost",
        }
    }

    pub(super) async fn plan(&self, selection: &Selection) -> Result<PlanSummary, ReplayError> {
        self.plan_with(&self.consumers(), selection).await
    }

    pub(super) async fn plan_with(
        &self,
        consumers: &[Consumer],
        selection: &Selection,
    ) -> Result<PlanSummary, ReplayError> {
        replay::plan(&self.replay(consumers), selection, usize::MAX, &mut Watcher::default()).await
    }

    /// A plan, and its notes on how its records were found.
    pub(super) async fn plan_and_notes(&self, selection: &Selection) -> (PlanSummary, String) {
        let (consumers, mut watcher) = (self.consumers(), Watcher::default());
        let planned = replay::plan(&self.replay(&consumers), selection, usize::MAX, &mut watcher).await.unwrap();
        (planned, watcher.said.join("\n"))
    }

    pub(super) async fn apply(&self, planned: &PlanSummary) -> Result<ReplayResult, ReplayError> {
        self.apply_watched(planned, Watcher::default()).await
    }

    pub(super) async fn apply_watched(
        &self,
        planned: &PlanSummary,
        mut watcher: Watcher,
    ) -> Result<ReplayResult, ReplayError> {
        let consumers = self.consumers();
        let replay = Replay { stop: watcher.stop.clone(), ..self.replay(&consumers) };
        let plan: Sha256Hash = planned.plan.expect("the plan is not empty");
        replay::apply(&replay, &plan.to_string()[..16], &mut watcher).await
    }

    /// The audit balances, and nothing waits.
    pub(super) async fn audit(&self) {
        let consumers = self.config.consumers();
        let report = audit::run(self.kafka(), &mut self.connect().await, &consumers).await.unwrap();
        assert!(report.balances() && report.pending == 0, "{report}: {:?}", report.findings);
    }
}

/// Every row of every table, except plans and runs.
pub(super) async fn everything(connection: &mut PgConnection) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
         AND relname NOT LIKE 'replay%' ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let query = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {table} t");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *connection).await.unwrap();
        all.push_str(&format!("{table}:\n{rows}\n"));
    }
    all
}

/// Applies every event, except that PostgreSQL rejects those whose id contains `rejected`.
struct Selective;

/// A processor with that projection.
pub(super) fn selective(kafka: &KafkaConfig) -> Consumer {
    Consumer::new(Every(Selective), kafka.topics().orders())
}

impl Applying for Selective {
    const NAME: &'static str = riverlock_processor::CONSUMER;

    async fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        reject_some(connection, ids).await
    }
}
