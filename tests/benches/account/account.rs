//! Digital River as a process that computes its answers: a list of any number of events, and fulfillments.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
    serve::ListenerExt as _,
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use riverlock_digital_river::{AccountConfig, Client, DigitalRiverConfig};
use riverlock_runtime::{Secret, SystemClock};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

/// The benchmark's argument that makes it serve.
pub(crate) const COMMAND: &str = "serve-account";

/// How long a fulfillment's answer takes.
const ANSWER_AFTER: Duration = Duration::from_millis(200);

/// The time that the listed events cover.
const SPAN: TimeDelta = TimeDelta::days(30);

/// The served account.
pub(crate) struct Account {
    pub(crate) client: Client,
    _process: Child,
}

/// The time of the oldest event.
pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default()
}

/// The end of the list, after the newest event.
pub(crate) fn end() -> DateTime<Utc> {
    start() + SPAN
}

/// The id of an event, by its number from the oldest. Ids sort like the numbers.
pub(crate) fn event_id(number: u64) -> String {
    format!("{number:08x}-7c2d-4a53-8a53-0b5c3d1f7e02")
}

impl Account {
    /// Starts the process. The client may make `rate` requests per second.
    pub(crate) async fn start(events: u64, rate: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COMMAND, &events.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("starting the account's process")?;
        let output = process.stdout.take().context("the process has no output")?;
        let address = BufReader::new(output).lines().next_line().await?.context("the process has ended")?;
        let account =
            AccountConfig { requests_per_second: Some(rate), ..AccountConfig::new(Secret::new("sk_test_bench")) };
        let config =
            DigitalRiverConfig { api_base_url: address.parse()?, test: Some(account), ..DigitalRiverConfig::default() };
        Ok(Self { client: Client::new(&config, Arc::new(SystemClock))?, _process: process })
    }
}

#[derive(Clone)]
struct Served {
    events: u64,
    fulfillments: Arc<AtomicU64>,
}

/// Serves until the process is ended.
pub(crate) async fn serve(events: u64) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let served = Served { events, fulfillments: Arc::default() };
    let router = Router::new().route("/events", get(list)).route("/fulfillments", post(fulfill)).with_state(served);
    // Without delay, as a proxy before Digital River answers; otherwise answers wait for acknowledgements.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok(axum::serve(listener, router).await?)
}

/// One page, the newest event first.
async fn list(State(served): State<Served>, Query(query): Query<Vec<(String, String)>>) -> Json<Value> {
    let one = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let time = |name: &str| one(name).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let span = SPAN.num_microseconds().unwrap_or(i64::MAX);
    // Microseconds between two events.
    let step = (span / i64::try_from(served.events.max(1)).unwrap_or(i64::MAX)).max(1);
    let number = |time: DateTime<Utc>| {
        let since = (time - start()).num_microseconds().unwrap_or(i64::MAX).max(0);
        u64::try_from(since.saturating_add(step - 1) / step).unwrap_or_default()
    };
    let from = time("createdTime[gte]").map_or(0, |time| number(time.to_utc()));
    let to = time("createdTime[lt]").map_or(served.events, |time| number(time.to_utc()));
    let after = one("startingAfter").and_then(|id| u64::from_str_radix(id.split('-').next()?, 16).ok());
    let to = to.min(after.unwrap_or(u64::MAX)).min(served.events);
    let limit = one("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10);
    let first = from.max(to.saturating_sub(limit));
    let data: Vec<Value> = (first..to).rev().map(|number| event(number, step)).collect();
    Json(json!({ "hasMore": first > from, "data": data }))
}

/// An event of about two kilobytes.
fn event(number: u64, step: i64) -> Value {
    let since = i64::try_from(number).unwrap_or(i64::MAX).saturating_mul(step);
    let created = start() + TimeDelta::microseconds(since);
    let order = format!("{}", 100_000_000_000 + number / 4);
    let item = |line: u64| {
        json!({ "id": format!("{order}{line}"), "skuId": "sku-1", "quantity": 2, "amount": 20.5, "state": "created",
                "stateTransitions": { "created": "2026-01-05T08:00:00Z" }, "tax": { "rate": 0.19, "amount": 3.9 },
                "productDetails": { "id": "sku-1", "name": "A product with a usual name", "countryOfOrigin": "US" } })
    };
    json!({
        "id": event_id(number), "type": "order.accepted", "liveMode": false, "digitalRiverVersion": "2021-12-13",
        "createdTime": created.to_rfc3339_opts(SecondsFormat::Micros, true),
        "data": { "object": { "id": order, "state": "accepted", "currency": "EUR", "totalAmount": 123.4,
                              "items": (0..5).map(item).collect::<Vec<_>>() } },
    })
}

async fn fulfill(State(served): State<Served>, Json(mut body): Json<Value>) -> (StatusCode, Json<Value>) {
    tokio::time::sleep(ANSWER_AFTER).await;
    body["id"] = json!(format!("ful_{}", served.fulfillments.fetch_add(1, Ordering::Relaxed)));
    (StatusCode::CREATED, Json(body))
}
