//! What is kept of events whose sender is not believed.

use rdkafka::Message;
use riverlock_ingest::{auth::signature::Verifier, config::EndpointConfig};
use riverlock_runtime::{Clock as _, SystemClock};

use crate::harness::{PATH, configured, event, header, request, sign_with, unsigned, wait_until};

const TOPIC: &str = "riverlock.quarantine";
const ENDPOINT: &str = "[[endpoints]]\nname = 'NAME'\npath = '/webhooks/digital-river'\nsecrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_signed_with_an_unknown_secret_is_kept_as_it_came_and_answered_401() {
    let service =
        configured(&format!("{ENDPOINT}basic = {{ username = 'river', password = 'a password: long' }}"), &[]).await;
    let body = event("e-1", "order.accepted", "o-1");
    let signature = sign_with("a secret that is not configured", body.as_bytes());
    let headers =
        format!("DigitalRiver-Signature: {signature}\r\nAuthorization: Basic cml2ZXI6YSBwYXNzd29yZDogbG9uZw==\r\n");
    let answer = service.send(&unsigned(PATH, &headers, body.as_bytes())).await;
    assert_eq!((answer.status, answer.code()), (401, "invalid_signature"), "{answer:?}");

    let record = service.records(TOPIC, 1).remove(0);
    assert_eq!((record.payload(), record.key()), (Some(body.as_bytes()), Some(&b"o-1"[..])));
    for (name, value) in [
        ("event-id", Some("e-1")),
        ("event-type", Some("order.accepted")),
        ("endpoint", Some(service.endpoint.as_str())),
        ("signature", Some(signature.as_str())),
        ("reason", Some("signature_mismatch")),
        ("basic", Some("passed")),
        ("bearer", None),
        ("secret-id", None),
    ] {
        assert_eq!(header(&record, name), value, "{name}");
    }
    assert!(!format!("{record:?}").contains("cml2ZXI6"), "credentials are not kept");
    wait_until("it is counted", || service.metric("riverlock_ingest_quarantine_total", "outcome=\"kept\"") >= 1.0)
        .await;

    // Once the secret is configured, what is kept can be verified.
    let config: EndpointConfig = serde_json::from_value(serde_json::json!({
        "name": "main", "path": "/", "secrets": [{ "id": "new", "secret": "a secret that is not configured" }]
    }))
    .unwrap();
    let received_at = chrono::DateTime::parse_from_rfc3339(header(&record, "received-at").unwrap()).unwrap().to_utc();
    let days_later = SystemClock.now() + chrono::TimeDelta::days(10);
    let verifier = Verifier::new(&config);
    let again =
        |received_at, now| verifier.verify_again([signature.as_bytes()], record.payload().unwrap(), received_at, now);
    assert_eq!(again(received_at, days_later).map(|found| found.id), Ok("new"));
    assert!(again(days_later, days_later).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_or_too_long_or_too_much_is_not_kept_and_real_events_pass() {
    let limits = "[quarantine]\nevents_per_second = 3\nevent_bytes_max = 2000\nbytes_per_second = 4000\n";
    let service = configured(&format!("{limits}{ENDPOINT}"), &[]).await;
    let post = async |body: &str| {
        let header = format!("DigitalRiver-Signature: {}\r\n", sign_with("wrong wrong wrong", body.as_bytes()));
        let answer = service.send(&unsigned(PATH, &header, body.as_bytes())).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_signature"), "{answer:?}");
    };
    let count = |outcome: &str| service.metric("riverlock_ingest_quarantine_total", &format!("outcome=\"{outcome}\""));
    post("no event").await;
    assert!((count("not_an_event") - 1.0).abs() < f64::EPSILON);
    post(&event("long", "order.accepted", &"o".repeat(3_000))).await;
    assert!((count("too_large") - 1.0).abs() < f64::EPSILON);
    for i in 0..40 {
        post(&event(&format!("flood-{i}"), "order.accepted", "o")).await;
        let real =
            service.send(&request(PATH, "", event(&format!("real-{i}"), "order.accepted", "o").as_bytes())).await;
        assert_eq!(real.status, 202, "{real:?}");
    }
    assert!(count("limited") > 10.0, "{}", count("limited"));
    wait_until("some are kept", || count("kept") >= 2.0).await;
    assert!((service.requests("accepted") - 40.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_that_kafka_does_not_take_changes_nothing_for_real_events() {
    let service = configured(ENDPOINT, &[]).await;
    // Kafka refuses whatever is written next, which is for the quarantine.
    for i in 0..20 {
        let error = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        service.cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[error]);
        let body = event(&format!("bad-{i}"), "order.accepted", "o");
        let started = tokio::time::Instant::now();
        let answer = service.send(&unsigned(PATH, "", body.as_bytes())).await;
        assert_eq!(answer.status, 401);
        assert!(started.elapsed() < std::time::Duration::from_millis(2_500));
        let failed = || service.metric("riverlock_ingest_quarantine_total", "outcome=\"failed\"") > f64::from(i) + 0.5;
        wait_until("it failed", failed).await;
    }
    service.cluster.clear_request_errors(rdkafka::types::RDKafkaApiKey::Produce);
    let answer = service.post(&event("good", "order.accepted", "o")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}
