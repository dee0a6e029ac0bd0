//! Alerts are seen to fire and to end: a real Prometheus watches a real stack while it is broken and repaired. Dashboards are
//! checked on the way: every query returns data.

mod dashboards;
mod prometheus;

use std::{process::Command, time::Duration};

use riverlock_ledger::metrics::latency::{KINDS, LATENCY};
use riverlock_sandbox::stack::kafka_for_test;
use riverlock_schemas::events::event_type;
use riverlock_tests::{
    World, binary,
    load::{self, Target},
};
use tokio::time::{Instant, sleep};

use self::prometheus::Prometheus;
use crate::tidy::code::{read, root};

/// How long an alert may take to fire or to end. The services count some things every 15 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key that the sandbox accepts, as in the configuration file, and one that it rejects.
const KEYS: [&str; 2] = ["api_key = \"sandbox-confidential-key\"", "api_key = \"a-key-that-was-revoked\""];

/// A stack with a Prometheus, and what is sent to it.
struct Watched {
    world: World,
    prometheus: Prometheus,
    target: Target,
}

impl Watched {
    async fn start() -> Self {
        let world = World::start(41, 60, 60).await.unwrap();
        let prometheus = Prometheus::start(&world.local.services).await;
        let target = Target {
            address: world.local.config.ingest.listen,
            path: "/webhooks/digital-river".to_owned(),
            secret: "sandbox-signing-secret".to_owned(),
            bodies: [event("alert", "order.accepted").into()].into(),
            connections: 4,
        };
        Self { world, prometheus, target }
    }

    async fn fires(&self, alert: &str) {
        self.until(alert, true).await;
    }

    async fn ends(&self, alert: &str) {
        self.until(alert, false).await;
    }

    async fn until(&self, alert: &str, expected: bool) {
        let begun = Instant::now();
        loop {
            let firing = self.prometheus.firing().await;
            if firing.contains(alert) == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{alert} firing: expected {expected}, found {firing:?}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Changes the configuration file, as an operator does.
    fn edit(&self, from: &str, to: &str) {
        let file = &self.world.local.config_file;
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).unwrap();
    }
}

fn event(id: &str, event_type: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"{id}","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"}}}}}}"#)
        .into_bytes()
}

