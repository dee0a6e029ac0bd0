//! Constant load during changes: every event is answered in time, and every 202 names the record that contains it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::harness::{
    Answer, DIGITAL_RIVER_TIMEOUT, PATH, PATIENCE, SECRET, Service, configured, event, process_metric, send, sign_with,
    unsigned, wait_until,
};

const NEW: &str = "whsec_fedcba9876543210";
const SENDERS: usize = 4;
const TOPIC: &str = "riverlock.raw.orders";

/// Held by tests that change a configuration, because the metrics of reloads are per process, not per endpoint.
pub(crate) static RELOADING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Both secrets are in files, as Kubernetes mounts them.
pub(crate) fn with_secrets(ids: &[&str]) -> String {
    ids.iter().fold(format!("[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n"), |text, id| {
        format!("{text}[[endpoints.secrets]]\nid = '{id}'\nsecret = 'file:FOLDER/{id}'\n")
    })
}

/// Sends an event signed with these secrets.
pub(crate) async fn post(address: SocketAddr, id: &str, secrets: &[&str]) -> (String, Answer) {
    let body = event(id, "order.accepted", id);
    let signed: Vec<String> = secrets.iter().map(|secret| sign_with(secret, body.as_bytes())).collect();
    let mut header = signed[0].clone();
    for more in &signed[1..] {
        // If the signatures were not made in the same second, only the first one is valid.
        header = format!("{header}, {}", more.split_once(", ").unwrap().1);
    }
    let header = format!("DigitalRiver-Signature: {header}\r\n");
    let answer = send(address, &unsigned(PATH, &header, body.as_bytes())).await;
    (body, answer)
}

/// An event that was sent, its answer, and how long that took.
type Exchange = (String, Answer, Duration);

/// Senders that send events one after another, each event on a new connection.
struct Load {
    /// The secrets that events are currently signed with.
    signing: Arc<Mutex<Vec<&'static str>>>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<Exchange>>>,
}

impl Load {
    fn start(service: &Service) -> Self {
        let signing = Arc::new(Mutex::new(vec![SECRET]));
        let (answered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let sender = |sender: usize| {
            let (address, signing) = (service.address, Arc::clone(&signing));
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            let sending = async move {
                let mut exchanges = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (started, secrets) = (Instant::now(), signing.lock().unwrap().clone());
                    let (body, answer) = post(address, &format!("{sender}-{}", exchanges.len()), &secrets).await;
                    exchanges.push((body, answer, started.elapsed()));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                exchanges
            };
            #[expect(clippy::disallowed_methods, reason = "a test's own sender")]
            tokio::spawn(sending)
        };
        let senders = (0..SENDERS).map(sender).collect();
        Self { signing, answered, stop, senders }
    }

    fn sign_with(&self, secrets: &[&'static str]) {
        *self.signing.lock().unwrap() = secrets.to_vec();
    }

    /// Waits until `count` more events were answered.
    async fn more(&self, count: usize) {
        let until = self.answered.load(Ordering::Relaxed) + count;
        wait_until("more events are answered", || self.answered.load(Ordering::Relaxed) >= until).await;
    }

    async fn end(self) -> Vec<Exchange> {
        self.stop.store(true, Ordering::Relaxed);
        let mut exchanges = Vec::new();
        for sender in self.senders {
            exchanges.extend(sender.await.unwrap());
        }
        exchanges
    }
}

/// Compares every answer with the records in Kafka. Returns how many events were answered with 202 and with 503.
fn check(service: &Service, exchanges: &[Exchange]) -> (usize, usize) {
    let mut receipts = HashMap::new();
    let mut rejected = 0;
    for (body, answer, took) in exchanges {
        assert!(*took < DIGITAL_RIVER_TIMEOUT, "Digital River has given up after {took:?}: {answer:?}");
        match answer.status {
            202 => {
                let (topic, partition, offset) = answer.position();
                assert_eq!(topic, TOPIC);
                let other = receipts.insert((partition, offset), body.as_str());
                assert_eq!(other, None, "two receipts name one record");
            }
            503 => rejected += 1,
            _ => panic!("{body} was answered {answer:?}"),
        }
    }
    let accepted = receipts.len();
    let consumer: BaseConsumer = service.kafka.consumer("test").create().unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..service.kafka.partitions {
        assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    while !receipts.is_empty() {
        let record = consumer.poll(PATIENCE).unwrap_or_else(|| panic!("Kafka has no {receipts:?}")).unwrap();
        // A record without a receipt belongs to an event that was answered with 503.
        if let Some(body) = receipts.remove(&(record.partition(), record.offset())) {
            assert_eq!(record.payload(), Some(body.as_bytes()));
        }
    }
    (accepted, rejected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_rejects_no_event_until_the_old_secret_is_removed() {
    let _alone = RELOADING.lock().await;
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET), ("new", NEW)]).await;
    let load = Load::start(&service);
    let last_match = |id: &str| {
        service.try_metric("riverlock_ingest_secret_last_match_timestamp_seconds", &format!("secret=\"{id}\""))
    };

    load.more(50).await;
    service.configure(&with_secrets(&["old", "new"]));
    wait_until("the new secret is known", || last_match("new").is_some()).await;
    assert!(last_match("old").unwrap() > 0.0, "a remaining secret keeps its time");
    load.sign_with(&[SECRET, NEW]);
    load.more(50).await;
    load.sign_with(&[NEW]);
    load.more(50).await;
    service.configure(&with_secrets(&["new"]));
    load.more(50).await;
    let until = Instant::now() + PATIENCE;
    while post(service.address, "old", &[SECRET]).await.1.status != 401 {
        assert!(Instant::now() < until, "the old secret is still accepted");
    }
    load.more(50).await;
    let exchanges = load.end().await;
    let (accepted, rejected) = check(&service, &exchanges);
    assert_eq!((accepted, rejected), (exchanges.len(), 0));
    assert!(accepted >= 250);
    assert_eq!(post(service.address, "last", &[SECRET]).await.1.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_configuration_under_load_rejects_no_event() {
    let _alone = RELOADING.lock().await;
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET)]).await;
    let load = Load::start(&service);
    let rejections = || process_metric("riverlock_ingest_reloads_total{outcome=\"refused\"}");
    load.more(20).await;
    for bad in ["endpoints = []", "[[endpoints", "[[endpoints]]\nname = 'NAME'\npath = '/without-secrets'\n"] {
        let before = rejections();
        service.configure(bad);
        wait_until("it is rejected", || rejections() > before).await;
        load.more(20).await;
    }
    service.configure(&with_secrets(&["old"]));
    load.more(20).await;
    let exchanges = load.end().await;
    assert_eq!(check(&service, &exchanges), (exchanges.len(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_outages_under_load_lose_no_acknowledged_event() {
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET)]).await;
    let load = Load::start(&service);
    for _ in 0..2 {
        load.more(50).await;
        service.cluster.broker_down(-1).unwrap();
        let rejected = || service.requests("breaker_open") + service.requests("ambiguous");
        let before = rejected();
        wait_until("events are rejected", || rejected() >= before + 20.0).await;
        service.cluster.broker_up(-1).unwrap();
        let accepted = service.requests("accepted");
        wait_until("events are accepted again", || service.requests("accepted") >= accepted + 20.0).await;
    }
    let (accepted, rejected) = check(&service, &load.end().await);
    assert!(accepted >= 40 && rejected >= 40, "{accepted} accepted, {rejected} rejected: the test showed nothing");
}
