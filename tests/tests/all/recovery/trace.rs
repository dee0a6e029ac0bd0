//! `riverlock trace`, with records in a broker and their outcomes in a database.

use std::{process::Output, sync::Arc};

use chrono::{DateTime, Utc};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_invoice_fetcher::{AccountConfig, InvoiceFetcherConfig, InvoiceQueue};
use riverlock_ledger::{Projection, Record, batch, store};
use riverlock_processor::Orders;
use riverlock_runtime::{
    Secret,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::{sender::sign, stack::EmbeddedBroker};
use riverlock_schemas::{Envelope, Mode, hash::Sha256Hash, kafka::record as headers};
use riverlock_tests::{Database, binary, now};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::process::Command;

const SECRET: &str = "the signing secret, long enough";
const FORGOTTEN: &str = "a secret of an earlier year";
const FILE: &str = "6e5bf525-3907-40c5-86a9-f14ce4f33f34";

/// A broker, a database, and their configuration.
struct Desk {
    kafka: KafkaConfig,
    connection: PgConnection,
    producer: FutureProducer,
    folder: tempfile::TempDir,
    _broker: EmbeddedBroker,
    _database: Database,
}

/// An event to send.
struct Sent<'a> {
    body: &'a [u8],
    /// The bytes in Kafka, if they differ from the body.
    stored: Option<&'a [u8]>,
    secret: (&'a str, &'a str),
}

impl Desk {
    async fn new() -> Self {
        let mut kafka = KafkaConfig { partitions: 2, ..KafkaConfig::default() };
        let broker = EmbeddedBroker::start(topics::names(&kafka).into_iter().map(|name| (name, 2))).unwrap();
        kafka.brokers = broker.bootstrap();
        let (database, folder) = (Database::create().await.unwrap(), tempfile::tempdir().unwrap());
        let config = format!(
            "[postgres]\nurl = '{}'\n[kafka]\nbrokers = '{}'\npartitions = 2\n\
             [[ingest.endpoints]]\nname = 'main'\npath = '/'\nsecrets = [{{ id = 'new', secret = '{SECRET}' }}]\n",
            database.config.url.expose(),
            kafka.brokers,
        );
        std::fs::write(folder.path().join("riverlock.toml"), config).unwrap();
        let connection = database.connect().await.unwrap();
        let producer = kafka.producer().create().unwrap();
        Self { kafka, connection, producer, folder, _broker: broker, _database: database }
    }

    /// Writes an event as ingest does; returns its record as a consumer reads it.
    async fn send(&mut self, sent: Sent<'_>) -> Record {
        let envelope = Envelope::parse(sent.body).unwrap();
        let topic = self.kafka.topics().raw(&envelope.event_type);
        let (time, (secret_id, secret)) = (now(), sent.secret);
        let (time, signature) = (time.to_rfc3339(), sign::header(&[secret], time.timestamp(), sent.body));
        let values = [
            (headers::EVENT_ID, &*envelope.id),
            (headers::ENDPOINT, "main"),
            (headers::RECEIVED_AT, &time),
            (headers::SIGNATURE, &signature),
            (headers::SECRET_ID, secret_id),
            (headers::ORIGIN, headers::ORIGIN_WEBHOOK),
        ];
        let added = values
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let key = envelope.order_id.as_deref().unwrap_or_default();
        let record = FutureRecord::to(&topic).key(key).payload(sent.stored.unwrap_or(sent.body)).headers(added.clone());
        let wait = std::time::Duration::from_secs(20);
        let written = self.producer.send(record, wait).await.unwrap();
        let topic_id = store::topic_ids(&mut self.connection, std::slice::from_ref(&topic)).await.unwrap()[&topic];
        Record {
            topic_id,
            topic: Arc::from(topic),
            partition: written.partition,
            offset: written.offset,
            timestamp: DateTime::<Utc>::from_timestamp(now().timestamp(), 0).unwrap(),
            key: None,
            headers: Some(added),
            payload: sent.body.to_vec(),
        }
    }

    async fn sent(&mut self, body: &[u8]) -> Record {
        self.send(Sent { body, stored: None, secret: ("new", SECRET) }).await
    }

    /// Applies records, each in a separate batch.
    async fn apply<P: Projection>(&mut self, projection: &P, records: &[Record]) {
        for record in records {
            batch::apply(&mut self.connection, projection, std::slice::from_ref(record), None, now()).await.unwrap();
        }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(self.folder.path().join("riverlock.toml")).arg("trace").args(arguments);
        command.output().await.unwrap()
    }

