//! Kafka slow, unavailable or rejecting; disconnects of senders: never a false 202, never an answer after the deadline.

use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use riverlock_ingest::config::LimitsConfig;
use tokio::{io::AsyncWriteExt, time::Instant};

use crate::harness::{
    Answer, DIGITAL_RIVER_TIMEOUT, PATH, PATIENCE, Service, event, limits, read_answer, request, service, start,
    wait_until,
};

fn quick() -> LimitsConfig {
    LimitsConfig {
        answer_deadline: Duration::from_millis(400),
        body_read_timeout: Duration::from_millis(400),
        ..limits()
    }
}

async fn post(service: &Service, id: &str) -> Answer {
    let started = Instant::now();
    let answer = service.post(&event(id, "order.accepted", id)).await;
    assert!(started.elapsed() < DIGITAL_RIVER_TIMEOUT, "Digital River has given up: {answer:?}");
    if answer.status == 503 {
        let head = &answer.head;
        assert!((1..=5).any(|seconds| head.contains(&format!("retry-after: {seconds}"))), "{head}");
    }
    answer
}

/// Sends events until one is accepted.
async fn post_until_accepted(service: &Service) -> Answer {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = post(service, "again").await;
        if answer.status == 202 {
            return answer;
        }
        assert!(Instant::now() < until, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_is_down_events_get_503_in_time_and_then_at_once() {
    let service = service().await;
    assert_eq!(post(&service, "before").await.status, 202);
    service.cluster.broker_down(-1).unwrap();
    let answer = post(&service, "during").await;
    assert_eq!((answer.status, answer.code()), (503, "not_confirmed"), "{answer:?}");
    // The breaker is open: of many concurrent events, one is a probe and the others are not read.
    let probe_and_others: Vec<_> = (0..20).map(|i| format!("during-{i}")).collect();
    let answers = futures_join(probe_and_others.iter().map(|id| post(&service, id))).await;
    assert!(answers.iter().all(|answer| answer.status == 503), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.code() == "event_log_unavailable"), "{answers:?}");
    assert!(service.requests("breaker_open") > 0.0);

    service.cluster.broker_up(-1).unwrap();
    post_until_accepted(&service).await;
    wait_until("the late acknowledgement is counted", || {
        service.metric("riverlock_ingest_late_acknowledgements_total", "") >= 1.0
    })
    .await;
}

/// Runs futures concurrently on this task.
async fn futures_join<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in pending.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *output = Some(value);
            }
        }
        if pending.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_slower_than_the_deadline_causes_503_and_a_late_acknowledgement() {
    let service = start(quick(), |_| {}).await;
    service.ready().await;
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(900)).unwrap();
    let answer = post(&service, "slow").await;
    assert_eq!((answer.status, answer.code()), (503, "not_confirmed"), "{answer:?}");
    assert!((service.metric("riverlock_ingest_ambiguous_total", "") - 1.0).abs() < f64::EPSILON);
    wait_until("the late acknowledgement is counted", || {
        service.metric("riverlock_ingest_late_acknowledgements_total", "") >= 1.0
    })
    .await;
    // It is stored although it was answered with 503, which is why the result is called ambiguous.
    assert_eq!(service.records("riverlock.raw.orders", 1).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enough_in_sync_replicas_no_event_is_acknowledged() {
    let service = start(quick(), |_| {}).await;
    service.ready().await;
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 10_000];
    service.cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    for i in 0..5 {
        assert_eq!(post(&service, &i.to_string()).await.status, 503);
    }
    assert!(service.requests("accepted") < 1.0);
    service.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    assert_eq!(post_until_accepted(&service).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_error_of_the_broker_is_answered_with_503() {
    let service = service().await;
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    service.cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    let answer = post(&service, "refused").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    post_until_accepted(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_beyond_the_in_flight_limit_is_rejected_at_once() {
    let service = start(LimitsConfig { in_flight_max: 1, ..limits() }, |_| {}).await;
    service.ready().await;
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(1_500)).unwrap();
    let mut first = service.connect().await;
    first.write_all(&request(PATH, "", event("first", "order.accepted", "o").as_bytes())).await.unwrap();
    wait_until("the first is being processed", || service.metric("riverlock_ingest_body_bytes_total", "") > 0.0).await;
    let second = post(&service, "second").await;
    assert_eq!((second.status, second.code()), (503, "busy"), "{second:?}");
    // The first one is still in flight.
    assert_eq!(read_answer(&mut first).await.status, 202);
    assert!((service.requests("busy") - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_beyond_the_in_flight_limit_are_rejected() {
    let limits = LimitsConfig { in_flight_bytes_max: 2_000, body_bytes_max: 2_000, ..limits() };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(1_500)).unwrap();
    let mut first = service.connect().await;
    let body = event("first", "order.accepted", &"o".repeat(1_700));
    first.write_all(&request(PATH, "", body.as_bytes())).await.unwrap();
    wait_until("the first is being processed", || service.metric("riverlock_ingest_body_bytes_total", "") > 0.0).await;
    let second = post(&service, &"second".repeat(30)).await;
    assert_eq!((second.status, second.code()), (503, "busy"), "{second:?}");
    assert_eq!(read_answer(&mut first).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_stored_and_counted_although_its_sender_disconnects() {
    let service = service().await;
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
    let body = event("hang-up", "order.complete", "o");
    let mut stream = service.connect().await;
    stream.write_all(&request(PATH, "", body.as_bytes())).await.unwrap();
    wait_until("it is being processed", || service.metric("riverlock_ingest_body_bytes_total", "") > 0.0).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let records = service.records("riverlock.raw.orders", 1);
    assert_eq!(rdkafka::Message::payload(&records[0]), Some(body.as_bytes()));
    wait_until("it is counted", || service.requests("accepted") >= 1.0).await;
    assert!(service.metric("riverlock_ingest_late_acknowledgements_total", "") < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_kafka_acknowledges_a_first_record_it_answers_503_and_is_not_ready() {
    let service = start(limits(), |cluster| cluster.broker_down(-1).unwrap()).await;
    let answer = post(&service, "early").await;
    assert_eq!((answer.status, answer.code()), (503, "not_ready"), "{answer:?}");
    assert_eq!(service.context.health.not_ready()[0].component, "ingest");
    service.cluster.broker_up(-1).unwrap();
    service.ready().await;
    assert_eq!(post(&service, "then").await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_shutdown_events_in_flight_are_answered_and_no_new_ones_accepted() {
    let service = service().await;
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(500)).unwrap();
    let mut stream = service.connect().await;
    stream.write_all(&request(PATH, "", event("last", "order.accepted", "o").as_bytes())).await.unwrap();
    wait_until("it is being processed", || service.metric("riverlock_ingest_body_bytes_total", "") > 0.0).await;
    service.context.shutdown.stop();
    assert_eq!(read_answer(&mut stream).await.status, 202);
    assert!(service.stop().await, "it stopped in time and without a failure");
    assert!(tokio::net::TcpStream::connect(service.address).await.is_err());
    assert!(!service.context.health.not_ready().is_empty());
}
