use std::{
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{Router, extract::State, http::HeaderMap, http::StatusCode, response::IntoResponse, routing::post};
use chrono::DateTime;
use secrecy::SecretString;
use url::Url;

use super::*;
use crate::{config::BasicAuthentication, sender::sign};

/// The answers of a receiver, and the requests that it got.
#[derive(Default)]
struct Receiver {
    answers: Mutex<Vec<u16>>,
    requests: Mutex<Vec<(HeaderMap, Bytes)>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> axum::response::Response {
    receiver.requests.lock().unwrap().push((headers, body));
    let answer = {
        let mut answers = receiver.answers.lock().unwrap();
        if answers.is_empty() { 202 } else { answers.remove(0) }
    };
    match answer {
        0 => std::future::pending().await,
        302 => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        status => StatusCode::from_u16(status).unwrap().into_response(),
    }
}

async fn start(answers: &[u16]) -> (Arc<Receiver>, TargetConfig) {
    let receiver = Arc::new(Receiver { answers: Mutex::new(answers.to_vec()), ..Receiver::default() });
    let router = Router::new().route("/in", post(receive)).with_state(Arc::clone(&receiver));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Url::parse(&format!("http://{}/in", listener.local_addr().unwrap())).unwrap();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    server.detach_all();
    let target = TargetConfig {
        address,
        secrets: vec![SecretString::from("first"), SecretString::from("second")],
        authentication: Some(BasicAuthentication { username: "dr".into(), password: "pass".into() }),
        timeout: Duration::from_millis(400),
        backoff_base: Duration::from_millis(1),
        backoff_cap: Duration::from_millis(4),
        attempts_max: NonZeroU32::new(5).unwrap(),
        ..TargetConfig::default()
    };
    (receiver, target)
}

/// A clock that advances by a second with every reading.
fn ticking() -> Clock {
    let seconds = AtomicI64::new(1_000);
    Clock::from_fn(move || DateTime::from_timestamp(seconds.fetch_add(1, Ordering::Relaxed), 0).unwrap())
}

fn deliverer(target: TargetConfig) -> (Deliverer, Arc<Progress>) {
    let progress = Arc::new(Progress::new());
    (Deliverer::new(target, 1, ticking(), Arc::clone(&progress)).unwrap(), progress)
}

static BODY: Bytes = Bytes::from_static(b"{\"id\":\"1\"}");

#[tokio::test]
async fn every_retry_carries_the_same_bytes_and_a_new_signature() {
    let (receiver, target) = start(&[503, 500, 302, 202]).await;
    let (deliverer, progress) = deliverer(target);
    let outcome = deliverer.deliver("1", &BODY, &CancellationToken::new()).await;
    assert!(matches!(outcome, Outcome::Acknowledged { status: 202, attempts: 4, .. }), "{outcome:?}");
    let requests = receiver.requests.lock().unwrap();
    for ((headers, body), timestamp) in requests.iter().zip(1_000..) {
        assert_eq!(body, &BODY);
        let signature = headers[SIGNATURE_HEADER].to_str().unwrap();
        assert_eq!(signature, sign::header(&["first", "second"], timestamp, &BODY));
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["authorization"], "Basic ZHI6cGFzcw==");
    }
    let counts = progress.counts();
    assert_eq!((counts.requests_sent, counts.acknowledged, counts.refused_total()), (4, 1, 3));
    assert_eq!(progress.latency().count(), 1);
}

#[tokio::test]
async fn a_delivery_fails_after_its_last_attempt() {
    let (receiver, target) = start(&[400; 9]).await;
    let (deliverer, progress) = deliverer(target);
    let outcome = deliverer.deliver("1", &BODY, &CancellationToken::new()).await;
    assert_eq!(outcome, Outcome::GivenUp { last: Failure::Refused { status: 400 }, attempts: 5 });
    assert_eq!(receiver.requests.lock().unwrap().len(), 5);
    assert_eq!(progress.counts().given_up, 1);
}

#[tokio::test]
async fn a_slow_answer_is_a_timeout_and_is_retried() {
    let (_receiver, target) = start(&[0, 200]).await;
    let (deliverer, progress) = deliverer(target);
    let outcome = deliverer.deliver("1", &BODY, &CancellationToken::new()).await;
    assert!(matches!(outcome, Outcome::Acknowledged { status: 200, attempts: 2, .. }), "{outcome:?}");
    assert_eq!(progress.counts().timeouts, 1);
}

#[tokio::test]
async fn a_refused_connection_is_counted_and_retried() {
    let (_receiver, target) = start(&[]).await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = Url::parse(&format!("http://{free}/in")).unwrap();
    let (deliverer, progress) = deliverer(TargetConfig { address, ..target });
    let outcome = deliverer.deliver("1", &BODY, &CancellationToken::new()).await;
    assert_eq!(outcome, Outcome::GivenUp { last: Failure::Unreachable, attempts: 5 });
    assert_eq!(progress.counts().unreachable, 5);
}

#[tokio::test]
async fn shutdown_ends_the_wait_between_attempts() {
    let (_receiver, target) = start(&[503; 9]).await;
    let hour = Duration::from_secs(3600);
    let (deliverer, _progress) = deliverer(TargetConfig { backoff_base: hour, backoff_cap: hour, ..target });
    let shutdown = CancellationToken::new();
    let delivery = deliverer.deliver("1", &BODY, &shutdown);
    let stop = async {
        while deliverer.progress.counts().refused_total() == 0 {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
    };
    let (outcome, ()) = tokio::join!(delivery, stop);
    assert_eq!(outcome, Outcome::GivenUp { last: Failure::Refused { status: 503 }, attempts: 1 });
    let outcome = deliverer.deliver("1", &BODY, &shutdown).await;
    assert_eq!(outcome, Outcome::GivenUp { last: Failure::Interrupted, attempts: 0 });
}
