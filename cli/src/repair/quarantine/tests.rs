use clap::Parser as _;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_ingest::IngestConfig;
use riverlock_runtime::kafka::{KafkaConfig, REQUEST_TIMEOUT, topics};
use riverlock_sandbox::{sender::sign, stack::EmbeddedBroker};

use super::{
    args::ReleaseOptions,
    reader::STALL_MAX,
    release::{ReleaseReport, WRITE_TIMEOUT, release},
    verdict::StoredDelivery,
    *,
};
use crate::args::{Args, Command};

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
fn an_event_is_verified_with_the_current_secrets_and_its_time_of_receipt() {
    let config = ingest();
    config.validate().unwrap();
    let authenticator = Authenticator::new(&config, "2026-01-10T00:00:00Z".parse().unwrap());
    let new = signed("the new secret, long", 1_767_225_600);
    let old = signed("an old secret, long", 1_767_225_600);
    let delivery = |endpoint, received_at, signature, basic| StoredDelivery {
        endpoint,
        received_at,
        signature,
        basic,
        bearer: "",
        body: BODY,
    };
    for (delivery, says) in [
        (delivery("main", "2026-01-01T00:00:00Z", new.as_str(), ""), "verifies with secret new"),
        (delivery("main", "2026-01-01T00:04:59Z", &new, ""), "verifies with secret new"),
        (delivery("main", "2026-01-01T00:05:01Z", &new, ""), "the signature is correct but 301 s old"),
        (delivery("main", "2026-01-01T00:00:00Z", &old, ""), "has expired"),
        (delivery("main", "2026-01-01T00:00:00Z", "", ""), "no DigitalRiver-Signature"),
        (delivery("main", "", &new, ""), "time of receipt is missing"),
        (delivery("both", "2026-01-01T00:00:00Z", &new, "failed"), "but the password was missing or wrong"),
        (delivery("both", "2026-01-01T00:00:00Z", &new, ""), "but the password was missing or wrong"),
        (delivery("both", "2026-01-01T00:00:00Z", &new, "passed"), "verifies with secret new"),
        (delivery("token", "2026-01-01T00:00:00Z", &new, ""), "uses no signatures"),
        (delivery("nowhere", "2026-01-01T00:00:00Z", &new, ""), "not configured"),
    ] {
        let verdict = authenticator.authenticate(&delivery, None).to_string();
        assert!(verdict.contains(says), "{verdict:?} does not say {says:?}");
    }
}

#[test]
fn an_event_is_released_although_the_clock_of_ingest_or_of_kafka_is_wrong() {
    let config = ingest();
    let authenticator = Authenticator::new(&config, "2026-01-10T00:00:00Z".parse().unwrap());
    let signature = signed("the new secret, long", 1_767_225_600);
    let delivery = |endpoint, received_at, basic| StoredDelivery {
        endpoint,
        received_at,
        signature: signature.as_str(),
        basic,
        bearer: "",
        body: BODY,
    };
    let (right, wrong) = ("2026-01-01T00:00:10Z", "2026-01-01T02:00:00Z");
    for (endpoint, received_at, stored_at, basic, says) in [
        ("main", wrong, right, "", "verifies with secret new"),
        ("main", right, wrong, "", "verifies with secret new"),
        ("main", "", right, "", "verifies with secret new"),
        (
            "main",
            wrong,
            wrong,
            "",
            "7200 s old, more than is tolerated: check the clocks (release it with --ignore-age)",
        ),
        ("both", wrong, right, "failed", "but the password was missing or wrong"),
        ("both", wrong, wrong, "failed", "(release it with --ignore-age and --signature-only)"),
    ] {
        let delivery = delivery(endpoint, received_at, basic);
        let verdict = authenticator.authenticate(&delivery, Some(stored_at.parse().unwrap()));
        assert!(verdict.to_string().contains(says), "{verdict} does not say {says:?}");
        assert_eq!(authenticator.is_timely(&delivery), received_at == right);
    }
    let released = delivery("main", wrong, "");
    let now = "2026-01-01T02:00:00Z".parse().unwrap();
    assert!(matches!(authenticator.verify_signature(&released, now), Verdict::Invalid(_)));
    assert_eq!(authenticator.verify_signature_of_any_age(&released, now), Verdict::Verifies { secret: "new" });
}

/// Writes an event to the quarantine whose signature is so many seconds old.
async fn put(kafka: &KafkaConfig, id: &str, secret: &str, seconds: i64) {
    let producer: FutureProducer = kafka.producer().create().unwrap();
    let now = SystemClock.now();
    let (time, signature) = (now.to_rfc3339(), signed(secret, now.timestamp() - seconds));
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
    producer.send(FutureRecord::to(&topic).key(id).payload(BODY).headers(headers), WRITE_TIMEOUT).await.unwrap();
}

/// The command that these words select.
fn command(words: &str) -> QuarantineCommand {
    let args = Args::try_parse_from(format!("riverlock quarantine {words}").split_whitespace()).unwrap();
    let Command::Quarantine { command } = args.command else { panic!("another command") };
    command
}

