//! The account at Digital River: registering webhooks, and fetching events that were never delivered.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use riverlock_sandbox::{Life, Mode, stack::kafka_for_test};
use riverlock_tests::{World, binary, now};
use serde_json::{Value, json};
use sqlx::PgConnection;

/// The longest wait for any condition.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// The number of orders whose events are withheld from the webhooks.
const WITHHELD_ORDERS: u64 = 120;

/// The shipped example, with the test's addresses and secrets.
pub(crate) fn example(world: &World) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/salesforce-webhooks.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let config = &world.local.config;
    let start = text.find("[digital_river.test]").unwrap();
    let mut text = text[start..].to_owned();
    for (from, to) in [
        ("file:/etc/riverlock/digital-river-test-key", "sandbox-confidential-key".to_owned()),
        ("file:/etc/riverlock/token-key", "a-token-key-of-this-test-with-48-characters-0123".to_owned()),
        ("file:/etc/riverlock/oauth-client-secret", "a-client-secret-of-this-test-0123456789".to_owned()),
        ("file:/etc/riverlock/oauth-password", "a-password-of-this-test-0123456789".to_owned()),
        ("https://hooks.example.com", format!("http://{}", config.ingest.listen)),
    ] {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replace(from, &to);
    }
    let limits =
        format!("[digital_river]\napi_base_url = \"http://{}\"\nwait_first = \"50ms\"\n", config.sandbox.listen);
    format!("\n{limits}\n{text}").replace("[digital_river.test]\n", "[digital_river.test]\nrequests_per_second = 150\n")
}

pub(crate) fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.arg("--config").arg(&world.local.config_file).args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command and checks its exit code.
fn run(world: &World, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = command(world, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {text}{}", String::from_utf8_lossy(&stderr));
    for secret in ["a-client-secret-of-this-test", "a-password-of-this-test", "sandbox-confidential-key"] {
        assert!(
            !text.contains(secret) && !String::from_utf8_lossy(&stderr).contains(secret),
            "{arguments:?} shows a secret"
        );
    }
    text
}

/// Calls the sandbox as an account's administrator and as Digital River.
pub(crate) struct DigitalRiver(reqwest::Client, String);

impl DigitalRiver {
    pub(crate) fn of(world: &World) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self(http, format!("http://{}", world.local.config.sandbox.listen))
    }

    pub(crate) async fn send(&self, method: reqwest::Method, path: &str, body: Vec<u8>) -> Value {
        let request = self.0.request(method, format!("{}{path}", self.1)).bearer_auth("sandbox-confidential-key");
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let (status, body) = (response.status(), response.bytes().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body:?}");
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Publishes an event at Digital River. Returns its id.
    pub(crate) async fn happens(&self, body: &[u8], withhold: bool) -> String {
        let path = if withhold { "/sandbox/events?withhold=true" } else { "/sandbox/events" };
        let answer = self.send(reqwest::Method::POST, path, body.to_vec()).await;
        answer["id"].as_str().unwrap().to_owned()
    }
}

async fn records(connection: &mut PgConnection, ids: &[String]) -> HashMap<String, i64> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT event_id, count(*) FROM event_records WHERE event_id = ANY($1) GROUP BY event_id")
            .bind(ids)
            .fetch_all(connection)
            .await
            .unwrap();
    rows.into_iter().collect()
}

