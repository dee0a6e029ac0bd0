//! Behaviour of all commands: exit codes, pages, closed pipes, and which secrets are read.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use riverlock_ledger::{DeadReason, Record, batch, store};
use riverlock_processor::Orders;
use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::{
    sender::sign,
    stack::{EmbeddedBroker, ports},
};
use riverlock_schemas::Mode;
use riverlock_tests::{Database, binary, lives, now, record};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::process::Command;

/// Unreadable secrets in every section.
const UNREADABLE: &str = "
[kafka.properties]
'ssl.key.password' = 'file:/nowhere/kafka'
[[ingest.endpoints]]
name = 'live'
path = '/live'
secrets = [{ id = 'live', secret = 'file:/nowhere/webhook' }]
[ingest.oauth]
token_keys = ['file:/nowhere/token-key']
[processor.api]
token = 'file:/nowhere/token'
[invoice_fetcher.live]
api_key = 'file:/nowhere/api-key'
[sandbox]
api_key = 'file:/nowhere/sandbox'
";

/// A database with orders, and its configuration.
struct Desk {
    folder: tempfile::TempDir,
    connection: PgConnection,
    _database: Database,
}

impl Desk {
    async fn new(more: &str) -> Self {
        let (database, folder) = (Database::create().await.unwrap(), tempfile::tempdir().unwrap());
        let config = format!("[postgres]\nurl = '{}'\n{more}", database.config.url.expose());
        std::fs::write(folder.path().join("riverlock.toml"), config).unwrap();
        let connection = database.connect().await.unwrap();
        Self { folder, connection, _database: database }
    }

    async fn apply(&mut self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        let topic = "riverlock.raw.test".to_owned();
        store::topic_ids(&mut self.connection, std::slice::from_ref(&topic)).await.unwrap();
        let orders = Orders::new(vec![Mode::Test, Mode::Live]);
        let next: Option<i64> = sqlx::query_scalar("SELECT max(record_offset) + 1 FROM event_records")
            .fetch_one(&mut self.connection)
            .await
            .unwrap();
        let records: Vec<Record> =
            bodies.into_iter().zip(next.unwrap_or_default()..).map(|(body, offset)| record(0, offset, &body)).collect();
        batch::apply(&mut self.connection, &orders, &records, None, now()).await.unwrap();
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(self.folder.path().join("riverlock.toml")).args(words.split(' '));
        command
    }

    async fn run(&self, words: &str) -> Output {
        self.command(words).output().await.unwrap()
    }

    async fn text(&self, words: &str, code: i32) -> String {
        let output = self.run(words).await;
        let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words}: {text}{error}");
        text
    }

    async fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{words} --json"), 0).await).unwrap()
    }
}

fn accepted(event_id: &str, order_id: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{event_id}","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"{order_id}"}}}}}}"#
    )
    .into_bytes()
}

#[tokio::test]
async fn orders_are_listed_in_pages_and_by_filters() {
    let mut desk = Desk::new("").await;
    let lives = lives(7, 25);
    for life in &lives {
        desk.apply(life.events.iter().map(|event| event.body.to_vec())).await;
    }
    desk.apply([accepted("one-id", "a"), accepted("one-id", "b")]).await;

    let all = desk.json("orders list").await;
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next"]), (lives.len() + 2, &Value::Null));
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = desk.json(&format!("orders list --limit 10{after}")).await;
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!(" --after {next}");
    }
    assert_eq!(&paged, all["items"].as_array().unwrap(), "every order once, in the same order");
    let output = desk.run("orders list --limit 2").await;
    let (text, notes) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(notes.contains("2 orders; more with --after '"), "{notes}");
    assert_eq!(text.lines().map(|line| line.split('\t').count()).collect::<Vec<_>>(), [7, 7], "{text}");

    let complete = desk.json("orders list --status complete --mode test").await;
    let expected = lives.iter().filter(|life| life.expected.status == "complete").count();
    assert_eq!(complete["items"].as_array().unwrap().len(), expected);
    assert!(expected > 0, "the test showed nothing");
    let conflicted: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE conflicted")
        .fetch_one(&mut desk.connection)
        .await
        .unwrap();
    let conflicted = usize::try_from(conflicted).unwrap();
    assert!(conflicted > 0, "the test showed nothing");
    for (filter, count) in [
        ("--mode live", 0),
        ("--conflicted", conflicted),
        ("--conflicted --limit 1", 1),
        ("--conflicted --status ready --since 1h", conflicted),
        ("--since 1h", lives.len() + 2),
        ("--until 1h", 0),
        ("--since 2100-01-01T00:00:00Z", 0),
    ] {
        let found = desk.json(&format!("orders list {filter}")).await;
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{filter}: {found}");
    }
    desk.text("orders list --status elsewhere", 2).await;
    desk.text("orders list --after nonsense", 2).await;
}