fn release_options(words: &str) -> ReleaseOptions {
    let QuarantineCommand::Release(options) = command(&format!("release {words}")) else { panic!("no release") };
    options
}

fn list_options(words: &str) -> ListOptions {
    let QuarantineCommand::List(options) = command(&format!("list {words}")) else { panic!("no list") };
    options
}

/// A broker with all topics, and a configuration with fewer partitions than there are.
fn cluster(partitions: i32) -> (EmbeddedBroker, Config) {
    let mut config = Config { ingest: ingest(), ..Config::default() };
    let topics = topics::names(&config.kafka).into_iter().map(|name| (name, partitions));
    let cluster = EmbeddedBroker::start(topics).unwrap();
    config.kafka.brokers = cluster.bootstrap();
    config.kafka.partitions = 1;
    (cluster, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_verify_are_released_once_and_only_with_apply() {
    let (_cluster, config) = cluster(2);
    for (id, secret) in [("good", "the new secret, long"), ("bad", "another secret"), ("good", "the new secret, long")]
    {
        put(&config.kafka, id, secret, 0).await;
    }
    let raw = config.kafka.topics().raw("order.accepted");
    let consumer: BaseConsumer = config.kafka.consumer("test").create().unwrap();
    let written = || -> i64 {
        let end = |partition| consumer.fetch_watermarks(&raw, partition, REQUEST_TIMEOUT).unwrap().1;
        end(0) + end(1)
    };
    let counts = |report: &ReleaseReport| (report.released, report.repeated, report.held);
    let run = async |words: &str| release(&config, release_options(words)).await;
    let dry = run("--all").await.unwrap();
    assert_eq!((counts(&dry), dry.events.len()), ((1, 1, 1), 2));
    assert_eq!(written(), 0, "a dry run writes nothing");
    let nameless = run("--all --apply").await.unwrap_err();
    assert!(nameless.to_string().contains("--reason"), "{nameless}");
    let report = run("--id bad --id unknown --apply --reason test").await.unwrap();
    assert_eq!((counts(&report), report.missing.as_slice()), ((0, 0, 1), ["unknown".to_owned()].as_slice()));
    assert_eq!(written(), 0);
    assert_eq!(counts(&run("--id good --apply --by ada --reason mended").await.unwrap()), (1, 1, 0));
    assert_eq!(written(), 1);

    let mut assignment = TopicPartitionList::new();
    for partition in 0..2 {
        assignment.add_partition_offset(&raw, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let message = consumer.poll(STALL_MAX).unwrap().unwrap();
    assert_eq!((message.payload(), message.key()), (Some(BODY), Some(&b"o1"[..])));
    for (name, value) in [
        (record::ORIGIN, "quarantine"),
        (record::SECRET_ID, "new"),
        (record::REASON, ""),
        (record::RELEASED_BY, "ada"),
        (record::RELEASE_REASON, "mended"),
        (record::AGE_IGNORED, ""),
    ] {
        assert_eq!(header(&message, name), value, "{name}");
    }
    for name in [record::RECEIVED_AT, record::RELEASED_AT] {
        assert!(has_time(&message, name), "{name}");
    }
}

fn has_time(message: &BorrowedMessage<'_>, name: &str) -> bool {
    riverlock_schemas::time::parse_time(header(message, name)).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_with_the_time_of_a_wrong_clock_is_released_if_its_age_is_ignored() {
    let (_cluster, config) = cluster(2);
    put(&config.kafka, "late", "the new secret, long", 7_200).await;
    let run = async |words: &str| release(&config, release_options(words)).await.unwrap();
    assert_eq!(run("--all").await.held, 1);
    let report = run("--all --ignore-age --apply --reason clock").await;
    assert_eq!((report.released, report.held), (1, 0));
    let raw = config.kafka.topics().raw("order.accepted");
    let consumer: BaseConsumer = config.kafka.consumer("test").create().unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..2 {
        assignment.add_partition_offset(&raw, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let message = consumer.poll(STALL_MAX).unwrap().unwrap();
    assert_eq!(header(&message, record::AGE_IGNORED), record::TRUE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_partitions_that_kafka_has_are_listed_page_by_page() {
    let (_cluster, config) = cluster(3);
    for i in 0..10 {
        put(&config.kafka, &format!("e-{i}"), "the new secret, long", 0).await;
    }
    let whole = list(&config, &list_options("")).unwrap();
    assert_eq!((whole.items.len(), whole.next.as_deref()), (10, None));
    assert!(whole.items.iter().any(|entry| entry.partition == 2), "the configuration has one partition only");
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(&config, &list_options(&format!("--limit 3{after}"))).unwrap();
        assert!(page.items.len() <= 3);
        paged.extend(page.items.into_iter().map(|entry| entry.event_id));
        let Some(next) = page.next else { break };
        after = format!(" --after {next}");
    }
    assert_eq!(paged, whole.items.into_iter().map(|entry| entry.event_id).collect::<Vec<_>>());
}
