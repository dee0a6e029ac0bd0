//! The order API.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use reqwest::{Response, StatusCode};
use riverlock_ledger::{Record, batch};
use riverlock_processor::{ApiConfig, Orders, api};
use riverlock_runtime::Context;
use riverlock_schemas::Mode;
use riverlock_tests::{Database, events, lives, now, record};
use serde_json::{Value, json};
use sqlx::PgConnection;

const TOKEN: &str = "canary-token-canary-token-canary-token";

/// The API on a database.
struct Served {
    database: Database,
    connection: PgConnection,
    base: String,
    http: reqwest::Client,
    context: Context,
}

impl Served {
    async fn new() -> Self {
        let (database, context) = (Database::create().await.unwrap(), Context::new());
        let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ApiConfig::new(TOKEN) };
        let address = api::start(&config, &database.config, &context).await.unwrap();
        let connection = database.connect().await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { database, connection, base: format!("http://{address}"), http, context }
    }

    /// Applies bodies as records of a partition.
    async fn apply(&mut self, partition: i32, bodies: impl IntoIterator<Item = Vec<u8>>) {
        let records: Vec<Record> =
            bodies.into_iter().zip(0..).map(|(body, offset)| record(partition, offset, &body)).collect();
        let topic = ["riverlock.raw.test".to_owned()];
        assert_eq!(riverlock_ledger::store::topic_ids(&mut self.connection, &topic).await.unwrap()[&topic[0]], 1);
        let orders = Orders::new(vec![Mode::Test, Mode::Live]);
        batch::apply(&mut self.connection, &orders, &records, None, now()).await.unwrap();
    }

    async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(TOKEN).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// Status, code and parameter of an error.
    async fn error_of(&self, path: &str) -> (u16, String, Option<String>) {
        let response = self.get(path).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        let error = &body["errors"][0];
        assert!(body["type"].is_string() && error["message"].is_string(), "{path}: {body}");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (status, text(&error["code"]).unwrap(), text(&error["parameter"]))
    }

    async fn stop(self) {
        self.context.shutdown.stop();
        assert!(self.context.shutdown.wait(std::time::Duration::from_secs(20)).await, "the API ends");
        drop(self.database);
    }
}

fn accepted(event_id: &str, order_id: &str, live: bool) -> Vec<u8> {
    let body = json!({
        "id": event_id, "type": "order.accepted", "liveMode": live, "createdTime": "2026-01-01T00:00:00Z",
        "data": { "object": {
            "id": order_id, "updatedTime": "2026-01-01T00:00:00Z", "currency": "EUR", "totalAmount": 27.10,
            "shipTo": { "name": "Ada Canary", "phone": "555", "address": { "line1": "Canary Road 1" } },
            "items": [{ "id": "l1", "skuId": "sku", "quantity": 2 }],
        } },
    });
    body.to_string().into_bytes()
}

