//! Shipments are reported to Digital River once, even if answers are lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_digital_river::{AccountConfig, Client, DigitalRiverConfig, fulfillments};
use riverlock_ledger::batch;
use riverlock_runtime::{Clock, Context, Secret};
use riverlock_sandbox::{Api, Life, SandboxConfig};
use riverlock_schemas::Mode;
use riverlock_shipments::{AddError, Line, NewReport, Source, add, settle, view, worker};
use riverlock_tests::{Database, lives, now, record};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(30);

const KEY: &str = "shipments-test-key";

/// Real time plus an offset that the test changes.
#[derive(Default)]
struct Shifted(AtomicI64);

impl Clock for Shifted {
    fn now(&self) -> DateTime<Utc> {
        now() + TimeDelta::seconds(self.0.load(Ordering::Relaxed))
    }
}

/// A database with an accepted order, the sandbox with the same order, and a worker.
struct Station {
    database: Database,
    client: Client,
    http: reqwest::Client,
    address: String,
    clock: Arc<Shifted>,
    context: Context,
    order_id: String,
    /// Id of the order's line with the largest quantity, and that quantity.
    line: (String, i64),
}

impl Station {
    async fn start() -> Self {
        let database = Database::create().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let sandbox = SandboxConfig {
            api_key: KEY.to_owned().into(),
            rate_limit_per_second: std::num::NonZeroU32::new(10_000),
            ..SandboxConfig::default()
        };
        let api = Api::new(&sandbox, riverlock_sandbox::Clock::system());
        #[expect(clippy::disallowed_methods, reason = "a test has no shutdown; the task ends with its runtime")]
        tokio::spawn(riverlock_sandbox::serve(listener, api, std::future::pending()));
        let clock = Arc::new(Shifted::default());
        let key = Secret::new(KEY);
        let config = DigitalRiverConfig {
            api_base_url: address.parse().unwrap(),
            test: Some(AccountConfig { requests_per_second: Some(1_000), ..AccountConfig::new(key) }),
            answer_timeout: Duration::from_secs(2),
            wait_first: Duration::from_millis(5),
            ..DigitalRiverConfig::default()
        };
        let client = Client::new(&config, Arc::<Shifted>::clone(&clock)).unwrap();
        let context = Context { clock: Arc::<Shifted>::clone(&clock), ..Context::new() };
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut station =
            Self { database, client, http, address, clock, context, order_id: String::new(), line: (String::new(), 0) };
        station.accept().await;
        station
    }

    /// Publishes and applies `order.accepted` of one order.
    async fn accept(&mut self) {
        let (order_id, line, count) = self.accept_orders(1).await.remove(0);
        (self.order_id, self.line) = (order_id, (line, count));
    }

    /// Publishes and applies `order.accepted` of orders that have a line with a quantity of at least two. Returns each
    /// order's id, and that line with its quantity.
    async fn accept_orders(&self, count: usize) -> Vec<(String, String, i64)> {
        let quantity = |life: &Life| {
            let accepted = life.events.iter().position(|event| event.event_type == "order.accepted")?;
            let body: Value = serde_json::from_slice(&life.events[accepted].body).unwrap();
            let items = body["data"]["object"]["items"].as_array()?.clone();
            let line = items.iter().max_by_key(|item| item["quantity"].as_i64())?.clone();
            let count = line["quantity"].as_i64().filter(|count| *count >= 2)?;
            Some((accepted, line["id"].as_str()?.to_owned(), count))
        };
        let orders = riverlock_processor::Orders::new(vec![Mode::Test]);
        let mut connection = self.database.connect().await.unwrap();
        let mut found = Vec::new();
        for (life, offset) in lives(3, 200).iter().zip(0..) {
            let Some((accepted, line, quantity)) = quantity(life).filter(|_| found.len() < count) else { continue };
            let body = &life.events[accepted].body;
            batch::apply(&mut connection, &orders, &[record(0, offset, body)], None, now()).await.unwrap();
            self.post("/sandbox/events?withhold=true", body.to_vec()).await;
            found.push((life.order_id.clone(), line, quantity));
        }
        assert_eq!(found.len(), count);
        found
    }

