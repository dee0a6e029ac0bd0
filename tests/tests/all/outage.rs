//! Servers that go away under load: refused in time, never acknowledged in vain, and all is well when they are back.

use std::time::Duration;

use riverlock_sandbox::stack::kafka_for_test;
use riverlock_tests::World;

/// Digital River gives up on an answer after 3000 ms; ingest must answer well before.
const ANSWER_MAX: Duration = Duration::from_millis(2_900);

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_postgres_go_away_under_load_and_nothing_is_lost() {
    if !kafka_for_test("kafka_and_postgres_go_away_under_load_and_nothing_is_lost") {
        return;
    }
    let mut world = World::start(12, 400, 100).await.unwrap();
    let playing = world.begin();
    tokio::time::sleep(Duration::from_secs(3)).await;

    world.local.kafka().unwrap().stop_node(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.local.kafka().unwrap().start_node(1).await.unwrap();

    world.local.postgres.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.local.postgres.restart().await.unwrap();

    let report = playing.await.unwrap().unwrap();
    let refused = report.counts.refused.get(&503).copied().unwrap_or_default();
    assert!(refused > 0, "nobody was refused while Kafka was away: the test showed nothing");
    assert_eq!(report.counts.timeouts, 0, "an answer took longer than Digital River waits");
    assert!(report.latency_max < ANSWER_MAX, "an acknowledgement took {:?}", report.latency_max);
    world.settle_and_check(&report).await.unwrap();
    world.stop().await.unwrap();
}
