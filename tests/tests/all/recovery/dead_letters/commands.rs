//! The commands `riverlock dead-letters`.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use riverlock_invoice_fetcher::{AccountConfig, InvoiceFetcherConfig, InvoiceQueue};
use riverlock_ledger::{Projection, Record, batch, store};
use riverlock_processor::Orders;
use riverlock_runtime::Secret;
use riverlock_schemas::Mode;
use riverlock_tests::{Database, binary, now, outcomes, record, refused, state};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::process::Command;

const ORDERS: &str = "riverlock.raw.orders";
const DOCUMENTS: &str = "riverlock.raw.documents";
const PATIENCE: Duration = Duration::from_secs(60);

fn accepted(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"order-of-{id}","email":"someone@example.com"}}}}}}"#
    )
}

/// A database with dead letters, and its configuration.
struct Desk {
    folder: tempfile::TempDir,
    database: Database,
    connection: PgConnection,
}

impl Desk {
    async fn new() -> Self {
        let (database, folder) = (Database::create().await.unwrap(), tempfile::tempdir().unwrap());
        let config = format!(
            "[postgres]\nurl = '{}'\n[invoice_fetcher]\nstore = 'file://{}'\n[invoice_fetcher.test]\napi_key = 'key'\n",
            database.config.url.expose(),
            folder.path().display(),
        );
        std::fs::write(folder.path().join("riverlock.toml"), config).unwrap();
        let mut connection = database.connect().await.unwrap();
        store::topic_ids(&mut connection, &[ORDERS.to_owned()]).await.unwrap();
        store::topic_ids(&mut connection, &[DOCUMENTS.to_owned()]).await.unwrap();
        Self { folder, database, connection }
    }

    /// Dead letters of both consumers, and one that can never be applied.
    async fn kill(&mut self, projection: &impl Projection, topic: &str, bodies: &[String]) {
        let ids = store::topic_ids(&mut self.connection, &[topic.to_owned()]).await.unwrap();
        let records: Vec<Record> = bodies
            .iter()
            .zip(0..)
            .map(|(body, offset)| Record {
                topic_id: ids[topic],
                topic: topic.into(),
                ..record(3, offset, body.as_bytes())
            })
            .collect();
        batch::apply(&mut self.connection, projection, &records, Some(&refused()), now()).await.unwrap();
    }

    async fn three() -> Self {
        let mut desk = Self::new().await;
        let orders = Orders::new(vec![Mode::Test, Mode::Live]);
        let never = r#"{"id":"never","type":"order.accepted","liveMode":false,"data":{"object":{"id":{}}}}"#;
        desk.kill(&orders, ORDERS, &[accepted("fixed"), never.to_owned()]).await;
        let account = AccountConfig { api_key: Secret::new("key"), requests_per_second: None };
        let queue = InvoiceQueue::new(&InvoiceFetcherConfig { test: Some(account), ..InvoiceFetcherConfig::default() });
        let invoice = r#"{"id":"invoice","type":"order.invoice.created","liveMode":false,"data":{"object":{"fileId":"6e5bf525-3907-40c5-86a9-f14ce4f33f35","orderId":"o"}}}"#;
        desk.kill(&queue, DOCUMENTS, &[invoice.to_owned()]).await;
        desk
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(self.folder.path().join("riverlock.toml")).arg("dead-letters").args(arguments);
        command.env("USER", "ada");
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    /// Runs a command that must end with this exit code; returns its output.
    async fn text(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments).await;
        let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}{error}");
        text
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments, 0).await).unwrap()
    }
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown_and_bodies_only_on_request() {
    let desk = Desk::three().await;
    let list = desk.text(&["list"], 0).await;
    for expected in [
        "\triverlock.raw.orders[3]@0\tfixed\torder.accepted\torder-of-fixed\topen\t1\tdatabase",
        "riverlock.raw.documents[3]@0\tinvoice",
    ] {
        assert!(list.contains(expected), "{list}");
    }
    let json = desk.json(&["list", "--json", "--event-type", "order.accepted", "--limit", "1"]).await;
    assert_eq!(json["items"].as_array().unwrap().len(), 1);
    let letter = &json["items"][0];
    assert_eq!((letter["eventId"].as_str(), letter["state"].as_str()), (Some("fixed"), Some("open")));
    assert!(desk.text(&["list", "--error", "shape"], 0).await.is_empty());
    assert!(desk.text(&["list", "--until", "1h"], 0).await.is_empty());
    assert_eq!(desk.text(&["list", "--since", "1h"], 0).await.lines().count(), 3);
    assert!(desk.text(&["list", "--state", "redriven"], 0).await.is_empty());

    for name in ["fixed", "riverlock.raw.orders[3]@0"] {
        let shown = desk.text(&["show", name], 0).await;
        assert!(shown.starts_with("dead letter riverlock.raw.orders[3]@0: OPEN, OUTCOME DEAD\n"), "{shown}");
        assert!(shown.contains("fixed, type order.accepted"), "{shown}");
        assert!(!shown.contains("someone@example.com"), "{shown}");
        assert!(!desk.text(&["show", name, "--json"], 0).await.contains("someone@example.com"));
        assert!(desk.text(&["show", name, "--payload"], 0).await.contains(&accepted("fixed")));
        let json = desk.json(&["show", name, "--payload", "--json"]).await;
        assert_eq!(json[0]["payload"].as_str(), Some(accepted("fixed").as_str()));
    }
    desk.text(&["show", "nobody"], 1).await;
    desk.text(&["list", "--since", "yesterday"], 2).await;
}

