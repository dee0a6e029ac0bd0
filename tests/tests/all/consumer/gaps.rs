//! Gaps: offsets without records. Raw topics have none, so a transaction creates one: its commit marker takes an offset.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use riverlock_ledger::{
    Error,
    consumer::{self, BatchConfig},
};
use riverlock_runtime::{
    Context,
    kafka::{KafkaConfig, topics},
    telemetry,
};
use riverlock_sandbox::stack::{self, Kafka, kafka_for_test, ports};
use riverlock_tests::{Database, outcomes};
use sqlx::PgConnection;

use crate::harness::{
    PATIENCE,
    projection::{Applying, Every},
    topic::TOPIC,
    until,
};

/// Applies everything, and counts it.
struct Plain(Arc<AtomicUsize>);

impl Applying for Plain {
    const NAME: &'static str = "gapped";

    async fn apply(&self, _connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        self.0.fetch_add(ids.len(), Ordering::Relaxed);
        Ok(())
    }
}

async fn send(producer: &FutureProducer, ids: std::ops::Range<usize>) {
    for i in ids {
        let (key, body) = (i.to_string(), format!(r#"{{"id":"event-{i}","type":"anything"}}"#));
        let record = FutureRecord::to(TOPIC).key(&key).payload(&body).partition(0);
        producer.send(record, PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_read_again_and_counted_and_does_not_block_the_partition() {
    if !kafka_for_test("a_gap_is_read_again_and_counted_and_does_not_block_the_partition") {
        return;
    }
    let page = telemetry::metrics().unwrap();
    let folder = stack::temporary_dir().unwrap();
    let mut broker = Kafka::start(&folder.path().join("kafka"), &[ports::free_port().unwrap()]).await.unwrap();
    let kafka = KafkaConfig { brokers: broker.bootstrap(), ..KafkaConfig::default() };
    topics::create(&kafka).await.unwrap();
    let database = Database::create().await.unwrap();
    let (context, applied) = (Context::new(), Arc::new(AtomicUsize::new(0)));
    let task = {
        let (kafka, postgres, context, applied) =
            (kafka.clone(), database.config.clone(), context.clone(), Arc::clone(&applied));
        async move {
            let topics = vec![TOPIC.to_owned()];
            consumer::run(Every(Plain(applied)), topics, BatchConfig::default(), &kafka, &postgres, &context).await
        }
    };
    context.shutdown.spawn("gapped", task);

    let plain: FutureProducer = kafka.producer().create().unwrap();
    let transactional: FutureProducer =
        kafka.producer().set("transactional.id", "a test").set("transaction.timeout.ms", "30000").create().unwrap();
    transactional.init_transactions(PATIENCE).unwrap();
    for round in 0..2 {
        let first = round * 10;
        send(&plain, first..first + 5).await;
        transactional.begin_transaction().unwrap();
        send(&transactional, first + 5..first + 6).await;
        transactional.commit_transaction(PATIENCE).unwrap();
        send(&plain, first + 6..first + 10).await;
        until("the partition makes no progress", || applied.load(Ordering::Relaxed) == first + 10).await;
    }
    let shows = |line: &str| page.render().lines().any(|shown| shown == line);
    // The first gap is read three times; from then on the partition is known to have gaps.
    for line in [
        r#"riverlock_consumer_gaps_total{consumer="gapped",kind="reread"} 4"#,
        r#"riverlock_consumer_gaps_total{consumer="gapped",kind="lasting"} 2"#,
    ] {
        assert!(shows(line), "{}", page.render());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut connection = database.connect().await.unwrap();
    assert_eq!(
        outcomes(&mut connection).await.unwrap(),
        [("applied".to_owned(), 20)].into(),
        "nothing is stored twice"
    );
    context.shutdown.stop();
    assert!(context.shutdown.wait(PATIENCE).await);
    broker.stop().await.unwrap();
}
