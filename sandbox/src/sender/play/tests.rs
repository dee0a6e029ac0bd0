use std::{collections::HashMap, sync::Mutex};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use bytes::Bytes;
use url::Url;

use super::*;

/// Deliveries by body, and the number of requests to reject before the first is accepted.
#[derive(Default)]
struct Receiver {
    bodies: Mutex<HashMap<Bytes, u64>>,
    order: Mutex<Vec<Bytes>>,
    refuse: u64,
    seen: Mutex<u64>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, body: Bytes) -> StatusCode {
    let mut seen = receiver.seen.lock().unwrap();
    *seen += 1;
    if *seen <= receiver.refuse {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    *receiver.bodies.lock().unwrap().entry(body.clone()).or_default() += 1;
    receiver.order.lock().unwrap().push(body);
    StatusCode::ACCEPTED
}

async fn start(refuse: u64) -> (Arc<Receiver>, TargetConfig) {
    let receiver = Arc::new(Receiver { refuse, ..Receiver::default() });
    let router = Router::new().route("/in", post(receive)).with_state(Arc::clone(&receiver));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Url::parse(&format!("http://{}/in", listener.local_addr().unwrap())).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    server.detach_all();
    let wait = Duration::from_millis(1);
    (receiver, TargetConfig { address, backoff_base: wait, backoff_cap: wait, ..TargetConfig::default() })
}

#[tokio::test]
async fn every_event_is_delivered_at_least_once_and_some_twice() {
    let (receiver, target) = start(20).await;
    let events = Arc::new(EventStore::new());
    let config = PlayConfig { orders: 300, target, events: Some(Arc::clone(&events)), ..PlayConfig::default() };
    let progress = Arc::new(Progress::new());
    let report = play(config.clone(), Arc::clone(&progress), CancellationToken::new()).await.unwrap();

    let bodies = receiver.bodies.lock().unwrap();
    let planned: Vec<PlannedEvent> = config.lives().flat_map(|life| life.events).collect();
    assert!(planned.iter().all(|event| bodies.contains_key(&event.body)));
    assert_eq!(bodies.len(), planned.len());
    assert_eq!(events.len(), planned.len());

    let counts = &report.counts;
    let received: u64 = bodies.values().sum();
    assert!(report.complete);
    assert_eq!(counts.lives_done, 300);
    assert_eq!(counts.events_planned, planned.len() as u64);
    assert_eq!(counts.events_acknowledged, counts.events_planned);
    assert_eq!(counts.acknowledged, received);
    assert_eq!(counts.duplicates_sent, received - counts.events_planned);
    assert!((60..200).contains(&counts.duplicates_sent), "{}", counts.duplicates_sent);
    assert_eq!(counts.refused, [(503, 20)].into());
    assert_eq!(counts.requests_sent, received + 20);
    assert!(report.latency_p50 <= report.latency_p99 && report.latency_p99 <= report.latency_max);
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["latency_p50_microseconds"].is_u64() && json["events_acknowledged"].is_u64());
}

#[tokio::test]
async fn some_events_overtake_and_some_copies_are_late() {
    let (receiver, target) = start(0).await;
    let config = PlayConfig { orders: 200, concurrency: 1, target, ..PlayConfig::default() };
    play(config.clone(), Arc::new(Progress::new()), CancellationToken::new()).await.unwrap();
    let order = receiver.order.lock().unwrap();
    let first_at = |event: &PlannedEvent| order.iter().position(|body| *body == event.body).unwrap();
    let overtaken = config.lives().filter(|life| !life.events.is_sorted_by_key(first_at)).count();
    assert!((8..40).contains(&overtaken), "{overtaken}");
    let late = config.lives().take(50).flat_map(|life| life.events).filter(|event| {
        let last = order.iter().rposition(|body| *body == event.body).unwrap();
        last - first_at(event) > 100
    });
    assert!(late.count() > 0);
}

#[tokio::test]
async fn a_receiver_that_never_acknowledges_makes_the_report_incomplete() {
    let (_receiver, target) = start(u64::MAX).await;
    let target = TargetConfig { attempts_max: NonZeroU32::MIN, ..target };
    let config = PlayConfig { orders: 5, target, ..PlayConfig::default() };
    let report = play(config, Arc::new(Progress::new()), CancellationToken::new()).await.unwrap();
    assert!(!report.complete);
    assert_eq!(report.counts.events_acknowledged, 0);
    assert_eq!(report.counts.given_up, report.counts.requests_sent);
    assert_eq!(report.counts.lives_done, 5);
}

#[tokio::test]
async fn shutdown_ends_playing_early() {
    let (receiver, target) = start(0).await;
    let config = PlayConfig { orders: u64::MAX, target, ..PlayConfig::default() };
    let shutdown = CancellationToken::new();
    let playing = play(config, Arc::new(Progress::new()), shutdown.clone());
    let stop = async {
        while *receiver.seen.lock().unwrap() < 100 {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
    };
    let (report, ()) = tokio::join!(playing, stop);
    assert!(!report.unwrap().complete);
}

#[tokio::test]
async fn a_rate_spreads_deliveries_over_time() {
    let (receiver, target) = start(0).await;
    let rate_per_second = NonZeroU32::new(100);
    let config = PlayConfig { orders: 10, rate_per_second, target, ..PlayConfig::default() };
    let report = play(config, Arc::new(Progress::new()), CancellationToken::new()).await.unwrap();
    let received: u64 = receiver.bodies.lock().unwrap().values().sum();
    assert!(report.elapsed >= Duration::from_millis(10) * u32::try_from(received - 1).unwrap());
}

#[tokio::test]
async fn a_concurrency_of_0_is_rejected() {
    let config = PlayConfig { concurrency: 0, ..PlayConfig::default() };
    let error = play(config, Arc::new(Progress::new()), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("between 1 and"), "{error}");
}
