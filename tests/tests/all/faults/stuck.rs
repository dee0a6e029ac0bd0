//! A stuck worker, an unreadable row or a slow batch does not block anything else.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    mocking::MockCluster,
    producer::{FutureProducer, FutureRecord},
    types::RDKafkaRespErr,
};
use riverlock_ledger::{
    Error, PostgresConfig,
    consumer::{self, BatchConfig},
    store::Outcome,
};
use riverlock_processor::Orders;
use riverlock_recovery::dead_letters::{self, RedriveResult, Request, Run};
use riverlock_runtime::{Context, kafka::KafkaConfig, telemetry};
use riverlock_schemas::Mode;
use riverlock_tests::{Database, now, outcomes};
use sqlx::PgConnection;

use crate::harness::{
    projection::{Applying, Every},
    raw::event,
    topic::{TOPIC, Topic, consume},
    until,
};

/// Fails with a transient error for the event `stuck` until it is opened.
#[derive(Clone, Default)]
struct Stubborn {
    open: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
}

impl Applying for Stubborn {
    const NAME: &'static str = "stubborn";

    async fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        if ids.iter().any(|id| id == "stuck") && !self.open.load(Ordering::Relaxed) {
            self.tried.fetch_add(1, Ordering::Relaxed);
            sqlx::query("SELECT * FROM a_table_that_is_not_there").execute(connection).await?;
        }
        Ok(())
    }
}