pub(crate) async fn until_recorded(connection: &mut PgConnection, ids: &[String]) {
    let begun = Instant::now();
    loop {
        let found = records(connection, ids).await;
        if found.len() == ids.len() {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "{} of {} events arrived", found.len(), ids.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_registered_and_events_that_were_never_delivered_are_fetched_once() {
    if !kafka_for_test("webhooks_are_registered_and_events_that_were_never_delivered_are_fetched_once") {
        return;
    }
    let world = World::start(11, 1, 1_000).await.unwrap();
    let mut file = OpenOptions::new().append(true).open(&world.local.config_file).unwrap();
    file.write_all(example(&world).as_bytes()).unwrap();
    let digital_river = DigitalRiver::of(&world);
    let mut connection = world.local.config.postgres.connect().await.unwrap();

    register(&world, &digital_river).await;
    deliver_through_each(&world, &digital_river, &mut connection).await;
    refuse_and_confuse(&world, &digital_river).await;
    let withheld = withhold(&digital_river).await;
    reconcile(&world, &withheld, &mut connection).await;
    compare_orders(&world, &digital_river).await;

    let config = &world.local.config;
    let report = riverlock_recovery::audit::run(&config.kafka, &mut connection, &config.consumers()).await.unwrap();
    assert!(report.balances(), "{report}");
    world.stop().await.unwrap();
}

/// Registers the example's three webhooks although answers are lost, and detects a manual change.
async fn register(world: &World, digital_river: &DigitalRiver) {
    let fault =
        json!([{ "fault": { "kind": "server_error_afterwards" }, "method": "POST", "path": "/webhooks", "times": 1 }]);
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", fault.to_string().into_bytes()).await;
    let planned = run(world, &["webhooks", "apply"], 1);
    assert!(planned.contains("3 to register"), "{planned}");
    kill_apply_after_each_step(world, digital_river).await;
    run(world, &["webhooks", "apply", "--apply"], 0);
    let again = run(world, &["webhooks", "apply", "--apply"], 0);
    assert!(again.contains("0 to register, 0 to change, 3 as configured"), "{again}");

    let listed = digital_river.send(reqwest::Method::GET, "/webhooks", Vec::new()).await;
    let webhooks = listed["data"].as_array().unwrap();
    assert_eq!(webhooks.len(), 3, "the registration whose answer was lost exists once");
    let path = format!("/webhooks/{}", webhooks[0]["id"].as_str().unwrap());
    let changed = json!({ "types": ["order.blocked"], "enabled": false }).to_string();
    digital_river.send(reqwest::Method::PATCH, &path, changed.into_bytes()).await;
    let found = run(world, &["webhooks", "check"], 1);
    assert!(found.contains("disabled") && found.contains("types: registered order.blocked"), "{found}");
    run(world, &["webhooks", "apply", "--apply"], 0);
    let unconfirmed = command(world, &["webhooks", "disable", "order-complete"]).output().unwrap();
    assert_eq!(unconfirmed.status.code(), Some(2));
}

/// Kills `apply` after each of the first two registrations, when Digital River has executed the request and its answer is on
/// its way.
async fn kill_apply_after_each_step(world: &World, digital_river: &DigitalRiver) {
    let slow = json!([{ "fault": { "kind": "slow_body_afterwards" }, "method": "POST", "path": "/webhooks" }]);
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", slow.to_string().into_bytes()).await;
    for registered in 1..=2 {
        let mut child = command(world, &["webhooks", "apply", "--apply"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        loop {
            let listed = digital_river.send(reqwest::Method::GET, "/webhooks", Vec::new()).await;
            if listed["data"].as_array().unwrap().len() >= registered {
                break;
            }
            let running = child.try_wait().unwrap().is_none();
            assert!(running && begun.elapsed() < WITHIN, "the command ended, or registered nothing in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let lost =
        json!([{ "fault": { "kind": "server_error_afterwards" }, "method": "POST", "path": "/webhooks", "times": 1 }]);
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", lost.to_string().into_bytes()).await;
}

/// An account without rights, a wrong key and pages of HTML: each error says so, and nothing changes.
async fn refuse_and_confuse(world: &World, digital_river: &DigitalRiver) {
    for (kind, expected) in
        [("forbidden", "403"), ("unauthorized", "401"), ("html_afterwards", "the answer is invalid")]
    {
        let fault = json!([{ "fault": { "kind": kind } }]).to_string();
        digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", fault.into_bytes()).await;
        for arguments in [&["webhooks", "check"][..], &["reconcile", "--since", "5d"], &["reconcile", "--orders"]] {
            let output = command(world, arguments).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{kind} {arguments:?}: {error}");
            assert!(error.contains(expected), "{kind} {arguments:?}: {error}");
        }
    }
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", b"[]".to_vec()).await;
}

/// Each of the three webhooks delivers an event and a probe.
async fn deliver_through_each(world: &World, digital_river: &DigitalRiver, connection: &mut PgConnection) {
    // Ingest checks its configuration every two seconds.
    let begun = Instant::now();
    loop {
        let output = command(world, &["webhooks", "check", "--probe"]).output().unwrap();
        if output.status.success() {
            break;
        }
        assert!(output.status.code() == Some(1) && begun.elapsed() < WITHIN, "{output:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let start = now() - TimeDelta::days(2);
    let lives = (0..50).map(|index| Life::generate(5, index, Mode::Test, start));
    let mut first: HashMap<&str, (String, Vec<u8>)> = HashMap::new();
    for event in lives.flat_map(|life| life.events) {
        first.entry(event.event_type).or_insert_with(|| (event.id.clone(), event.body.to_vec()));
    }
    let mut ids = Vec::new();
    for name in ["order.accepted", "order.complete", "order.invoice.created"] {
        ids.push(digital_river.happens(&first[name].1, false).await);
    }
    until_recorded(connection, &ids).await;
}

/// Publishes events that are never delivered. Returns those of the three types.
async fn withhold(digital_river: &DigitalRiver) -> Vec<String> {
    let start = now() - TimeDelta::days(4);
    let mut ids = Vec::new();
    for life in (0..WITHHELD_ORDERS).map(|index| Life::generate(7, index, Mode::Test, start)) {
        for event in life.events {
            let id = digital_river.happens(&event.body, true).await;
            if ["order.accepted", "order.complete", "order.invoice.created"].contains(&event.event_type) {
                ids.push(id);
            }
        }
    }
    ids
}

async fn reconcile(world: &World, withheld: &[String], connection: &mut PgConnection) {
    let window = ["--since", "5d", "--window", "10m"];
    let dry = run(world, &["reconcile", "--json", window[0], window[1], window[2], window[3]], 1);
    let report: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!((&report[0]["missing"], &report[0]["written"]), (&json!(withheld.len()), &json!(0)));
    assert_eq!(records(connection, withheld).await.len(), 0, "a dry run writes nothing");

    let arguments = ["reconcile", "--apply", window[0], window[1], window[2], window[3]];
    let mut child: Child = command(world, &arguments).stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while records(connection, withheld).await.is_empty() {
        assert!(
            begun.elapsed() < WITHIN && child.try_wait().unwrap().is_none(),
            "the run ended or wrote nothing in time"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let first = records(connection, withheld).await.len();
    assert!(first < withheld.len(), "the run ended before it was killed: the test showed nothing");

    let resumed = run(world, &arguments, 0);
    assert!(resumed.contains("continued interrupted run"), "{resumed}");
    until_recorded(connection, withheld).await;
    let found = records(connection, withheld).await;
    let twice: Vec<_> = found.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "written twice: {twice:?}");
    let after = run(world, &["reconcile", "--since", "5d"], 0);
    assert!(after.contains(" 0 never delivered"), "{after}");
}

/// Compares orders instead of events: fetched orders are found, and states that no webhook reports are listed.
async fn compare_orders(world: &World, digital_river: &DigitalRiver) {
    let report: Value =
        serde_json::from_str(&run(world, &["reconcile", "--orders", "--since", "5d", "--json"], 1)).unwrap();
    let objects = report[0]["objects"].as_array().unwrap();
    let kinds: std::collections::BTreeSet<&str> =
        objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert!(report[0]["listed"].as_u64().unwrap() > WITHHELD_ORDERS, "{report}");
    assert!(kinds.contains("blocked") && !kinds.contains("complete") && !kinds.contains("accepted"), "{kinds:?}");

    let fault = json!([{ "fault": { "kind": "looping_cursor" }, "method": "GET", "path": "/events" }]).to_string();
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", fault.into_bytes()).await;
    let output = command(world, &["reconcile", "--since", "5d"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && error.contains("does not end"), "{error}");
    digital_river.send(reqwest::Method::POST, "/sandbox/api-faults", b"[]".to_vec()).await;
}
