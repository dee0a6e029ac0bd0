//! Services killed at random moments lose no event and apply none twice.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use riverlock_ledger::store;
use riverlock_sandbox::stack::kafka_for_test;
use riverlock_tests::World;

const ORDERS: u64 = 300;
const KILLS: usize = 9;

/// The number of partitions whose offset in PostgreSQL is ahead of the one committed to Kafka.
async fn partitions_ahead(world: &World) -> usize {
    let config = &world.local.config;
    let mut connection = config.postgres.connect().await.unwrap();
    let topics = config.kafka.topics().orders();
    let ids = store::topic_ids(&mut connection, &topics).await.unwrap();
    let stored = store::offsets(&mut connection, riverlock_processor::CONSUMER).await.unwrap();
    let consumer: BaseConsumer = config.kafka.consumer(riverlock_processor::CONSUMER).create().unwrap();
    let mut list = TopicPartitionList::new();
    for topic in &topics {
        list.add_partition_range(topic, 0, config.kafka.partitions - 1);
    }
    let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
    let behind = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let next = stored.get(&(ids[element.topic()], element.partition())).copied().unwrap_or_default();
        let told = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
        next > told
    };
    committed.elements().iter().filter(|element| behind(element)).count()
}

async fn applied(world: &World) -> i64 {
    let mut connection = world.local.config.postgres.connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM event_records").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_killed_at_any_moment_lose_no_event_and_apply_none_twice() {
    if !kafka_for_test("services_killed_at_any_moment_lose_no_event_and_apply_none_twice") {
        return;
    }
    let mut world = World::start(11, ORDERS, 120).await.unwrap();
    let playing = world.begin();
    let (mut killed_between_commits, mut seen) = (0, 0);
    for kill in 0..KILLS {
        // The next one is killed right after a batch was stored: its offsets are in PostgreSQL, and Kafka gets them once a
        // second.
        while applied(&world).await < seen + 60 && !playing.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let service = &world.local.services[[1, 0, 1, 2][kill % 4]];
        service.kill().await.unwrap();
        if service.service.name() == "processor" && partitions_ahead(&world).await > 0 {
            killed_between_commits += 1;
        }
        let mended = world.local.restart_ended().await.unwrap();
        assert_eq!(mended.len(), 1, "{mended:?}");
        seen = applied(&world).await;
    }
    let report = playing.await.unwrap().unwrap();
    assert!(killed_between_commits > 0, "no kill fell between the two commits: the test showed nothing");
    assert!(report.counts.unreachable > 0, "no request met a killed ingest: the test showed nothing");
    world.settle_and_check(&report).await.unwrap();
    world.stop().await.unwrap();
}
