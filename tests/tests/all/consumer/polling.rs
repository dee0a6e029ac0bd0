//! Consumers on a broker: records that PostgreSQL rejects, restarts, restores, and offsets that Kafka does not have.

use std::time::Duration;

use riverlock_ledger::{
    Error,
    consumer::{self, BatchConfig, ConsumerError},
};
use riverlock_runtime::Context;
use riverlock_tests::{backup::Backup, outcomes};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use crate::harness::{
    PATIENCE,
    projection::{Applying, Every, reject_some},
    topic::{PARTITIONS, TOPIC, Topic},
};

/// Applies every event, except that PostgreSQL rejects those whose id contains `rejected`.
struct Selective;

impl Applying for Selective {
    const NAME: &'static str = "selective";

    async fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        reject_some(connection, ids).await
    }
}

impl Topic {
    #[expect(clippy::disallowed_methods, reason = "the test awaits the task")]
    fn consume(&self, context: &Context) -> JoinHandle<Result<(), ConsumerError>> {
        let (kafka, postgres, context) = (self.kafka.clone(), self.database.config.clone(), context.clone());
        let config = BatchConfig { linger: Duration::from_millis(300), ..BatchConfig::default() };
        tokio::spawn(async move {
            consumer::run(Every(Selective), vec![TOPIC.to_owned()], config, &kafka, &postgres, &context).await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_postgres_rejects_are_isolated_and_the_rest_is_applied() {
    let setting = Topic::new().await;
    setting.produce((0..300).map(|i| if i % 100 == 50 { format!("rejected-{i}") } else { format!("event-{i}") })).await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(300).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();

    let mut connection = setting.database.connect().await.unwrap();
    let found = outcomes(&mut connection).await.unwrap();
    assert_eq!((found["applied"], found["dead"]), (297, 3));
    let letters: Vec<(String, String)> = sqlx::query_as(
        "SELECT e.event_id, d.reason FROM dead_letters d JOIN event_records e USING (topic_id, partition, record_offset) ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let expected = ["rejected-150", "rejected-250", "rejected-50"].map(|id| (id.to_owned(), "database".to_owned()));
    assert_eq!(letters, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_records_delay_the_rest_by_less_than_five_seconds() {
    let setting = Topic::new().await;
    setting
        .produce((0..4_000).map(|i| if i % 400 == 7 { format!("rejected-{i}") } else { format!("event-{i}") }))
        .await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(4_000).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    let mut connection = setting.database.connect().await.unwrap();
    let found = outcomes(&mut connection).await.unwrap();
    assert_eq!((found["applied"], found["dead"]), (3_990, 10));
    // Every row has the start of its transaction; the first attempt started before all of them.
    let seconds: f64 =
        sqlx::query_scalar("SELECT extract(epoch FROM max(recorded_at) - min(recorded_at))::float8 FROM event_records")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert!(seconds < 5.0, "the rest waited for {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_resumes_at_the_offset_in_the_database_and_not_at_kafkas() {
    let setting = Topic::new().await;
    setting.produce((0..40).map(|i| format!("event-{i}"))).await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(40).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();

    // As after a restore of yesterday's backup: rows and offsets are gone, Kafka's committed offsets are not.
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::query("DELETE FROM event_records WHERE record_offset >= 3").execute(&mut connection).await.unwrap();
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
async fn nothing_is_written_into_tables_of_a_newer_version() {
    let setting = Topic::new().await;
    setting.produce((0..8).map(|i| format!("event-{i}"))).await;
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of tomorrow', true, '', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let context = Context::new();
    let task = setting.consume(&context);
    let until = tokio::time::Instant::now() + PATIENCE;
    while !format!("{:?}", context.health.not_ready()).contains("a newer version has changed the tables") {
        assert!(tokio::time::Instant::now() < until, "{:?}", context.health.not_ready());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(setting.rows().await, 0);

    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&mut connection).await.unwrap();
    setting.until_rows(8).await;
    assert_eq!(outcomes(&mut connection).await.unwrap()["applied"], 8, "it waits, and loses nothing");
    context.shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_kafka_does_not_have_stop_the_consumer_and_nothing_is_skipped() {
    let setting = Topic::new().await;
    setting.produce((0..8).map(|i| format!("event-{i}"))).await;
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::query("INSERT INTO topics (name) VALUES ($1)").bind(TOPIC).execute(&mut connection).await.unwrap();
    for partition in 0..PARTITIONS {
        sqlx::query(
            "INSERT INTO consumer_offsets (consumer, topic_id, partition, next_offset) VALUES ('selective', 1, $1, 1000)",
        )
        .bind(partition)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    let context = Context::new();
    let ended = tokio::time::timeout(PATIENCE, setting.consume(&context)).await.expect("it must end").unwrap();
    let error = ended.expect_err("it must stop");
    assert!(matches!(error, ConsumerError::OffsetGone { .. }), "{error}");
    assert!(outcomes(&mut connection).await.unwrap().is_empty());
}

/// What happens during a restore.
#[derive(Clone, Copy)]
enum Around {
    /// No event follows: only a periodic check shows the restore to the consumer.
    Quiet,
    /// New events follow immediately.
    Busy,
    /// The backup is older than the topic's number, which another topic has now.
    Renumbered,
}

async fn restored_under_a_running_consumer(around: Around) {
    let setting = Topic::new().await;
    let empty = Backup::take(&setting.database.config).await.unwrap();
    setting.produce((0..40).map(|i| format!("event-{i}"))).await;
    let context = Context::new();
    let task = setting.consume(&context);
    setting.until_rows(40).await;
    let backup = match around {
        Around::Renumbered => {
            let mut copy = empty.connect().await.unwrap();
            sqlx::query("INSERT INTO topics (name) VALUES ('another')").execute(&mut copy).await.unwrap();
            empty
        }
        Around::Quiet | Around::Busy => Backup::take(&setting.database.config).await.unwrap(),
    };
    setting.produce((40..80).map(|i| format!("event-{i}"))).await;
    setting.until_rows(80).await;

    backup.restore().await.unwrap();
    let mut all = 80;
    if matches!(around, Around::Busy) {
        setting.produce((80..90).map(|i| format!("event-{i}"))).await;
        all = 90;
    }
    setting.until_rows(all).await;
    assert!(!task.is_finished(), "the consumer continues without a restart");
    let mut connection = setting.database.connect().await.unwrap();
    assert_eq!(
        outcomes(&mut connection).await.unwrap()["applied"],
        all,
        "nothing is missing and nothing is there twice"
    );
    let topic: i64 =
        sqlx::query_scalar("SELECT count(*) FROM event_records e JOIN topics t USING (topic_id) WHERE t.name = $1")
            .bind(TOPIC)
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(topic, all, "every row has its topic's number");
    context.shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_under_a_running_consumer_is_refilled_without_new_events() {
    restored_under_a_running_consumer(Around::Quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_under_a_running_consumer_is_refilled_while_new_events_arrive() {
    restored_under_a_running_consumer(Around::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_under_a_running_consumer_can_renumber_its_topics() {
    restored_under_a_running_consumer(Around::Renumbered).await;
}
