//! How dead letters are reported: on a topic, and by metrics.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
};
use riverlock_ledger::{Record, batch, relay, store};
use riverlock_processor::Orders;
use riverlock_recovery::dead_letters::{self, LetterPosition, Request, Run};
use riverlock_runtime::{Context, kafka::KafkaConfig, telemetry};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_schemas::Mode;
use riverlock_tests::{Database, now, record};

const TOPIC: &str = "riverlock.raw.orders";
const PATIENCE: Duration = Duration::from_secs(60);

fn orders() -> Orders {
    Orders::new(vec![Mode::Test])
}

/// Stores a dead letter that cannot be applied.
async fn kill(database: &Database) -> Record {
    let mut connection = database.connect().await.unwrap();
    let topic_id = store::topic_ids(&mut connection, &[TOPIC.to_owned()]).await.unwrap()[TOPIC];
    let record = Record {
        topic_id,
        topic: TOPIC.into(),
        key: Some(b"key".to_vec()),
        headers: Some(OwnedHeaders::new().insert(Header { key: "event-id", value: Some("e") })),
        ..record(2, 17, b"not json")
    };
    batch::apply(&mut connection, &orders(), std::slice::from_ref(&record), None, now()).await.unwrap();
    record
}

async fn redrive(database: &Database, record: &Record) {
    let mut connection = database.connect().await.unwrap();
    let place = LetterPosition { topic_id: record.topic_id, position: record.position() };
    let (by, why) = ("ada".to_owned(), "try".to_owned());
    let request = Request { by, why, run: Run::Apply, include_discarded: false, include_looping: false };
    dead_letters::redrive(&mut connection, &orders(), &place, &request, now()).await.unwrap();
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let value = headers.iter().find(|header| header.key == name)?.value?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failed_attempt_is_published_with_the_unchanged_record_and_its_position() {
    let topics = KafkaConfig::default().topics();
    let cluster = EmbeddedBroker::start([(topics.dead_letter(), 1), (topics.fulfillment(), 1)].into_iter()).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap(), ..KafkaConfig::default() };
    let database = Database::create().await.unwrap();
    let record = kill(&database).await;
    let context = Context::new();
    let (postgres, task) = (database.config.clone(), context.clone());
    context.shutdown.spawn("relay", relay::run(kafka.clone(), postgres, task));

    let consumer: BaseConsumer = kafka.consumer("test").create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&topics.dead_letter(), 0, Offset::Offset(0)).unwrap();
    consumer.assign(&assignment).unwrap();
    for attempts in 1..=2 {
        let message = consumer.poll(PATIENCE).expect("a dead letter is published").unwrap();
        assert_eq!((message.key(), message.payload()), (record.key.as_deref(), Some(record.payload.as_slice())));
        for (name, value) in [
            ("event-id", "e"),
            ("dead-letter-topic", TOPIC),
            ("dead-letter-partition", "2"),
            ("dead-letter-offset", "17"),
            ("dead-letter-reason", "envelope"),
            ("dead-letter-attempts", attempts.to_string().as_str()),
        ] {
            assert_eq!(header(&message, name).as_deref(), Some(value), "{name}");
        }
        if attempts == 1 {
            redrive(&database, &record).await;
        }
    }
    context.shutdown.stop();
    assert!(context.shutdown.wait(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_dead_letters_their_age_and_conflicts_are_metrics() {
    let page = telemetry::metrics().unwrap();
    let database = Database::create().await.unwrap();
    kill(&database).await;
    let mut connection = database.connect().await.unwrap();
    sqlx::query("UPDATE dead_letters SET created_at = now() - interval '2 hours'")
        .execute(&mut connection)
        .await
        .unwrap();
    let body = |currency: &str| {
        format!(
            r#"{{"id":"e","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"o","currency":"{currency}"}}}}}}"#
        )
    };
    let conflict = [record(0, 0, body("EUR").as_bytes()), record(0, 1, body("USD").as_bytes())];
    batch::apply(&mut connection, &orders(), &conflict, None, now()).await.unwrap();

    let context = Context::new();
    context.shutdown.spawn("dead-letters", dead_letters::watch(database.config.clone(), context.clone()));
    let until = tokio::time::Instant::now() + PATIENCE;
    let shown = |text: &str| text.contains("riverlock_dead_letters{state=\"open\"} 1\n");
    while !shown(&page.render()) {
        assert!(tokio::time::Instant::now() < until, "{}", page.render());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    context.shutdown.stop();
    assert!(context.shutdown.wait(PATIENCE).await);
    let text = page.render();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        line.rsplit_once(' ').unwrap().1
    };
    assert_eq!((value("riverlock_dead_letters{state=\"redriven\"}"), value("riverlock_conflict_records ")), ("0", "1"));
    let age: f64 = value("riverlock_dead_letters_oldest_open_age_seconds ").parse().unwrap();
    assert!((7_200.0..7_500.0).contains(&age), "{age}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_by_the_server_affects_readiness_briefly() {
    let (database, context) = (Database::create().await.unwrap(), Context::new());
    let watch = dead_letters::watch(database.config.clone(), context.clone());
    context.shutdown.spawn("dead-letters", watch);
    let until_ready = async |ready: bool| {
        let began = Instant::now();
        while context.health.not_ready().is_empty() != ready {
            assert!(began.elapsed() < PATIENCE, "{:?}", context.health.not_ready());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    };
    let mut connection = database.connect().await.unwrap();
    let began = Instant::now();
    let end_session = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name LIKE '%dead-letters%' AND state = 'idle'
                         AND query LIKE '%events_conflicts_count%'";
    while sqlx::query(end_session).fetch_all(&mut connection).await.unwrap().is_empty() {
        assert!(began.elapsed() < PATIENCE, "nothing was counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_ready(true).await;
    until_ready(false).await;
    let unready = until_ready(true).await;
    assert!(unready < Duration::from_secs(8), "not ready for {unready:?}");
    context.shutdown.stop();
    assert!(context.shutdown.wait(PATIENCE).await);
}