#[tokio::test]
async fn an_order_is_returned_by_mode_and_without_personal_data() {
    let mut served = Served::new().await;
    let bodies = [accepted("e1", "o/1 ö", false), accepted("e2", "o/1 ö", true), accepted("e3", "o2", false)];
    served.apply(0, bodies).await;

    let path = "/v1/orders/o%2F1%20%C3%B6";
    let response = served.get(path).await;
    for (name, value) in
        [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("content-type", "application/json")]
    {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    let text = response.text().await.unwrap();
    assert!(!text.contains("Canary") && !text.contains("shipTo") && !text.contains("555"), "{text}");
    let both: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(both["orderId"], "o/1 ö");
    let modes: Vec<&Value> = both["orders"].as_array().unwrap().iter().map(|order| &order["mode"]).collect();
    assert_eq!(modes, ["live", "test"]);
    let order = &both["orders"][1];
    assert_eq!((&order["status"], &order["version"]), (&json!("ready"), &json!(1)));
    assert_eq!((&order["details"]["currency"], &order["details"]["totalAmount"]), (&json!("EUR"), &json!("27.1")));
    assert_eq!(
        (&order["lines"][0]["lineId"], &order["lines"][0]["skuId"], &order["lines"][0]["quantity"]),
        (&json!("l1"), &json!("sku"), &json!(2))
    );
    let live = served.json(&format!("{path}?mode=live")).await;
    assert_eq!((live["orders"].as_array().unwrap().len(), &live["orders"][0]["mode"]), (1, &json!("live")));

    assert_eq!(served.error_of("/v1/orders/o2?mode=live").await, (404, "not_found".to_owned(), None));
    for path in
        ["/v1/orders/unknown", "/v1/orders/%00", "/v1/orders/unknown/events", "/v1/nothing", "/", "/v1/orders/a/b"]
    {
        assert_eq!(served.error_of(path).await.0, 404, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn requests_need_the_token_except_for_the_openapi_description() {
    let served = Served::new().await;
    let almost = format!("Bearer {}x", &TOKEN[..TOKEN.len() - 1]);
    for path in ["/v1/orders", "/v1/orders/o", "/v1/orders/o/events", "/nothing"] {
        for value in [None, Some("Bearer "), Some("Bearer"), Some(TOKEN), Some("Basic x"), Some(&*almost)] {
            let request = served.http.get(format!("{}{path}", served.base));
            let request = match value {
                None => request,
                Some(value) => request.header("authorization", value),
            };
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path} {value:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            assert_eq!(response.json::<Value>().await.unwrap()["errors"][0]["code"], "unauthorized");
        }
    }
    let written = served.http.post(format!("{}/v1/orders", served.base)).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(
        (written.status(), written.headers()["allow"].to_str().unwrap()),
        (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD")
    );

    let description = served.http.get(format!("{}/v1/openapi.json", served.base)).send().await.unwrap();
    let description: Value = description.json().await.unwrap();
    assert!(description["paths"]["/v1/orders/{orderId}/events"]["get"].is_object(), "{description}");

    let short = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ApiConfig::new("short") };
    let config = riverlock_processor::ProcessorConfig { api: Some(short), ..Default::default() };
    assert!(config.validate().unwrap_err().to_string().contains("processor.api.token"));
    let page = riverlock_runtime::telemetry::metrics().unwrap().render();
    if page.contains("riverlock_order_api_requests_total") {
        assert!(page.contains(r#"route="/v1/orders",status="401""#), "{page}");
    }
    served.stop().await;
}

#[tokio::test]
async fn unknown_or_invalid_parameters_are_rejected_by_name() {
    let mut served = Served::new().await;
    served.apply(0, [accepted("e1", "o1", false)]).await;
    let list_cursor = served.json("/v1/orders?limit=1").await["next"].clone();
    assert_eq!(list_cursor, Value::Null, "one order is one page");
    for (path, parameter) in [
        ("/v1/orders?status=shipped", "status"),
        ("/v1/orders?status=", "status"),
        ("/v1/orders?mode=both", "mode"),
        ("/v1/orders?limit=0", "limit"),
        ("/v1/orders?limit=501", "limit"),
        ("/v1/orders?limit=many", "limit"),
        ("/v1/orders?limit=99999999999999999999", "limit"),
        ("/v1/orders?before=x", "before"),
        ("/v1/orders?before=", "before"),
        ("/v1/orders?stauts=ready", "stauts"),
        ("/v1/orders?mode=test&mode=live", "mode"),
        ("/v1/orders/o1?limit=1", "limit"),
        ("/v1/orders/o1?mode=x", "mode"),
        ("/v1/orders/o1/events?status=ready", "status"),
        ("/v1/orders/o1/events?before=bzE", "before"),
        ("/v1/orders/%ff", "orderId"),
    ] {
        let expected = (400, "invalid_parameter".to_owned(), Some(parameter.to_owned()));
        assert_eq!(served.error_of(path).await, expected, "{path}");
    }
    served.stop().await;
}

/// Follows `next` from `path` to the end, and calls a function between pages.
async fn walk(
    served: &mut Served,
    path: &str,
    key: &str,
    mut between: impl AsyncFnMut(&mut PgConnection, usize),
) -> Vec<Value> {
    let (mut rows, mut before, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = served.json(&format!("{path}{before}")).await;
        rows.extend(page[key].as_array().unwrap().iter().cloned());
        pages += 1;
        let Some(next) = page["next"].as_str() else { return rows };
        before = format!("&before={next}");
        between(&mut served.connection, pages).await;
    }
}

fn id(order: &Value) -> (String, String) {
    (order["orderId"].as_str().unwrap().to_owned(), order["mode"].as_str().unwrap().to_owned())
}

fn changed_at(order: &Value) -> DateTime<Utc> {
    order["changedAt"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn pages_are_complete_without_gap_or_repetition_while_orders_change() {
    let mut served = Served::new().await;
    // Few batches, so that many orders have the same change time; some ids exist in both modes.
    let lives = lives(11, 60);
    for (chunk, partition) in lives.chunks(20).zip(0..) {
        served.apply(partition, events(chunk).map(|event| event.body.to_vec())).await;
    }
    let twins: Vec<_> = (0..5).map(|i| accepted(&format!("twin {i}"), &lives[i].order_id, true)).collect();
    served.apply(9, twins).await;
    let rows = sqlx::query_as::<_, (String, bool, String)>("SELECT order_id, live_mode, status FROM orders");
    let rows = rows.fetch_all(&mut served.connection).await.unwrap();
    let mode = |live: bool| if live { "live" } else { "test" }.to_owned();
    let all: BTreeMap<(String, String), String> =
        rows.into_iter().map(|(order_id, live, status)| ((order_id, mode(live)), status)).collect();
    assert_eq!(all.len(), 65);

    let still = walk(&mut served, "/v1/orders?limit=7", "orders", async |_, _| {}).await;
    let times: Vec<_> = still.iter().map(changed_at).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "the newest change first: {times:?}");
    assert_eq!(still.len(), 65);
    assert_eq!(still.iter().map(id).collect::<BTreeSet<_>>(), all.keys().cloned().collect());
    let statuses: BTreeSet<&String> = all.values().collect();
    assert!(statuses.len() > 2, "{statuses:?}");
    for status in statuses {
        for mode in ["test", "live"] {
            let path = format!("/v1/orders?limit=3&status={status}&mode={mode}");
            let found: Vec<_> = walk(&mut served, &path, "orders", async |_, _| {}).await.iter().map(id).collect();
            let expected: BTreeSet<_> = all
                .iter()
                .filter(|(key, value)| *value == status && key.1 == mode)
                .map(|(key, _)| key.clone())
                .collect();
            assert_eq!(found.len(), expected.len(), "{status} {mode}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{status} {mode}");
        }
    }

    // Between pages the oldest order changes, and a new one is added.
    let mut changed = BTreeSet::new();
    let moving = walk(&mut served, "/v1/orders?limit=7", "orders", async |connection, pages| {
        let row: (String, bool) = sqlx::query_as(
            "UPDATE orders SET changed_at = clock_timestamp(), version = version + 1
             WHERE (order_id, live_mode) = (SELECT order_id, live_mode FROM orders ORDER BY changed_at, order_id LIMIT 1)
             RETURNING order_id, live_mode",
        )
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        changed.insert((row.0, mode(row.1)));
        let orders = Orders::new(vec![Mode::Test, Mode::Live]);
        let new = record(50, i64::try_from(pages).unwrap(), &accepted(&format!("new {pages}"), &format!("new {pages}"), false));
        batch::apply(connection, &orders, &[new], None, now()).await.unwrap();
    })
    .await;
    assert!(changed.len() > 3);
    let seen: BTreeSet<_> = moving.iter().map(id).collect();
    assert_eq!(seen.len(), moving.len(), "no order is listed twice");
    let unchanged: BTreeSet<_> = all.keys().filter(|key| !changed.contains(*key)).cloned().collect();
    assert_eq!(seen.intersection(&unchanged).count(), unchanged.len(), "every unchanged order is listed");
    // Changed orders are at the front.
    let began = changed_at(&moving[0]);
    let again = walk(&mut served, "/v1/orders?limit=7", "orders", async |_, _| {}).await;
    let since: BTreeSet<_> = again.iter().take_while(|order| changed_at(order) > began).map(id).collect();
    assert!(changed.iter().all(|key| seen.contains(key) || since.contains(key)), "{changed:?}");
    served.stop().await;
}

#[tokio::test]
async fn records_of_an_order_are_paged_latest_first() {
    let mut served = Served::new().await;
    let mut bodies: Vec<Vec<u8>> = (0..11).map(|i| accepted(&format!("e{i}"), "o1", i % 2 == 0)).collect();
    bodies.push(accepted("e0", "o1", true));
    bodies.push(accepted("x", "other", true));
    served.apply(3, bodies).await;
    let found = walk(&mut served, "/v1/orders/o1/events?limit=4", "events", async |_, _| {}).await;
    let offsets: Vec<i64> = found.iter().map(|event| event["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, (0..12).rev().collect::<Vec<_>>());
    assert_eq!((&found[0]["outcome"], &found[1]["outcome"]), (&json!("duplicate"), &json!("applied")));
    assert_eq!(found[0]["bodySha256"], found[11]["bodySha256"]);
    let live = walk(&mut served, "/v1/orders/o1/events?limit=500&mode=test", "events", async |_, _| {}).await;
    assert_eq!(live.len(), 5);
    served.stop().await;
}

#[tokio::test]
async fn a_reader_does_not_wait_for_a_batch_that_locks_the_order() {
    let mut served = Served::new().await;
    served.apply(0, [accepted("e1", "o1", false)]).await;
    sqlx::query("BEGIN").execute(&mut served.connection).await.unwrap();
    sqlx::query("SELECT 1 FROM orders FOR UPDATE").execute(&mut served.connection).await.unwrap();
    assert_eq!(served.json("/v1/orders/o1").await["orders"].as_array().unwrap().len(), 1);
    sqlx::query("ROLLBACK").execute(&mut served.connection).await.unwrap();
    served.stop().await;
}