#[tokio::test]
async fn dead_letters_of_both_consumers_are_redriven_after_a_dry_run() {
    let mut desk = Desk::three().await;
    let why = ["--reason", "the database is back"];
    let before = state(&mut desk.connection).await.unwrap();
    let dry = desk.text(&[&["redrive", "--error", "database"][..], &why].concat(), 1).await;
    assert!(dry.contains("riverlock.raw.orders[3]@0  would be applied\n"), "{dry}");
    assert!(dry.contains("riverlock.raw.documents[3]@0  would be applied\n"), "{dry}");
    assert!(
        dry.contains(
            "2 dead letters would be redriven (2 applied), 1 would stay dead, 0 skipped; apply with --apply --reason TEXT"
        ),
        "{dry}"
    );
    assert_eq!(state(&mut desk.connection).await.unwrap(), before);

    let done = desk.text(&[&["redrive", "fixed", "invoice", "--apply"][..], &why].concat(), 0).await;
    assert!(done.ends_with("2 dead letters redriven (2 applied), 0 still dead, 0 skipped\n"), "{done}");
    let documents: i64 = sqlx::query_scalar("SELECT count(*) FROM invoices WHERE state = 'due'")
        .fetch_one(&mut desk.connection)
        .await
        .unwrap();
    assert_eq!(documents, 1);
    let order: String =
        sqlx::query_scalar("SELECT order_id FROM orders").fetch_one(&mut desk.connection).await.unwrap();
    assert_eq!(order, "order-of-fixed");
    let shown = desk.json(&["show", "fixed", "--json"]).await;
    let action = &shown[0]["actions"][0];
    assert_eq!(
        (action["actedBy"].as_str(), action["why"].as_str(), action["outcome"].as_str()),
        (Some("ada"), Some("the database is back"), Some("applied"))
    );
    assert_eq!((shown[0]["state"].as_str(), shown[0]["outcome"].as_str()), (Some("redriven"), Some("applied")));

    let again = desk.text(&[&["redrive", "fixed", "--apply"][..], &why].concat(), 1).await;
    assert!(again.contains("skipped: already redriven"), "{again}");
    let vain = desk.text(&[&["redrive", "--all", "--apply", "--by", "grace"][..], &why].concat(), 1).await;
    assert!(vain.contains("[3]@1  still dead(order_id) after 2 attempts: "), "{vain}");
    for _ in 0..2 {
        desk.text(&[&["redrive", "never", "--apply"][..], &why].concat(), 1).await;
    }
    let guarded = desk.text(&[&["redrive", "--all", "--apply"][..], &why].concat(), 0).await;
    assert!(guarded.contains("redriving failed 3 times; --force"), "{guarded}");
    let forced = desk.text(&[&["redrive", "never", "--apply", "--force"][..], &why].concat(), 1).await;
    assert!(forced.contains("still dead(order_id) after 5 attempts"), "{forced}");
    let rows = outcomes(&mut desk.connection).await.unwrap();
    assert_eq!((rows["applied"], rows["dead"]), (2, 1));
}

