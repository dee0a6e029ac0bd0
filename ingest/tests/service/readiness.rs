//! `/readyz`, `/livez` and the corresponding metrics and logs.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use riverlock_ingest::config::LimitsConfig;
use riverlock_runtime::{Clock as _, SystemClock, clock::ManualClock};

use crate::harness::{
    LOG, PATH, Service, configured, event, limits, process_metric, request, service, start, unsigned, wait_until,
    with_expiring_secret,
};

fn reason(service: &Service) -> Option<String> {
    service.context.health.not_ready().first().map(ToString::to_string)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_is_reported_after_a_delay_and_a_probe_closes_it_without_an_event() {
    let service = start(LimitsConfig { not_ready_after: Duration::from_secs(1), ..limits() }, |_| {}).await;
    service.ready().await;
    service.cluster.broker_down(-1).unwrap();
    let answer = service.post(&event("during", "order.accepted", "o")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    wait_until("it is not ready", || reason(&service).is_some_and(|reason| reason.contains("does not acknowledge")))
        .await;
    service.cluster.broker_up(-1).unwrap();
    // No events are sent.
    service.ready().await;
    assert_eq!(service.post(&event("after", "order.accepted", "o")).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_cannot_be_written_to_is_reported() {
    let service = service().await;
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    service.cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    assert_eq!(service.post(&event("refused", "order.accepted", "o")).await.status, 503);
    let named = |reason: String| reason.contains("riverlock.raw.orders");
    wait_until("it is not ready", || reason(&service).is_some_and(named)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_long_lived_task_sends_heartbeats() {
    let service = configured(
        "[[endpoints]]\nname = 'NAME'\npath = '/x'\nsecrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n",
        &[],
    )
    .await;
    assert!(service.context.health.stuck().is_empty());
    assert!(service.context.health.not_ready().is_empty());
    assert!((process_metric("riverlock_ingest_accept_errors_total")).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_topic_is_reported_before_the_first_event() {
    const HIDDEN: &str = "riverlock.raw.orders";
    let service = start(limits(), |cluster| {
        cluster.topic_error(HIDDEN, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    })
    .await;
    wait_until("it is reported", || reason(&service).is_some_and(|reason| reason.contains(HIDDEN))).await;
    assert!(
        reason(&service).is_some_and(|reason| reason.contains("does not let ingest describe")),
        "{:?}",
        reason(&service)
    );
    service.cluster.topic_error(HIDDEN, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    service.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_expires_while_the_process_runs_is_counted_and_logged() {
    let now = SystemClock.now();
    let clock = Arc::new(ManualClock::new(now));
    let service = with_expiring_secret(now + TimeDelta::seconds(30), Arc::<ManualClock>::clone(&clock)).await;
    let expiry = service.metric("riverlock_ingest_secret_expiry_timestamp_seconds", "secret=\"first\"");
    assert!((expiry - (now.timestamp() + 30) as f64).abs() < 1.5, "{expiry}");
    assert_eq!(service.post(&event("before", "order.accepted", "o")).await.status, 202);
    // The first check must find the secret active.
    let lacks_secret = || service.metric("riverlock_ingest_endpoint_without_active_secret", "") > 0.5;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!lacks_secret());
    clock.advance(TimeDelta::seconds(31));
    wait_until("the expiry is noticed", lacks_secret).await;
    assert_eq!(service.post(&event("after", "order.accepted", "o")).await.status, 401);
    let expired = service.metric("riverlock_ingest_secrets_expired_total", "secret=\"first\"");
    assert!((expired - 1.0).abs() < f64::EPSILON, "{expired}");
    let lines = LOG.lines(&service.endpoint);
    assert!(lines.iter().any(|line| line.contains("has expired")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains("rejects every event")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rejection_is_logged_in_one_line_without_text_from_the_sender() {
    let quick = LimitsConfig { body_read_timeout: Duration::from_millis(200), body_bytes_max: 2_000, ..limits() };
    let service = start(quick, |_| {}).await;
    service.ready().await;
    let body = event("e", "order.accepted", "o");
    let signed = String::from_utf8(request(PATH, "", body.as_bytes())).unwrap();
    let long = "x".repeat(3_000);
    let forged = "a\\n2026-01-01T00:00:00Z ERROR forged";
    let doubled = format!(r#"{{"{forged}":1,"{forged}":2}}"#);
    let quoted = format!(r#""{forged}{}""#, "y".repeat(1_000));
    for (bytes, outcome) in [
        (signed.replace("POST", "PUT").into_bytes(), "method_not_allowed"),
        (unsigned(PATH, "", body.as_bytes()), "was not authenticated"),
        (unsigned(PATH, "", long.as_bytes()), "too_large"),
        (signed.as_bytes()[..signed.len() - 1].to_vec(), "body_timeout"),
        (unsigned("/open", "", doubled.as_bytes()), "not_an_event"),
        (unsigned("/open", "", quoted.as_bytes()), "not_an_event"),
        (request(PATH, "", doubled.as_bytes()), "not_an_event"),
    ] {
        let answer = service.send(&bytes).await;
        let logged = || LOG.lines(&service.endpoint).iter().any(|line| line.contains(outcome));
        wait_until(outcome, logged).await;
        assert!(answer.status == 202 || answer.status >= 400, "{answer:?}");
    }
    for line in LOG.lines("forged") {
        assert!(!line.starts_with("2026-01-01"), "{line}");
        assert!(line.len() < 1_000, "{} bytes", line.len());
    }
    // An id with a line break, in the log line about the oddity.
    let odd = event(forged, "order.accepted", "o");
    let odd = String::from_utf8(request(PATH, "", odd.as_bytes())).unwrap().replace("application/json", "text/plain");
    assert_eq!(service.send(odd.as_bytes()).await.status, 202);
    wait_until("it is logged", || LOG.lines("has oddities").iter().any(|line| line.contains("media_type"))).await;
    assert!(!LOG.lines("forged").iter().any(|line| line.starts_with("2026-01-01")));
}
