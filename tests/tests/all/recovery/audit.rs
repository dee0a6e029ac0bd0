//! The audit finds every manipulated row and record, and reports nothing else.

use std::time::Duration;

use rdkafka::{
    mocking::MockCluster,
    producer::{FutureProducer, FutureRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use riverlock_ledger::{
    DeadReason, Record, batch,
    postgres::{self, Lock},
    store,
};
use riverlock_processor::{CONSUMER, Orders};
use riverlock_recovery::audit::{
    self, AuditError, Report,
    running::{self, AuditConfig, Auditor},
};
use riverlock_runtime::{Context, Secret, kafka::KafkaConfig};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_schemas::Mode;
use riverlock_tests::{Database, now, record};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "riverlock.raw.orders";
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, a database, and a consumer that is run step by step.
struct Setting {
    database: Database,
    connection: PgConnection,
    kafka: KafkaConfig,
    producer: FutureProducer,
    topic_id: i16,
    _cluster: Option<EmbeddedBroker>,
}

fn consumers() -> [(&'static str, Vec<String>); 1] {
    [(CONSUMER, vec![TOPIC.to_owned()])]
}

fn accepted(id: &str, currency: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"o-{id}","currency":"{currency}"}}}}}}"#
    )
}

impl Setting {
    async fn new() -> Self {
        let cluster = EmbeddedBroker::start([(TOPIC.to_owned(), PARTITIONS)].into_iter()).unwrap();
        let brokers = cluster.bootstrap();
        Self { _cluster: Some(cluster), ..Self::at(brokers).await }
    }

    /// On the broker at this address.
    async fn at(brokers: String) -> Self {
        // The configuration names fewer partitions than the topic has.
        let kafka = KafkaConfig { brokers, partitions: 1, ..KafkaConfig::default() };
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        let topic_id = store::topic_ids(&mut connection, &[TOPIC.to_owned()]).await.unwrap()[TOPIC];
        let producer = kafka.producer().create().unwrap();
        Self { database, connection, kafka, producer, topic_id, _cluster: None }
    }

    /// Writes a body to Kafka, and returns its record.
    async fn produce(&self, partition: i32, body: &str) -> Record {
        let sent = FutureRecord::<(), _>::to(TOPIC).partition(partition).payload(body);
        let sent = self.producer.send(sent, PATIENCE).await.unwrap();
        Record { topic_id: self.topic_id, topic: TOPIC.into(), ..record(partition, sent.offset, body.as_bytes()) }
    }

