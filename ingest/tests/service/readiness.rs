//! What `/readyz` and `/livez` say, and what is seen of it in the metrics.

use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use riverlock_ingest::config::LimitsConfig;

use crate::harness::{Service, configured, event, limits, process_metric, service, start, wait_until};

fn reason(service: &Service) -> Option<String> {
    service.context.health.not_ready().first().map(ToString::to_string)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_is_told_after_a_while_and_a_probe_closes_it_without_any_event() {
    let service = start(LimitsConfig { unready_after: Duration::from_secs(1), ..limits() }, |_| {}).await;
    service.ready().await;
    service.cluster.broker_down(-1).unwrap();
    let answer = service.post(&event("during", "order.accepted", "o")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    wait_until("it is not ready", || reason(&service).is_some_and(|reason| reason.contains("does not acknowledge")))
        .await;
    service.cluster.broker_up(-1).unwrap();
    // Nobody sends anything.
    service.ready().await;
    assert_eq!(service.post(&event("after", "order.accepted", "o")).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_kafka_refuses_to_write_is_named() {
    let service = service().await;
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    service.cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    assert_eq!(service.post(&event("refused", "order.accepted", "o")).await.status, 503);
    let named = |reason: String| reason.contains("riverlock.raw.order.accepted");
    wait_until("it is not ready", || reason(&service).is_some_and(named)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_long_lived_task_is_seen_to_move() {
    let service = configured(
        "[[endpoints]]\nname = 'NAME'\npath = '/x'\nsecrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n",
        &[],
    )
    .await;
    assert!(service.context.health.stuck().is_empty());
    assert!(service.context.health.not_ready().is_empty());
    assert!((process_metric("riverlock_ingest_accept_errors_total")).abs() < f64::EPSILON);
}