/// Writes events into one partition.
async fn produce_to(setting: &Topic, partition: i32, ids: impl Iterator<Item = String>) {
    let producer: FutureProducer = setting.kafka.producer().create().unwrap();
    let mut sent = Vec::new();
    for id in ids {
        let body = format!(r#"{{"id":"{id}","type":"anything"}}"#);
        let record = FutureRecord::to(TOPIC).key(&id).payload(&body).partition(partition);
        sent.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for delivery in sent {
        delivery.await.unwrap().unwrap();
    }
}

/// Records with an outcome, by partition.
async fn by_partition(setting: &Topic) -> BTreeMap<i32, i64> {
    let mut connection = setting.database.connect().await.unwrap();
    let rows: Vec<(i32, i64)> = sqlx::query_as("SELECT partition, count(*) FROM event_records GROUP BY partition")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_worker_blocks_no_other_and_is_reported_while_others_progress() {
    const EVENTS: i64 = 3_000;
    let page = telemetry::metrics().unwrap();
    let setting = Topic::new().await;
    let (context, projection) = (Context::new(), Stubborn::default());
    let (open, tried) = (Arc::clone(&projection.open), Arc::clone(&projection.tried));
    // Its worker has only this partition.
    produce_to(&setting, 2, ["stuck".to_owned()].into_iter()).await;
    let config = BatchConfig { records_max: 50, workers: 4, ..BatchConfig::default() };
    let task = consume(&setting, &setting.database.config, Every(projection), &config, &context);
    until("the event was not tried", || tried.load(Ordering::Relaxed) > 0).await;
    // More than its worker reads ahead, in addition to and before records of the others.
    produce_to(&setting, 2, (0..EVENTS).map(|i| format!("behind-{i}"))).await;
    for partition in [0, 1, 3] {
        produce_to(&setting, partition, (0..EVENTS).map(|i| format!("other-{partition}-{i}"))).await;
    }
    setting.until_rows(3 * EVENTS).await;
    assert_eq!(by_partition(&setting).await, [(0, EVENTS), (1, EVENTS), (3, EVENTS)].into());
    let findings: Vec<String> = context.health.not_ready().iter().map(ToString::to_string).collect();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("stubborn: worker 2: ") && findings[0].contains("a_table"), "{findings:?}");
    until("the stuck worker is not reported", || {
        page.render().lines().any(|line| line == "riverlock_consumer_paused{consumer=\"stubborn\"} 1")
    })
    .await;

    open.store(true, Ordering::Relaxed);
    setting.until_rows(4 * EVENTS + 1).await;
    until("the consumer is not ready again", || context.health.not_ready().is_empty()).await;
    until("the partition is not read again", || {
        page.render().lines().any(|line| line == "riverlock_consumer_paused{consumer=\"stubborn\"} 0")
    })
    .await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    let mut connection = setting.database.connect().await.unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap(), [("applied".to_owned(), 4 * EVENTS + 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_row_makes_only_its_own_events_dead_letters_until_it_is_repaired() {
    let setting = Topic::new().await;
    let orders = || Orders::new(vec![Mode::Test]);
    let producer: FutureProducer = setting.kafka.producer().create().unwrap();
    let send = async |id: &str, order: &str, state: &str| {
        let body = event(id, "order.accepted", &format!(r#"{{"id":"{order}","state":"{state}"}}"#));
        producer.send(FutureRecord::to(TOPIC).key(order).payload(&body), Duration::from_secs(10)).await.unwrap();
    };
    send("e1", "broken", "accepted").await;
    let context = Context::new();
    let task = consume(&setting, &setting.database.config, orders(), &BatchConfig::default(), &context);
    setting.until_rows(1).await;
    let mut connection = setting.database.connect().await.unwrap();
    // Valid JSON, but not an order's details.
    sqlx::query("UPDATE orders SET details = '7'").execute(&mut connection).await.unwrap();
    send("e2", "broken", "complete").await;
    for i in 0..20 {
        send(&format!("f{i}"), &format!("whole-{i}"), "accepted").await;
    }
    setting.until_rows(22).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    let found = outcomes(&mut connection).await.unwrap();
    assert_eq!((found["applied"], found["dead"]), (21, 1));
    let (reason, detail): (String, String) =
        sqlx::query_as("SELECT reason, detail FROM dead_letters").fetch_one(&mut connection).await.unwrap();
    assert_eq!(reason, "unreadable_row");
    assert!(detail.contains("orders") && detail.contains("broken"), "{detail}");

    let place = dead_letters::find(&mut connection, None, Some("e2")).await.unwrap().remove(0).0;
    let (by, why) = ("ada".to_owned(), "the row".to_owned());
    let request = Request { by, why, run: Run::Apply, include_discarded: false, include_looping: false };
    let came = dead_letters::redrive(&mut connection, &orders(), &place, &request, now()).await.unwrap();
    assert!(matches!(&came, RedriveResult::Dead { reason, .. } if reason == "unreadable_row"), "{came:?}");
    sqlx::query("UPDATE orders SET details = '{}' WHERE order_id = 'broken'").execute(&mut connection).await.unwrap();
    let came = dead_letters::redrive(&mut connection, &orders(), &place, &request, now()).await.unwrap();
    assert!(matches!(came, RedriveResult::Settled { outcome: Outcome::Applied, .. }), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_reports_a_topic_that_it_is_not_authorized_to_read() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
    let database = Database::create().await.unwrap();
    cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let context = Context::new();
    let task = {
        let (postgres, context, projection) = (database.config.clone(), context.clone(), Stubborn::default());
        async move {
            let topics = vec![TOPIC.to_owned()];
            consumer::run(Every(projection), topics, BatchConfig::default(), &kafka, &postgres, &context).await
        }
    };
    context.shutdown.spawn("stubborn", task);
    let refused =
        || context.health.not_ready().iter().any(|finding| finding.reason.contains("TopicAuthorizationFailed"));
    until("the failure is not reported", refused).await;
    cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    until("the consumer is not ready although it is authorized", || context.health.not_ready().is_empty()).await;
    context.shutdown.stop();
    assert!(context.shutdown.wait(Duration::from_secs(60)).await);
}

/// Needs a fixed time for every event.
#[derive(Clone)]
struct Slow {
    per_event: Duration,
    largest: Arc<AtomicUsize>,
}

impl Applying for Slow {
    const NAME: &'static str = "slow";

    async fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        let seconds = self.per_event.as_secs_f64() * ids.len() as f64;
        sqlx::query("SELECT pg_sleep($1)").bind(seconds).execute(connection).await?;
        self.largest.fetch_max(ids.len(), Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_exceeds_the_statement_timeout_is_split() {
    const EVENTS: i64 = 400;
    let setting = Topic::new().await;
    produce_to(&setting, 0, (0..EVENTS).map(|i| format!("event-{i}"))).await;
    let (context, largest) = (Context::new(), Arc::new(AtomicUsize::new(0)));
    let projection = Every(Slow { per_event: Duration::from_millis(10), largest: Arc::clone(&largest) });
    // In one batch they would take four seconds.
    let statement_timeout = Duration::from_millis(1_200);
    let postgres = PostgresConfig { statement_timeout, ..setting.database.config.clone() };
    let config = BatchConfig { linger: Duration::from_millis(500), ..BatchConfig::default() };
    let task = consume(&setting, &postgres, projection, &config, &context);
    setting.until_rows(EVENTS).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    let mut connection = setting.database.connect().await.unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap(), [("applied".to_owned(), EVENTS)].into(), "no event is dead");
    let largest = largest.load(Ordering::Relaxed);
    assert!((20..=120).contains(&largest), "the largest stored batch had {largest} events");
}
