use rdkafka::consumer::BaseConsumer;
use riverlock_ingest::IngestConfig;
use riverlock_runtime::topics;
use riverlock_sandbox::{sign, stack::Embedded};

use super::*;

const BODY: &[u8] = br#"{"id":"e1","type":"order.accepted","data":{"object":{"id":"o1"}}}"#;

fn ingest() -> IngestConfig {
    serde_json::from_value(serde_json::json!({
        "oauth": { "token_keys": ["0123456789abcdef0123456789abcdef"] },
        "endpoints": [
            { "name": "main", "path": "/", "secrets": [
                { "id": "new", "secret": "the new secret, long" },
                { "id": "gone", "secret": "an old secret, long", "expires_at": "2026-01-02T00:00:00Z" },
            ] },
            { "name": "both", "path": "/both", "secrets": [{ "id": "new", "secret": "the new secret, long" }],
              "basic": { "username": "u", "password": "a long password" } },
            { "name": "token", "path": "/token",
              "oauth": [{ "client_id": "c", "client_secret": "a client's secret" }] },
        ],
    }))
    .unwrap()
}

fn signed(secret: &str, timestamp: i64) -> String {
    sign::header_in_style(Default::default(), &[secret], timestamp, BODY)
}

#[test]
fn an_event_is_verified_with_the_secrets_of_today_and_the_time_at_which_it_came() {
    let config = ingest();
    config.validate().unwrap();
    let judge = Judge::new(&config, "2026-01-10T00:00:00Z".parse().unwrap());
    let new = signed("the new secret, long", 1_767_225_600);
    let old = signed("an old secret, long", 1_767_225_600);
    let kept = |endpoint, received_at, signature, basic| Kept {
        endpoint,
        received_at,
        signature,
        basic,
        bearer: "",
        body: BODY,
    };
    for (kept, says) in [
        (kept("main", "2026-01-01T00:00:00Z", new.as_str(), ""), "verifies with secret new"),
        (kept("main", "2026-01-01T00:04:59Z", &new, ""), "verifies with secret new"),
        (kept("main", "2026-01-01T00:05:01Z", &new, ""), "does not verify: the signature is right but 301 s old"),
        (kept("main", "2026-01-01T00:00:00Z", &old, ""), "has expired"),
        (kept("main", "2026-01-01T00:00:00Z", "", ""), "no DigitalRiver-Signature"),
        (kept("main", "", &new, ""), "does not say when"),
        (kept("both", "2026-01-01T00:00:00Z", &new, "failed"), "but came without the right password"),
        (kept("both", "2026-01-01T00:00:00Z", &new, ""), "but came without the right password"),
        (kept("both", "2026-01-01T00:00:00Z", &new, "passed"), "verifies with secret new"),
        (kept("token", "2026-01-01T00:00:00Z", &new, ""), "uses no signatures"),
        (kept("nowhere", "2026-01-01T00:00:00Z", &new, ""), "not configured"),
    ] {
        let verdict = judge.judge(&kept).to_string();
        assert!(verdict.contains(says), "{verdict:?} does not say {says:?}");
    }
}

async fn put(kafka: &KafkaConfig, id: &str, secret: &str) {
    let producer: FutureProducer = kafka.producer().create().unwrap();
    let now = SystemClock.now();
    let (time, signature) = (now.to_rfc3339(), signed(secret, now.timestamp()));
    let headers = [
        (record::EVENT_ID, id),
        (record::EVENT_TYPE, "order.accepted"),
        (record::ENDPOINT, "main"),
        (record::RECEIVED_AT, time.as_str()),
        (record::SIGNATURE, signature.as_str()),
        (record::ORIGIN, record::ORIGIN_WEBHOOK),
        (record::REASON, "signature_mismatch"),
    ];
    let headers = headers
        .into_iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let topic = kafka.topics().quarantine();
    producer.send(FutureRecord::to(&topic).key("o1").payload(BODY).headers(headers), WRITE_TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_verifies_is_admitted_once_and_only_when_it_is_applied() {
    let mut config = Config { ingest: ingest(), ..Config::default() };
    config.kafka.partitions = 2;
    let cluster = Embedded::start(topics::names(&config.kafka).into_iter().map(|name| (name, 2))).unwrap();
    config.kafka.brokers = cluster.bootstrap();
    for (id, secret) in
        [("good", "the new secret, long"), ("bad", "a stranger's secret"), ("good", "the new secret, long")]
    {
        put(&config.kafka, id, secret).await;
    }
    assert_eq!(list(&config, true).unwrap(), 3);

    let raw = config.kafka.topics().raw("order.accepted");
    let consumer: BaseConsumer = config.kafka.consumer("test").create().unwrap();
    let written = || -> i64 {
        let end = |partition| consumer.fetch_watermarks(&raw, partition, REQUEST_TIMEOUT).unwrap().1;
        end(0) + end(1)
    };
    let options = |apply, id: &[&str]| ReleaseOptions {
        all: id.is_empty(),
        id: id.iter().map(|id| (*id).to_owned()).collect(),
        apply,
        signature_only: false,
    };
    let counts = |report: &Report| (report.admitted, report.repeated, report.held);
    assert_eq!(counts(&release(&config, &options(false, &[])).await.unwrap()), (1, 1, 1));
    assert_eq!(written(), 0, "a dry run writes nothing");
    let report = release(&config, &options(true, &["bad", "unknown"])).await.unwrap();
    assert_eq!((counts(&report), report.found.len(), written()), ((0, 0, 1), 1, 0));
    assert_eq!(counts(&release(&config, &options(true, &["good"])).await.unwrap()), (1, 1, 0));
    assert_eq!(written(), 1);

    let mut assignment = TopicPartitionList::new();
    for partition in 0..2 {
        assignment.add_partition_offset(&raw, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let message = consumer.poll(STALL_MAX).unwrap().unwrap();
    assert_eq!((message.payload(), message.key()), (Some(BODY), Some(&b"o1"[..])));
    assert_eq!(header(&message, record::ORIGIN), "quarantine");
    assert_eq!((header(&message, record::SECRET_ID), header(&message, record::REASON)), ("new", ""));
    assert!(parse_time(header(&message, record::RECEIVED_AT)), "the time at which it came stays");
}

fn parse_time(text: &str) -> bool {
    riverlock_schemas::time::parse_time(text).is_some()
}