    /// The messages about the order's shipments.
    async fn messages(&self) -> Vec<Value> {
        let kinds = "SELECT payload FROM outbox WHERE kind LIKE 'shipment.%' AND order_id = $1 ORDER BY message_id";
        let mut connection = self.database.connect().await.unwrap();
        let rows: Vec<Vec<u8>> =
            sqlx::query_scalar(kinds).bind(&self.order_id).fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect()
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Value {
        let request = self.http.post(format!("{}{path}", self.address)).bearer_auth(KEY);
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let (status, body) = (response.status(), response.bytes().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body:?}");
        serde_json::from_slice(&body).unwrap_or_default()
    }

    async fn faults(&self, rules: Value) {
        self.post("/sandbox/api-faults", rules.to_string().into_bytes()).await;
    }

    fn work(&self) {
        let worker = worker::run(self.client.clone(), self.database.config.clone(), self.context.clone());
        self.context.shutdown.spawn("shipments", worker);
    }

    fn report(&self, key: &str, quantity: i64) -> NewReport {
        NewReport {
            order_id: self.order_id.clone(),
            mode: Mode::Test,
            idempotency_key: key.to_owned(),
            lines: vec![Line { line_id: self.line.0.clone(), quantity, cancel_quantity: 0 }],
            tracking_company: Some("DHL".to_owned()),
            tracking_number: Some("JD0146000030".to_owned()),
            tracking_url: Some("https://track.example/JD0146000030".to_owned()),
            source: Source::Cli,
            created_by: "a test".to_owned(),
        }
    }

    async fn add(&self, new: &NewReport) -> Result<add::StoredReport, AddError> {
        add::add(&mut self.database.connect().await.unwrap(), new, self.clock.now()).await
    }

    /// Waits until a report is in a state; the clock runs hours in seconds.
    async fn until(&self, report_id: uuid::Uuid, state: &str) -> view::ReportView {
        let mut connection = self.database.connect().await.unwrap();
        let begun = Instant::now();
        loop {
            let (report, _, requests) = view::show(&mut connection, report_id).await.unwrap().unwrap();
            if report.state == state {
                return report;
            }
            assert!(begun.elapsed() < WITHIN, "state {state} was not reached: {report:?} {requests:?}");
            self.clock.0.fetch_add(30, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The order's fulfillments at Digital River.
    async fn found(&self) -> Vec<fulfillments::Fulfillment> {
        fulfillments::of_order(&self.client, Mode::Test, &self.order_id).await.unwrap().0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_shipments_never_exceed_the_open_quantity() {
    let station = Station::start().await;
    let same = station.report("same", 1);
    let (one, two) = tokio::join!(station.add(&same), station.add(&same));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.report_id, two.report_id);
    assert_ne!(one.repeated, two.repeated);
    let other = NewReport { tracking_number: Some("another".to_owned()), ..same.clone() };
    assert!(matches!(station.add(&other).await, Err(AddError::KeyReused(id)) if id == one.report_id));

    let rest = station.line.1 - 1;
    let (left, right) = (station.report("left", rest), station.report("right", rest));
    let (left, right) = tokio::join!(station.add(&left), station.add(&right));
    let refused =
        left.as_ref().err().or_else(|| right.as_ref().err()).expect("one of the two exceeds the open quantity");
    assert!(refused.to_string().contains("0 of"), "{refused}");
    assert!(left.is_ok() || right.is_ok());
    station.work();
    for added in [Ok(one), left, right].into_iter().flatten() {
        station.until(added.report_id, "reported").await;
    }
    let shipped: i64 = station.found().await.iter().flat_map(|found| &found.lines).map(|line| line.quantity).sum();
    assert_eq!(shipped, station.line.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_resolved_by_reading_back_and_the_shipment_is_reported_once() {
    for kind in ["server_error_afterwards", "html_afterwards", "slow_body_afterwards", "cut_afterwards", "server_error"]
    {
        let station = Station::start().await;
        let rule = json!([{ "fault": { "kind": kind }, "method": "POST", "path": "/fulfillments", "times": 1 }]);
        station.faults(rule).await;
        let added = station.add(&station.report("lost", 1)).await.unwrap();
        let next = station.add(&station.report("next", 1)).await.unwrap();
        station.work();
        let report = station.until(added.report_id, "reported").await;
        let second = station.until(next.report_id, "reported").await;
        let found = station.found().await;
        let ids: Vec<_> = found.iter().map(|found| found.report_id.clone().unwrap()).collect();
        assert_eq!(ids, [second.report_id.to_string(), report.report_id.to_string()], "{kind}: once each, in order");
        // Only a request that was not executed is sent again.
        assert_eq!(report.attempts, if kind == "server_error" { 2 } else { 1 }, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_worker_that_was_killed_after_sending_is_read_back() {
    let station = Station::start().await;
    let added = station.add(&station.report("died", 1)).await.unwrap();
    // The state after a worker was killed when Digital River had executed its request.
    let mut connection = station.database.connect().await.unwrap();
    let body = json!({ "orderId": station.order_id, "items": [{ "itemId": station.line.0, "quantity": 1 }],
                       "metadata": { "riverlockReport": added.report_id } });
    station.post("/fulfillments", body.to_string().into_bytes()).await;
    let sending = "UPDATE shipment_reports SET state = 'sending', attempts = 1, lease_id = gen_random_uuid(), \
                   next_attempt_at = now() + interval '10 minutes' WHERE report_id = $1";
    sqlx::query(sending).bind(added.report_id).execute(&mut connection).await.unwrap();
    station.work();
    let report = station.until(added.report_id, "reported").await;
    assert_eq!((report.attempts, station.found().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fulfillments_of_other_clients_are_not_taken_for_own_reports() {
    let station = Station::start().await;
    let added = station.add(&station.report("late", 1)).await.unwrap();
    // Another client, such as the dashboard, reports the whole line first.
    let body =
        json!({ "orderId": station.order_id, "items": [{ "itemId": station.line.0, "quantity": station.line.1 }] });
    station.post("/fulfillments", body.to_string().into_bytes()).await;
    station.work();
    let report = station.until(added.report_id, "refused").await;
    assert!(
        matches!(report.last_code.as_deref(), Some("item_fulfilled" | "order_fulfilled" | "order_complete")),
        "{report:?}"
    );
    let messages = station.messages().await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    let data = &messages[0]["data"];
    assert_eq!((&messages[0]["type"], &data["refusedBy"]), (&json!("shipment.refused"), &json!("digital_river")));
    assert_eq!((&data["idempotencyKey"], &data["code"]), (&json!("late"), &json!(report.last_code.unwrap())));
    let mut connection = station.database.connect().await.unwrap();
    let withdrawn = settle::Decision::Withdrawn;
    assert!(
        settle::settle(&mut connection, added.report_id, &withdrawn, "a test", "the dashboard did", now())
            .await
            .unwrap()
    );
    assert!(!settle::settle(&mut connection, added.report_id, &withdrawn, "a test", "again", now()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_resolved_is_left_to_an_operator() {
    let station = Station::start().await;
    let added = station.add(&station.report("unclear", 1)).await.unwrap();
    let rule = json!([{ "fault": { "kind": "server_error" }, "method": "POST", "path": "/fulfillments", "times": 1 }]);
    station.faults(rule).await;
    // The same quantity of the same line without metadata: it may be this report.
    let body = json!({ "orderId": station.order_id, "items": [{ "itemId": station.line.0, "quantity": 1 }] });
    station.work();
    station.until(added.report_id, "unknown").await;
    station.post("/fulfillments", body.to_string().into_bytes()).await;
    station.until(added.report_id, "unresolved").await;
    let id = station.found().await[0].id.clone();
    let mut connection = station.database.connect().await.unwrap();
    let decision = settle::Decision::Reported { fulfillment_id: id.clone() };
    assert!(settle::settle(&mut connection, added.report_id, &decision, "a test", "asked", now()).await.unwrap());
    let report = station.until(added.report_id, "reported").await;
    assert_eq!((report.fulfillment_id.as_ref(), station.found().await.len()), (Some(&id), 1));
    let messages = station.messages().await;
    assert_eq!((messages.len(), &messages[0]["type"]), (1, &json!("shipment.reported")), "{messages:?}");
    assert_eq!(messages[0]["data"]["fulfillmentId"], json!(id));
}

/// Two hosts report at the same time. Each is ended at a random moment, as by SIGKILL, and started again, until all shipments
/// are reported.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_at_any_moment_report_every_shipment_once() {
    const ORDERS: usize = 20;
    let station = Station::start().await;
    let orders = station.accept_orders(ORDERS).await;
    let faults = json!([{ "fault": { "kind": "server_error_afterwards" }, "method": "POST", "path": "/fulfillments",
                          "after": 3, "times": 2 }]);
    station.faults(faults).await;
    let mut reports = Vec::new();
    for (order_id, line, _) in &orders {
        for key in ["first", "second"] {
            let new = NewReport {
                order_id: order_id.clone(),
                lines: vec![Line { line_id: line.clone(), quantity: 1, cancel_quantity: 0 }],
                ..station.report(key, 1)
            };
            reports.push(station.add(&new).await.unwrap().report_id);
        }
    }
    let mut connection = station.database.connect().await.unwrap();
    let (begun, mut killed) = (Instant::now(), 0);
    loop {
        let open = "SELECT state FROM shipment_reports WHERE state <> 'reported' ORDER BY state";
        let left: Vec<String> = sqlx::query_scalar(open).fetch_all(&mut connection).await.unwrap();
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < WITHIN * 2, "{left:?} after {killed} kills");
        for worker in [(); 2].map(|()| {
            let context = Context { clock: Arc::<Shifted>::clone(&station.clock), ..Context::new() };
            let work = worker::run(station.client.clone(), station.database.config.clone(), context);
            #[expect(clippy::disallowed_methods, reason = "the test aborts the task")]
            tokio::spawn(work)
        }) {
            // Longer and longer, so that a slow machine makes progress too.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40 + killed))).await;
            worker.abort();
            killed += 1;
        }
        // Past the longest lease and wait.
        station.clock.0.fetch_add(660, Ordering::Relaxed);
    }
    assert!(killed > 3, "the workers were killed {killed} times: the test showed nothing");
    for (order_id, _, _) in &orders {
        let found = fulfillments::of_order(&station.client, Mode::Test, order_id).await.unwrap().0;
        let mut ids: Vec<_> = found.into_iter().filter_map(|found| found.report_id).collect();
        assert_eq!(ids.len(), 2, "{order_id}: {ids:?}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2, "{order_id}: a shipment was reported twice");
        assert!(ids.iter().all(|id| reports.iter().any(|report| report.to_string() == *id)), "{ids:?}");
    }
    let messages: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE kind = 'shipment.reported'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(usize::try_from(messages).unwrap(), reports.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn shipments_are_stored_over_http_and_rejections_name_the_violated_rule() {
    const TOKEN: &str = "a-token-of-a-test-with-more-than-32-characters";
    let station = Station::start().await;
    let config = riverlock_processor::ApiConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..riverlock_processor::ApiConfig::new(TOKEN)
    };
    let address = riverlock_processor::api::start(&config, &station.database.config, &station.context).await.unwrap();
    let path = format!("http://{address}/v1/orders/{}/shipments?mode=test", station.order_id);
    let send = async |path: &str, key: Option<&str>, body: Value| {
        let mut request = station.http.post(path).bearer_auth(TOKEN).body(body.to_string());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        let (status, kind) = (response.status().as_u16(), response.headers()["content-type"].clone());
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(kind == "application/problem+json", status >= 400, "{body}");
        (status, body)
    };
    let of = |line: &str, quantity: i64| json!({ "lines": [{ "lineId": line, "quantity": quantity }] });
    let (line, count) = (station.line.0.as_str(), station.line.1);
    let (status, stored) = send(&path, Some("k1"), of(line, 1)).await;
    assert_eq!((status, &stored["repeated"]), (201, &json!(false)));
    let (status, again) = send(&path, Some("k1"), of(line, 1)).await;
    assert_eq!((status, &again["reportId"], &again["repeated"]), (200, &stored["reportId"], &json!(true)));
    let unknown = format!("http://{address}/v1/orders/999/shipments?mode=test");
    for (path, key, body, status, code) in [
        (&path, Some("k1"), of(line, 2), 409, "idempotency_key_reused"),
        (&path, Some("k2"), of(line, count), 409, "quantity_too_large"),
        (&path, Some("k2"), of("nothing", 1), 409, "unknown_line"),
        (&path, Some("k2"), of(line, 0), 400, "invalid_quantity"),
        (&path, Some("k2"), json!({ "lines": [] }), 400, "invalid_lines"),
        (&path, Some("k2"), json!({ "lines": [], "surprise": 1 }), 400, "invalid_request"),
        (&path, None, of(line, 1), 400, "invalid_request"),
        (&unknown, Some("k2"), of(line, 1), 404, "unknown_order"),
    ] {
        let (found, problem) = send(path, key, body).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{problem}");
    }
    let listed = station.http.get(&path).bearer_auth(TOKEN).send().await.unwrap();
    let listed: Value = serde_json::from_slice(&listed.bytes().await.unwrap()).unwrap();
    assert_eq!(
        (listed["shipments"].as_array().unwrap().len(), &listed["shipments"][0]["state"]),
        (1, &json!("waiting"))
    );
    assert_eq!(station.http.post(&path).body("{}").send().await.unwrap().status(), 401);
}