#[tokio::test]
async fn a_redrive_requires_an_operator_a_reason_and_a_selection() {
    let desk = Desk::three().await;
    desk.text(&["redrive", "--all", "--apply"], 2).await;
    let dry = desk.text(&["redrive", "--all"], 1).await;
    assert!(dry.contains("2 dead letters would be redriven"), "{dry}");
    desk.text(&["redrive", "--reason", "x"], 2).await;
    desk.text(&["redrive", "fixed", "--error", "shape", "--reason", "x"], 2).await;
    desk.text(&["redrive", "fixed", "--reason", " ", "--apply"], 2).await;
    desk.text(&["redrive", "fixed", "--apply"], 2).await;
    desk.text(&["redrive", "fixed", "--reason", "x", "--by", "", "--apply"], 2).await;
    desk.text(&["redrive", "nobody", "--reason", "x", "--apply"], 1).await;
    let unknown = desk.text(&["discard", "--all", "--reason", "x", "--rate", "0"], 2).await;
    assert!(unknown.is_empty());
}

#[tokio::test]
async fn a_discarded_dead_letter_keeps_operator_and_reason() {
    let mut desk = Desk::three().await;
    let why = ["--reason", "a test order"];
    let dry = desk.text(&[&["discard", "--order", "order-of-fixed"][..], &why].concat(), 0).await;
    assert!(
        dry.contains(
            "1 dead letter would be discarded (1 discarded), 0 would stay dead, 0 skipped; apply with --apply"
        ),
        "{dry}"
    );
    assert_eq!(desk.text(&["list"], 0).await.lines().count(), 3);
    desk.text(&[&["discard", "--order", "order-of-fixed", "--apply"][..], &why].concat(), 0).await;
    assert_eq!(desk.text(&["list"], 0).await.lines().count(), 2);
    let discarded = &desk.json(&["list", "--state", "discarded", "--json"]).await["items"];
    assert_eq!((discarded[0]["eventId"].as_str(), discarded[0]["outcome"].as_str()), (Some("fixed"), Some("dead")));
    let shown = desk.text(&["show", "fixed"], 0).await;
    let action = shown.lines().last().unwrap().split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    assert_eq!(action, "discard ada a test order dead (database)", "{shown}");
    let all = desk.text(&[&["redrive", "--event-type", "order.accepted", "--apply"][..], &why].concat(), 1).await;
    assert!(!all.contains("[3]@0"), "{all}");
    desk.text(&[&["redrive", "fixed", "--apply"][..], &why].concat(), 0).await;
    assert_eq!(outcomes(&mut desk.connection).await.unwrap()["applied"], 1);
}

#[tokio::test]
async fn a_killed_redrive_is_resumed() {
    const LETTERS: i64 = 300;
    let mut desk = Desk::new().await;
    let bodies: Vec<String> = (0..LETTERS).map(|i| accepted(&format!("e{i}"))).collect();
    desk.kill(&Orders::new(vec![Mode::Test]), ORDERS, &bodies).await;
    let redrive = ["redrive", "--all", "--reason", "again", "--apply", "--rate", "1000"];
    for kills in 1..=3 {
        let mut child = desk.command(&redrive).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = tokio::time::Instant::now() + PATIENCE;
        while redriven(&mut desk.connection).await < kills * LETTERS / 10 {
            assert!(tokio::time::Instant::now() < until, "no dead letter was redriven");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().await.unwrap();
    }
    let before = redriven(&mut desk.connection).await;
    assert!(before < LETTERS, "it was killed too late: the test showed nothing");
    let rest = desk.text(&redrive, 0).await;
    let done = redriven(&mut desk.connection).await;
    assert_eq!(done, LETTERS);
    // The last transaction of the killed process may have been committed after counting.
    let rest: i64 = rest.lines().last().unwrap().split_once(' ').unwrap().0.parse().unwrap();
    assert!((LETTERS - before - 1..=LETTERS - before).contains(&rest), "{rest} after {before}");

    let mut reference = Desk::new().await;
    let records: Vec<Record> =
        bodies.iter().zip(0..).map(|(body, offset)| record(3, offset, body.as_bytes())).collect();
    let orders = Orders::new(vec![Mode::Test]);
    batch::apply(&mut reference.connection, &orders, &records, None, now()).await.unwrap();
    assert_eq!(
        state(&mut desk.connection).await.unwrap(),
        state(&mut reference.connection).await.unwrap(),
        "each effect happened once"
    );
    let actions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM dead_letter_actions").fetch_one(&mut desk.connection).await.unwrap();
    assert_eq!(actions, LETTERS);
    assert_eq!(outcomes(&mut desk.connection).await.unwrap()["applied"], LETTERS);
    drop(desk.database);
}

async fn redriven(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM dead_letters WHERE state = 'redriven'")
        .fetch_one(connection)
        .await
        .unwrap()
}