    /// The output, and whether the command succeeds.
    async fn text(&self, arguments: &[&str]) -> (String, bool) {
        let output = self.run(arguments).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        (text, output.status.success())
    }

    async fn json(&self, arguments: &[&str]) -> (Value, bool) {
        let (text, success) = self.text(&[arguments, &["--json"]].concat()).await;
        (serde_json::from_str(&text).unwrap(), success)
    }
}

fn orders() -> Orders {
    Orders::new(vec![Mode::Test, Mode::Live])
}

fn invoices() -> InvoiceQueue {
    let account = AccountConfig { api_key: Secret::new("key"), requests_per_second: None };
    InvoiceQueue::new(&InvoiceFetcherConfig { test: Some(account), ..InvoiceFetcherConfig::default() })
}

fn body(id: &str, event_type: &str, object: &Value) -> Vec<u8> {
    let body = json!({
        "id": id, "type": event_type, "liveMode": false, "createdTime": "2026-01-01T00:00:00Z",
        "data": { "object": object },
    });
    body.to_string().into_bytes()
}

fn order(id: &str, event_type: &str, minute: u32) -> Vec<u8> {
    let updated = format!("2026-01-01T00:{minute:02}:00Z");
    body(id, event_type, &json!({ "id": "o1", "updatedTime": updated, "items": [{ "id": "l1", "quantity": 2 }] }))
}

fn outcomes(trace: &Value) -> Vec<&str> {
    trace["records"].as_array().unwrap().iter().map(|record| record["outcome"].as_str().unwrap()).collect()
}