    /// Writes many long records to one partition.
    async fn long_records(&self, id: &str, count: usize) -> Vec<Record> {
        let long = |i| {
            // Incompressible.
            let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(LONG).collect();
            accepted(&format!("{id}-{i}"), &format!(r#"EUR","noise":"{noise}"#))
        };
        let bodies: Vec<String> = (0..count).map(long).collect();
        let message = |body| FutureRecord::<(), String>::to(TOPIC).partition(0).payload(body);
        let send = |body| self.producer.send_result(message(body)).map_err(|(error, _)| error);
        let sent: Vec<_> = bodies.iter().map(|body| send(body).unwrap()).collect();
        let mut records = Vec::new();
        for (body, delivery) in bodies.iter().zip(sent) {
            let offset = delivery.await.unwrap().unwrap().offset;
            records.push(Record { topic_id: self.topic_id, topic: TOPIC.into(), ..record(0, offset, body.as_bytes()) });
        }
        records
    }

    async fn consume(&mut self, records: &[Record], refused: Option<&DeadReason>) {
        batch::apply(&mut self.connection, &orders(), records, refused, now()).await.unwrap();
    }

    /// Twelve consumed records with all outcomes.
    async fn filled() -> Self {
        let mut setting = Self::new().await;
        let mut records = Vec::new();
        for (i, partition) in (0..6).zip((0..PARTITIONS).cycle()) {
            records.push(setting.produce(partition, &accepted(&format!("e{i}"), "EUR")).await);
        }
        records.push(setting.produce(0, &accepted("e0", "EUR")).await);
        records.push(setting.produce(0, &accepted("e0", "USD")).await);
        records.push(setting.produce(1, "not json").await);
        records.push(setting.produce(2, r#"{"id":"p","type":"payout.created"}"#).await);
        setting.consume(&records, None).await;
        setting
    }

    async fn sql(&mut self, text: &str) {
        let done = sqlx::query(AssertSqlSafe(text.to_owned())).execute(&mut self.connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{text} changed nothing");
    }

    async fn prove_all(&mut self) -> Report {
        audit::run(&self.kafka, &mut self.connection, &consumers()).await.unwrap()
    }

    async fn prove_new(&mut self) -> Report {
        let stop = CancellationToken::new();
        running::prove_new(&self.kafka, &mut self.connection, &consumers(), None, &stop).await.unwrap()
    }
}

fn orders() -> Orders {
    Orders::new(vec![Mode::Test])
}

#[tokio::test]
async fn the_audit_balances_for_every_outcome_and_in_unconfigured_partitions() {
    let mut setting = Setting::filled().await;
    let all = setting.prove_all().await;
    assert_eq!(
        all.to_string(),
        "audit: acknowledged=10 applied=6 duplicate=1 ignored=1 conflict=1 dead=1 OK",
        "{:?}",
        all.findings
    );
    let new = setting.prove_new().await;
    assert_eq!((new.to_string(), new.findings), (all.to_string(), Vec::new()));

    let late = setting.produce(2, &accepted("late", "EUR")).await;
    assert_eq!(setting.prove_all().await.pending, 1);
    assert_eq!(audit::pending(&setting.kafka, &mut setting.connection, &consumers()).await.unwrap(), 1);
    setting.consume(&[late], None).await;
    let all = setting.prove_all().await;
    assert!(all.balances() && all.acknowledged == 11 && all.pending == 0, "{all}");
}

/// Manipulations, the findings that they cause, and whether the incremental audit can find them: it reads new records of the
/// consumers' partitions only.
const TAMPERINGS: [(&str, &str, bool); 10] = [
    ("DELETE FROM event_records WHERE event_id = 'e1'", "riverlock.raw.orders[1]@0 has no outcome", true),
    ("UPDATE event_records SET body_sha256 = sha256('x') WHERE event_id = 'e2'", "[2]@0 has another body", true),
    (
        "INSERT INTO events (topic_id, partition, record_offset, event_key, type_id, mode_code, order_id, created_at,
                                   received_at, recorded_after, body_sha256, outcome_code, reason_id)
         SELECT topic_id, partition, 999, event_key_of('invented'), type_id, mode_code, order_id, created_at, received_at,
                recorded_after, body_sha256, outcome_code, reason_id
         FROM events WHERE event_key = event_key_of('e2')",
        "its consumer",
        true,
    ),
    (
        "INSERT INTO events (topic_id, partition, record_offset, event_key, type_id, mode_code, order_id, created_at,
                                   received_at, recorded_after, body_sha256, outcome_code, reason_id)
         SELECT topic_id, 77, 0, event_key_of('invented'), type_id, mode_code, order_id, created_at, received_at,
                recorded_after, body_sha256, outcome_code, reason_id
         FROM events WHERE event_key = event_key_of('e2')",
        "[77], which Kafka does not have",
        false,
    ),
    (
        "WITH other AS (INSERT INTO topics (name) VALUES ('riverlock.raw.other') RETURNING topic_id)
         INSERT INTO events (topic_id, partition, record_offset, event_key, type_id, mode_code, order_id, created_at,
                                   received_at, recorded_after, body_sha256, outcome_code, reason_id)
         SELECT other.topic_id, 0, 0, event_key_of('invented'), type_id, mode_code, order_id, created_at, received_at,
                recorded_after, body_sha256, outcome_code, reason_id
         FROM events, other WHERE event_key = event_key_of('e2')",
        "riverlock.raw.other[0], which no consumer reads",
        false,
    ),
    ("UPDATE consumer_offsets SET next_offset = next_offset + 1 WHERE partition = 2", "its consumer has read up to", true),
    ("UPDATE event_records SET outcome_code = 'd' WHERE event_id = 'e3'", "[0]@1 is called a duplicate", true),
    (
        "UPDATE events SET outcome_code = 'c' WHERE outcome_code = 'd'",
        "is called a conflict, but no other record",
        true,
    ),
    ("DELETE FROM dead_letters", "is dead, but not among the dead letters", true),
    ("UPDATE dead_letters SET state = 'redriven'", "is dead, but not among the dead letters", true),
];

#[tokio::test]
async fn every_manipulation_is_found() {
    for (tampering, finding, seen_running) in TAMPERINGS {
        let mut setting = Setting::filled().await;
        setting.sql(tampering).await;
        let all = setting.prove_all().await;
        assert!(!all.balances(), "{tampering}: {all}");
        assert_eq!((all.wrong, all.findings.len()), (1, 1), "{tampering}: {:?}", all.findings);
        assert!(all.findings[0].contains(finding), "{tampering}: {:?}", all.findings);
        let new = setting.prove_new().await;
        assert_eq!(new.balances(), !seen_running, "{tampering}: {:?}", new.findings);
        if seen_running {
            assert!(new.findings[0].contains(finding), "{tampering}: {:?}", new.findings);
        }
    }
}

#[tokio::test]
async fn an_acknowledged_event_without_an_outcome_below_the_offset_is_found() {
    let mut setting = Setting::filled().await;
    assert!(setting.prove_new().await.balances());
    setting.produce(1, &accepted("skipped", "EUR")).await;
    let last = setting.produce(1, &accepted("last", "EUR")).await;
    setting.consume(std::slice::from_ref(&last), None).await;
    let finding = format!("{TOPIC}[1]@{} has no outcome", last.offset - 1);
    assert_eq!(setting.prove_all().await.findings, [finding.as_str()]);
    assert_eq!(setting.prove_new().await.findings, [finding.as_str()]);
}

#[tokio::test]
async fn the_incremental_audit_reads_new_records_and_stops_at_mismatches() {
    let mut setting = Setting::filled().await;
    assert_eq!(setting.prove_new().await.acknowledged, 10);
    // Below the audited offsets: not read again.
    setting.sql("UPDATE event_records SET body_sha256 = sha256('x') WHERE event_id = 'e2'").await;
    let quiet = setting.prove_new().await;
    assert!(quiet.balances() && quiet.acknowledged == 10, "{quiet}: {:?}", quiet.findings);
    assert!(!setting.prove_all().await.balances(), "a full audit finds it");

    let (one, other) =
        (setting.produce(0, &accepted("one", "EUR")).await, setting.produce(1, &accepted("two", "EUR")).await);
    setting.consume(&[one.clone(), other], None).await;
    setting.sql("DELETE FROM event_records WHERE event_id = 'one'").await;
    for _ in 0..2 {
        let wrong = setting.prove_new().await;
        assert_eq!((wrong.wrong, wrong.acknowledged), (1, 11), "the other partition is audited: {:?}", wrong.findings);
    }
    setting.consume(&[one], None).await;
    let right = setting.prove_new().await;
    assert!(right.balances() && right.acknowledged == 12, "{right}: {:?}", right.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_traffic_causes_no_false_findings() {
    let setting = Setting::new().await;
    let stop = CancellationToken::new();
    let (database, kafka) = (setting.database.config.clone(), setting.kafka.clone());
    let audits = {
        let stop = stop.clone();
        async move {
            let mut connection = database.connect().await.unwrap();
            let (mut reports, mut seen) = (0, std::collections::BTreeSet::new());
            while !stop.is_cancelled() {
                let all = audit::run(&kafka, &mut connection, &consumers()).await.unwrap();
                assert!(all.balances(), "{all}: {:?}", all.findings);
                let never = CancellationToken::new();
                let new = running::prove_new(&kafka, &mut connection, &consumers(), None, &never).await.unwrap();
                assert!(new.balances(), "{new}: {:?}", new.findings);
                seen.insert(all.acknowledged);
                reports += 1;
            }
            (reports, seen.len())
        }
    };
    let traffic = async {
        let mut connection = setting.database.connect().await.unwrap();
        for round in 0..120 {
            let mut records = Vec::new();
            for partition in 0..PARTITIONS {
                for i in 0..4 {
                    // One in four is sent again, and some cannot be read.
                    let body = match (round + i) % 5 {
                        0 => "not json".to_owned(),
                        _ => accepted(&format!("e{}-{partition}-{}", round, i / 2), "EUR"),
                    };
                    records.push(setting.produce(partition, &body).await);
                }
            }
            batch::apply(&mut connection, &orders(), &records, None, now()).await.unwrap();
        }
        stop.cancel();
    };
    let ((reports, different), ()) = tokio::join!(audits, traffic);
    assert!(
        reports >= 5 && different >= 3,
        "{reports} audits saw {different} different states: the test showed nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_audits_at_a_time_and_another_takes_over_when_it_ends() {
    let setting = Setting::filled().await;
    let auditor = Auditor {
        config: AuditConfig::default(),
        kafka: setting.kafka.clone(),
        postgres: setting.database.config.clone(),
        consumers: consumers().to_vec(),
    };
    let (mut connection, mut holder) =
        (setting.database.connect().await.unwrap(), setting.database.connect().await.unwrap());
    assert!(postgres::try_lock(&mut holder, Lock::Audit).await.unwrap());
    let context = Context::new();
    assert!(!auditor.look(&context).await.unwrap(), "another process has the lock");
    assert_eq!(runs(&mut connection).await, None);
    holder.close().await.unwrap();
    assert!(auditor.look(&context).await.unwrap());
    assert_eq!(runs(&mut connection).await, Some((0, 10)));
    assert!(!auditor.look(&context).await.unwrap(), "the next run is due in five minutes");

    // As a task of a service that has not audited yet.
    sqlx::query("TRUNCATE audit_runs_last").execute(&mut connection).await.unwrap();
    context.shutdown.spawn("audit", auditor.run(context.clone()));
    let until = tokio::time::Instant::now() + PATIENCE;
    while runs(&mut connection).await.is_none() {
        assert!(tokio::time::Instant::now() < until, "no audit ran");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    context.shutdown.stop();
    assert!(context.shutdown.wait(PATIENCE).await, "the task ends at shutdown");
}

/// Mismatches and audited records of the last run.
async fn runs(connection: &mut PgConnection) -> Option<(i64, i64)> {
    sqlx::query_as("SELECT wrong, (SELECT sum(acknowledged)::bigint FROM audit_marks) FROM audit_runs_last")
        .fetch_optional(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn errors_of_a_restarting_broker_are_retried() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let mut setting = Setting::at(cluster.bootstrap_servers()).await;
    let record = setting.produce(0, &accepted("e", "EUR")).await;
    setting.consume(&[record], None).await;
    for api in [RDKafkaApiKey::ListOffsets, RDKafkaApiKey::Fetch, RDKafkaApiKey::Metadata] {
        let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 4];
        cluster.request_errors(api, &errors);
        let all = setting.prove_all().await;
        assert!(all.balances() && all.acknowledged == 1, "{api:?}: {all}");
        cluster.clear_request_errors(api);
    }
}

/// Size of a record in bytes, about.
const LONG: usize = 2_000;
/// Records that a partition of the broker keeps: more than are compared in one step.
const KEPT: usize = 2_300;
/// More records than it keeps.
const MANY: usize = 4_000;

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_deletes_before_the_audit_are_reported_as_such() {
    let mut setting = Setting::new().await;
    // Small fetches, so that Kafka deletes records before the audit reads them.
    for (name, value) in [("queued.max.messages.kbytes", "64"), ("fetch.message.max.bytes", "65536")] {
        setting.kafka.properties.insert(name.to_owned(), Secret::new(value));
    }
    let first = setting.long_records("first", KEPT).await;
    setting.consume(&first, None).await;
    let (kafka, database) = (setting.kafka.clone(), setting.database.config.clone());
    let audit = async {
        let (mut connection, never) = (database.connect().await.unwrap(), CancellationToken::new());
        // The first page takes 13 s; the records after it are deleted meanwhile.
        running::prove_new(&kafka, &mut connection, &consumers(), Some(150), &never).await.unwrap()
    };
    let deleted = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        setting.long_records("second", MANY).await
    };
    let (report, second) = tokio::join!(audit, deleted);
    assert_eq!((report.wrong, report.findings.as_slice()), (0, &[][..]), "{report}");
    assert!(
        report.expired > 0 && report.notes[0].contains("was deleted by Kafka before it could be proved"),
        "{report:?}"
    );
    let rows = u64::try_from(first.len()).unwrap();
    assert_eq!(report.acknowledged + report.expired, rows, "{report:?}");

    // Deleted before the next run as well; reported once.
    setting.consume(&second, None).await;
    let report = setting.prove_new().await;
    assert!(report.wrong == 0 && report.expired > 0 && report.notes.len() == 1, "{report:?}");
    let report = setting.prove_new().await;
    assert!(report.wrong == 0 && report.expired == 0 && report.notes.is_empty(), "{report:?}");
    let all = setting.prove_all().await;
    assert!(all.balances() && all.expired > 0 && all.notes.is_empty(), "{all:?}");
}

#[tokio::test]
async fn an_audit_by_command_writes_nothing() {
    let mut setting = Setting::new().await;
    setting.produce(0, &accepted("e", "EUR")).await;
    setting.sql("DELETE FROM topics").await;
    sqlx::query("SET default_transaction_read_only = on").execute(&mut setting.connection).await.unwrap();
    let all = setting.prove_all().await;
    assert!(all.balances() && all.pending == 1, "the record is pending: {all}");
}

#[tokio::test]
async fn a_topic_that_kafka_does_not_have_is_an_error_and_not_a_finding() {
    let mut setting = Setting::new().await;
    let consumers = [(CONSUMER, vec!["riverlock.raw.missing".to_owned()])];
    let error = audit::run(&setting.kafka, &mut setting.connection, &consumers).await.unwrap_err();
    assert!(matches!(error, AuditError::NoTopic(_)), "{error}");
}