#[tokio::test]
async fn exit_codes_distinguish_findings_from_failed_checks() {
    let desk = Desk::new("[kafka]\nbrokers = '127.0.0.1:1'\n[invoice_fetcher.test]\napi_key = 'key'\n").await;
    desk.text("audit", 3).await;
    let folder = tempfile::tempdir().unwrap();
    let away = folder.path().join("away.toml");
    // Without an account at Digital River, which none of these commands needs.
    std::fs::write(&away, "[postgres]\nurl = 'postgres://riverlock@127.0.0.1:1/riverlock'\n").unwrap();
    for words in [
        "audit",
        "orders list",
        "orders show x",
        "trace x",
        "refold --all",
        "rebuild",
        "replay --all",
        "replay list",
        "dead-letters list",
        "dead-letters show x",
        "dead-letters redrive --all",
    ] {
        let mut command = Command::new(binary().unwrap());
        let output = command.arg("--config").arg(&away).args(words.split(' ')).output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words}: {error}");
        assert!(error.contains("riverlock: ") && error.contains("refused"), "{words}: {error}");
    }
    for (words, code) in [
        ("orders list", 0),
        ("replay list", 0),
        ("orders show nobody", 1),
        ("dead-letters show nobody", 1),
        ("replay --plan 0123456789abcdef", 1),
        ("trace", 2),
        ("replay --plan x --apply --limit 1", 2),
        ("refold --all --apply", 2),
        ("rebuild --apply", 2),
        ("replay --apply", 2),
        ("replay --plan 0123456789abcdef --apply", 2),
    ] {
        desk.text(words, code).await;
    }
    std::fs::write(&away, "[postgres]\nurl = 'file:/nowhere'\n").unwrap();
    for (config, words) in [(away.as_path(), "orders list"), (std::path::Path::new("/nowhere.toml"), "audit")] {
        let mut command = Command::new(binary().unwrap());
        let output = command.arg("--config").arg(config).args(words.split(' ')).output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains("/nowhere"), "{words}: {error}");
    }
}

#[tokio::test]
async fn only_needed_secrets_are_read() {
    let mut desk = Desk::new(UNREADABLE).await;
    desk.apply([accepted("e", "o")]).await;
    desk.text("orders list", 0).await;
    desk.text("orders show o", 0).await;
    desk.text("dead-letters list", 0).await;
    desk.text("dead-letters redrive --all", 0).await;
    desk.text("replay list", 0).await;
    let problems = desk.text("config check", 1).await;
    for (section, file) in [
        ("kafka", "/nowhere/kafka"),
        ("ingest", "/nowhere/"),
        ("processor", "/nowhere/token"),
        ("invoice_fetcher", "/nowhere/api-key"),
        ("sandbox", "/nowhere/sandbox"),
    ] {
        let line = problems.lines().find(|line| line.starts_with(&format!("[{section}]\t"))).unwrap();
        assert!(line.contains(file), "{line}");
    }
    assert!(problems.contains("[postgres]\tvalid"), "{problems}");
    // A command that connects to Kafka needs Kafka's secrets.
    let output = desk.run("audit").await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("/nowhere/kafka"), "{error}");
}

/// Ingest's answer to an event signed with this secret; `None` while it does not listen.
async fn answer(port: u16, secret: &str) -> Option<u16> {
    let body = br#"{"id":"e","type":"test.hello"}"#;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("http://127.0.0.1:{port}/test")).header("content-type", "application/json");
    let signature = sign::header(&[secret], now().timestamp(), body);
    let answer = request.header(sign::SIGNATURE_HEADER, signature).body(&body[..]).send().await.ok()?;
    Some(answer.status().as_u16())
}