fn assert_every_receipt_verifies(trace: &Value) {
    for record in trace["records"].as_array().unwrap() {
        let receipt = &record["receipt"];
        assert_eq!(
            (&receipt["state"], &receipt["signature"], &receipt["asAudited"], &receipt["secretId"], &receipt["origin"]),
            (&json!("read"), &json!("verified"), &json!(true), &json!("new"), &json!("webhook")),
            "{record:#}"
        );
        assert_eq!(receipt["bodySha256"], record["bodySha256"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_traced_from_its_webhooks_to_its_last_effect() {
    let mut desk = Desk::new().await;
    let accepted = order("e1", "order.accepted", 1);
    let other = order("e1", "order.accepted", 2);
    let invoice = body("e4", "order.invoice.created", &json!({ "id": FILE, "fileId": FILE, "orderId": "o1" }));
    let mut records = Vec::new();
    for body in [
        &accepted,
        &accepted,
        &other,
        &order("e2", "order.complete", 5),
        &body(
            "e3",
            "order.cancelled",
            &json!({ "id": "o1", "updatedTime": "2026-01-01T00:06:00Z", "totalAmount": "a lot" }),
        ),
    ] {
        records.push(desk.sent(body).await);
    }
    desk.apply(&orders(), &records).await;
    let announced = desk.sent(&invoice).await;
    desk.apply(&invoices(), &[announced]).await;
    sqlx::query(
        "UPDATE invoices SET state = 'stored', object_key = 'invoices/test/x.pdf', sha256 = sha256('x'), size_bytes = 1,
                             ended_at = now(), message_at = now()",
    )
    .execute(&mut desk.connection)
    .await
    .unwrap();
    sqlx::query("DELETE FROM outbox WHERE kind = 'fulfillment.requested'").execute(&mut desk.connection).await.unwrap();

    let (trace, success) = desk.json(&["o1"]).await;
    assert!(success, "{trace:#}");
    assert_eq!((&trace["knownAs"], &trace["intact"]), (&json!(["order"]), &json!(true)));
    assert_eq!(outcomes(&trace), ["applied", "duplicate", "conflict", "applied", "dead", "applied"]);
    assert_every_receipt_verifies(&trace);
    let record = |index: usize| &trace["records"][index];
    assert_eq!(record(0)["transition"]["statusBefore"], Value::Null);
    assert_eq!(record(0)["transition"]["statusAfter"], "ready");
    assert_eq!(record(0)["messages"][0]["kind"], "fulfillment.requested");
    assert_eq!(record(0)["messages"][0]["published"], true);
    assert!(record(1)["transition"].is_null(), "a duplicate has no effect");
    assert_ne!(record(2)["bodySha256"], record(0)["bodySha256"]);
    assert_eq!(record(3)["transition"]["statusAfter"], "complete");
    assert_eq!(record(3)["messages"][0]["published"], false);
    assert_eq!(record(4)["deadLetter"]["reason"], "shape");
    assert_eq!(record(5)["invoices"][0]["sha256"], Sha256Hash::of(b"x").to_string());

    let (text, _) = desk.text(&["o1"]).await;
    for line in [
        "order o1 (test): COMPLETE\n  problems    anomalies: conflict\n              1 dead letter\n              1 record in conflict",
        "  Salesforce  OFI received: yes, EFN status: completed, OCN received: yes",
        "signature  verifies with secret new",
        "order.accepted (test): CONFLICT",
        "status     ready -> complete",
        "changed    order.complete received",
        "caused     fulfillment.completed",
        "message    fulfillment.completed",
        "reason: shape",
        "invoices/test/x.pdf, 1 bytes, SHA-256",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }

    // One event: only its records, with its changes relative to earlier events.
    let (trace, success) = desk.json(&["e2"]).await;
    assert!(success);
    assert_eq!((&trace["knownAs"], outcomes(&trace)), (&json!(["event"]), vec!["applied"]));
    assert_eq!(trace["records"][0]["transition"]["statusBefore"], "ready");
    assert_eq!(desk.json(&["e1"]).await.0["records"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manipulated_records_are_reported_and_fail_the_trace() {
    let mut desk = Desk::new().await;
    // A byte was changed in Kafka.
    let (genuine, tampered) = (order("e1", "order.accepted", 1), order("e1", "order.accepted", 9));
    let record = desk.send(Sent { body: &genuine, stored: Some(&tampered), secret: ("new", SECRET) }).await;
    desk.apply(&orders(), &[record]).await;
    let (trace, success) = desk.json(&["e1"]).await;
    let receipt = &trace["records"][0]["receipt"];
    assert!(!success && trace["intact"] == false, "{trace:#}");
    assert_eq!((&receipt["signature"], &receipt["asAudited"]), (&json!("wrong"), &json!(false)));
    let (text, _) = desk.text(&["e1"]).await;
    assert!(
        text.contains("does not verify") && text.contains("WAS RECORDED") && text.contains("1 record CHANGED since"),
        "{text}"
    );

    // With a removed secret, the signature is not verified, and the trace succeeds.
    let body = order("e2", "order.fulfilled", 2);
    let record = desk.send(Sent { body: &body, stored: None, secret: ("old", FORGOTTEN) }).await;
    // A stored record that Kafka does not have any more.
    let mut lost = desk.sent(&order("e3", "order.complete", 3)).await;
    lost.offset += 1_000;
    desk.apply(&orders(), &[record, lost]).await;
    let (text, success) = desk.text(&["e2"]).await;
    assert!(success && text.contains("secret old is not configured any more"), "{text}");
    let (text, success) = desk.text(&["e3"]).await;
    assert!(success && text.contains("the record is no longer in Kafka"), "{text}");
    let (trace, _) = desk.json(&["o1"]).await;
    assert_eq!(trace["records"][2]["receipt"]["state"], "gone");
    assert!(trace["records"][2]["transition"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_ids_fail_ambiguous_ones_are_reported_and_all_are_escaped() {
    let mut desk = Desk::new().await;
    let record = desk.sent(&order("o1", "order.accepted", 1)).await;
    let long = "x".repeat(300);
    let odd = desk.sent(&body(&long, "payout.created", &json!({ "id": "p" }))).await;
    desk.apply(&orders(), &[record, odd]).await;

    let (text, success) = desk.text(&["o1"]).await;
    assert!(success && text.starts_with("o1 is the id of an event and of an order"), "{text}");
    assert_eq!(desk.json(&["o1"]).await.0["knownAs"], json!(["event", "order"]));
    assert_eq!(desk.json(&["o1", "--as", "event"]).await.0["knownAs"], json!(["event"]));
    assert_eq!(desk.json(&["o1", "--as", "order"]).await.0["knownAs"], json!(["order"]));
    let (trace, success) = desk.json(&[&long]).await;
    assert!(
        success && trace["records"][0]["reason"] == "unhandled_type",
        "an id too long to be a key is found: {trace:#}"
    );

    for id in ["nothing", "\u{1b}[31mred", "é\u{202e}x"] {
        let (text, success) = desk.text(&[id]).await;
        assert!(!success && text.starts_with("nothing is known about "), "{text}");
        assert!(!text.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
    let (trace, success) = desk.json(&["nothing"]).await;
    assert!(!success && trace["knownAs"] == json!([]));
}
