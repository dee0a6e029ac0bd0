//! Two processors share one backlog.

use riverlock_sandbox::stack::{Signal, kafka_for_test};
use riverlock_tests::lives;
use tokio::time::{Duration, Instant, sleep};

use crate::harness::{
    PATIENCE,
    install::{Install, Service},
};

const ORDERS: u64 = 1_500;

/// Retries of a transaction because another one changed the same rows.
const RACES: [&str; 3] = ["lost_race", "deadlock", "serialization"];

async fn until_assigned(processor: &Service) {
    let until = Instant::now() + PATIENCE;
    while processor.metric("riverlock_consumer_assigned_partitions", "processor").await < 1.0 {
        assert!(Instant::now() < until, "a processor has no partition");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processors_never_change_the_same_order_at_once() {
    if !kafka_for_test("two_processors_never_change_the_same_order_at_once") {
        return;
    }
    let install = Install::start().await;
    install.run(&["setup"]).await;
    let processors = [install.service("processor").await, install.service("processor").await];
    for processor in &processors {
        until_assigned(processor).await;
    }
    // Both find the whole backlog, with an order's events far apart.
    processors.iter().for_each(|processor| processor.process.signal(Signal::STOP));
    let lives = lives(71, ORDERS);
    let longest = lives.iter().map(|life| life.events.len()).max().unwrap();
    let events = (0..longest).flat_map(|step| lives.iter().filter_map(move |life| life.events.get(step)));
    let topics = install.kafka.topics();
    let events: Vec<_> = events.filter(|event| topics.raw(event.event_type) != topics.raw_documents()).collect();
    install.produce(events.iter().copied(), |event_type| topics.raw(event_type)).await;
    processors.iter().for_each(|processor| processor.process.signal(Signal::CONT));
    install.until_outcomes(events.len()).await;

    for processor in &processors {
        let read = processor.metric("riverlock_consumer_records_total", "processor").await;
        assert!(
            read > 0.1 * events.len() as f64,
            "one of them read {read} of {}: the test showed nothing",
            events.len()
        );
        for reason in RACES {
            let races = processor.metric("riverlock_consumer_retries_total", &format!("reason=\"{reason}\"")).await;
            assert!(races < 1.0, "{races} retries because of {reason}");
        }
        processor.process.stop(Signal::TERM, PATIENCE).await.unwrap();
    }
    assert!(install.run(&["audit"]).await.contains(&format!("acknowledged={} ", events.len())));
    install.stop().await;
}