fn invoice_event(file_id: &str) -> Vec<u8> {
    format!(r#"{{"id":"{file_id}","type":"order.invoice.created","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"fileId":"{file_id}","orderId":"alert"}}}}}}"#)
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_when_something_fails_and_end_when_it_is_repaired() {
    if !kafka_for_test("alerts_fire_when_something_fails_and_end_when_it_is_repaired") {
        return;
    }
    let mut watched = Watched::start().await;
    let report = watched.world.begin().await.unwrap().unwrap();
    assert!(report.complete, "{:?}", report.counts);
    watched.fires("RiverlockWatchdog").await;
    for service in &watched.world.local.services {
        prometheus::check_page(&service.admin_url()).await;
    }
    dashboards::check_all(&watched.prometheus).await;
    event_types_are_counted(&watched).await;
    what_was_played_is_measured(&watched).await;
    healthy(&watched).await;
    watched.answers(Fault::None).await;

    wrong_secret(&watched).await;
    rejected_key(&watched).await;
    dead_letter(&watched).await;
    kafka_stops(&mut watched).await;
    postgres_stops(&mut watched).await;
    processor_stops(&mut watched).await;
    watched.world.stop().await.unwrap();
}

/// Metrics that are 0 before the first event are not 0 after the orders were played.
async fn what_was_played_is_measured(watched: &Watched) {
    // It was accepted long ago, and nothing follows.
    let open = event("open-order", "order.accepted");
    assert_eq!(watched.target.post("Content-Type: application/json\r\n", &open).await.unwrap(), 202);
    let mut queries: Vec<String> = vec![
        "riverlock_database_bytes > 1e6".to_owned(),
        "riverlock_table_bytes{table=\"events\"} > 1e4".to_owned(),
        "riverlock_orders_incomplete{mode=\"test\",age=\"older\"} > 0".to_owned(),
        "riverlock_postgres_connections_total{service=\"processor\",result=\"ok\"} > 0".to_owned(),
        "riverlock_build_info{version!=\"\"} == 1".to_owned(),
    ];
    for (stage, since) in KINDS {
        queries.push(format!("{LATENCY}_count{{stage=\"{stage}\",since=\"{since}\"}} > 0"));
        queries.push(format!("{LATENCY}_sum{{stage=\"{stage}\",since=\"{since}\"}} > 0"));
    }
    for query in queries {
        let begun = Instant::now();
        while watched.prometheus.series(&query).await == 0 {
            assert!(begun.elapsed() < PATIENCE, "{query} has no result");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Unknown types share one series, so that the number of series is bounded.
async fn event_types_are_counted(watched: &Watched) {
    let unknown = event("unknown", "order.of.a.later.year");
    assert_eq!(watched.target.post("Content-Type: application/json\r\n", &unknown).await.unwrap(), 202);
    for (kind, expected) in [("order.accepted", 1), ("other", 1), ("order.of.a.later.year", 0)] {
        let query = format!("riverlock_ingest_events_total{{type=\"{kind}\"}} > 0");
        let begun = Instant::now();
        while watched.prometheus.series(&query).await != expected {
            assert!(begun.elapsed() < PATIENCE, "{query}: expected {expected} series");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

#[test]
fn known_event_types_are_listed_once() {
    let mut types: Vec<&str> = event_type::known().collect();
    types.sort_unstable();
    let count = types.len();
    types.dedup();
    assert_eq!(types.len(), count);
    assert!(types.iter().all(|kind| event_type::canonical(kind) == *kind), "{types:?}");
}

/// Faults with the answers of `/livez`, `/readyz` and `/startupz` of ingest, processor and invoice-fetcher. The page has the
/// same table.
#[derive(Clone, Copy)]
enum Fault {
    None,
    KafkaStopped,
    PostgresStopped,
    KeyRejected,
    DeadLetter,
}

impl Fault {
    const ALL: [Self; 5] = [Self::None, Self::KafkaStopped, Self::PostgresStopped, Self::KeyRejected, Self::DeadLetter];

    /// The row's name, and for each service whether it is ready. All are alive and have started.
    const fn row(self) -> (&'static str, [bool; 3]) {
        match self {
            Self::None => ("none", [true, true, true]),
            Self::KafkaStopped => ("Kafka does not answer", [false, false, false]),
            Self::PostgresStopped => ("PostgreSQL does not answer", [true, false, false]),
            Self::KeyRejected => ("Digital River rejects the API key", [true, true, true]),
            Self::DeadLetter => ("a record cannot be applied", [true, true, true]),
        }
    }
}

#[test]
fn the_page_has_the_table_of_health() {
    let page = read(&root().join("docs/operations/monitor.md"));
    for fault in Fault::ALL {
        let (name, ready) = fault.row();
        let cells = ready.map(|ready| if ready { "200" } else { "503" }).join(" | ");
        let row = format!("| {name} | {cells} | 200 | 200 |");
        assert!(page.contains(&row), "docs/operations/monitor.md lacks the row {row}");
    }
}

impl Watched {
    /// Waits until the services answer as the table says.
    async fn answers(&self, fault: Fault) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
        let (name, ready) = fault.row();
        let begun = Instant::now();
        loop {
            let mut found = Vec::new();
            for service in &self.world.local.services {
                let mut statuses = Vec::new();
                for path in ["/livez", "/readyz", "/startupz"] {
                    let answer = client.get(format!("{}{path}", service.admin_url())).send().await.unwrap();
                    statuses.push(answer.status().as_u16());
                }
                found.push(statuses);
            }
            let expected = ready.map(|ready| vec![200, if ready { 200 } else { 503 }, 200]);
            if found == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name}: expected {expected:?}, found {found:?}");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A healthy stack fires the watchdog only.
async fn healthy(watched: &Watched) {
    let begun = Instant::now();
    loop {
        let firing = watched.prometheus.firing().await;
        if firing.len() == 1 && firing.contains("RiverlockWatchdog") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{firing:?} fire on a healthy stack");
        sleep(Duration::from_millis(500)).await;
    }
}

async fn wrong_secret(watched: &Watched) {
    let wrong = Target { secret: "a-secret-that-was-rotated".to_owned(), ..watched.target.clone() };
    assert_eq!(wrong.post("Content-Type: application/json\r\n", &event("wrong", "order.accepted")).await.unwrap(), 401);
    // Digital River continues to send with the wrong secret.
    tokio::select! {
        () = watched.fires("RiverlockIngestAuthenticationFails") => {}
        outcome = load::run(&wrong, 5, PATIENCE * 2) => panic!("{:?}", outcome.answers),
    }
    assert_eq!(
        watched.target.post("Content-Type: application/json\r\n", &event("right", "order.accepted")).await.unwrap(),
        202
    );
    watched.ends("RiverlockIngestAuthenticationFails").await;
}

async fn rejected_key(watched: &Watched) {
    watched.edit(KEYS[0], KEYS[1]);
    // The key is read again within seconds.
    sleep(Duration::from_secs(5)).await;
    for number in 0..3 {
        let body = invoice_event(&format!("6e5bf525-3907-40c5-86a9-f14ce4f33f0{number}"));
        assert_eq!(watched.target.post("Content-Type: application/json\r\n", &body).await.unwrap(), 202);
    }
    watched.fires("RiverlockInvoiceKeyRejected").await;
    watched.answers(Fault::KeyRejected).await;
    watched.edit(KEYS[1], KEYS[0]);
    watched.ends("RiverlockInvoiceKeyRejected").await;
}

async fn dead_letter(watched: &Watched) {
    assert_eq!(watched.target.post("Content-Type: application/json\r\n", b"no event").await.unwrap(), 202);
    watched.fires("RiverlockDeadLetters").await;
    watched.answers(Fault::DeadLetter).await;
    let mut discard = Command::new(binary().unwrap());
    discard.arg("--config").arg(&watched.world.local.config_file);
    discard.args(["dead-letters", "discard", "--all", "--apply", "--reason", "sent by a test", "--by", "test"]);
    let output = discard.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    watched.ends("RiverlockDeadLetters").await;
}

async fn kafka_stops(watched: &mut Watched) {
    watched.world.local.kafka().unwrap().stop_node(1).await.unwrap();
    let target = watched.target.clone();
    let fired = async {
        watched.fires("RiverlockIngestKafkaUnavailable").await;
        watched.fires("RiverlockIngestErrorBudgetBurn").await;
    };
    tokio::select! {
        () = fired => {}
        outcome = load::run(&target, 10, PATIENCE * 2) => panic!("{:?}", outcome.answers),
    }
    watched.answers(Fault::KafkaStopped).await;
    watched.world.local.kafka().unwrap().start_node(1).await.unwrap();
    watched.ends("RiverlockIngestKafkaUnavailable").await;
    watched.ends("RiverlockIngestErrorBudgetBurn").await;
}

async fn postgres_stops(watched: &mut Watched) {
    watched.world.local.postgres.kill().await.unwrap();
    watched.fires("RiverlockPostgresUnavailable").await;
    watched.fires("RiverlockComponentNotReady").await;
    watched.answers(Fault::PostgresStopped).await;
    watched.world.local.postgres.restart().await.unwrap();
    watched.ends("RiverlockPostgresUnavailable").await;
    watched.ends("RiverlockComponentNotReady").await;
}

async fn processor_stops(watched: &mut Watched) {
    watched.world.local.services[1].kill().await.unwrap();
    watched.fires("RiverlockProcessorDown").await;
    watched.world.local.restart_ended().await.unwrap();
    watched.ends("RiverlockProcessorDown").await;
}