#[tokio::test]
async fn ingest_starts_and_rotates_its_secret_with_unreadable_secrets_of_others() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let kafka = KafkaConfig::default();
    let broker = EmbeddedBroker::start(topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions))).unwrap();
    let [port, admin]: [u16; 2] = ports::free_ports(2).unwrap().try_into().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("riverlock.toml");
    let config = |secret: &str, others: &str| {
        let text = format!(
            "[kafka]\nbrokers = '{}'\n[admin]\nlisten = '127.0.0.1:{admin}'\n[ingest]\nlisten = '127.0.0.1:{port}'\n\
             [[ingest.endpoints]]\nname = 'test'\npath = '/test'\nsecrets = [{{ id = 'a', secret = '{secret}' }}]\n{others}",
            broker.bootstrap()
        );
        std::fs::write(&file, text).unwrap();
    };
    let (first, second) = ("the first secret of this test", "the second secret of this test");
    config(first, "[postgres]\nurl = 'file:/nowhere'\n[invoice_fetcher.live]\napi_key = 'file:/nowhere'\n");
    let mut command = Command::new(binary().unwrap());
    let mut ingest =
        command.arg("--config").arg(&file).arg("ingest").stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let begun = tokio::time::Instant::now();
    while answer(port, first).await != Some(202) {
        assert!(begun.elapsed() < PATIENCE && ingest.try_wait().unwrap().is_none(), "ingest accepts no event");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(answer(port, second).await, Some(401));
    config(second, "[processor]\nmodes = 7\n");
    let begun = tokio::time::Instant::now();
    while answer(port, second).await != Some(202) {
        assert!(begun.elapsed() < PATIENCE, "the new secret is not accepted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(answer(port, first).await, Some(401));
    ingest.kill().await.unwrap();
}

#[tokio::test]
async fn a_command_ends_normally_when_its_output_is_closed() {
    let mut desk = Desk::new("").await;
    desk.apply((0..200).map(|i| accepted(&format!("e{i}"), &format!("o{i}")))).await;
    for (words, code) in [
        ("orders list --limit 10000", 0),
        ("orders show o1", 0),
        ("orders show nobody", 1),
        ("openapi", 0),
        ("dead-letters list", 0),
        ("dead-letters show nobody", 1),
        ("replay list", 0),
        ("config check", 0),
        ("sandbox sign /dev/null", 0),
    ] {
        let mut child = desk.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().await.unwrap().code(), Some(code), "{words}");
    }
    // A full disk is an error.
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = desk.command("orders list").stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output cannot be written to"));
}

#[tokio::test]
async fn the_operator_is_recorded_without_an_option() {
    let mut desk = Desk::new("[invoice_fetcher.test]\napi_key = 'key'\n").await;
    let topic = "riverlock.raw.orders".to_owned();
    let ids = store::topic_ids(&mut desk.connection, std::slice::from_ref(&topic)).await.unwrap();
    for (offset, (variables, expected)) in
        [(&[("USER", "ada")][..], "ada"), (&[("USER", "root"), ("SUDO_USER", "grace")], "grace"), (&[], "")]
            .into_iter()
            .enumerate()
    {
        let (id, offset) = (format!("e{offset}"), i64::try_from(offset).unwrap());
        let dead =
            Record { topic_id: ids[&topic], topic: topic.as_str().into(), ..record(0, offset, &accepted(&id, "o")) };
        let orders = Orders::new(vec![Mode::Test]);
        let reason = DeadReason { reason: "database", detail: "division by zero".to_owned() };
        batch::apply(&mut desk.connection, &orders, &[dead], Some(&reason), now()).await.unwrap();
        let mut command = desk.command(&format!("dead-letters redrive {id} --reason x --apply"));
        command.env_remove("USER").env_remove("SUDO_USER").envs(variables.iter().copied());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let shown = &desk.json(&format!("dead-letters show {id}")).await[0];
        let by = shown["actions"][0]["actedBy"].as_str().unwrap();
        assert!(if expected.is_empty() { !by.is_empty() } else { by == expected }, "{by} instead of {expected}");
    }

    let page = desk.json("dead-letters list --state all --limit 2").await;
    let next = page["next"].as_str().unwrap();
    let rest = desk.json(&format!("dead-letters list --state all --after {next}")).await;
    assert_eq!((page["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
    assert_eq!(rest["items"][0]["eventId"], "e2");
    desk.text("dead-letters list --after nowhere[0]@1", 2).await;
}

#[tokio::test]
async fn runtime_logs_reach_standard_error_and_defaults_are_printed() {
    // The embedded broker does not report settings of topics.
    let kafka = KafkaConfig::default();
    let broker = EmbeddedBroker::start(topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions))).unwrap();
    let desk = Desk::new(&format!("[kafka]\nbrokers = '{}'\n", broker.bootstrap())).await;
    let quiet = desk.run("orders list").await;
    assert_eq!(String::from_utf8_lossy(&quiet.stderr), "0 orders\n");
    let setup = desk.run("setup").await;
    let told = String::from_utf8_lossy(&setup.stdout);
    assert!(setup.status.success() && told.contains("could not be compared"), "{told}");

    let lost = Desk::new("[kafka]\nbrokers = '127.0.0.1:1'\n").await;
    let audit = lost.run("audit").await;
    let logs = String::from_utf8_lossy(&audit.stderr);
    assert_eq!(audit.status.code(), Some(3), "{logs}");
    let is_logged = logs.lines().any(|line| line.contains("librdkafka") && line.contains("refused"));
    assert!(is_logged, "{logs}");

    let mut command = Command::new(binary().unwrap());
    let output = command.args(["orders", "list"]).env_remove("RIVERLOCK_CONFIG").output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("Kafka at 127.0.0.1:9092, PostgreSQL at 127.0.0.1:5432/riverlock"), "{error}");
    assert!(!error.contains(":riverlock@"), "{error}");
}
