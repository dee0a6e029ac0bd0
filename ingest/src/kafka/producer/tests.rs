use std::ffi::CStr;

use rdkafka::{bindings::rd_kafka_test_fatal_error, mocking::MockCluster, types::RDKafkaRespErr};
use riverlock_runtime::{
    Context, Health,
    kafka::{KafkaConfig, topics},
};

use super::*;
use crate::{kafka::supervisor::Supervisor, readiness::Readiness};

const PATIENCE: Duration = Duration::from_secs(20);
const OTHER: &str = "riverlock.raw.other";

fn cluster() -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, KafkaConfig) {
    let cluster = MockCluster::new(1).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap_servers(), partitions: 2, ..KafkaConfig::default() };
    for topic in topics::names(&kafka) {
        cluster.create_topic(&topic, 2, 1).unwrap();
    }
    (cluster, kafka)
}

fn limits(in_flight_max: usize) -> LimitsConfig {
    LimitsConfig { in_flight_max, in_flight_partition_max: Some(in_flight_max), ..LimitsConfig::default() }
}

fn new(kafka: &KafkaConfig, in_flight_max: usize) -> Producer {
    Producer::new(kafka, &limits(in_flight_max), Health::default().register("reports")).unwrap()
}

fn record(topic: &str) -> Record<'_> {
    let deadline = Instant::now() + Duration::from_millis(2_500);
    Record { topic, key: "k", payload: b"{}", headers: OwnedHeaders::new(), deadline }
}

fn send(producer: &Producer) -> Result<oneshot::Receiver<Delivery>, Rejection> {
    producer.send(record(OTHER), producer.reserve(OTHER, "k", 2)?, Counter::noop())
}

async fn delivered(producer: &Producer, mut delivery: oneshot::Receiver<Delivery>) -> Delivery {
    producer.delivered(&mut delivery, Instant::now() + PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_and_its_bytes_are_released_only_by_the_delivery_report() {
    let (cluster, kafka) = cluster();
    let producer = new(&kafka, 1);
    let first = send(&producer).unwrap();
    assert!(matches!(delivered(&producer, first).await, Delivery::Persisted { offset: 0, .. }));

    cluster.broker_down(-1).unwrap();
    assert_eq!(producer.reserve(OTHER, "k", 32 * 1024 * 1024 + 1).map(drop), Err(Rejection::Busy));
    let admission = producer.reserve(OTHER, "k", 32 * 1024 * 1024).unwrap();
    let second = producer.send(record(OTHER), admission, Counter::noop()).unwrap();
    // The receiver is dropped, as when a sender disconnects: the event still occupies its permit.
    drop(second);
    assert!(matches!(send(&producer), Err(Rejection::Busy)));
    // librdkafka's queue may be full for a moment while the broker becomes unavailable; a probe needs no permit.
    let started = Instant::now();
    let probe = loop {
        match producer.send_probe(record("riverlock.probe")) {
            Ok(probe) => break probe,
            Err(error) => assert!(started.elapsed() < PATIENCE, "a probe needs no permit: {error:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    cluster.broker_up(-1).unwrap();
    let _permit = tokio::time::timeout(PATIENCE, producer.permits.acquire()).await.unwrap().unwrap();
    assert_eq!(producer.bytes.available_permits(), 32 * 1024 * 1024);
    assert!(matches!(tokio::time::timeout(PATIENCE, probe).await, Ok(Ok(Delivery::Persisted { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_does_not_acknowledge_leaves_permits_for_the_others() {
    let (cluster, kafka) = cluster();
    cluster.broker_down(-1).unwrap();
    let limits = LimitsConfig { in_flight_partition_max: None, ..limits(8) };
    let producer = Producer::new(&kafka, &limits, Health::default().register("reports")).unwrap();
    let _stuck = [send(&producer).unwrap(), send(&producer).unwrap()];
    assert_eq!(send(&producer).map(drop), Err(Rejection::Busy));
    assert!(producer.reserve("riverlock.raw.orders", "k", 2).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_rejects_the_event_and_releases_its_permit() {
    let (cluster, kafka) = cluster();
    cluster.broker_down(-1).unwrap();
    let mut producer = new(&kafka, 10);
    producer.config.set("queue.buffering.max.messages", "1");
    producer.replace().await.unwrap();
    let _kept = send(&producer).unwrap();
    assert_eq!(send(&producer).map(drop), Err(Rejection::Busy));
    assert_eq!(producer.permits.available_permits(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_a_dropped_producer_never_sent_are_reported_as_not_persisted() {
    let (cluster, kafka) = cluster();
    cluster.broker_down(-1).unwrap();
    let producer = new(&kafka, 10);
    let delivery = send(&producer).unwrap();
    producer.replace().await.unwrap();
    let delivery = delivered(&producer, delivery).await;
    assert_eq!(delivery, Delivery::NotPersisted(RDKafkaErrorCode::PurgeQueue));
    assert_eq!(producer.permits.available_permits(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_deadline_passes_is_ambiguous() {
    let (cluster, kafka) = cluster();
    let producer = new(&kafka, 10);
    let warm = send(&producer).unwrap();
    assert!(matches!(delivered(&producer, warm).await, Delivery::Persisted { .. }));
    cluster.broker_round_trip_time(-1, Duration::from_millis(500)).unwrap();
    let mut slow = send(&producer).unwrap();
    assert_eq!(producer.delivered(&mut slow, Instant::now()).await, Delivery::Ambiguous(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_with_a_fatal_error_is_replaced_and_accepts_events_again() {
    let (_cluster, kafka) = cluster();
    let context = Context::new();
    let producer = Arc::new(new(&kafka, 10));
    let soft = context.shutdown.soft().clone();
    let readiness = Arc::new(Readiness::new(context.health.register("ingest")));
    assert_eq!(producer.check(Instant::now()), Err(Rejection::NotReady), "it is not warmed up");
    let supervisor =
        Supervisor { producer: Arc::clone(&producer), kafka, readiness, not_ready_after: Duration::from_secs(10) };
    let supervisor = context.shutdown.spawn_work(supervisor.run(soft));
    wait_until(|| context.health.not_ready().is_empty()).await;

    let failed = producer.handle().unwrap();
    let reason: &CStr = c"injected by the test";
    #[expect(unsafe_code, reason = "librdkafka's own hook for tests; rdkafka does not wrap it")]
    // SAFETY: the client lives as long as `failed`, and the text is terminated and copied.
    unsafe {
        let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        rd_kafka_test_fatal_error(failed.client().native_ptr(), code, reason.as_ptr());
    }
    let failed_at = Arc::as_ptr(&failed);
    drop(failed);
    wait_until(|| producer.handle().is_some_and(|handle| Arc::as_ptr(&handle) != failed_at)).await;
    wait_until(|| context.health.not_ready().is_empty()).await;
    assert_eq!(producer.check(Instant::now()), Ok(()));
    let delivery = send(&producer).unwrap();
    assert!(matches!(delivered(&producer, delivery).await, Delivery::Persisted { .. }));

    context.shutdown.stop();
    supervisor.await.unwrap();
    producer.close().await;
    assert_eq!(send(&producer).map(drop), Err(Rejection::NotReady), "it is closed");
}

/// Polls a condition for which there is no notification.
async fn wait_until(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
